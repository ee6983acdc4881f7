// Runs as points of a sweep: where each stands on a knob's axis, what it reached. Pure functions.

import { studentT95 } from "./series_maths.js";

const LOG_FROM = 8; // a knob that spans more than this factor is drawn on a log axis

// The axis of one knob over some values: numbers as they are (or their logarithm), anything else in the order of its words.
export function axisOf(values) {
  const numbers = values.every((value) => typeof value === "number");
  if (!numbers) {
    const words = [...new Set(values.map(String))].sort((a, b) => a.localeCompare(b, undefined, { numeric: true }));
    return { kind: "words", words, at: (value) => words.indexOf(String(value)), ticks: words.map((_, i) => i), labels: words };
  }
  const distinct = [...new Set(values)].sort((a, b) => a - b);
  const log = distinct[0] > 0 && distinct[distinct.length - 1] / distinct[0] > LOG_FROM;
  const at = (value) => (log ? Math.log10(value) : value);
  const ticks = distinct.length <= 8 ? distinct : null;
  return { kind: log ? "log" : "linear", at, ticks: ticks && ticks.map(at), labels: ticks && ticks.map((value) => String(Number(value.toPrecision(6)))) };
}

// Mean and half its 95 % interval at each place where several runs stand.
export function meansAt(points) {
  const at = new Map();
  for (const { x, y } of points) at.set(x, [...(at.get(x) || []), y]);
  return [...at].filter(([, values]) => values.length > 1).sort((a, b) => a[0] - b[0]).map(([x, values]) => {
    const n = values.length, mean = values.reduce((a, b) => a + b) / n;
    const spread = Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (n - 1));
    return { x, mean, half: (studentT95(n - 1) * spread) / Math.sqrt(n), count: n };
  });
}

// Which rows are inside every brushed range. ranges: dimension -> [from, to] or a list of such, or nothing.
export function brushed(rows, ranges) {
  const inside = (value, range) => (Array.isArray(range[0]) ? range : [range]).some(([from, to]) => value >= from && value <= to);
  return rows.filter((row) => ranges.every((range, i) => !range || inside(row.values[i], range)));
}
