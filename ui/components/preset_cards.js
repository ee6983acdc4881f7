// The presets of the New run page as cards, one of them chosen. Those that need a GPU are folded away until asked for.

import { el, setText, styles } from "./dom.js";

export function mount(element, props, watch, trigger) {
  styles("new_run");
  const cards = el("div", { class: "pc-cards", role: "radiogroup", "aria-label": "Preset" });
  const more = el("button", { type: "button", class: "bgpo-button small pc-more", on: { click: () => { open = !open; draw(); } } });
  let open = false;
  element.append(el("h2", { class: "pc-title" }, "New run"),
    el("p", { class: "pc-lead" }, "Take a preset as it is, or change any knob below. Nothing starts before you press Start."), cards, more);
  const choose = (name) => trigger("click", { preset: name });
  const draw = () => {
    const { presets = [], chosen } = props.value ?? {};
    const shown = presets.filter((preset) => open || !preset.gpu || preset.name === chosen);
    cards.replaceChildren(...shown.map((preset) => card(preset, preset.name === chosen, choose)));
    more.hidden = !presets.some((preset) => preset.gpu);
    more.setAttribute("aria-expanded", String(open));
    setText(more, open ? "Only those that start at once" : `${presets.length - shown.length} more for large models on a GPU`);
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
