// The System page: sections of facts and snippets to copy.

import { copyText, el, styles } from "/assets/dom.js";

export function mount(element, props, watch) {
  styles("system_facts");
  const root = el("div", { class: "sf" });
  element.append(root);
  const draw = () => {
    const value = props.value;
    if (!value?.sections) {
      root.replaceChildren(el("p", { class: "bgpo-soft" }, "Looking\u2026"));
      return;
    }
    root.replaceChildren(...value.sections.map(section), el("section", { class: "sf-card sf-wide" },
      el("h3", {}, "Without the pages"), ...value.snippets.map(snippet)));
  };
  draw();
  watch("value", draw);
}

function section({ title, rows }) {
  return el("section", { class: "sf-card" }, el("h3", {}, title),
    el("dl", {}, ...rows.flatMap(([name, words]) => [el("dt", {}, name), el("dd", {}, words)])));
}

function snippet({ title, text }) {
  const code = el("code", {}, text.replaceAll("{origin}", location.origin));
  const button = el("button", { type: "button", class: "bgpo-button small", "aria-label": `Copy: ${title}`, on: { click: async () => {
    button.textContent = (await copyText(code.textContent, code)) ? "Copied" : "Selected: press Ctrl+C";
    setTimeout(() => { button.textContent = "Copy"; }, 1800);
  } } }, "Copy");
  return el("div", { class: "sf-snippet" }, el("div", { class: "sf-head" }, el("span", {}, title), button),
    el("pre", { tabindex: "0" }, code));
}
