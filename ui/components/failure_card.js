// Why a run failed, what one click does about it, and the last lines of its log.

import { el } from "./dom.js";
import { openForm } from "./fork.js";

// act(action, button): carries out an action of the run's routes.
export function failureCard(run, act) {
  const { title, fix, action, form } = run.failure || { title: "This run failed", fix: "Retry", action: "resume", form: "" };
  const press = (event) => { if (form) openForm(form); else act(action, event.currentTarget); };
  return [
    el("div", { class: "cause" },
      el("div", {}, el("h3", { text: title }), el("p", { text: run.reason || "The process ended without saying why." })),
      el("button", { type: "button", class: "bgpo-button primary fix", text: fix, on: { click: press } })),
    el("p", { class: "bgpo-soft", text: `Everything measured so far is kept.${run.retries ? ` It was started again ${run.retries === 1 ? "once" : `${run.retries} times`} by itself.` : ""}` }),
    el("div", { class: "bgpo-eyebrow", text: "Last lines of its log" }), el("pre", { class: "bgpo-mono", tabindex: "0", "aria-label": "Last lines of the log" }),
  ];
}
