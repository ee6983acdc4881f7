// A config as a file: dropped in or chosen, it fills the New run form; copied or saved, it goes along with a command.

import { copyText, download, el, styles } from "./dom.js";

const MOST_BYTES = 64 * 1024;

export function mount(element, props, watch, trigger) {
  styles("config_file");
  const input = el("input", { type: "file", accept: ".json,application/json", "aria-label": "Config file" });
  const said = el("div", { class: "said", role: "status" });
  element.append(el("div", { class: "strip" }, el("span", {}, "Have a config file? Drop it anywhere on this page, or "),
    el("label", { class: "bgpo-button small" }, "Choose a file", input)), said);
  const tell = (line, notes = []) => said.replaceChildren(...(line ? [el("p", {}, line)] : []),
    ...(notes.length ? [el("ul", {}, ...notes.map((note) => el("li", {}, note)))] : []));
  const take = async (file) => {
    if (!file) return;
    if (file.size > MOST_BYTES) return tell(`${file.name} is larger than 64 KB, so it is no config of a run.`);
    tell(`Reading ${file.name}`);
    trigger("click", { name: file.name, text: await file.text() });
  };
  input.addEventListener("change", async () => { await take(input.files[0]); input.value = ""; });
  droppable(element.closest(".tabitem") ?? element, element, take);
  watch("value", () => tell(props.value?.said, props.value?.notes));
}

// Takes a file that is dropped on `area`, and marks `strip` while one hovers over it.
function droppable(area, strip, take) {
  const holdsFile = (event) => event.dataTransfer?.types.includes("Files");
  area.addEventListener("dragover", (event) => {
    if (!holdsFile(event)) return;
    event.preventDefault();
    strip.classList.add("over");
  });
  area.addEventListener("dragleave", (event) => { if (!area.contains(event.relatedTarget)) strip.classList.remove("over"); });
  area.addEventListener("drop", (event) => {
    strip.classList.remove("over");
    if (!holdsFile(event)) return;
    event.preventDefault();
    take(event.dataTransfer.files[0]);
  });
}

// The config folded, with buttons to copy it and to save it. `text`: the file's.
export function configFile(text, name = "config.json") {
  styles("config_file");
  const code = el("pre", { class: "bgpo-mono", tabindex: "0" }, text);
  const fold = el("details", {}, el("summary", {}, "Show the file"), code);
  const copy = el("button", { type: "button", class: "bgpo-button small", on: { click: async () => {
    const copied = await copyText(text, code);
    if (!copied) {
      fold.open = true;
      getSelection().selectAllChildren(code); // once more: what is folded cannot be selected
    }
    copy.textContent = copied ? "Copied" : "Selected: press Ctrl+C";
    setTimeout(() => { copy.textContent = "Copy config"; }, 1800);
  } } }, "Copy config");
  const save = el("button", { type: "button", class: "bgpo-button small", on: {
    click: () => download(new Blob([text], { type: "application/json" }), name) } }, "Download config");
  return el("div", { class: "bgpo-config-as-file" }, el("div", { class: "buttons" }, copy, save), fold);
}
