// The System page: sections of facts and snippets to copy.

import { copyText, el, styles } from "./dom.js";

export function mount(element, props, watch) {
  styles("system_facts");
  const root = el("div", { class: "sf" });
  const archives = archiveCard();
  element.append(root);
  const draw = () => {
    const value = props.value;
    if (!value?.sections) {
      root.replaceChildren(el("p", { class: "bgpo-soft" }, "Looking\u2026"));
      return;
    }
    root.replaceChildren(...value.sections.map(section), archives, el("section", { class: "sf-card sf-wide" },
      el("h3", {}, "Without the pages"), ...value.snippets.map(snippet)));
  };
  draw();
  watch("value", draw);
}

// A run that was downloaded elsewhere comes in under a new number.
function archiveCard() {
  const said = el("p", { class: "bgpo-soft", role: "status" });
  const file = el("input", { type: "file", accept: ".zip,application/zip", "aria-label": "Archive of a run", on: { change: async () => {
    if (!file.files.length) return;
    said.textContent = "Taking it in\u2026";
    file.disabled = true;
    try {
      const response = await fetch("/api/archives", { method: "POST", headers: { "Content-Type": "application/zip" }, body: file.files[0] });
      const answer = await response.json().catch(() => ({}));
      if (!response.ok) throw new Error(answer.error || `The app answered with status ${response.status}.`);
      said.replaceChildren("It is ", el("a", { href: `?run=${answer.id}`, text: `run ${answer.id}, ${answer.name}` }), ".");
    } catch (error) {
      said.textContent = error.message;
    }
    file.disabled = false;
    file.value = "";
  } } });
  return el("section", { class: "sf-card" }, el("h3", {}, "Import a run"),
    el("p", { class: "bgpo-soft", text: "An archive that a run's list of checkpoints offers for download." }),
    el("label", { class: "bgpo-button small sf-file" }, "Choose an archive", file), said);
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
