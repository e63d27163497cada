/* A sentence token by token: surprisal as shading, attention where a token is pointed at, and a small map of each head. */

/** Attention of a layer (from 1) and head (from 1, or "mean") as a function of two tokens, 0 to 1. */
function tokensWeights({ content, arrays }, layer, head) {
  const n = content.tokens.length, heads = content.heads, bytes = new Uint8Array(arrays[0]);
  const at = (h, i, j) => bytes[(((layer - 1) * heads + h) * n + i) * n + j] / 255;
  if (head !== "mean") return (i, j) => at(head - 1, i, j);
  return (i, j) => { let sum = 0; for (let h = 0; h < heads; h++) sum += at(h, i, j); return sum / heads; };
}

const tokensInk = { surprisal: "213, 94, 0", attention: "0, 114, 178" };
const tokensBits = (bits) => bits === null ? "unknown" : `${bits.toFixed(1)} bits`;
const tokensShare = (p) => `${p < 0.01 ? "<1" : Math.round(100 * p)} %`;
const tokensName = (piece) => piece.trim() || (piece ? "␣" : "·");

/** What is said of a token: surprisal, its word's, and what was expected in its place. */
function tokensAbout(token, begin) {
  if (begin) return `${tokensName(token.piece)}: stands before the text`;
  const whole = token.whole !== null && token.bits !== null && token.whole - token.bits > 0.05 ? ` (its word ${tokensBits(token.whole)})` : "";
  const instead = token.expected.map(([text, p]) => `“${tokensName(text)}” ${tokensShare(p)}`).join(", ");
  return `“${tokensName(token.piece)}”: ${tokensBits(token.bits)}${whole}${instead ? `; expected ${instead}` : ""}`;
}

kinds.tokens = (host) => {
  const box = make("div", { class: "evonb-tokens", role: "group" }), key = make("div", { class: "evonb-tokens-key" });
  host.root.append(box, key);
  let reply, spans = [], at = 0, kept = -1, weights = null;
  const tokens = () => reply.content.tokens;

  /** Shade by surprisal, or, where a token is looked at, by what it attends to. */
  const shade = (looking) => {
    const { full } = host.values(), n = tokens().length;
    const row = looking >= 0 && weights ? Array.from({ length: looking + 1 }, (_, j) => weights(looking, j)) : [];
    const most = Math.max(...row.slice(reply.content.begin), 0.02);
    spans.forEach((span, i) => {
      const seen = row.length > 0, share = seen ? (i < row.length ? row[i] : 0) : null, { bits } = tokens()[i];
      const strength = seen ? Math.min(1, share / most) : Math.min(1, (bits ?? 0) / full);
      span.style.background = strength > 0.01 ? `rgba(${seen ? tokensInk.attention : tokensInk.surprisal}, ${(0.72 * strength).toFixed(3)})` : "";
      span.dataset.share = seen ? share.toFixed(4) : "";
      span.classList.toggle("evonb-token-looking", i === looking);
      span.setAttribute("aria-pressed", i === kept);
    });
    box.dataset.looking = looking;
    say(looking, row);
    legend(row.length > 0, most, full);
  };
  const say = (looking, row) => {
    const { layer, head } = host.values(), { layers, heads, begin } = reply.content;
    const about = looking < 0 ? "" : `${tokensAbout(tokens()[looking], looking < begin)}. `;
    if (!layers) return host.say(`${about}This model has no attention; the shading is its surprisal.`);
    if (layer > layers) return host.say(`${about}There is no layer ${layer}: this model has ${layers}.`);
    if (head > heads) return host.say(`${about}There is no head ${head}: this model has ${heads}.`);
    const where = `layer ${layer}, ${head === "mean" ? "mean over heads" : `head ${head}`}`;
    if (looking < 0) return host.say(`Point at a token for what was expected there, and for its attention (${where}).`);
    const best = row.map((w, j) => [w, j]).sort(([a], [b]) => b - a).slice(0, 3).filter(([w]) => w >= 0.005);
    const name = (j) => j < begin ? "the beginning" : j === looking ? "itself" : `“${tokensName(tokens()[j].piece)}”`;
    host.say(`${about}It attends to ${best.map(([w, j]) => `${name(j)} ${tokensShare(w)}`).join(", ")} (${where})`);
  };
  const legend = (seen, most, full) => {
    const strip = make("span", { class: "evonb-tokens-strip" }), ink = seen ? tokensInk.attention : tokensInk.surprisal;
    strip.style.background = `linear-gradient(90deg, rgba(${ink}, 0), rgba(${ink}, .72))`;
    const [low, high] = seen ? ["attention 0", tokensShare(most)] : ["surprisal 0", `${full} bits or more`];
    key.replaceChildren(make("span", { textContent: low }), strip, make("span", { textContent: high }));
  };
  const away = () => shade(kept);
  const move = (to) => {
    spans[at].tabIndex = -1;
    at = Math.max(0, Math.min(spans.length - 1, to));
    spans[at].tabIndex = 0;
    spans[at].focus();
  };
  const keep = (i) => { kept = kept === i ? -1 : i; shade(i); host.click({ token: i, piece: tokens()[i].piece }); };
  const press = (event) => {
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: spans.length - 1 }[event.key];
    if (event.key === "Escape") { kept = -1; away(); } else if (to !== undefined) move(to); else return;
    event.preventDefault();
    event.stopPropagation();
  };
  const build = () => {
    spans = tokens().map((token, i) => {
      const first = i < reply.content.begin;
      const span = make("button", { type: "button", class: `evonb-token${first ? " evonb-token-begin" : ""}`, tabIndex: i ? -1 : 0,
                                    textContent: first ? "▸" : tokensName(token.piece), data: { token: i } });
      span.setAttribute("aria-label", tokensAbout(token, first));
      span.addEventListener("pointerenter", () => shade(i));
      span.addEventListener("pointerleave", away);
      span.addEventListener("focus", () => { spans[at].tabIndex = -1; at = i; span.tabIndex = 0; shade(i); });
      span.addEventListener("blur", away);
      span.addEventListener("click", () => keep(i));
      return span;
    });
    at = 0;
    const words = []; // a word's tokens stay in one line
    spans.forEach((span, i) => {
      const { word } = tokens()[i];
      if (i && word >= 0 && word === tokens()[i - 1].word) words.at(-1).append(span);
      else words.push(make("span", { class: "evonb-token-word" }, span));
    });
    box.replaceChildren(...words.flatMap((word) => [word, " "]));
  };
  const open = () => {
    const { layer, head } = host.values(), { layers, heads } = reply.content;
    weights = layers && layer <= layers && !(head > heads) ? tokensWeights(reply, layer, head) : null;
  };
  box.addEventListener("keydown", press);
  return {
    draw(drawn) {
      const same = reply && JSON.stringify(reply.content.tokens.map((t) => t.piece)) === JSON.stringify(drawn.content.tokens.map((t) => t.piece));
      reply = drawn;
      if (!same) kept = -1;
      box.setAttribute("aria-label", `${host.view.description} Arrow keys move along, Enter keeps a token, Escape lets it go.`);
      build();
      open();
      shade(kept);
    },
    restyle() { if (reply) { open(); shade(Math.max(kept, Number(box.dataset.looking))); } },
  };
};

/* -- Every head, small ----------------------------------------------------------------------------------------------- */

/** Paint a head's map: a row looks back at the columns. */
function headsPaint(canvas, n, weights, dark) {
  const image = new ImageData(n, n), from = dark ? [32, 37, 44] : [240, 243, 246], to = dark ? [120, 200, 255] : [0, 82, 140];
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < n; j++) {
      const w = j <= i ? Math.sqrt(weights(i, j)) : 0; // roots, so that what is faint can be seen
      image.data.set([0, 1, 2].map((k) => from[k] + w * (to[k] - from[k])).concat(j <= i ? 255 : 0), 4 * (i * n + j));
    }
  }
  Object.assign(canvas, { width: n, height: n });
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** What a head mostly does, in words: the share of its attention on the token before, the beginning, itself. */
function headsHabit(n, weights) {
  let before = 0, first = 0, own = 0;
  for (let i = 1; i < n; i++) { before += i > 1 ? weights(i, i - 1) : 0; first += weights(i, 0); own += weights(i, i); }
  const told = [["the token before", before / Math.max(1, n - 2)], ["the first token", first / (n - 1)], ["itself", own / (n - 1)]];
  return told.sort(([, a], [, b]) => b - a).slice(0, 2).map(([name, share]) => `${name} ${tokensShare(share)}`).join(", ");
}

kinds.heads = (host) => {
  const grid = make("div", { class: "evonb-heads", role: "group" }), scroll = make("div", { class: "evonb-scroll evonb-heads-scroll" }, grid);
  host.root.append(scroll);
  let reply, cells = [], at = 0;
  const paint = () => cells.forEach(({ canvas, weights }) => headsPaint(canvas, reply.content.tokens.length, weights, host.dark()));
  const mark = () => {
    const { layer, head } = host.values();
    cells.forEach((cell, i) => {
      const chosen = cell.layer === layer && (cell.head === head || head === "mean");
      cell.button.setAttribute("aria-pressed", chosen);
      if (chosen && (head !== "mean" || cell.head === 1)) { cells[at].button.tabIndex = -1; at = i; cell.button.tabIndex = 0; }
    });
    const { layers, heads } = reply.content, lacks = layer > layers ? `layer ${layer}: this model has ${layers}` : head > heads ? `head ${head}: this model has ${heads}` : "";
    if (lacks) return host.say(`There is no ${lacks}.`);
    const one = cells[at], { offsetTop, offsetHeight } = one.button; // in sight, without moving the page
    if (offsetTop < scroll.scrollTop || offsetTop + offsetHeight > scroll.scrollTop + scroll.clientHeight) {
      scroll.scrollTop = offsetTop - scroll.clientHeight / 2;
    }
    host.say(`layer ${layer}${head === "mean" ? ", all heads together; click one" : `, head ${head}: ${one.habit}`}`);
  };
  const build = () => {
    const { layers, heads, tokens } = reply.content, nodes = [make("span")];
    cells = [];
    at = 0;
    for (let h = 1; h <= heads; h++) nodes.push(make("span", { class: "evonb-heads-name", textContent: h }));
    for (let l = 1; l <= layers; l++) {
      nodes.push(make("span", { class: "evonb-heads-name", textContent: `layer ${l}` }));
      for (let h = 1; h <= heads; h++) {
        const canvas = make("canvas"), weights = tokensWeights(reply, l, h), habit = headsHabit(tokens.length, weights);
        const button = make("button", { type: "button", class: "evonb-head", tabIndex: -1, data: { layer: l, head: h } }, canvas);
        button.title = `layer ${l}, head ${h}: ${habit}`;
        button.setAttribute("aria-label", button.title);
        button.addEventListener("click", () => host.click({ layer: l, head: h }));
        cells.push({ layer: l, head: h, canvas, weights, habit, button });
        nodes.push(button);
      }
    }
    grid.style.gridTemplateColumns = `auto repeat(${heads}, minmax(30px, 72px))`;
    grid.setAttribute("aria-label", `${host.view.description} Arrow keys move, Enter chooses.`);
    cells[0].button.tabIndex = 0;
    grid.replaceChildren(...nodes);
  };
  grid.addEventListener("keydown", (event) => {
    const { heads } = reply.content, by = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: heads, ArrowUp: -heads }[event.key];
    const to = by === undefined ? -1 : cells.findIndex((c) => c.button === document.activeElement || c.button === grid.getRootNode().activeElement) + by;
    if (!cells[to]) return;
    event.preventDefault();
    event.stopPropagation();
    cells[at].button.tabIndex = -1;
    at = to;
    cells[at].button.tabIndex = 0;
    cells[at].button.focus();
  });
  return {
    draw(drawn) { reply = drawn; build(); paint(); mark(); },
    restyle() { if (reply) { paint(); mark(); } },
  };
};
