// What the Lab is asked: checkpoints, prompt, words that stand from the start, sampler settings.

import { el, get, setText } from "./dom.js";

const MOST = 4;

export class LabForm {
  /** orders: names of the orders; told: {run(), stop(), imported(file)}. */
  constructor(orders, told) {
    this.told = told;
    this.known = [];
    this.offered = ""; // the example that was put into the prompt
    this.words = new Map(); // position -> {what: token id or text, shown}
    this.working = false;
    this.block = 1; // the length that was asked for, whatever divides the completion
    this.checkpoints = el("div", { class: "checkpoints" });
    this.more = el("button", { type: "button", class: "bgpo-button small", text: "Compare with another", hidden: true, on: { click: () => this.addCheckpoint() } });
    this.prompt = el("textarea", { rows: 2, maxlength: 4000, "aria-label": "Prompt", on: { keydown: (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) told.run(); } } });
    const number = (name, label, step, low, high) => [name, label, el("input", { type: "number", step, min: low, max: high })];
    this.fields = new Map([
      number("denoising_steps", "Steps", 1, 1, 4096), number("completion_length", "Length", 1, 1, 4096), ["block_length", "Block", el("select")],
      number("temperature", "Temperature", 0.05, 0, 5), ["remasking", "Order", el("select", {}, ...orders.map((name) => el("option", { value: name, text: name.replaceAll("_", " ") })))],
      number("seed", "Seed", 1, 0, 2 ** 31 - 1),
    ].map(([name, label, input]) => [name, { input, element: el("label", {}, el("span", { text: label }), input) }]));
    this.fields.get("completion_length").input.addEventListener("input", () => this.offerBlocks());
    this.fields.get("block_length").input.addEventListener("change", ({ target }) => { this.block = Number(target.value); });
    this.go = el("button", { type: "button", class: "bgpo-button primary", text: "Denoise", title: "Ctrl+Enter", disabled: true, on: { click: () => told.run() } });
    this.stop = el("button", { type: "button", class: "bgpo-button", text: "Stop", disabled: true, on: { click: () => told.stop() } });
    this.wrong = el("p", { class: "wrong", role: "alert" });
    this.element = el("section", { class: "bgpo-card form" }, el("h3", { text: "Checkpoints" }), this.checkpoints, this.more,
      el("h3", { text: "Prompt" }), this.prompt, this.buildWords(), el("h3", { text: "Sampler" }),
      el("div", { class: "fields" }, ...[...this.fields.values()].map(({ element }) => element)), el("div", { class: "actions" }, this.go, this.stop), this.wrong, this.buildImport());
  }

  buildWords() {
    this.place = el("input", { type: "number", min: 1, value: 1, "aria-label": "Position" });
    this.text = el("input", { type: "text", maxlength: 200, placeholder: "text", "aria-label": "Text to fix there" });
    const add = () => { if (this.text.value) { this.fix(Math.max(1, Number(this.place.value) || 1) - 1, this.text.value, this.text.value); this.text.value = ""; } };
    this.text.addEventListener("keydown", (event) => { if (event.key === "Enter") { event.preventDefault(); add(); } });
    this.list = el("ul", { class: "words" });
    return el("div", { class: "fixed" }, el("h3", { text: "Fixed words" }),
      el("div", { class: "row" }, el("span", { class: "bgpo-soft", text: "at position" }), this.place, this.text, el("button", { type: "button", class: "bgpo-button small", text: "Fix", on: { click: add } })), this.list);
  }

  buildImport() {
    const file = el("input", { type: "file", accept: ".json,application/json", hidden: true, on: { change: () => { if (file.files[0]) this.told.imported(file.files[0]); file.value = ""; } } });
    return el("div", { class: "import" }, file, el("button", { type: "button", class: "bgpo-button small", text: "Import a trace", on: { click: () => file.click() } }));
  }

  // ---- checkpoints

  /** Reads what can be asked; wanted: the checkpoint of the address, or null. */
  async load(wanted) {
    this.known = await get("/api/lab/checkpoints");
    const before = this.chosenIds();
    this.checkpoints.replaceChildren();
    const known = new Set(this.known.map(({ id }) => id));
    const ids = (wanted && known.has(wanted) ? [wanted] : before.filter((id) => known.has(id)));
    for (const id of ids.length ? ids : this.known.slice(0, 1).map(({ id }) => id)) this.addCheckpoint(id);
    if (!this.known.length) this.checkpoints.append(el("p", { class: "bgpo-soft none", text: "None yet." }));
    this.go.disabled = !this.known.length;
    this.refresh();
    if (!ids.length || wanted) this.fill();
  }

  /** The run's own checkpoint that comes closest to what it was at a step: the last one before, else the first. */
  choose(run, step) {
    const own = this.known.filter((item) => item.run === run).sort((a, b) => a.step - b.step);
    const found = own.findLast((item) => item.step <= step) ?? own[0];
    if (!found) return;
    this.checkpoints.replaceChildren();
    this.addCheckpoint(found.id);
    this.fill();
  }

  addCheckpoint(id) {
    const used = this.chosenIds();
    const next = id ?? this.known.find((item) => !used.includes(item.id))?.id ?? this.known[0]?.id;
    const select = el("select", { "aria-label": "Checkpoint", on: { change: () => { if (select === this.checkpoints.querySelector("select")) this.fill(); } } },
      ...this.known.map((item) => el("option", { value: item.id, text: item.label, selected: item.id === next })));
    const row = el("div", { class: "row" }, select, el("button", { type: "button", class: "bgpo-button small", text: "Remove", on: { click: () => { row.remove(); this.refresh(); } } }));
    this.checkpoints.append(row);
    this.refresh();
  }

  refresh() {
    const rows = this.checkpoints.querySelectorAll(".row");
    this.more.hidden = rows.length >= MOST || this.known.length < 2;
    for (const row of rows) row.querySelector("button").hidden = rows.length < 2;
  }

  chosenIds() { return [...this.checkpoints.querySelectorAll("select")].map((select) => Number(select.value)); }
  chosen() { return this.chosenIds().map((id) => this.known.find((item) => item.id === id)).filter(Boolean); }

  // ---- settings

  /** Settings of the first checkpoint's run, and an example of its task where nobody has written. */
  fill() {
    const [first] = this.chosen();
    if (!first) return;
    for (const [name, { input }] of this.fields) input.value = first.settings[name];
    this.block = first.settings.block_length;
    this.offerBlocks();
    this.prompt.placeholder = first.placeholder;
    if (["", this.offered].includes(this.prompt.value)) this.prompt.value = first.placeholder; // not what somebody wrote
    this.offered = first.placeholder;
  }

  /** The block lengths that divide the completion; chosen is the longest that is not above the one that was asked for. */
  offerBlocks() {
    const length = Number(this.fields.get("completion_length").input.value);
    if (!Number.isInteger(length) || length < 1 || length > 4096) return; // half typed
    const fitting = Array.from({ length }, (_, index) => index + 1).filter((block) => length % block === 0);
    const blocks = this.fields.get("block_length").input;
    blocks.replaceChildren(...fitting.map((block) => el("option", { value: block, text: block })));
    blocks.value = fitting.findLast((block) => block <= this.block);
  }

  settings() {
    const typed = [...this.fields].map(([name, { input }]) => [name, name === "remasking" ? input.value : input.value === "" ? null : Number(input.value)]);
    return { ...Object.fromEntries(typed), stop_at_eos: this.chosen()[0].settings.stop_at_eos };
  }

  get fixed() { return [...this.words].map(([position, { what }]) => [position, what]); }

  fix(position, what, shown) {
    this.words.set(position, { what, shown });
    this.drawWords();
  }

  drawWords() {
    const sorted = [...this.words].sort(([a], [b]) => a - b);
    this.list.replaceChildren(...sorted.map(([position, { shown }]) => el("li", {}, el("span", { class: "bgpo-soft", text: position + 1 }), el("span", { class: "bgpo-mono", text: shown }),
      el("button", { type: "button", "aria-label": `Free position ${position + 1}`, text: "×", on: { click: () => { this.words.delete(position); this.drawWords(); } } }))));
  }

  busy(working) {
    this.working = working;
    this.go.disabled = working;
    this.stop.disabled = !working;
    if (working) this.problem("", "");
  }

  problem(field, sentence) {
    setText(this.wrong, sentence);
    for (const [name, { element }] of this.fields) element.classList.toggle("bad", Boolean(sentence) && name === field);
    this.prompt.classList.toggle("bad", Boolean(sentence) && field === "prompt");
  }
}
