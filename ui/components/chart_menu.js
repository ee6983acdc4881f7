// What can be done with one chart: log scale, the numbers behind it as a table, and copies to take away.

import { el, figure } from "./dom.js";
import { view } from "./view.js";
import { csv } from "./series_maths.js";
import { menuButton } from "./menu.js";
import { token } from "./plot.js";

const MOST_ROWS = 200;
const PNG_SCALE = 3; // sharp enough for print

export function chartMenu(chart) {
  const { spec } = chart;
  return menuButton(`More of ${spec.title}`, () => [
    { text: "Log scale", pressed: view.isLog(spec.id), disabled: spec.stacked, key: "l", run: () => toggleLog(spec.id) },
    { text: "Numbers as a table", pressed: !chart.table.node.hidden, key: "t", run: () => chart.table.toggle() },
    null,
    { text: "Download as PNG", run: () => picture(chart, "png") },
    { text: "Download as SVG", run: () => picture(chart, "svg") },
    { text: "Download what is visible as CSV", run: () => save(`${fileName(chart)}.csv`, "text/csv", visibleCsv(chart)) },
    null,
    view.charts.includes(spec.id)
      ? { text: "Take out of my charts", run: () => view.set({ charts: view.charts.filter((id) => id !== spec.id) }) }
      : { text: "Add to my charts", run: () => view.set({ charts: [...view.charts, spec.id] }) },
  ], { symbol: "⋯", class: "bgpo-menu-button dots" });
}

export function toggleLog(id) {
  const zoomY = new Map(view.zoomY);
  zoomY.delete(id); // its ends are of the other scale
  const log = new Set(view.log);
  if (!log.delete(id)) log.add(id);
  view.set({ log, zoomY });
}

// The points of the drawn curves inside the window that is shown.
export function visiblePoints(chart) {
  const axis = chart.plot._fullLayout?.xaxis, scale = chart.unit?.scale || 1;
  const [from, to] = axis ? axis.range.map((end) => end * scale) : [-Infinity, Infinity];
  return (chart.shownCurves || []).map((curve) => ({ curve, places: curve.x.map((_, i) => i).filter((i) => curve.x[i] >= from && curve.x[i] <= to) }));
}

export function visibleCsv(chart) {
  const rows = visiblePoints(chart).flatMap(({ curve, places }) => places.map((i) => [
    curve.runs.map((run) => run.id).join(" "), curve.label, curve.series.metric, curve.data.step[i], curve.data.seconds[i],
    view.axis === "step" || view.axis === "time" ? null : curve.x[i], curve.data.value[i], curve.data.low?.[i], curve.data.high?.[i],
  ]));
  return csv(["run", "name", "metric", "step", "seconds", view.axis === "compute" ? "compute" : "tokens", "value", "low", "high"], rows);
}

function fileName(chart) {
  const runs = [...new Set((chart.shownCurves || []).flatMap((curve) => curve.runs.map((run) => run.id)))];
  return `${chart.spec.id.replace(/[^a-z0-9_]+/gi, "-")}-run-${runs.join("-")}`;
}

async function picture(chart, format) {
  const { clientWidth: width, clientHeight: height } = chart.plot;
  const layout = { ...chart.plot.layout, paper_bgcolor: token(chart.card, "surface"), title: { text: chart.spec.title, font: { size: 14, color: token(chart.card, "text") }, x: 0.02, xanchor: "left", y: 0.98 }, margin: { ...chart.plot.layout.margin, t: 34 },
    showlegend: true, legend: { orientation: "h", y: -0.2, font: { color: token(chart.card, "text") } } };
  const traces = chart.plot.data.map((trace) => ({ ...trace, showlegend: Boolean(trace.name) && trace.yaxis !== "y2" && trace.hoverinfo !== "skip" }));
  await window.Plotly.downloadImage({ data: traces, layout, config: {} }, { format, width: Math.max(width, 640), height: Math.max(height, 320) + 60, scale: format === "png" ? PNG_SCALE : 1, filename: fileName(chart) });
}

export function save(name, type, text) {
  const link = el("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// The numbers of a chart for those who cannot see it, or do not want to guess them: one row per step, one column per curve.
export class DataTable {
  constructor(chart) {
    this.chart = chart;
    this.node = el("div", { class: "numbers", hidden: true, tabindex: "0", role: "region", "aria-label": `Numbers of ${chart.spec.title}` });
  }

  toggle() {
    this.node.hidden = !this.node.hidden;
    this.draw();
    if (!this.node.hidden) this.node.focus({ preventScroll: true });
  }

  draw() {
    if (this.node.hidden) return;
    const found = visiblePoints(this.chart).filter(({ places }) => places.length);
    const steps = [...new Set(found.flatMap(({ curve, places }) => places.map((i) => curve.data.step[i])))].sort((a, b) => a - b);
    const every = Math.ceil(steps.length / MOST_ROWS);
    const shown = steps.filter((_, i) => i % every === 0 || i === steps.length - 1).reverse();
    const at = found.map(({ curve, places }) => new Map(places.map((i) => [curve.data.step[i], curve.data.value[i]])));
    const name = ({ curve }) => (curve.several ? `${curve.label}: ${curve.series.label}` : curve.series.label);
    this.node.replaceChildren(el("table", {},
      el("caption", { text: every > 1 ? `${shown.length} of ${steps.length} steps, newest first; the CSV has them all` : `${steps.length} steps, newest first` }),
      el("thead", {}, el("tr", {}, el("th", { scope: "col", text: this.chart.spec.axis }), ...found.map((one) => el("th", { scope: "col", text: name(one) })))),
      el("tbody", {}, ...shown.map((step) => el("tr", {}, el("th", { scope: "row", text: step }),
        ...at.map((values) => el("td", { text: !values.has(step) ? "" : values.get(step) === null ? "not finite" : figure(values.get(step)) })))))));
  }
}
