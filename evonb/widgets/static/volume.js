/* Scores in the volume: three planes through a point of MNI space, on a template, in a canvas. */

const volumePlanes = [ // axes to the right and up, the one across; where it stands in the grid of panels
  { name: "coronal", right: 0, up: 2, across: 1, column: 0, row: 0 },
  { name: "sagittal", right: 1, up: 2, across: 0, column: 1, row: 0 },
  { name: "axial", right: 0, up: 1, across: 2, column: 0, row: 1 },
];
const volumeAxes = ["x", "y", "z"], volumeGap = 6, volumeRim = 16;

/** Where the panels stand for a width, in px; scale is px a voxel. */
function volumeLayout(shape, width) {
  const scale = Math.min((width - volumeGap) / (shape[0] + shape[1]), 2.4);
  const left = Math.max(0, (width - scale * (shape[0] + shape[1]) - volumeGap) / 2);
  const panels = volumePlanes.map((plane) => ({
    ...plane, x: left + plane.column * (scale * shape[0] + volumeGap),
    y: plane.row * (scale * shape[2] + volumeGap + volumeRim) + volumeRim, width: scale * shape[plane.right],
    height: scale * shape[plane.up],
  }));
  return { scale, panels, height: scale * (shape[2] + shape[1]) + volumeGap + 2 * volumeRim };
}

/** The flat index of a voxel. */
const volumeIndex = (shape, at) => (at[0] * shape[1] + at[1]) * shape[2] + at[2];

/** Two pictures of a plane: the template, and the values over it; and how many voxels have one. */
function volumePaint(volume, picked, plane, point) {
  const { shape } = volume, w = shape[plane.right], h = shape[plane.up], at = [...point];
  const under = new ImageData(w, h), over = new ImageData(w, h);
  const places = new Int16Array(w * h).fill(-1);
  let drawn = 0;
  for (let row = 0; row < h; row++) {
    at[plane.up] = h - 1 - row;
    for (let column = 0; column < w; column++) {
      at[plane.right] = column;
      const voxel = volumeIndex(shape, at), to = 4 * (row * w + column), place = volume.place[voxel];
      const grey = 0.82 * volume.greys[voxel]; // darker, so that pale values stand out
      under.data.set([grey, grey, grey, grey > 7 ? 255 : 0], to);
      if (!picked.shown(place)) continue;
      over.data.set([...volume.colour(place), 255], to);
      places[row * w + column] = place;
      drawn++;
    }
  }
  return { under, over, places, drawn };
}

/** A small canvas with the pixels of an image. */
function volumeBitmap(image) {
  const canvas = document.createElement("canvas");
  canvas.width = image.width;
  canvas.height = image.height;
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

/** The borders between what has another place, as lines. */
function volumeBorders(context, { places, over: { width: w, height: h } }, panel) {
  const sx = panel.width / w, sy = panel.height / h;
  const at = (c, r) => c < 0 || r < 0 || c >= w || r >= h ? -1 : places[r * w + c];
  context.beginPath();
  for (let r = 0; r <= h; r++) {
    for (let c = 0; c <= w; c++) {
      const here = at(c, r), x = panel.x + c * sx, y = panel.y + r * sy;
      if (here !== at(c - 1, r)) { context.moveTo(x, y); context.lineTo(x, y + sy); }
      if (here !== at(c, r - 1)) { context.moveTo(x, y); context.lineTo(x + sx, y); }
    }
  }
  context.strokeStyle = "#1f2328";
  context.lineWidth = 1;
  context.stroke();
}

/** Draw a panel: template, values, crosshair, names. */
function volumePanel(context, panel, pictures, cross, look) {
  const { x, y, width, height } = panel;
  context.imageSmoothingEnabled = true;
  context.imageSmoothingQuality = "high";
  context.drawImage(volumeBitmap(pictures.under), x, y, width, height);
  context.imageSmoothingEnabled = false;
  context.drawImage(volumeBitmap(pictures.over), x, y, width, height);
  volumeBorders(context, pictures, panel);
  context.strokeStyle = look.accent;
  context.lineWidth = 1;
  context.globalAlpha = 0.8;
  context.beginPath();
  context.moveTo(x + cross.x, y); context.lineTo(x + cross.x, y + height);
  context.moveTo(x, y + cross.y); context.lineTo(x + width, y + cross.y);
  context.stroke();
  context.globalAlpha = 1;
  context.fillStyle = look.text;
  context.font = "12px system-ui, sans-serif";
  context.textAlign = "left";
  context.fillText(panel.label, x + 2, y - 4);
  const ends = { 0: ["L", "R"], 1: ["P", "A"] }[panel.right];
  context.fillText(ends[0], x + 2, y + height / 2);
  context.textAlign = "right";
  context.fillText(ends[1], x + width - 2, y + height / 2);
}

/** Lines of text in the free corner. */
function volumeWords(context, layout, lines, look) {
  const corner = layout.panels[1], x = corner.x + 6, y = layout.panels[2].y + 14;
  context.textAlign = "left";
  lines.forEach(([text, strong], i) => {
    context.font = `${strong ? "600 " : ""}13px system-ui, sans-serif`;
    context.fillStyle = strong ? look.text : look.soft;
    context.fillText(text, x, y + 19 * i, Math.max(10, corner.width - 8));
  });
}

/** A slider for one coordinate. */
function volumeSlider(axis, range, move) {
  const input = make("input", { type: "range", min: range.low, max: range.high, step: range.step, data: { axis } });
  const said = make("output");
  input.addEventListener("input", () => move(Number(input.value)));
  const show = (mm) => { input.value = mm; said.textContent = `${mm} mm`.replace("-", "−"); };
  return { node: make("label", {}, axis, input, said), show };
}

kinds.volume = (host) => {
  const canvas = make("canvas", { class: "evonb-volume", tabIndex: 0 });
  const sliders = make("div", { class: "evonb-volume-sliders" });
  canvas.setAttribute("role", "application");
  const keys = "Left and right arrows move along x, up and down along y, Page Up and Page Down along z; with Shift five " +
    "steps; Home goes to the highest score, Enter reports the point.";
  canvas.setAttribute("aria-label", `${host.view.description || host.view.title} ${keys}`);
  const bar = mapBar(), foot = mapFoot();
  host.root.append(canvas, sliders, bar.node, foot.node);
  const tip = mapTip(host);
  let reply, volume, picked, layout, point, inputs, region = "", dragging = null;

  const mm = (axis, voxel) => volume.origin[axis] + volume.step[axis] * voxel;
  const voxelOf = (axis, at) => Math.round((at - volume.origin[axis]) / volume.step[axis]);
  const clip = (axis, voxel) => Math.max(0, Math.min(volume.shape[axis] - 1, voxel));
  const placeAt = (voxels) => volume.place[volumeIndex(volume.shape, voxels)];
  const look = () => {
    const style = getComputedStyle(host.root), read = (name, other) => style.getPropertyValue(name).trim() || other;
    return { text: read("--evonb-text", "#1f2328"), soft: read("--evonb-soft", "#59636e"),
             accent: read("--evonb-accent", "#0072b2") };
  };
  const words = (place) => {
    const at = volumeAxes.map((axis, i) => `${axis} ${mm(i, point[i])}`).join(", ").replaceAll("-", "−");
    if (place < 0) return [[`${at} mm`, false], ["no region", true]];
    return [[`${at} mm`, false], [reply.content.places[place].roi, true], [mapTell(picked, place), true],
            ...(Number.isFinite(picked.scores[place]) && !picked.shown(place) ? [["below the threshold", false]] : [])];
  };
  const size = () => {
    const width = Math.max(200, host.root.clientWidth), dense = window.devicePixelRatio || 1;
    layout = volumeLayout(volume.shape, width);
    canvas.width = Math.round(width * dense);
    canvas.height = Math.round(layout.height * dense);
    canvas.style.width = `${width}px`;
    canvas.style.height = `${layout.height}px`;
    const context = canvas.getContext("2d");
    context.setTransform(dense, 0, 0, dense, 0, 0);
    context.clearRect(0, 0, width, layout.height);
    return context;
  };
  const paint = () => {
    const context = size(), colours = look(), place = placeAt(point);
    let voxels = 0;
    for (const panel of layout.panels) {
      const { right, up, across } = panel, pictures = volumePaint(volume, picked, panel, point);
      const cross = { x: layout.scale * (point[right] + 0.5), y: layout.scale * (volume.shape[up] - point[up] - 0.5) };
      panel.label = `${panel.name}, ${volumeAxes[across]} = ${mm(across, point[across])} mm`.replace("-", "−");
      volumePanel(context, panel, pictures, cross, colours);
      voxels += pictures.drawn;
    }
    volumeWords(context, layout, words(place), colours);
    bar.show(picked);
    foot.show(reply.content, reply.content.source);
    inputs.forEach((input, i) => input.show(mm(i, point[i])));
    mapMark(canvas, host.values(), picked, { x: mm(0, point[0]), y: mm(1, point[1]), z: mm(2, point[2]), voxels,
      region: place >= 0 ? reply.content.places[place].roi : "", value: place >= 0 ? picked.scores[place] : "" });
    host.say(picked.lack ?? words(place).map(([text]) => text).join(", "));
  };
  const pick = () => {
    const values = host.values();
    picked = mapPick(reply.content, reply.arrays[0], values);
    const colours = Array.from(picked.scores, (v) => mapColour(v, picked.scale));
    volume.colour = (place) => colours[place];
    if ((values.region ?? "") !== region) { region = values.region ?? ""; goTo(region); }
  };
  const goTo = (roi) => {
    const place = reply.content.places.find((p) => p.roi === roi);
    if (place) point = volumeAxes.map((axis, i) => clip(i, voxelOf(i, place[axis])));
  };
  const highest = () => {
    const sizes = Array.from(picked.scores, (v, place) => Number.isFinite(v) ? picked.height(place) : -1);
    goTo(reply.content.places[sizes.indexOf(Math.max(...sizes))].roi);
  };
  const move = (axis, voxel) => { point[axis] = clip(axis, voxel); paint(); };
  const under = (event) => {
    const box = canvas.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
    const panel = layout?.panels.find((p) => x >= p.x && x < p.x + p.width && y >= p.y && y < p.y + p.height);
    if (!panel) return null;
    const at = [...point];
    at[panel.right] = clip(panel.right, Math.floor((x - panel.x) / layout.scale));
    at[panel.up] = clip(panel.up, volume.shape[panel.up] - 1 - Math.floor((y - panel.y) / layout.scale));
    return { panel, at };
  };
  const report = () => {
    const place = placeAt(point), at = Object.fromEntries(volumeAxes.map((axis, i) => [axis, mm(i, point[i])]));
    const here = place >= 0 ? { region: reply.content.places[place].roi, value: picked.scores[place] } : {};
    host.click({ ...at, ...here });
  };
  const hover = (event) => {
    const found = under(event);
    if (dragging && found?.panel.name === dragging) { point = found.at; paint(); }
    const place = found ? placeAt(found.at) : -1;
    canvas.dataset.hovered = place >= 0 ? reply.content.places[place].roi : "";
    if (place >= 0) tip.show(mapSay(reply.content, picked, place), event);
    else tip.hide();
  };
  const press = (event) => {
    const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowDown: [1, -1], ArrowUp: [1, 1],
                    PageDown: [2, -1], PageUp: [2, 1] };
    if (!volume || !(event.key in steps || event.key === "Home" || event.key === "Enter")) return;
    event.preventDefault();
    if (event.key === "Enter") return report();
    if (event.key === "Home") { highest(); return paint(); }
    const [axis, by] = steps[event.key];
    move(axis, point[axis] + by * (event.shiftKey ? 5 : 1));
  };
  canvas.addEventListener("pointerdown", (event) => {
    const found = volume && under(event);
    if (!found) return;
    dragging = found.panel.name;
    canvas.setPointerCapture(event.pointerId);
    point = found.at;
    paint();
  });
  canvas.addEventListener("pointermove", (event) => { if (volume) hover(event); });
  canvas.addEventListener("pointerup", () => { if (dragging) { dragging = null; report(); } });
  canvas.addEventListener("pointerleave", () => tip.hide());
  canvas.addEventListener("keydown", press);
  const open = ({ content, arrays }) => {
    const { shape, origin, step } = content;
    volume = { shape, origin, step, greys: new Uint8Array(arrays[1]), place: new Int16Array(arrays[2]) };
    const range = (i) => ({ low: origin[i], high: origin[i] + step[i] * (shape[i] - 1), step: step[i] });
    inputs = volumeAxes.map((axis, i) => volumeSlider(axis, range(i), (at) => move(i, voxelOf(i, at))));
    sliders.replaceChildren(...inputs.map((input) => input.node));
  };
  return {
    draw(drawn) {
      reply = drawn;
      open(reply);
      const first = !point;
      if (first) point = volume.shape.map((n) => n >> 1);
      pick();
      if (first && !region) highest();
      paint();
    },
    restyle() { pick(); paint(); },
    resize() { if (picked) paint(); },
  };
};
