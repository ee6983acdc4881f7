// What the policy wrote at the step that the mouse rests on in a chart: some groups of it, over the edge of the window that
// is further from the mouse. Nothing is asked for while the mouse moves, nor twice for one step.

import { el, figure, get, setText, styles } from "./dom.js";
import { crosshair } from "./crosshair.js";
import { keys } from "./keys.js";
import { live } from "./live.js";
import { verdictOf } from "./rollout_group.js";

const REST_MS = 220;
const GROUPS = 3, COMPLETIONS = 8; // shown of a step
const CHARACTERS = 90; // of a completion
const REMEMBERED = 60; // steps
const OFF = "bgpo-no-peek";

export class RolloutPeek {
  constructor(parent) {
    styles("rollout_peek");
    this.title = el("b");
    this.rows = el("div", { class: "rows" });
    this.node = el("aside", { class: "bgpo-peek bgpo-card", hidden: true, "aria-hidden": "true" },
      el("header", {}, this.title, el("span", { class: "bgpo-soft", text: "click to pin it, then 2 for all; r puts this away" })), this.rows);
    this.known = new Map(); // "run step" -> promise of its rows
    this.steps = { run: null, list: [] };
    parent.append(this.node);
    document.addEventListener("bgpo:step", (event) => this.point(event.detail));
    document.addEventListener("pointermove", (event) => { this.mouse = event.clientY; }, { passive: true });
    addEventListener("scroll", () => this.hide(), { passive: true });
    keys.add("r", "Rollouts of the step under the mouse, on or off", "Charts", () => this.toggle());
  }

  get off() { try { return localStorage.getItem(OFF) === "1"; } catch { return this.away; } }

  toggle() {
    this.away = !this.off;
    try { localStorage.setItem(OFF, this.away ? "1" : ""); } catch { /* then it lasts as long as the page */ }
    this.point({ step: crosshair.step, run: live.focus()?.id ?? null });
  }

  point({ step, run, pinned = false }) {
    clearTimeout(this.timer);
    if (step === null || run === null || pinned || this.off || !document.querySelector(".bgpo-chart-board .chart:hover")) { this.hide(); return; }
    this.wanted = `${run} ${step}`;
    if (this.wanted === this.shown && !this.node.hidden) return;
    this.timer = setTimeout(() => this.show(run, step).catch(() => this.hide()), REST_MS); // an answer that fails is no reason for words here
  }

  hide() {
    clearTimeout(this.timer);
    this.wanted = null;
    this.node.hidden = true;
  }

  async show(run, step) {
    const wanted = this.wanted;
    const at = await this.nearest(run, step);
    const rows = at === null ? [] : await this.rowsOf(run, at);
    if (this.wanted !== wanted) return;
    if (!rows.length) { this.hide(); return; }
    this.shown = wanted;
    const several = live.chosen().length > 1;
    setText(this.title, `Rollouts of step ${at}${at === step ? "" : `, the kept one nearest to ${step}`}${several ? `, ${live.run(run)?.name ?? ""}` : ""}`);
    this.rows.replaceChildren(...groupsOf(rows));
    this.node.classList.toggle("top", this.mouse > innerHeight / 2);
    this.node.hidden = false;
  }

  // The step that has rollouts and lies nearest; the list of them is read on as the run goes on.
  async nearest(run, step) {
    if (this.steps.run !== run) { this.steps = { run, list: [] }; this.known.clear(); }
    const mine = this.steps, last = mine.list[mine.list.length - 1] ?? -1;
    if (step > last) {
      const found = await get(`/api/runs/${run}/rollouts/steps?after_step=${last}`);
      mine.list.push(...found.map((item) => item.step).filter((one) => one > (mine.list[mine.list.length - 1] ?? -1)));
    }
    return mine.list.length ? mine.list.reduce((best, one) => (Math.abs(one - step) < Math.abs(best - step) ? one : best)) : null;
  }

  rowsOf(run, step) {
    const key = `${run} ${step}`;
    if (!this.known.has(key)) {
      const asked = get(`/api/runs/${run}/rollouts?step=${step}&order=group&chars=${CHARACTERS}`).then((answer) => answer.rows);
      asked.catch(() => this.known.delete(key));
      this.known.set(key, asked);
      if (this.known.size > REMEMBERED) this.known.delete(this.known.keys().next().value);
    }
    return this.known.get(key);
  }
}

function groupsOf(rows) {
  const groups = [...Map.groupBy(rows, (row) => row.problem).values()];
  return groups.slice(0, GROUPS).map((group) => el("div", { class: "group" },
    el("span", { class: "prompt bgpo-mono", text: group[0].prompt }), el("span", { class: "mean", text: mean(group) }),
    el("span", { class: "texts" }, ...group.slice(0, COMPLETIONS).map((row) => el("span", { class: `text bgpo-mono ${verdictOf(row)}`, text: row.completion || "∅" })),
      group.length > COMPLETIONS ? el("span", { class: "more", text: `+ ${group.length - COMPLETIONS}` }) : null)));
}

function mean(group) { return `mean ${figure(group.reduce((sum, row) => sum + (row.reward ?? 0), 0) / group.length)}`; }
