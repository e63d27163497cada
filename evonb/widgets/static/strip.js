/* A strip of small brains, one a layer: what the arm scores where, at a glance; a click brings the layer to the map. */

/** The pictures of a reply by the side that they are seen from: shade (0 outside) and place of each pixel. */
function stripPictures({ content, arrays }) {
  const shades = new Uint8Array(arrays[1]), places = new Int16Array(arrays[2]), pictures = {};
  let start = 0;
  for (const [look, height, width] of content.looks) {
    const end = start + height * width;
    pictures[look] = { width, height, shade: shades.subarray(start, end), place: places.subarray(start, end) };
    start = end;
  }
  return pictures;
}

/** Paint one small brain; returns how many pixels have a colour. */
function stripPaint(canvas, { width, height, shade, place }, picked) {
  const image = new ImageData(width, height), colours = Array.from(picked.scores, (v) => mapColour(v, picked.scale));
  let coloured = 0;
  for (let i = 0; i < shade.length; i++) {
    if (!shade[i]) continue;
    const on = picked.shown(place[i]), grey = 112 + (76 * shade[i]) / 255;
    image.data.set(on ? [...colours[place[i]], 255] : [grey, grey, grey, 255], 4 * i);
    coloured += on;
  }
  Object.assign(canvas, { width, height });
  canvas.getContext("2d").putImageData(image, 0, 0);
  return coloured;
}

kinds.strip = (host) => {
  const box = make("div", { class: "evonb-strip", role: "group" });
  box.setAttribute("aria-label", host.view.description || host.view.title);
  host.root.append(box);
  let reply, pictures, ones = [];
  const build = () => {
    ones = reply.content.layers.map((layer) => {
      const canvas = make("canvas", { class: "evonb-strip-brain" }), name = make("span", { textContent: `layer ${layer}` });
      const button = make("button", { type: "button", class: "evonb-strip-one", data: { layer } }, canvas, name);
      button.addEventListener("click", () => host.click({ layer }));
      return { layer, canvas, button };
    });
    box.replaceChildren(...ones.map((one) => one.button));
  };
  /** One scale for all small brains, half of it where nothing in any is negative. */
  const scales = (values, { measure, scores, scale, ranked }) => {
    if (ranked) return scale;
    const all = reply.content.layers.flatMap((layer) => Array.from(mapPick(reply.content, reply.arrays[0], { ...values, layer }).scores));
    return mapHalf(mapScale(measure, values.scale === "shown" ? Float32Array.from(all) : scores, values), all);
  };
  const paint = () => {
    const values = host.values(), picture = pictures[values.look];
    for (const { layer, canvas, button } of ones) {
      const picked = mapPick(reply.content, reply.arrays[0], { ...values, layer });
      const score = (place) => picked.ranked ? picked.ranked[place][0]?.score : picked.scores[place];
      const found = reply.content.places.map((_, place) => place).filter((place) => Number.isFinite(score(place)));
      const place = found.reduce((best, one) => score(one) > score(best) ? one : best, found[0]);
      const told = picked.lack ? "no score" : `highest in ${reply.content.places[place].roi}: ${mapTell(picked, place)}`;
      button.title = `layer ${layer}: ${told}`;
      button.setAttribute("aria-label", button.title);
      button.setAttribute("aria-pressed", layer === values.layer);
      button.classList.toggle("evonb-strip-none", Boolean(picked.lack));
      Object.assign(button.dataset, { coloured: stripPaint(canvas, picture, { ...picked, scale: scales(values, picked) }), arm: values.arm, measure: values.measure });
    }
    host.say(`${reply.content.side} hemisphere, ${values.look}; ${values.scale === "shown" ? "one scale for all of these" : "colours as on the cortex"}`);
  };
  return {
    draw(drawn) { reply = drawn; pictures = stripPictures(reply); build(); paint(); },
    restyle() { if (reply) paint(); },
  };
};
