/* The one place where evonb's pages draw a plotly figure, on screen and on paper: explorers, reports and the site. */

/** What holds for every figure: its data stay in the page, so plotly's button that uploads them isn't there. */
const figureConfig = { displaylogo: false, showSendToCloud: false, plotlyServerURL: "" };

/** The px that a figure's columns of small plots need to be read; 0 where there are one or two. */
function figureRoom(layout) {
  const axes = Object.entries(layout ?? {}).filter(([name, axis]) => /^xaxis\d*$/.test(name) && axis?.domain && !axis.overlaying);
  const columns = new Set(axes.map(([, { domain }]) => domain[0].toFixed(3))).size;
  return columns > 2 ? 190 * columns : 0;
}

/** Draw a figure into `div`, or draw it again; `config` adds to what holds for all and can't change it. */
function drawPlotly(div, { data, layout, frames }, config = {}) {
  div.classList.add("evonb-figure");
  const room = config.staticPlot ? 0 : figureRoom(layout);
  div.style.minWidth = room ? `${room}px` : "";
  if (room && div.parentElement) div.parentElement.style.overflowX = "auto"; // on a narrow screen it is scrolled
  return globalThis.Plotly.react(div, { data, layout, frames, config: { ...config, ...figureConfig } });
}

/* -- A figure and plotly.js that are stored in the page: for notebooks that are read without a kernel ---------------- */

/** Plotly of this page: what is there, or else what is stored in its element `evonb-plotly`. */
async function pagePlotly() {
  if (globalThis.Plotly?.react) return;
  globalThis.evonbPlotly ??= (async () => {
    const stored = document.getElementById("evonb-plotly");
    if (!stored) throw new Error("plotly.js isn't in this page.");
    const bytes = Uint8Array.from(atob(stored.textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    const url = URL.createObjectURL(new Blob([await new Response(stream).text()], { type: "text/javascript" }));
    try { await import(/* webpackIgnore: true */ url); } finally { URL.revokeObjectURL(url); }
    return globalThis.Plotly;
  })();
  await globalThis.evonbPlotly;
}

/** Draw the figure stored in the element `ID-data` into `ID`, as soon as that is seen. */
function drawStored(id) {
  const div = document.getElementById(id), stored = document.getElementById(`${id}-data`);
  if (!div || !stored) return;
  const seen = new IntersectionObserver(async ([entry]) => {
    if (!entry.isIntersecting) return;
    seen.disconnect();
    try { await pagePlotly(); } catch { return; } // the words in it stay
    div.replaceChildren();
    const figure = JSON.parse(stored.textContent);
    figure.layout.width = undefined;
    await drawPlotly(div, figure, { responsive: true });
  }, { rootMargin: "100000px" }); // all but what is hidden
  seen.observe(div);
}

/* -- Paper: a page is printed at the width that it has on paper, which its script is never told -------------------- */

const paper = { width: 660, ink: "#1f2328" }; // px that fit between the margins of A4 and of Letter

/** Lay out all figures anew for paper, in dark ink; returns how to go back. Nothing here may wait: printing doesn't. */
function figuresOnPaper() {
  const figures = [...document.querySelectorAll(".evonb-figure")].filter((div) => div.layout && div.isConnected);
  const before = figures.map((div) => ({ div, width: div.style.width, least: div.style.minWidth, color: div.layout.font?.color }));
  for (const { div } of before) {
    div.style.minWidth = "";
    div.style.width = `${Math.min(paper.width, div.parentElement.clientWidth || paper.width)}px`;
    globalThis.Plotly.relayout(div, { autosize: true, "font.color": paper.ink });
  }
  return () => before.forEach(({ div, width, least, color }) => {
    div.style.width = width;
    div.style.minWidth = least;
    globalThis.Plotly.relayout(div, { autosize: true, "font.color": color ?? null });
  });
}

/** Before the page is printed call the functions in `steps`, in their order; afterwards what they returned. */
function onPaper(...steps) {
  let undo = [];
  addEventListener("beforeprint", () => { if (!undo.length) undo = steps.map((step) => step()).reverse(); });
  addEventListener("afterprint", () => { undo.forEach((back) => back?.()); undo = []; });
}
