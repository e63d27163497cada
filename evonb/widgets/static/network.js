/* A map of a network: embedding, blocks with attention and MLP, head; a button for each matrix, tinted by a value. */

const networkTint = { low: [0, 114, 178], high: [213, 94, 0] }, networkDarkTint = { low: [77, 171, 247], high: [255, 146, 43] };

/** Where a value lies between -1 and 1: by how far it is from the middle, or from the least, of all that are known. */
function networkShare({ low, high, middle, log }, value) {
  const at = log ? Math.log : (v) => v, far = middle === null ? at(high) - at(low)
    : Math.max(Math.abs(at(high) - at(middle)), Math.abs(at(low) - at(middle)));
  if (!(far > 0)) return middle === null ? 0.5 : 0;
  return (at(value) - at(middle ?? low)) / far;
}

/** The background for a share: orange above the middle, blue below it; never so strong that text can't be read. */
function networkColour(share, dark) {
  const { low, high } = dark ? networkDarkTint : networkTint, colour = share < 0 ? low : high;
  return `rgba(${colour.join(",")},${(0.05 + 0.45 * Math.abs(share)).toFixed(3)})`;
}

/** The legend: what the tint says, with its ends. */
function networkLegend(tint, dark) {
  if (tint.low === null) return [`${tint.label}: not known of this one`];
  const ramp = make("span", { class: "evonb-net-ramp" }), from = networkShare(tint, tint.low), to = networkShare(tint, tint.high);
  const stops = Array.from({ length: 9 }, (_, i) => networkColour(from + (i / 8) * (to - from), dark));
  ramp.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
  const text = (v) => Number(v.toPrecision(3)).toString().replace("-", "−") + tint.unit;
  return [`${tint.label}: `, text(tint.low), ramp, text(tint.high)];
}

kinds.network = (host) => {
  const map = make("div", { class: "evonb-net", role: "group" }), legend = make("p", { class: "evonb-net-legend" });
  map.setAttribute("aria-label", `${host.view.description || host.view.title} Arrows move between matrices, Enter shows one.`);
  host.root.append(map, legend);
  let content = null, buttons = [];

  const chosen = (values) => {
    const { nodes } = content, fits = (n) => n.layer === values.layer && (n.matrix === values.matrix || n.alone);
    return nodes.findIndex(fits);
  };
  /** Tint, texts and the chosen one, as the controls stand. */
  const dress = (values) => {
    const tint = content.tints.find((t) => t.name === values.tint) ?? content.tints[0], dark = host.dark(), at = chosen(values);
    buttons.forEach((button, i) => {
      const { said, text } = content.nodes[i], value = tint.values[i], told = value === null ? "–" : tint.texts[i];
      button.replaceChildren(make("span", { textContent: text }), make("b", { textContent: told }));
      button.style.backgroundColor = value === null ? "" : networkColour(networkShare(tint, value), dark);
      button.setAttribute("aria-pressed", i === at);
      button.setAttribute("aria-label", `${said}, ${tint.label}: ${value === null ? "not known" : told}`);
      Object.assign(button.dataset, { value: value ?? "" });
      button.tabIndex = i === Math.max(0, at) ? 0 : -1;
    });
    legend.replaceChildren(...networkLegend(tint, dark));
    host.say(tint.about);
  };
  const press = (i) => {
    const { layer, matrix, alone } = content.nodes[i];
    host.click({ layer, matrix: alone ? null : matrix, name: content.nodes[i].name });
  };
  /** A button for each matrix, in columns as the text flows through them. */
  const build = () => {
    const key = JSON.stringify(content.nodes);
    if (map.evonbKey === key) return;
    map.evonbKey = key;
    buttons = content.nodes.map(({ name, layer, matrix }, i) => {
      const button = make("button", { type: "button", class: "evonb-net-matrix", title: name, data: { layer, matrix, name } });
      button.addEventListener("click", () => press(i));
      return button;
    });
    const part = ({ title, nodes }) => make("div", { class: "evonb-net-part" },
      ...(title ? [make("span", { class: "evonb-net-name", textContent: title })] : []), ...nodes.map((i) => buttons[i]));
    map.replaceChildren(...content.columns.map(({ title, parts }) => make("div", { class: "evonb-net-column" },
      make("span", { class: "evonb-net-title", textContent: title }), ...parts.map(part))));
  };
  map.addEventListener("keydown", (event) => {
    const at = buttons.indexOf(event.target), step = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
    if (at < 0 || !step || event.ctrlKey || event.altKey || event.metaKey) return;
    const columns = content.columns.map(({ parts }) => parts.flatMap(({ nodes }) => nodes)), c = columns.findIndex((nodes) => nodes.includes(at));
    const to = columns[Math.max(0, Math.min(columns.length - 1, c + step[0]))], row = columns[c].indexOf(at) + step[1];
    const next = buttons[to[Math.max(0, Math.min(to.length - 1, row))]];
    event.preventDefault();
    event.stopPropagation();
    buttons.forEach((b) => { b.tabIndex = b === next ? 0 : -1; });
    next.focus();
  });
  return {
    draw(reply, values) { content = reply.content; build(); dress(values); },
    restyle(values) { if (content) dress(values); },
  };
};
