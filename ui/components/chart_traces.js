// Curves as Plotly traces: bands, the raw line behind the smoothed one, gaps as marks on the axis, stacked areas.

import { live } from "./live.js";
import { view } from "./view.js";
import { smoothed } from "./series_maths.js";
import { plain, shade } from "./plot.js";

const MANY_POINTS = 20000; // beyond it WebGL draws
const DOTTED = 120; // fewer points than this may be marked one by one

// curve: see chart_curves.js, with `ink` its colour as text and `shown` its abscissae in the unit of the axis
export function lineTraces(spec, curve) {
  const { series, data, ink, shown: x, several } = curve;
  const smooth = view.smoothing > 0 && !series.dots && data.step.length > 2;
  const value = smooth ? smoothed(x, data.value, view.smoothing) : data.value;
  const name = several ? `${curve.label}${spec.series.length > 1 ? `, ${series.label.toLowerCase()}` : ""}` : curve.averaged ? `${series.label}, mean` : series.label;
  const unit = spec.unit && spec.unit !== "share" ? ` ${spec.unit}` : "";
  const common = { type: data.step.length > MANY_POINTS ? "scattergl" : "scatter", x, connectgaps: false };
  const traces = [...bands(curve)];
  if (smooth) traces.push({ ...common, y: data.value, mode: "lines", line: { color: ink, width: 1 }, opacity: 0.28, hoverinfo: "skip" });
  const points = series.dots && data.step.length < DOTTED;
  traces.push({
    ...common, y: value, mode: points || data.step.length === 1 ? "lines+markers" : "lines", name: plain(name),
    line: { color: ink, width: series.faint ? 1.1 : 1.7, dash: series.dash }, opacity: series.faint ? 0.55 : 1,
    marker: { size: data.step.length === 1 ? 7 : 4.5, color: ink }, ...hover(curve, data, smooth, unit),
  });
  return [...traces, ...gapMarks(curve, name)];
}

function hover(curve, data, smooth, unit) {
  if (curve.averaged) {
    const half = data.high.map((high, i) => (high === null ? "" : ` ± ${short(high - data.value[i])}`));
    return { text: half.map((words, i) => `${words}${unit} (${data.count[i]} ${data.count[i] === 1 ? "run" : "seeds"})`), hovertemplate: "%{y:.4~g}%{text}" };
  }
  if (smooth) return { text: data.value.map((value) => (value === null ? "" : short(value))), hovertemplate: `%{y:.4~g}${unit} (raw %{text})` };
  if (data.low) return { text: data.low.map((low, i) => (low === null || low === data.high[i] ? "" : ` (${short(low)} to ${short(data.high[i])})`)), hovertemplate: `%{y:.4~g}%{text}${unit}` };
  return { hovertemplate: `%{y:.4~g}${unit}` };
}

function short(value) { return Number(value.toPrecision(3)).toString(); }

// One standard error, the 95 % interval over seeds, or the extremes within each bucket of a long run.
function bands({ series, data, shown: x, ink, run, whole, averaged }) {
  const errors = series.band && whole ? live.series(run.id, series.band) : null;
  if (errors) {
    const at = new Map(errors.step.map((step, i) => [step, errors.value[i]]));
    const half = data.step.map((step) => at.get(step) ?? 0);
    const shift = (sign) => data.value.map((value, i) => (value === null ? null : value + sign * half[i]));
    return area(x, shift(-1), shift(1), ink);
  }
  if (!data.low) return [];
  const level = (side) => data[side].map((value, i) => value ?? (averaged ? data.value[i] : null));
  return area(x, level("low"), level("high"), ink);
}

function area(x, lower, upper, ink) {
  const common = { type: "scatter", mode: "lines", x, line: { width: 0, color: ink }, hoverinfo: "skip", connectgaps: false };
  return [{ ...common, y: lower }, { ...common, y: upper, fill: "tonexty", fillcolor: shade(ink) }];
}

// A value that is no number is a cross on the axis, where it happened: dropped, it would look like a good step.
function gapMarks({ data, shown: x, ink }, name) {
  const gaps = data.value.map((value, i) => (value === null ? i : -1)).filter((i) => i >= 0);
  if (!gaps.length) return [];
  return [{
    type: "scatter", mode: "markers", x: gaps.map((i) => x[i]), y: gaps.map(() => 0.02), yaxis: "y2", cliponaxis: false, name: plain(name),
    marker: { symbol: "x-thin", size: 7, line: { width: 1.8, color: ink } }, hovertemplate: "not a finite number",
  }];
}

// One area per part of a single run; several runs are compared by their totals.
export function stackedTraces(curves) {
  const steps = new Map();
  for (const { run, data, shown } of curves) {
    const mine = steps.get(run.id) || new Map();
    data.step.forEach((step, i) => mine.set(step, shown[i]));
    steps.set(run.id, mine);
  }
  const traces = [], totals = new Map();
  for (const curve of curves) {
    const at = new Map(curve.data.step.map((step, i) => [step, curve.data.value[i]]));
    const order = [...steps.get(curve.run.id).entries()].sort((a, b) => a[0] - b[0]);
    const x = order.map(([, place]) => place), y = order.map(([step]) => at.get(step) ?? 0);
    if (!curve.several) {
      traces.push({ type: "scatter", mode: "lines", stackgroup: "one", x, y, line: { width: 1, color: curve.ink, shape: "hvh" },
        fillcolor: shade(curve.ink, 0.38), name: plain(curve.series.label), hovertemplate: "%{y:.3~g} s" });
    } else if (totals.has(curve.run.id)) {
      const trace = totals.get(curve.run.id);
      trace.y = trace.y.map((value, i) => value + y[i]);
    } else {
      const trace = { type: "scatter", mode: "lines", x, y, line: { width: 1.5, color: curve.ink }, name: plain(curve.label), hovertemplate: "%{y:.3~g} s" };
      totals.set(curve.run.id, trace);
      traces.push(trace);
    }
  }
  return traces;
}
