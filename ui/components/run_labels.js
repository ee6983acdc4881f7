// Tags and notes of the run that is open. Tags are kept at once, notes when one leaves the field.

import { el, get, post, setText } from "./dom.js";
import { live } from "./live.js";

export class RunLabels {
  constructor() {
    this.tags = el("span", { class: "tags" });
    this.input = el("input", { class: "bgpo-input", placeholder: "Add a tag", "aria-label": "Add a tag", maxlength: 40, on: { keydown: (event) => { if (event.key === "Enter") this.add(); } } });
    this.notes = el("textarea", { class: "bgpo-input", rows: 3, "aria-label": "Notes on this run", placeholder: "What is this run for, what did it show?", maxlength: 20000, hidden: true, on: { change: () => this.write() } });
    this.button = el("button", { type: "button", class: "link", "aria-expanded": "false", on: { click: () => this.toggle() } });
    this.message = el("span", { class: "message", role: "alert" });
    this.node = el("div", { class: "labels" }, el("div", { class: "line" }, this.tags, this.input, this.button, this.message), this.notes);
  }

  draw(run) {
    if (this.run?.id !== run.id) { this.open(false); this.input.value = ""; setText(this.message, ""); this.loaded = false; }
    this.run = run;
    setText(this.button, this.notes.hidden ? (run.notes ? "Notes" : "Write notes") : "Hide notes");
    const key = `${run.id} ${run.tags.join()}`;
    if (key === this.key) return;
    this.key = key;
    this.tags.replaceChildren(...run.tags.map((tag) => el("span", { class: "tag" }, `#${tag}`,
      el("button", { type: "button", text: "×", "aria-label": `Take off the tag ${tag}`, on: { click: () => this.set(run.tags.filter((other) => other !== tag)) } }))));
  }

  add() {
    const words = this.input.value.trim();
    if (!words) return;
    this.input.value = "";
    this.set([...this.run.tags, words]);
  }

  async set(tags) {
    await this.send(`/api/runs/${this.run.id}/tags`, { tags });
    live.poll();
  }

  async toggle() {
    const { id } = this.run;
    if (this.notes.hidden && !this.loaded) {
      try { const { notes } = await get(`/api/runs/${id}/notes`); if (this.run.id !== id) return; this.notes.value = notes; this.loaded = true; } catch (error) { setText(this.message, error.message); return; }
    }
    this.open(this.notes.hidden);
    if (!this.notes.hidden) this.notes.focus();
    this.draw(this.run);
  }

  open(open) {
    this.notes.hidden = !open;
    this.button.setAttribute("aria-expanded", String(open));
  }

  async write() {
    await this.send(`/api/runs/${this.run.id}/notes`, { notes: this.notes.value });
    live.poll();
  }

  async send(path, body) {
    try { await post(path, body); setText(this.message, ""); } catch (error) { setText(this.message, error.message); }
  }
}
