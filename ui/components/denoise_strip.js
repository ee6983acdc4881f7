// The scrubber of the denoising stage: commits per step as bars, masks left as a line, the step as a cursor on both.

import { el, setText, svg } from "./dom.js";
import { plural } from "./denoise_trace.js";

const HEIGHT = 40;

export class Strip {
  /** seek(step) is called when the cursor is moved by hand. */
  constructor(seek) {
    this.bars = svg("g", { class: "ds-bars" });
    this.line = svg("polyline", { class: "ds-line", "vector-effect": "non-scaling-stroke" });
    this.plot = svg("svg", { class: "ds-plot", preserveAspectRatio: "none", "aria-hidden": "true" }, this.bars, this.line);
    this.range = el("input", { type: "range", min: 0, max: 1, step: 1, value: 0, "aria-label": "Step", disabled: true,
      on: { input: () => seek(Number(this.range.value)) } });
    this.masks = el("span", { class: "ds-masks" });
    this.commits = el("span", { class: "ds-commits" });
    this.passes = el("span");
    this.element = el("div", { class: "ds-strip" },
      el("div", { class: "ds-scrub" }, this.plot, this.range), el("p", { class: "ds-counts" }, this.masks, this.commits, this.passes));
  }

  layout(trace) {
    this.drawn = "";
    this.bars.replaceChildren();
    this.line.setAttribute("points", "");
    this.plot.setAttribute("viewBox", `0 0 ${Math.max(1, trace.total)} ${HEIGHT}`);
  }

  draw(trace, shown) {
    const ready = trace.start !== null;
    this.range.disabled = !ready;
    this.range.max = Math.max(1, trace.total);
    this.range.value = shown;
    // an answer that ended early has fewer steps in all than it began with
    const made = `${trace.last} of ${trace.total}`;
    if (ready && this.drawn !== made) { this.drawn = made; this.plotSteps(trace); }
    const masks = ready ? trace.masksLeft(shown) : 0;
    const commits = trace.commits[shown]?.length ?? 0;
    this.range.setAttribute("aria-valuetext", ready ? `Step ${shown}, ${masks} masks left` : "");
    setText(this.masks, ready ? `${masks} masked` : "");
    setText(this.commits, ready ? `${commits} filled at this step` : "");
    const written = ready ? trace.written(shown) : 0;
    setText(this.passes, written > 0 && shown > 0 ? `${plural(Number((shown / written).toFixed(2)), "pass", "passes")} per position so far` : "");
  }

  plotSteps(trace) {
    const total = Math.max(1, trace.total);
    this.plot.setAttribute("viewBox", `0 0 ${total} ${HEIGHT}`);
    this.bars.setAttribute("stroke-width", Math.min(8, Math.max(1.5, 200 / total))); // pixels: strokes do not scale
    const steps = Array.from({ length: trace.last }, (_, i) => i + 1);
    const most = Math.max(1, ...steps.map((step) => trace.commits[step]?.length ?? 0));
    // bars keep to the lower part, so that a pass that fills everything does not hide the line
    this.bars.replaceChildren(...steps.map((step) => {
      const height = ((trace.commits[step]?.length ?? 0) / most) * HEIGHT * 0.55;
      return svg("line", { x1: step, x2: step, y1: HEIGHT, y2: HEIGHT - height, "vector-effect": "non-scaling-stroke" });
    }));
    const at = (step) => `${step},${2 + (1 - trace.masksLeft(step) / Math.max(1, trace.length)) * (HEIGHT - 4)}`;
    this.line.setAttribute("points", [0, ...steps].map(at).join(" "));
  }
}
