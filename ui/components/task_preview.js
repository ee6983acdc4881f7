// A look at the chosen task: real problems with the right answers, and its grader on a text that is pasted.

import { el, figure, post, styles } from "./dom.js";

const LONGEST = 20_000; // characters
const views = new Set();
let chosen = null; // the task's knobs, as the form holds them

/** The launch card says which task the form holds. */
export function showTask(knobs) {
  if (!knobs || JSON.stringify(knobs) === JSON.stringify(chosen)) return;
  chosen = knobs;
  for (const view of views) view.changed();
}

export function mount(element) {
  styles("task_preview");
  const view = new TaskPreview(element);
  views.add(view);
  view.changed();
}

class TaskPreview {
  constructor(element) {
    this.shown = null; // the knobs whose problems are shown, as JSON
    this.body = el("div", { class: "body", "aria-live": "polite" });
    this.fold = el("details", { class: "fold", on: { toggle: () => this.changed() } },
      el("summary", {}, el("b", {}, "Look at the task"), el("span", {}, "its problems, and its grader on your text")), this.body);
    element.append(this.fold);
  }

  // Problems are read when somebody looks, and again when the task is another one; typing a path asks once it rests.
  changed() {
    clearTimeout(this.timer);
    const wanted = JSON.stringify(chosen);
    if (!this.fold.open || !chosen || wanted === this.shown) return;
    this.timer = setTimeout(() => this.load(wanted), this.shown === null ? 0 : 400);
  }

  async load(wanted) {
    this.shown = wanted;
    this.body.replaceChildren(el("p", { class: "soft" }, "Reading the task\u2019s problems\u2026"));
    let parts;
    try {
      parts = this.problems(await post("/api/task/preview", { knobs: JSON.parse(wanted) }), wanted);
    } catch (error) {
      parts = [el("p", { class: "wrong" }, error.message), el("button", { type: "button", class: "bgpo-button small",
        on: { click: () => this.load(wanted) } }, "Try again")];
    }
    if (this.shown === wanted) this.body.replaceChildren(...parts);
  }

  problems(found, wanted) {
    if (!found.problems.length) return [el("p", { class: "soft" }, "The task has no problems to learn from.")];
    const grader = new Grader(wanted);
    const buttons = found.problems.map((problem) => el("button", { type: "button", class: "problem", "aria-pressed": "false",
      on: { click: () => choose(problem.index) } },
    el("span", { class: "prompt" }, problem.prompt), el("span", { class: "answer" }, el("i", {}, "right answer"), el("b", {}, problem.expected || "judged by tests"))));
    const choose = (index) => {
      buttons.forEach((button, place) => button.setAttribute("aria-pressed", String(found.problems[place].index === index)));
      grader.choose(found.problems.find((problem) => problem.index === index));
    };
    choose(found.problems[0].index);
    return [el("p", { class: "soft" }, sizes(found.sizes)), el("div", { class: "problems" }, ...buttons), grader.node];
  }
}

function sizes(found) {
  const names = { train: "to learn from", validation: "to choose checkpoints by", held_out: "held out" };
  const parts = Object.entries(found).map(([split, count]) => `${count.toLocaleString("en")} ${names[split] ?? split}`);
  return parts.length ? `${parts.join(", ")}. Some of those to learn from; choose one to try the grader on:`
    : "The task makes its problems. Some of them; choose one to try the grader on:";
}

class Grader {
  constructor(knobs) {
    this.knobs = JSON.parse(knobs);
    this.text = el("textarea", { rows: 3, maxlength: LONGEST, spellcheck: "false", "aria-label": "A completion to judge" });
    this.verdict = el("div", { class: "verdict", role: "status" });
    this.button = el("button", { type: "button", class: "bgpo-button", on: { click: () => this.judge() } }, "Judge it");
    const right = el("button", { type: "button", class: "bgpo-button", on: { click: () => {
      this.text.value = this.problem.expected;
      this.judge();
    } } }, "Take the right answer");
    this.right = right;
    this.text.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
      event.preventDefault(); // it would start the run
      this.judge();
    });
    this.node = el("div", { class: "grader" }, el("h4", {}, "What a model might answer"), this.text,
      el("div", { class: "buttons" }, this.button, right), this.verdict);
  }

  choose(problem) {
    this.problem = problem;
    this.right.hidden = !problem.expected;
    this.verdict.replaceChildren();
  }

  async judge() {
    const asked = this.problem;
    this.button.disabled = true;
    this.verdict.replaceChildren(el("p", { class: "soft" }, "Judging\u2026"));
    try {
      const found = await post("/api/task/grade", { knobs: this.knobs, index: asked.index, text: this.text.value });
      if (this.problem === asked) this.verdict.replaceChildren(...verdict(found));
    } catch (error) {
      if (this.problem === asked) this.verdict.replaceChildren(el("p", { class: "wrong" }, error.message));
    }
    this.button.disabled = false;
  }
}

function verdict(found) {
  const [tone, word] = found.solved ? ["good", "Right"] : found.total > 0 ? ["warn", "Partly"] : ["bad", "Wrong"];
  return [el("p", { class: "line" }, el("span", { class: `bgpo-chip ${tone}` }, word), el("b", {}, `Reward ${figure(found.total)}`),
    el("span", {}, found.reason)),
  ...(found.parts.length ? [el("dl", {}, ...found.parts.map(([name, value, help]) => el("div", { title: help }, el("dt", {}, name), el("dd", {}, figure(value)))))] : [])];
}
