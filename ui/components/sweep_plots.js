// What many runs say together: every run as a line through its knobs to what it reached, and one knob against the outcome.

import { el, figure, duration, setText, styles } from "./dom.js";
import { live } from "./live.js";
import { ends } from "./comparison.js";
import { baseLayout, loadPlotly, plain, token } from "./plot.js";
import { differingKnobs, shown } from "./run_filter.js";
import { axisOf, brushed, meansAt } from "./sweep_data.js";

const OUTCOMES = {
  best: ["Best held-out reward", (run) => run.best], reward: ["Newest held-out reward", (run) => run.reward],
  train: ["Newest train reward", (run) => run.train_reward], seconds: ["Running time, s", (run) => run.seconds], step: ["Finished steps", (run) => run.step],
};

const LETTER_PX = 7; // of an axis's name or value, at most
const RIGHT_PX = 90; // for half the name of the last axis and its values

export async function mount(element) {
  styles("sweep_plots");
  await loadPlotly().catch((error) => { element.textContent = error.message; throw error; });
  new SweepPlots(element);
}

class SweepPlots {
  constructor(element) {
    this.element = element;
    this.scope = "selected";
    this.outcome = "best";
    const choice = (label, change) => el("select", { class: "bgpo-input", "aria-label": label, on: { change: (event) => change(event.target.value) } });
    this.scopes = choice("Which runs", (value) => { this.scope = value; this.draw(); });
    this.outcomes = choice("What they reached", (value) => { this.outcome = value; this.draw(); });
    this.knobs = choice("Which knob", (value) => { this.knob = value; this.draw(); });
    this.lines = el("div", { class: "figure", role: "img" });
    this.dots = el("div", { class: "figure", role: "img" });
    this.open = el("button", { type: "button", class: "bgpo-button small primary", hidden: true, on: { click: () => live.select(this.within.map((row) => row.run.id)) } });
    this.words = el("p", { class: "bgpo-card none" });
    this.numbers = el("details", { class: "bgpo-card numbers" }, el("summary", { text: "The runs as a table" }), el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "The runs as a table" }));
    this.cards = el("div", { class: "cards" },
      el("section", { class: "bgpo-card", tabindex: "0", "aria-label": "Knobs and outcome" }, el("header", {}, el("h3", { text: "Knobs and outcome" }), el("span", { class: "bgpo-soft", text: "drag along an axis to pick runs" }), el("span", { class: "gap" }), this.open), this.lines),
      el("section", { class: "bgpo-card" }, el("header", {}, el("h3", { text: "One knob against the outcome" }), el("span", { class: "gap" }), this.knobs), this.dots), this.numbers);
    element.append(el("div", { class: "line" }, el("label", {}, "Runs", this.scopes), el("label", {}, "Outcome", this.outcomes)), this.words, this.cards);
    live.watch(element, ["runs", "selection", "points", "theme"], () => this.draw());
    new ResizeObserver(() => this.draw()).observe(element);
    this.draw();
  }

  runs() {
    const focus = live.focus();
    if (this.scope === "selected" && live.selected.length > 1) return live.chosen();
    live.everything();
    return live.list().filter((run) => run.readable && !run.archived && (!focus || run.task === focus.task));
  }

  draw() {
    if (!this.element.offsetWidth) return;
    this.drawChoices();
    const [title, of] = this.outcomeOf();
    const runs = this.runs().filter((run) => run.readable && Number.isFinite(of(run) ?? NaN));
    const names = differingKnobs(runs, Object.keys(live.defaults), (run, name) => live.knob(run, name));
    const print = JSON.stringify([runs.map((run) => [run.id, run.name, of(run), live.colour(run.id)]), names, this.knob, title, this.element.offsetWidth, document.body.className]);
    if (print === this.print) return;
    this.print = print;
    const enough = runs.length > 1 && names.length > 0;
    this.cards.hidden = !enough;
    this.words.hidden = enough;
    setText(this.words, runs.length < 2 ? "Two finished or running runs with a held-out reward are needed here. Select several in the list, or start one with another knob." : "These runs have the same value in every knob, so there is nothing to set their rewards against.");
    if (!enough) return;
    const rows = runs.map((run) => ({ run, reached: of(run), knobs: names.map((name) => live.knob(run, name)) }));
    this.drawLines(rows, names, title);
    this.drawDots(rows, names, title);
    this.drawNumbers(rows, names, title);
  }

  outcomeOf() {
    if (OUTCOMES[this.outcome]) return OUTCOMES[this.outcome];
    return [`${this.outcome}, newest`, (run) => ends(run, this.outcome).now];
  }

  drawChoices() {
    const focus = live.focus(), several = live.selected.length > 1;
    const task = live.list().filter((run) => run.readable && !run.archived && (!focus || run.task === focus.task)).length;
    fill(this.scopes, [...(several ? [["selected", `The ${live.selected.length} selected`]] : []), ["task", focus?.task ? `All ${task} on ${focus.task}` : `All ${task}`]], several ? this.scope : "task");
    const metrics = this.scope === "selected" && several ? [...new Set(live.chosen().flatMap((run) => Object.keys(live.points.get(run.id) || {})))].sort() : [];
    if (!OUTCOMES[this.outcome] && !metrics.includes(this.outcome)) this.outcome = "best";
    fill(this.outcomes, [...Object.entries(OUTCOMES).map(([name, [label]]) => [name, label]), ...metrics.map((name) => [name, name])], this.outcome);
  }

  // ---- a line per run

  drawLines(rows, names, title) {
    const { soft, text } = baseLayout(this.element);
    const axes = names.map((name, i) => axisOf(rows.map((row) => row.knobs[i])));
    for (const row of rows) row.values = [...row.knobs.map((value, i) => axes[i].at(value)), row.reached];
    const dimensions = names.map((name, i) => ({ label: plain(name), values: rows.map((row) => row.values[i]), ...(axes[i].ticks ? { tickvals: axes[i].ticks, ticktext: axes[i].labels.map(plain) } : {}), ...range(axes[i], rows.map((row) => row.values[i])) }));
    dimensions.push({ label: plain(title), values: rows.map((row) => row.reached) });
    const reached = rows.map((row) => row.reached);
    const trace = {
      type: "parcoords", dimensions, labelfont: { size: 12, color: text }, tickfont: { size: 11, color: soft }, rangefont: { size: 1, color: "rgba(0,0,0,0)" },
      line: { color: reached, cmin: Math.min(...reached), cmax: Math.max(...reached), colorscale: [[0, token(this.element, "c1")], [0.5, token(this.element, "c7")], [1, token(this.element, "c0")]] },
      unselected: { line: { color: token(this.element, "line"), opacity: 0.25 } }, labelangle: 0,
    };
    this.lines.setAttribute("aria-label", `${rows.length} runs as lines through ${names.join(", ")} to ${title}`);
    // room for the names above the axes, and for the values to the left of the first one
    const left = 24 + LETTER_PX * Math.max(6, ...(axes[0].ticks ? axes[0].labels.map((label) => label.length) : []));
    const apart = Math.max(100, 20 + LETTER_PX * Math.max(...names.map((name) => name.length)));
    const width = Math.max(this.lines.parentElement.clientWidth - 30, left + names.length * apart + RIGHT_PX);
    this.rows = rows;
    const first = !this.drawn;
    this.drawn = true;
    window.Plotly.react(this.lines, [trace], { ...baseLayout(this.element).layout, width, height: 320, margin: { l: left, r: RIGHT_PX, t: 46, b: 22 }, uirevision: names.join() }, { displayModeBar: false });
    if (first) this.lines.on("plotly_restyle", () => this.picked());
    this.picked();
  }

  picked() {
    const ranges = this.lines.data[0].dimensions.map((dimension) => dimension.constraintrange || null);
    this.within = brushed(this.rows, ranges);
    this.open.hidden = !ranges.some(Boolean) || !this.within.length;
    setText(this.open, this.within.length === 1 ? "Open this run" : `Compare these ${this.within.length}`);
  }

  // ---- one knob

  drawDots(rows, names, title) {
    if (!names.includes(this.knob)) this.knob = names.find((name) => name !== "seed") || names[0];
    fill(this.knobs, names.map((name) => [name, name]), this.knob);
    const place = names.indexOf(this.knob), axis = axisOf(rows.map((row) => row.knobs[place]));
    const { axis: lines, layout, soft, text } = baseLayout(this.element);
    const points = rows.map((row) => ({ x: axis.at(row.knobs[place]), y: row.reached, row }));
    const means = meansAt(points);
    const ink = (run) => token(this.element, live.selected.includes(run.id) ? `c${live.colour(run.id)}` : "text-soft");
    const traces = [{
      type: "scatter", mode: "markers", x: means.map((mean) => mean.x), y: means.map((mean) => mean.mean), error_y: { type: "data", array: means.map((mean) => mean.half), color: text, thickness: 1.2, width: 7 },
      marker: { symbol: "line-ew", size: 18, line: { width: 2, color: text } }, text: means.map((mean) => `mean of ${mean.count}, ± ${figure(mean.half)} (95 %)`), hovertemplate: "%{y:.4~g}, %{text}<extra></extra>",
    }, {
      type: "scatter", mode: "markers", x: points.map((point) => point.x), y: points.map((point) => point.y), customdata: points.map((point) => point.row.run.id),
      marker: { size: 9, color: points.map((point) => ink(point.row.run)), line: { width: 1, color: token(this.element, "surface") } },
      text: points.map((point) => plain(`${point.row.run.name}: ${this.knob} ${shown(point.row.knobs[place])}`)), hovertemplate: "%{text}<br>%{y:.4~g}<extra></extra>",
    }];
    const ticks = axis.ticks ? { tickmode: "array", tickvals: axis.ticks, ticktext: axis.labels.map(plain) } : {};
    this.dots.setAttribute("aria-label", `${title} of ${rows.length} runs against ${this.knob}`);
    const first = !this.dotted;
    this.dotted = true;
    window.Plotly.react(this.dots, traces, { ...layout, height: 320, margin: { l: 56, r: 18, t: 10, b: 44 }, hovermode: "closest",
      xaxis: { ...lines, ...ticks, ...range(axis, points.map((point) => point.x)), showgrid: false, zeroline: false, title: { text: plain(this.knob), font: { size: 12, color: soft } } },
      yaxis: { ...lines, title: { text: plain(title), font: { size: 12, color: soft } } } }, { displayModeBar: false, responsive: true });
    if (first) this.dots.on("plotly_click", (event) => { const id = event.points[0]?.customdata; if (id) live.toggle(id); });
  }

  drawNumbers(rows, names, title) {
    const ordered = [...rows].sort((a, b) => b.reached - a.reached);
    const words = this.outcome === "seconds" ? duration : figure;
    this.numbers.querySelector(".scroll").replaceChildren(el("table", {}, el("thead", {}, el("tr", {}, ...["Run", ...names, title].map((text) => el("th", { scope: "col", text })))),
      el("tbody", {}, ...ordered.map((row) => el("tr", {}, el("th", { scope: "row" }, el("button", { type: "button", class: "link", text: row.run.name, on: { click: () => live.select([row.run.id]) } })),
        ...row.knobs.map((value) => el("td", { class: "bgpo-mono", text: shown(value) })), el("td", { text: words(row.reached) }))))));
  }
}

// Room to the left and right of the outermost places.
function range(axis, places) {
  const low = Math.min(...places), high = Math.max(...places), room = (high - low || 1) * 0.06;
  return { range: [low - room, high + room] };
}

function fill(select, options, value) {
  const key = JSON.stringify(options);
  if (select.dataset.key !== key) { select.dataset.key = key; select.replaceChildren(...options.map(([name, text]) => el("option", { value: name, text }))); }
  if (select.value !== value) select.value = value;
}
