/* Ternary masks: from two bit planes to a picture that can be zoomed down to single weights. */

const maskLimit = 2 ** 29; // weights that one typed array of a page can be trusted to hold
const maskSide = 16384; // px: the largest side of a canvas in every current browser
const maskHues = { negative: [0, 114, 178], balanced: [140, 140, 140], positive: [213, 94, 0] };
const maskDarkHues = { negative: [77, 171, 247], balanced: [150, 150, 150], positive: [255, 146, 43] }; // as bright on dark pages
const maskChanges = { kept: [140, 140, 140], born: [0, 158, 115], died: [204, 121, 167], flipped: [230, 159, 0] };
const maskNeeded = { hinders: [0, 109, 44], needed: [122, 1, 119] }; // importance: apart from the hues of signs for all eyes
const maskDarkNeeded = { hinders: [120, 214, 144], needed: [240, 130, 235] };
const maskWords = { "-1": "negative", 0: "no wire", 1: "positive" };
const maskCell = 28; // px: a weight's side when zoomed in all the way
const maskGrain = 6; // live weights that a block of several should hold on average, so that its hue says something
const maskKept = 0.4; // how strongly wires that stayed as they were are drawn beside those that changed

/* -- From bits to counts ----------------------------------------------------------------------------------------- */

/** The signs of n weights: `wired` has a bit for each, `positive` one for each live weight, in the same order. */
function maskDecode(wired, positive, n) {
  const signs = new Int8Array(n);
  let live = 0;
  for (let byte = 0; byte < wired.length; byte++) {
    for (let bits = wired[byte]; bits;) {
      const lead = Math.clz32(bits) - 24;
      signs[8 * byte + lead] = (positive[live >> 3] >> (7 - (live & 7))) & 1 ? 1 : -1;
      live++;
      bits &= ~(128 >> lead);
    }
  }
  return { signs, live };
}

/** A code for each weight: 0 nothing, 1 negative, 2 positive. */
function maskSignCodes(signs) {
  const codes = new Uint8Array(signs.length);
  for (let i = 0; i < signs.length; i++) if (signs[i]) codes[i] = signs[i] < 0 ? 1 : 2;
  return codes;
}

/** A code for each weight: 0 nothing, 1 kept, 2 born, 3 died, 4 flipped, from the other mask to this one. */
function maskChangeCodes(here, there) {
  const codes = new Uint8Array(here.length);
  for (let i = 0; i < here.length; i++) {
    const a = there[i], b = here[i];
    if (a || b) codes[i] = a === b ? 1 : !a ? 2 : !b ? 3 : 4;
  }
  return codes;
}

/** How many weights have each code from 1 to n. */
function maskTally(codes, n) {
  const found = new Array(n + 1).fill(0);
  for (let i = 0; i < codes.length; i++) found[codes[i]]++;
  return found.slice(1);
}

/** The next coarser level: pairs of rows (down) or of columns put together; counts of each code in each block. */
function maskHalve(level, down, n) {
  const { codes, counts } = level, before = level.columns;
  const rows = down ? (level.rows + 1) >> 1 : level.rows, columns = down ? before : (before + 1) >> 1;
  const high = level.high * (down ? 2 : 1), wide = level.wide * (down ? 1 : 2);
  const Kind = high * wide < 256 ? Uint8Array : high * wide < 65536 ? Uint16Array : Uint32Array;
  const made = Array.from({ length: n }, () => new Kind(rows * columns));
  for (let r = 0, i = 0; r < level.rows; r++) {
    const start = (down ? r >> 1 : r) * columns;
    if (codes) {
      for (let c = 0; c < before; c++, i++) if (codes[i]) made[codes[i] - 1][start + (down ? c : c >> 1)]++;
    } else {
      for (let k = 0; k < n; k++) {
        const from = counts[k], to = made[k];
        for (let c = 0, j = i; c < before; c++, j++) to[start + (down ? c : c >> 1)] += from[j];
      }
      i += before;
    }
  }
  return { rows, columns, high, wide, counts: made };
}

/** px per row or column at a zoom between 0 (all is seen) and 1 (a weight is as large as it gets). */
const maskScale = (fit, most, zoom) => fit * (Math.max(most, fit) / fit) ** zoom;

/** The zooms at which blocks of 2, 4, 8, ... rows or columns shrink to one pixel, from near to far. */
function maskSteps(fitX, fitY, most) {
  const along = (fit, down) => {
    const steps = [], span = Math.log(Math.max(most, fit) / fit);
    for (let k = 1; fit <= 2 ** -k; k++) steps.push({ zoom: span ? (-k * Math.LN2 - Math.log(fit)) / span : 0, down });
    return steps;
  };
  return [...along(fitX, false), ...along(fitY, true)].sort((a, b) => b.zoom - a.zoom);
}

/** Levels of a mask, made when first wanted: each follows from the one before. */
function maskLevels(codes, rows, columns, n) {
  let plan = "", steps = [], made = [{ rows, columns, high: 1, wide: 1, codes }];
  return {
    plan(fitX, fitY, most) {
      steps = maskSteps(fitX, fitY, most);
      const wanted = steps.map((s) => (s.down ? "y" : "x")).join("");
      let same = 0; // levels that the old plan shares with the new one
      while (same < plan.length && plan[same] === wanted[same]) same++;
      made.length = Math.min(made.length, same + 1);
      plan = wanted;
    },
    at(zoom) {
      const place = steps.filter((s) => s.zoom >= zoom - 1e-9).length;
      while (made.length <= place) made.push(maskHalve(made.at(-1), steps[made.length - 1].down, n));
      return made[place];
    },
  };
}

/* -- From counts to pixels --------------------------------------------------------------------------------------- */

/** Which of a level's blocks begin at each of n pixels (and where the last one ends). */
function maskStarts(n, first, scale, size, total) {
  const starts = new Int32Array(n + 1);
  for (let p = 0; p <= n; p++) starts[p] = Math.min(total, Math.max(0, Math.floor((first + p / scale) / size + 1e-9)));
  return starts;
}

/** What full intensity and pure hue stand for: two standard deviations above a random wiring's blocks of this size. */
function maskReach(density, weights, hues = maskHues) {
  const m = Math.max(1, weights);
  return { hues, full: Math.min(1, density + 2 * Math.sqrt(density * (1 - density) / m)) || 1,
           strongest: Math.min(1, 2 / Math.sqrt(m * density || 1)) };
}

/** px a side of the blocks that are drawn, when a pixel covers `weights` of them: 1 where single weights can be seen. */
const maskBlock = (density, weights) =>
  (weights <= 1.0001 ? 1 : Math.max(1, Math.min(4, Math.ceil(Math.sqrt(maskGrain / (weights * density || 1))))));

/** Fill one pixel with the colour of its net sign and the opacity of its share. */
function maskSignPixel(data, i, counts, total, reach) {
  const [negative, positive] = counts, live = negative + positive;
  const hue = Math.max(-1, Math.min(1, (positive - negative) / live / reach.strongest));
  const hues = reach.hues ?? maskHues, end = hue < 0 ? hues.negative : hues.positive, t = Math.abs(hue), grey = hues.balanced;
  for (let k = 0; k < 3; k++) data[i + k] = grey[k] + t * (end[k] - grey[k]);
  data[i + 3] = 255 * Math.min(1, live / total / reach.full);
}

const maskChangeColours = Object.values(maskChanges);

/** Fill one pixel with the mixture of what became of its wires. */
function maskChangePixel(data, i, counts, total, reach) {
  const weights = [maskKept * counts[0], counts[1], counts[2], counts[3]];
  const sum = weights[0] + weights[1] + weights[2] + weights[3];
  for (let k = 0; k < 3; k++) {
    let colour = 0;
    for (let j = 0; j < 4; j++) colour += weights[j] * maskChangeColours[j][k];
    data[i + k] = colour / sum;
  }
  data[i + 3] = 255 * Math.min(1, sum / total / reach.full);
}

/** The colours of single weights by their code, as bytes. */
function maskPalette(look, pixel) {
  const data = new Uint8ClampedArray(4 * (look.n + 1));
  for (let code = 1; code <= look.n; code++) {
    pixel(data, 4 * code, Array.from({ length: look.n }, (_, k) => (k === code - 1 ? 1 : 0)), 1, look.reach);
  }
  return new Uint32Array(data.buffer);
}

/** Sums of each code over rows r0 to r1 and columns c0 to c1 of a level, ends not included; returns all together. */
function maskSum(level, r0, r1, c0, c1, sums) {
  const { codes, counts, columns } = level;
  let live = 0;
  sums.fill(0);
  for (let r = r0; r < r1; r++) {
    for (let i = r * columns + c0, end = r * columns + c1; i < end; i++) {
      if (codes) { if (codes[i]) { sums[codes[i] - 1]++; live++; } continue; }
      for (let k = 0; k < sums.length; k++) { const found = counts[k][i]; sums[k] += found; live += found; }
    }
  }
  return live;
}

/** Draw a part of a mask into an image; returns how many pixels have wires, and how many of them the threshold hides. */
function maskPaint(image, level, sight, look) {
  const { width, height, data } = image, { codes } = level, whole = new Uint32Array(data.buffer), sums = new Array(look.n).fill(0);
  const xs = maskStarts(width, sight.left, sight.scaleX, level.wide, level.columns);
  const ys = maskStarts(height, sight.top, sight.scaleY, level.high, level.rows);
  const pixel = look.n === 2 ? maskSignPixel : maskChangePixel, palette = maskPalette(look, pixel);
  const drawn = { blocks: 0, hidden: 0 };
  let row = { blocks: 0, hidden: 0 }, last = -1;
  for (let y = 0; y < height; y++) {
    const r0 = Math.min(ys[y], level.rows - 1), r1 = Math.max(r0 + 1, ys[y + 1]), single = codes && r1 === r0 + 1;
    const tall = Math.min(look.rows, r1 * level.high) - r0 * level.high;
    if (single && r0 === last) whole.copyWithin(y * width, (y - 1) * width, y * width);
    else {
      row = { blocks: 0, hidden: 0 };
      for (let x = 0; x < width; x++) {
        const c0 = Math.min(xs[x], level.columns - 1), c1 = Math.max(c0 + 1, xs[x + 1]);
        if (single && c1 === c0 + 1) { // one weight: no threshold can hide it
          const code = codes[r0 * level.columns + c0];
          if (code) { whole[y * width + x] = palette[code]; row.blocks++; }
          continue;
        }
        const live = maskSum(level, r0, r1, c0, c1, sums);
        if (!live) continue;
        row.blocks++;
        const total = tall * (Math.min(look.columns, c1 * level.wide) - c0 * level.wide);
        if (live < look.threshold * total - 1e-9) row.hidden++;
        else pixel(data, 4 * (y * width + x), sums, total, look.reach);
      }
    }
    last = single ? r0 : -1;
    drawn.blocks += row.blocks;
    drawn.hidden += row.hidden;
  }
  return drawn;
}

/* -- Words ------------------------------------------------------------------------------------------------------- */

const maskCount = (n) => n.toLocaleString("en");
const maskPercent = (part, whole) => (whole ? `${(100 * part / whole).toFixed(1)} %` : "none");

/** What a row or column is: the text of the part of its axis that it lies in, and its place there. */
function maskPart(axis, i) {
  const part = axis.find(([start, length]) => i >= start && i < start + length);
  return part ? `${part[3]} ${i - part[0]}` : "";
}

/** What the chosen task needs of the heads or units along an axis; null where nothing is chosen, or they aren't told apart. */
function maskNeeds(shown, task) {
  const told = shown.content.importance, k = told ? told.tasks.indexOf(task) : -1;
  if (k < 0) return null;
  if (told.axis === undefined) return { task, none: true };
  const down = told.axis === "row", n = down ? shown.rows : shown.columns, stored = down ? shown.stored : (i) => i;
  return { task, down, n, kind: told.kind, whose: told.whose, share: told.share, places: told.n, found: told.inside[k], most: told.most[k] || 1, stored,
           value: (i) => shown.importance[k * n + stored(i)], inside: (i) => shown.circuits[k * n + stored(i)] > 0 };
}

/** A head's or unit's importance in words. */
const maskNeedTold = (needs, i) => `; importance ${needs.value(i) < 0 ? "−" : "+"}${Math.abs(needs.value(i)).toPrecision(2)} nats`
  + (needs.inside(i) ? ", in the circuit" : "");

/** A token in words: its text, and how often it occurs. */
function maskToken(tokens, i) {
  const text = tokens.texts ? `: ${JSON.stringify(tokens.texts[i])}` : "";
  return `token ${i}${text}, seen ${maskCount(tokens.counts[i])} times${tokens.where ? ` in ${tokens.where}` : ""}`;
}

/** A weight in words; `row` is where it is shown. */
function maskTold(shown, row, column) {
  const i = row * shown.columns + column, sign = shown.signs[i], at = shown.stored(row);
  const needed = (down, k) => (shown.needs?.value && shown.needs.down === down ? maskNeedTold(shown.needs, k) : "");
  const place = `row ${at} (${shown.tokens ? maskToken(shown.tokens, at) : maskPart(shown.content.row_axis, at)}${needed(true, row)}), `
    + `column ${column} (${maskPart(shown.content.column_axis, column)}${needed(false, column)})`;
  if (!shown.there) return `${place}: ${maskWords[sign]}`;
  const change = shown.codes[i] ? shown.content.words[Object.keys(maskChanges)[shown.codes[i] - 1]] : "in neither";
  return `${place}: ${maskWords[sign]} here, ${maskWords[shown.there[i]]} in ${shown.content.compared}: ${change}`;
}

/** Whole numbers from a to b, both included. */
const maskRange = (a, b) => Array.from({ length: b - a + 1 }, (_, i) => a + i);

/** The rows and columns of a selection: all of its rectangle's, or the lines of a circuit. */
function maskLines({ rows: [r0, r1], columns: [c0, c1], only, down }) {
  return { rows: only && down ? only : maskRange(r0, r1), columns: only && !down ? only : maskRange(c0, c1) };
}

/** Live and positive weights of a selection. */
function maskStatistics(shown, part) {
  const { rows, columns } = maskLines(part);
  let live = 0, positive = 0;
  for (const r of rows) {
    const start = r * shown.columns;
    for (const c of columns) if (shown.signs[start + c]) { live++; if (shown.signs[start + c] > 0) positive++; }
  }
  return { live, positive, density: live / (rows.length * columns.length) };
}

/** A file's name that every system can take. */
const maskFile = (content, ending) =>
  `${content.matrix}-${content.generation_text}`.replace(/[^A-Za-z0-9.-]+/g, "_").slice(0, 100) + ending;

/** Live weights of a selection as lines of text. */
function maskCsv(shown, part) {
  const names = Object.keys(maskChanges).map((k) => shown.content.words?.[k]), lines = [shown.there ? "row,column,sign,compared_sign,change" : "row,column,sign"];
  const { rows, columns } = maskLines(part);
  for (const r of rows) {
    for (const c of columns) {
      const i = r * shown.columns + c;
      if (!shown.codes[i]) continue;
      lines.push(`${shown.stored(r)},${c},${shown.signs[i]}` + (shown.there ? `,${shown.there[i]},${names[shown.codes[i] - 1]}` : ""));
    }
  }
  return lines.join("\n") + "\n";
}

/* -- The parts of the page --------------------------------------------------------------------------------------- */

/** A canvas's 2d context; a browser that gives none is named. */
function maskContext(canvas) {
  const context = canvas.getContext("2d");
  if (!context) throw new Error("This browser gives no 2d canvas (it may be out of memory, or its settings forbid it). "
                                + "Close other pages, or allow canvases for this page.");
  return context;
}

/** Put an image on a canvas, each of its pixels as a square of `grain` px. */
function maskPlace(canvas, image, grain) {
  const context = maskContext(canvas);
  if (grain === 1) return context.putImageData(image, 0, 0);
  const small = make("canvas", { width: image.width, height: image.height });
  maskContext(small).putImageData(image, 0, 0);
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, image.width * grain, image.height * grain);
}

/** The whole of the view's elements. */
function maskParts(host) {
  const canvas = make("canvas", { class: "evonb-mask-data", tabIndex: 0 });
  canvas.setAttribute("role", "application");
  canvas.setAttribute("aria-roledescription", "map of a weight matrix");
  canvas.setAttribute("aria-label", `${host.view.description || host.view.title} Keys: arrows move the cursor, with Shift `
    + "they select, + and - zoom, 0 shows all, Enter picks the weight, Escape ends the selection.");
  const plain = (name) => { const c = make("canvas", { class: name }); c.setAttribute("aria-hidden", "true"); return c; };
  const over = plain("evonb-mask-over"), map = plain("evonb-mask-map");
  const top = plain("evonb-mask-top"), side = plain("evonb-mask-side");
  const right = plain("evonb-mask-right"), bottom = plain("evonb-mask-bottom");
  const tip = make("div", { class: "evonb-tip", hidden: true });
  tip.setAttribute("aria-hidden", "true");
  const stage = make("div", { class: "evonb-mask-stage" }, canvas, over, map, tip);
  const tools = make("div", { class: "evonb-mask-tools", role: "group" });
  tools.setAttribute("aria-label", "Mask");
  const legend = make("div", { class: "evonb-mask-legend" });
  host.root.replaceChildren(make("div", { class: "evonb-mask" }, stage, top, side, right, bottom),
                            make("div", { class: "evonb-mask-bar" }, tools, legend));
  return { canvas, over, map, top, side, right, bottom, tip, stage, tools, legend };
}

/** A button of the mask's own. */
function maskButton(text, name, label, press) {
  const button = make("button", { type: "button", class: "evonb-button", textContent: text, title: label, data: { tool: name } });
  button.setAttribute("aria-label", label);
  button.addEventListener("click", press);
  return button;
}

/** A coloured square with what it stands for. */
function maskSwatch(colour, text, name) {
  const square = make("i");
  square.style.background = `rgb(${colour.join(",")})`;
  return make("span", { class: "evonb-mask-swatch", data: { swatch: name } }, square, text);
}

/** The legend of signs: hue for the net sign, intensity for the share of live weights. */
function maskSignLegend(shown, reach) {
  const canvas = make("canvas", { width: 121, height: 26 }), image = new ImageData(121, 26);
  canvas.setAttribute("aria-hidden", "true");
  for (let y = 0; y < 26; y++) {
    for (let x = 0; x < 121; x++) {
      const hue = x / 60 - 1, share = (26 - y) / 26;
      maskSignPixel(image.data, 4 * (121 * y + x), [(1 - hue) / 2, (1 + hue) / 2], 1 / share, { hues: reach.hues, full: 1, strongest: 1 });
    }
  }
  maskContext(canvas).putImageData(image, 0, 0);
  const pure = reach.strongest < 1 ? `, purest from ${Math.round(100 * reach.strongest)} % net sign` : "";
  const said = reach.full < 1 ? `brightest from ${Math.round(100 * reach.full)} % live${pure}` : "each wire in full colour";
  const ramp = make("span", { class: "evonb-mask-ramp" }, "negative", canvas, "positive");
  return [ramp, make("span", { textContent: said }),
          make("span", { textContent: `${maskCount(shown.live)} of ${maskCount(shown.rows * shown.columns)} live `
                                      + `(${maskPercent(shown.live, shown.rows * shown.columns)})` })];
}

/** The legend of importance: what its hues say, how strong the strongest is, and how much of the circuit lies here. */
function maskNeedLegend(needs, hues) {
  if (needs.none) return [make("span", { textContent: "Importance is of heads and hidden units, which this matrix doesn't tell apart: look at the matrices within blocks." })];
  const canvas = make("canvas", { width: 121, height: 14 }), image = new ImageData(121, 14);
  canvas.setAttribute("aria-hidden", "true");
  for (let i = 0; i < 121 * 14; i++) {
    const t = (i % 121) / 60 - 1;
    image.data.set([...(t < 0 ? hues.hinders : hues.needed), 255 * Math.abs(t)], 4 * i);
  }
  maskContext(canvas).putImageData(image, 0, 0);
  return [make("span", { class: "evonb-mask-ramp", data: { legend: "importance" } }, `hinders ${needs.task}`, canvas, "is needed"),
          make("span", { textContent: `full colour: ${needs.most.toPrecision(2)} nats; ${maskCount(needs.found)} of ${maskCount(needs.places)} ${needs.kind}s `
                                      + `in its circuit, the ${maskPercent(needs.share, 1)} of all heads and units that matter most; ${needs.whose}` })];
}

/** The legend of changes, with their counts. */
function maskChangeLegend(shown) {
  const said = shown.content.words;
  return Object.entries(maskChanges).map(([name, colour], i) =>
    maskSwatch(colour, `${said[name]} ${maskCount(shown.tally[i])}`, name));
}

/** Labels along an axis: the groups that are seen, each with a line over its length. */
function maskRuler(canvas, length, axis, first, scale, down, ink, ratio) {
  const depth = down ? 22 : 20, context = maskContext(canvas);
  canvas.width = Math.round((down ? depth : length) * ratio);
  canvas.height = Math.round((down ? length : depth) * ratio);
  Object.assign(canvas.style, { width: `${down ? depth : length}px`, height: `${down ? length : depth}px` });
  context.scale(ratio, ratio);
  if (down) { context.translate(0, length); context.rotate(-Math.PI / 2); }
  Object.assign(context, { fillStyle: ink, strokeStyle: ink, font: "12px system-ui, sans-serif", textAlign: "center" });
  for (const [start, end, name, axisName] of maskGroups(axis)) {
    const a = Math.max(0, (start - first) * scale), b = Math.min(length, (end - first) * scale);
    if (b - a < 3) continue;
    const middle = down ? length - (a + b) / 2 : (a + b) / 2;
    const range = `${axisName}s ${Math.max(start, Math.floor(first))}–${Math.min(end, Math.ceil(first + length / scale)) - 1}`;
    const text = [`${name}: ${range}`, name].find((t) => context.measureText(t).width < b - a - 8);
    if (text) context.fillText(text, middle, 12);
    context.globalAlpha = 0.6;
    context.fillRect(down ? length - b + 1 : a + 1, 16.5, b - a - 2, 1);
    context.globalAlpha = 1;
  }
}

/** Neighbouring parts of an axis that share a group, as [start, end, group, "row" or "column"]. */
function maskGroups(axis) {
  const groups = [];
  for (const [start, length, group] of axis.parts ?? axis) {
    const last = groups.at(-1);
    if (last && last[2] === group) last[1] = start + length;
    else groups.push([start, start + length, group, axis.name]);
  }
  return groups;
}

/* -- The view ---------------------------------------------------------------------------------------------------- */

/** What a reply holds, decoded; what doesn't belong together is refused. */
function maskRead({ content, arrays }) {
  const { rows, columns } = content, n = rows * columns;
  if (n > maskLimit) {
    throw new Error(`This matrix has ${maskCount(rows)} x ${maskCount(columns)} weights, more than the ${maskCount(maskLimit)} `
                    + "that a page can hold. Look at a part of it in Python.");
  }
  const bytes = arrays.map((a) => new Uint8Array(a)), { signs, live } = maskDecode(bytes[0], bytes[1], n);
  const there = content.compared === undefined ? null : maskDecode(bytes[2], bytes[3], n).signs;
  const tokens = content.tokens === undefined ? null : JSON.parse(asText(arrays[content.tokens]));
  const codes = there ? maskChangeCodes(signs, there) : maskSignCodes(signs), tally = maskTally(codes, there ? 4 : 2);
  const right = live === content.live && (!there || Object.keys(maskChanges).every((k, i) => content.counts[k] === tally[i]));
  if (!right) throw new Error(`The bit planes of ${content.matrix} don't hold what their counts say. Ask again, or report this.`);
  const needed = content.importance?.array; // float32 of each task and line, then whether it is in the task's circuit
  const importance = needed === undefined ? null : new Float32Array(bytes[needed].slice().buffer);
  return { content, rows, columns, signs, there, tokens, codes, tally, importance, circuits: importance && bytes[needed + 1], n: there ? 4 : 2, live,
           density: (there ? tally.reduce((a, b) => a + b) : live) / n };
}

/** Live weights of each row and of each column. */
function maskDegrees(signs, rows, columns) {
  const down = new Int32Array(rows), across = new Int32Array(columns);
  for (let r = 0, i = 0; r < rows; r++) for (let c = 0; c < columns; c++, i++) if (signs[i]) { down[r]++; across[c]++; }
  return { down, across };
}

/** Where each row lies along the direction in which the rows' signs differ most (the first principal component, by power
 *  iteration from a fixed start), so that rows with like wires come together. */
function maskDirection(signs, rows, columns) {
  const means = new Float64Array(columns), score = new Float64Array(rows);
  let along = Float64Array.from({ length: columns }, (_, c) => Math.sin(1 + c * 2.399963));
  for (let r = 0, i = 0; r < rows; r++) for (let c = 0; c < columns; c++, i++) means[c] += signs[i] / rows;
  for (let turn = 0, most = rows * columns > 4e6 ? 6 : 20; turn < most; turn++) {
    const middle = along.reduce((sum, v, c) => sum + v * means[c], 0), next = new Float64Array(columns);
    let total = 0;
    for (let r = 0, i = 0; r < rows; r++, i += columns) {
      let sum = -middle;
      for (let c = 0; c < columns; c++) if (signs[i + c]) sum += signs[i + c] * along[c];
      score[r] = sum;
      total += sum;
      for (let c = 0; c < columns; c++) if (signs[i + c]) next[c] += signs[i + c] * sum;
    }
    for (let c = 0; c < columns; c++) next[c] -= means[c] * total;
    const size = next.reduce((a, v) => Math.max(a, Math.abs(v)), 0) || 1;
    along = next.map((v) => v / size);
  }
  return score;
}

/** The stored rows in the order in which they are shown, or null as they are stored. */
function maskOrder(raw, order) {
  const by = { degree: () => maskDegrees(raw.signs, raw.rows, raw.columns).down, seen: () => raw.tokens?.counts,
               like: () => maskDirection(raw.signs, raw.rows, raw.columns) }[order]?.();
  return by ? Int32Array.from({ length: raw.rows }, (_, i) => i).sort((a, b) => by[b] - by[a] || a - b) : null;
}

/** Rows of a matrix in another order. */
function maskSorted(values, order, columns) {
  const sorted = new values.constructor(values.length);
  order.forEach((from, to) => sorted.set(values.subarray(from * columns, (from + 1) * columns), to * columns));
  return sorted;
}

/** A reply as it is shown: its rows in the wanted order, their degrees, and its levels. */
function maskArrange(raw, order) {
  const rows = maskOrder(raw, order), sorted = (values) => (rows && values ? maskSorted(values, rows, raw.columns) : values);
  const shown = { ...raw, order, signs: sorted(raw.signs), there: sorted(raw.there), codes: sorted(raw.codes),
                  stored: (row) => (rows ? rows[row] : row), sorted: rows };
  shown.degrees = maskDegrees(shown.signs, raw.rows, raw.columns);
  shown.levels = maskLevels(shown.codes, raw.rows, raw.columns, raw.n);
  const names = { degree: "by live weights", seen: "by frequency", like: "by likeness" };
  shown.down = rows ? [[0, raw.rows, `${raw.tokens ? "tokens" : "rows"} ${names[order]}`, ""]] : raw.content.row_axis;
  return shown;
}

/** Where the next token with this text is shown, from a row on: the text itself first, then what holds it; or -1. */
function maskFind({ tokens, rows, stored }, text, from) {
  const wanted = text.trim().toLowerCase(), plain = (row) => tokens.texts[stored(row)].trim().toLowerCase();
  for (const fits of [(t) => t === wanted, (t) => t.includes(wanted)]) {
    for (let k = 1; k <= rows; k++) if (fits(plain((from + k) % rows))) return (from + k) % rows;
  }
  return -1;
}

/** Live weights of what is seen, row by row or column by column, as bars along an edge; the line is their mean. */
function maskMargin(canvas, degrees, length, first, scale, down, colours, ratio) {
  const depth = 24, context = maskContext(canvas), most = degrees.reduce((a, b) => Math.max(a, b), 1), n = degrees.length;
  canvas.width = Math.round((down ? depth : length) * ratio);
  canvas.height = Math.round((down ? length : depth) * ratio);
  Object.assign(canvas.style, { width: `${down ? depth : length}px`, height: `${down ? length : depth}px` });
  canvas.title = `Live weights of each ${down ? "row" : "column"}: at most ${maskCount(most)}; the line is the mean`;
  context.scale(ratio, ratio);
  context.fillStyle = colours.soft;
  context.globalAlpha = 0.6;
  const bar = (at, size) => (down ? context.fillRect(2, at, size, 1) : context.fillRect(at, 2, 1, size));
  for (let p = 0; p < length; p++) {
    const a = Math.min(n - 1, Math.floor(first + p / scale)), b = Math.min(n, Math.max(a + 1, Math.floor(first + (p + 1) / scale)));
    let sum = 0;
    for (let i = a; i < b; i++) sum += degrees[i];
    bar(p, (sum / (b - a) / most) * (depth - 4));
  }
  const mean = 2 + (degrees.reduce((a, b) => a + b, 0) / n / most) * (depth - 4);
  context.fillStyle = colours.text;
  context.globalAlpha = 1;
  if (down) context.fillRect(mean, 0, 1, length); else context.fillRect(0, mean, length, 1);
}

/** What is seen: zoom, and the row and column at the upper left; sizes in CSS px. */
function maskSight() {
  return {
    zoom: 0, left: 0, top: 0, width: 300, height: 300, ratio: 1, scaleX: 1, scaleY: 1,
    /** Settle scales for the size, and keep the mask in sight. */
    settle(shown) {
      this.fitX = this.width / shown.columns;
      this.fitY = this.height / shown.rows;
      this.zoom = Math.min(1, Math.max(0, this.zoom));
      this.scaleX = maskScale(this.fitX, maskCell, this.zoom);
      this.scaleY = maskScale(this.fitY, maskCell, this.zoom);
      this.left = Math.max(0, Math.min(this.left, shown.columns - this.width / this.scaleX));
      this.top = Math.max(0, Math.min(this.top, shown.rows - this.height / this.scaleY));
    },
    /** Zoom while the weight at (x, y) px stays where it is. */
    zoomTo(shown, zoom, x, y) {
      const column = this.left + x / this.scaleX, row = this.top + y / this.scaleY;
      this.zoom = Math.min(1, Math.max(0, zoom));
      this.left = column - x / maskScale(this.fitX, maskCell, this.zoom);
      this.top = row - y / maskScale(this.fitY, maskCell, this.zoom);
      this.settle(shown);
    },
    cell(shown, x, y) {
      return { row: Math.max(0, Math.min(shown.rows - 1, Math.floor(this.top + y / this.scaleY))),
               column: Math.max(0, Math.min(shown.columns - 1, Math.floor(this.left + x / this.scaleX))) };
    },
  };
}

/** Draw lines, cursor and selection over the mask. */
function maskOverlay(canvas, shown, sight, state, ink) {
  const context = maskContext(canvas), { ratio, scaleX, scaleY, width, height } = sight;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  Object.assign(canvas.style, { width: `${width}px`, height: `${height}px` });
  context.scale(ratio, ratio);
  const toX = (c) => (c - sight.left) * scaleX, toY = (r) => (r - sight.top) * scaleY;
  if (shown.needs?.value) maskTint(context, shown.needs, sight, ink.needed);
  context.fillStyle = ink.page;
  if (Math.min(scaleX, scaleY) >= 7) {
    const first = (at) => Math.ceil(at * ratio - 1e-6) / ratio, thin = 1 / ratio; // the first pixel of a row or column
    for (let c = Math.ceil(sight.left); toX(c) < width; c++) context.fillRect(first(toX(c)), 0, thin, height);
    for (let r = Math.ceil(sight.top); toY(r) < height; r++) context.fillRect(0, first(toY(r)), width, thin);
  }
  context.fillStyle = ink.text;
  maskSeams(context, shown, sight, toX, toY);
  maskHeads(context, shown, sight, toX, toY, ink);
  if (state.selection?.only) maskVeil(context, state.selection, shown, toX, toY, ink);
  else if (state.selection) maskFrame(context, state.selection, toX, toY, ink, true);
  if (state.cursor) {
    const { row, column } = state.cursor;
    maskFrame(context, { rows: [row, row], columns: [column, column] }, toX, toY, ink, false);
  }
}

/** Let a circuit's lines stand out: all others fade. */
function maskVeil(context, { only, down }, shown, toX, toY, ink) {
  const end = down ? shown.rows : shown.columns, at = down ? toY : toX;
  context.globalAlpha = 0.8;
  context.fillStyle = ink.page;
  let from = 0; // the first line that isn't dealt with
  for (const i of [...only, end]) {
    const a = at(from), size = at(i) - a;
    if (size > 0 && down) context.fillRect(0, a, toX(shown.columns), size);
    else if (size > 0) context.fillRect(a, 0, size, toY(shown.rows));
    from = i + 1;
  }
  context.globalAlpha = 1;
}

/** Colour over the lines of heads or units: the strongest that a pixel covers, faint over the mask and full at its edge. */
function maskTint(context, needs, sight, hues) {
  const { down } = needs, scale = down ? sight.scaleY : sight.scaleX, first = down ? sight.top : sight.left;
  const length = down ? sight.height : sight.width, across = down ? sight.width : sight.height, edge = 7;
  const fill = (at, from, size, depth) => (down ? context.fillRect(from, at, depth, size) : context.fillRect(at, from, size, depth));
  for (let p = 0; p < length; p++) {
    const a = Math.min(needs.n - 1, Math.floor(first + p / scale)), b = Math.min(needs.n, Math.max(a + 1, Math.floor(first + (p + 1) / scale)));
    let value = 0;
    for (let i = a; i < b; i++) if (Math.abs(needs.value(i)) > Math.abs(value)) value = needs.value(i);
    context.fillStyle = `rgb(${(value < 0 ? hues.hinders : hues.needed).join(",")})`;
    const strength = Math.min(1, Math.abs(value) / needs.most);
    context.globalAlpha = 0.55 * strength;
    fill(p, edge, 1, across - edge);
    context.globalAlpha = strength;
    fill(p, 0, 1, edge);
  }
  context.globalAlpha = 1;
}

/** Thin lines where the parts of an axis meet: strong between groups, faint between heads. */
function maskSeams(context, shown, sight, toX, toY) {
  const { down, content: { column_axis: across } } = shown;
  const seam = (axis, scale, draw) => axis.forEach(([start, length, group], i) => {
    if (!i) return;
    const between = axis[i - 1][2] !== group;
    context.globalAlpha = between ? 0.55 : 0.22;
    if (length * scale >= (between ? 8 : 20)) draw(start);
  });
  seam(down, sight.scaleY, (r) => context.fillRect(0, toY(r) - 0.5, sight.width, 1));
  seam(across, sight.scaleX, (c) => context.fillRect(toX(c) - 0.5, 0, 1, sight.height));
  context.globalAlpha = 1;
}

/** The names of heads where they begin, as far as there is room. */
function maskHeads(context, shown, sight, toX, toY, ink) {
  Object.assign(context, { font: "600 11px system-ui, sans-serif", textAlign: "left", lineWidth: 3, strokeStyle: ink.page, fillStyle: ink.text, lineJoin: "round" });
  const name = (axis, scale, room, place) => axis.forEach(([start, length, , text]) => {
    const head = /^head \d+/.exec(text)?.[0];
    if (!head || length * scale < room) return;
    const [x, y] = place(start);
    context.strokeText(head, x, y);
    context.fillText(head, x, y);
  });
  name(shown.down, sight.scaleY, 16, (r) => [4, Math.max(12, toY(r) + 12)]);
  name(shown.content.column_axis, sight.scaleX, 48, (c) => [Math.max(4, toX(c) + 4), 12]);
}

/** A frame around rows and columns, both ends included, at least 5 px wide. */
function maskFrame(context, { rows, columns }, toX, toY, ink, filled) {
  let x = toX(columns[0]), y = toY(rows[0]), w = toX(columns[1] + 1) - x, h = toY(rows[1] + 1) - y;
  if (w < 5) { x -= (5 - w) / 2; w = 5; }
  if (h < 5) { y -= (5 - h) / 2; h = 5; }
  if (filled) { context.globalAlpha = 0.12; context.fillStyle = ink.text; context.fillRect(x, y, w, h); context.globalAlpha = 1; }
  for (const [colour, wide] of [[ink.page, 4], [ink.text, 1.6]]) {
    context.strokeStyle = colour;
    context.lineWidth = wide;
    context.strokeRect(x, y, w, h);
  }
}

/** The small picture of the whole mask, with a frame around what is seen. */
function maskMinimap(canvas, shown, sight, look, ink) {
  canvas.hidden = sight.zoom < 0.02 || sight.width < 300;
  if (canvas.hidden) return;
  const width = 132, height = Math.round(Math.min(120, Math.max(44, 132 * sight.height / sight.width)));
  const fitX = width / shown.columns, fitY = height / shown.rows, context = maskContext(canvas);
  const key = [shown.content.key, shown.order, look.reach.hues === maskHues, look.threshold, width, height].join();
  if (canvas.evonbKey !== key) {
    const levels = maskLevels(shown.codes, shown.rows, shown.columns, shown.n), image = new ImageData(width, height);
    levels.plan(fitX, fitY, maskCell);
    const reach = maskReach(shown.density, 1 / (fitX * fitY), look.reach.hues);
    maskPaint(image, levels.at(0), { left: 0, top: 0, scaleX: fitX, scaleY: fitY }, { ...look, reach });
    Object.assign(canvas, { evonbKey: key, evonbImage: image });
  }
  Object.assign(canvas, { width, height });
  context.putImageData(canvas.evonbImage, 0, 0);
  const columns = [sight.left, sight.left + sight.width / sight.scaleX - 1];
  const rows = [sight.top, sight.top + sight.height / sight.scaleY - 1];
  maskFrame(context, { rows, columns }, (c) => c * fitX, (r) => r * fitY, ink, false);
}

/** The selection as a picture: a weight is at least one pixel. */
async function maskPng(shown, { rows: [r0, r1], columns: [c0, c1] }, page, hues) {
  const height = r1 - r0 + 1, width = c1 - c0 + 1, side = Math.max(width, height);
  if (side > maskSide) throw new Error(`A picture of ${maskCount(width)} x ${maskCount(height)} px is more than a canvas can hold `
                                       + `(${maskCount(maskSide)} px a side). Select a smaller part first.`);
  const size = Math.max(1, Math.floor(512 / side)), image = new ImageData(width * size, height * size);
  const level = { rows: shown.rows, columns: shown.columns, high: 1, wide: 1, codes: shown.codes };
  maskPaint(image, level, { left: c0, top: r0, scaleX: size, scaleY: size },
            { ...shown, threshold: 0, reach: { hues, full: 1, strongest: 1 } });
  const drawn = make("canvas", { width: image.width, height: image.height }), out = make("canvas", { width: image.width, height: image.height });
  maskContext(drawn).putImageData(image, 0, 0);
  Object.assign(maskContext(out), { fillStyle: page }).fillRect(0, 0, out.width, out.height);
  maskContext(out).drawImage(drawn, 0, 0);
  return await new Promise((resolve, reject) =>
    out.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("The browser couldn't make the picture: select a smaller part."))), "image/png"));
}

kinds.mask = (host) => {
  const parts = maskParts(host), { canvas, stage, tip } = parts, sight = maskSight(), { dataset } = canvas;
  const state = { cursor: null, selection: null, selecting: false, anchor: null };
  let raw = null, shown = null, frame = 0, repaint = false;
  const hues = () => (host.dark() ? maskDarkHues : maskHues);

  const ink = () => {
    const css = getComputedStyle(host.root);
    return { text: css.getPropertyValue("--evonb-text").trim() || "#000", page: css.getPropertyValue("--evonb-page").trim() || "#fff",
             soft: css.getPropertyValue("--evonb-soft").trim() || "#555", needed: host.dark() ? maskDarkNeeded : maskNeeded };
  };
  const look = () => {
    const weights = 1 / (sight.scaleX * sight.scaleY * sight.ratio ** 2), grain = maskBlock(shown.density, weights);
    return { n: shown.n, rows: shown.rows, columns: shown.columns, threshold: (host.values().threshold ?? 0) / 100, grain,
             reach: maskReach(shown.density, weights * grain ** 2, hues()) };
  };

  /** Fit the canvas to its column. */
  const measure = () => {
    const width = Math.max(120, Math.floor(stage.clientWidth || host.root.clientWidth - 24 || 600));
    const height = Math.round(width < 560 ? Math.max(220, 0.75 * width) : host.height);
    Object.assign(sight, { width, height, ratio: Math.min(3, globalThis.devicePixelRatio || 1) });
    Object.assign(canvas.style, { width: `${width}px`, height: `${height}px` });
  };

  /** Draw all of it as it is seen now. */
  const paint = () => {
    if (!shown) return;
    const began = performance.now(), colours = ink(), style = look(), { ratio } = sight;
    shown.levels.plan(sight.fitX * ratio, sight.fitY * ratio, maskCell * ratio);
    const width = Math.round(sight.width * ratio), height = Math.round(sight.height * ratio), { grain } = style;
    const image = new ImageData(Math.ceil(width / grain), Math.ceil(height / grain));
    const seen = { left: sight.left, top: sight.top, scaleX: width / sight.width * sight.scaleX / grain,
                   scaleY: height / sight.height * sight.scaleY / grain };
    const level = shown.levels.at(sight.zoom), drawn = maskPaint(image, level, seen, style);
    Object.assign(canvas, { width, height });
    maskPlace(canvas, image, grain);
    lines(colours, style);
    parts.legend.replaceChildren(...(shown.there ? maskChangeLegend(shown) : maskSignLegend(shown, style.reach)),
                                 ...(shown.needs ? maskNeedLegend(shown.needs, colours.needed) : []));
    canvas.style.touchAction = sight.zoom > 0 ? "none" : "pan-y";
    Object.assign(dataset, { zoom: sight.zoom.toFixed(4), left: sight.left, top: sight.top, scaleX: sight.scaleX, scaleY: sight.scaleY,
                             ratio, grain, high: level.high, wide: level.wide, blocks: drawn.blocks, hidden: drawn.hidden, threshold: style.threshold,
                             full: style.reach.full.toFixed(4), paintMs: (performance.now() - began).toFixed(1) });
  };

  /** What lies over and beside the mask. */
  const lines = (colours = ink(), style = look()) => {
    const { down, degrees, content: { column_axis: across } } = shown;
    maskMargin(parts.right, degrees.down, sight.height, sight.top, sight.scaleY, true, colours, sight.ratio);
    maskMargin(parts.bottom, degrees.across, sight.width, sight.left, sight.scaleX, false, colours, sight.ratio);
    maskOverlay(parts.over, shown, sight, state, colours);
    maskRuler(parts.top, sight.width, { parts: across, name: "column" }, sight.left, sight.scaleX, false, colours.soft, sight.ratio);
    maskRuler(parts.side, sight.height, { parts: down, name: "row" }, sight.top, sight.scaleY, true, colours.soft, sight.ratio);
    maskMinimap(parts.map, shown, sight, style, colours);
  };

  /** Draw before the next frame: all of it, or only what lies over it. */
  const soon = (all) => {
    repaint ||= all;
    frame ||= requestAnimationFrame(() => {
      const work = repaint ? paint : lines;
      frame = 0;
      repaint = false;
      if (shown) work();
    });
  };
  const zoomBy = (step, x = sight.width / 2, y = sight.height / 2) => { sight.zoomTo(shown, sight.zoom + step, x, y); };
  const whole = () => ({ rows: [0, shown.rows - 1], columns: [0, shown.columns - 1] });

  /** Point at a weight: say what it is. */
  const point = (cell) => {
    state.cursor = cell;
    if (!cell) return;
    const text = maskTold(shown, cell.row, cell.column);
    Object.assign(dataset, { row: cell.row, column: cell.column, stored: shown.stored(cell.row), sign: shown.signs[cell.row * shown.columns + cell.column], told: text });
    host.say(text);
    return text;
  };

  /** Show the tooltip at (x, y) px of the stage. */
  const showTip = (text, x, y) => {
    tip.hidden = !text;
    if (!text) return;
    tip.textContent = text.replace("), column", "),\ncolumn").replace(/: (?=[^:]*$)/, ":\n");
    const right = x > sight.width / 2;
    Object.assign(tip.style, { left: right ? "auto" : `${x + 14}px`, right: right ? `${sight.width - x + 14}px` : "auto",
                               top: y < sight.height - 90 ? `${y + 14}px` : "auto",
                               bottom: y < sight.height - 90 ? "auto" : `${sight.height - y + 14}px` });
  };

  /** Colour by what the chosen task needs. */
  const need = (task) => {
    if (shown.needs?.task !== task && state.selection?.only) unselect();
    shown.needs = maskNeeds(shown, task);
    circuit.hidden = !shown.needs?.value;
    if (shown.needs?.value) dataset.importance = task; else delete dataset.importance;
  };

  /** Select what lies in the chosen task's circuit. */
  const selectCircuit = () => {
    const { needs, content: { importance } } = shown, only = maskRange(0, needs.n - 1).filter(needs.inside);
    if (!only.length) return host.say(`No ${importance.kind} of this matrix is in the circuit of ${needs.task}.`);
    state.selection = { ...whole(), only, down: needs.down };
    const found = maskStatistics(shown, state.selection), n = only.length * (needs.down ? shown.columns : shown.rows);
    const places = only.map((i) => needs.stored(i)), sum = `${maskCount(found.live)} of ${maskCount(n)} weights live (${(100 * found.density).toFixed(1)} %)`;
    host.say(`The circuit of ${needs.task}: ${maskCount(needs.found)} of ${maskCount(needs.places)} ${needs.kind}s of this matrix, ${sum}, `
             + `${maskCount(found.positive)} of them positive (${maskPercent(found.positive, found.live)}).`);
    Object.assign(dataset, { selection: `circuit:${places.join(",")}`, selectedLive: found.live, selectedPositive: found.positive });
    host.click({ ...identity(), selection: { ...whole(), [needs.down ? "which" : "which_columns"]: places, circuit: needs.task, ...found,
                                             ...(shown.sorted && !needs.down ? { which: Array.from(shown.sorted) } : {}) } });
    lines();
  };

  /** Select the weights between two corners, and say what is in them. */
  const select = (a, b, done) => {
    const sorted = (p, q) => [Math.min(p, q), Math.max(p, q)];
    state.selection = { rows: sorted(a.row, b.row), columns: sorted(a.column, b.column) };
    if (!done) return;
    const { rows: [r0, r1], columns: [c0, c1] } = state.selection, found = maskStatistics(shown, state.selection);
    host.say(`Selected rows ${r0} to ${r1}${shown.sorted ? " as they are sorted" : ""}, columns ${c0} to ${c1}: ${maskCount(found.live)} of `
             + `${maskCount((r1 - r0 + 1) * (c1 - c0 + 1))} weights live (${(100 * found.density).toFixed(1)} %), `
             + `${maskCount(found.positive)} of them positive (${maskPercent(found.positive, found.live)}).`);
    Object.assign(dataset, { selection: `${r0}:${r1},${c0}:${c1}`, selectedLive: found.live, selectedPositive: found.positive });
    const which = shown.sorted ? { which: Array.from(shown.sorted.subarray(r0, r1 + 1)) } : {}; // the rows as they are stored
    host.click({ ...identity(), selection: { rows: [r0, r1], columns: [c0, c1], ...which, ...found } });
  };
  const unselect = () => { state.selection = state.anchor = null; delete dataset.selection; };

  const identity = () => ({ matrix: shown.content.matrix, generation: shown.content.generation });
  const pick = ({ row, column }) =>
    host.click({ row: shown.stored(row), column, sign: shown.signs[row * shown.columns + column], ...identity() });

  const save = async (kind) => {
    const part = state.selection ?? whole();
    try {
      if (kind === "png") return host.save(await maskPng(shown, part, ink().page, hues()), maskFile(shown.content, ".png"));
      const { live } = maskStatistics(shown, part);
      if (live > 4e6) throw new Error(`${maskCount(live)} live weights are too many lines for a CSV: select a smaller part first.`);
      host.save(new Blob([maskCsv(shown, part)], { type: "text/csv" }), maskFile(shown.content, ".csv"));
    } catch (error) { host.say(error.message); }
  };

  /** A button that works on what is shown. */
  const tool = (text, name, label, press) => parts.tools.append(maskButton(text, name, label, () => { if (shown) press(); }));
  tool("+", "in", "Zoom in", () => { zoomBy(0.125); paint(); });
  tool("−", "out", "Zoom out", () => { zoomBy(-0.125); paint(); });
  tool("All", "all", "Show all of the matrix", () => { sight.zoom = 0; sight.settle(shown); paint(); });
  tool("Select", "select", "Select by dragging (also: drag with Shift, or Shift and the arrow keys)", () => {
    state.selecting = !state.selecting;
    parts.tools.querySelector("[data-tool=select]").setAttribute("aria-pressed", state.selecting);
    if (!state.selecting) { unselect(); lines(); }
  });
  tool("Circuit", "circuit", "Select what lies in the circuit of the task that colours it", selectCircuit);
  const circuit = parts.tools.querySelector("[data-tool=circuit]");
  circuit.hidden = true;
  tool("PNG", "png", "Save the selection, or all, as a PNG picture", () => save("png"));
  tool("CSV", "csv", "Save the live weights of the selection, or of all, as CSV", () => save("csv"));
  parts.tools.querySelector("[data-tool=select]").setAttribute("aria-pressed", "false");
  const search = maskSearch((text) => {
    const row = maskFind(shown, text, state.cursor?.row ?? -1);
    if (row < 0) return host.say(`No token holds ${JSON.stringify(text.trim())}.`);
    const column = state.cursor?.column ?? 0;
    sight.zoomTo(shown, Math.max(sight.zoom, 0.6), 0, 0);
    sight.top = row - sight.height / sight.scaleY / 2;
    sight.settle(shown);
    point({ row, column });
    paint();
  });
  parts.tools.append(search);

  maskPointers(canvas, {
    ready: () => shown, sight, state, select, unselect, point, pick, showTip, zoomBy,
    later: () => soon(true), laterLines: () => soon(false), now: paint,
  });
  maskKeys(canvas, { ready: () => shown, sight, state, select, unselect, point, pick, showTip, zoomBy, now: paint });

  return {
    async draw(reply, values) {
      const began = performance.now();
      raw = maskRead(reply);
      const fresh = maskArrange(raw, values?.order), { content } = fresh;
      const alike = shown && shown.rows === fresh.rows && shown.columns === fresh.columns && shown.content.matrix === content.matrix;
      dataset.decodeMs = (performance.now() - began).toFixed(1);
      shown = fresh;
      measure();
      if (!alike) { sight.zoom = 0; state.cursor = null; unselect(); }
      need(values?.importance);
      search.hidden = !shown.tokens?.texts;
      sight.settle(shown);
      showTip("");
      for (const name of ["kept", "born", "died", "flipped"]) delete dataset[name];
      Object.assign(dataset, { rows: fresh.rows, columns: fresh.columns, live: fresh.live,
                               positive: maskStatistics(fresh, whole()).positive,
                               mode: fresh.there ? "difference" : "mask", generation: content.generation_text, matrix: content.matrix });
      if (fresh.there) Object.keys(maskChanges).forEach((k, i) => { dataset[k] = fresh.tally[i]; });
      if (state.cursor) point(state.cursor);
      else host.say(content.told);
      paint();
    },
    restyle(values) {
      if (shown && (values?.order ?? shown.order) !== shown.order) {
        shown = maskArrange(raw, values.order);
        state.cursor = null;
        unselect();
        need(values.importance);
        host.say(values.order === "seen" && !shown.sorted ? "Only tokens have a frequency: rows are shown as they are stored." : shown.content.told);
      }
      if (shown && shown.needs?.task !== values?.importance) {
        need(values?.importance);
        if (shown.needs?.none) host.say("Importance is of heads and hidden units, which this matrix doesn't tell apart.");
      }
      paint();
    },
    resize() { const before = sight.width; measure(); if (shown && before !== sight.width) { sight.settle(shown); paint(); } },
    destroy() { cancelAnimationFrame(frame); shown = null; },
  };
};

/** A field in which a token is looked for: Enter goes to the next one. */
function maskSearch(find) {
  const field = make("input", { type: "search", class: "evonb-mask-search", placeholder: "Find a token", hidden: true });
  field.setAttribute("aria-label", "Find a token: Enter goes to the next one");
  field.addEventListener("keydown", (event) => {
    event.stopPropagation(); // letters are no commands here
    if (event.key !== "Enter") return;
    event.preventDefault();
    if (field.value.trim()) find(field.value);
  });
  return field;
}

/** Mouse, pen and fingers: hover, drag, select, click, wheel, pinch. */
function maskPointers(canvas, on) {
  const { sight, state } = on, down = new Map();
  let from = null, spread = 0;
  const place = (event) => { const box = canvas.getBoundingClientRect(); return { x: event.clientX - box.left, y: event.clientY - box.top }; };
  const cellAt = ({ x, y }) => sight.cell(on.ready(), x, y);
  const apart = () => { const [a, b] = [...down.values()]; return Math.hypot(a.x - b.x, a.y - b.y); };
  canvas.addEventListener("pointerdown", (event) => {
    if (!on.ready() || event.button) return;
    const at = place(event);
    canvas.setPointerCapture(event.pointerId);
    down.set(event.pointerId, at);
    if (down.size === 2) { spread = apart(); from = null; return; }
    const selecting = event.shiftKey || state.selecting;
    from = { ...at, left: sight.left, top: sight.top, cell: cellAt(at), selecting, moved: false };
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!on.ready()) return;
    const at = place(event);
    if (down.has(event.pointerId)) down.set(event.pointerId, at);
    if (down.size === 2) {
      const now = apart(), [a, b] = [...down.values()];
      on.zoomBy(Math.log(now / spread) / 4, (a.x + b.x) / 2, (a.y + b.y) / 2);
      spread = now;
      return on.later();
    }
    if (from && Math.hypot(at.x - from.x, at.y - from.y) > 4) from.moved = true;
    if (from?.moved && from.selecting) { on.select(from.cell, cellAt(at), false); return on.laterLines(); }
    if (from?.moved) {
      canvas.classList.add("evonb-mask-dragged");
      Object.assign(sight, { left: from.left - (at.x - from.x) / sight.scaleX, top: from.top - (at.y - from.y) / sight.scaleY });
      sight.settle(on.ready());
      on.showTip("");
      return on.later();
    }
    on.showTip(on.point(cellAt(at)), at.x, at.y);
    on.laterLines();
  });
  const up = (event) => {
    down.delete(event.pointerId);
    canvas.classList.remove("evonb-mask-dragged");
    if (!from || !on.ready()) return;
    const cell = cellAt(place(event));
    if (from.moved && from.selecting) on.select(from.cell, cell, true);
    else if (!from.moved && event.type === "pointerup") { on.point(cell); on.pick(cell); }
    from = null;
    on.laterLines();
  };
  canvas.addEventListener("pointerup", up);
  canvas.addEventListener("pointercancel", up);
  canvas.addEventListener("pointerleave", () => on.showTip(""));
  canvas.addEventListener("dblclick", (event) => {
    if (!on.ready()) return;
    const { x, y } = place(event);
    on.zoomBy(0.25, x, y);
    on.now();
  });
  canvas.addEventListener("wheel", (event) => {
    const focused = canvas.getRootNode().activeElement === canvas;
    if (!on.ready() || !(event.ctrlKey || event.metaKey || focused)) return;
    event.preventDefault();
    const { x, y } = place(event), lines = event.deltaMode ? 16 : 1;
    on.zoomBy(-event.deltaY * lines / 1200, x, y);
    on.later();
  }, { passive: false });
}

/** The keyboard: a cursor that the sight follows, a selection, zoom, and Enter as a click. */
function maskKeys(canvas, on) {
  const { sight, state } = on, moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  const start = () => state.cursor ?? sight.cell(on.ready(), sight.width / 2, sight.height / 2);
  const limit = (value, size) => Math.max(0, Math.min(size - 1, value));
  /** Bring the cursor back into sight. */
  const follow = ({ row, column }) => {
    const wide = sight.width / sight.scaleX, high = sight.height / sight.scaleY;
    if (column < sight.left) sight.left = column - wide / 6;
    if (column + 1 > sight.left + wide) sight.left = column + 1 - 5 * wide / 6;
    if (row < sight.top) sight.top = row - high / 6;
    if (row + 1 > sight.top + high) sight.top = row + 1 - 5 * high / 6;
    sight.settle(on.ready());
  };
  const move = ([dy, dx], selecting) => {
    const shown = on.ready(), before = start(), fine = (scale) => Math.max(1, Math.round(6 / scale));
    const cell = { row: limit(before.row + dy * fine(sight.scaleY), shown.rows),
                   column: limit(before.column + dx * fine(sight.scaleX), shown.columns) };
    follow(cell);
    on.point(cell);
    if (!selecting) return;
    state.anchor ??= before;
    on.select(state.anchor, cell, true);
  };
  const zoom = (step) => {
    const { row, column } = start();
    on.zoomBy(step, (column + 0.5 - sight.left) * sight.scaleX, (row + 0.5 - sight.top) * sight.scaleY);
  };
  canvas.addEventListener("keydown", (event) => {
    if (!on.ready() || event.ctrlKey || event.metaKey || event.altKey) return;
    if (!event.shiftKey) state.anchor = null;
    if (moves[event.key]) move(moves[event.key], event.shiftKey);
    else if (event.key === "+" || event.key === "=") zoom(0.125);
    else if (event.key === "-") zoom(-0.125);
    else if (event.key === "0" || event.key === "Home") { sight.zoom = 0; sight.settle(on.ready()); }
    else if (event.key === "Enter" || event.key === " ") { const cell = start(); on.point(cell); on.pick(cell); }
    else if (event.key === "Escape") on.unselect();
    else return;
    event.preventDefault();
    event.stopPropagation();
    on.showTip("");
    on.now();
  });
}
