/* The one place where evonb's pages draw a plotly figure, on screen and on paper: explorers, reports and the site. */

/** What holds for every figure: its data stay in the page, so plotly's button that uploads them isn't there. */
const figureConfig = { displaylogo: false, showSendToCloud: false, plotlyServerURL: "" };

/** Draw a figure into `div`, or draw it again; `config` adds to what holds for all and can't change it. */
function drawPlotly(div, { data, layout, frames }, config = {}) {
  div.classList.add("evonb-figure");
  return globalThis.Plotly.react(div, { data, layout, frames, config: { ...config, ...figureConfig } });
}

/* -- Paper: a page is printed at the width that it has on paper, which its script is never told -------------------- */

const paper = { width: 660, ink: "#1f2328" }; // px that fit between the margins of A4 and of Letter

/** Lay out all figures anew for paper, in dark ink; returns how to go back. Nothing here may wait: printing doesn't. */
function figuresOnPaper() {
  const figures = [...document.querySelectorAll(".evonb-figure")].filter((div) => div.layout && div.isConnected);
  const before = figures.map((div) => ({ div, width: div.style.width, color: div.layout.font?.color }));
  for (const { div } of before) {
    div.style.width = `${Math.min(paper.width, div.parentElement.clientWidth || paper.width)}px`;
    globalThis.Plotly.relayout(div, { autosize: true, "font.color": paper.ink });
  }
  return () => before.forEach(({ div, width, color }) => {
    div.style.width = width;
    globalThis.Plotly.relayout(div, { autosize: true, "font.color": color ?? null });
  });
}

/** Before the page is printed call the functions in `steps`, in their order; afterwards what they returned. */
function onPaper(...steps) {
  let undo = [];
  addEventListener("beforeprint", () => { if (!undo.length) undo = steps.map((step) => step()).reverse(); });
  addEventListener("afterprint", () => { undo.forEach((back) => back?.()); undo = []; });
}
