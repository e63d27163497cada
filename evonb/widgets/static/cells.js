/* An archive: cells of two descriptors, coloured by the fitness of who holds them; a click or Enter chooses. */

/** A colour between those of a scale, [[share, "#RRGGBB"], ...]. */
function cellsColour(scale, share) {
  const at = scale.findIndex(([s]) => s >= share), i = Math.max(1, at < 0 ? scale.length - 1 : at);
  const [[s0, a], [s1, b]] = [scale[i - 1], scale[i]], t = Math.min(1, Math.max(0, (share - s0) / (s1 - s0)));
  const part = (k) => Math.round(parseInt(a.slice(k, k + 2), 16) * (1 - t) + parseInt(b.slice(k, k + 2), 16) * t);
  return `rgb(${part(1)}, ${part(3)}, ${part(5)})`;
}

const cellsNumber = (v) => String(+v.toPrecision(3));

/** Where a row or column lies, in words. */
function cellsSpan({ name, low, high, n }, i) {
  const at = (k) => cellsNumber(low + (k * (high - low)) / n);
  return `${name} ${at(i)} to ${at(i + 1)}`;
}

/** What a screen reader, a tip and the note say of a cell. */
function cellsAbout(data, row, column) {
  const held = data.held.get(`${row} ${column}`), where = [cellsSpan(data.axes[0], column)];
  if (data.axes[1]) where.push(cellsSpan(data.axes[1], row));
  return `${held ? plainWords(held.about) : "nobody"} · ${where.join(", ")}`;
}

kinds.cells = (host) => {
  const how = make("p", { class: "evonb-how" }), grid = make("div", { class: "evonb-cells", role: "grid" });
  const up = make("div", { class: "evonb-cells-up" }), across = make("div", { class: "evonb-cells-across" });
  const key = make("div", { class: "evonb-cells-key" });
  const frame = make("div", { class: "evonb-cells-frame" }, up, grid, across);
  host.root.append(how, frame, key);
  let data, cells = [], at = [0, 0];

  /** The cell that the keyboard is in: the only one that Tab stops at. */
  const move = (row, column, focus) => {
    cells[at[0]]?.[at[1]]?.setAttribute("tabindex", -1);
    at = [Math.min(cells.length - 1, Math.max(0, row)), Math.min(cells[0].length - 1, Math.max(0, column))];
    const cell = cells[at[0]][at[1]];
    cell.setAttribute("tabindex", 0);
    if (focus) cell.focus();
  };
  const choose = (row, column) => {
    const held = data.held.get(`${row} ${column}`);
    host.say(`${held ? "Chosen: " : ""}${cellsAbout(data, row, column)}`);
    if (held) host.click({ number: held.place });
  };
  const mark = (values) => {
    const wanted = values.individual === -1 ? data.best : values.individual;
    for (const [name, held] of data.held) {
      const [row, column] = name.split(" ").map(Number), chosen = held.place === wanted;
      cells[row][column].setAttribute("aria-selected", chosen);
      if (chosen) move(row, column);
    }
    grid.dataset.chosen = [...data.held.values()].some((h) => h.place === wanted) ? wanted : "";
  };
  const build = () => {
    const [x, y] = data.axes, rows = y ? y.n : 1, span = data.high - data.low || 1;
    grid.style.aspectRatio = `${x.n} / ${Math.max(rows, 1)}`;
    cells = Array.from({ length: rows }, (_, row) => Array.from({ length: x.n }, (_, column) => {
      const held = data.held.get(`${row} ${column}`), about = cellsAbout(data, row, column);
      const cell = make("div", { class: `evonb-cell${held ? " evonb-cell-held" : ""}`, role: "gridcell", title: about });
      cell.setAttribute("aria-label", about);
      cell.setAttribute("tabindex", -1);
      if (held) { cell.style.background = cellsColour(data.scale, (held.value - data.low) / span); cell.dataset.place = held.place; }
      cell.addEventListener("click", () => { move(row, column, true); choose(row, column); });
      cell.addEventListener("focus", () => host.say(about));
      return cell;
    }));
    const line = (row) => { const r = make("div", { class: "evonb-cells-row", role: "row" }, ...cells[row]); return r; };
    grid.replaceChildren(...Array.from({ length: rows }, (_, i) => line(rows - 1 - i))); // the highest on top
    move(rows - 1, 0);
  };
  const legend = () => {
    const [x, y] = data.axes, scale = make("span", { class: "evonb-cells-scale" });
    scale.style.background = `linear-gradient(90deg, ${data.scale.map(([s, c]) => `${c} ${100 * s}%`).join(", ")})`;
    const ends = ({ name, low, high }) => [cellsNumber(low), name, cellsNumber(high)].map((t) => make("span", { textContent: t }));
    across.replaceChildren(...ends(x));
    up.replaceChildren(...(y ? ends(y) : []));
    key.replaceChildren(make("span", { textContent: `fitness ${cellsNumber(data.low)}` }), scale,
                        make("span", { textContent: cellsNumber(data.high) }), make("span", { class: "evonb-cells-none" }),
                        make("span", { textContent: "nobody" }));
  };
  grid.addEventListener("keydown", (event) => {
    const by = { ArrowUp: [1, 0], ArrowDown: [-1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (by) move(at[0] + by[0], at[1] + by[1], true);
    else if (event.key === "Home") move(at[0], 0, true);
    else if (event.key === "End") move(at[0], cells[0].length - 1, true);
    else if (event.key === "Enter" || event.key === " ") choose(...at);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  return {
    draw({ content }, values) {
      data = { ...content, held: new Map(content.held.map((h) => [`${h.row} ${h.column}`, h])) };
      how.textContent = plainWords(content.how);
      grid.setAttribute("aria-label", `${host.view.description || host.view.title} ${plainWords(content.how)}`);
      grid.dataset.filled = data.held.size;
      build();
      legend();
      mark(values);
    },
    restyle(values) { if (data) mark(values); },
  };
};
