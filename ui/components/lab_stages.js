// One to four stages in lock-step: the first has the controls, the others show what it shows; where they differ is marked.

import { el, setText } from "./dom.js";
import { Stage } from "./denoise_stage.js";
import { comparable } from "./stage_link.js";

export class LockStep {
  /** chosen(span): the selected positions of the first stage, told again whenever its step changes. */
  constructor(chosen) {
    this.chosen = chosen;
    this.parts = [];
    this.element = el("div", { class: "stages" });
    this.make([""]);
  }

  get first() { return this.parts[0]?.stage; }
  get events() { return this.parts[0].events; }
  get filled() { return Boolean(this.first?.trace.start); }

  /** action: a way out, {label, area}. */
  say(sentence, action = null) {
    this.make([""]);
    this.first.push({ kind: "idle", text: sentence, action });
  }

  make(titles) {
    this.parts = titles.map((title, place) => {
      const box = el("div");
      const heading = el("h3", { text: title });
      const note = el("span", { class: "bgpo-soft" });
      const card = el("section", { class: `bgpo-card part${place ? " follower" : ""}` }, el("header", { hidden: !title }, heading, note), box);
      const stage = new Stage(box, place ? { live: true } : {
        live: true, shown: (step) => this.shown(step), chosen: (span) => this.chosen(span),
      });
      return { stage, card, note, events: [] };
    });
    this.element.classList.toggle("several", titles.length > 1);
    this.element.replaceChildren(...this.parts.map(({ card }) => card));
  }

  begin(titles) {
    this.make(titles);
    this.parts.forEach(({ stage }, place) => stage.push({ kind: "loading", text: place ? "Waits for the one before." : "Loading the checkpoint." }));
  }

  push(place, event) {
    const { stage, events } = this.parts[place];
    if (event.kind !== "loading") events.push(event);
    stage.push(event);
  }

  /** All are there: the first one leads from here on. previous: what a single one is compared with. */
  together(previous) {
    const several = this.parts.length > 1;
    this.parts.forEach(({ stage, note }, place) => {
      stage.compareWith(place ? this.first.trace : !several && previous && comparable(previous, stage.trace) ? previous : null);
      if (several) setText(note, place ? differences(this.first.trace, stage.trace) : "the others are compared with this one");
    });
    if (several) { this.first.seek(0); this.first.play(); }
  }

  stopped(sentence = "Stopped.") {
    for (const part of this.parts) if (!part.stage.trace.finished) part.stage.push(part.stage.trace.start ? { kind: "stopped" } : { kind: "idle", text: sentence });
  }

  load(items, options) {
    this.make(items.map(({ title }) => title));
    items.forEach(({ events }, place) => { this.parts[place].events = events; this.parts[place].stage.load(events, options); });
  }

  shown(step) {
    for (const { stage } of this.parts.slice(1)) if (stage.trace.finished) stage.follow(step);
    if (this.first) this.chosen(this.first.span);
  }
}

function differences(left, right) {
  const [ours, theirs] = [left.canvas(left.last), right.canvas(right.last)];
  const count = ours.filter((cell, i) => cell.token !== theirs[i]?.token).length;
  return count ? `differs from the first at ${count} of ${ours.length} positions` : "the same as the first";
}
