// Which charts one looks at and in what order: the list behind the button "Charts".

import { el } from "./dom.js";
import { live } from "./live.js";
import { view } from "./view.js";
import { anyLength } from "./chart_curves.js";

export class ChartChooser {
  // props: sections with their charts, titles of the metrics that have charts of their own
  constructor(props) {
    this.props = props;
    this.box = el("div", { class: "bgpo-chooser", role: "group", "aria-label": "Charts to look at" });
  }

  node() {
    this.draw();
    return this.box;
  }

  draw() {
    const chosen = view.charts;
    const focused = this.box.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
    const parts = [el("p", { text: chosen.length ? "Only these are shown, in this order. This browser and the link remember them." : "Tick charts to look at only those, in your order." })];
    if (chosen.length) {
      parts.push(el("ol", {}, ...chosen.map((id, place) => el("li", {}, el("span", { text: this.title(id) }), this.button("↑", `Move ${this.title(id)} up`, place === 0, () => this.swap(place, place - 1)),
        this.button("↓", `Move ${this.title(id)} down`, place === chosen.length - 1, () => this.swap(place, place + 1)),
        this.button("×", `Take out ${this.title(id)}`, false, () => this.set(chosen.filter((other) => other !== id)))))));
      parts.push(el("button", { type: "button", class: "bgpo-button small", text: "Show all charts", on: { click: () => this.set([]) } }));
    }
    for (const section of this.sections()) {
      parts.push(el("h5", { class: "bgpo-eyebrow", text: section.title }), el("ul", {}, ...section.charts.map(([id, title]) => el("li", {}, el("label", {},
        el("input", { type: "checkbox", "aria-label": title, checked: chosen.includes(id), on: { change: (event) => this.set(event.target.checked ? [...chosen, id] : chosen.filter((other) => other !== id)) } }), title)))));
    }
    this.box.replaceChildren(...parts);
    if (focused) this.box.querySelector(`[aria-label="${CSS.escape(focused)}"]`)?.focus();
  }

  // Charts that have something to show for the selected runs, and those of metrics that only these runs have.
  sections() {
    const metrics = new Set(live.chosen().flatMap((run) => Object.keys(live.points.get(run.id) || {})).map(anyLength));
    const found = this.props.sections.map((section) => ({ title: section.title, charts: section.charts.filter(([, , names]) => names.some((name) => metrics.has(name))).map(([id, title]) => [id, title]) }));
    const known = new Set(this.props.sections.flatMap((section) => section.charts.flatMap(([, , names]) => names)));
    const others = [...metrics].filter((name) => !known.has(name) && !this.props.bands.includes(name)).sort().map((name) => [name, this.title(name)]);
    return [...found, { title: "Single metrics", charts: others }].filter((section) => section.charts.length);
  }

  title(id) { return this.props.sections.flatMap((section) => section.charts).find(([other]) => other === id)?.[1] || this.props.titles[id] || id; }
  set(charts) { view.set({ charts }); this.draw(); }
  swap(a, b) { const next = [...view.charts]; [next[a], next[b]] = [next[b], next[a]]; this.set(next); }

  button(text, label, disabled, run) {
    return el("button", { type: "button", class: "bgpo-button small", text, "aria-label": label, disabled, on: { click: run } });
  }
}
