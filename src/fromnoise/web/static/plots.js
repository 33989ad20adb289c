// Curves by uPlot (MIT, static/uplot), in the colors of the page.
import uPlot from "/static/uplot/uPlot.esm.js";

const COLORS = [
  "#4c6ef5", "#e8590c", "#2b8a3e", "#c2255c", "#0b7285", "#862e9c", "#a87400", "#495057",
  "#15aabf", "#f06595", "#74b816", "#7048e8", "#d9480f", "#087f5b", "#8b5e34", "#1864ab",
];

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** The color of the i-th curve. */
export const curveColor = (i) => COLORS[i % COLORS.length];

const plots = new WeakMap();
const FEW = 30;  // points that are shown as such

/** Draw curves over one x axis: series is a list of {label, x, y}. An earlier plot of the element is replaced. */
export function plotCurves(element, { series, title, x = "step", log = false, points = false }) {
  const drawn = series.filter((s) => s.x.length);
  const kind = JSON.stringify([title, x, log, points, drawn.map((s) => [s.label, s.x.length < FEW]), element.clientWidth, color("--soft")]);
  const old = plots.get(element);
  if (old?.kind === kind) {
    old.plot.setData(joinedData(drawn));
    return describe(old.plot, title, drawn);
  }
  old?.plot.destroy();  // which listens to the window
  plots.delete(element);
  element.replaceChildren();
  if (!drawn.length) {
    element.textContent = `${title}: no reports yet`;
    return null;
  }
  const axis = { stroke: color("--soft"), grid: { stroke: color("--line"), width: 0.5 }, ticks: { stroke: color("--line") } };
  const options = {
    title, width: Math.max(280, element.clientWidth), height: 280,
    scales: { x: { time: false }, y: log && drawn.every((s) => s.y.every((v) => v === null || v > 0)) ? { distr: 3 } : {} },
    axes: [{ ...axis, label: x }, { ...axis, size: 62 }],
    series: [{ label: x }, ...drawn.map((s, i) => ({
      label: s.label, stroke: s.color || curveColor(i), width: 1.5, spanGaps: true, dash: s.dash, points: { show: points || s.x.length < FEW },
    }))],
  };
  const plot = new uPlot(options, joinedData(drawn), element);
  plots.set(element, { plot, kind });
  return describe(plot, title, drawn);
}

const joinedData = (series) => uPlot.join(series.map((s) => [s.x, s.y]));

/** Say the last values to screen readers. */
function describe(plot, title, series) {
  const last = series.map((s) => `${s.label} ${s.y.findLast((v) => v !== null)?.toPrecision(3)}`);
  const canvas = plot.root.querySelector("canvas");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `${title}; last values: ${last.join(", ")}`);
  return plot;
}

/** Draw again when the width of the window or its colors change. */
export function onResize(draw) {
  let waiting = null;
  const again = () => { clearTimeout(waiting); waiting = setTimeout(draw, 150); };
  window.addEventListener("resize", again);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
}
