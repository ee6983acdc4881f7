// The queue: its order by drag or by buttons, priorities, planned starts, and the pause of all of it.

import { el, post, setText, styles } from "./dom.js";
import { live } from "./live.js";
import { menuButton } from "./menu.js";

const PRIORITIES = [[1, "High priority"], [0, "Normal priority"], [-1, "Low priority"]];
const ENDED = new Set(["finished", "stopped", "failed"]);

export function clockWords(at) {
  const then = new Date(at * 1000), time = then.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  return then.toDateString() === new Date().toDateString() ? `at ${time}` : `on ${then.toLocaleDateString([], { day: "numeric", month: "short" })} at ${time}`;
}

export function mount(element) {
  styles("queue_card");
  styles("menu");
  new QueueCard(element);
}

class QueueCard {
  constructor(element) {
    this.rows = new Map();
    this.title = el("h2", { class: "bgpo-eyebrow" });
    this.pause = el("button", { type: "button", class: "bgpo-button small", on: { click: () => this.send("/api/queue/pause", { paused: !live.queue.paused }) } });
    this.note = el("p", { class: "note", role: "status" });
    this.message = el("p", { class: "message", role: "alert" });
    this.list = el("ol", { "aria-label": "Queue, the next run first" });
    this.card = el("section", { class: "bgpo-card queue", hidden: true, "aria-label": "Queue" }, el("header", {}, this.title, this.pause), this.note, this.list, this.message);
    element.append(this.card);
    live.watch(element, ["runs", "queue", "selection"], () => this.draw());
    this.draw();
  }

  draw() {
    const queued = live.list().filter((run) => run.status === "queued").sort((a, b) => a.queue_place - b.queue_place);
    this.card.hidden = !queued.length && !live.queue.paused;
    setText(this.title, live.queue.queued === 1 ? "Queue, 1 run" : `Queue, ${live.queue.queued.toLocaleString("en")} runs`); // of very many not all are here
    setText(this.pause, live.queue.paused ? "Go on" : "Pause queue");
    this.pause.classList.toggle("primary", live.queue.paused);
    setText(this.note, live.queue.paused ? live.queue.why || "Paused: nothing is started until it goes on. Runs that work are not touched." : "");
    const order = queued.map((run) => run.id).join();
    for (const run of queued) this.row(run).draw(run, queued.length);
    if (order !== this.order && !this.dragged) {
      this.order = order;
      const focus = document.activeElement;
      this.list.replaceChildren(...queued.map((run) => this.rows.get(run.id).node));
      if (this.list.contains(focus)) focus.focus({ preventScroll: true });
    }
    for (const id of this.rows.keys()) if (!queued.some((run) => run.id === id)) this.rows.delete(id);
  }

  row(run) {
    if (!this.rows.has(run.id)) this.rows.set(run.id, new QueuedRun(run.id, this));
    return this.rows.get(run.id);
  }

  async send(path, body) {
    setText(this.message, "");
    try { await post(path, body); } catch (error) { setText(this.message, error.message); }
    await live.poll();
  }

  move(id, place) { return this.send(`/api/runs/${id}/move`, { place }); }
  plan(id, wishes) { return this.send(`/api/runs/${id}/plan`, wishes); }
}

class QueuedRun {
  constructor(id, queue) {
    this.id = id;
    this.queue = queue;
    this.place = el("span", { class: "place", "aria-hidden": "true" });
    this.name = el("button", { type: "button", class: "name", on: { click: () => live.select([id]) } });
    this.why = el("span", { class: "why" });
    this.up = this.step("up", "M3 10l5-5 5 5", -1);
    this.down = this.step("down", "M3 6l5 5 5-5", 1);
    this.menu = menuButton("More of this run", () => this.items(), { symbol: "\u22ef", class: "bgpo-menu-button dots" });
    this.node = el("li", { data: { queued: id }, draggable: "true", on: {
      dragstart: (event) => this.dragStart(event), dragend: () => this.dragEnd(), dragover: (event) => this.dragOver(event), drop: (event) => this.drop(event) } },
    this.place, el("div", { class: "what" }, this.name, this.why), el("div", { class: "steps" }, this.up, this.down, this.menu));
  }

  step(word, path, by) {
    const arrow = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    arrow.setAttribute("viewBox", "0 0 16 16");
    arrow.setAttribute("aria-hidden", "true");
    const line = document.createElementNS("http://www.w3.org/2000/svg", "path");
    line.setAttribute("d", path);
    arrow.append(line);
    return el("button", { type: "button", class: "step", data: { step: word }, on: { click: () => this.queue.move(this.id, this.run.queue_place + by) } }, arrow);
  }

  draw(run, count) {
    this.run = run;
    setText(this.place, String(run.queue_place));
    setText(this.name, run.name);
    this.name.title = run.name;
    setText(this.why, reasons(run).join(", "));
    this.why.hidden = !this.why.textContent;
    this.node.classList.toggle("chosen", live.selected.includes(run.id));
    for (const [button, word] of [[this.up, "up"], [this.down, "down"]]) button.setAttribute("aria-label", `Move ${run.name} ${word}`);
    this.up.disabled = run.queue_place === 1;
    this.down.disabled = run.queue_place === count;
  }

  items() {
    const later = el("input", { type: "datetime-local", class: "bgpo-input", "aria-label": "Start not before" });
    if (this.run.start_at) later.value = localValue(this.run.start_at);
    const set = el("button", { type: "button", class: "bgpo-button small", text: "Set", on: { click: () => {
      this.menu.closeMenu();
      this.queue.plan(this.id, { start: later.value ? new Date(later.value).getTime() / 1000 : null });
    } } });
    return [
      { text: "To the front", disabled: this.run.queue_place === 1, run: () => this.queue.move(this.id, 1) },
      ...PRIORITIES.map(([priority, text]) => ({ text, pressed: this.run.priority === priority, run: () => this.queue.plan(this.id, { priority }) })),
      null,
      el("div", { class: "later" }, el("label", { text: "Start not before" }), el("div", {}, later, set)),
      { text: "Start as soon as possible", disabled: !this.run.start_at && !this.run.after, run: () => this.queue.plan(this.id, { start: null, after: null }) },
      null,
      { text: "Hold it back", run: () => this.queue.send(`/api/runs/${this.id}/pause`) },
      { text: "Take it out of the queue", danger: true, run: () => this.queue.send(`/api/runs/${this.id}/stop`) },
    ];
  }

  // ---- by mouse; the buttons and the menu do the same

  dragStart(event) {
    this.queue.dragged = this;
    event.dataTransfer.effectAllowed = "move";
    event.dataTransfer.setData("text/plain", this.run.name);
    this.node.classList.add("dragged");
  }

  dragOver(event) {
    const moved = this.queue.dragged;
    if (!moved) return;
    event.preventDefault();
    if (moved === this) return;
    const { top, height } = this.node.getBoundingClientRect();
    if (event.clientY < top + height / 2) this.node.before(moved.node); else this.node.after(moved.node);
  }

  drop(event) { event.preventDefault(); }

  async dragEnd() {
    this.node.classList.remove("dragged");
    const place = [...this.queue.list.children].indexOf(this.node) + 1;
    if (place !== this.run.queue_place) await this.queue.move(this.id, place);
    this.queue.dragged = null;
    this.queue.order = [...this.queue.list.children].map((node) => node.dataset.queued).join();
    this.queue.draw();
  }
}

function reasons(run) {
  const parts = [];
  if (run.priority) parts.push(run.priority > 0 ? "high priority" : "low priority");
  if (run.start_at && run.start_at > live.now()) parts.push(`starts ${clockWords(run.start_at)}`);
  if (run.after && !ENDED.has(live.run(run.after)?.status ?? "finished")) parts.push(`after run ${run.after}`);
  if (run.retries) parts.push(`retry ${run.retries}`);
  return parts;
}

function localValue(at) {
  const then = new Date(at * 1000 - new Date(at * 1000).getTimezoneOffset() * 60000);
  return then.toISOString().slice(0, 16);
}
