/* A story word by word, shaded by what is left of its reading times when a model has said what it expects. */

const residualInk = { slower: "213, 94, 0", faster: "0, 114, 178" };
const residualMs = (ms) => Number.isFinite(ms) ? `${ms < 0 ? "−" : "+"}${Math.abs(ms).toFixed(0)} ms` : "not in the regression";

kinds.residuals = (host) => {
  const box = make("div", { class: "evonb-residuals", role: "group", tabIndex: 0 });
  const key = make("div", { class: "evonb-tokens-key" });
  host.root.append(box, key);
  let content, words = [], rows = [], spans = [], at = -1;

  /** What a word is shaded by: ms that are left, or by how much the model is nearer than the baseline. */
  const left = (i, { left: by }) => {
    const [, , base, model] = rows.map((row) => row[i]);
    return by === "base" ? base : by === "gain" ? Math.abs(base) - Math.abs(model) : model;
  };
  const about = (i) => {
    const [time, bits, base, model] = rows.map((row) => row[i]);
    return `${words[i]}: read in ${Number.isFinite(time) ? `${time.toFixed(0)} ms` : "unknown time"}, ` +
           `${Number.isFinite(bits) ? `${bits.toFixed(1)} bits` : "no surprisal"}; the baseline leaves ${residualMs(base)}, the model ${residualMs(model)}`;
  };
  const shade = () => {
    const values = host.values(), full = values.left === "gain" ? content.full / 4 : content.full;
    spans.forEach((span, i) => {
      const ms = left(i, values), known = Number.isFinite(ms), strength = known ? Math.min(1, Math.abs(ms) / full) : 0;
      const ink = (values.left === "gain") === (ms > 0) ? residualInk.faster : residualInk.slower;
      span.style.background = strength > 0.02 ? `rgba(${ink}, ${(0.68 * strength).toFixed(3)})` : "";
      span.classList.toggle("evonb-residual-none", !known);
      span.dataset.left = known ? ms.toFixed(2) : "";
    });
    const strip = (ink) => {
      const node = make("span", { class: "evonb-tokens-strip" });
      node.style.background = `linear-gradient(90deg, rgba(${ink}, ${ink === residualInk.faster ? 0.68 : 0}), rgba(${ink}, ${ink === residualInk.faster ? 0 : 0.68}))`;
      return node;
    };
    const ends = values.left === "gain" ? ["the model is nearer", "the baseline is nearer"] : ["read faster than expected", "slower"];
    key.replaceChildren(make("span", { textContent: `${ends[0]}, ${full.toFixed(0)} ms` }), strip(residualInk.faster),
                        strip(residualInk.slower), make("span", { textContent: `${ends[1]}, ${full.toFixed(0)} ms` }));
    box.dataset.by = values.left;
    say();
  };
  const say = () => host.say(at >= 0 ? about(at) : `${content.story}, ${content.model}: point at a word, or move along with the arrow keys`);
  const look = (i) => {
    spans[at]?.classList.remove("evonb-token-looking");
    at = Math.max(0, Math.min(spans.length - 1, i));
    spans[at].classList.add("evonb-token-looking");
    say();
  };
  box.addEventListener("pointerover", (event) => { if (event.target.dataset.word) look(Number(event.target.dataset.word)); });
  box.addEventListener("keydown", (event) => {
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: spans.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    look(to);
    spans[at].scrollIntoView({ block: "nearest" });
  });
  return {
    draw(reply) {
      content = reply.content;
      words = JSON.parse(asText(reply.arrays[0]));
      const n = words.length, numbers = new Float32Array(reply.arrays[1]);
      rows = [0, 1, 2, 3].map((k) => numbers.subarray(k * n, (k + 1) * n));
      at = -1;
      spans = words.map((word, i) => make("span", { textContent: word, data: { word: i } }));
      box.replaceChildren(...spans.flatMap((span) => [span, " "]));
      box.setAttribute("aria-label", `${host.view.description} Arrow keys move along; what is said of a word stands below.`);
      shade();
    },
    restyle() { if (content) shade(); },
  };
};
