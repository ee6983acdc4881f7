// One step that all charts, and whatever else shows steps, point at together. Hovering moves it, a click pins it.
//
// Announced on the document as `bgpo:step` with { step, run, pinned }; step is null when nothing is pointed at.

import { live } from "./live.js";
import { view } from "./view.js";

class Crosshair {
  constructor() {
    this.step = null;
    this.x = null; // where that is on the horizontal axis, in its own unit
    this.charts = new Set();
    this.frame = 0;
  }

  // x: on the charts' axis; step: of the run that is looked at first
  move(x, step) {
    if (x === this.x) return;
    this.x = x;
    this.step = step;
    if (!this.frame) this.frame = requestAnimationFrame(() => { this.frame = 0; this.show(); });
  }

  leave() { this.move(null, null); }

  pin(step) {
    view.set({ pinned: step === view.pinned ? null : step });
    this.show();
  }

  show() {
    for (const chart of this.charts) if (chart.visible) chart.point(); else chart.pointed = false;
    const pinned = this.step === null && view.pinned !== null;
    document.dispatchEvent(new CustomEvent("bgpo:step", { detail: { step: this.step ?? view.pinned, run: live.focus()?.id ?? null, pinned } }));
  }
}

export const crosshair = new Crosshair();
