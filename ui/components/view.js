// How the charts are looked at, and nothing about what is in them: axis, smoothing, log scales, zoom, pinned step, what is
// hidden, which charts. All of it is in the page's address, so a link shows a colleague exactly this.
//
// A change is announced as the live store's event "view"; its detail is the set of names that changed.

import { live, writeUrl } from "./live.js";

export const AXES = {
  step: { label: "Step", metric: "" },
  time: { label: "Time", metric: "" },
  tokens: { label: "Tokens", metric: "progress/tokens" },
  compute: { label: "Compute", metric: "progress/compute" },
};
const CHOSEN = "bgpo-charts";

class View {
  constructor() { this.read(new URLSearchParams(location.search)); }

  read(query) {
    this.axis = Object.hasOwn(AXES, query.get("x") || "") ? query.get("x") : "step";
    this.smoothing = Math.min(0.99, Math.max(0, Number(query.get("sm")) || 0));
    this.log = new Set(words(query.get("log"))); // ids of charts, or "all"
    this.follow = query.has("follow");
    this.followWidth = Math.max(0, Number(query.get("follow")) || 0);
    this.zoom = pair(words(query.get("z"))); // of the horizontal axis, in steps, seconds or tokens
    // of each chart's values, and of "CHART.x", a horizontal axis of its own
    this.zoomY = new Map(words(query.get("zy")).map((part) => part.split("~")).map(([id, ...ends]) => [id, pair(ends)]).filter(([, ends]) => ends));
    this.pinned = /^\d{1,9}$/.test(query.get("step") || "") ? Number(query.get("step")) : null;
    this.hidden = new Set(words(query.get("hide"))); // "r3" a run, "gap.1" the second curve of a chart
    this.mean = query.get("mean") === "seeds";
    this.charts = query.has("charts") ? words(query.get("charts")) : remembered();
  }

  // Changes some of it at once: view.set({ axis: "time", zoom: null })
  set(changes) {
    Object.assign(this, changes);
    if ("charts" in changes) remember(this.charts);
    this.write();
    live.emit("view", new Set(Object.keys(changes)));
  }

  write() {
    writeUrl({
      x: this.axis === "step" ? "" : this.axis, sm: this.smoothing || "", log: [...this.log].join(), follow: this.follow ? round(this.followWidth) : "",
      z: this.zoom && !this.follow ? this.zoom.map(round).join() : "", zy: [...this.zoomY].map(([id, ends]) => [id, ...ends.map(round)].join("~")).join(),
      step: this.pinned ?? "", hide: [...this.hidden].join(), mean: this.mean ? "seeds" : "", charts: this.charts.join(),
    });
  }

  // Another address is shown without a reload: a kept view.
  open(query) {
    const wanted = new URLSearchParams(query);
    if (!wanted.has("charts")) wanted.set("charts", "");
    history.pushState(history.state, "", `?${wanted}`);
    this.read(wanted);
    live.select((wanted.get("run") || "").split(",").map(Number).filter((id) => id > 0), { keepView: true });
    live.emit("view", new Set(["axis", "smoothing", "log", "follow", "zoom", "zoomY", "pinned", "hidden", "mean", "charts", "query"]));
  }

  setAxis(axis) { this.set({ axis, zoom: null, follow: false, zoomY: new Map() }); }

  toggle(kind, key) {
    const next = new Set(this[kind]);
    if (!next.delete(key)) next.add(key);
    this.set({ [kind]: next });
  }

  isLog(id) { return this.log.has("all") !== this.log.has(id); }
}

function words(text) { return (text || "").split(",").filter(Boolean); }

function pair(texts) {
  const [from, to] = texts.map(Number);
  return texts.length === 2 && Number.isFinite(from) && Number.isFinite(to) && from < to ? [from, to] : null;
}

// Five digits place a window to a pixel and keep the address short.
function round(value) { return Number(value.toPrecision(6)); }

function remembered() {
  try { return words(localStorage.getItem(CHOSEN)); } catch { return []; }
}

function remember(charts) {
  try { localStorage.setItem(CHOSEN, charts.join()); } catch { /* then it lasts as long as the page */ }
}

export const view = new View();
live.addEventListener("elsewhere", () => view.set({ zoom: null, zoomY: new Map(), pinned: null }));
