// What evaluations have measured: a row per checkpoint, a column per task and completion length, pass@1 in its interval.

import { el, figure, get, setText, styles } from "./dom.js";
import { live } from "./live.js";

export function mount(element) {
  styles("evaluations");
  new Evaluations(element);
}

class Evaluations {
  constructor(element) {
    this.element = element;
    this.scope = "family";
    this.table = { columns: [], rows: [] };
    this.sort = null; // { key, down }; key is a column's, or "name"
    this.scopes = el("select", { class: "bgpo-input", "aria-label": "Which checkpoints", on: { change: () => { this.scope = this.scopes.value; this.draw(); } } },
      el("option", { value: "family", text: "Of this run and its relatives" }), el("option", { value: "all", text: "Of all runs" }));
    this.note = el("span", { class: "bgpo-soft", text: "Held-out problems, 95 % intervals. Choose a checkpoint by its validation reward, and report it by this table." });
    this.words = el("p", { class: "bgpo-card none", role: "status" });
    this.scroll = el("div", { class: "bgpo-card scroll", tabindex: "0", role: "region", "aria-label": "Evaluated checkpoints" });
    element.append(el("div", { class: "line" }, el("label", {}, "Checkpoints", this.scopes), this.note), this.words, this.scroll);
    live.watch(element, ["runs", "selection"], () => this.follow());
    new ResizeObserver(() => this.follow()).observe(element);
    this.follow();
  }

  async follow() {
    if (!this.element.offsetWidth) return;
    this.draw();
    const key = JSON.stringify([...live.list().filter(evaluates).map((run) => [run.id, run.status, run.done]), ...live.list().filter(measures).map((run) => [run.id, run.status, checks(run)])]);
    if (key === this.key || this.busy || !live.loaded) return;
    this.busy = true;
    try {
      this.table = await get("/api/evaluations");
      this.key = key;
      this.failed = "";
    } catch (error) {
      this.failed = error.message;
    }
    this.busy = false;
    this.draw();
  }

  rows() {
    const focus = live.focus();
    const rows = this.scope === "all" || !focus ? [...this.table.rows] : this.table.rows.filter((row) => related(row, focus));
    const measure = (row) => (this.sort.key === "name" ? place(row) : row.cells[this.sort.key]?.pass_1 ?? null);
    if (!this.sort) return rows;
    const sign = this.sort.down ? -1 : 1;
    return rows.map((row) => [row, measure(row)]).sort(([, x], [, y]) => (x === null || y === null ? (x === null) - (y === null)
      : sign * (typeof x === "number" ? x - y : x.localeCompare(y, undefined, { numeric: true })))).map(([row]) => row);
  }

  draw() {
    const rows = this.rows();
    const columns = this.table.columns.filter((column) => rows.some((row) => row.cells[column.key]));
    const going = live.list().filter((run) => evaluates(run) && ["queued", "launching", "running"].includes(run.status)).length;
    const print = JSON.stringify([rows, columns, this.sort, going, this.failed, rows.map((row) => row.run && live.colour(row.run))]);
    if (print === this.print) return;
    this.print = print;
    this.words.hidden = this.scroll.hidden = false;
    this[rows.length ? "words" : "scroll"].hidden = true;
    setText(this.words, this.failed || this.emptyWords(going));
    const best = new Map(columns.map(({ key }) => [key, highest(rows.filter((row) => row.cells[key]).map((row) => row.cells[key].pass_1))]));
    const kept = this.scroll.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    this.scroll.replaceChildren(el("table", {},
      el("thead", {}, el("tr", {}, this.head("name", "Checkpoint", ""), ...columns.map((column) => this.head(column.key, column.data ? `${column.task}, ${column.data}` : column.task, `${column.length} tokens`)))),
      el("tbody", {}, ...rows.map((row) => el("tr", {}, origin(row), ...columns.map((column) => cell(row.cells[column.key], best.get(column.key))))))));
    if (kept) this.scroll.querySelector(`[data-key="${CSS.escape(kept)}"]`)?.focus();
  }

  emptyWords(going) {
    if (going) return going === 1 ? "An evaluation is queued or going. Its first score comes when it has done one completion length." : `${going} evaluations are queued or going. The first scores come when one has done a completion length.`;
    return this.table.rows.length ? "No checkpoint of this run or its relatives has been evaluated. Press Evaluate beside one under Checkpoints, or look at those of all runs."
      : "No checkpoint has been evaluated yet. Press Evaluate beside one under Checkpoints: its pass@1 on held-out problems then stands here, beside that of others.";
  }

  head(key, title, under) {
    const sorted = this.sort?.key === key, falls = this.sort?.down;
    // scores start with the best one, names with the first
    const next = !sorted ? { key, down: key !== "name" } : falls === (key !== "name") ? { key, down: !falls } : null;
    return el("th", { scope: "col", "aria-sort": sorted ? (falls ? "descending" : "ascending") : null },
      el("button", { type: "button", class: "sort", title: "Press to sort", data: { key }, on: { click: () => { this.sort = next; this.draw(); } } },
        el("span", { text: title }), el("i", { "aria-hidden": "true", text: sorted ? (falls ? "↓" : "↑") : "" }), under ? el("small", { text: under }) : null));
  }
}

function evaluates(run) { return run.knobs?.job === "evaluate"; }

// Runs whose own evaluations measure pass@1, and how many evaluations they have behind them.
function measures(run) { return run.readable && !evaluates(run) && ["model", "eval_lengths", "eval_samples"].some((name) => Object.hasOwn(run.knobs, name)); }
function checks(run) { return Math.floor(run.step / (live.knob(run, "eval_every") || 1)); }

function place(row) { return `${row.name} ${String(row.step ?? "").padStart(9, "0")}`; }

// Where they differ: of a single one, or of equal ones, it says nothing that it is the best.
function highest(values) {
  const most = Math.max(...values);
  return values.some((value) => value < most) ? most : NaN;
}

// Runs are relatives when their lines of parents end in the same run.
function related(row, focus) { return row.run !== null ? root(row.run) === root(focus.id) : Object.values(row.cells).some((one) => one.evaluation === focus.id); }

function root(id) {
  const seen = new Set();
  while (live.run(id)?.parent && !seen.has(id)) { seen.add(id); id = live.run(id).parent; }
  return id;
}

function origin(row) {
  const there = row.run !== null && live.run(row.run);
  return el("th", { scope: "row" },
    el("div", { class: "who" }, there ? el("i", { class: "dot", style: { background: `var(--bgpo-c${live.colour(row.run)})` } }) : null,
    there ? el("button", { type: "button", class: "link", text: row.name, data: { key: `open ${row.key}` }, on: { click: () => live.select([row.run]) } }) : el("span", { text: row.name })),
    row.step === null ? null : el("span", { class: "bgpo-soft step", text: `step ${row.step}` }));
}

function cell(one, best) {
  if (!one) return el("td", { class: "bgpo-soft", text: "–" });
  const percent = (value) => `${100 * Math.min(1, Math.max(0, value))}%`;
  const tries = one.samples > 1 ? `k = ${one.samples} tries each` : "one greedy try each";
  const facts = [`pass@1 ${figure(one.pass_1)}, 95 % interval ${figure(one.pass_1_low)} to ${figure(one.pass_1_high)}`, `n = ${one.problems} problems, ${tries}`,
    `${figure(one.tokens)} tokens and ${figure(one.nfe)} forward passes per completion`, `schedule ${one.schedule}, cache ${one.cache}`,
    `run ${one.evaluation}${one.times > 1 ? `, the newest of ${one.times} evaluations` : ""}`];
  const first = one.pass_1 === best;
  return el("td", { class: first ? "best" : "", title: facts.join("\n") },
    el("div", { class: "score" }, el("b", { text: figure(one.pass_1) }), first ? el("span", { class: "mark", text: "best" }) : null,
      one.samples > 1 ? el("span", { class: "bgpo-soft", text: `pass@${one.samples} ${figure(one.pass_k)}` }) : null),
    el("div", { class: "bar", "aria-hidden": "true" }, el("i", { style: { width: percent(one.pass_1) } }),
      el("u", { style: { left: percent(one.pass_1_low), width: percent(one.pass_1_high - one.pass_1_low) } })),
    el("small", { class: "bgpo-soft", text: `${figure(one.pass_1_low)} to ${figure(one.pass_1_high)}` }),
    el("small", { class: "bgpo-sr", text: `, ${facts[1]}` }),
    el("a", { class: "all", href: `/api/runs/${one.evaluation}/judged${one.of_step === null ? "" : `?step=${one.of_step}`}`, download: "", text: "completions", title: "Every completion with its verdict, one JSON object a line" }));
}
