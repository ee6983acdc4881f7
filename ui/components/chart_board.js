// One Plotly figure per chart, drawn from the live store. Zoom belongs to the viewer: `uirevision` never changes, so
// neither new points nor another theme moves it; hidden curves are remembered by the chart itself.

import { el, figure, get, setText, styles } from "/assets/dom.js";
import { live } from "/assets/live.js";
import { Section } from "/assets/chart_section.js";

let plotly = null;

function loadPlotly() {
  plotly ??= new Promise((resolve, reject) => {
    const script = el("script", { src: "/assets/plotly.min.js" });
    script.onload = () => resolve(window.Plotly);
    script.onerror = () => reject(new Error("The charting script could not be loaded."));
    document.head.append(script);
  });
  return plotly;
}

export async function mount(element, props) {
  styles("chart_board");
  await loadPlotly().catch((error) => { element.textContent = error.message; throw error; });
  const charts = [];
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const chart = charts.find((one) => one.card === entry.target);
      chart.visible = entry.isIntersecting;
      if (chart.visible && chart.stale) chart.draw();
    }
  }, { rootMargin: "200px" });
  const sized = new ResizeObserver((entries) => {
    for (const entry of entries) charts.find((one) => one.plot === entry.target)?.fit();
  });
  const make = (spec) => {
    const chart = new Chart(spec);
    charts.push(chart);
    seen.observe(chart.card);
    sized.observe(chart.plot);
    return chart;
  };
  const sections = props.sections.map((spec) => new Section(spec, props, make));
  charts[0].leads = props.names_runs;
  element.append(...sections.map((section) => section.node));

  let names = ""; // what the charts take from the runs' rows; points come by themselves
  const all = (event) => {
    for (const section of sections) section.arrange();
    const same = names === (names = runNames());
    if (event?.type === "runs" && same) return;
    for (const chart of charts) chart.refresh();
  };
  live.watch(element, ["points", "selection", "axis", "theme", "runs", "hidden", "alerts"], (event) => {
    if (event.type === "selection" || event.type === "axis") charts.forEach((chart) => chart.forgetZoom());
    all(event);
  });
  all();
}

function runNames() { return live.chosen().map((run) => [run.id, run.name, run.status, run.phase].join(" ")).join(); }

class Chart {
  constructor(spec) {
    this.spec = spec;
    this.hidden = new Set();
    this.finer = new Map(); // "run metric" -> buckets of the window that is zoomed into
    this.visible = true;
    this.stale = false;
    this.revision = 1;
    this.build();
  }

  build() {
    const { spec } = this;
    const help = el("div", { class: "help", hidden: true, id: `help-${spec.id}` });
    for (const item of spec.series) help.append(el("p", {}, el("b", { text: item.label }), el("span", { text: item.help })));
    if (spec.note) help.append(el("p", { text: spec.note }));
    const button = el("button", { type: "button", class: "ask", text: "?", "aria-expanded": "false",
      "aria-label": `What ${spec.title} shows`, title: spec.series.map((item) => `${item.label}: ${item.help}`).join("\n"),
      on: { click: () => { help.hidden = !help.hidden; button.setAttribute("aria-expanded", String(!help.hidden)); } } });
    this.reset = el("button", { type: "button", class: "reset", text: "Whole run", hidden: true,
      title: "Back to the whole run (or double-click the chart)", on: { click: () => this.unzoom() } });
    this.legend = el("div", { class: "legend", role: "group", "aria-label": `Curves of ${spec.title}` });
    this.plot = el("div", { class: "plot", role: "img", "aria-label": `${spec.title} over ${spec.axis}s` });
    this.empty = el("div", { class: "empty" });
    this.card = el("section", { class: "bgpo-card chart", data: { chart: spec.id } },
      el("header", {}, el("h4", { text: spec.title }), spec.unit ? el("span", { class: "unit", text: spec.unit }) : null,
        button, el("span", { class: "gap" }), this.reset),
      help, this.legend, el("div", { class: "frame" }, this.plot, this.empty));
  }

  // What is drawn: one item per run and curve, with its colour.
  curves() {
    const runs = live.chosen();
    const several = runs.length > 1;
    const found = [];
    for (const run of runs) {
      this.spec.series.forEach((series, index) => {
        if (several && series.alone) return;
        const data = live.series(run.id, series.metric);
        if (!data || !data.step.length) return;
        const colour = several ? live.colour(run.id) : index;
        found.push({ run, series, index, data: this.finer.get(`${run.id} ${series.metric}`) || data, several,
          colour: this.token(`c${colour}`), hidden: this.hidden.has(`s${index}`) || live.hiddenRuns.has(run.id) });
      });
    }
    return found;
  }

  token(name) { return getComputedStyle(this.card).getPropertyValue(`--bgpo-${name}`).trim(); }

  refresh() {
    if (!this.visible || !this.card.offsetParent) { this.stale = true; return; }
    this.draw();
  }

  fit() {
    if (!this.plot.offsetWidth) return;
    if (this.stale) this.draw();
    else if (this.drawn && Math.abs(this.plot.offsetWidth - this.width) > 1) window.Plotly.Plots.resize(this.plot).then(() => { this.width = this.plot.offsetWidth; });
  }

  draw() {
    this.stale = false;
    const curves = this.curves();
    this.drawLegend(curves);
    this.empty.hidden = curves.length > 0;
    setText(this.empty, live.focus() ? this.spec.empty : "");
    this.plot.classList.toggle("blank", !curves.length);
    if (!curves.length && !this.drawn) return;
    this.revision += 1;
    const shown = curves.filter((curve) => !curve.hidden);
    const time = this.timeUnit(shown);
    const traces = this.spec.stacked ? stackedTraces(shown, time) : shown.flatMap((curve) => this.lineTraces(curve, time));
    const first = !this.drawn;
    this.drawn = true;
    this.width = this.plot.offsetWidth;
    window.Plotly.react(this.plot, traces, this.layout(shown, time), { displayModeBar: false, doubleClick: false });
    if (first) this.listen();
  }

  // Whether there is something to see, or worth waiting for.
  wanted() {
    const runs = live.chosen();
    const drawn = this.spec.series.filter((series) => runs.length < 2 || !series.alone);
    if (runs.some((run) => drawn.some((series) => live.series(run.id, series.metric)?.step.length))) return true;
    return this.spec.waits === "always" || (this.spec.waits === "early" && runs.some(beforeTraining));
  }

  // While a run goes on the axis already shows its whole length, so that curves grow instead of being squeezed.
  extent(curves) {
    if (live.axis === "time") return {};
    const warm = this.spec.axis !== "step";
    const ends = curves.map(({ run }) => (run.status !== "running" ? 0 : !warm ? run.steps : run.phase === "warming_up" ? run.total : 0));
    return { autorangeoptions: { include: [0, Math.max(0, ...ends)] } };
  }

  timeUnit(curves) {
    if (live.axis !== "time") return null;
    const longest = Math.max(0, ...curves.map((curve) => curve.data.seconds[curve.data.seconds.length - 1] || 0));
    return longest > 10800 ? { name: "h", scale: 3600 } : longest > 180 ? { name: "min", scale: 60 } : { name: "s", scale: 1 };
  }

  lineTraces(curve, time) {
    const { series, data, colour, run, several } = curve;
    const x = abscissae(data, time);
    const traces = [];
    const errors = series.band ? live.series(run.id, series.band) : null;
    if (errors && data === live.series(run.id, series.metric)) traces.push(...bandTraces(x, data, aligned(errors, data), colour));
    else if (data.low) traces.push(...rangeTraces(x, data, colour));
    const name = several ? `${run.name}${this.spec.series.length > 1 ? `, ${series.label.toLowerCase()}` : ""}` : series.label;
    const points = series.dots && data.step.length < 120;
    traces.push({
      type: data.step.length > 20000 ? "scattergl" : "scatter", x, y: data.value, mode: points || data.step.length === 1 ? "lines+markers" : "lines",
      line: { color: colour, width: series.faint ? 1.1 : 1.7, dash: series.dash }, opacity: series.faint ? 0.55 : 1,
      marker: { size: data.step.length === 1 ? 7 : 4.5, color: colour }, connectgaps: false, name: plain(name),
      hovertemplate: `%{y:.4~g}${this.spec.unit && this.spec.unit !== "share" ? ` ${this.spec.unit}` : ""}`,
    });
    return traces;
  }

  layout(curves, time) {
    const soft = this.token("text-soft"), line = this.token("line"), text = this.token("text");
    const axis = {
      gridcolor: line, linecolor: line, zerolinecolor: line, zerolinewidth: 1, gridwidth: 1, tickfont: { size: 11, color: soft },
      ticks: "", automargin: false, exponentformat: "e", minexponent: 4, separatethousands: true, showspikes: false, nticks: 6,
    };
    const reference = this.reference(curves), marks = this.marks(curves, time);
    return {
      uirevision: "kept", datarevision: this.revision, autosize: true,
      margin: { l: 46, r: 14, t: 6, b: 34 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: this.token("sans") || "system-ui", size: 11, color: soft }, showlegend: false, dragmode: "zoom",
      hovermode: "x unified", hoverlabel: { bgcolor: this.token("surface"), bordercolor: line, font: { size: 12, color: text, family: "inherit" } },
      xaxis: { ...axis, ...this.extent(curves), showgrid: false, zeroline: false, rangemode: "normal", showspikes: true, spikethickness: 1, spikedash: "solid", spikecolor: line,
        spikemode: "across", title: { text: time ? `running time, ${time.name}` : this.spec.axis, font: { size: 11, color: soft }, standoff: 6 },
        hoverformat: time ? ".1f" : "d" },
      yaxis: { ...axis, ...this.valueRange(curves), tickformat: this.spec.unit === "share" ? ".0%" : "" },
      shapes: [...reference.shapes, ...marks.shapes], annotations: [...reference.annotations, ...marks.annotations],
    };
  }

  valueRange(curves) {
    const { floor, ceiling, stacked } = this.spec;
    if (floor !== null && ceiling !== null) return { range: [floor - 0.02, ceiling + 0.03], autorange: false };
    if (floor === null) return { rangemode: "normal" };
    const largest = stacked ? null : Math.max(0, ...curves.map((curve) => Math.max(...(curve.data.high || curve.data.value).map((v) => v ?? 0).slice(-5000))));
    return largest === 0 ? { range: [0, 1], autorange: false } : { rangemode: "tozero" };
  }

  reference(curves) {
    const none = { shapes: [], annotations: [] };
    const wanted = curves.find((curve) => curve.series.metric === this.spec.reference);
    if (!wanted) return none;
    const level = live.series(wanted.run.id, this.spec.reference).value[0];
    if (level === null || level === undefined) return none;
    const soft = this.token("text-soft");
    return {
      shapes: [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: level, y1: level, layer: "below", line: { color: soft, width: 1, dash: "4px,4px" } }],
      annotations: [{ xref: "paper", x: 1, xanchor: "right", y: level, yanchor: "bottom", showarrow: false,
        text: plain(`${this.spec.reference_label} ${figure(level)}`), font: { size: 11, color: soft } }],
    };
  }

  // A thin line where a health rule has spoken up, with its words on the little flag above.
  marks(curves, time) {
    const marks = { shapes: [], annotations: [] };
    if (this.spec.axis !== "step") return marks;
    for (const run of new Set(curves.map((curve) => curve.run))) {
      const every = live.series(run.id, "reward/mean") || curves.find((curve) => curve.run === run).data; // held-out curves skip steps
      for (const [step, alerts] of bySteps(live.alertsOf(run.id))) {
        const x = time ? secondsAt(every, step) / time.scale : step;
        const colour = this.token(alerts.some((alert) => alert.severity === "serious") ? "bad" : "warn");
        marks.shapes.push({ type: "line", xref: "x", yref: "paper", x0: x, x1: x, y0: 0, y1: 1, layer: "below", line: { color: colour, width: 1, dash: "dot" } });
        marks.annotations.push({ x, xref: "x", y: 1, yref: "paper", yanchor: "middle", xanchor: "center", showarrow: false, text: "▼", font: { size: 9, color: colour },
          hovertext: alerts.map((alert) => wrapped(alert.message)).join("<br><br>"), captureevents: true,
          hoverlabel: { bgcolor: this.token("surface"), bordercolor: colour, font: { size: 12, color: this.token("text"), family: this.token("sans") || "system-ui" } } });
      }
    }
    return marks;
  }

  drawLegend(curves) {
    const items = [];
    const several = live.chosen().length > 1;
    // the first board names the runs; repeating them on every chart would bury the curves
    if (several && this.leads) for (const run of live.chosen()) {
      items.push({ key: `r${run.id}`, run: run.id, colour: `c${live.colour(run.id)}`, dash: "solid", label: run.name, value: "" });
    }
    this.spec.series.forEach((series, index) => {
      const mine = curves.filter((curve) => curve.index === index);
      if (!mine.length || (several && (this.spec.stacked || this.spec.series.filter((other) => !other.alone).length < 2))) return;
      const values = live.series(mine[0].run.id, series.metric).value;
      items.push({ key: `s${index}`, colour: several ? "text-soft" : `c${index}`, dash: series.dash, label: series.label,
        value: several ? "" : figure(values[values.length - 1]) });
    });
    const key = JSON.stringify(items.map((item) => [item.key, item.colour, item.label]));
    if (key !== this.legendKey) { this.legendKey = key; this.legend.replaceChildren(...items.map((item) => this.chip(item))); }
    items.forEach((item, place) => {
      setText(this.legend.children[place].querySelector(".value"), item.value);
      this.legend.children[place].setAttribute("aria-pressed", String(item.run ? !live.hiddenRuns.has(item.run) : !this.hidden.has(item.key)));
    });
  }

  chip(item) {
    const swatch = el("i", { "aria-hidden": "true", class: item.dash, style: { "--line": `var(--bgpo-${item.colour})` } });
    return el("button", { type: "button", "aria-pressed": "true", title: "Show or hide this curve",
      on: { click: () => {
        if (item.run) live.hide(item.run);
        else { if (!this.hidden.delete(item.key)) this.hidden.add(item.key); this.draw(); }
      } } },
    swatch, el("span", { class: "name", text: item.label }), el("span", { class: "value" }));
  }

  listen() {
    this.plot.on("plotly_relayout", (change) => {
      if (this.quiet) return;
      if (change["xaxis.range[0]"] !== undefined || change["yaxis.range[0]"] !== undefined) {
        this.reset.hidden = false;
        if (change["xaxis.range[0]"] !== undefined) this.refine(change["xaxis.range[0]"], change["xaxis.range[1]"]);
      } else if (change["xaxis.autorange"]) this.reset.hidden = true;
    });
    this.plot.on("plotly_doubleclick", () => { this.unzoom(); return false; });
  }

  async unzoom() {
    this.forgetZoom();
    this.draw();
  }

  // Plotly keeps a viewer's zoom while `uirevision` stays; a new plot is the plain way back to the whole run.
  forgetZoom() {
    this.reset.hidden = true;
    this.finer.clear();
    if (this.drawn) { window.Plotly.purge(this.plot); this.drawn = false; this.stale = true; }
  }

  // Zooming into a run that is held as buckets asks for finer ones of that window.
  async refine(from, to) {
    const asked = (this.asked = Symbol("window"));
    for (const { run, series } of this.curves()) {
      const whole = live.series(run.id, series.metric);
      if (!whole.low) continue;
      const [low, high] = live.axis === "time" ? stepsWithin(whole, from, to, this.timeUnit(this.curves()).scale) : [from, to];
      const query = new URLSearchParams({ run: run.id, metric: series.metric, low: Math.floor(low), high: Math.ceil(high), buckets: 600 });
      const [step, seconds, value, lows, highs] = await get(`/api/range?${query}`);
      if (this.asked !== asked) return;
      this.finer.set(`${run.id} ${series.metric}`, { step, seconds, value, low: lows, high: highs });
    }
    if (this.finer.size) this.draw();
  }
}

function beforeTraining(run) {
  return ["queued", "launching"].includes(run.status) || (run.status === "running" && ["", "starting", "warming_up"].includes(run.phase));
}

function abscissae(data, time) {
  return time ? data.seconds.map((second) => second / time.scale) : data.step;
}

function stepsWithin(data, from, to, scale) {
  const inside = data.step.filter((_, i) => data.seconds[i] >= from * scale && data.seconds[i] <= to * scale);
  return inside.length ? [inside[0], inside[inside.length - 1]] : [0, 0];
}

// Plotly reads a small set of tags in names; a run called "<b>" is to be shown, not obeyed.
function plain(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

function bySteps(alerts) {
  const found = new Map();
  for (const alert of alerts) found.set(alert.step, [...(found.get(alert.step) || []), alert]);
  return found;
}

// The running time of a step of a curve, or of the first one after it where that step has no point.
function secondsAt(data, step) {
  const place = data.step.findIndex((other) => other >= step);
  return data.seconds[place < 0 ? data.seconds.length - 1 : place];
}

// Plotly does not break lines by itself.
function wrapped(text) {
  const lines = [""];
  for (const word of text.split(" ")) {
    if (lines[lines.length - 1].length + word.length > 56) lines.push("");
    lines[lines.length - 1] += `${word} `;
  }
  return lines.map((line) => plain(line.trim())).join("<br>");
}

function aligned(errors, data) {
  const at = new Map(errors.step.map((step, i) => [step, errors.value[i]]));
  return data.step.map((step) => at.get(step) ?? 0);
}

function shade(colour) {
  const [r, g, b] = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
  return `rgba(${r},${g},${b},0.14)`;
}

function area(x, lower, upper, colour) {
  const plainLine = { width: 0, color: colour };
  const common = { type: "scatter", mode: "lines", line: plainLine, hoverinfo: "skip", connectgaps: false };
  return [{ ...common, x, y: lower }, { ...common, x, y: upper, fill: "tonexty", fillcolor: shade(colour) }];
}

function bandTraces(x, data, errors, colour) {
  const shift = (sign) => data.value.map((value, i) => (value === null ? null : value + sign * errors[i]));
  return area(x, shift(-1), shift(1), colour);
}

function rangeTraces(x, data, colour) { return area(x, data.low, data.high, colour); }

// One area per part of a single run; several runs are compared by their totals.
function stackedTraces(curves, time) {
  const totals = new Map();
  const steps = new Map();
  for (const { run, data } of curves) {
    const mine = steps.get(run.id) || new Map();
    data.step.forEach((step, i) => mine.set(step, data.seconds[i]));
    steps.set(run.id, mine);
  }
  const traces = [];
  for (const curve of curves) {
    const at = new Map(curve.data.step.map((step, i) => [step, curve.data.value[i]]));
    const order = [...steps.get(curve.run.id).entries()].sort((a, b) => a[0] - b[0]);
    const x = order.map(([step, second]) => (time ? second / time.scale : step));
    const y = order.map(([step]) => at.get(step) ?? 0);
    if (!curve.several) {
      traces.push({ type: "scatter", mode: "lines", stackgroup: "one", x, y, line: { width: 1, color: curve.colour, shape: "hvh" },
        fillcolor: shade(curve.colour).replace("0.14", "0.38"), name: plain(curve.series.label), hovertemplate: "%{y:.3~g} s" });
    } else if (totals.has(curve.run.id)) {
      const trace = totals.get(curve.run.id);
      trace.y = trace.y.map((value, i) => value + y[i]);
    } else {
      const trace = { type: "scatter", mode: "lines", x, y, line: { width: 1.5, color: curve.colour }, name: plain(curve.run.name), hovertemplate: "%{y:.3~g} s" };
      totals.set(curve.run.id, trace);
      traces.push(trace);
    }
  }
  return traces;
}
