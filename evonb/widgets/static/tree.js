/* A population's family tree: marks for individuals, generations across, the best on top, lines from parents. */

const treeRoom = { left: 50, right: 16, top: 16, bottom: 42 }; // px around the tree, for its axes
const treeDashes = { solid: [], dash: [5, 3], dot: [1.5, 2.5], dashdot: [6, 3, 1.5, 3], longdash: [9, 4],
                     longdashdot: [9, 4, 1.5, 4] };

/* -- What came from Python --------------------------------------------------------------------------------------- */

/** A reply's arrays by name, and the ids. */
function treeUnpack({ content, arrays }) {
  const data = { ...content };
  content.arrays.forEach(([name, kind], i) => { data[name] = new globalThis[`${kind}Array`](arrays[i]); });
  data.ids = asText(arrays[arrays.length - 1]).split("\n");
  return treeRelate(data);
}

/** Parents and children of each place, and how far the tree reaches. */
function treeRelate(data) {
  data.parents = (i) => Array.from(data.parent.subarray(data.start[i], data.start[i + 1]));
  data.children = Array.from({ length: data.n }, () => []);
  for (let i = 0; i < data.n; i++) for (const p of new Set(data.parents(i))) data.children[p].push(i);
  data.nRanks = data.rank.reduce((a, b) => Math.max(a, b), 0) + 1;
  data.from = data.generation.reduce((a, b) => Math.min(a, b), Infinity);
  data.to = data.across.reduce((a, b) => Math.max(a, b), -Infinity);
  data.last = data.generation.reduce((a, b) => Math.max(a, b), 0);
  return data;
}

const treeFailed = (data, i) => !Number.isFinite(data.value[i]);

/** A place and all its ancestors. */
function treeAncestors(data, i) {
  const found = new Set(), open = i < 0 ? [] : [i];
  while (open.length) {
    const at = open.pop();
    if (found.has(at)) continue;
    found.add(at);
    open.push(...data.parents(at));
  }
  return found;
}

/** The better parent, or -1. */
function treeParent(data, i) {
  const value = (p) => (treeFailed(data, p) ? -Infinity : data.value[p]);
  return data.parents(i).reduce((best, p) => (best < 0 || value(p) > value(best) ? p : best), -1);
}

/** From a place to its better parent, and so on to the first. */
function treeLine(data, i) {
  const line = [];
  for (let at = i; at >= 0 && !line.includes(at); at = treeParent(data, at)) line.push(at);
  return line;
}

/** Those that share a parent with i, in the order of rank; without parents those of its generation that have none. */
function treeSiblings(data, i) {
  const parents = data.parents(i), found = new Set([i]);
  if (parents.length) parents.forEach((p) => data.children[p].forEach((c) => found.add(c)));
  else for (let j = 0; j < data.n; j++) if (data.generation[j] === data.generation[i] && !data.parents(j).length) found.add(j);
  return [...found].sort((a, b) => data.generation[a] - data.generation[b] || data.rank[a] - data.rank[b]);
}

/* -- Text -------------------------------------------------------------------------------------------------------- */

const treeNumber = (v, digits = 3) => (Number.isFinite(v) ? v.toFixed(digits).replace("-", "−") : "–");
const treeWithError = (v, se) => treeNumber(v) + (Number.isFinite(se) ? ` ± ${se.toFixed(3)}` : "");
const treeName = (data, i) => `#${i} ${data.ids[i]}`;

/** What made an individual, and of whom. */
function treeMade(data, i) {
  const parents = [...data.parents(i).map((p) => treeName(data, p)), ...(data.outside[i] ?? [])];
  return data.operators[data.operator[i]].name + (parents.length ? ` of ${parents.join(" and ")}` : "");
}

/** An individual in a few lines. */
function treeAbout(data, i) {
  const fitness = treeFailed(data, i) ? `failed: ${data.reasons[data.reason[i]] || "no finite fitness"}`
    : `fitness ${treeWithError(data.value[i], data.value_se[i])}`;
  const score = (j) => treeNumber(data.score[i * data.tasks.length + j]);
  const tasks = treeFailed(data, i) ? [] : data.tasks.slice(0, 4).map((t, j) => `${t.name}: ${score(j)}`);
  return [treeName(data, i) + (i === data.best ? " (the best)" : ""), `generation ${data.generation[i]}, ${treeMade(data, i)}`,
          fitness, ...(data.tasks.length > 1 ? tasks : [])].join("\n");
}

/* -- Marks ------------------------------------------------------------------------------------------------------- */

/** Shapes of marks by their corners, as multiples of the radius; others by their number, where the first points, and size. */
const treeOutlines = {
  bowtie: [[-1, -1], [1, 1], [1, -1], [-1, 1]], hourglass: [[-1, -1], [1, -1], [-1, 1], [1, 1]],
  cross: [[-1.1, -0.4], [-0.4, -0.4], [-0.4, -1.1], [0.4, -1.1], [0.4, -0.4], [1.1, -0.4], [1.1, 0.4], [0.4, 0.4], [0.4, 1.1], [-0.4, 1.1], [-0.4, 0.4], [-1.1, 0.4]],
};
const treeShapes = { square: [4, 0.785, 1.13], diamond: [4, 0, 1.25], "triangle-up": [3, -1.571, 1.3], "triangle-down": [3, 1.571, 1.3],
                     "triangle-left": [3, 3.142, 1.3], "triangle-right": [3, 0, 1.3], pentagon: [5, -1.571, 1.15], hexagon: [6, 0, 1.1],
                     star: [10, -1.571, 1.45], hexagram: [12, -1.571, 1.4] };

/** Add an operator's mark to a path. */
function treeMark(path, symbol, x, y, r) {
  const outline = treeOutlines[symbol];
  if (outline) {
    outline.forEach(([a, b], k) => path[k ? "lineTo" : "moveTo"](x + a * r, y + b * r));
    path.closePath();
    return;
  }
  const corners = treeShapes[symbol];
  if (!corners) { path.moveTo(x + r, y); path.arc(x, y, r, 0, 6.2832); return; }
  const [n, turn, size] = corners, inner = { star: 0.5, hexagram: 0.58 }[symbol] ?? 1;
  for (let k = 0; k < n; k++) {
    const far = r * size * (k % 2 ? inner : 1), angle = turn + (6.28319 * k) / n;
    path[k ? "lineTo" : "moveTo"](x + far * Math.cos(angle), y + far * Math.sin(angle));
  }
  path.closePath();
}

/** Add a cross to a path: the mark of those that failed. */
function treeCross(path, x, y, r) {
  path.moveTo(x - r, y - r); path.lineTo(x + r, y + r);
  path.moveTo(x - r, y + r); path.lineTo(x + r, y - r);
}

/** A colour between the stops of a ramp. */
function treeShade(ramp, share) {
  const k = Math.max(1, ramp.findIndex(([at]) => at >= share));
  const [[a, from], [b, to]] = [ramp[k - 1], ramp[k]], t = (share - a) / (b - a);
  const part = (hex, i) => parseInt(hex.slice(1 + 2 * i, 3 + 2 * i), 16);
  return `rgb(${[0, 1, 2].map((i) => Math.round(part(from, i) + t * (part(to, i) - part(from, i)))).join(",")})`;
}

/** What the marks are coloured by: null for operators, else values with their range. */
function treeColouring(data, colour) {
  const j = data.tasks.findIndex((t) => t.name === colour);
  if (colour === "operator" || (colour !== "fitness" && j < 0)) return null;
  const of = colour === "fitness" ? (i) => data.value[i] : (i) => data.score[i * data.tasks.length + j];
  let low = Infinity, high = -Infinity;
  for (let i = 0; i < data.n; i++) if (Number.isFinite(of(i))) { low = Math.min(low, of(i)); high = Math.max(high, of(i)); }
  return { of, low, high, name: colour === "fitness" ? "fitness on validation" : `validation score on ${colour}` };
}

/* -- Where things stand ------------------------------------------------------------------------------------------- */

/** The window onto the tree: zoom and shift, kept so that the tree never leaves it. */
function treeWindow(size, data) {
  const win = { zoom: 1, dx: 0, dy: 0 };
  const wide = () => size.width - treeRoom.left - treeRoom.right, high = () => size.height - treeRoom.top - treeRoom.bottom;
  const stepX = () => (win.zoom * wide()) / (data.to - data.from + 1), stepY = () => (win.zoom * high()) / data.nRanks;
  const keep = () => {
    win.dx = Math.min(0, Math.max(wide() * (1 - win.zoom), win.dx));
    win.dy = Math.min(0, Math.max(high() * (1 - win.zoom), win.dy));
  };
  return Object.assign(win, {
    wide, high, stepX, stepY,
    x: (i) => treeRoom.left + win.dx + (data.across[i] - data.from + 0.5) * stepX(),
    y: (i) => treeRoom.top + win.dy + (data.rank[i] + 0.5) * stepY(),
    generationX: (g) => treeRoom.left + win.dx + (g - data.from + 0.5) * stepX(),
    radius: () => Math.max(2, Math.min(8, 0.36 * Math.min(stepX(), stepY() * 1.15))),
    move(dx, dy) { win.dx += dx; win.dy += dy; keep(); },
    scale(factor, x = treeRoom.left + wide() / 2, y = treeRoom.top + high() / 2) {
      const next = Math.min(40, Math.max(1, win.zoom * factor)), by = next / win.zoom;
      win.dx = x - treeRoom.left - by * (x - treeRoom.left - win.dx);
      win.dy = y - treeRoom.top - by * (y - treeRoom.top - win.dy);
      win.zoom = next;
      keep();
    },
    fit() { win.zoom = 1; win.dx = win.dy = 0; },
    show(i) {
      const x = win.x(i), y = win.y(i), l = treeRoom.left + 20, t = treeRoom.top + 20;
      win.move(x < l ? l - x : Math.min(0, l + wide() - 40 - x), y < t ? t - y : Math.min(0, t + high() - 40 - y));
    },
    resized: keep,
  });
}

/* -- Drawing ------------------------------------------------------------------------------------------------------ */

/** Colours that follow the page. */
function treeInk(dark) {
  const chosen = "rgba(86,180,233,.62)";
  return dark ? { text: "#e6e8eb", soft: "#a9b1ba", line: "#39414a", page: "#14171b", best: "rgba(240,228,66,.55)", chosen }
    : { text: "#1f2328", soft: "#59636e", line: "#dfe3e8", page: "#ffffff", best: "rgba(232,196,0,.55)", chosen };
}

/** A curve from a parent to its child, across the generations. */
function treeCurve(path, win, a, b) {
  const x1 = win.x(a), y1 = win.y(a), x2 = win.x(b), y2 = win.y(b), middle = (x1 + x2) / 2;
  path.moveTo(x1, y1);
  path.bezierCurveTo(middle, y1, middle, y2, x2, y2);
}

/** Everything a drawing needs, with what it did, for those who read the page. */
function treeBrush(ctx, win, size, data, state, dark) {
  const seen = (i) => data.generation[i] <= state.until;
  const inside = (i, far = 12) => {
    const x = win.x(i), y = win.y(i);
    return x > treeRoom.left - far && x < size.width - treeRoom.right + far
      && y > treeRoom.top - far && y < size.height - treeRoom.bottom + far;
  };
  return { ctx, win, size, data, state, ink: treeInk(dark), seen, inside, drawn: { individuals: 0, edges: 0, failed: 0 } };
}

/** The frame: generations below, ranks on the left. */
function treeAxes({ ctx, win, size, data, ink }) {
  const bottom = size.height - treeRoom.bottom, every = Math.max(1, Math.ceil(44 / win.stepX()));
  ctx.font = "12px system-ui, sans-serif";
  ctx.textAlign = "center";
  for (let g = data.from; g <= data.last; g++) {
    const x = win.generationX(g);
    if (x < treeRoom.left || x > size.width - treeRoom.right || (g - data.from) % every) continue;
    ctx.fillStyle = ink.line; ctx.fillRect(Math.round(x), treeRoom.top, 1, bottom - treeRoom.top);
    ctx.fillStyle = ink.soft; ctx.fillText(String(g), x, bottom + 15);
  }
  ctx.fillStyle = ink.soft;
  ctx.fillText("generation", treeRoom.left + win.wide() / 2, bottom + 33);
  treeRankAxis(ctx, win, size, data);
}

/** Ranks: the first, and some below. */
function treeRankAxis(ctx, win, size, data) {
  const every = [1, 2, 5, 10, 20, 50, 100, 200, 500].find((n) => n * win.stepY() >= 34) ?? 1000;
  ctx.textAlign = "right";
  for (let r = 0; r < data.nRanks; r++) {
    const y = treeRoom.top + win.dy + (r + 0.5) * win.stepY();
    if ((r && (r + 1) % every) || y < treeRoom.top || y > size.height - treeRoom.bottom) continue;
    ctx.fillText(String(r + 1), treeRoom.left - 8, y + 4);
  }
  ctx.save();
  ctx.translate(13, treeRoom.top + win.high() / 2);
  ctx.rotate(-Math.PI / 2);
  ctx.textAlign = "center";
  ctx.fillText("rank in its generation", 0, 0);
  ctx.restore();
}

/** Lines from parents to children, those of one operator in one path. */
function treeEdges(brush) {
  const { ctx, win, data, seen, inside, drawn } = brush;
  const paths = data.operators.map(() => new Path2D());
  for (let i = 0; i < data.n; i++) {
    if (!seen(i)) continue;
    for (let k = data.start[i]; k < data.start[i + 1]; k++) {
      drawn.edges++;
      const p = data.parent[k];
      if (win.zoom > 1 && !inside(i) && !inside(p) && win.x(i) < treeRoom.left === win.x(p) < treeRoom.left) continue;
      treeCurve(paths[data.operator[i]], win, p, i);
    }
  }
  const many = data.parent.length;
  ctx.lineWidth = many > 800 ? 0.8 : 1.1;
  ctx.globalAlpha = many > 2000 ? 0.3 : many > 500 ? 0.42 : 0.7;
  paths.forEach((path, o) => treeStroke(ctx, path, data.operators[o], brush.state.moving && many > 500));
  ctx.globalAlpha = 1;
}

/** Draw a path as an operator's lines are drawn; plain leaves out the dashes, which take long. */
function treeStroke(ctx, path, operator, plain = false) {
  ctx.strokeStyle = operator.colour;
  if (!plain) ctx.setLineDash(treeDashes[operator.dash] ?? []);
  ctx.stroke(path);
  ctx.setLineDash([]);
}

/** An ancestry as with a marker pen: thin for all of it, broad for its main line. */
function treePen({ ctx, win, data, seen }, family, line, colour) {
  const all = new Path2D(), main = new Path2D();
  for (const i of family) if (seen(i)) for (const p of data.parents(i)) treeCurve(all, win, p, i);
  line.slice(1).forEach((p, k) => { if (seen(line[k])) treeCurve(main, win, p, line[k]); });
  ctx.strokeStyle = colour;
  ctx.lineWidth = 2.5; ctx.stroke(all);
  ctx.lineWidth = 7; ctx.stroke(main);
}

/** The lines of one family again, in full colour. */
function treeFamily({ ctx, win, data, seen }, family, width) {
  const paths = data.operators.map(() => new Path2D());
  for (const i of family) if (seen(i)) for (const p of data.parents(i)) treeCurve(paths[data.operator[i]], win, p, i);
  ctx.lineWidth = width;
  paths.forEach((path, o) => treeStroke(ctx, path, data.operators[o]));
}

/** All marks, those alike in one path; crosses for those that failed. */
function treeNodes(brush) {
  const { ctx, win, data, seen, inside, ink, drawn, state } = brush, r = win.radius(), shades = 24;
  const colouring = treeColouring(data, state.colour), marks = new Map(), crosses = new Path2D();
  for (let i = 0; i < data.n; i++) {
    if (!seen(i)) continue;
    drawn.individuals++;
    if (treeFailed(data, i)) drawn.failed++;
    if (!inside(i)) continue;
    if (treeFailed(data, i)) { treeCross(crosses, win.x(i), win.y(i), r * 0.75); continue; }
    const share = colouring ? (colouring.of(i) - colouring.low) / Math.max(colouring.high - colouring.low, 1e-9) : 0;
    const { colour, symbol } = data.operators[data.operator[i]];
    const fill = colouring ? treeShade(data.ramp, Math.round(share * shades) / shades) : colour;
    if (!marks.has(fill)) marks.set(fill, new Path2D());
    treeMark(marks.get(fill), symbol, win.x(i), win.y(i), r);
  }
  ctx.strokeStyle = ink.page;
  ctx.lineWidth = r > 3 ? 1 : 0.5;
  for (const [fill, path] of marks) { ctx.fillStyle = fill; ctx.fill(path); ctx.stroke(path); }
  ctx.strokeStyle = ink.text;
  ctx.lineWidth = Math.max(1.2, r / 3.5);
  ctx.stroke(crosses);
}

/** A ring around one individual. */
function treeRing({ ctx, win, seen, inside }, i, colour, far, width) {
  if (i < 0 || !seen(i) || !inside(i)) return;
  ctx.strokeStyle = colour;
  ctx.lineWidth = width;
  ctx.beginPath();
  ctx.arc(win.x(i), win.y(i), win.radius() + far, 0, 6.2832);
  ctx.stroke();
}

/** Keep to the tree's own rectangle while drawing. */
function treeClipped({ ctx, size }, draw) {
  ctx.save();
  ctx.beginPath();
  ctx.rect(treeRoom.left - 10, treeRoom.top - 12, size.width - treeRoom.left - treeRoom.right + 22,
           size.height - treeRoom.top - treeRoom.bottom + 16);
  ctx.clip();
  draw();
  ctx.restore();
}

/** The picture without what the mouse is on; returns what was drawn. */
function treePaint(brush, families) {
  const { ctx, size, state, ink, data } = brush;
  ctx.clearRect(0, 0, size.width, size.height);
  treeAxes(brush);
  treeClipped(brush, () => treeBody(brush, families, state, ink, data));
  return brush.drawn;
}

/** Lines, pens, marks and rings. */
function treeBody(brush, families, state, ink, data) {
  treeEdges(brush);
  treePen(brush, families.best, families.bestLine, ink.best);
  if (state.chosen !== data.best) treePen(brush, families.chosen, families.chosenLine, ink.chosen);
  treeFamily(brush, families.chosen, 1.3);
  treeNodes(brush);
  treeRing(brush, data.best, ink.text, 2.5, 1.6);
  if (state.chosen !== data.best) treeRing(brush, state.chosen, ink.text, 2.5, 1.6);
  treeFlag(brush, data.best, "best");
  if (state.chosen !== data.best) treeFlag(brush, state.chosen, `#${state.chosen}`);
}

/** What the mouse or the keyboard is on: its lines to parents and children, and a ring. */
function treeOver(brush, i) {
  if (i < 0) return;
  treeClipped(brush, () => {
    treeFamily(brush, [i], 2.6);
    const { ctx, win, data, seen } = brush, path = new Path2D();
    for (const c of data.children[i]) if (seen(c)) treeCurve(path, win, i, c);
    ctx.strokeStyle = brush.ink.soft; ctx.lineWidth = 1.2; ctx.stroke(path);
    treeRing(brush, i, "#56B4E9", 4, 2.4);
  });
}

/** A name beside an individual. */
function treeFlag({ ctx, win, size, seen, inside, ink }, i, text) {
  if (i < 0 || !seen(i) || !inside(i)) return;
  const right = win.x(i) > size.width - 80;
  const x = win.x(i) + (right ? -1 : 1) * (win.radius() + 6), y = win.y(i) + 4;
  ctx.font = "600 12px system-ui, sans-serif";
  ctx.textAlign = right ? "right" : "left";
  ctx.lineWidth = 3.5; ctx.strokeStyle = ink.page; ctx.lineJoin = "round";
  ctx.strokeText(text, x, y);
  ctx.fillStyle = ink.text;
  ctx.fillText(text, x, y);
}

/* -- Beside the canvas ---------------------------------------------------------------------------------------------- */

/** An SVG element. */
function treeSvg(tag, properties, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(properties)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** Collects a mark as the text of an SVG path. */
function treePathText(draw) {
  const parts = [];
  draw({ moveTo: (x, y) => parts.push(`M${x} ${y}`), lineTo: (x, y) => parts.push(`L${x} ${y}`), closePath: () => parts.push("Z"),
         arc: (x, y, r) => parts.push(`M${x - r} ${y}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0`) });
  return parts.join("");
}

/** An operator's line and mark. */
function treeSwatch(operator, fill) {
  const line = treeSvg("line", { x1: 0, y1: 7, x2: 34, y2: 7, stroke: operator.colour, "stroke-width": 2,
                                 "stroke-dasharray": (treeDashes[operator.dash] ?? []).join(" ") });
  const mark = treeSvg("path", { d: treePathText((p) => treeMark(p, operator.symbol, 17, 7, 4.6)), fill });
  return treeSvg("svg", { width: 34, height: 14, "aria-hidden": "true" }, line, mark);
}

/** The legend: operators with their numbers, those that failed, the two pens, and a scale where there is one. */
function treeLegend(box, data, state, ink) {
  const colouring = treeColouring(data, state.colour), item = (swatch, text) => make("span", {}, swatch, text);
  const pen = (colour) => treeSvg("svg", { width: 26, height: 14, "aria-hidden": "true" },
    treeSvg("line", { x1: 0, y1: 7, x2: 26, y2: 7, stroke: colour, "stroke-width": 7 }));
  const cross = treeSvg("svg", { width: 14, height: 14, "aria-hidden": "true" },
    treeSvg("path", { d: treePathText((p) => treeCross(p, 7, 7, 4)), stroke: ink.text, "stroke-width": 1.6 }));
  const failed = data.value.reduce((n, v) => n + !Number.isFinite(v), 0);
  const items = data.operators.map((o) => item(treeSwatch(o, colouring ? "#8C8C8C" : o.colour), `${o.name} (${o.count})`));
  if (failed) items.push(item(cross, `failed (${failed})`));
  if (data.best >= 0 && data.parent.length) items.push(item(pen(ink.best), "ancestry of the best"));
  if (state.chosen !== data.best && data.parents(state.chosen).length) items.push(item(pen(ink.chosen), `ancestry of #${state.chosen}`));
  if (colouring) {
    const scale = make("span", { class: "evonb-tree-scale" });
    scale.style.background = `linear-gradient(to right, ${data.ramp.map(([at, c]) => `${c} ${100 * at}%`).join(", ")})`;
    items.push(make("span", {}, `${colouring.name}: ${treeNumber(colouring.low)}`, scale, treeNumber(colouring.high)));
  }
  box.replaceChildren(...items);
}

/** A table of strings and nodes. */
function treeTable(caption, columns, rows) {
  const cell = (value, j) => make("td", { class: j && /^[−-]?[\d.]+( ± [\d.]+)?$|^–$/.test(value) ? "evonb-number" : "" }, value);
  const table = make("table", { class: "evonb-table" }, make("caption", { textContent: caption }),
    make("thead", {}, make("tr", {}, ...columns.map((c) => make("th", { scope: "col", textContent: c })))),
    make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map(cell)))));
  const box = make("div", { class: "evonb-scroll", tabIndex: 0 }, table); // on a narrow page it scrolls, by keyboard too
  box.setAttribute("role", "region");
  box.setAttribute("aria-label", caption);
  return box;
}

/** An individual's scores beside the best one's, with standard errors and chance. */
function treeScores(data, i) {
  const n = data.tasks.length, beside = data.best >= 0 && i !== data.best;
  const versus = (v, best) => (beside ? [treeNumber(best), treeNumber(v - best)] : []);
  const row = (name, v, se, best, chance) => [name, treeWithError(v, se), ...versus(v, best), treeNumber(chance ?? NaN)];
  const rows = [row("fitness", data.value[i], data.value_se[i], data.value[data.best], data.chance),
                ...data.tasks.map((t, j) => row(t.name, data.score[i * n + j], data.se[i * n + j], data.score[data.best * n + j], t.chance))];
  const known = data.tasks.some((t) => t.n);
  const note = known ? `± standard error over items (${[...new Set(data.tasks.map((t) => t.n).filter(Boolean))].join(", ")} a task)`
    : "The number of items isn't stored, so no standard error can be told";
  return treeTable(`Validation scores. ${note}.`, ["", "score", ...(beside ? ["the best", "difference"] : []), "chance"], rows);
}

/** An individual's parents, best children and the best of all, with distances of weights. */
function treeRelatives(data, i, go) {
  const link = (j) => {
    const button = make("button", { type: "button", class: "evonb-tree-link", textContent: treeName(data, j) });
    button.addEventListener("click", () => go(j));
    return button;
  };
  const children = [...data.children[i]].sort((a, b) => (data.value[b] || -Infinity) - (data.value[a] || -Infinity));
  const between = (child, parent) => {
    for (let k = data.start[child]; k < data.start[child + 1]; k++) if (data.parent[k] === parent) return data.parent_distance[k];
    return NaN;
  };
  const row = (what, j, far) => [what, link(j), data.operators[data.operator[j]].name, String(data.generation[j]),
                                 treeFailed(data, j) ? "failed" : treeNumber(data.value[j]), ...(data.distance ? [treeNumber(far)] : [])];
  const rows = [...[...new Set(data.parents(i))].map((p) => row("parent", p, between(i, p))),
                ...(data.outside[i] ?? []).map((id) => ["parent", id, "not scored here", "–", "–", ...(data.distance ? ["–"] : [])]),
                ...children.slice(0, 3).map((c) => row("child", c, between(c, i)))];
  if (data.best >= 0 && i !== data.best) rows.push(row("the best", data.best, data.best_distance[i]));
  const more = children.length > 3 ? `${children.length} children, the best three shown. ` : "";
  const columns = ["", "individual", "made by", "generation", "fitness", ...(data.distance ? [data.distance] : [])];
  if (rows.length) return treeTable(`${more}${data.weights}`, columns, rows);
  return make("div", {}, make("p", { class: "evonb-text", textContent: data.weights }));
}

/** The way to an individual's connectome: a button where Python answers, and the command. */
function treeConnectome(data, i, open) {
  const which = `${data.wirings}::${data.method}/${data.seed}/${i}`, quoted = `'${which.replaceAll("'", "'\\''")}'`;
  const box = make("p", { class: "evonb-tree-who evonb-tree-wiring" });
  if (open) {
    const button = make("button", { type: "button", class: "evonb-button", textContent: "Open its connectome" });
    button.addEventListener("click", () => open(i));
    box.append(button, " or ");
  } else box.append("Its connectome: ");
  box.append(make("code", { textContent: `evonb explore ${quoted}` }));
  return box;
}

/** What is known of the chosen individual. */
function treeDetails(box, data, i, go, open) {
  if (i < 0) {
    box.replaceChildren(make("p", { class: "evonb-tree-who", textContent: "All individuals failed; choose one to see why." }));
    return;
  }
  const line = treeLine(data, i), failed = treeFailed(data, i), founder = treeName(data, line[line.length - 1]);
  const text = ` · generation ${data.generation[i]} · ${treeMade(data, i)}` + (i === data.best ? " · the best of all" : "")
    + (failed ? ` · failed: ${data.reasons[data.reason[i]] || "no finite fitness"}` : "")
    + (line.length > 1 ? ` · ${treeAncestors(data, i).size - 1} ancestors, main line of ${line.length} back to ${founder}` : "");
  box.replaceChildren(make("p", { class: "evonb-tree-who" }, make("b", { textContent: treeName(data, i) }), text),
                      ...(data.wirings ? [treeConnectome(data, i, open)] : []),
                      ...(failed ? [] : [treeScores(data, i)]), treeRelatives(data, i, go));
}

/* -- The view ------------------------------------------------------------------------------------------------------- */

/** The elements of the view. */
function treeElements(host) {
  const canvas = make("canvas", { class: "evonb-tree-canvas", tabIndex: 0 });
  canvas.setAttribute("role", "application");
  canvas.setAttribute("aria-roledescription", "family tree");
  const legend = make("div", { class: "evonb-tree-legend" }), zoom = make("div", { class: "evonb-tree-zoom" });
  const tip = make("div", { class: "evonb-tip", hidden: true }), details = make("div", { class: "evonb-tree-details" });
  const frame = make("div", { class: "evonb-tree-frame" }, canvas, tip);
  host.root.append(make("div", { class: "evonb-tree-bar" }, legend, zoom), frame, details);
  return { canvas, legend, zoom, tip, details, frame };
}

kinds.tree = (host) => {
  const parts = treeElements(host), { canvas, tip } = parts, ctx = canvas.getContext("2d");
  if (!ctx) throw new Error("This browser gives no 2d canvas, which the tree needs. Allow canvas drawing, or open it in another browser.");
  const size = { width: 0, height: 0 }, state = { until: 0, colour: "operator", chosen: -1, hovered: -1, moving: false };
  const layer = make("canvas"), back = layer.getContext("2d"); // the picture without what the mouse is on
  let data = null, win = null, families = null, asked = 0, frames = 0, before = null, drawn = null, drawnAs = "", loads = 0;

  const report = (took) => Object.assign(canvas.dataset, {
    ...drawn, chosen: state.chosen, chosenId: data.ids[state.chosen] ?? "", hovered: state.hovered < 0 ? "" : state.hovered,
    hoveredId: data.ids[state.hovered] ?? "", parents: state.chosen < 0 ? "" : data.parents(state.chosen).join(" "),
    ancestors: Math.max(0, families.chosen.size - 1), best: data.best, until: state.until, colour: state.colour,
    zoom: win.zoom.toFixed(3), panX: win.dx.toFixed(1), panY: win.dy.toFixed(1), frames: ++frames, frameMs: took.toFixed(2),
    evolution: `${data.method} ${data.seed}`,
  });
  const paint = () => {
    asked = 0;
    if (!data || !size.width) return;
    const began = performance.now(), ratio = globalThis.devicePixelRatio || 1, dark = host.dark();
    const as = JSON.stringify([win.zoom, win.dx, win.dy, size, state.until, state.colour, state.chosen, state.moving, dark, ratio, loads]);
    if (as !== drawnAs) {
      [layer.width, layer.height, drawnAs] = [canvas.width, canvas.height, as];
      back.setTransform(ratio, 0, 0, ratio, 0, 0);
      drawn = treePaint(treeBrush(back, win, size, data, state, dark), families);
    }
    ctx.setTransform(1, 0, 0, 1, 0, 0);
    ctx.clearRect(0, 0, canvas.width, canvas.height);
    ctx.drawImage(layer, 0, 0);
    ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
    treeOver(treeBrush(ctx, win, size, data, state, dark), state.hovered);
    report(performance.now() - began);
  };
  const soon = () => { asked ||= requestAnimationFrame(paint); };
  const measure = () => {
    const ratio = globalThis.devicePixelRatio || 1;
    size.width = host.root.clientWidth;
    size.height = Math.max(240, Math.min(host.height, treeRoom.top + treeRoom.bottom + 34 * (data?.nRanks ?? 20)));
    const [w, h] = [Math.round(size.width * ratio), Math.round(size.height * ratio)];
    if (canvas.width !== w || canvas.height !== h) { canvas.width = w; canvas.height = h; canvas.style.height = `${size.height}px`; }
    win?.resized();
  };
  const relate = () => {
    const best = families?.of === data ? families : { of: data, best: treeAncestors(data, data.best), bestLine: treeLine(data, data.best) };
    families = { ...best, chosen: treeAncestors(data, state.chosen), chosenLine: treeLine(data, state.chosen) };
  };
  const take = (values) => {
    state.until = values.until ?? data.last;
    state.colour = values.colour ?? "operator";
    const wanted = values.individual ?? -1, chosen = wanted >= 0 && wanted < data.n ? wanted : data.best;
    if (chosen !== state.chosen || families?.of !== data) {
      state.chosen = chosen;
      relate();
      treeDetails(parts.details, data, chosen, choose, host.live && ((i) => host.click({ number: i, open: true, at: Date.now() })));
    }
    treeLegend(parts.legend, data, state, treeInk(host.dark()));
    canvas.setAttribute("aria-label", `${host.view.description || host.view.title} ${data.n} individuals of ${data.method}. `
      + "Left and right: parent and child; up and down: siblings; Page Up and Down: rank; Enter chooses; plus, minus and 0 zoom.");
  };
  const choose = (i) => {
    host.click({ number: i, id: data.ids[i], generation: data.generation[i], operator: data.operators[data.operator[i]].name,
                 fitness: treeFailed(data, i) ? null : data.value[i], parents: data.parents(i) });
    take({ ...host.values(), individual: i });
    host.say(`Chosen: ${treeAbout(data, i).replaceAll("\n", "; ")}`);
    soon();
  };
  const hover = (i, x, y) => {
    tip.hidden = i < 0;
    if (i >= 0) {
      tip.textContent = treeAbout(data, i);
      tip.style.left = `${Math.min(x + 14, Math.max(0, size.width - 230))}px`;
      tip.style.top = `${y + (y > size.height - 110 ? -92 : 14)}px`;
    }
    canvas.classList.toggle("evonb-tree-over", i >= 0);
    if (i !== state.hovered) { state.hovered = i; soon(); }
  };
  const self = { host, canvas, size, state, hover, choose, soon, data: () => data, win: () => win };
  treePointer(self);
  treeKeys(self);
  treeZoomButtons(parts.zoom, self);
  canvas.evonbPlace = (i) => [win.x(i), win.y(i)]; // px on the canvas, for those who want to point at somebody
  return {
    async draw(reply, values) {
      const began = performance.now(), next = treeUnpack(reply);
      const other = data && (data.method !== next.method || data.seed !== next.seed), same = values.individual === before;
      data = next;
      loads++;
      win = treeWindow(size, data);
      state.hovered = -1; state.chosen = -2; families = null;
      measure();
      take(other && same ? { ...values, individual: -1 } : values);
      paint();
      host.say(data.parent.length ? "" : "No lines: this method draws each individual anew, so nobody has a parent.");
      canvas.dataset.firstMs = (performance.now() - began).toFixed(1);
      before = values.individual;
      if (other && same && values.individual !== -1) { before = -1; host.set("individual", -1); } // a place means another there
    },
    restyle(values) { before = values.individual; take(values); soon(); },
    resize() { if (data && host.root.clientWidth !== size.width) { measure(); paint(); } },
    destroy() { cancelAnimationFrame(asked); },
  };
};

/** The individual under a point, or -1. */
function treeAt({ data, win, state }, x, y) {
  const tree = data(), view = win(), reach = Math.max(7, view.radius() + 3);
  let found = -1, nearest = reach * reach;
  for (let i = 0; i < tree.n; i++) {
    if (tree.generation[i] > state.until) continue;
    const d = (view.x(i) - x) ** 2 + (view.y(i) - y) ** 2;
    if (d <= nearest) { nearest = d; found = i; }
  }
  return found;
}

/** Mouse, pen and finger: hover, drag, click, wheel. */
function treePointer(self) {
  const { canvas, host } = self;
  let held = null;
  const place = (event) => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
  canvas.addEventListener("pointerdown", (event) => {
    if (!self.data() || event.button) return;
    const [x, y] = place(event);
    held = { x, y, moved: false };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!self.data()) return;
    const [x, y] = place(event);
    if (!held) { self.hover(treeAt(self, x, y), x, y); return; }
    held.moved ||= Math.hypot(x - held.x, y - held.y) > 4;
    if (!held.moved) return;
    canvas.classList.add("evonb-tree-drag");
    self.state.moving = true;
    self.win().move(x - held.x, y - held.y);
    Object.assign(held, { x, y });
    self.hover(-1);
    self.soon();
  });
  const release = (event) => {
    const was = held;
    held = null;
    canvas.classList.remove("evonb-tree-drag");
    if (self.state.moving) { self.state.moving = false; self.soon(); }
    if (!was || was.moved || event.type !== "pointerup") return;
    const found = treeAt(self, ...place(event));
    if (found >= 0) self.choose(found);
  };
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("pointerleave", () => { if (!held) self.hover(-1); });
  canvas.addEventListener("wheel", (event) => {
    if (!self.data()) return;
    if (!event.ctrlKey && !event.metaKey && document.activeElement !== canvas && canvas.getRootNode().activeElement !== canvas) {
      host.say("To zoom with the wheel, click into the tree first, or hold Ctrl.");
      return;
    }
    event.preventDefault();
    self.win().scale(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0018)), ...place(event));
    self.soon();
  }, { passive: false });
  canvas.addEventListener("dblclick", () => { self.win()?.fit(); self.soon(); });
}

/** The best child, or -1. */
function treeChild(data, at) {
  return [...data.children[at]].sort((a, b) => (data.value[b] || -Infinity) - (data.value[a] || -Infinity))[0] ?? -1;
}

/** All of a generation, the best first. */
function treeGeneration(data, generation) {
  const all = Array.from({ length: data.n }, (_, i) => i).filter((i) => data.generation[i] === generation);
  return all.sort((a, b) => data.rank[a] - data.rank[b]);
}

/** Where an arrow leads from an individual. */
function treeStep(data, at, key) {
  if (key === "ArrowLeft") return treeParent(data, at);
  if (key === "ArrowRight") return treeChild(data, at);
  if (key === "Home") return data.best;
  const down = key === "ArrowDown" || key === "PageDown";
  const row = key.startsWith("Page") ? treeGeneration(data, data.generation[at]) : treeSiblings(data, at);
  return row[row.indexOf(at) + (down ? 1 : -1)] ?? -1;
}

/** The keyboard: walking, choosing, zooming. */
function treeKeys(self) {
  const { canvas, host, state } = self;
  const zooms = { "+": 1.3, "=": 1.3, "-": 1 / 1.3, _: 1 / 1.3 }, none = { ArrowLeft: "No parent in this evolution", ArrowRight: "No child" };
  const walk = (key) => {
    const data = self.data(), at = state.hovered >= 0 ? state.hovered : state.chosen;
    let to = at < 0 ? 0 : treeStep(data, at, key);
    if (to >= 0 && data.generation[to] > state.until) to = -1;
    if (to < 0) { host.say(`${none[key] ?? "Nobody further that way"}: ${treeName(data, at)}`); return; }
    self.win().show(to);
    self.hover(to, self.win().x(to), self.win().y(to));
    host.say(treeAbout(data, to).replaceAll("\n", "; "));
  };
  canvas.addEventListener("keydown", (event) => {
    if (!self.data() || event.ctrlKey || event.metaKey || event.altKey) return;
    const { key } = event;
    if (/^(Arrow|Page|Home$)/.test(key)) walk(key);
    else if (key === "Enter" || key === " ") { if (state.hovered >= 0) self.choose(state.hovered); }
    else if (zooms[key]) { self.win().scale(zooms[key]); self.soon(); }
    else if (key === "0") { self.win().fit(); self.soon(); }
    else if (key === "Escape") self.hover(-1);
    else return;
    event.preventDefault();
    event.stopPropagation(); // a notebook has keys of its own
  });
}

/** Buttons to zoom. */
function treeZoomButtons(box, self) {
  const add = (text, label, act) => {
    const button = make("button", { type: "button", class: "evonb-button", textContent: text, title: label });
    button.setAttribute("aria-label", label);
    button.addEventListener("click", () => { if (self.data()) { act(self.win()); self.soon(); } });
    box.append(button);
  };
  add("−", "Zoom out of the tree", (win) => win.scale(1 / 1.4));
  add("+", "Zoom into the tree", (win) => win.scale(1.4));
  add("⤢", "Show the whole tree", (win) => win.fit());
}
