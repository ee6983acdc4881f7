// What the bound is for: memory against the number of mask draws. The plain objective's line leaves the card, BGPO's
// stays. Drag the number of draws; one press measures both for real at this run's config.

import { age, el, get, post, setText, styles } from "./dom.js";
import { live } from "./live.js";
import { MOST_DRAWS, bgpo, limit, places, plain, sentence, size, times } from "./memory_words.js";
import { baseLayout, loadPlotly, plain as escaped, token } from "./plot.js";

const GOING = new Set(["queued", "launching", "running"]);
const SAVED = "memory/saved_mb";
const ASK_MS = 1000; // while a measurement is under way

export async function mount(element) {
  styles("memory_explorer");
  await loadPlotly().catch((error) => { element.textContent = error.message; throw error; });
  new MemoryExplorer(element);
}

class MemoryExplorer {
  constructor(element) {
    this.element = element;
    this.draws = 16;
    const big = (label, kind) => { const value = el("b"); return { value, node: el("div", { class: `big ${kind}` }, el("span", { text: label }), value) }; };
    this.ours = big("BGPO holds", "ours");
    this.theirs = big("The plain objective holds", "theirs");
    this.ratio = big("Times as much", "ratio");
    this.words = el("p", { class: "words", role: "status" });
    this.slider = el("input", { type: "range", min: 0, max: Math.log2(MOST_DRAWS), step: 0.125, "aria-label": "Mask draws per completion", on: { input: () => this.move(Math.round(2 ** Number(this.slider.value))) } });
    this.number = el("output", { class: "draws" });
    this.button = el("button", { type: "button", class: "bgpo-button primary", text: "Measure both here", disabled: true, on: { click: () => this.measure() } });
    this.state = el("span", { class: "state bgpo-soft", role: "status" });
    this.message = el("p", { class: "message", role: "alert" });
    this.estimate = el("div", { class: "estimate scroll", hidden: true });
    this.lines = el("div", { class: "figure", role: "img", "aria-label": "Memory held for backward against the number of mask draws" });
    this.steps = el("div", { class: "figure short", role: "img", "aria-label": "Memory held at each step, measured, beside what the plain objective would hold" });
    this.table = el("details", { class: "numbers" }, el("summary", { text: "The figures as a table" }), el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "The figures as a table" }));
    element.append(
      el("section", { class: "bgpo-card top" },
        el("div", { class: "dial" }, el("label", {}, el("span", { text: "Mask draws per completion" }), this.number), this.slider, el("div", { class: "ends", "aria-hidden": "true" }, ...[1, 4, 16, 64, 256, 1024].map((n) => el("span", { text: n })))),
        el("div", { class: "bigs" }, this.ours.node, this.theirs.node, this.ratio.node), this.words,
        el("div", { class: "act" }, this.button, this.state), this.message, this.estimate),
      el("div", { class: "pair" },
        el("section", { class: "bgpo-card" }, el("header", {}, el("h3", { text: "Held for backward against the draws" }), this.lineWords = el("span", { class: "bgpo-soft" })), this.lines, this.table),
        el("section", { class: "bgpo-card" }, el("header", {}, el("h3", { text: "Step by step" }), this.stepWords = el("span", { class: "bgpo-soft" })), this.steps)));
    live.watch(element, ["selection", "theme"], () => this.load());
    live.watch(element, ["points", "runs"], () => this.follow());
    new ResizeObserver(() => { if (this.facts?.id !== live.focus()?.id) this.load(); else this.draw(); }).observe(element);
    this.move(this.draws);
    setText(this.words, "Looking up what this run has held.");
    this.load();
  }

  get going() { return Boolean(this.facts?.probe && GOING.has(this.facts.probe.status)); }

  async load() {
    const run = live.focus();
    if (!run || !this.element.offsetWidth) return;
    const other = this.facts?.id !== run.id;
    let facts;
    try { facts = await get(`/api/runs/${run.id}/memory`); } catch (error) { setText(this.message, error.message); return; }
    if (live.focus()?.id !== run.id) return;
    if (other) { setText(this.message, ""); this.move(Math.max(facts.draws, 16), false); }
    this.facts = facts;
    this.draw();
    clearTimeout(this.timer);
    if (this.going) this.timer = setTimeout(() => this.load(), ASK_MS);
  }

  // The run's own curve grows with its points; the figures are asked for again when its peak may have moved.
  follow() {
    if (!this.element.offsetWidth || !this.facts) return;
    const length = live.series(this.facts.id, SAVED)?.step.length || 0;
    if (length !== this.length) { this.length = length; if (this.facts.base) this.drawSteps(); else this.load(); }
  }

  move(draws, redraw = true) {
    this.draws = Math.max(1, Math.min(MOST_DRAWS, draws));
    if (Math.round(2 ** Number(this.slider.value)) !== this.draws) this.slider.value = Math.log2(this.draws);
    this.slider.setAttribute("aria-valuetext", `${this.draws} draws`);
    setText(this.number, String(this.draws));
    if (redraw && this.facts) this.draw();
  }

  async measure() {
    this.button.disabled = true;
    setText(this.message, "");
    try { await post(`/api/runs/${this.facts.id}/measure`); } catch (error) { setText(this.message, error.message); }
    await this.load();
    live.poll();
  }

  draw() {
    const { facts, draws } = this;
    if (!facts || !this.element.offsetWidth) return;
    setText(this.ours.value, facts.base ? size(bgpo(facts, draws)) : "–");
    setText(this.theirs.value, facts.base ? size(plain(facts, draws)) : "–");
    setText(this.ratio.value, facts.base ? `× ${times(plain(facts, draws) / bgpo(facts, draws))}` : "–");
    this.theirs.node.classList.toggle("over", facts.base > 0 && plain(facts, draws) > limit(facts));
    setText(this.words, sentence(facts, draws));
    this.drawState(facts);
    this.drawEstimate(facts.estimate);
    this.drawLines(facts, draws);
    this.drawSteps();
    this.drawTable(facts);
  }

  // What the form had said beforehand, beside what came of it.
  drawEstimate({ rows }) {
    this.estimate.hidden = !rows.length;
    if (!rows.length) return;
    const head = el("tr", {}, ...["", "Estimated", "Measured"].map((text) => el("th", { text })));
    this.estimate.replaceChildren(el("table", {}, el("thead", {}, head), el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row.map((text) => el("td", { text })))))));
  }

  drawState({ probe }) {
    this.button.disabled = this.going;
    setText(this.button, probe && !this.going ? "Measure both again" : "Measure both here");
    const words = !probe ? "One update of each at 1, 4 and 16 draws, with this run's sizes, in a process of its own; some seconds."
      : this.going ? `${probe.word}${probe.status === "running" && probe.total > 1 ? `, ${probe.done} of ${probe.total}` : ""}`
        : probe.status === "finished" ? `Measured ${age(probe.finished, live.now())}.` : `The measurement ended early: ${probe.reason || probe.word}`;
    setText(this.state, words);
  }

  drawLines(facts, draws) {
    const { axis, layout, soft, text } = baseLayout(this.element);
    const ink = { bgpo: token(this.element, "c0"), elbo: token(this.element, "c1"), bad: token(this.element, "bad") };
    const at = places(), traces = [];
    const line = (name, of, colour, dash) => ({ type: "scatter", mode: "lines", name, x: at, y: at.map(of), line: { color: colour, width: 2, dash }, hovertemplate: "%{x} draws: %{text}<extra>%{fullData.name}</extra>", text: at.map((n) => size(of(n))) });
    if (facts.base) traces.push(line("BGPO", (n) => bgpo(facts, n), ink.bgpo, "solid"), line("Plain objective", (n) => plain(facts, n), ink.elbo, "dash"));
    for (const [name, label] of [["bgpo", "BGPO, measured"], ["elbo", "Plain, measured"]]) {
      const mine = (facts.probe?.points || []).filter(([objective, what]) => objective === name && what === "saved_mb");
      traces.push({ type: "scatter", mode: "markers", name: label, x: mine.map((point) => point[2]), y: mine.map((point) => point[3]), text: mine.map((point) => size(point[3])), marker: { size: 9, color: ink[name], line: { width: 1.5, color: token(this.element, "surface") } }, hovertemplate: "%{x} draws: %{text}<extra>%{fullData.name}</extra>" });
    }
    if (facts.peak) traces.push({ type: "scatter", mode: "markers", name: "This run's peak", x: [facts.draws], y: [facts.peak], text: [size(facts.peak)], marker: { size: 11, symbol: "diamond-open", color: text, line: { width: 2 } }, hovertemplate: "%{x} draws: %{text}<extra>%{fullData.name}</extra>" });
    const most = limit(facts), values = traces.flatMap((trace) => trace.y).filter((y) => y > 0);
    const low = values.length ? Math.min(...values) / 2 : 1, high = Math.max(most, ...values) * 2;
    const shapes = [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: most, y1: most, line: { color: ink.bad, width: 1.5, dash: "4px,3px" } },
      { type: "rect", xref: "paper", x0: 0, x1: 1, y0: most, y1: high, fillcolor: ink.bad, opacity: 0.06, line: { width: 0 }, layer: "below" },
      { type: "line", yref: "paper", y0: 0, y1: 1, x0: draws, x1: draws, line: { color: text, width: 1, dash: "dot" } }];
    const what = facts.room.kind === "cuda" ? facts.room.name : "This machine";
    const annotations = [{ xref: "paper", x: 0.01, xanchor: "left", y: Math.log10(most), yanchor: "bottom", showarrow: false, font: { size: 11, color: ink.bad }, text: escaped(`${what}: ${size(facts.room.mb)}${this.lines.offsetWidth < 480 ? "" : `, less ${size(facts.rest)} in use beside`}`) }];
    const ticks = [1, 4, 16, 64, 256, 1024], sizes = [...Array(9).keys()].map((power) => 10 ** power);
    window.Plotly.react(this.lines, traces, { ...layout, margin: { l: 62, r: 16, t: 8, b: 66 }, hovermode: "closest", shapes, annotations, showlegend: true, legend: { orientation: "h", y: -0.2, x: 0, font: { size: 11, color: soft } },
      xaxis: { ...axis, type: "log", range: [-0.05, Math.log10(MOST_DRAWS) + 0.05], tickmode: "array", tickvals: ticks, ticktext: ticks.map(String), showgrid: false, title: { text: "mask draws per completion", font: { size: 11, color: soft }, standoff: 6 } },
      yaxis: { ...axis, type: "log", range: [Math.log10(low), Math.log10(high)], tickmode: "array", tickvals: sizes, ticktext: sizes.map(size) } }, { displayModeBar: false, responsive: true });
  }

  // Measured at each step, beside what the plain objective would hold there at the chosen number of draws.
  drawSteps() {
    const { facts, draws } = this, series = facts && live.series(facts.id, SAVED);
    setText(this.stepWords, `measured at ${facts.draws} draws, computed at ${draws}`);
    const { axis, layout, soft } = baseLayout(this.element);
    const x = series?.step || [], held = facts.retained ? facts.draws : Math.min(facts.draws, facts.shared);
    const traces = [
      { type: "scatter", mode: "lines", name: `Measured: ${facts.objective}, ${facts.draws} draws`, x, y: series?.high || series?.value || [], line: { color: token(this.element, facts.retained ? "c1" : "c0"), width: 1.8 }, hovertemplate: "%{y:.3~s} MB<extra></extra>" },
      { type: "scatter", mode: "lines", name: `Computed: plain, ${draws} draws`, x, y: (series?.high || series?.value || []).map((value) => (value === null ? null : (value / held) * draws)), line: { color: token(this.element, "c1"), width: 1.8, dash: "dash" }, hovertemplate: "%{y:.3~s} MB<extra></extra>" },
    ];
    window.Plotly.react(this.steps, traces, { ...layout, margin: { l: 62, r: 16, t: 8, b: 66 }, hovermode: "x unified", showlegend: true, legend: { orientation: "h", y: -0.2, x: 0, font: { size: 11, color: soft } },
      xaxis: { ...axis, showgrid: false, zeroline: false, title: { text: "step", font: { size: 11, color: soft }, standoff: 6 } },
      yaxis: { ...axis, type: "log", title: { text: "" }, tickmode: "array", tickvals: [...Array(9).keys()].map((power) => 10 ** power), ticktext: [...Array(9).keys()].map((power) => size(10 ** power)) },
      annotations: x.length ? [] : [{ xref: "paper", yref: "paper", x: 0.5, y: 0.5, showarrow: false, text: "No training step yet", font: { size: 13, color: soft } }] }, { displayModeBar: false, responsive: true });
  }

  drawTable(facts) {
    const points = facts.probe?.points || [], draws = [...new Set(points.map((point) => point[2]))].sort((a, b) => a - b);
    const of = (objective, what, n) => points.find((point) => point[0] === objective && point[1] === what && point[2] === n)?.[3];
    const kinds = [["saved_mb", "held"], ["rss_mb", "process"], ["cuda_mb", "GPU"]].filter(([what]) => points.some((point) => point[1] === what));
    const shown = draws.length ? draws : [1, 4, 16, 64];
    const words = (value, computed) => (value !== undefined ? size(value) : computed ? `${size(computed)} computed` : "–");
    this.table.querySelector(".scroll").replaceChildren(el("table", {},
      el("thead", {}, el("tr", {}, el("th", { scope: "col", text: "Draws" }), ...["BGPO", "Plain"].flatMap((name) => (kinds.length ? kinds : [["saved_mb", "held"]]).map(([, label]) => el("th", { scope: "col", text: `${name}, ${label}` }))))),
      el("tbody", {}, ...shown.map((n) => el("tr", {}, el("th", { scope: "row", text: n }), ...["bgpo", "elbo"].flatMap((name) => (kinds.length ? kinds : [["saved_mb"]]).map(([what]) => el("td", { text: words(of(name, what, n), what === "saved_mb" && facts.base ? (name === "bgpo" ? bgpo : plain)(facts, n) : 0) }))))))));
  }
}
