// What charts compute from curves. Pure functions over plain arrays: no page, no store, no Plotly.

// Debiased exponential moving average, as TensorBoard draws it, over points that need not be evenly spaced: a gap of
// twice the usual distance forgets twice as much. Gaps (null) stay gaps and do not pull the average.
export function smoothed(x, y, weight) {
  if (!(weight > 0)) return y;
  const distance = x.length > 1 ? (x[x.length - 1] - x[0]) / (x.length - 1) || 1 : 1;
  let average = 0, mass = 0, before = null;
  return y.map((value, i) => {
    if (value === null) return null;
    const keep = before === null ? weight : weight ** (Math.max(0, x[i] - before) / distance);
    average = keep * average + (1 - keep) * value;
    mass = keep * mass + (1 - keep);
    before = x[i];
    return average / mass;
  });
}

// Two-sided 95 % quantiles of Student's t for 1 to 30 degrees of freedom; beyond, the normal one is within 2 %.
const T95 = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.16, 2.145, 2.131,
  2.12, 2.11, 2.101, 2.093, 2.086, 2.08, 2.074, 2.069, 2.064, 2.06, 2.056, 2.052, 2.048, 2.045, 2.042];

export function studentT95(freedom) {
  return freedom < 1 ? Infinity : T95[freedom - 1] ?? 1.96;
}

// Mean over several curves at each step with a 95 % interval of the mean. Where fewer than two curves have a value
// there is no interval, where none has one there is a gap; `count` says how many there were. `along` holds each curve's abscissae, averaged as well.
export function meanBand(curves, along) {
  const at = new Map();
  curves.forEach((curve, which) => curve.step.forEach((step, i) => {
    if (!at.has(step)) at.set(step, { values: [], x: [], seconds: [] });
    const place = at.get(step);
    if (curve.value[i] !== null) place.values.push(curve.value[i]);
    place.x.push(along[which][i]);
    place.seconds.push(curve.seconds[i]);
  }));
  const steps = [...at.keys()].sort((a, b) => a - b);
  const found = { step: steps, seconds: [], x: [], value: [], low: [], high: [], count: [] };
  for (const step of steps) {
    const { values, x, seconds } = at.get(step);
    const n = values.length, mean = n ? average(values) : null;
    const spread = n > 1 ? Math.sqrt(values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / (n - 1)) : 0;
    const half = n > 1 ? (studentT95(n - 1) * spread) / Math.sqrt(n) : 0;
    found.value.push(mean);
    found.low.push(n > 1 ? mean - half : null);
    found.high.push(n > 1 ? mean + half : null);
    found.x.push(average(x));
    found.seconds.push(average(seconds));
    found.count.push(n);
  }
  return found;
}

function average(values) { return values.reduce((sum, value) => sum + value, 0) / values.length; }

// The first place whose entry is not below `value`, in an array in rising order.
export function placeOf(sorted, value) {
  let low = 0, high = sorted.length;
  while (low < high) { const middle = (low + high) >> 1; if (sorted[middle] < value) low = middle + 1; else high = middle; }
  return low;
}

// The place whose entry is closest to `value`; -1 in an empty array.
export function nearest(sorted, value) {
  if (!sorted.length) return -1;
  const after = placeOf(sorted, value);
  if (after === 0) return 0;
  if (after === sorted.length) return after - 1;
  return value - sorted[after - 1] <= sorted[after] - value ? after - 1 : after;
}

// The value of (x, y) at each of `wanted`, straight between neighbours and level beyond the ends.
export function interpolated(x, y, wanted) {
  const known = x.map((_, i) => i).filter((i) => y[i] !== null);
  const xs = known.map((i) => x[i]), ys = known.map((i) => y[i]);
  if (!xs.length) return wanted.map(() => null);
  return wanted.map((at) => {
    const after = placeOf(xs, at);
    if (after === 0) return ys[0];
    if (after === xs.length) return ys[after - 1];
    const share = (at - xs[after - 1]) / (xs[after] - xs[after - 1]);
    return ys[after - 1] + share * (ys[after] - ys[after - 1]);
  });
}

// The window that a chart shows while it follows the newest points: of the given width, or the last quarter.
export function tailWindow(first, last, width) {
  const whole = Math.max(0, last - first);
  if (whole === 0) return [first - 0.5, last + 0.5];
  return [last - Math.min(whole, width || Math.max(whole / 4, 50)), last];
}

// Comma-separated values as spreadsheets read them. A cell that a spreadsheet would run as a formula is quoted as text.
export function csv(header, rows) {
  const cell = (value) => {
    if (value === null || value === undefined) return "";
    const text = typeof value === "number" ? String(value) : String(value).replace(/^([=+\-@\t\r])/, "'$1");
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return [header, ...rows].map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
}

// Points come in order, except after a resume, which writes the same steps again. A long run also has `low` and `high`,
// the extremes of its buckets. Changes `series`.
export function addPoints(series, more) {
  const names = Object.keys(series);
  let last = series.step[series.step.length - 1] ?? -1;
  const onward = more.step.every((step) => { const later = step > last; last = step; return later; });
  more.step.forEach((step, i) => {
    const place = onward ? series.step.length : placeOf(series.step, step);
    const known = !onward && series.step[place] === step;
    for (const name of names) if (onward) series[name].push(more[name][i]); else series[name].splice(place, known ? 1 : 0, more[name][i]);
  });
  return series;
}
