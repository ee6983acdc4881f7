// The selected run: where it is, how long it will take, and its buttons. Several selected runs: what differs.
// Below, what the health rules say of them.

import { age, confirmed, duration, el, figure, get, post, setText, styles } from "/assets/dom.js";
import { live } from "/assets/live.js";
import { AlertList } from "/assets/alert_list.js";
import { Comparison } from "/assets/comparison.js";
import { RunLabels } from "/assets/run_labels.js";
import { left } from "/assets/run_row.js";

const GOING = new Set(["queued", "launching", "running"]);

export function mount(element) {
  styles("run_header");
  const one = new OneRun();
  const many = new Comparison();
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
  live.watch(element, ["runs", "selection", "points", "alerts", "view"], draw);
  const clock = setInterval(() => {
    if (!element.isConnected) clearInterval(clock);
    else if (live.chosen().length === 1) one.age(live.focus());
  }, 1000);
  draw();
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
    this.labels = new RunLabels();
    this.message = el("p", { class: "message", role: "alert" });
    this.failure = el("div", { class: "failure", hidden: true });
    this.node = el("section", { class: "bgpo-card one" },
      el("div", { class: "row" }, el("div", { class: "words" }, el("div", { class: "name" }, this.title, this.chip), this.sentence),
        el("div", { class: "tools" }, this.buttons)),
      this.progress, this.changed, this.labels.node, this.message, this.failure);
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
    this.labels.draw(run);
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
    const downloading = run.phase === "downloading"; // counts megabytes
    const parts = [run.total > 1 ? `${run.word} ${run.done}/${run.total}${downloading ? " MB" : ""}` : run.word];
    if (run.eta !== null) parts.push(left(run.eta));
    if (run.rate) parts.push(`${figure(run.rate)} ${downloading ? "MB" : "steps"}/s`);
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
