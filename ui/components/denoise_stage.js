// The denoising stage: one completion as a canvas of masked positions that fill in, with a scrubber over its steps.
//
// `Stage` is plain DOM and knows nothing of Gradio: `load(events)` shows a whole trace, `push(event)` adds to a live one.
// Events that arrive faster than people can follow wait here; nothing is ever slowed down where it is generated, and
// what is generated slowly is shown at once.

import { el, setText, styles } from "./dom.js";
import { Trace, duration, figures, percent, plural, rate, visible } from "./denoise_trace.js";
import { Conversation } from "./conversation.js";
import { Strip } from "./denoise_strip.js";
import { together } from "./stage_link.js";

const SPEEDS = [0.25, 0.5, 1, 2, 4, 8];
const STEPS_PER_SECOND = 6;
const FOLLOWED = 25; // steps a second; a generation that is no faster is shown as it comes
const LONGEST_SHOW_S = 10; // a generation of many passes is shown faster, so that 1x never takes longer than this

export class Stage {
  /**
   * options: {empty: sentence shown before anything is loaded, live: true in a page that generates,
   * shown(step): told of every step that is shown, chosen(positions): told of the positions that are selected,
   * link: a `Together` of stages that show the same step}.
   */
  constructor(element, options = {}) {
    styles("denoise_stage");
    this.options = options;
    this.trace = new Trace();
    this.shown = 0;
    this.shownAt = 0;
    this.playing = false;
    this.speed = 1;
    this.colour = "confidence";
    this.selected = null;
    this.anchor = null; // the other end of a selected span
    this.reference = null; // a trace to mark differences from
    this.note = "";
    this.timer = null;
    this.led = null; // the stage that this one follows
    this.calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.build(element);
    this.reset();
  }

  // ---- what callers use -------------------------------------------------------------------------------------------

  /** Shows a whole trace at its end; Play starts from the beginning. */
  load(events, { play = false } = {}) {
    this.reset();
    for (const event of events) this.trace.add(event);
    this.layout();
    this.show(play && !this.calm ? 0 : this.trace.last);
    if (play && !this.calm) this.play();
  }

  /**
   * Adds one event of a running generation; "start" clears what was there. So do "loading", a sentence to wait with, and
   * "idle", a sentence for an empty stage with, perhaps, a way out: {text, action: {label, area}}.
   */
  push(event) {
    if (["idle", "loading", "start"].includes(event.kind)) this.reset();
    if (event.kind === "idle" || event.kind === "loading") this.note = event.text;
    this.waiting = event.kind === "loading";
    this.action = event.action ?? null;
    this.trace.add(event);
    if (event.kind === "start") {
      this.layout();
      this.playing = true;
    }
    if (event.kind === "error" && !this.trace.start) this.note = event.message;
    if (this.trace.finished) this.options.link?.refresh(this);
    if (event.kind === "step") this.keepUp();
    if (this.calm && this.playing) this.show(this.trace.last);
    this.advance();
    this.update();
  }

  reset() {
    clearTimeout(this.timer);
    this.trace = new Trace();
    this.shown = 0;
    this.shownAt = 0;
    this.playing = false;
    this.selected = this.anchor = null;
    this.note = "";
    this.waiting = false;
    this.abreast = false; // of a generation: what is made is shown at once
    this.action = null;
    this.cells = [];
    this.canvas.replaceChildren();
    this.update();
  }

  keepUp() {
    const { seconds, last } = this.trace;
    this.abreast = seconds[last] - (seconds[last - 1] ?? Infinity) >= 1 / FOLLOWED;
    if (this.abreast && this.playing) this.show(last);
  }

  // ---- time -------------------------------------------------------------------------------------------------------

  rate() { return this.speed * Math.max(STEPS_PER_SECOND, this.trace.total / LONGEST_SHOW_S); }

  advance() {
    clearTimeout(this.timer);
    if (!this.playing) return;
    if (this.shown >= this.trace.last) {
      if (this.trace.finished) { this.pause(); this.options.link?.ended(this); }
      return; // a live one goes on with its next event
    }
    const wait = Math.max(0, this.shownAt + 1000 / this.rate() - performance.now());
    this.timer = setTimeout(() => { this.show(this.shown + 1); this.advance(); }, wait);
  }

  play() {
    if (this.shown >= this.trace.last && this.trace.finished) this.show(0);
    this.playing = true;
    this.led = null;
    this.shownAt = performance.now();
    this.advance();
    this.update();
  }

  pause() {
    this.playing = false;
    clearTimeout(this.timer);
    this.update();
    this.options.link?.refresh(this);
  }

  /** Whether steps go by here, by itself or behind another stage. */
  get moving() { return this.playing || Boolean(this.led?.playing); }

  toggle() {
    if (this.moving) (this.playing ? this : this.led).pause();
    else this.play();
  }

  /** By hand: stops the show and goes to a step. */
  seek(step) {
    this.playing = false;
    clearTimeout(this.timer);
    this.show(Math.min(Math.max(0, step), this.trace.last));
  }

  show(step) {
    this.shown = step;
    this.shownAt = performance.now();
    this.led = null;
    this.update();
    this.options.shown?.(step);
    this.options.link?.shown(this, step);
  }

  /** Shows what another stage shows, and tells nobody. */
  follow(step, leader = null) {
    this.led = leader;
    this.playing = false;
    clearTimeout(this.timer);
    this.shown = Math.min(Math.max(0, step), this.trace.last);
    this.update();
  }

  /** Marks where this differs from another trace; null: not any more. */
  compareWith(trace) {
    this.reference = trace;
    if (!trace && this.colour === "change") this.colour = "confidence";
    this.update();
  }

  /** The selected positions, in order. */
  get span() {
    if (this.selected === null) return [];
    const [low, high] = [Math.min(this.selected, this.anchor ?? this.selected), Math.max(this.selected, this.anchor ?? this.selected)];
    return Array.from({ length: high - low + 1 }, (_, i) => low + i);
  }

  choose(position, extend) {
    this.anchor = extend && this.selected !== null ? this.anchor ?? this.selected : null;
    this.selected = !extend && this.selected === position ? null : position;
    this.update();
    this.options.chosen?.(this.span);
  }

  // ---- building ---------------------------------------------------------------------------------------------------

  build(element) {
    this.status = el("p", { class: "ds-status" });
    this.verdict = el("span", { class: "ds-verdict bgpo-chip" });
    this.parts = el("span", { class: "ds-parts" });
    this.canvas = el("div", { class: "ds-canvas", role: "list", "aria-label": "Tokens" });
    this.empty = el("p", { class: "ds-empty" });
    this.readout = el("p", { class: "ds-readout" });
    this.announcer = el("p", { class: "bgpo-sr", "aria-live": "polite" });
    this.strip = new Strip((step) => this.seek(step));
    this.root = el("section", { class: "ds-stage", tabindex: "0", role: "group", on: { keydown: (e) => this.key(e) },
      "aria-label": "Denoising. Left and right step through it, space plays, up and down choose a token." },
    el("header", { class: "ds-head" }, this.status, this.verdict, this.parts),
    el("div", { class: "ds-board" }, this.empty, this.canvas),
    el("div", { class: "ds-under" }, this.readout, this.buildColours()), this.strip.element,
    this.buildControls(), this.buildText(), this.announcer);
    element.append(this.root);
  }

  buildColours() {
    this.colourButtons = [["confidence", "Confidence"], ["order", "Order"], ["change", "Change"]].map(([name, label]) => el("button", {
      type: "button", "data-name": name, on: { click: () => { this.colour = name; this.update(); } },
    }, label));
    this.legend = el("span", { class: "ds-legend" },
      this.legendLow = el("span"), ...[0, 0.25, 0.5, 0.75, 1].map((x) => el("i", { style: `--x:${x * 100}%` })),
      this.legendHigh = el("span"));
    return el("div", { class: "ds-colours" }, this.legend,
      el("div", { class: "ds-segments", role: "group", "aria-label": "Colour tokens by" }, ...this.colourButtons));
  }

  buildControls() {
    const button = (name, label, action) => el("button", {
      type: "button", class: `ds-button ds-${name}`, title: label, "aria-label": label, on: { click: action },
    }, el("i", { "aria-hidden": "true" }));
    this.playButton = button("play", "Play", () => this.toggle());
    this.position = el("span", { class: "ds-position" });
    this.speedSelect = el("select", { "aria-label": "Speed", on: { change: () => this.setSpeed(+this.speedSelect.value) } },
      ...SPEEDS.map((speed) => el("option", { value: speed, selected: speed === 1 }, `${speed}x`)));
    this.controls = el("div", { class: "ds-controls" },
      button("first", "First step", () => this.seek(0)), button("back", "One step back", () => this.seek(this.shown - 1)),
      this.playButton, button("next", "One step on", () => this.seek(this.shown + 1)),
      button("last", "Last step", () => this.seek(this.trace.last)), this.position, this.options.link?.toggle(this),
      el("label", { class: "ds-speed" }, el("span", {}, "Speed"), this.speedSelect));
    return this.controls;
  }

  buildText() {
    this.textList = el("ol", { class: "ds-text-list" });
    this.textBlock = el("details", { class: "ds-text", on: { toggle: () => this.writeText() } },
      // "toggle" comes only after the open block was painted: a click fills it before it is seen
      el("summary", { on: { click: () => this.writeText() } }, "As text"), this.textList);
    return this.textBlock;
  }

  setSpeed(speed) {
    this.speed = speed;
    this.speedSelect.value = String(speed);
    this.advance();
    this.update();
    this.options.link?.speed(this, speed);
  }

  /** Chips for the prompt and every position, once per generation: nothing moves afterwards. */
  layout() {
    const { start } = this.trace;
    if (!start) return;
    const prompt = (start.prompt_tokens ?? []).map((token) => el("span", { class: "ds-prompt" }, visible(token)));
    this.cells = Array.from({ length: start.length }, (_, position) => this.chip(position));
    const blocks = start.block_length && start.block_length < start.length ? start.block_length : 0;
    if (blocks) this.cells.forEach((cell, i) => cell.root.classList.toggle("ds-block", i > 0 && i % blocks === 0));
    this.fold = el("span", { class: "ds-fold" });
    // the prompt's tokens tell how long those of the answer may be, but for the template's own
    const words = (start.prompt_tokens ?? []).filter((token) => !/^<\|.*\|>$/.test(token));
    const widest = Math.max(...[...words, ...this.tokens()].map((t) => this.trace.shown(t).length), 1);
    this.canvas.style.setProperty("--ds-ch", Math.min(Math.max(widest, start.length > 64 ? 2 : 3), 9));
    this.canvas.classList.toggle("ds-small", start.length > 32);
    this.canvas.replaceChildren(
      el("div", { class: `ds-row ds-row-prompt${prompt.length > 48 ? " ds-long" : ""}`, role: "listitem", tabindex: prompt.length > 48 ? 0 : null, "aria-label": `Prompt: ${start.prompt ?? ""}` }, ...prompt),
      el("div", { class: "ds-row" }, ...this.cells.map((cell) => cell.root), this.fold));
    this.strip.layout(this.trace);
  }

  tokens() { return [...this.trace.history.values()].flat().map((commit) => commit.token); }

  chip(position) {
    const cell = { token: el("b"), caption: el("small") };
    cell.root = el("span", { class: "ds-chip", role: "listitem", on: {
      pointerenter: () => { this.hovered = position; this.updateReadout(); },
      pointerleave: () => { this.hovered = null; this.updateReadout(); },
      click: (event) => this.choose(position, event.shiftKey),
    } }, cell.token, cell.caption);
    return cell;
  }

  // ---- drawing ----------------------------------------------------------------------------------------------------

  update() {
    const { trace } = this;
    const ready = trace.start !== null;
    this.root.classList.toggle("ds-ready", ready);
    this.root.classList.toggle("ds-busy", this.waiting);
    if (!ready) this.drawEmpty();
    setText(this.status, this.statusWords());
    if (ready) this.drawCells(trace.canvas(this.shown));
    this.drawVerdict();
    this.drawControls();
    this.updateReadout();
    this.strip.draw(trace, this.shown);
    if (this.textBlock.open) this.writeText();
    this.announce();
  }

  drawEmpty() {
    this.empty.replaceChildren(this.note || this.options.empty || "Nothing to show yet.");
    if (this.action) {
      const { label, area } = this.action;
      this.empty.append(el("button", { type: "button", class: "bgpo-button primary ds-action",
        on: { click: () => window.bgpo?.openArea(area) } }, label));
    }
  }

  drawCells(cells) {
    const tail = this.trace.tail(cells);
    const spread = Math.max(1, this.trace.total - 1);
    const span = new Set(this.span);
    const others = this.reference?.canvas(this.reference.last) ?? [];
    cells.forEach((cell, position) => {
      const { root, token, caption } = this.cells[position];
      const filled = cell.token !== undefined;
      const differs = filled && others.length > 0 && others[position]?.token !== cell.token;
      const share = this.colour === "order" ? Math.max(0, cell.step - 1) / spread : this.colour === "change" ? Number(!differs) : cell.confidence ?? 0.5;
      const what = cell.token ?? cell.ghost;
      setText(token, what === undefined ? "" : this.trace.shown(what));
      setText(caption, this.caption(cell));
      token.style.opacity = filled ? "" : Math.max(cell.probability ?? 0, 0.05);
      root.style.setProperty("--x", filled ? `${Math.round(share * 100)}%` : "0%");
      root.className = ["ds-chip", filled ? "ds-filled" : "ds-mask", root.classList.contains("ds-block") ? "ds-block" : "",
        filled && cell.step === this.shown ? "ds-new" : "", what !== undefined && this.trace.isEnd(what) ? "ds-end" : "", cell.filled ? "ds-filler" : "",
        span.has(position) ? "ds-selected" : "", differs ? "ds-differs" : "",
        this.trace.locked.has(position) && cell.step === 0 ? "ds-locked" : "", position >= cells.length - tail ? "ds-folded" : ""].join(" ");
      root.setAttribute("aria-label", this.cellWords(cell, position));
    });
    const filler = cells.slice(cells.length - tail).filter((cell) => cell.filled).length;
    setText(this.fold, tail ? `end \u00d7 ${tail}${filler ? `, ${filler === tail ? "all" : filler} filled up` : ""}` : "");
    this.fold.title = filler ? "The answer had ended, so the rest was filled with end tokens and not computed." : "";
  }

  caption(cell) {
    if (cell.token === undefined) return cell.ghost === undefined ? "" : percent(cell.probability);
    if (cell.step === 0) return "fixed";
    if (cell.filled) return "filled up";
    return this.colour === "order" ? `step ${cell.step}` : cell.confidence === null ? "" : percent(cell.confidence);
  }

  cellWords(cell, position) {
    const place = `Position ${position + 1}`;
    const token = this.trace.shown(cell.token ?? cell.ghost ?? "");
    if (cell.token !== undefined && cell.step === 0) return `${place}: ${token}, fixed from the start`;
    if (cell.filled) return `${place}: end, filled up after step ${cell.step} because the answer had ended`;
    if (cell.token !== undefined) {
      return `${place}: ${token}, filled at step ${cell.step}`
        + (cell.confidence === null ? "" : `, confidence ${percent(cell.confidence)}`);
    }
    if (cell.ghost === undefined) return `${place}: masked`;
    return `${place}: masked, would write ${token} with probability ${percent(cell.probability)}`;
  }

  updateReadout() {
    const position = this.hovered ?? this.selected;
    const cell = this.trace.start && position !== null && position !== undefined
      ? this.trace.canvas(this.shown)[position] : null;
    const final = cell && this.trace.history.get(position)?.at(-1);
    this.readout.replaceChildren(cell ? this.cellWords(cell, position) : this.trace.start
      ? "Point at a token, or choose one with the up and down keys." : "");
    const detail = cell?.token === undefined || cell.step === 0 ? null : this.trace.details.get(position);
    if (detail) {
      const others = detail.others.map(([token, chance]) => `${this.trace.shown(token)} ${percent(chance)}`).join(", ");
      this.readout.append(`, entropy ${Number(detail.entropy.toFixed(2))} nats`, others ? `; next best: ${others}` : "");
    }
    if (cell && final && final.step !== this.shown && this.selected === position) {
      this.readout.append(" ", el("button", { type: "button", class: "ds-jump", on: { click: () => {
        this.seek(final.step);
        this.root.focus(); // the button is gone by now, and keys should go on working
      } } }, `Go to step ${final.step}`));
    }
  }

  statusWords() {
    const { start, end, last, total } = this.trace;
    if (!start) return "";
    if (end?.kind === "error") return end.message;
    const shown = `shown at ${Number(this.rate().toFixed(1))} steps/s`;
    if (!end) return `Generating: ${last} of ${plural(total, "step")} made, ${this.abreast ? "shown as they come" : shown}`;
    if (end.kind === "stopped") return `Stopped after ${last} of ${plural(start.steps, "step")}`;
    const took = figures(this.trace);
    if (took.seconds === null) return `Recorded answer, ${plural(total, "step")}, ${shown}`;
    return [`Generated in ${duration(took.seconds)}${start.device ? ` on ${start.device}` : ""}`, took.tokens === null ? "" : plural(took.tokens, "token"),
      took.perSecond === null ? "" : `${rate(took.perSecond)} tokens/s`,
      took.passes === null ? "" : plural(took.passes, "forward pass", "forward passes"),
      took.perPass === null ? "" : `${rate(took.perPass)} ${took.perPass === 1 ? "token" : "tokens"} per forward`,
      took.firstChange === null ? "" : `first change after ${duration(took.firstChange)}`, shown].filter(Boolean).join(", ");
  }

  // only at the last step: a verdict beside a half-filled canvas would give the ending away
  drawVerdict() {
    const { end, last } = this.trace;
    const verdict = end?.verdict;
    this.verdict.hidden = !end || end.kind === "error" || this.shown < last || (!verdict && !this.options.live);
    this.parts.hidden = this.verdict.hidden || !(verdict?.parts?.length > 1);
    if (this.verdict.hidden) return;
    setText(this.parts, (verdict?.parts ?? []).map(([name, value]) => `${name} ${Number(value.toFixed(2))}`).join(" \u00b7 "));
    const good = verdict && (verdict.solved ?? verdict.reward >= 0.999);
    this.verdict.className = `ds-verdict bgpo-chip ${verdict ? (good ? "good" : "bad") : ""}`;
    setText(this.verdict, verdict ? `Reward ${Number(verdict.reward.toFixed(2))}: ${verdict.reason}`
      : end.kind === "stopped" ? "Not judged: stopped" : `Not judged: ${end.unjudged ?? "the prompt is no problem of the task"}`);
  }

  drawControls() {
    const { trace } = this;
    for (const control of this.controls.querySelectorAll("button, select")) control.disabled = !trace.start;
    setText(this.position, trace.start ? `Step ${this.shown} of ${trace.total}` : "");
    this.playButton.classList.toggle("ds-playing", this.moving);
    this.playButton.setAttribute("aria-label", this.moving ? "Pause" : "Play");
    this.playButton.title = this.moving ? "Pause (space)" : "Play (space)";
    for (const button of this.colourButtons) {
      button.setAttribute("aria-pressed", button.dataset.name === this.colour);
      if (button.dataset.name === "change") button.hidden = !this.reference;
    }
    this.root.dataset.colour = this.colour;
    const [low, high] = { order: ["first", "last"], change: ["differs", "same"] }[this.colour] ?? ["unsure", "sure"];
    setText(this.legendLow, low);
    setText(this.legendHigh, high);
  }

  writeText() {
    const steps = Array.from({ length: this.trace.last + 1 }, (_, step) => step);
    this.textList.replaceChildren(...steps.map((step) => el("li", { "aria-current": step === this.shown ? "step" : null },
      el("span", {}, `Step ${step}`), el("code", {}, this.trace.text(step)))));
  }

  // one sentence at the end: a reader that speaks every step would never catch up
  announce() {
    const { end, last } = this.trace;
    const done = end && this.shown >= last && !this.playing;
    setText(this.announcer, done ? [this.statusWords(), end.text ? `Answer: ${end.text}` : "",
      this.verdict.hidden ? "" : this.verdict.textContent].filter(Boolean).join(". ") : "");
  }

  // ---- keys -------------------------------------------------------------------------------------------------------

  key(event) {
    const inControl = event.target.closest("button, select, input, summary");
    if (!this.trace.start || event.ctrlKey || event.metaKey || event.altKey) return;
    if (inControl && (event.key === " " || event.target.matches("select, input"))) return;
    const choose = (by) => {
      const length = this.trace.length;
      const next = this.selected === null ? (by > 0 ? 0 : length - 1) : (this.selected + by + length) % length;
      if (!event.shiftKey) this.selected = null; // or the same one would be let go of
      this.choose(next, event.shiftKey);
    };
    const actions = {
      ArrowLeft: () => this.seek(this.shown - 1), ArrowRight: () => this.seek(this.shown + 1),
      Home: () => this.seek(0), End: () => this.seek(this.trace.last), " ": () => this.toggle(),
      ArrowDown: () => choose(1), ArrowUp: () => choose(-1), Escape: () => { if (this.selected !== null) this.choose(this.selected, false); },
    };
    if (!actions[event.key]) return;
    event.preventDefault();
    actions[event.key]();
  }
}

/**
 * In a page that generates: `props.value` is {generation, turn, label, events}, events growing as they are made. Whatever
 * arrives is pushed once, however many updates it came in; finished answers are kept in the conversation above the stage.
 * props.link: a name that stages share which show the same step.
 */
export function mount(element, props, watch) {
  const conversation = new Conversation(element, (events) => stage.load(events, { play: true }));
  const link = props.link ? together(props.link) : null;
  const stage = new Stage(element, { live: true, empty: props.empty, link });
  link?.add(stage);
  let generation = null;
  let seen = 0;
  const take = () => {
    const value = props.value;
    if (!value?.events) return;
    if (value.generation !== generation) { generation = value.generation; seen = 0; }
    const fresh = value.events.slice(seen);
    seen += fresh.length;
    for (const event of fresh) event.kind === "clear" ? conversation.clear() : stage.push(event);
    if (fresh.some((event) => ["end", "stopped"].includes(event.kind))) conversation.put(value);
  };
  take();
  watch("value", take);
}
