// The Lab: one to four checkpoints denoise the same prompt with the same noise and are looked at in lock-step. Words can
// be fixed, spans written again, a denoising gone on with from any step; a trace can be taken away and brought back.

import { el, get, setText, styles } from "./dom.js";
import { eventsOfStored } from "./denoise_trace.js";
import { LabForm } from "./lab_form.js";
import { LockStep } from "./lab_stages.js";
import { saved, shownFile } from "./lab_files.js";

export function mount(element, props) {
  styles("lab");
  new Lab(element, props);
}

class Lab {
  constructor(element, props) {
    this.element = element;
    this.form = new LabForm(props.orders, { run: () => this.denoise(), stop: () => this.abort?.abort(), imported: (file) => this.import(file) });
    this.stages = new LockStep((span) => this.edits(span));
    this.hint = el("p", { class: "hint bgpo-soft" });
    this.bar = el("div", { class: "bar", role: "group", "aria-label": "What to do with the selected positions" });
    this.files = el("div", { class: "files" }, ...[["json", "JSON"], ["html", "HTML player"], ["gif", "GIF"]].map(([kind, label]) => el("button", {
      type: "button", class: "bgpo-button small", data: { kind }, text: label, on: { click: () => this.save(kind) } })));
    this.status = el("p", { class: "status", role: "status" });
    this.taken = this.buildTaken();
    this.under = el("div", { class: "bgpo-card under" }, this.bar, this.hint, el("div", { class: "take" }, el("span", { class: "bgpo-soft", text: "Take it away:" }), this.files), this.status);
    element.append(el("div", { class: "sides" }, this.form.element, el("div", { class: "board" }, this.taken, this.stages.element, this.under)));
    new ResizeObserver(() => this.opened()).observe(element);
    this.edits([]);
    this.opened();
  }

  async opened() {
    if (!this.element.offsetParent || this.address === location.search) return;
    this.address = location.search;
    const query = new URLSearchParams(location.search);
    try {
      await this.form.load(Number(query.get("checkpoint")) || null);
      const rollout = /^(\d+)-(\d+)-(\d+)-(\d+)$/.exec(query.get("rollout") || "");
      if (rollout) await this.openRollout(...rollout.slice(1).map(Number));
      else if (!this.stages.filled && this.form.known.length) this.stages.say("Denoise a prompt to look inside, or import a trace.");
      else if (!this.stages.filled) this.stages.say("Start a run first: its warm start is the first checkpoint. Or import a trace.", { label: "New run", area: "new" });
    } catch (error) {
      this.stages.say(error.message);
    }
  }

  async openRollout(run, step, problem, index) {
    this.form.choose(run, step);
    const rows = await get(`/api/runs/${run}/rollouts/group?step=${step}&problem=${problem}`);
    const row = rows.find((item) => item.index === index);
    const { trace } = await get(`/api/runs/${run}/rollouts/trace?step=${step}&problem=${problem}&completion=${index}`);
    this.form.prompt.value = row.prompt;
    this.stages.load([{ title: `Run ${run}, step ${step}: a stored rollout`, events: eventsOfStored({ ...row, trace }) }], { play: true });
    this.edits([]);
  }

  // ---- denoising

  /** Shown while no GPU is free: what to do about it. */
  buildTaken() {
    const button = (text, device) => el("button", { type: "button", class: "bgpo-button small", text, on: { click: () => this.denoise(this.locked, device) } });
    return el("div", { class: "bgpo-card taken", role: "status", hidden: true }, el("span"), button("Denoise on the CPU", "cpu"), button("Wait for the GPU", "wait"));
  }

  /** locked: what stands from the start beside the fixed words, as [position, token id]; device: "cpu", "wait" or "". */
  async denoise(locked = [], device = "") {
    this.locked = locked;
    this.taken.hidden = true;
    const chosen = this.form.chosen();
    if (!chosen.length) { this.tell("Choose a checkpoint first."); return; }
    this.abort?.abort();
    const abort = this.abort = new AbortController();
    const previous = chosen.length === 1 ? this.stages.first?.trace : null;
    const settings = this.form.settings(chosen[0]);
    this.form.busy(true);
    this.tell("");
    this.stages.begin(chosen.map(({ label }) => label));
    try {
      // one after the other: one model in memory. What stands in the same place is drawn from the same noise
      for (const [place, checkpoint] of chosen.entries()) {
        await this.stream({ checkpoint: checkpoint.id, prompt: this.form.prompt.value, settings, device, locked: [...locked, ...this.form.fixed] },
          (event) => this.stages.push(place, event), abort.signal);
      }
      this.stages.together(previous);
    } catch (error) {
      if (error.name === "AbortError") this.stages.stopped();
      else if (error.taken) this.offer(error.message);
      else this.tell(error.message);
    }
    if (this.abort === abort) { this.form.busy(false); this.edits([]); }
  }

  async stream(body, take, signal) {
    const response = await fetch("/api/lab/denoise", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal });
    if (!response.ok) throw new Error((await response.json().catch(() => ({}))).error || `The app answered with status ${response.status}.`);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      const lines = (rest + (value || "")).split("\n");
      rest = lines.pop();
      for (const line of lines) this.take(JSON.parse(line), take);
      if (done) return;
    }
  }

  take(event, push) {
    if (event.kind === "taken") throw Object.assign(new Error(event.message), { taken: true });
    if (event.kind === "error") this.form.problem(event.field, event.message);
    push(event.kind === "waiting" ? { kind: "loading", text: event.text } : event);
  }

  offer(sentence) {
    this.stages.stopped("No GPU is free.");
    setText(this.taken.firstChild, sentence);
    this.taken.hidden = false;
  }

  // ---- editing

  edits(span) {
    const stage = this.stages.first;
    const whole = ["end", "stopped"].includes(stage?.trace.end?.kind) && stage.trace.start !== null; // not one that failed
    const ready = whole && !this.form.working;
    const button = (text, title, action) => el("button", { type: "button", class: "bgpo-button small", text, title, on: { click: action } });
    const parts = [];
    if (ready && stage.shown < stage.trace.last) parts.push(button(`Go on from step ${stage.shown}`, "Keeps what stands at this step and writes the rest with the settings on the left.", () => this.denoise(stage.trace.ids(stage.shown))));
    if (ready && span.length) {
      const words = span.length === 1 ? `position ${span[0] + 1}` : `positions ${span[0] + 1} to ${span[span.length - 1] + 1}`;
      parts.push(button(`Write ${words} again`, "Keeps everything else as it is at the last step.", () => this.denoise(stage.trace.ids(stage.trace.last).filter(([position]) => !span.includes(position)))));
      parts.push(button(`Fix ${words}`, "Keeps these tokens in the next denoisings.", () => this.fix(span)));
    }
    this.bar.replaceChildren(...parts);
    setText(this.hint, !ready ? "" : parts.length && span.length ? "" : "Click a token to select it, Shift-click to select a span; the slider chooses a step to go on from.");
    for (const file of this.files.children) file.disabled = !ready;
    this.ready = ready;
    this.tell(this.status.textContent);
  }

  // The card under the stages is there once it has something to offer or to say.
  tell(sentence) {
    setText(this.status, sentence);
    this.under.hidden = !(sentence || this.ready || this.form.working);
  }

  fix(span) {
    const { trace } = this.stages.first;
    const ids = new Map(trace.ids(trace.last));
    const cells = trace.canvas(trace.last);
    for (const position of span) if (ids.has(position)) this.form.fix(position, ids.get(position), cells[position].token);
  }

  // ---- files

  async save(kind) {
    try {
      await saved(kind, this.stages.events);
    } catch (error) {
      this.tell(error.message);
    }
  }

  async import(file) {
    try {
      const events = await shownFile(file);
      this.form.prompt.value = events[0].prompt ?? "";
      this.stages.load([{ title: file.name, events }], { play: true });
      this.tell("");
      this.edits([]);
    } catch (error) {
      this.tell(error.message);
    }
  }
}
