// A few held-out problems, one row each; one column per evaluation. What the model wrote stands in the cell, so that the
// careless answer can be seen turning into the right one. A click plays how that answer was denoised.

import { el, get, setText, styles } from "./dom.js";
import { isOver, live } from "./live.js";
import { view } from "./view.js";
import { Stage } from "./denoise_stage.js";
import { verdictOf } from "./rollout_group.js";
import { eventsOfStored } from "./denoise_trace.js";

const EVALUATION = "reward/heldout_greedy";

export function mount(element) {
  styles("held_out");
  new HeldOut(element);
}

class HeldOut {
  constructor(element) {
    this.element = element;
    this.note = el("p", { class: "note" });
    this.who = el("span", { class: "bgpo-soft" });
    this.matrix = el("div", { class: "scroll" });
    this.stageBox = el("div", { class: "stage" });
    this.verdict = el("p", { class: "verdict", role: "status" });
    this.detail = el("div", { class: "detail", hidden: true }, this.verdict, this.stageBox);
    element.append(el("section", { class: "bgpo-card" }, el("header", {}, el("h3", { text: "Held-out samples" }), this.who), this.note, this.matrix, this.detail));
    this.clear(null);
    live.watch(element, ["points", "selection", "runs"], () => this.follow());
    document.addEventListener("bgpo:step", (event) => this.point(event.detail));
    new ResizeObserver(() => this.follow()).observe(element);
    this.follow();
  }

  clear(run) {
    this.run = run;
    this.rows = new Map(); // index -> {prompt, expected, cells: Map(step -> completion)}
    this.steps = [];
    this.last = -1;
    this.detail.hidden = true;
    const job = live.runs.get(run)?.knobs?.job ?? "train";
    this.nothing = el("div", { class: "empty", text: job === "evaluate" ? "This run measures a checkpoint: its scores are under Evaluations."
      : job === "train" ? "" : "This run writes no samples; chat with one of its checkpoints to see what it has learned." });
    this.awaited = job === "train";
    this.matrix.replaceChildren(this.nothing);
    setText(this.note, "");
  }

  async follow() {
    const run = live.focus();
    if (!run || this.busy || !this.element.offsetParent) return;
    if (this.run !== run.id) { this.clear(run.id); this.about(run.id); }
    if (this.awaited) setText(this.nothing, isOver(run) ? "The run ended before its first held-out check, so there are no samples." : "The first samples come with the first held-out check, right after the warm start.");
    setText(this.who, live.chosen().length > 1 ? run.name : "");
    const points = live.series(run.id, EVALUATION);
    const newest = points?.step.length ? points.step[points.step.length - 1] : -1;
    if (newest <= this.last) return;
    this.busy = true;
    try {
      const found = await get(`/api/runs/${run.id}/completions?after_step=${this.last}`);
      if (this.run === run.id && found.length) this.take(found);
    } catch {
      // the next poll asks again
    }
    this.busy = false;
  }

  async about(id) {
    try {
      const facts = await get(`/api/runs/${id}`);
      if (this.run !== id || !facts.careless || (live.runs.get(id)?.knobs?.job ?? "train") !== "train") return;
      const wrong = Math.round(100 * (1 - facts.correct_fraction));
      setText(this.note, `The warm-start data is careless on purpose: ${wrong} % of it ${facts.careless}. Reinforcement learning puts that right.`);
    } catch {
      this.run = null;
    }
  }

  take(found) {
    for (const item of found) {
      if (!this.rows.has(item.index)) this.rows.set(item.index, { prompt: item.prompt, expected: item.expected, cells: new Map() });
      this.rows.get(item.index).cells.set(item.step, item);
      if (!this.steps.includes(item.step)) this.steps.push(item.step);
    }
    this.steps.sort((a, b) => a - b);
    this.last = this.steps[this.steps.length - 1]; // not the newest point: samples may come a moment after it
    this.draw();
  }

  draw() {
    const atEnd = this.matrix.scrollWidth - this.matrix.scrollLeft - this.matrix.clientWidth < 30;
    const focused = document.activeElement?.dataset?.cell;
    const head = el("tr", {}, el("th", { scope: "col", class: "prompt", text: "Prompt" }), el("th", { scope: "col", text: "Expected" }),
      ...this.steps.map((step) => el("th", { scope: "col", class: "step", text: step === 0 ? "warm start" : step })));
    const body = [...this.rows.entries()].sort((a, b) => a[0] - b[0]).map(([index, row]) => el("tr", {},
      el("th", { scope: "row", class: "prompt bgpo-mono", text: row.prompt, title: row.prompt }), el("td", { class: "expected bgpo-mono", text: row.expected, title: row.expected }),
      ...this.steps.map((step) => el("td", {}, row.cells.has(step) ? this.cell(index, step, row.cells.get(step)) : null))));
    this.matrix.replaceChildren(el("table", {}, el("thead", {}, head), el("tbody", {}, ...body)));
    if (atEnd) this.matrix.scrollLeft = this.matrix.scrollWidth;
    if (focused) this.matrix.querySelector(`[data-cell="${focused}"]`)?.focus({ preventScroll: true });
    this.mark();
    if (this.pointed === undefined && view.pinned !== null) this.point({ step: view.pinned, pinned: true });
    this.markColumn();
  }

  cell(index, step, item) {
    const verdict = verdictOf(item);
    return el("button", { type: "button", class: `cell bgpo-mono ${verdict}`, data: { cell: `${index}-${step}` }, title: item.reason,
      "aria-label": `Step ${step}: ${item.completion || "nothing"}, ${verdict}. ${item.reason}. Play how it was denoised.`,
      text: item.completion || "∅", on: { click: () => this.play(index, step) } });
  }

  // The charts point at a step: what the model wrote at the last check up to there is the column that stands out.
  point({ step, pinned }) {
    const at = step === null ? undefined : this.steps.findLast((known) => known <= step) ?? this.steps[0];
    if (at === this.pointed) return;
    this.pointed = at;
    this.markColumn();
    const head = pinned && this.matrix.querySelector("th.pointed");
    if (head) this.matrix.scrollLeft = head.offsetLeft - this.matrix.clientWidth / 2; // the page itself stays where it is
  }

  markColumn() {
    const place = this.steps.indexOf(this.pointed);
    for (const row of this.matrix.querySelectorAll("tr")) [...row.children].forEach((cell, i) => cell.classList.toggle("pointed", i >= 2 && i - 2 === place));
  }

  mark() {
    for (const cell of this.matrix.querySelectorAll(".cell")) cell.setAttribute("aria-pressed", String(cell.dataset.cell === this.playing && !this.detail.hidden));
  }

  play(index, step) {
    const key = `${index}-${step}`;
    if (this.playing === key && !this.detail.hidden) { this.detail.hidden = true; this.mark(); return; }
    this.playing = key;
    const item = this.rows.get(index).cells.get(step);
    this.detail.hidden = false;
    this.stage ??= new Stage(this.stageBox);
    setText(this.verdict, `${step === 0 ? "After the warm start" : `At step ${step}`} the answer to ${item.prompt} was ${item.completion || "nothing"}.`);
    this.stage.load(eventsOfStored(item), { play: true });
    this.mark();
  }
}
