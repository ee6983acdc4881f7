// A strip over all steps: per step one bar of its groups by how many of their completions are right, and a slider to
// choose a step.

import { el, svg } from "./dom.js";

const HEIGHT = 36;

export class StepStrip {
  /** choose(step) is called when a step is picked by hand. */
  constructor(choose) {
    this.steps = [];
    this.bars = svg("g");
    this.plot = svg("svg", { preserveAspectRatio: "none", "aria-hidden": "true" }, this.bars);
    this.range = el("input", { type: "range", min: 0, max: 0, step: 1, value: 0, "aria-label": "Training step",
      on: { input: () => choose(this.steps[Number(this.range.value)].step) } });
    this.label = el("output", { class: "step" });
    this.legend = el("p", { class: "legend" },
      ...[["right", "all right"], ["mixed", "some right"], ["wrong", "all wrong"]].map(([kind, text]) => el("span", {}, el("i", { class: kind }), text)),
      el("span", { text: "bar: advantage; marks: when each token was fixed, the first ones strongest" }));
    this.element = el("div", { class: "strip" }, el("div", { class: "scrub" }, this.plot, this.range), el("div", { class: "under" }, this.label, this.legend));
  }

  draw(steps, chosen) {
    this.steps = steps;
    const place = steps.findIndex(({ step }) => step === chosen);
    this.range.max = Math.max(0, steps.length - 1);
    this.range.disabled = !steps.length;
    if (place >= 0) this.range.value = place;
    this.range.classList.toggle("off", place < 0);
    this.range.setAttribute("aria-valuetext", place < 0 ? "no step chosen" : `Step ${chosen}`);
    this.label.textContent = place < 0 ? "" : `Step ${chosen}`;
    if (this.drawn !== `${steps.length} ${steps[0]?.step}`) this.plotSteps();
  }

  plotSteps() {
    const { steps } = this;
    this.drawn = `${steps.length} ${steps[0]?.step}`;
    this.plot.setAttribute("viewBox", `0 0 ${Math.max(1, steps.length)} ${HEIGHT}`);
    this.bars.replaceChildren(...steps.flatMap((item, x) => {
      const parts = [["wrong", item.wrong], ["mixed", item.groups - item.wrong - item.right], ["right", item.right]];
      let y = HEIGHT;
      return parts.filter(([, count]) => count > 0).map(([kind, count]) => {
        const height = (count / item.groups) * HEIGHT;
        y -= height;
        return svg("rect", { class: kind, x: x + 0.08, y, width: 0.84, height });
      });
    }));
  }
}
