// One run in the list, and how its pace is put into words.

import { duration, el, figure, setText, svg } from "./dom.js";
import { live } from "./live.js";
import { alertIcon } from "./alert_list.js";

// Step times wander by about a fifth, so what is left is a range in units that one would say.
export function left(seconds) {
  if (seconds < 20) return "a few seconds left";
  const [low, high] = [0.85, 1.25].map((share) => share * seconds);
  if (high < 90) return `about ${10 * Math.ceil(seconds / 10)} s left`;
  if (high < 5400) {
    const [from, to] = [low, high].map((value) => Math.max(1, Math.round(value / 60)));
    return from === to ? `about ${to} min left` : `${from} to ${to} min left`;
  }
  const [from, to] = [low, high].map((value) => Math.round(value / 1800) / 2);
  return from === to ? `about ${to} h left` : `${from} to ${to} h left`;
}

function pace(run) {
  if (run.status !== "running") return run.status === "queued" || run.status === "launching" ? "" : duration(run.seconds);
  const parts = [];
  if (run.eta !== null) parts.push(left(run.eta)); // first: where there is little room, the pace is cut off
  if (run.rate) parts.push(run.rate >= 0.1 ? `${figure(run.rate)} steps/s` : `${figure(1 / run.rate)} s a step`);
  return parts.join(", ");
}

export class Row {
  constructor(id) {
    this.dot = el("button", { type: "button", class: "dot", tabindex: "-1", on: { click: () => live.toggle(id) } }, el("i"));
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
    this.tags = el("span", { class: "tags" });
    const spark = svg("svg", { viewBox: "0 0 64 20", class: "spark", "aria-hidden": "true" }, this.line, this.end);
    this.open = el("button", { type: "button", class: "open", on: { click: (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) live.toggle(id);
      else {
        live.select([id]);
        // where the list is above the run, as on a phone, a press would seem to do nothing
        if (matchMedia("(max-width: 900px)").matches) document.querySelector(".bgpo-run-header")?.scrollIntoView({ block: "start", behavior: "smooth" });
      }
    } } },
    el("span", { class: "line" }, this.name, this.alerts, this.chip),
    el("span", { class: "line" }, spark, this.reward, this.best, this.pace),
    this.progress, el("span", { class: "line last" }, this.changed, this.tags));
    this.node = el("li", { data: { run: id } }, this.dot, this.open);
  }

  // Only what differs from the last time costs anything: a list of hundreds is drawn at every poll.
  draw(run) {
    const chosen = live.selected.includes(run.id), colour = live.colour(run.id);
    if (this.run === run && this.chosen === chosen && this.colour === colour) return;
    Object.assign(this, { run, chosen, colour });
    this.node.classList.toggle("chosen", chosen);
    this.node.classList.toggle("archived", run.archived);
    this.node.style.setProperty("--run", `var(--bgpo-c${colour})`);
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
    this.drawProgress(run);
    setText(this.pace, pace(run));
    this.drawWords(run);
  }

  drawProgress(run) {
    const going = run.status === "running" && run.total;
    this.progress.hidden = !going;
    if (!going) return;
    const share = Math.min(100, (100 * run.done) / run.total);
    this.bar.style.width = `${share}%`;
    this.progress.setAttribute("aria-valuenow", Math.round(share));
    this.progress.setAttribute("aria-label", `${run.word}, ${run.done} of ${run.total}`);
  }

  drawWords(run) {
    const changed = run.changed.join(", ");
    setText(this.changed, changed || (run.readable ? `same as ${run.against}` : "made by another version"));
    this.changed.title = changed ? `Changed against ${run.against}: ${changed}` : "";
    const key = run.tags.join();
    if (key === this.tagKey) return;
    this.tagKey = key;
    this.tags.replaceChildren(...run.tags.map((tag) => el("span", { class: "tag", text: `#${tag}` })));
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
