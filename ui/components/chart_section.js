// Charts under one heading that folds them away; what is folded is remembered by this browser.
//
// A chart without data is not shown, nor a section without charts. A metric that no chart names gets its own chart here
// when its prefix is one of the section's, whether this version knows the metric or not.

import { el, setText } from "./dom.js";
import { live } from "./live.js";
import { anyLength } from "./chart_curves.js";

const FOLDED = "bgpo-folded-sections";

function foldedSections() {
  try {
    const names = JSON.parse(localStorage.getItem(FOLDED) || "[]");
    return new Set(Array.isArray(names) ? names : []);
  } catch { return new Set(); }
}

function remember(id, folded) {
  const names = foldedSections();
  if (folded) names.add(id); else names.delete(id);
  try { localStorage.setItem(FOLDED, JSON.stringify([...names])); } catch { /* then it lasts as long as the page */ }
}

export class Section {
  // `draw(spec, leads)` makes a chart; `props` are those of the board
  constructor(spec, props, draw) {
    this.spec = spec;
    this.props = props;
    this.draw = draw;
    this.charts = spec.charts.map((chart, place) => draw(chart, props.leads && place === 0));
    this.extra = new Set(); // metrics that have got a chart of their own
    this.count = el("span", { class: "count" });
    this.grid = el("div", { class: "grid", id: `section-${spec.id}` }, ...this.charts.map((chart) => chart.card));
    this.button = el("button", { type: "button", "aria-controls": `section-${spec.id}`, on: { click: () => this.fold(!this.grid.hidden) } },
      el("i", { class: "fold", "aria-hidden": "true" }), el("span", { text: spec.title }), this.count);
    this.node = el("section", { class: "section", data: { section: spec.id } }, el("h3", { class: "bgpo-eyebrow" }, this.button), this.grid);
    this.show(!foldedSections().has(spec.id));
  }

  fold(folded) {
    remember(this.spec.id, folded);
    this.show(!folded);
    if (!folded) for (const chart of this.charts) chart.refresh();
  }

  show(open) {
    this.grid.hidden = !open;
    this.button.setAttribute("aria-expanded", String(open));
  }

  // Puts up what has data by now; the charts draw themselves.
  arrange() {
    for (const metric of this.unnamed()) {
      this.extra.add(metric);
      const chart = this.draw(this.props.own[metric] || unknown(metric, this.props.blank));
      this.charts.push(chart);
      this.grid.append(chart.card);
    }
    let shown = 0;
    for (const chart of this.charts) {
      chart.card.hidden = !chart.wanted();
      if (!chart.card.hidden) shown += 1;
    }
    this.node.hidden = shown === 0;
    this.node.dataset.count = this.grid.dataset.count = shown;
    setText(this.count, shown === 1 ? "1 chart" : `${shown} charts`);
  }

  unnamed() {
    const found = new Set(live.chosen().flatMap((run) => Object.keys(live.points.get(run.id) || {})));
    return [...found].filter((metric) => !this.extra.has(metric) && !this.props.charted.includes(anyLength(metric)) && this.mine(metric)).sort();
  }

  mine(metric) {
    const prefix = metric.split("/")[0];
    return this.spec.prefixes.includes(prefix) || (this.spec.id === "other" && !this.props.prefixes.includes(prefix));
  }
}

export function unknown(metric, blank) {
  const help = "This version of BGPO Studio has no explanation of it.";
  return { ...blank, id: metric, title: metric, series: [{ ...blank.series[0], metric, label: metric, help }] };
}
