// What Start will do, in words, beside the form; and the sentences at the form's fields.

import { configFile } from "./config_file.js";
import { copyText, el, styles } from "./dom.js";
import { goTo, keepErrors, placeErrors } from "./field_errors.js";
import { live } from "./live.js";
import { showTask } from "./task_preview.js";

export function mount(element, props, watch, trigger) {
  styles("new_run");
  styles("field_errors");
  const card = el("section", { class: "lc", "aria-label": "What will happen", "aria-live": "polite" });
  element.append(card);
  const form = document.getElementById("new-run-body");
  const draw = () => {
    const value = props.value;
    if (!value?.prefix) return;
    showTask(value.task);
    placeErrors(value.prefix, value.problems, value.names);
    card.replaceChildren(...parts(value, form).filter(Boolean));
    document.getElementById("new-run-start")?.classList.toggle("lc-refused", Object.keys(value.problems).length > 0);
  };
  if (form) keepErrors("knob-", form);
  draw();
  watch("value", draw);
  followQueue(element, props, trigger);
}

// The line on when it starts is true only until the queue changes; it is then asked for again, if anybody sees it.
function followQueue(element, props, trigger) {
  const state = () => JSON.stringify([live.queue, live.list().map((run) => [run.id, run.status, run.queue_place])]);
  let known = state();
  live.watch(element, ["runs", "queue"], () => {
    const said = props.value;
    // what an address asked for in vain, or why Start was refused, is said once and stays
    if (!element.offsetParent || !said?.starts || said.notes.length || said.refused || state() === known) return;
    known = state();
    trigger("click");
  });
}

function parts(value, form) {
  const problems = Object.entries(value.problems);
  const notes = [...(value.refused ? [value.refused] : []), ...value.notes].map((note) => el("p", { class: "lc-note" }, note));
  if (problems.length) return [problemList(value, problems, form), ...notes];
  return [
    el("p", { class: "lc-starts" }, value.refused ? "Nothing was started" : value.starts),
    ...notes,
    value.group?.length ? el("ul", { class: "lc-group" }, ...value.group.map((line) => el("li", {}, line))) : null,
    el("ul", { class: "lc-plan" }, ...value.plan.map((line) => el("li", {}, line))),
    ...memory(value.memory),
    el("h3", { class: "bgpo-eyebrow" }, `Changed from \u201c${value.preset}\u201d`),
    value.changes.length
      ? el("dl", { class: "lc-changes" }, ...value.changes.flatMap(([name, before, after]) => [
        el("dt", {}, name), el("dd", {}, el("span", {}, before), el("i", { "aria-label": "to" }, "\u2192"), el("b", {}, after))]))
      : el("p", { class: "lc-none" }, "Nothing: the preset as it is."),
    ...command(value.command), configFile(value.config),
  ];
}

function problemList(value, problems, form) {
  const title = problems.length === 1 ? "One field needs another value" : `${problems.length} fields need other values`;
  const unfold = (name) => () => {
    const wanted = value.folds[name];
    for (const button of form?.querySelectorAll("button.label-wrap") ?? []) {
      if (wanted && button.textContent.includes(wanted) && !button.classList.contains("open")) button.click();
    }
  };
  return el("div", { class: "lc-problems" }, el("p", { class: "lc-starts" }, title),
    el("ul", {}, ...problems.map(([name, sentence]) => el("li", {},
      el("button", { type: "button", on: { click: () => goTo(value.prefix, name, unfold(name)) } }, value.labels[name] ?? name),
      el("span", {}, sentence)))));
}

// What the run will hold, part by part, against what is free.
function memory(found) {
  if (!found) return [];
  const whole = Math.max(found.total ?? 0, found.free ?? 0) || 1;
  const bar = el("div", { class: "lc-bar", role: "img", "aria-label": found.words }, ...found.parts.map(([name, label, size, words]) =>
    el("i", { class: `lc-part ${name}`, title: `${label}: ${words}`, style: { width: `${(100 * size) / whole}%` } })));
  const list = el("ul", { class: "lc-parts" }, ...found.parts.map(([name, label, , words]) => el("li", {},
    el("i", { class: `lc-part ${name}`, "aria-hidden": "true" }), el("span", {}, label), el("b", {}, words))));
  return [el("h3", { class: "bgpo-eyebrow" }, "Memory, estimated"),
    el("p", { class: "lc-memory" }, found.words), ...(found.warning ? [el("p", { class: "lc-note" }, found.warning)] : []),
    ...(found.parts.length ? [bar, list, el("p", { class: "lc-detail" }, found.detail)] : [])];
}

function command(text) {
  const code = el("code", {}, text);
  const button = el("button", { type: "button", class: "bgpo-button small", on: { click: async () => {
    const copied = await copyText(text, code);
    button.textContent = copied ? "Copied" : "Selected: press Ctrl+C";
    setTimeout(() => { button.textContent = "Copy"; }, 1800);
  } } }, "Copy");
  return [el("div", { class: "lc-command-head" }, el("h3", { class: "bgpo-eyebrow" }, "The same without a browser"), button),
    el("pre", { class: "lc-command", tabindex: "0" }, code)];
}
