// What a chart draws: one curve per run (or per group of seeds) and series, each with its abscissae on the chosen axis.

import { live } from "./live.js";
import { AXES, view } from "./view.js";
import { interpolated, meanBand } from "./series_maths.js";

// knobs that do not change what is learned: runs that differ in nothing else are one group
const SAME_LEARNING = new Set(["seed", "threads"]);

// The chosen runs as they are drawn: each by itself, or all seeds of a config together. A group takes its first run's colour.
export function drawnRuns() {
  const runs = live.chosen();
  if (!view.mean) return runs.map((run) => ({ run, runs: [run], label: run.name }));
  const groups = new Map();
  for (const run of runs) {
    const key = run.readable ? JSON.stringify([run.task, ...Object.entries(run.knobs).filter(([name]) => !SAME_LEARNING.has(name)).sort()]) : `run ${run.id}`;
    groups.set(key, [...(groups.get(key) || []), run]);
  }
  const found = [...groups.values()];
  return found.map((group) => ({ run: group[0], runs: group, label: group.length > 1 ? `${groupLabel(group, found)}, ${group.length} seeds` : group[0].name }));
}

// What tells this group from the others, such as "learning_rate 0.001".
function groupLabel(group, groups) {
  const names = new Set(groups.flatMap(([run]) => Object.keys(run.knobs)).filter((name) => !SAME_LEARNING.has(name)));
  const differing = [...names].filter((name) => new Set(groups.map(([run]) => live.knob(run, name))).size > 1);
  return differing.map((name) => `${name} ${live.knob(group[0], name)}`).join(", ") || group[0].name;
}

const LENGTH = /^(eval\/\w+)\/(\d+)$/; // eval/pass_1/256

// The name of a metric without the completion length behind it, as charts name it: eval/pass_1/*
export function anyLength(metric) { return metric.replace(LENGTH, "$1/*"); }

// A chart's curves; one that is drawn at every completion length stands for as many as the chosen runs have.
export function seriesOf(spec) {
  if (!spec.series.some((series) => series.lengths)) return spec.series;
  const lengths = new Map();
  for (const metric of new Set(live.chosen().flatMap((run) => Object.keys(live.points.get(run.id) || {})))) {
    const found = LENGTH.exec(metric);
    if (found) lengths.set(found[1], [...(lengths.get(found[1]) || []), Number(found[2])].sort((a, b) => a - b));
  }
  return spec.series.flatMap((series) => (series.lengths ? (lengths.get(series.metric) || []).map((length) => atLength(series, length)) : [series]));
}

function atLength(series, length) {
  const at = (name) => name && `${name}/${length}`;
  return { ...series, metric: at(series.metric), low: at(series.low), high: at(series.high), label: `${series.label}, ${length} tokens` };
}

// spec: the chart. finer(run, metric): the curve of a window that is zoomed into, if there is one.
export function curvesOf(spec, finer) {
  const groups = drawnRuns(), several = groups.length > 1, found = [];
  for (const group of groups) {
    seriesOf(spec).forEach((series, index) => {
      if (several && series.alone) return;
      const members = group.runs.map((run) => member(spec, run, series, finer)).filter(Boolean);
      if (!members.length) return;
      const hidden = view.hidden.has(`${spec.id}.${index}`) || view.hidden.has(`r${group.run.id}`);
      const shared = { run: group.run, runs: group.runs, label: group.label, series, index, several, hidden, colour: several ? live.colour(group.run.id) : index % 8 };
      if (members.length === 1) found.push({ ...shared, ...members[0] });
      else {
        const mean = meanBand(members.map((one) => one.data), members.map((one) => one.x));
        found.push({ ...shared, data: mean, x: mean.x, whole: false, averaged: true });
      }
    });
  }
  return found;
}

function member(spec, run, series, finer) {
  const whole = live.series(run.id, series.metric);
  if (!whole?.step.length) return null;
  const data = finer(run, series.metric) || withInterval(run, series, whole);
  const x = abscissae(spec, run, data);
  return x && { data, x, whole: data.value === whole.value };
}

// Where the ends of an interval are logged beside the values.
function withInterval(run, series, whole) {
  const [low, high] = [series.low, series.high].map((metric) => metric && live.series(run.id, metric)?.value);
  return low?.length === whole.value.length && high?.length === low.length ? { ...whole, low, high } : whole;
}

// Where the points of a curve stand on the horizontal axis, or null where the run did not record that.
export function abscissae(spec, run, data) {
  if (view.axis === "step" || (spec.axis !== "step" && view.axis !== "time")) return data.step;
  if (view.axis === "time") return data.seconds;
  const spent = live.series(run.id, AXES[view.axis].metric);
  return spent?.step.length ? interpolated([0, ...spent.step], [0, ...spent.value], data.step) : null;
}

// The step of a run at a place of the axis; the other way round from `abscissae`.
export function stepAt(x, run) {
  if (view.axis === "step") return Math.round(x);
  const every = live.series(run.id, AXES[view.axis].metric || "reward/mean") || live.series(run.id, "reward/heldout_greedy");
  if (!every?.step.length) return 0;
  const along = view.axis === "time" ? every.seconds : every.value;
  return Math.round(interpolated(along, every.step, [x])[0] ?? 0);
}

// The place of a step on the axis, for a run.
export function placeOfStep(step, run) {
  if (view.axis === "step") return step;
  const every = live.series(run.id, AXES[view.axis].metric || "reward/mean") || live.series(run.id, "reward/heldout_greedy");
  if (!every?.step.length) return null;
  return interpolated(every.step, view.axis === "time" ? every.seconds : every.value, [step])[0];
}

// Hours, minutes or seconds, whichever reads best for what is drawn; null on other axes.
export function timeUnit(curves) {
  if (view.axis !== "time") return null;
  const longest = Math.max(0, ...curves.map((curve) => curve.data.seconds[curve.data.seconds.length - 1] || 0));
  return longest > 10800 ? { name: "h", scale: 3600 } : longest > 180 ? { name: "min", scale: 60 } : { name: "s", scale: 1 };
}
