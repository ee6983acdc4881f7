// What was asked and answered on this page, oldest first, each answer with its denoising. It lives in the browser only.

import { el, setText, styles } from "./dom.js";

const KEPT = 50;

export class Conversation {
  /** show(events) puts an answer back on the stage. */
  constructor(element, show) {
    styles("chat_page");
    this.show = show;
    this.turns = new Map(); // number of the turn -> {value, row}
    this.title = el("h3", { class: "bgpo-eyebrow" });
    this.list = el("ol", { class: "cv-list", tabindex: "0", "aria-label": "Turns so far" });
    this.root = el("section", { class: "cv", hidden: true, "aria-label": "Conversation" }, this.title, this.list);
    element.append(this.root);
  }

  clear() {
    this.turns.clear();
    this.draw();
  }

  /** value: {turn, label, settings, events} of one finished or stopped answer; later turns than this one are gone. */
  put(value) {
    for (const number of [...this.turns.keys()]) if (number >= value.turn) this.turns.delete(number);
    this.turns.set(value.turn, { value, row: this.row(value) });
    for (const number of [...this.turns.keys()].slice(0, -KEPT)) this.turns.delete(number);
    this.mark(value.turn);
    this.draw();
    this.list.scrollTop = this.list.scrollHeight;
  }

  draw() {
    this.root.hidden = this.turns.size === 0;
    setText(this.title, `Conversation, ${this.turns.size} ${this.turns.size === 1 ? "turn" : "turns"}`);
    this.list.replaceChildren(...[...this.turns.values()].map(({ row }) => row));
  }

  mark(shown) {
    for (const [number, { row }] of this.turns) row.firstChild.setAttribute("aria-current", String(number === shown));
  }

  row(value) {
    const start = value.events.find((event) => event.kind === "start");
    const end = value.events.findLast((event) => ["end", "stopped"].includes(event.kind));
    const stopped = end.kind === "stopped";
    const verdict = end.verdict;
    const good = verdict && (verdict.solved ?? verdict.reward >= 0.999);
    const mark = verdict ? `Reward ${Number(verdict.reward.toFixed(2))}` : stopped ? "Stopped" : "Not judged";
    const again = () => { this.show(value.events); this.mark(value.turn); };
    return el("li", {}, el("button", { type: "button", class: "cv-row", title: "Show its denoising", on: { click: again } },
      el("span", { class: "cv-number", "aria-hidden": "true" }, value.turn + 1),
      el("span", { class: "cv-asked" }, value.asked ?? start?.prompt ?? ""),
      el("span", { class: `cv-answer${stopped ? " cv-cut" : ""}` }, stopped ? "stopped; later turns do not read it" : end.text || "(empty)"),
      el("span", { class: `bgpo-chip ${verdict ? (good ? "good" : "bad") : ""}` }, mark),
      el("span", { class: "cv-label" }, [value.label, value.settings, turnWords(start)].filter(Boolean).join(" \u00b7 "))));
  }
}

/** What of the conversation an answer has read. */
export function turnWords(start) {
  const read = start?.turns ?? 0;
  const left = start?.turns_left_out ?? 0;
  if (!read) return "";
  const words = `reads ${read === 1 ? "the turn" : `the ${read} turns`} before it`;
  return left ? `${words}; ${left} older ${left === 1 ? "does" : "do"} not fit` : words;
}
