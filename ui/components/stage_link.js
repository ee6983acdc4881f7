// Stages that are looked at together: what one of them is made to show, by hand or by playing, the others show as well.

import { el } from "./dom.js";

const links = new Map();

/** The stages that share a name. */
export function together(name) {
  if (!links.has(name)) links.set(name, new Together());
  return links.get(name);
}

export class Together {
  constructor() {
    this.on = true;
    this.stages = new Set();
    this.boxes = new Map(); // stage -> its check box
  }

  add(stage) {
    for (const one of this.stages) if (!one.root.isConnected) { this.stages.delete(one); this.boxes.delete(one); }
    this.stages.add(stage);
  }

  /** Stages with something to show, but the given one. */
  others(stage) { return [...this.stages].filter((one) => one !== stage && one.trace.start && one.root.isConnected); }

  /** A check box for a stage's controls; it is there only where there is another stage. */
  toggle(stage) {
    const box = el("input", { type: "checkbox", on: { change: () => this.set(box.checked) } });
    box.checked = this.on;
    const label = el("label", { class: "ds-link", title: "Both answers show the same step.", hidden: true }, box, el("span", {}, "Together"));
    this.boxes.set(stage, { box, label });
    return label;
  }

  set(on) {
    this.on = on;
    for (const { box } of this.boxes.values()) box.checked = on;
    for (const stage of this.stages) { stage.led = null; stage.update(); }
    this.compare();
  }

  shown(stage, step) {
    this.refresh(stage);
    if (this.on) for (const other of this.others(stage)) other.follow(step, stage);
  }

  /** One has played to its end: those with more steps go on. */
  ended(stage) {
    if (!this.on) return;
    for (const other of this.others(stage)) if (!other.trace.finished || other.shown < other.trace.last) other.play();
  }

  speed(stage, speed) {
    if (this.on) for (const other of this.others(stage)) if (other.speed !== speed) other.setSpeed(speed);
  }

  /** Where two answers to the same prompt differ is marked in both. */
  compare() {
    for (const stage of this.stages) {
      const other = this.on ? this.others(stage).find(({ trace }) => comparable(stage.trace, trace)) : null;
      if (stage.reference !== (other?.trace ?? null)) stage.compareWith(other?.trace ?? null);
    }
  }

  /** What the controls of the others say. */
  refresh(stage) {
    this.compare();
    for (const [one, { label }] of this.boxes) label.hidden = !this.others(one).length;
    for (const other of this.others(stage)) if (other.led === stage) other.update();
  }
}

/** Whether two denoisings answer the same, both to the end. */
export function comparable(left, right) {
  return left.finished && right.finished && left.length === right.length && left.start?.prompt === right.start?.prompt;
}
