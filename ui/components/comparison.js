// Several selected runs: in words what differs, and a table of those knobs and of the best and newest figures, by any
// column. The plots over many runs are in sweep_plots.js.

import { duration, el, figure, get, setText } from "./dom.js";
import { live } from "./live.js";

const KEPT = "bgpo-comparison-metrics";
const COLUMNS = [
  { id: "reward", title: "Reward", help: "Held-out greedy reward, newest", of: (run) => run.reward, words: figure },
  { id: "best", title: "Best", help: "Best held-out greedy reward", of: (run) => run.best, words: figure },
  { id: "step", title: "Steps", help: "Finished training steps", of: (run) => run.step, words: String },
  { id: "seconds", title: "Time", help: "Running time", of: (run) => run.seconds, words: duration },
];

export class Comparison {
  constructor() {
    this.title = el("h2");
    this.words = el("p", { class: "words" });
    this.metric = el("select", { class: "bgpo-input", "aria-label": "Add a metric to the table", on: { change: () => this.addMetric(this.metric.value) } });
    this.table = el("div", { class: "scroll differences", tabindex: "0", role: "region", "aria-label": "The compared runs" });
    this.sort = null; // { id, down }
    this.metrics = kept();
    this.knobs = null; // until they have been asked for
    this.node = el("section", { class: "bgpo-card many", hidden: true },
      el("div", { class: "row" }, el("div", { class: "words" }, this.title, this.words), el("div", { class: "tools" }, this.metric)), this.table);
  }

  async draw(runs) {
    setText(this.title, `Comparing ${runs.length} runs`);
    const key = runs.map((run) => `${run.id}${run.name}`).join();
    if (key !== this.key) {
      this.key = key;
      try {
        this.knobs = await get(`/api/differences?runs=${runs.map((run) => run.id).join(",")}`);
      } catch {
        this.knobs = [];
        this.key = null;
      }
    }
    this.fill(live.chosen());
  }

  fill(runs) {
    if (runs.length < 2) return;
    const columns = this.columns(runs);
    if (this.knobs) setText(this.words, this.knobs.length ? `What differs: ${inWords(this.knobs, runs)}` : "Their configs are the same in every knob.");
    this.choices(runs);
    const ordered = this.ordered(runs, columns);
    const best = new Map(columns.filter((column) => column.best).map((column) => [column.id, column.best(runs.map(column.of).filter((value) => value !== null && value !== undefined))]));
    const cells = ordered.map((run) => columns.map((column) => { const value = column.of(run); return { text: value === null || value === undefined ? "–" : column.words(value), best: best.has(column.id) && value === best.get(column.id) }; }));
    const print = JSON.stringify([columns.map((column) => column.id), this.sort, ordered.map((run) => [run.id, run.name, live.colour(run.id)]), cells]);
    if (print === this.print) return;
    this.print = print;
    const focus = this.table.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    this.table.replaceChildren(el("table", {}, el("thead", {}, el("tr", {}, this.head({ id: "name", title: "Run", help: "By name" }), ...columns.map((column) => this.head(column)), el("th", {}, el("span", { class: "bgpo-sr", text: "Take out" })))),
      el("tbody", {}, ...ordered.map((run, place) => this.row(run, columns, cells[place])))));
    if (focus) this.table.querySelector(`[data-key="${CSS.escape(focus)}"]`)?.focus();
  }

  columns(runs) {
    const knobs = (this.knobs || []).map((knob) => ({ id: `knob ${knob.name}`, title: knob.name, help: knob.help, mono: true, of: (run) => knob.values[run.id] ?? null, words: String, number: (run) => live.knob(run, knob.name) }));
    const largest = (values) => (values.length > 1 ? Math.max(...values) : NaN);
    const figures = COLUMNS.map((column) => (["reward", "best"].includes(column.id) ? { ...column, best: largest } : column));
    const chosen = this.metrics.filter((name) => runs.some((run) => live.series(run.id, name))).flatMap((name) => [
      { id: `now ${name}`, title: name, help: `${name}, newest value`, metric: name, of: (run) => ends(run, name).now, words: figure },
      { id: `low ${name}`, title: "lowest", help: `${name}, lowest value`, of: (run) => ends(run, name).low, words: figure },
      { id: `high ${name}`, title: "highest", help: `${name}, highest value`, of: (run) => ends(run, name).high, words: figure },
    ]);
    const reached = (column) => ["reward", "best"].includes(column.id); // first: many knobs reach beyond the card
    return [...figures.filter(reached), ...knobs, ...figures.filter((column) => !reached(column)), ...chosen];
  }

  ordered(runs, columns) {
    const column = columns.find((one) => one.id === this.sort?.id);
    const key = this.sort?.id === "name" ? (run) => run.name : column && (column.number || column.of);
    if (!key) return runs;
    const sign = this.sort.down ? -1 : 1;
    const missing = (value) => value === null || value === undefined;
    return [...runs].sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      if (missing(x) || missing(y)) return missing(x) - missing(y);
      return sign * (typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y), undefined, { numeric: true }));
    });
  }

  head(column) {
    const sorted = this.sort?.id === column.id;
    const button = el("button", { type: "button", class: `sort ${column.mono ? "bgpo-mono" : ""}`, title: `${column.help}. Press to sort.`, data: { key: `head ${column.id}` },
      on: { click: () => { this.sort = sorted && !this.sort.down ? null : { id: column.id, down: !sorted }; this.fill(live.chosen()); } } }, column.title, el("i", { "aria-hidden": "true", text: sorted ? (this.sort.down ? "↓" : "↑") : "" }));
    const cell = el("th", { scope: "col", "aria-sort": sorted ? (this.sort.down ? "descending" : "ascending") : null }, button);
    if (column.metric) cell.append(el("button", { type: "button", class: "sort", text: "×", "aria-label": `Take ${column.metric} out of the table`, on: { click: () => this.keep(this.metrics.filter((name) => name !== column.metric)) } }));
    return cell;
  }

  row(run, columns, cells) {
    return el("tr", {},
      el("th", { scope: "row" }, el("i", { class: "dot", style: { background: `var(--bgpo-c${live.colour(run.id)})` } }), el("button", { type: "button", class: "link", text: run.name, data: { key: `open ${run.id}` }, on: { click: () => live.select([run.id]) } })),
      ...cells.map((cell, place) => el("td", { class: `${columns[place].mono ? "bgpo-mono" : ""} ${cell.best ? "best" : ""}`, text: cell.text })),
      el("td", {}, el("button", { type: "button", class: "link soft", text: "Remove", "aria-label": `Take ${run.name} out of the comparison`, data: { key: `out ${run.id}` }, on: { click: () => live.toggle(run.id) } })));
  }

  choices(runs) {
    const names = [...new Set(runs.flatMap((run) => Object.keys(live.points.get(run.id) || {})))].filter((name) => !this.metrics.includes(name)).sort();
    if (names.join() === this.choiceKey) return;
    this.choiceKey = names.join();
    this.metric.replaceChildren(el("option", { value: "", text: "Add a metric" }), ...names.map((name) => el("option", { value: name, text: name })));
  }

  addMetric(name) { if (name) this.keep([...this.metrics, name]); }

  keep(metrics) {
    this.metrics = metrics;
    this.choiceKey = null;
    try { localStorage.setItem(KEPT, JSON.stringify(metrics)); } catch { /* then it lasts as long as the page */ }
    this.fill(live.chosen());
  }
}

function kept() {
  try { const found = JSON.parse(localStorage.getItem(KEPT) || "[]"); return Array.isArray(found) ? found.filter((name) => typeof name === "string") : []; } catch { return []; }
}

// Newest, lowest and highest value of a curve.
export function ends(run, name) {
  const series = live.series(run.id, name);
  if (!series) return { now: null, low: null, high: null };
  const known = series.value.filter((value) => value !== null);
  const lows = (series.low || known).filter((value) => value !== null), highs = (series.high || known).filter((value) => value !== null);
  return known.length ? { now: known[known.length - 1], low: lows.reduce((a, b) => Math.min(a, b)), high: highs.reduce((a, b) => Math.max(a, b)) } : { now: null, low: null, high: null };
}

function inWords(knobs, runs) {
  const order = [...runs].sort((a, b) => a.id - b.id);
  return `${knobs.map((knob) => {
    const values = [...new Set(order.map((run) => knob.values[run.id]).filter((value) => value !== undefined))];
    return `${knob.name} ${values.length > 5 ? `${values.slice(0, 4).join(", ")} and ${values.length - 4} more` : values.join(" → ")}`;
  }).join(", ")}.`;
}
