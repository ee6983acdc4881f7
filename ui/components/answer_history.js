// The answers of this page, newest first. They live in the browser only and can be shown again on the stage.

import { el, styles } from "/assets/dom.js";

const KEPT = 20;

export class AnswerHistory {
  /** show(events) puts an answer back on the stage. */
  constructor(element, show) {
    styles("chat_page");
    this.show = show;
    this.answers = [];
    this.list = el("ol", { class: "ah-list" });
    this.root = el("section", { class: "ah", hidden: true, "aria-label": "Answers so far" },
      el("h3", { class: "bgpo-eyebrow" }, "Answers so far"), this.list);
    element.append(this.root);
  }

  /** value: {label, settings, events} of one finished or stopped generation. */
  add(value) {
    this.answers = [value, ...this.answers].slice(0, KEPT);
    this.root.hidden = false;
    this.list.replaceChildren(...this.answers.map((answer) => this.row(answer)));
  }

  row(answer) {
    const start = answer.events.find((event) => event.kind === "start");
    const end = answer.events.find((event) => ["end", "stopped"].includes(event.kind));
    const verdict = end.verdict;
    const good = verdict && verdict.reward >= 0.999;
    const mark = verdict ? `Reward ${Number(verdict.reward.toFixed(2))}` : end.kind === "stopped" ? "Stopped" : "Not judged";
    return el("li", {}, el("button", { type: "button", class: "ah-row", title: "Show on the stage again",
      on: { click: () => this.show(answer.events) } },
    el("span", { class: "ah-exchange" }, el("span", { class: "ah-prompt" }, start?.prompt ?? ""),
      el("span", { class: "ah-arrow", "aria-label": "answered" }, "\u2192"),
      el("span", { class: "ah-text" }, end.text || (end.kind === "stopped" ? "\u2026" : "(empty)"))),
    el("span", { class: `bgpo-chip ${verdict ? (good ? "good" : "bad") : ""}` }, mark),
    el("span", { class: "ah-label" }, [answer.label, answer.settings].filter(Boolean).join(" \u00b7 "))));
  }
}
