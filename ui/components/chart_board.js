// The charts of the selected runs in their sections, drawn from the live store; or those that somebody has chosen, in
// their order. See chart.js for one chart, view.js for how they are looked at.

import { el, styles } from "./dom.js";
import { live } from "./live.js";
import { view } from "./view.js";
import { crosshair } from "./crosshair.js";
import { Chart } from "./chart.js";
import { marks } from "./chart_marks.js";
import { toggleLog } from "./chart_menu.js";
import { keys } from "./keys.js";
import { loadPlotly } from "./plot.js";
import { RolloutPeek } from "./rollout_peek.js";
import { Section, unknown } from "./chart_section.js";

export const boards = []; // every board of the page, the one that leads first

export async function mount(element, props) {
  styles("chart_board");
  if (props.leads) addKeys();
  await needed(element);
  if (props.leads) element.append(el("p", { class: "waiting", role: "status", text: "Loading the charts\u2026" }));
  await loadPlotly().catch((error) => { element.textContent = error.message; throw error; });
  element.replaceChildren();
  const board = new Board(element, props);
  boards.push(board);
  if (props.leads) new RolloutPeek(element.closest(".gradio-container") || document.body);
}

// Until there is a run, and the area that the board is in is open, a page does without the charting script: half a second
// of a processor, and by far the largest of its files.
function needed(element) {
  return new Promise((resolve) => {
    let open = false;
    const look = () => {
      if (!open || !live.runs.size) return;
      seen.disconnect();
      live.removeEventListener("runs", look);
      resolve();
    };
    // however far down: what is in another area has no place at all
    const seen = new IntersectionObserver((entries) => { open = entries.at(-1).isIntersecting; look(); }, { rootMargin: "1000000px" });
    seen.observe(element);
    live.addEventListener("runs", look);
  });
}

class Board {
  constructor(element, props) {
    this.element = element;
    this.props = props;
    this.charts = [];
    this.seen = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        const chart = this.charts.find((one) => one.card === entry.target);
        if (!chart) continue;
        chart.visible = entry.isIntersecting;
        if (chart.visible && chart.stale) chart.draw();
      }
    }, { rootMargin: "200px" });
    this.sized = new ResizeObserver((entries) => { for (const entry of entries) this.charts.find((one) => one.plot === entry.target)?.fit(); });
    this.sections = props.sections.map((spec) => new Section(spec, props, (chart, leads) => this.make(chart, leads)));
    this.own = el("section", { class: "section own", hidden: true }, el("h3", { class: "bgpo-eyebrow" }, "My charts"), el("div", { class: "grid" }));
    element.append(this.own, ...this.sections.map((section) => section.node));
    live.watch(element, ["points", "selection", "view", "theme", "runs", "alerts", "marks", "window"], (event) => this.take(event));
    this.take({ type: "selection" });
  }

  make(spec, leads = false) {
    const chart = new Chart(spec, leads);
    this.charts.push(chart);
    this.seen.observe(chart.card);
    this.sized.observe(chart.plot);
    return chart;
  }

  take(event) {
    if (event.type === "view" && event.detail.size === 1 && event.detail.has("pinned")) { for (const chart of this.charts) chart.point(); return; }
    if (this.props.leads && ["points", "selection", "runs"].includes(event.type)) marks.follow();
    this.arrange();
    const same = this.names === (this.names = runNames());
    if (event.type === "runs" && same) return; // points come by themselves
    for (const chart of this.charts) { chart.update(); chart.refresh(); }
    if (event.type === "theme") this.recolour();
  }

  // Colours of another theme stand out at once on what one scrolls to, or prints: charts out of sight follow too, each in
  // a task of its own. What is folded away or in another tab is drawn as it opens, before it is painted.
  recolour() {
    const next = this.charts.find((chart) => chart.stale && chart.drawn && chart.card.offsetParent && !chart.dragging);
    if (!next) return;
    next.draw();
    setTimeout(() => this.recolour());
  }

  // Either all sections, or the chosen charts on the board that leads.
  arrange() {
    const chosen = view.charts.length > 0;
    this.element.classList.toggle("chosen", chosen);
    this.own.hidden = !chosen || !this.props.leads;
    if (chosen && this.props.leads) this.arrangeOwn();
    for (const section of this.sections) { if (chosen) section.node.hidden = true; else section.arrange(); }
  }

  arrangeOwn() {
    const grid = this.own.querySelector(".grid"), key = view.charts.join();
    if (this.ownKey !== key) {
      this.ownKey = key;
      for (const chart of this.ownCharts || []) { this.charts.splice(this.charts.indexOf(chart), 1); chart.gone(); }
      this.ownCharts = view.charts.map((id, place) => this.make(specOf(id, this.props), place === 0));
      grid.replaceChildren(...this.ownCharts.map((chart) => chart.card));
    }
    for (const chart of this.ownCharts) chart.card.hidden = !chart.wanted();
    grid.dataset.count = this.own.dataset.count = this.ownCharts.filter((chart) => !chart.card.hidden).length;
  }
}

// The description of a chart by its id: one of ours, or the chart of a single metric.
export function specOf(id, props) {
  return props.specs[id] || props.own[id] || unknown(id, props.blank);
}

function runNames() { return live.chosen().map((run) => [run.id, run.name, run.status, run.phase, live.colour(run.id)].join(" ")).join(); }

// The chart that the mouse or the focus is on.
function current() {
  const card = document.querySelector(".bgpo-chart-board .chart:hover") || document.activeElement?.closest?.(".bgpo-chart-board .chart");
  return card && boards.flatMap((board) => board.charts).find((chart) => chart.card === card);
}

function addKeys() {
  keys.add("l", "Log scale of the chart under the mouse, or of all", "Charts", () => toggleLog(current()?.spec.id || "all"));
  keys.add("s", "Smoothing on or off", "Charts", () => view.set({ smoothing: view.smoothing ? 0 : 0.8 }));
  keys.add("f", "Follow the newest steps", "Charts", () => view.set({ follow: !view.follow, followWidth: view.zoom ? view.zoom[1] - view.zoom[0] : 0, zoom: null }));
  keys.add("x", "Next horizontal axis", "Charts", () => { const names = ["step", "time", "tokens", "compute"]; view.setAxis(names[(names.indexOf(view.axis) + 1) % names.length]); });
  keys.add("m", "Mean over seeds", "Charts", () => view.set({ mean: !view.mean }));
  keys.add("t", "Numbers of the chart under the mouse", "Charts", () => (current() ? current().table.toggle() : false));
  keys.add("0", "Back to the whole run", "Charts", () => view.set({ zoom: null, follow: false, zoomY: new Map() }));
  keys.add("[", "Step before", "Charts", () => move(-1));
  keys.add("]", "Step after", "Charts", () => move(1));
  keys.add("Escape", "Let go of the pinned step", "Charts", () => (view.pinned === null ? false : crosshair.pin(view.pinned)));
}

// Walks through the steps that the run has points of.
function move(by) {
  const run = live.focus(), steps = run && (live.series(run.id, "reward/mean") || live.series(run.id, "reward/heldout_greedy"))?.step;
  if (!steps?.length) return;
  const place = view.pinned === null ? (by > 0 ? -1 : steps.length) : steps.findIndex((step) => step >= view.pinned);
  const next = steps[Math.max(0, Math.min(steps.length - 1, place + by))];
  if (next !== view.pinned) crosshair.pin(next);
}
