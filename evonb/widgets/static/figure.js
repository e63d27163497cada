/* The one place where evonb's pages draw a plotly figure: explorers, reports and the site. */

/** What holds for every figure: its data stay in the page, so plotly's button that uploads them isn't there. */
const figureConfig = { displaylogo: false, showSendToCloud: false, plotlyServerURL: "" };

/** Draw a figure into `div`, or draw it again; `config` adds to what holds for all and can't change it. */
function drawPlotly(div, { data, layout, frames }, config = {}) {
  return globalThis.Plotly.react(div, { data, layout, frames, config: { ...config, ...figureConfig } });
}
