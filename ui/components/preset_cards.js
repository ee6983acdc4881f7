// The presets of the New run page as cards, one of them chosen.

import { el, styles } from "/assets/dom.js";

export function mount(element, props, watch, trigger) {
  styles("new_run");
  const cards = el("div", { class: "pc-cards", role: "radiogroup", "aria-label": "Preset" });
  element.append(el("h2", { class: "pc-title" }, "New run"),
    el("p", { class: "pc-lead" }, "Take a preset as it is, or change any knob below. Nothing starts before you press Start."), cards);
  const choose = (name) => trigger("click", { preset: name });
  const draw = () => {
    const { presets = [], chosen } = props.value ?? {};
    cards.replaceChildren(...presets.map((preset) => card(preset, preset.name === chosen, choose)));
  };
  cards.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    const all = [...cards.children];
    const next = all[(all.indexOf(document.activeElement) + by + all.length) % all.length];
    choose(next.dataset.name);
    // the cards are drawn anew with the answer, so focus follows then
    setTimeout(() => cards.querySelector(`[data-name="${CSS.escape(next.dataset.name)}"]`)?.focus(), 250);
  });
  draw();
  watch("value", draw);
}

function card(preset, chosen, choose) {
  return el("button", { type: "button", class: "pc-card", role: "radio", "aria-checked": String(chosen), "data-name": preset.name,
    tabindex: chosen ? "0" : "-1", on: { click: () => choose(preset.name) } },
  el("b", {}, preset.title), el("span", { class: "pc-summary" }, preset.summary),
  el("span", { class: "pc-example bgpo-mono" }, preset.example));
}
