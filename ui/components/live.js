// The one store of a page: runs, their points, what is selected. One poll fills it for every component.
//
// Events: "runs" (rows changed), "queue" (paused or not, slots), "points" (ids with new points), "alerts", "selection", "theme", "connection";
// "view" (view.js), "marks" and "window" (the charts') are announced here as well.

import { get } from "./dom.js";
import { addPoints } from "./series_maths.js";

const BUSY = new Set(["queued", "launching", "running"]);
const FAST_MS = 1000;
const IDLE_MS = 5000;
const MOST_SELECTED = 24; // as the server answers for
const LONG_RUN = 3000; // steps from which the server sends buckets
const FIRST = 500; // runs that the list begins with, and by how many it goes further back
const RAW_TAIL = 2500; // points of a run since its last buckets; beyond, it is asked for in buckets again

class Live extends EventTarget {
  constructor() {
    super();
    this.runs = new Map();
    this.points = new Map();
    this.cursors = new Map();
    this.lengths = new Map(); // of a run's longest curve when it last came whole
    this.alerts = new Map(); // of the selected runs, by step
    this.colours = new Map();
    this.defaults = {}; // of every knob; a run names those that are not
    this.token = "";
    this.newest = FIRST; // how many runs are wanted here, the newest of all
    this.older = 0; // runs that are not here
    this.queue = { paused: false, why: "", slots: 1, queued: 0 };
    this.loaded = false;
    this.connected = true;
    this.clock = 0; // server time minus ours, in seconds
    const query = new URLSearchParams(location.search);
    this.selected = (query.get("run") || "").split(",").map(Number).filter((id) => Number.isInteger(id) && id > 0);
    this.timer = null;
    this.failures = 0;
    this.polling = null; // the poll that is under way, and the one that was asked for meanwhile
    this.following = null;
    this.again = false; // the last answer left something out
  }

  start() {
    if (this.started) return;
    this.started = true;
    document.addEventListener("visibilitychange", () => { if (!document.hidden) this.poll(); });
    new MutationObserver(() => this.emit("theme")).observe(document.body, { attributes: true, attributeFilter: ["class"] });
    get("/api/knobs").then((knobs) => { this.defaults = knobs; if (this.loaded) this.emit("runs"); }).catch(() => {});
    this.poll();
  }

  emit(type, detail = null) { this.dispatchEvent(new CustomEvent(type, { detail })); }

  // Subscribes while `element` is on the page; Gradio may remove components at any time.
  watch(element, types, handler) {
    const call = (event) => {
      if (element.isConnected) handler(event);
      else for (const type of types) this.removeEventListener(type, call);
    };
    for (const type of types) this.addEventListener(type, call);
  }

  now() { return Date.now() / 1000 + this.clock; }
  run(id) { return this.runs.get(id); }
  list() { return [...this.runs.values()].sort((a, b) => b.id - a.id); }
  chosen() { return this.selected.map((id) => this.runs.get(id)).filter(Boolean); }
  focus() { return this.chosen()[0] || null; }
  series(id, metric) { return this.points.get(id)?.[metric] || null; }
  alertsOf(id) { return this.alerts.get(id) || []; }
  // Older runs come in pieces, poll by poll, until as many are here as were asked for.
  reach(newest) {
    if (newest <= this.newest || !this.older) return;
    this.newest = newest;
    this.poll();
  }

  further() { this.reach(this.newest + FIRST); }
  everything() { this.reach(1e9); }
  busy() { return [...this.runs.values()].some((run) => BUSY.has(run.status)); }

  // A run keeps its colour; only runs that would share one on the same chart move on to the next free one.
  colour(id) {
    const taken = new Set(this.selected.filter((other) => other !== id).map((other) => this.colours.get(other)));
    if (!this.colours.has(id) || (this.selected.includes(id) && taken.has(this.colours.get(id)))) {
      let index = (id - 1) % 8;
      for (let tries = 0; taken.has(index) && tries < 8; tries += 1) index = (index + 1) % 8;
      this.colours.set(id, index);
    }
    return this.colours.get(id);
  }

  select(ids, { keepView = false } = {}) {
    const before = this.selected;
    this.selected = [...new Set(ids)].slice(0, MOST_SELECTED);
    for (const id of [...this.points.keys()]) {
      if (!this.selected.includes(id)) { this.points.delete(id); this.cursors.delete(id); }
    }
    for (const id of [...this.alerts.keys()]) if (!this.selected.includes(id)) this.alerts.delete(id);
    writeUrl({ run: this.selected.join(",") });
    // another run altogether has other steps; a comparison that grows or shrinks keeps what one looks at
    if (!keepView && before.length && !before.some((id) => this.selected.includes(id))) this.emit("elsewhere");
    this.emit("selection");
    this.poll();
  }

  toggle(id) {
    const others = this.selected.filter((other) => other !== id);
    this.select(others.length === this.selected.length ? [...others, id] : others.length ? others : [id]);
  }

  // A knob of a run, as it is whether or not the run's summary names it.
  knob(run, name) { return Object.hasOwn(run.knobs, name) ? run.knobs[name] : this.defaults[name]; }

  // Ends with the answer to a poll that begins now or later: one that is on its way may not know yet what the caller just changed.
  poll() {
    if (this.polling) return (this.following ??= this.polling.then(() => { this.following = null; return this.poll(); }));
    clearTimeout(this.timer);
    this.polling = this.ask().then(() => {
      this.polling = null;
      const wait = this.failures ? Math.min(1000 * 2 ** this.failures, 15000) : this.busy() ? FAST_MS : IDLE_MS;
      this.timer = setTimeout(() => this.poll(), this.again ? 0 : wait);
      this.again = false;
    });
    return this.polling;
  }

  async ask() {
    try {
      if (!document.hidden || !this.loaded) await this.fetch();
      this.failures = 0;
      this.setConnected(true);
    } catch {
      this.failures += 1;
      this.setConnected(false);
    }
  }

  async fetch() {
    const wanted = this.selected.map((id) => `${id}:${this.cursors.get(id) ?? 0}:${this.alertsOf(id).length}`).join(",");
    const asked = [...this.selected];
    const further = this.newest > FIRST ? `&newest=${this.newest}` : "";
    const answer = await get(`/api/live?runs=${wanted}&seen=${encodeURIComponent(this.token)}${further}`);
    this.clock = answer.now - Date.now() / 1000;
    if (answer.same) return;
    this.token = answer.seen;
    this.takeQueue(answer.queue);
    this.takeRuns(answer, asked);
    this.takeAlerts(answer);
    const changed = this.takePoints(answer);
    if (changed.length) this.emit("points", changed);
    if (answer.more || (answer.older && answer.newest < this.newest)) this.again = true;
  }

  // asked: what was selected when the answer was asked for; of a run that was started since it may not know yet
  takeRuns(answer, asked) {
    const first = !this.loaded, other = answer.older !== this.older;
    this.older = answer.older;
    if (answer.all) this.runs.clear();
    for (const run of answer.runs) this.runs.set(run.id, run);
    for (const id of answer.gone) this.runs.delete(id);
    this.loaded = true;
    const known = this.selected.filter((id) => this.runs.has(id) || !asked.includes(id));
    if (!known.length && this.runs.size) known.push((this.list().find((run) => !run.archived) || this.list()[0]).id);
    const moved = known.join() !== this.selected.join();
    if (answer.all || answer.runs.length || answer.gone.length || other || first) this.emit("runs");
    if (moved) this.select(known);
    else if (first) this.emit("selection");
  }

  takeQueue(queue) {
    const changed = JSON.stringify(queue) !== JSON.stringify(this.queue);
    this.queue = queue;
    if (changed) this.emit("queue");
  }

  takeAlerts(answer) {
    const ids = Object.keys(answer.alerts).map(Number).filter((id) => this.selected.includes(id));
    for (const id of ids) this.alerts.set(id, answer.alerts[id]);
    if (ids.length) this.emit("alerts", ids);
  }

  takePoints(answer) {
    const changed = [];
    for (const [key, part] of Object.entries(answer.points)) {
      const id = Number(key);
      if (!this.selected.includes(id)) continue;
      if (part.restart || !this.points.has(id)) this.points.set(id, {});
      const store = this.points.get(id);
      for (const [metric, [steps, seconds, values, low, high]] of Object.entries(part.metrics)) {
        store[metric] ??= { step: [], seconds: [], value: [], ...(low ? { low: [], high: [] } : {}) };
        addPoints(store[metric], { step: steps, seconds, value: values, low: low || values, high: high || values });
      }
      this.cursors.set(id, part.cursor);
      this.rebucket(id, part);
      if (Object.keys(part.metrics).length) changed.push(id);
    }
    return changed;
  }

  // A run that is watched for long would grow by every raw point: from time to time its history is asked for in buckets.
  rebucket(id, part) {
    const length = Math.max(0, ...Object.values(this.points.get(id)).map((series) => series.step.length));
    const bucketed = Object.values(part.metrics).some((series) => series.length > 3);
    if (part.restart) this.lengths.set(id, bucketed ? length : 0);
    if (this.lengths.has(id) && length > (this.lengths.get(id) || LONG_RUN) + RAW_TAIL) { this.cursors.set(id, 0); this.again = true; }
  }

  setConnected(connected) {
    if (connected === this.connected) return;
    this.connected = connected;
    this.emit("connection");
  }
}

export function writeUrl(changes) {
  const query = new URLSearchParams(location.search);
  for (const [name, value] of Object.entries(changes)) {
    if (value === "" || value === null) query.delete(name); else query.set(name, value);
  }
  const text = query.toString().replaceAll("%2C", ",");
  history.replaceState(history.state, "", text ? `?${text}` : location.pathname);
}

export const live = new Live();

/** Whether nothing more comes of a run. */
export function isOver(run) { return ["finished", "stopped", "failed"].includes(run?.status); }

// What other pages need of this one: open an area, open a run, follow a link without a reload.
export function openArea(name) {
  document.getElementById(`area-${name}-button`)?.click();
}

export function openRun(id) {
  openArea("runs");
  live.select([id]);
}

window.bgpo = { openRun, openArea, live };
