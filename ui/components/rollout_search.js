// Completions that hold a text, newest first, with the text marked; a press goes to the step.

import { el, figure } from "./dom.js";
import { verdictOf } from "./rollout_group.js";

const AROUND = 80; // characters shown before and after the first place

/** answer: {rows, before}; go(step) opens a step; more() gives the next page's elements. */
export function foundList(answer, looked, go, more) {
  if (!answer.rows.length) return [el("p", { class: "bgpo-card none", text: "No kept completion of this run holds that text." })];
  const rest = answer.before && el("button", { type: "button", class: "bgpo-button more", text: "Show older ones", on: { click: async (event) => {
    event.currentTarget.disabled = true;
    rest.replaceWith(...await more());
  } } });
  const list = el("div", { class: "bgpo-card found" }, ...answer.rows.map((row) => item(row, looked, go)));
  return rest ? [list, rest] : [list];
}

function item(row, looked, go) {
  return el("button", { type: "button", class: "hit", title: row.reason, on: { click: () => go(row.step) } },
    el("span", { class: "at", text: `step ${row.step}` }), el("span", { class: "prompt bgpo-mono", text: row.prompt }),
    el("span", { class: "text bgpo-mono" }, ...marked(row.completion, looked)),
    el("span", { class: `bgpo-chip ${{ right: "good", partly: "warn", wrong: "bad" }[verdictOf(row)]}`, text: figure(row.reward) }));
}

export function marked(text, looked) {
  const place = text.toLowerCase().indexOf(looked.toLowerCase());
  if (place < 0) return [text.slice(0, 2 * AROUND)];
  const [start, end] = [Math.max(0, place - AROUND), place + looked.length];
  return [
    (start ? "…" : "") + text.slice(start, place), el("mark", { text: text.slice(place, end) }),
    text.slice(end, end + AROUND) + (end + AROUND < text.length ? "…" : ""),
  ];
}
