// The selected run: where it is, how long it will take, and its buttons. Several selected runs: what differs.
// Below, what the health rules say of them.

import { age, confirmed, duration, el, figure, get, post, setText, styles } from "/assets/dom.js";
import { live } from "/assets/live.js";
import { AlertList } from "/assets/alert_list.js";

const GOING = new Set(["queued", "launching", "running"]);

export function mount(element) {
  styles("run_header");
  const one = new OneRun();
  const many = new ManyRuns();
  const alerts = new AlertList();
  element.append(one.node, many.node, alerts.node);
  const draw = () => {
    const runs = live.chosen();
    document.body.classList.toggle("bgpo-comparing", runs.length > 1);
    one.node.hidden = runs.length !== 1;
    many.node.hidden = runs.length < 2;
    if (runs.length === 1) one.draw(runs[0]);
    if (runs.length > 1) many.draw(runs);
    alerts.draw();
  };
  live.watch(element, ["runs", "selection", "axis", "alerts"], draw);
  const clock = setInterval(() => {
    if (!element.isConnected) clearInterval(clock);
    else if (live.chosen().length === 1) one.age(live.focus());
  }, 1000);
  draw();
}

function axisSwitch() {
  const button = (axis, label) => el("button", { type: "button", text: label, data: { axis }, on: { click: () => live.setAxis(axis) } });
  const node = el("div", { class: "switch", role: "group", "aria-label": "Horizontal axis" }, button("step", "Step"), button("time", "Time"));
  node.draw = () => { for (const part of node.children) part.setAttribute("aria-pressed", String(part.dataset.axis === live.axis)); };
  return node;
}

class OneRun {
  constructor() {
    this.title = el("h2");
    this.chip = el("span", { class: "bgpo-chip" });
    this.sentence = el("p", { class: "sentence", role: "status" });
    this.changed = el("p", { class: "changed" });
    this.bar = el("i");
    this.progress = el("div", { class: "bgpo-progress", "aria-hidden": "true" }, this.bar);
    this.buttons = el("div", { class: "buttons" });
    this.axis = axisSwitch();
    this.message = el("p", { class: "message", role: "alert" });
    this.failure = el("div", { class: "failure", hidden: true });
    this.node = el("section", { class: "bgpo-card one" },
      el("div", { class: "row" }, el("div", { class: "words" }, el("div", { class: "name" }, this.title, this.chip), this.sentence),
        el("div", { class: "tools" }, this.axis, this.buttons)),
      this.progress, this.changed, this.message, this.failure);
  }

  draw(run) {
    if (this.id !== run.id) { this.id = run.id; this.message.textContent = ""; this.failedAt = null; }
    this.node.style.setProperty("--run", `var(--bgpo-c${live.colour(run.id)})`);
    setText(this.title, run.name);
    setText(this.chip, run.word);
    this.chip.className = `bgpo-chip ${run.tone}`;
    this.age(run);
    const share = run.status === "running" && run.total ? run.done / run.total : run.status === "finished" ? 1 : run.steps ? run.step / run.steps : 0;
    this.bar.style.width = `${Math.min(100, 100 * share)}%`;
    this.progress.hidden = run.status === "finished";
    setText(this.changed, run.changed.length ? `Against ${run.against}: ${run.changed.join(", ")}` : run.readable ? `All knobs as in ${run.against}.` : "");
    this.axis.draw();
    this.drawButtons(run);
    this.drawFailure(run);
  }

  age(run) { if (run) setText(this.sentence, sentence(run)); }

  drawButtons(run) {
    const key = [run.id, run.status, run.requested].join();
    if (key === this.buttonKey) return;
    this.buttonKey = key;
    const button = (label, action, kind = "") => el("button", { type: "button", class: `bgpo-button ${kind}`, text: label, data: { action },
      on: { click: (event) => this.act(run, action, event.currentTarget) } });
    const parts = [];
    if (run.status === "running" && run.requested) parts.push(button("End now", "kill", "danger"));
    else if (GOING.has(run.status)) parts.push(button("Stop", "stop"));
    if (run.status === "stopped" || run.status === "failed") parts.push(button("Resume", "resume", "primary"));
    if (!GOING.has(run.status)) parts.push(button("Delete", "delete", "danger"));
    this.buttons.replaceChildren(...parts);
  }

  async act(run, action, button) {
    if (action === "delete" && !await confirmed(`Delete ${run.name}?`, "Its curves, samples, log and checkpoints are deleted from the disk. This cannot be undone.", "Delete")) return;
    button.disabled = true;
    setText(this.message, "");
    try {
      await post(`/api/runs/${run.id}/${action}`);
    } catch (error) {
      setText(this.message, error.message);
    }
    button.disabled = false;
    live.poll();
  }

  async drawFailure(run) {
    this.failure.hidden = run.status !== "failed";
    if (run.status !== "failed" || this.failedAt === run.finished) return;
    this.failedAt = run.finished;
    const log = el("pre", { class: "bgpo-mono" });
    this.failure.replaceChildren(
      el("h3", { text: "This run failed" }), el("p", { text: run.reason || "The process ended without saying why." }),
      el("p", { class: "bgpo-soft", text: "Everything measured so far is kept. Resume goes on from its newest checkpoint." }),
      el("div", { class: "bgpo-eyebrow", text: "Last lines of its log" }), log);
    try {
      const { text } = await get(`/api/runs/${run.id}/log`);
      const lines = text.trimEnd().split("\n").map((line) => line.split("\r").pop());
      log.textContent = lines.slice(-14).join("\n") || "The log is empty.";
    } catch (error) {
      log.textContent = error.message;
    }
  }
}

function sentence(run) {
  const reward = run.reward === null ? "" : ` Held-out reward ${figure(run.reward)}${run.best !== null && run.best > run.reward ? `, best ${figure(run.best)}` : ""}.`;
  if (run.status === "queued") {
    const ahead = (run.queue_place || 1) - 1 + live.list().filter((other) => ["running", "launching"].includes(other.status)).length;
    return ahead === 0 ? "Starts within a second." : `Starts when ${ahead === 1 ? "the run before it has" : `the ${ahead} runs before it have`} ended.`;
  }
  if (run.status === "launching") return "The process is being started.";
  if (run.status === "running") {
    const parts = [run.total > 1 ? `${run.word} ${run.done}/${run.total}` : run.word];
    if (run.eta !== null) parts.push(`${duration(run.eta)} left`);
    if (run.rate) parts.push(`${figure(run.rate)} steps/s`);
    if (run.requested) parts.push("stops with a checkpoint");
    const quiet = run.beat ? live.now() - run.beat : 0;
    if (quiet > 15) parts.push(`last heard of ${age(run.beat, live.now())}`);
    return `${parts.join(", ")}.${reward}`;
  }
  const ended = run.finished ? ` ${age(run.finished, live.now())}` : "";
  const after = `after ${run.step} of ${run.steps} steps and ${duration(run.seconds)}`;
  if (run.status === "finished") return `Finished${ended}: ${run.steps} steps in ${duration(run.seconds)}.${reward}`;
  if (run.status === "stopped") return `Stopped${ended} ${after}.${reward}`;
  return `Failed${ended} ${after}.${reward}`;
}

class ManyRuns {
  constructor() {
    this.title = el("h2");
    this.axis = axisSwitch();
    this.table = el("div", { class: "differences" });
    this.node = el("section", { class: "bgpo-card many", hidden: true },
      el("div", { class: "row" }, el("div", { class: "words" }, this.title), el("div", { class: "tools" }, this.axis)), this.table);
  }

  async draw(runs) {
    setText(this.title, `Comparing ${runs.length} runs`);
    this.axis.draw();
    const key = runs.map((run) => `${run.id}${run.name}`).join();
    if (key !== this.key) {
      this.key = key;
      try {
        this.knobs = await get(`/api/differences?runs=${runs.map((run) => run.id).join(",")}`);
      } catch {
        this.knobs = [];
        this.key = null;
      }
    }
    this.fill(live.chosen());
  }

  fill(runs) {
    const knobs = this.knobs || [];
    const words = el("p", { class: "words", text: knobs.length ? `What differs: ${inWords(knobs, runs)}` : "Their configs are the same in every knob." });
    const head = el("tr", {}, el("th", { text: "Run" }), ...knobs.map((knob) => el("th", { text: knob.name, title: knob.help, class: "bgpo-mono" })),
      el("th", { text: "Reward" }), el("th", { text: "Best" }), el("th", { text: "Time" }), el("th", {}));
    const rows = runs.map((run) => el("tr", {},
      el("td", {}, el("i", { class: "dot", style: { background: `var(--bgpo-c${live.colour(run.id)})` } }), el("button", { type: "button", class: "link", text: run.name, on: { click: () => live.select([run.id]) } })),
      ...knobs.map((knob) => el("td", { class: "bgpo-mono", text: knob.values[run.id] ?? "–" })),
      el("td", { text: figure(run.reward) }), el("td", { text: figure(run.best) }), el("td", { text: duration(run.seconds) }),
      el("td", {}, el("button", { type: "button", class: "link soft", text: "Remove", "aria-label": `Take ${run.name} out of the comparison`, on: { click: () => live.toggle(run.id) } }))));
    const focus = document.activeElement?.closest?.(".differences") ? document.activeElement.textContent : null;
    this.table.replaceChildren(words, el("div", { class: "scroll" }, el("table", {}, el("thead", {}, head), el("tbody", {}, ...rows))));
    if (focus) [...this.table.querySelectorAll("button")].find((button) => button.textContent === focus)?.focus();
  }
}

function inWords(knobs, runs) {
  const order = [...runs].sort((a, b) => a.id - b.id);
  return `${knobs.map((knob) => {
    const values = order.map((run) => knob.values[run.id]).filter((value) => value !== undefined);
    return `${knob.name} ${values.filter((value, i) => i === 0 || value !== values[i - 1]).join(" → ")}`;
  }).join(", ")}.`;
}
