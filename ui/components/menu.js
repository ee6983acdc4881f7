// A button with a small menu: popover, so that a press elsewhere or Esc closes it. Arrow keys walk through it. One that
// holds fields or other parts besides its entries is a dialog to those who hear the page, and its entries are buttons.

import { el, styles } from "./dom.js";

// items(): [{ text, run, pressed? (true or false makes it a switch), danger?, key? } | null for a line | Node], asked for at each opening
export function menuButton(label, items, options = {}) {
  styles("menu");
  const { symbol = null, ...attributes } = { class: "bgpo-menu-button", ...options };
  const box = el("div", { class: "bgpo-menu", popover: "auto", "aria-label": label });
  const button = el("button", { type: "button", "aria-haspopup": "menu", "aria-expanded": "false", "aria-label": symbol ? label : null,
    title: symbol ? label : null, text: symbol || label, ...attributes });
  const open = () => {
    const found = items(), mixed = found.some((item) => item instanceof Node);
    box.setAttribute("role", mixed ? "dialog" : "menu");
    button.setAttribute("aria-haspopup", mixed ? "dialog" : "menu");
    box.replaceChildren(...found.map((item) => (item instanceof Node ? item : item ? entry(item, box, mixed) : el("hr"))));
    (document.querySelector(".gradio-container") || document.body).append(box);
    box.showPopover();
    place(box, button);
    box.querySelector("button, input")?.focus();
  };
  button.addEventListener("click", () => { if (box.matches(":popover-open")) box.hidePopover(); else open(); });
  button.closeMenu = () => { if (box.matches(":popover-open")) box.hidePopover(); };
  box.addEventListener("toggle", (event) => {
    button.setAttribute("aria-expanded", String(event.newState === "open"));
    if (event.newState === "closed") { if (box.contains(document.activeElement) || document.activeElement === document.body) button.focus({ preventScroll: true }); box.remove(); }
  });
  box.addEventListener("keydown", (event) => walk(event, box));
  return button;
}

function entry(item, box, mixed) {
  const state = item.pressed === undefined ? null : String(item.pressed);
  const roles = mixed ? { "aria-pressed": state } : { role: state === null ? "menuitem" : "menuitemcheckbox", "aria-checked": state };
  return el("button", { type: "button", ...roles, class: `entry ${item.danger ? "danger" : ""}`, disabled: Boolean(item.disabled),
    on: { click: () => { box.hidePopover(); item.run(); } } },
  el("span", { class: "tick", "aria-hidden": "true", text: item.pressed ? "✓" : "" }), el("span", { class: "what", text: item.text }), item.key ? el("kbd", { text: item.key, "aria-hidden": "true" }) : null);
}

function place(box, button) {
  const at = button.getBoundingClientRect(), { width, height } = box.getBoundingClientRect();
  const left = Math.max(8, Math.min(at.right - width, innerWidth - width - 8));
  const below = at.bottom + 4 + height <= innerHeight - 8;
  box.style.left = `${at.left + width + 8 < innerWidth && at.left < innerWidth / 2 ? at.left : left}px`;
  box.style.top = `${below ? at.bottom + 4 : Math.max(8, at.top - 4 - height)}px`;
}

function walk(event, box) {
  const move = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!move || event.target.matches("textarea")) return;
  const parts = [...box.querySelectorAll("button:not(:disabled), input")];
  event.preventDefault();
  parts[(parts.indexOf(document.activeElement) + move + parts.length) % parts.length]?.focus();
}
