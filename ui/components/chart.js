// One chart: a card with a Plotly figure. Which part of the axis it shows is the view's affair and always given to
// Plotly explicitly, so neither new points nor another theme can move a zoom; what is hidden is the view's as well.

import { el, figure, setText } from "./dom.js";
import { isOver, live } from "./live.js";
import { view, AXES } from "./view.js";
import { crosshair } from "./crosshair.js";
import { curvesOf, drawnRuns, placeOfStep, seriesOf, stepAt, timeUnit } from "./chart_curves.js";
import { chartWindow } from "./chart_window.js";
import { drawnMarks } from "./chart_marks.js";
import { lineTraces, stackedTraces } from "./chart_traces.js";
import { nearest, tailWindow } from "./series_maths.js";
import { baseLayout, plain, token } from "./plot.js";
import { chartMenu, DataTable } from "./chart_menu.js";

const DOUBLE_CLICK_MS = 500;
const CLICK_PX = 4; // a press that moves less is a click, not a zoom
const FLAT = { autorange: false, range: [-1.2, 1.2] }; // around a curve that is zero; Plotly's own has a number in the corner

export class Chart {
  constructor(spec, leads) {
    this.spec = spec;
    this.leads = leads;
    this.visible = true;
    this.stale = false;
    this.build(leads);
    crosshair.charts.add(this);
  }

  build(leads) {
    const { spec } = this;
    const help = el("div", { class: "help", hidden: true, id: `help-${spec.id}` });
    for (const item of spec.series) help.append(el("p", {}, el("b", { text: item.label }), el("span", { text: item.help })));
    if (spec.note) help.append(el("p", { text: spec.note }));
    const ask = el("button", { type: "button", class: "ask", text: "?", "aria-expanded": "false", "aria-controls": help.id,
      "aria-label": `What ${spec.title} shows`, title: spec.series.map((item) => `${item.label}: ${item.help}`).join("\n"),
      on: { click: () => { help.hidden = !help.hidden; ask.setAttribute("aria-expanded", String(!help.hidden)); } } });
    this.scale = el("span", { class: "scale", hidden: true });
    this.reset = el("button", { type: "button", class: "reset", text: "All values", hidden: true,
      title: "Back to the whole range of values (or double-click the chart)", on: { click: () => this.unzoom() } });
    this.legend = el("div", { class: "legend", role: "group", "aria-label": `Curves of ${spec.title}` });
    this.plot = el("div", { class: "plot", role: "img", "aria-label": `${spec.title} over ${spec.axis}s` });
    this.cross = el("div", { class: "cross", hidden: true });
    this.pin = el("div", { class: "cross pin", hidden: true });
    this.empty = el("div", { class: "empty" });
    this.table = new DataTable(this);
    this.card = el("section", { class: `bgpo-card chart ${leads ? "leads" : ""}`, data: { chart: spec.id }, "aria-label": spec.title },
      el("header", {}, el("h4", { text: spec.title, title: spec.title }), spec.unit ? el("span", { class: "unit", text: spec.unit }) : null, this.scale,
        ask, el("span", { class: "gap" }), this.reset, chartMenu(this)),
      help, this.legend, el("div", { class: "frame" }, this.plot, this.cross, this.pin, this.empty), this.table.node);
    this.listenToMouse();
  }

  curves() { return curvesOf(this.spec, (run, metric) => (this.follows ? chartWindow.finer(run, metric) : null)); }
  token(name) { return token(this.card, name); }

  refresh() {
    if (!this.visible || !this.card.offsetParent || this.dragging) { this.stale = true; return; }
    this.draw();
  }

  fit() {
    if (!this.plot.offsetWidth) return;
    if (this.stale) this.draw();
    else if (this.drawn && Math.abs(this.plot.offsetWidth - this.width) > 1) window.Plotly.Plots.resize(this.plot).then(() => { this.width = this.plot.offsetWidth; this.point(); });
  }

  draw() {
    this.stale = false;
    const curves = this.curves();
    this.all = curves;
    this.drawLegend(curves);
    setText(this.empty, live.loaded ? this.emptyWords() : "");
    this.empty.hidden = curves.length > 0;
    this.plot.classList.toggle("blank", !curves.length);
    if (!curves.length && !this.drawn) return;
    const shown = curves.filter((curve) => !curve.hidden);
    this.unit = timeUnit(shown);
    for (const curve of shown) {
      curve.ink = this.token(`c${curve.colour}`);
      curve.shown = this.unit ? curve.x.map((x) => x / this.unit.scale) : curve.x;
    }
    const traces = this.spec.stacked ? stackedTraces(shown) : shown.flatMap((curve) => lineTraces(this.spec, curve));
    const first = !this.drawn;
    this.drawn = true;
    this.width = this.plot.offsetWidth;
    this.shownCurves = shown;
    this.table.draw();
    window.Plotly.react(this.plot, traces, this.layout(shown), { displayModeBar: false, doubleClick: false, responsive: false }).then(() => this.point());
    if (first) this.listen();
  }

  emptyWords() {
    const metric = AXES[view.axis].metric;
    const drawn = metric && this.spec.axis === "step" && live.chosen().some((run) => seriesOf(this.spec).some((series) => live.series(run.id, series.metric)));
    if (!drawn && live.chosen().length && live.chosen().every(isOver)) return "Nothing was measured before the end.";
    return drawn ? `These runs did not record ${AXES[view.axis].label.toLowerCase()}; look at them by step or time.` : this.spec.empty || "No data.";
  }

  // Whether there is something to see, or worth waiting for.
  wanted() {
    const runs = live.chosen();
    const drawn = seriesOf(this.spec).filter((series) => runs.length < 2 || !series.alone);
    if (runs.some((run) => drawn.some((series) => live.series(run.id, series.metric)?.step.length))) return true;
    const jobs = runs.length ? runs.map((run) => run.knobs?.job ?? "train") : ["train"];
    return jobs.includes(this.spec.waits) || (this.spec.waits === "early" && runs.some((run, i) => jobs[i] === "train" && beforeTraining(run)));
  }

  get follows() { return this.spec.axis === "step" || view.axis === "time"; }
  get ownX() { return `${this.spec.id}.x`; } // where the zoom of an axis that no other chart has is kept, beside the values

  // The horizontal axis: followed, zoomed, or whole. While a run goes on the whole already has its full length, so that
  // curves grow instead of being squeezed.
  range(curves) {
    const scale = this.unit?.scale || 1;
    const ends = curves.flatMap((curve) => [curve.x[0], curve.x[curve.x.length - 1]]).filter((x) => x !== null && x !== undefined);
    if (view.follow && this.follows && ends.length) return { range: tailWindow(Math.min(...ends), Math.max(...ends), view.followWidth).map((x) => x / scale), autorange: false };
    if (view.zoom && this.follows) return { range: view.zoom.map((x) => x / scale), autorange: false };
    if (view.zoomY.has(this.ownX) && !this.follows) return { range: view.zoomY.get(this.ownX), autorange: false };
    if (view.axis !== "step" && this.spec.axis === "step") return { autorange: true };
    const warm = this.spec.axis !== "step";
    const full = curves.flatMap(({ runs }) => runs).map((run) => (run.status !== "running" ? 0 : !warm ? run.steps : run.phase === "warming_up" ? run.total : 0));
    return { autorange: true, autorangeoptions: { include: [0, Math.max(0, ...full)] } };
  }

  layout(curves) {
    const { axis, layout, soft } = baseLayout(this.card);
    const reference = this.reference(curves);
    const runs = [...new Set(curves.flatMap((curve) => curve.runs))];
    const place = (step, run) => { const x = placeOfStep(step, run); return x === null ? null : x / (this.unit?.scale || 1); };
    const marks = this.spec.axis === "step" ? drawnMarks(this.card, runs, place, this.leads) : { shapes: [], annotations: [] };
    const words = this.unit ? `running time, ${this.unit.name}` : this.spec.axis !== "step" || view.axis === "step" ? this.spec.axis : view.axis === "tokens" ? "tokens written by rollouts" : "compute, tokens forwarded";
    return {
      ...layout, dragmode: "zoom", hovermode: "x unified",
      xaxis: { ...axis, ...this.range(curves), tickangle: 0, ...(this.plot.clientWidth < 260 ? { nticks: 4 } : {}), showgrid: false, zeroline: false, rangemode: "normal", title: { text: words, font: { size: 11, color: soft }, standoff: 6 },
        hoverformat: this.unit ? ".1f" : view.axis === "step" || this.spec.axis !== "step" ? "d" : ".3~s", tickformat: AXES[view.axis].metric && this.spec.axis === "step" ? "~s" : "" },
      yaxis: { ...axis, ...this.valueRange(curves), tickformat: view.isLog(this.spec.id) ? "" : { share: ".0%", tokens: "~s" }[this.spec.unit] ?? "" },
      yaxis2: { overlaying: "y", range: [0, 1], fixedrange: true, visible: false },
      shapes: [...reference.shapes, ...marks.shapes], annotations: [...reference.annotations, ...marks.annotations],
    };
  }

  valueRange(curves) {
    const { id, floor, ceiling, stacked } = this.spec;
    const zoomed = view.zoomY.get(id);
    const log = view.isLog(id) && !stacked;
    const below = log ? curves.reduce((sum, { data }) => sum + data.value.filter((value) => value !== null && value <= 0).length, 0) : 0;
    this.scale.hidden = !log;
    setText(this.scale, log ? `log${below ? `, ${below} ${below === 1 ? "point" : "points"} at or below 0 not drawn` : ""}` : "");
    const type = log ? { type: "log", ...logTicks(curves) } : { type: "linear", tickmode: "auto" };
    if (zoomed) return { ...type, range: zoomed, autorange: false };
    if (log) return { ...type, autorange: true };
    if (floor === null) return { ...type, ...(isZero(curves) ? FLAT : { autorange: true }), rangemode: "normal" };
    const largest = stacked ? null : Math.max(0, ...curves.map((curve) => Math.max(...(curve.data.high || curve.data.value).map((v) => v ?? 0).slice(-5000))));
    // a reward may pay more than 1
    if (ceiling !== null && largest <= ceiling) return { ...type, range: [floor - 0.02, ceiling + 0.03], autorange: false };
    return largest === 0 ? { ...type, range: [0, 1], autorange: false } : { ...type, autorange: true, rangemode: "tozero" };
  }

  reference(curves) {
    const none = { shapes: [], annotations: [] };
    const wanted = curves.find((curve) => curve.series.metric === this.spec.reference);
    const level = wanted && live.series(wanted.run.id, this.spec.reference)?.value[0];
    // among several runs it would be taken for all of theirs
    if (level === null || level === undefined || new Set(curves.map((curve) => curve.run.id)).size > 1) return none;
    const soft = this.token("text-soft"), y = view.isLog(this.spec.id) ? Math.log10(level) : level;
    if (!Number.isFinite(y)) return none;
    return {
      shapes: [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: level, y1: level, layer: "below", line: { color: soft, width: 1, dash: "4px,4px" } }],
      annotations: [{ xref: "paper", x: 1, xanchor: "right", y, yanchor: "bottom", showarrow: false,
        text: plain(`${this.spec.reference_label} ${figure(level)}`), font: { size: 11, color: soft } }],
    };
  }

  // ---- the legend: names, newest values, or those under the crosshair

  drawLegend(curves) {
    const items = [], groups = drawnRuns(), several = groups.length > 1;
    // the first chart names the runs; repeating them on every chart would bury the curves
    if (several && this.leads) for (const group of groups) items.push({ key: `r${group.run.id}`, colour: `c${live.colour(group.run.id)}`, dash: "solid", label: group.label, curve: null });
    const all = seriesOf(this.spec);
    all.forEach((series, index) => {
      const mine = curves.filter((curve) => curve.index === index);
      if (!mine.length || (several && (this.spec.stacked || all.filter((other) => !other.alone).length < 2))) return;
      items.push({ key: `${this.spec.id}.${index}`, colour: several ? "text-soft" : `c${index % 8}`, dash: series.dash, label: series.label, curve: several ? null : mine[0] });
    });
    const key = JSON.stringify(items.map((item) => [item.key, item.colour, item.label]));
    if (key !== this.legendKey) { this.legendKey = key; this.legend.replaceChildren(...items.map((item) => this.chip(item))); }
    this.items = items;
    items.forEach((item, place) => this.legend.children[place].setAttribute("aria-pressed", String(!view.hidden.has(item.key))));
    this.showValues();
  }

  showValues() {
    this.items?.forEach((item, place) => {
      let words = "";
      if (item.curve) {
        const { data, x } = item.curve;
        const at = crosshair.x === null || this.spec.axis !== "step" ? data.value.length - 1 : nearest(x, crosshair.x);
        words = figure(data.value[at]);
      }
      setText(this.legend.children[place].querySelector(".value"), words);
    });
  }

  chip(item) {
    const swatch = el("i", { "aria-hidden": "true", class: item.dash, style: { "--line": `var(--bgpo-${item.colour})` } });
    return el("button", { type: "button", "aria-pressed": "true", title: "Show or hide this curve; with Shift, show it alone",
      on: { click: (event) => (event.shiftKey ? this.alone(item.key) : view.toggle("hidden", item.key)) } },
    swatch, el("span", { class: "name", text: item.label }), el("span", { class: "value" }));
  }

  alone(key) {
    const kind = key.startsWith("r") && !key.includes(".") ? "r" : `${this.spec.id}.`;
    const mine = this.items.map((item) => item.key).filter((other) => other.startsWith(kind));
    const only = mine.every((other) => view.hidden.has(other) === (other !== key));
    view.set({ hidden: new Set([...[...view.hidden].filter((other) => !mine.includes(other)), ...(only ? [] : mine.filter((other) => other !== key))]) });
  }

  // ---- zoom and crosshair

  listen() {
    this.plot.on("plotly_relayout", (change) => {
      const scale = this.unit?.scale || 1, changes = {}, zoomY = new Map(view.zoomY);
      const ends = (axis) => (change[`${axis}.range[0]`] === undefined ? null : [change[`${axis}.range[0]`], change[`${axis}.range[1]`]]);
      const x = ends("xaxis"), y = ends("yaxis");
      if (x && this.follows) { changes.zoom = x.map((end) => end * scale); changes.follow = false; }
      if (x && !this.follows) changes.zoomY = zoomY.set(this.ownX, x);
      if (y) changes.zoomY = zoomY.set(this.spec.id, y);
      if (Object.keys(changes).length) view.set(changes);
    });
    this.plot.on("plotly_doubleclick", () => {
      if (performance.now() - (this.dragged || 0) > DOUBLE_CLICK_MS) this.unzoom(); // a click right after a zoom is none
      return false;
    });
  }

  unzoom() {
    const zoomY = new Map(view.zoomY);
    zoomY.delete(this.spec.id);
    zoomY.delete(this.ownX);
    view.set({ zoom: null, follow: false, zoomY });
  }

  listenToMouse() {
    const frame = this.plot;
    frame.addEventListener("pointermove", (event) => { if (!this.dragging && this.spec.axis === "step") this.hover(event); });
    frame.addEventListener("pointerleave", () => { if (this.spec.axis === "step") crosshair.leave(); });
    frame.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      this.dragging = [event.clientX, event.clientY];
      window.addEventListener("pointerup", (up) => {
        const [x, y] = this.dragging;
        this.dragging = null;
        if (Math.hypot(up.clientX - x, up.clientY - y) >= CLICK_PX) this.dragged = performance.now();
        else if (this.spec.axis === "step") this.click(up);
        if (this.stale) setTimeout(() => this.refresh());
      }, { once: true, capture: true });
    }, { capture: true });
  }

  // Where the mouse is: the closest step that has points, and its place on the axis.
  under(event) {
    const axis = this.drawn && this.plot._fullLayout?.xaxis, run = live.focus();
    if (!axis || !run) return null;
    const px = event.clientX - this.plot.getBoundingClientRect().left - axis._offset;
    if (px < -6 || px > axis._length + 6) return null;
    const x = axis.p2d(px) * (this.unit?.scale || 1);
    const mine = (this.shownCurves || []).reduce((best, curve) => (!best || curve.x.length > best.x.length ? curve : best), null);
    if (!mine) return null;
    const at = nearest(mine.x, x);
    return { x: mine.x[at], step: view.axis === "step" ? mine.data.step[at] : stepAt(mine.x[at], run) };
  }

  hover(event) {
    const found = this.under(event);
    if (found) crosshair.move(found.x, found.step); else crosshair.leave();
  }

  click(event) {
    const found = this.under(event);
    if (found) crosshair.pin(found.step);
  }

  // Puts the crosshair and the pinned step where they are now.
  point() {
    this.showValues();
    const run = live.focus();
    this.line(this.cross, this.spec.axis === "step" ? crosshair.x : null);
    this.line(this.pin, view.pinned !== null && run && this.spec.axis === "step" ? placeOfStep(view.pinned, run) : null);
    this.pin.dataset.step = view.pinned ?? "";
  }

  line(node, x) {
    const axis = this.drawn && this.plot._fullLayout?.xaxis;
    const px = x === null || x === undefined || !axis ? NaN : axis.d2p(x / (this.unit?.scale || 1));
    node.hidden = !(px >= 0 && px <= axis._length);
    if (node.hidden) return;
    const { t, h } = this.plot._fullLayout._size;
    node.style.transform = `translateX(${axis._offset + px}px)`;
    node.style.top = `${t}px`;
    node.style.height = `${h}px`;
  }

  update() {
    this.reset.hidden = !view.zoomY.has(this.spec.id) && !view.zoomY.has(this.ownX);
  }

  gone() {
    crosshair.charts.delete(this);
    if (this.drawn) window.Plotly.purge(this.plot);
  }
}

function isZero(curves) { return curves.every(({ data }) => !(data.high || data.value).some(Boolean) && !(data.low || data.value).some(Boolean)); }

// Ticks at 1, 2 and 5 of each power of ten that the curves reach, or at the powers alone where those are many.
function logTicks(curves) {
  const values = curves.flatMap(({ data }) => data.value.filter((value) => value > 0));
  if (!values.length) return { tickmode: "auto" };
  const low = Math.floor(Math.log10(values.reduce((a, b) => Math.min(a, b)))), high = Math.ceil(Math.log10(values.reduce((a, b) => Math.max(a, b))));
  const every = Math.ceil((high - low) / 6), digits = high - low <= 2 ? [1, 2, 5] : [1];
  const ticks = [];
  for (let power = low; power <= high; power += every) for (const digit of digits) ticks.push(digit * 10 ** power);
  return { tickmode: "array", tickvals: ticks, ticktext: ticks.map((value) => figure(value)) };
}

function beforeTraining(run) {
  return ["queued", "launching"].includes(run.status) || (run.status === "running" && ["", "starting", "downloading", "warming_up"].includes(run.phase));
}
