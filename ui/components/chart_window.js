// Finer buckets of the window that is zoomed into, for runs that are held as buckets. One request per run answers for
// all the charts on the screen; what has been asked for once is kept until the window moves.

import { get } from "./dom.js";
import { live } from "./live.js";
import { view } from "./view.js";
import { stepAt } from "./chart_curves.js";

const BUCKETS = 600;
const SETTLES_MS = 120; // a zoom by wheel or key comes in many small moves
const AGAIN_MS = 2000; // a window that reaches the newest points is asked for again at most this often

class ChartWindow {
  constructor() {
    this.curves = new Map(); // "run metric" -> curve
    this.wanted = new Map(); // run -> metrics
    this.key = "";
  }

  // The curve of the window, if it is here; notes that it is wanted when it is not.
  finer(run, metric) {
    const range = view.follow ? null : view.zoom;
    const whole = live.series(run.id, metric);
    if (!range || !whole?.low) return null;
    const key = `${view.axis} ${range.join()}`;
    if (key !== this.key) { this.key = key; this.curves.clear(); this.wanted.clear(); }
    const found = this.curves.get(`${run.id} ${metric}`);
    const last = whole.step[whole.step.length - 1];
    const stale = found && found.until < last && stepAt(range[1], run) > found.until && Date.now() - found.asked > AGAIN_MS;
    if (!found || stale) this.want(run, metric);
    return found || null;
  }

  want(run, metric) {
    if (!this.wanted.has(run)) this.wanted.set(run, new Set());
    this.wanted.get(run).add(metric);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.ask(), SETTLES_MS);
  }

  async ask() {
    const key = this.key, wanted = [...this.wanted], range = view.zoom;
    this.wanted.clear();
    if (!range) return;
    for (const [run, metrics] of wanted) {
      const [low, high] = range.map((x) => stepAt(x, run));
      const query = new URLSearchParams({ run: run.id, metrics: [...metrics].join(), low: Math.floor(low), high: Math.ceil(high), buckets: BUCKETS });
      const until = Math.max(...[...metrics].map((metric) => live.series(run.id, metric)?.step.at(-1) ?? 0));
      let found;
      try { found = await get(`/api/range?${query}`); } catch { return; } // the whole curve stays, as coarse as it was
      if (this.key !== key) return;
      for (const [metric, [step, seconds, value, lows, highs]] of Object.entries(found)) {
        this.curves.set(`${run.id} ${metric}`, { step, seconds, value, low: lows, high: highs, until, asked: Date.now() });
      }
    }
    live.emit("window");
  }
}

export const chartWindow = new ChartWindow();
