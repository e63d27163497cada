/* Scores on the cortex: what pictures of places share, the mesh of fsaverage5, and figures with a layer to pick. */

/* -- What is shown, from the values of all measures, models and layers -------------------------------------------- */

const mapTwoSided = [[0, "#0072B2"], [0.25, "#7DB6D6"], [0.5, "#FFF0B3"], [0.75, "#EFA26B"], [1, "#D55E00"]];
const mapViridis = [[0, "#440154"], [0.25, "#3B528B"], [0.5, "#21918C"], [0.75, "#5EC962"], [1, "#FDE725"]];
const mapHemispheres = ["left", "right"];

/** The place of one measure, model and layer in a reply's values, and a sentence where there is none. */
function mapPlace(content, values) {
  const { measures, rows, layers } = content, keys = measures.map((m) => m.key);
  const measure = keys.indexOf(values.measure);
  const row = rows.findIndex(([arm, seed]) => arm === values.arm && seed === values.seed);
  const layer = layers.indexOf(values.layer);
  if (measure < 0) return { lack: `${values.measure} isn't here; there are: ${keys.join(", ")}.` };
  if (layer < 0) return { lack: `There is no layer ${values.layer}; there are: ${layers.join(", ")}.` };
  if (row >= 0) return { measure, row, layer };
  const seeds = rows.filter(([arm]) => arm === values.arm).map(([, seed]) => seed);
  if (seeds.length) return { lack: `${values.arm} has no seed ${values.seed}; it has: ${seeds.join(", ")}.` };
  return { lack: `There is no arm ${values.arm}; there are: ${[...new Set(rows.map(([arm]) => arm))].join(", ")}.` };
}

/** The colours' range: of all arms' means (or of all single seeds) of a measure, or of what is shown. */
function mapScale(measure, scores, values) {
  const finite = Array.from(scores).filter(Number.isFinite), own = values.scale === "shown" && finite.length;
  const [low, high] = own ? [Math.min(...finite), Math.max(...finite)] : measure.range[values.seed === "mean" ? 0 : 1];
  const far = Math.max(Math.abs(low), Math.abs(high)) || 1;
  return low < 0 ? { low: -far, high: far, colours: mapTwoSided } : { low: 0, high: far, colours: mapViridis };
}

/** The upper half of a two-sided scale, the same colour for each value, where nothing that is shown is negative. */
function mapHalf(scale, values) {
  if (scale.low >= 0 || values.some((v) => v < 0)) return scale;
  return { low: 0, high: scale.high, colours: scale.colours.filter(([t]) => t >= 0.5).map(([t, c]) => [2 * t - 1, c]) };
}

/** Who wins at each place: among the arms' means the highest, with the one behind it. */
function mapWinners(content, buffer, at) {
  const { arms, layers, places, rows } = content, n = places.length;
  const means = rows.map(([, seed], i) => [seed, i]).filter(([seed]) => seed === "mean").map(([, i]) => i);
  const score = (row, place) => new Float32Array(buffer, 4 * (((at.measure * rows.length + row) * layers.length + at.layer) * n + place), 1)[0];
  const ranked = places.map((_, place) => means.map((row, arm) => ({ arm, score: score(row, place) }))
    .filter((one) => Number.isFinite(one.score)).sort((a, b) => b.score - a.score));
  const colours = arms.flatMap(([, colour], i) => [[i / arms.length, colour], [(i + 1) / arms.length, colour]]);
  return { ranked, scores: Float32Array.from(ranked, ([first]) => first ? first.arm : NaN),
           scale: { low: -0.5, high: arms.length - 0.5, colours } };
}

/** What the controls pick: scores (one a place), the measure, its colours, the threshold in the measure's unit. */
function mapPick(content, buffer, values) {
  const n = content.places.length, at = mapPlace(content, values);
  const measure = content.measures[at.measure ?? 0];
  const none = new Float32Array(n).fill(NaN);
  const start = ((at.measure * content.rows.length + at.row) * content.layers.length + at.layer) * n;
  const scores = at.lack ? none : new Float32Array(buffer, 4 * start, n);
  const whole = mapScale(measure, scores, values);
  const threshold = (values.threshold / 100) * Math.max(whole.high, -whole.low);
  let lack = at.lack;
  if (!lack && !scores.some(Number.isFinite)) lack = `${values.arm} has no score at layer ${values.layer}.`;
  if (values.scale === "winner" && at.layer !== undefined) {
    const { ranked, scores: won, scale } = mapWinners(content, buffer, at);
    lack = won.some(Number.isFinite) ? undefined : `No arm has a score at layer ${values.layer}.`;
    const top = (place) => place >= 0 && ranked[place].length > 0 && Math.abs(ranked[place][0].score) >= threshold;
    const height = (place) => Math.abs(ranked[place][0]?.score ?? NaN);
    return { scores: won, ranked, measure, scale, threshold, lack, shown: top, height, arms: content.arms };
  }
  const shown = (place) => place >= 0 && Math.abs(scores[place]) >= threshold;
  const scale = mapHalf(whole, Array.from(scores).filter((_, place) => shown(place)));
  return { scores, measure, scale, threshold, lack, shown, height: (place) => Math.abs(scores[place]) };
}

/** A score as readers see it. */
const mapNumber = (value, { digits }) => Number.isFinite(value) ? value.toFixed(digits).replace("-", "−") : "no score";

/** What is told of a place beside its name: its score, or who wins there and by how much. */
function mapTell(picked, place) {
  const { measure } = picked, number = (v) => mapNumber(v, measure);
  if (!picked.ranked) return `${measure.short} = ${number(picked.scores[place])}`;
  const [first, second] = picked.ranked[place], name = ({ arm }) => picked.arms[arm][0];
  if (!first) return "no score";
  return `${name(first)}, ${measure.short} = ${number(first.score)}${second ? `; then ${name(second)}, ${number(second.score)}` : ""}`;
}

/** [red, green, blue] of a value. */
function mapColour(value, scale) {
  const t = Math.min(1, Math.max(0, (value - scale.low) / (scale.high - scale.low)));
  const next = Math.max(1, scale.colours.findIndex(([at]) => at >= t));
  const [[from, a], [to, b]] = [scale.colours[next - 1], scale.colours[next]];
  const parts = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  const [p, q] = [parts(a), parts(b)];
  return p.map((c, i) => Math.round(c + ((q[i] - c) * (t - from)) / (to - from)));
}

/** A colour bar with its unit; the part below the threshold is hatched. */
function mapBar() {
  const strip = make("div", { class: "evonb-map-strip" }), cover = make("div", { class: "evonb-map-cover" });
  const ends = ["low", "mid", "high"].map(() => make("span")), unit = make("div", { class: "evonb-map-unit" });
  strip.append(cover);
  const numbers = make("div", { class: "evonb-map-ends" }, ...ends), arms = make("div", { class: "evonb-map-arms" });
  const node = make("div", { class: "evonb-map-bar" }, unit, strip, numbers, arms);
  return {
    node,
    show({ scale, measure, threshold, ranked, ...picked }) {
      [strip, numbers].forEach((part) => { part.hidden = Boolean(ranked); });
      arms.hidden = !ranked;
      if (ranked) {
        const won = new Set(ranked.filter((r) => r.length).map(([first]) => first.arm));
        unit.textContent = `${measure.unit}: the arm with the highest mean`;
        arms.replaceChildren(...picked.arms.filter((_, i) => won.has(i)).map(([name, colour]) => {
          const dot = make("span", { class: "evonb-map-dot" });
          dot.style.background = colour;
          return make("span", {}, dot, name);
        }));
        return;
      }
      const { low, high } = scale, share = (v) => (100 * (v - low)) / (high - low);
      const stops = scale.colours.map(([t, colour]) => `${colour} ${100 * t}%`);
      strip.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
      cover.style.left = `${Math.max(0, share(low < 0 ? -threshold : 0))}%`;
      cover.style.width = `${share(threshold) - Math.max(0, share(low < 0 ? -threshold : 0))}%`;
      unit.textContent = measure.unit;
      [low, (low + high) / 2, high].forEach((v, i) => { ends[i].textContent = mapNumber(v, measure); });
    },
  };
}

/** A box that follows the pointer. */
function mapTip(host) {
  const tip = make("div", { class: "evonb-tip", hidden: true });
  host.root.append(tip);
  return {
    show(text, event) {
      const box = host.root.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
      tip.hidden = false;
      tip.textContent = text;
      tip.style.left = `${Math.max(0, Math.min(x + 12, box.width - tip.offsetWidth - 4))}px`;
      tip.style.top = `${y + 14}px`;
    },
    hide() { tip.hidden = true; },
  };
}

/** A place in words: its name, how many people, the score. */
function mapSay(content, picked, place) {
  const { roi, n } = content.places[place];
  return `${roi}${n > 1 ? `, ${n} people` : ""}\n${mapTell(picked, place)}`;
}

/** Write into an element's dataset what is drawn, for tests and for those who look. */
function mapMark(node, values, picked, more) {
  const { measure, arm, seed, layer } = values;
  Object.assign(node.dataset, { measure, arm, seed, layer, threshold: picked.threshold, low: picked.scale.low,
                                high: picked.scale.high, lack: picked.lack ?? "", ...more });
}

/** The lines that stay below a map: positions that aren't the data's, places that can't be shown. */
function mapFoot() {
  const node = make("p", { class: "evonb-map-foot" });
  const show = ({ note, missing }, more = "") => { node.textContent = [note, missing, more].filter(Boolean).join(" · "); };
  return { node, show };
}

/* -- The cortex ---------------------------------------------------------------------------------------------------- */

/** Whether the page can draw in three dimensions. */
function surfaceWorks() {
  const canvas = document.createElement("canvas");
  const context = canvas.getContext("webgl2") ?? canvas.getContext("webgl");
  context?.getExtension("WEBGL_lose_context")?.loseContext();
  return context !== null;
}

/** Typed views of a reply's arrays; positions by surface and hemisphere, each as x, y, z. */
function surfaceGeometry({ content, arrays }) {
  const [, faces, ...rest] = arrays, n = content.vertices;
  const axes = (buffer) => ({ x: new Float32Array(buffer, 0, n), y: new Float32Array(buffer, 4 * n, n),
                              z: new Float32Array(buffer, 8 * n, n) });
  const m = faces.byteLength / 12, corner = (k) => new Int32Array(faces, 4 * k * m, m);
  const sides = mapHemispheres.map((side, s) => ({
    side, shade: new Uint8Array(rest[s]), place: new Int32Array(rest[2 + s]),
    xyz: Object.fromEntries(content.surfaces.map((name, i) => [name, axes(rest[4 + 2 * i + s])])),
    flat: new Uint8Array(rest[4 + 2 * content.surfaces.length + s]), // faces that are left when it is cut open
  }));
  return { n, faces: [corner(0), corner(1), corner(2)], sides };
}

/** Split the faces: those whose corners all have a value, and the others. */
function surfaceFaces([i, j, k], valued, kept) {
  const inside = [], outside = [];
  for (let f = 0; f < i.length; f++) if (!kept || kept[f]) (valued[i[f]] && valued[j[f]] && valued[k[f]] ? inside : outside).push(f);
  const take = (list) => ({ i: Int32Array.from(list, (f) => i[f]), j: Int32Array.from(list, (f) => j[f]),
                            k: Int32Array.from(list, (f) => k[f]) });
  return { inside: take(inside), outside: take(outside) };
}

const surfaceEyes = { lateral: { left: [-1, 0, 0], right: [1, 0, 0] }, medial: { left: [1, 0, 0], right: [-1, 0, 0] },
                      dorsal: { left: [0, 0, 1], right: [0, 0, 1] }, ventral: { left: [0, 0, -1], right: [0, 0, -1] } };
const surfaceFolds = { ambient: 0.7, diffuse: 0.45, specular: 0.02, roughness: 0.9, fresnel: 0 };
const surfaceEven = { ambient: 1, diffuse: 0, specular: 0, fresnel: 0 }; // the colour bar's colours, everywhere

/** Where the eye is: what lies flat is seen from above. */
const surfaceLook = ({ surface, look }) => surface === "flat" ? "dorsal" : look;

/** A hemisphere's traces: bare cortex, and the part with values. */
function surfaceTraces(geometry, side, picked, values) {
  const { place, shade, xyz, side: name } = side, shown = Uint8Array.from(place, (p) => picked.shown(p));
  const { inside, outside } = surfaceFaces(geometry.faces, shown, values.surface === "flat" ? side.flat : null);
  const [x, y, z] = surfaceEyes[surfaceLook(values)][name], scene = name === "left" ? "scene" : "scene2";
  const base = { type: "mesh3d", scene, ...xyz[values.surface], hoverinfo: "none", showscale: false,
                 lightposition: { x: 1e5 * x, y: 1e5 * y, z: 1e5 * z + 4e4 } };
  const greys = [[0, "#858585"], [1, "#E2E2E2"]];
  const bare = { ...base, ...outside, name: "cortex", intensity: shade, cmin: 0, cmax: 255, colorscale: greys,
                 lighting: surfaceFolds, visible: outside.i.length > 0 };
  const scores = Float32Array.from(place, (p, v) => shown[v] ? picked.scores[p] : 0);
  const part = { ...base, ...inside, name: "values", intensity: scores, cmin: picked.scale.low, cmax: picked.scale.high,
                 colorscale: picked.scale.colours, lighting: surfaceEven, visible: inside.i.length > 0 };
  return { traces: [bare, part], above: shown.reduce((sum, on) => sum + on, 0) };
}

/** A scene without axes, in true proportions, seen from one side. */
function surfaceScene(geometry, values, side, domain) {
  const spans = ["x", "y", "z"].map((axis) => {
    const all = side.xyz[values.surface][axis];
    return all.reduce((m, v) => Math.max(m, v), -Infinity) - all.reduce((m, v) => Math.min(m, v), Infinity);
  });
  const size = 1.95 / Math.max(...spans), look = surfaceLook(values);
  const [x, y, z] = surfaceEyes[look][side.side], upright = look === "dorsal" || look === "ventral";
  const hidden = { visible: false, showspikes: false };
  return { domain, xaxis: hidden, yaxis: hidden, zaxis: hidden, bgcolor: "rgba(0,0,0,0)", dragmode: "orbit",
           aspectmode: "manual", uirevision: `${look} ${values.surface === "flat"}`,
           aspectratio: { x: size * spans[0], y: size * spans[1], z: Math.max(size * spans[2], 0.1) }, // also where all is flat
           camera: { eye: { x: 1.5 * x, y: 1.5 * y, z: 1.5 * z }, center: { x: 0, y: 0, z: 0 },
                     up: { x: 0, y: Number(upright), z: Number(!upright) }, projection: { type: "orthographic" } } };
}

/** Regions' names beside them, the highest scores first: those that are seen from where the eye is, none over another. */
function surfaceNames(content, picked, side, { surface, dark, camera }) {
  const { x, y, z } = side.xyz[surface], unit = (v) => { const n = Math.hypot(...v); return v.map((c) => c / n); };
  const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
  const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2], parts = (o) => [o.x, o.y, o.z];
  const eye = unit(parts(camera.eye)), right = unit(cross(parts(camera.up), eye)), up = cross(eye, right);
  const at = (v) => { const p = [x[v], y[v], z[v]]; return [dot(p, right), dot(p, up), dot(p, eye)]; };
  const order = content.places.map((_, p) => p).filter((p) => picked.shown(p));
  order.sort((a, b) => picked.height(b) - picked.height(a));
  const named = [], members = new Map(order.map((p) => [p, []]));
  side.place.forEach((p, v) => members.get(p)?.push(v));
  for (const place of order) {
    const own = members.get(place);
    if (!own.length) continue;
    const mean = [x, y, z].map((axis) => own.reduce((sum, v) => sum + axis[v], 0) / own.length);
    const far = (v) => Math.hypot(x[v] - mean[0], y[v] - mean[1], z[v] - mean[2]);
    const vertex = own.reduce((best, v) => far(v) < far(best) ? v : best), [a, b, near] = at(vertex);
    let hidden = named.some((n) => Math.abs(n.a - a) < 26 && Math.abs(n.b - b) < 12);
    for (let v = 0; v < x.length && !hidden; v++) {
      const [c, d, depth] = at(v);
      hidden = depth > near + 8 && Math.abs(c - a) < 3 && Math.abs(d - b) < 3;
    }
    if (!hidden) named.push({ a, b, vertex, roi: content.places[place].roi });
  }
  const ink = dark ? "#e6e8eb" : "#1f2328", paper = dark ? "rgba(20,23,27,.72)" : "rgba(255,255,255,.78)";
  const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
  return named.map(({ vertex: v, roi }) => ({ x: x[v], y: y[v], z: z[v], text: escaped(roi), showarrow: true, arrowhead: 0,
    arrowwidth: 1, arrowcolor: ink, ax: 0, ay: -26, font: { size: 11, color: ink }, bgcolor: paper, borderpad: 1 }));
}

/** The same camera for the other hemisphere: what is left of one is right of the other. */
function surfaceMirror({ eye, up, center, projection }) {
  const flip = ({ x, y, z }) => ({ x: -x, y, z });
  return { eye: flip(eye), up: flip(up), center: flip(center), projection };
}

/** The whole figure, and how many vertices carry a value in it. */
function surfaceFigure(geometry, picked, values, dark, height) {
  const made = geometry.sides.map((side) => surfaceTraces(geometry, side, picked, values));
  const boxes = [{ x: [0, 0.5], y: [0, 1] }, { x: [0.5, 1], y: [0, 1] }];
  const scenes = geometry.sides.map((side, s) => surfaceScene(geometry, values, side, boxes[s]));
  const font = { size: 12, color: dark ? "#c9d1d9" : "#4a525c" };
  const names = mapHemispheres.map((side, s) => ({ text: `${side}, ${values.surface === "flat" ? "laid flat" : values.look}`, x: 0.25 + s / 2, y: 1, font,
    xref: "paper", yref: "paper", showarrow: false, yanchor: "top" }));
  const layout = { scene: scenes[0], scene2: scenes[1], annotations: names, height, autosize: true, showlegend: false,
                   margin: { l: 0, r: 0, t: 0, b: 0 }, paper_bgcolor: "rgba(0,0,0,0)", hovermode: "closest" };
  return { data: made.flatMap((m) => m.traces), layout, above: made.reduce((sum, m) => sum + m.above, 0) };
}

/** Turn a camera's eye around the vertical axis, or up and down. */
function surfaceTurn({ eye, up }, sideways, upwards) {
  const far = Math.hypot(eye.x, eye.y, eye.z);
  const across = Math.atan2(eye.y, eye.x) + sideways;
  const height = Math.max(-1.5, Math.min(1.5, Math.asin(eye.z / far) + upwards));
  return { eye: { x: far * Math.cos(height) * Math.cos(across), y: far * Math.cos(height) * Math.sin(across),
                  z: far * Math.sin(height) }, up: Math.abs(height) > 1.45 ? up : { x: 0, y: 0, z: 1 } };
}

kinds.surface = (host) => {
  const div = make("div", { class: "evonb-plotly evonb-surface", tabIndex: 0 }), bar = mapBar(), foot = mapFoot();
  div.setAttribute("role", "application");
  const keys = "Arrow keys turn it, plus and minus resize it, Home turns it back.";
  div.setAttribute("aria-label", `${host.view.description || host.view.title} ${keys}`);
  host.root.append(div, bar.node, foot.node);
  const tip = mapTip(host);
  let Plotly, reply, geometry, picked, following = false, drawing = Promise.resolve();

  /** The names at both hemispheres for where the cameras are. */
  const names = () => {
    const values = host.values(), annotations = {};
    ["scene", "scene2"].forEach((scene, s) => {
      const look = { surface: values.surface, dark: host.dark(), camera: div._fullLayout[scene].camera };
      annotations[`${scene}.annotations`] = surfaceNames(reply.content, picked, geometry.sides[s], look);
    });
    div.dataset.named = Object.values(annotations).flat().map((a) => a.text).join(",");
    return annotations;
  };
  /** One camera: where one hemisphere is turned to, the other follows, and so do the names. */
  const follow = async (change, last) => {
    const turned = ["scene", "scene2"].find((scene) => change?.[`${scene}.camera`]);
    if (!turned || following) return;
    following = true;
    const other = turned === "scene" ? "scene2" : "scene", camera = change[`${turned}.camera`];
    await Plotly.relayout(div, { [`${other}.camera`]: surfaceMirror(camera), [`${turned}.camera`]: camera });
    if (last) await Plotly.relayout(div, names());
    following = false;
  };
  const placeAt = (point) => {
    const side = geometry.sides[point.curveNumber < 2 ? 0 : 1], vertex = point.pointNumber;
    const place = side.place[vertex];
    return { side: side.side, vertex, place: picked.shown(place) ? place : -1, known: place };
  };
  const height = () => Math.round(Math.min(host.height, 0.53 * (host.root.clientWidth || 560))); // two brains wide
  const paint = async () => {
    const values = host.values();
    picked = mapPick(reply.content, reply.arrays[0], values);
    const { data, layout, above } = surfaceFigure(geometry, picked, values, host.dark(), height());
    await drawPlotly(div, { data, layout }, { responsive: false, scrollZoom: false,
                                              modeBarButtonsToRemove: ["tableRotation", "resetCameraLastSave3d"] });
    await Plotly.relayout(div, names());
    bar.show(picked);
    foot.show(reply.content);
    mapMark(div, values, picked, { above, surface: values.surface, look: values.look, regions: picked.scores
      .reduce((sum, _, p) => sum + picked.shown(p), 0), hovered: "", hoveredValue: "" });
    say();
  };
  const say = () => {
    if (picked.lack) return host.say(picked.lack);
    const { measure, threshold } = picked, total = picked.scores.length;
    host.say(`${div.dataset.above} of ${2 * geometry.n} vertices, ${div.dataset.regions} of ${total} regions` +
             (threshold > 0 ? ` with |${measure.short}| ≥ ${mapNumber(threshold, measure)}` : " have a score"));
  };
  const hover = ({ points, event }) => {
    const { place, known, side, vertex } = placeAt(points[0]);
    Object.assign(div.dataset, { hovered: known >= 0 ? reply.content.places[known].roi : "", hoveredVertex: vertex,
                                 hoveredSide: side, hoveredValue: known >= 0 ? picked.scores[known] : "" });
    if (known < 0) return tip.hide();
    tip.show(mapSay(reply.content, picked, known) + (place < 0 ? "\n(below the threshold)" : ""), event ?? lastMove);
  };
  let lastMove = { clientX: 0, clientY: 0 };
  const click = ({ points }) => {
    const { known, side, vertex } = placeAt(points[0]);
    if (known < 0) return;
    host.click({ region: reply.content.places[known].roi, value: picked.scores[known], side, vertex });
  };
  const press = (event) => {
    const turns = { ArrowLeft: [-0.2, 0], ArrowRight: [0.2, 0], ArrowUp: [0, 0.2], ArrowDown: [0, -0.2] };
    const zooms = { "+": 1 / 1.15, "=": 1 / 1.15, "-": 1.15 };
    if (!geometry || !(event.key in turns || event.key in zooms || event.key === "Home")) return;
    event.preventDefault();
    const change = {};
    ["scene", "scene2"].forEach((scene, s) => {
      const now = div._fullLayout[scene].camera, home = surfaceScene(geometry, host.values(), geometry.sides[s], {});
      if (event.key === "Home") {
        change[`${scene}.camera`] = home.camera;
        change[`${scene}.aspectratio`] = home.aspectratio;
      } else if (event.key in zooms) {
        const { x, y, z } = div._fullLayout[scene].aspectratio, by = 1 / zooms[event.key];
        change[`${scene}.aspectratio`] = { x: x * by, y: y * by, z: z * by };
      } else {
        const [sideways, upwards] = turns[event.key];
        change[`${scene}.camera`] = { ...now, ...surfaceTurn(now, s ? -sideways : sideways, upwards) };
      }
    });
    following = true;
    Plotly.relayout(div, change).then(() => Plotly.relayout(div, names())).finally(() => { following = false; });
  };
  const bind = () => {
    div.on("plotly_hover", hover);
    div.on("plotly_unhover", () => { tip.hide(); Object.assign(div.dataset, { hovered: "", hoveredValue: "" }); });
    div.on("plotly_click", click);
    div.on("plotly_relayouting", (change) => follow(change, false));
    div.on("plotly_relayout", (change) => follow(change, true));
    div.addEventListener("pointermove", (event) => { lastMove = event; });
    div.addEventListener("pointerleave", tip.hide);
    div.addEventListener("keydown", press);
    div.evonbBound = true;
  };
  return {
    async draw(drawn) {
      if (!surfaceWorks()) {
        throw new Error("This browser can't draw in three dimensions (WebGL is missing or switched off). The slices " +
                        "and figures show the same scores; for the cortex, switch WebGL on or take another browser.");
      }
      Plotly = await host.plotly();
      reply = drawn;
      geometry = surfaceGeometry(reply);
      await paint();
      if (!div.evonbBound) bind();
    },
    restyle() { return drawing = drawing.then(paint).catch((error) => host.say(error.message)); },
    resize() {
      if (!picked) return undefined;
      if (div.layout.height === height()) return Plotly.Plots.resize(div);
      return Plotly.relayout(div, { height: height(), autosize: true });
    },
    destroy() { Plotly?.purge(div); },
  };
};

/* -- A figure in which a layer can be picked ----------------------------------------------------------------------- */

kinds.layers = (host) => {
  const inner = kinds.plotly({ ...host, click: (detail) => pick(detail) });
  const div = host.root.querySelector(".evonb-plotly");
  let Plotly, curves = [], stays = [], dark;
  const pick = ({ x, y, curve }) => {
    const arm = curves[curve]?.meta;
    host.click({ layer: x, value: y, ...(arm === undefined ? {} : { arm }) });
  };
  const mark = async () => {
    const { layer, arm } = host.values();
    const line = { type: "line", xref: "x", yref: "paper", x0: layer, x1: layer, y0: 0, y1: 1, layer: "below",
                   line: { color: host.dark() ? "#56b4e9" : "#0072b2", width: 2, dash: "dot" } };
    const arms = curves.filter((t) => t.mode === "lines+markers").map((t) => t.meta);
    const rival = arms[div.layout.meta?.rivals?.[arms.indexOf(arm)] ?? -1], isBand = (t) => t.fill === "toself" && t.legendgroup !== "null";
    const visible = curves.map((t) => !isBand(t) || t.legendgroup === arm || t.legendgroup === rival);
    const width = curves.map((t) => isBand(t) ? 0 : t.meta === undefined ? t.line.width : t.meta === arm ? 3.5 : 2);
    await Plotly.update(div, { visible, "line.width": width }, { shapes: [...stays, line] }, curves.map((_, i) => i));
    dark = host.dark();
    Object.assign(div.dataset, { layer, arm, rival: rival ?? "" });
    host.say(`layer ${layer} of ${arm} is on the map; click a point for another`);
  };
  return {
    ...inner,
    async draw(reply, values) {
      Plotly = await host.plotly();
      await inner.draw(reply, values);
      curves = div.data;
      stays = div.layout.shapes ?? [];
      await mark();
    },
    restyle() {
      return Promise.all([dark !== host.dark() && inner.restyle(), Plotly && mark()]);
    },
  };
};
