/* What evonb's pages do by themselves: draw figures when they come into view, in the page's theme. */

const evonbFigures = new Map(); // name of a stored figure -> {spec, waiting}

/** Called by the stored figures' scripts. */
globalThis.evonbFigure = (name, spec) => {
  const known = evonbFigures.get(name);
  known.spec = spec;
  known.waiting.forEach((go) => go(spec));
};

/** A stored figure, loaded once. */
function figureSpec(name) {
  const known = evonbFigures.get(name);
  if (known?.spec) return Promise.resolve(known.spec);
  return new Promise((resolve, reject) => {
    if (known) { known.waiting.push(resolve); return; }
    evonbFigures.set(name, { waiting: [resolve] });
    const script = document.createElement("script");
    script.src = new URL(`_static/figures/${name}.js`, new URL(document.documentElement.dataset.content_root, location));
    script.onerror = () => reject(new Error(`The figure ${name} isn't in this copy of the site.`));
    document.head.append(script);
  });
}

const isDarkPage = () => document.documentElement.dataset.theme === "dark";

/** A layout in the page's colours. */
function dressed(layout) {
  const color = isDarkPage() ? "#d3d9df" : "#3d454e";
  const template = layout.template ?? {};
  const font = { ...(template.layout?.font ?? {}), ...(layout.font ?? {}), color };
  const lines = { gridcolor: "rgba(128,128,128,0.28)", linecolor: "rgba(128,128,128,0.6)", zerolinecolor: "rgba(128,128,128,0.5)" };
  const axis = (name) => ({ ...(template.layout?.[name] ?? {}), ...lines });
  const dressedTemplate = { ...template, layout: { ...template.layout, xaxis: axis("xaxis"), yaxis: axis("yaxis") } };
  return { ...layout, template: dressedTemplate, font, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: true, width: undefined };
}

/** The same layout for a small picture without words. */
function small(layout, height) {
  const bare = { ...dressed(layout), title: undefined, showlegend: false, height, annotations: [], sliders: [],
                 updatemenus: [], margin: { l: 8, r: 8, t: 8, b: 8 } };
  for (const name of Object.keys({ xaxis: 1, yaxis: 1, ...layout })) {
    if (/^[xy]axis\d*$/.test(name)) {
      bare[name] = { ...(layout[name] ?? {}), title: undefined, showticklabels: false, automargin: false };
    }
    if (/^coloraxis\d*$/.test(name)) bare[name] = { ...layout[name], showscale: false };
  }
  return bare;
}

/** A trace without its colour bar. */
function withoutScale(trace) {
  const marker = trace.marker ? { ...trace.marker, showscale: false } : undefined;
  return { ...trace, showscale: false, ...(marker && { marker }) };
}

/** Draw a figure, or draw it again in another theme. */
async function drawFigure(box) {
  const spec = await figureSpec(box.dataset.figure), thumb = box.classList.contains("evonb-thumb");
  const div = box.querySelector(".evonb-plot") ?? box;
  const copy = structuredClone(spec);
  const layout = thumb ? small(copy.layout ?? {}, box.clientHeight || 190) : dressed(copy.layout ?? {});
  const data = thumb ? copy.data.map(withoutScale) : copy.data;
  const frames = thumb ? undefined : copy.frames;
  await drawPlotly(div, { data, layout, frames }, { responsive: !thumb, staticPlot: thumb });
  box.dataset.drawn = "yes";
}

/** Say in the page what went wrong. */
function drawSafely(box) {
  drawFigure(box).catch((error) => {
    (box.querySelector(".evonb-plot") ?? box).textContent = error.message;
  });
}

/** Boxes that scroll can be reached by keyboard. */
function reachable() {
  for (const box of document.querySelectorAll("div.cell_output, div.cell_output pre, .pst-scrollable-table-container, .evonb-formula, div.highlight > pre")) {
    if (box.scrollWidth > box.clientWidth + 1 && !box.hasAttribute("tabindex")) {
      box.tabIndex = 0;
      if (!box.matches("pre")) { box.setAttribute("role", "region"); box.setAttribute("aria-label", "scrolls sideways"); }
    }
  }
}

/** Start: figures as they come near, all drawn ones again when the theme changes. */
function startPage() {
  const boxes = [...document.querySelectorAll("[data-figure]")];
  const near = new IntersectionObserver((seen) => {
    for (const { isIntersecting, target } of seen) {
      if (isIntersecting) { near.unobserve(target); drawSafely(target); }
    }
  }, { rootMargin: "400px" });
  boxes.forEach((box) => near.observe(box));
  new MutationObserver(() => boxes.filter((b) => b.dataset.drawn).forEach(drawSafely))
    .observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
  reachable();
  new ResizeObserver(reachable).observe(document.body);
}

if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", startPage);
else startPage();
