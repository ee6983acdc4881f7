// The keyboard: what is done often has a key, and `?` shows them all.
//
// keys.add("j", "Next run", "Runs", () => ...) from any module. Nothing happens while somebody types.

import { el, styles } from "/assets/dom.js";

const GROUPS = ["Runs", "Charts", "Rollouts", "Everywhere"];
const NAMES = { " ": "Space", ArrowUp: "↑", ArrowDown: "↓", ArrowLeft: "←", ArrowRight: "→", Escape: "Esc" };

class Keys {
  constructor() {
    this.known = new Map(); // key -> { words, group, action }
    document.addEventListener("keydown", (event) => this.pressed(event));
    this.add("?", "This sheet", "Everywhere", () => this.sheet());
  }

  // `action` may return false to say that the key was not for it; the browser then does what it does by itself.
  add(key, words, group, action) { this.known.set(key, { words, group, action }); }

  pressed(event) {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (typing(event.target) || document.querySelector("dialog[open]")) return;
    if ((event.key === " " || event.key === "Enter") && event.target.closest?.("button, a, summary, [role=button], [role=tab]")) return;
    const found = this.known.get(event.key);
    if (found && found.action(event) !== false) event.preventDefault();
  }

  sheet() {
    styles("keys");
    const close = () => { dialog.close(); dialog.remove(); };
    const groups = GROUPS.filter((group) => [...this.known.values()].some((item) => item.group === group));
    const dialog = el("dialog", { class: "bgpo-dialog bgpo-keys", "aria-label": "Keyboard", on: { click: (event) => { if (event.target === dialog) close(); } } },
      el("header", {}, el("h3", { text: "Keyboard" }), el("button", { type: "button", class: "bgpo-button small", text: "Close", on: { click: close } })),
      el("div", { class: "groups" }, ...groups.map((group) => el("section", {}, el("h4", { class: "bgpo-eyebrow", text: group }),
        el("dl", {}, ...[...this.known].filter(([, item]) => item.group === group && item.words).map(([key, item]) => el("div", {},
          el("dt", {}, el("kbd", { text: NAMES[key] || key })), el("dd", { text: item.words }))))))));
    dialog.addEventListener("close", () => dialog.remove());
    (document.querySelector(".gradio-container") || document.body).append(dialog);
    dialog.showModal();
  }
}

function typing(target) {
  return target instanceof Element && (target.matches("textarea, select, [contenteditable=''], [contenteditable=true]")
    || (target.matches("input") && !["checkbox", "radio", "button", "range"].includes(target.type)));
}

export const keys = new Keys();
