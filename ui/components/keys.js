// The keyboard: what is done often has a key, and `?` shows them all.
//
// keys.add("j", "Next run", "Runs", () => ...) from any module. Nothing happens while somebody types, but for Ctrl+Enter.
// A part that listens for keys of its own while it has the focus tells the sheet: keys.note("Home", "First step", ...).

import { el, styles } from "./dom.js";

const GROUPS = ["Runs", "Charts", "Denoising", "Everywhere"];
const NAMES = { " ": "Space", ArrowUp: "↑", ArrowDown: "↓", ArrowLeft: "←", ArrowRight: "→", Escape: "Esc" };

class Keys {
  constructor() {
    this.known = new Map(); // key -> { words, group, action }
    this.notes = []; // [key, { words, group }] of keys that others listen for
    document.addEventListener("keydown", (event) => this.pressed(event));
    this.add("?", "This sheet", "Everywhere", () => this.sheet());
  }

  // `action` may return false to say that the key was not for it; the browser then does what it does by itself.
  add(key, words, group, action) { this.known.set(key, { words, group, action }); }

  note(key, words, group) { this.notes.push([key, { words, group }]); }

  pressed(event) {
    if (event.defaultPrevented || event.altKey || event.isComposing || document.querySelector("dialog[open]")) return;
    const control = event.ctrlKey || event.metaKey, go = control && event.key === "Enter";
    if ((control || typing(event.target)) && !go) return;
    if (!go && (event.key === " " || event.key === "Enter") && event.target.closest?.("button, a, summary, [role=button], [role=tab]")) return;
    const found = this.known.get(go ? "Ctrl+Enter" : event.key);
    if (found && found.action(event) !== false) event.preventDefault();
  }

  sheet() {
    styles("keys");
    const close = () => { dialog.close(); dialog.remove(); };
    const all = [...this.known, ...this.notes].filter(([, item]) => item.words);
    const groups = GROUPS.filter((group) => all.some(([, item]) => item.group === group));
    const dialog = el("dialog", { class: "bgpo-dialog bgpo-keys", "aria-label": "Keyboard", on: { click: (event) => { if (event.target === dialog) close(); } } },
      el("header", {}, el("h3", { text: "Keyboard" }), el("button", { type: "button", class: "bgpo-button small", text: "Close", on: { click: close } })),
      el("div", { class: "groups" }, ...groups.map((group) => el("section", {}, el("h4", { class: "bgpo-eyebrow", text: group }),
        el("dl", {}, ...all.filter(([, item]) => item.group === group).map(([key, item]) => el("div", {},
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
