// What happened to the selected runs along their steps: checkpoints, resumed or ended processes, alerts. Asked for when a
// run's status changes or an evaluation has come in, which is when something can have happened.

import { age, figure, get } from "./dom.js";
import { live } from "./live.js";
import { plain, token, wrapped } from "./plot.js";

const KINDS = { warm_start: "warm start", evaluation: "evaluation", final: "the end", stop: "a stop" };
const EVALUATION = "reward/heldout_greedy";

class Marks {
  constructor() {
    this.of = new Map(); // run id -> marks
    this.asked = new Map(); // run id -> what it looked like when its marks were asked for
  }

  async follow() {
    const wanted = live.chosen().filter((run) => this.asked.get(run.id) !== this.sign(run));
    if (!wanted.length || this.busy) return;
    this.busy = true;
    const signs = wanted.map((run) => [run.id, this.sign(run)]);
    try {
      const found = await get(`/api/marks?runs=${wanted.map((run) => run.id).join(",")}`);
      for (const [id, marks] of Object.entries(found)) this.of.set(Number(id), marks);
      for (const [id, sign] of signs) this.asked.set(id, sign);
      live.emit("marks");
    } catch {
      // the next poll asks again
    }
    this.busy = false;
  }

  sign(run) {
    const points = live.series(run.id, EVALUATION);
    return `${run.status} ${points ? points.step.length : 0}`;
  }
}

export const marks = new Marks();

// Shapes and annotations of a chart. place(step, run): where that is on its axis, or null. `full` charts show checkpoints too.
export function drawnMarks(element, runs, place, full) {
  const found = { shapes: [], annotations: [] };
  for (const run of runs) {
    for (const group of bySteps(run)) {
      const x = place(group.step, run);
      if (x === null || x === undefined) continue;
      if (group.alerts.length) flag(found, element, x, token(element, group.alerts.some((alert) => alert.severity === "serious") ? "bad" : "warn"), "▼", group.alerts.map((alert) => alert.message), "dot");
      for (const status of group.statuses) flag(found, element, x, token(element, "text-soft"), status.what === "failed" ? "✕" : "↻", [statusWords(status)], "dash");
      if (full && group.checkpoint && !group.alerts.length && !group.statuses.length) tick(found, element, x, run, group.checkpoint, runs.length > 1);
    }
  }
  return found;
}

function bySteps(run) {
  const groups = new Map();
  const at = (step) => { if (!groups.has(step)) groups.set(step, { step, alerts: [], statuses: [], checkpoint: null }); return groups.get(step); };
  for (const alert of live.alertsOf(run.id)) at(alert.step).alerts.push(alert);
  for (const mark of marks.of.get(run.id) || []) {
    if (mark.kind === "checkpoint") at(mark.step).checkpoint = mark;
    else if (mark.what === "queued" && mark.from !== "") at(mark.step).statuses.push(mark);
    else if (mark.what === "failed") at(mark.step).statuses.push(mark);
  }
  return [...groups.values()];
}

function statusWords(mark) {
  const what = mark.what === "failed" ? "Failed" : `Resumed after it was ${mark.from}`;
  return [`${what} at step ${mark.step}, ${age(mark.time, live.now())}`, mark.who ? ` by ${mark.who}` : "", mark.why ? `: ${mark.why}` : ""].join("");
}

function hoverLabel(element, colour) {
  return { bgcolor: token(element, "surface"), bordercolor: colour, font: { size: 12, color: token(element, "text"), family: token(element, "sans") || "system-ui" } };
}

function flag(found, element, x, colour, symbol, messages, dash) {
  found.shapes.push({ type: "line", xref: "x", yref: "paper", x0: x, x1: x, y0: 0, y1: 1, layer: "below", line: { color: colour, width: 1, dash } });
  found.annotations.push({ x, xref: "x", y: 1, yref: "paper", yanchor: "middle", xanchor: "center", showarrow: false, text: symbol, font: { size: 10, color: colour },
    hovertext: messages.map((message) => wrapped(message)).join("<br><br>"), captureevents: true, hoverlabel: hoverLabel(element, colour) });
}

// A checkpoint is a small mark on the axis that says what it is when asked.
function tick(found, element, x, run, mark, several) {
  const reward = mark.reward === null ? "" : `, validation reward ${figure(mark.reward)}`;
  const words = `Checkpoint of ${KINDS[mark.what] || mark.what} at step ${mark.step}${reward}, saved ${age(mark.time, live.now())}${several ? ` (${run.name})` : ""}`;
  const colour = several ? token(element, `c${live.colour(run.id)}`) : token(element, "text-soft");
  found.annotations.push({ x, xref: "x", y: 0, yref: "paper", yanchor: "bottom", xanchor: "center", yshift: -3, showarrow: false, text: plain("▵"), font: { size: 10, color: colour },
    hovertext: wrapped(words), captureevents: true, hoverlabel: hoverLabel(element, colour) });
}
