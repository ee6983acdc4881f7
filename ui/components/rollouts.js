// What the policy wrote while it trained: the kept groups of a step, each problem with its completions side by side.
// Three ways to look: a step, a text looked for in all steps, one prompt through training. All are in the address.

import { el, get, setText, styles } from "./dom.js";
import { live, writeUrl } from "./live.js";
import { GroupCard } from "./rollout_group.js";
import { promptLine } from "./rollout_prompt.js";
import { foundList } from "./rollout_search.js";
import { StepStrip } from "./rollout_steps.js";
import { view } from "./view.js";

const KINDS = [["any", "All groups"], ["mixed", "Mixed"], ["right", "All right"], ["wrong", "All wrong"], ["flat", "No signal"], ["disagree", "Parts disagree"]];
const NOTHING = {
  any: "No group of this step was kept.", mixed: "No group of this step has both right and wrong completions.",
  right: "In no group of this step are all completions right.", wrong: "Every group of this step has a right completion.",
  flat: "In every group of this step rewards differ, so each carries a signal.",
  disagree: "In no group of this step is one part of the reward paid and another not.",
};
const TYPING_MS = 250;

export function mount(element) {
  styles("rollouts");
  new Rollouts(element);
}

class Rollouts {
  constructor(element) {
    this.element = element;
    const query = new URLSearchParams(location.search);
    this.kind = KINDS.some(([name]) => name === query.get("groups")) ? query.get("groups") : "any";
    this.prompt = query.get("prompt");
    this.build(query.get("q") || "");
    this.clear(null);
    live.watch(element, ["points", "selection", "runs"], () => this.follow());
    // the step that is pinned on the charts is the step whose rollouts are shown; none follows the newest
    live.watch(element, ["view"], (event) => { if (event.detail?.has("pinned")) this.show(); });
    new ResizeObserver(() => this.follow()).observe(element);
    this.follow();
  }

  build(looked) {
    this.who = el("span", { class: "bgpo-soft" });
    this.strip = new StepStrip((step) => this.go(step));
    this.search = el("input", { type: "search", class: "search", value: looked, maxlength: 500, placeholder: "Find text in all completions",
      "aria-label": "Find text in the completions of all steps", on: { input: () => this.typed() } });
    this.kinds = KINDS.map(([name, label]) => el("button", { type: "button", data: { name }, text: label, on: { click: () => this.choose(name) } }));
    this.newest = el("button", { type: "button", class: "bgpo-button small", text: "Follow newest", on: { click: () => this.go(null) } });
    this.tools = el("div", { class: "tools" }, el("div", { class: "kinds", role: "group", "aria-label": "Groups shown" }, ...this.kinds), this.newest, this.search);
    this.status = el("p", { class: "status", role: "status" });
    this.body = el("div", { class: "body" });
    this.element.append(
      el("section", { class: "bgpo-card head" }, el("header", {}, el("h3", { text: "Rollouts" }), this.who), this.strip.element, this.tools),
      this.status, this.body);
  }

  clear(run) {
    this.run = run;
    this.steps = [];
    this.shown = null;
    this.strip.draw([], null);
    this.body.replaceChildren();
    setText(this.status, "");
  }

  // ---- what there is

  async follow() {
    const run = live.focus();
    if (!run || this.busy || !this.element.offsetParent) return;
    if (this.run !== run.id) this.clear(run.id);
    setText(this.who, live.chosen().length > 1 ? run.name : "");
    const last = this.steps.length ? this.steps[this.steps.length - 1].step : -1;
    if (this.shown !== null && run.step <= last) return;
    this.busy = true;
    try {
      const found = await get(`/api/runs/${run.id}/rollouts/steps?after_step=${last}`);
      if (this.run === run.id) { this.steps.push(...found); await this.show(); }
    } catch (error) {
      setText(this.status, error.message);
    }
    this.busy = false;
  }

  current() {
    const last = this.steps[this.steps.length - 1]?.step ?? null;
    if (view.pinned === null || last === null) return last;
    // the nearest step that has some: a chart may point at a step of which nothing was kept
    return this.steps.reduce((best, { step }) => (Math.abs(step - view.pinned) < Math.abs(best - view.pinned) ? step : best), last);
  }

  go(step) {
    this.prompt = null;
    this.search.value = "";
    writeUrl({ q: "", prompt: "" });
    view.set({ pinned: step });
    this.show();
  }

  choose(kind) {
    this.kind = kind;
    writeUrl({ groups: kind === "any" ? "" : kind });
    if (this.prompt !== null || this.search.value) this.go(view.pinned);
    else this.show();
  }

  followPrompt(prompt) {
    this.prompt = prompt;
    this.search.value = "";
    writeUrl({ prompt, q: "" });
    this.show();
  }

  typed() {
    clearTimeout(this.typing);
    this.typing = setTimeout(() => {
      this.prompt = null;
      writeUrl({ q: this.search.value, prompt: "" });
      this.show();
    }, TYPING_MS);
  }

  // ---- what is shown

  async show() {
    const [step, looked] = [this.current(), this.search.value];
    const key = JSON.stringify([this.run, looked ? ["find", looked] : this.prompt !== null ? ["prompt", this.prompt, this.steps.length] : [step, this.kind]]);
    this.strip.draw(this.steps, looked || this.prompt !== null ? null : step);
    for (const button of this.kinds) button.setAttribute("aria-pressed", String(button.dataset.name === this.kind && !looked && this.prompt === null));
    this.newest.hidden = view.pinned === null && !looked && this.prompt === null;
    this.tools.hidden = this.strip.element.hidden = !this.steps.length;
    if (key === this.shown) return;
    this.shown = key;
    try {
      const parts = await (looked ? this.found(looked) : this.prompt !== null ? this.ofPrompt() : this.ofStep(step));
      if (this.shown === key) this.body.replaceChildren(...parts);
    } catch (error) {
      if (this.shown === key) { this.shown = null; setText(this.status, error.message); }
    }
  }

  async ofStep(step) {
    if (step === null) return [this.nothingYet()];
    const { rows } = await get(`/api/runs/${this.run}/rollouts?step=${step}&order=group&groups=${this.kind}`);
    const groups = Map.groupBy(rows, (row) => row.problem);
    const dead = [...groups.values()].filter((group) => new Set(group.map((row) => row.reward)).size === 1).length;
    setText(this.status, !groups.size ? "" : `Step ${step}: ${groups.size} ${groups.size === 1 ? "group" : "groups"} kept`
      + (dead ? `, ${dead} without a signal: all their completions have the same reward.` : "."));
    if (!groups.size) return [el("p", { class: "bgpo-card none", text: NOTHING[this.kind] })];
    return [...groups.values()].map((group) => new GroupCard(this.run, group, (prompt) => this.followPrompt(prompt)).element);
  }

  async ofPrompt() {
    const groups = await get(`/api/runs/${this.run}/rollouts/prompt?prompt=${encodeURIComponent(this.prompt)}`);
    setText(this.status, groups.length ? `This prompt was drawn and kept at ${groups.length} ${groups.length === 1 ? "step" : "steps"}.` : "");
    return promptLine(this.run, this.prompt, groups, (step) => this.go(step));
  }

  async found(looked, before = "") {
    const answer = await get(`/api/runs/${this.run}/search?q=${encodeURIComponent(looked)}&before=${before}`);
    if (!before) setText(this.status, answer.rows.length ? `${answer.rows.length}${answer.before ? " newest" : ""} completions hold it, newest first.` : "");
    return foundList(answer, looked, (step) => this.go(step), () => this.found(looked, answer.before));
  }

  nothingYet() {
    const run = live.run(this.run);
    const going = ["queued", "launching", "running", "paused"].includes(run?.status);
    return el("p", { class: "bgpo-card none", text: going
      ? "The first groups come with the first training step, after the warm start."
      : !run?.step ? "The run ended before its first training step, so there are no rollouts."
      : "No rollouts were kept. The knob keep_rollouts says how many groups of each step a run keeps." });
  }
}
