// The runs, newest first. A click opens one; the coloured dot adds it to the comparison or takes it out.

import { duration, el, figure, setText, styles, svg } from "/assets/dom.js";
import { live } from "/assets/live.js";
import { alertIcon } from "/assets/alert_list.js";

export function mount(element) {
  styles("run_list");
  styles("alert_list");
  const list = el("ul", { "aria-label": "Runs" });
  const count = el("span", { class: "bgpo-eyebrow" });
  const hint = el("span", { class: "hint" });
  element.append(el("div", { class: "top" }, count, hint), list);
  const rows = new Map();

  const draw = () => {
    const runs = live.list();
    setText(count, runs.length === 1 ? "1 run" : `${runs.length} runs`);
    setText(hint, runs.length > 1 ? "dots compare" : "");
    for (const [id, row] of rows) if (!live.runs.has(id)) { row.node.remove(); rows.delete(id); }
    runs.forEach((run, place) => {
      if (!rows.has(run.id)) rows.set(run.id, new Row(run.id));
      const row = rows.get(run.id);
      if (list.children[place] !== row.node) list.insertBefore(row.node, list.children[place] || null);
      row.draw(run);
    });
  };
  live.watch(element, ["runs", "selection"], draw);
  draw();
}

class Row {
  constructor(id) {
    this.dot = el("button", { type: "button", class: "dot", on: { click: () => live.toggle(id) } }, el("i"));
    this.name = el("span", { class: "name" });
    this.chip = el("span", { class: "bgpo-chip" });
    this.alerts = el("span", { class: "badge", hidden: true });
    this.reward = el("b", { class: "reward" });
    this.best = el("span", { class: "best" });
    this.line = svg("path", { fill: "none", "stroke-width": "1.6", "stroke-linejoin": "round" });
    this.end = svg("circle", { r: 2.2, visibility: "hidden" });
    this.bar = el("i");
    this.progress = el("div", { class: "bgpo-progress", role: "progressbar", "aria-valuemin": 0, "aria-valuemax": 100 }, this.bar);
    this.pace = el("span", { class: "pace" });
    this.changed = el("span", { class: "changed" });
    const spark = svg("svg", { viewBox: "0 0 64 20", class: "spark", "aria-hidden": "true" }, this.line, this.end);
    this.open = el("button", { type: "button", class: "open", on: { click: (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) live.toggle(id); else live.select([id]);
    } } },
    el("span", { class: "line" }, this.name, this.alerts, this.chip),
    el("span", { class: "line" }, spark, this.reward, this.best),
    this.progress, el("span", { class: "line last" }, this.changed, this.pace));
    this.node = el("li", { data: { run: id } }, this.dot, this.open);
  }

  draw(run) {
    const chosen = live.selected.includes(run.id);
    this.node.classList.toggle("chosen", chosen);
    this.node.style.setProperty("--run", `var(--bgpo-c${live.colour(run.id)})`);
    this.dot.setAttribute("aria-pressed", String(chosen));
    this.dot.setAttribute("aria-label", `${chosen ? "Take out of" : "Add to"} the comparison: ${run.name}`);
    this.dot.title = chosen ? "Take out of the comparison" : "Compare with the selected";
    this.open.setAttribute("aria-current", String(chosen));
    setText(this.name, run.name);
    this.name.title = run.name;
    setText(this.chip, run.status === "queued" && run.queue_place ? `Queued, ${run.queue_place === 1 ? "next" : `no. ${run.queue_place}`}` : run.word);
    this.chip.className = `bgpo-chip ${run.tone}`;
    this.badge(run);
    setText(this.reward, run.reward === null ? "" : figure(run.reward));
    this.reward.title = "Held-out greedy reward, newest";
    setText(this.best, run.best === null || run.best <= run.reward ? "" : `best ${figure(run.best)}`);
    this.sparkline(run.spark);
    const going = run.status === "running";
    this.progress.hidden = !going || !run.total;
    if (going && run.total) {
      const share = Math.min(100, (100 * run.done) / run.total);
      this.bar.style.width = `${share}%`;
      this.progress.setAttribute("aria-valuenow", Math.round(share));
      this.progress.setAttribute("aria-label", `${run.word}, ${run.done} of ${run.total}`);
    }
    setText(this.pace, pace(run));
    const changed = run.changed.length ? run.changed.join(", ") : "as the preset";
    const same = run.status === "running" ? "" : `same as ${run.against}`; // the pace needs the room
    setText(this.changed, run.changed.length ? changed : run.readable ? same : "made by another version");
    this.changed.title = run.changed.length ? `Changed against ${run.against}: ${changed}` : "";
  }

  badge(run) {
    this.alerts.hidden = !run.alerts;
    const words = `${run.alerts === 1 ? "1 alert" : `${run.alerts} alerts`}${run.serious ? `, ${run.serious} serious` : ""}`;
    if (!run.alerts || this.alerts.title === words) return;
    this.alerts.title = words;
    this.alerts.className = `badge ${run.serious ? "serious" : "warning"}`;
    this.alerts.replaceChildren(alertIcon(run.serious ? "serious" : "warning"),
      el("span", { text: run.alerts, "aria-hidden": "true" }), el("span", { class: "bgpo-sr", text: words }));
  }

  sparkline(values) {
    const known = values.map((value, i) => [i, value]).filter(([, value]) => value !== null);
    if (known.length < 1) { this.line.setAttribute("d", ""); this.end.setAttribute("visibility", "hidden"); return; }
    const top = Math.max(1, ...known.map(([, value]) => value)), low = Math.min(0, ...known.map(([, value]) => value));
    const at = ([i, value]) => [2 + (58 * i) / Math.max(1, values.length - 1), 18 - (16 * (value - low)) / (top - low)];
    this.line.setAttribute("d", known.map((point, i) => `${i ? "L" : "M"}${at(point).map((v) => v.toFixed(1)).join(" ")}`).join(""));
    const [x, y] = at(known[known.length - 1]);
    this.end.setAttribute("cx", x.toFixed(1)); this.end.setAttribute("cy", y.toFixed(1)); this.end.setAttribute("visibility", "visible");
  }
}

function pace(run) {
  if (run.status !== "running") return run.status === "queued" || run.status === "launching" ? "" : duration(run.seconds);
  const parts = [];
  if (run.rate) parts.push(`${figure(run.rate)} steps/s`);
  if (run.eta !== null) parts.push(`${duration(run.eta)} left`);
  return parts.join(", ");
}
