// What the health rules say of the selected runs: newest first, the older ones folded away, nothing when all is well.

import { age, el, setText, styles, svg } from "./dom.js";
import { live } from "./live.js";

const SHOWN = 2;
const WORDS = { warning: "Warning", serious: "Serious" };
// a triangle and an octagon: told apart without their colours
const SHAPES = { warning: "M8 1.8 15 14.2H1Z", serious: "M5.2 1.2h5.6l4 4v5.6l-4 4H5.2l-4-4V5.2Z" };

export function alertIcon(severity) {
  return svg("svg", { viewBox: "0 0 16 16", class: `bgpo-alert-icon ${severity}`, "aria-hidden": "true" },
    svg("path", { d: SHAPES[severity] || SHAPES.warning, fill: "currentColor", "stroke-linejoin": "round" }),
    svg("path", { d: severity === "serious" ? "M8 4v5M8 11v1.4" : "M8 6v4M8 11.4v1.4", class: "mark", fill: "none", "stroke-width": "1.7" }));
}

export class AlertList {
  constructor() {
    styles("alert_list");
    this.rows = new Map();
    this.open = false;
    this.title = el("span", { class: "bgpo-eyebrow" });
    this.list = el("ul", { id: "bgpo-alerts" });
    this.more = el("button", { type: "button", class: "more", "aria-controls": "bgpo-alerts", on: { click: () => { this.open = !this.open; this.draw(); } } });
    this.card = el("section", { class: "bgpo-card alerts", "aria-label": "Alerts", hidden: true },
      el("header", {}, this.title, this.more), this.list);
    // on the page from the start and never hidden: a live region that appears with its text is not read out
    this.said = el("p", { class: "bgpo-sr", "aria-live": "polite" });
    this.node = el("div", { class: "alert-box" }, this.card, this.said);
  }

  draw() {
    const runs = live.chosen();
    const items = runs.flatMap((run) => live.alertsOf(run.id).map((alert) => ({ run, alert, key: `${run.id} ${alert.step} ${alert.name}` })));
    items.sort((a, b) => b.alert.time - a.alert.time || b.alert.step - a.alert.step);
    this.card.hidden = !items.length;
    setText(this.title, items.length === 1 ? "1 alert" : `${items.length} alerts`);
    const older = items.length - SHOWN;
    this.more.hidden = older <= 0;
    this.more.setAttribute("aria-expanded", String(this.open));
    setText(this.more, this.open ? "Show fewer" : `Show ${older} older`);
    const shown = items.slice(0, this.open ? items.length : SHOWN);
    for (const [key, row] of this.rows) if (!shown.some((item) => item.key === key)) { row.node.remove(); this.rows.delete(key); }
    shown.forEach((item, place) => {
      if (!this.rows.has(item.key)) this.rows.set(item.key, new Row(item.alert));
      const { node } = this.rows.get(item.key);
      if (this.list.children[place] !== node) this.list.insertBefore(node, this.list.children[place] || null);
      this.rows.get(item.key).draw(item.run, item.alert, runs.length > 1);
    });
    this.say(items, runs.map((run) => run.id).join());
  }

  // Reads out what is new of the runs that are already shown, not everything again with each selection.
  say(items, runs) {
    const fresh = runs === this.saidOf ? items.filter((item) => !this.known.has(item.key)) : [];
    this.saidOf = runs;
    this.known = new Set(items.map((item) => item.key));
    if (fresh.length) setText(this.said, fresh.map(({ run, alert }) => `${WORDS[alert.severity]} in ${run.name} at step ${alert.step}: ${alert.message}`).join(" "));
  }
}

class Row {
  constructor(alert) {
    this.run = el("span", { class: "run" });
    this.text = el("p", { class: "text" });
    this.node = el("li", { class: alert.severity, data: { alert: alert.name } }, alertIcon(alert.severity),
      el("span", { class: "what" }, el("b", { text: WORDS[alert.severity] || alert.severity }), el("span", { text: ` at step ${alert.step}` }), this.run), this.text);
  }

  draw(run, alert, several) {
    setText(this.text, alert.message);
    setText(this.run, several ? run.name : "");
    this.run.style.setProperty("--run", `var(--bgpo-c${live.colour(run.id)})`);
    this.node.title = age(alert.time, live.now());
  }
}
