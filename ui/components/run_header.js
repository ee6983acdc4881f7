// The selected run: where it is, how long it will take, and its buttons. Several selected runs: what differs.
// Below, what the health rules say of them.

import { age, confirmed, duration, el, figure, get, post, setText, styles } from "./dom.js";
import { live } from "./live.js";
import { AlertList } from "./alert_list.js";
import { Comparison } from "./comparison.js";
import { RunLabels } from "./run_labels.js";
import { clockWords } from "./queue_card.js";
import { failureCard } from "./failure_card.js";
import { openFork } from "./fork.js";
import { left } from "./run_row.js";

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
    this.origin = el("p", { class: "changed origin" });
    this.bar = el("i");
    this.progress = el("div", { class: "bgpo-progress", "aria-hidden": "true" }, this.bar);
    this.buttons = el("div", { class: "buttons" });
    this.labels = new RunLabels();
    this.message = el("p", { class: "message", role: "alert" });
    this.failure = el("div", { class: "failure", hidden: true });
    this.node = el("section", { class: "bgpo-card one" },
      el("div", { class: "row" }, el("div", { class: "words" }, el("div", { class: "name" }, this.title, this.chip), this.sentence),
        el("div", { class: "tools" }, this.buttons)),
      this.progress, this.origin, this.changed, this.labels.node, this.message, this.failure);
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
    this.drawOrigin(run);
    this.labels.draw(run);
    this.drawButtons(run);
    this.drawFailure(run);
  }

  age(run) { if (run) setText(this.sentence, sentence(run)); }

  drawOrigin(run) {
    const parent = live.run(run.parent), key = [run.parent, run.parent_step, parent?.name].join();
    if (key === this.originKey) return;
    this.originKey = key;
    this.origin.hidden = !run.parent;
    const name = parent ? `run ${parent.id}, ${parent.name}` : `run ${run.parent}, which is not there any more`;
    const link = parent ? el("button", { type: "button", class: "link", text: name, on: { click: () => live.select([parent.id]) } }) : el("span", { text: name });
    this.origin.replaceChildren(run.knobs.job === "evaluate" ? "Evaluates " : "Forked from ", run.parent_step === null ? "" : `step ${run.parent_step} of `, link, ".");
  }

  drawButtons(run) {
    const follower = evaluationOf(run);
    const key = [run.id, run.status, run.requested, follower?.id].join();
    if (key === this.buttonKey) return;
    this.buttonKey = key;
    const button = (label, action, kind = "") => el("button", { type: "button", class: `bgpo-button ${kind}`, text: label, data: { action },
      on: { click: (event) => this.act(run, action, event.currentTarget) } });
    const parts = [], resumable = ["paused", "stopped", "failed"].includes(run.status);
    if (run.status === "queued" || (run.status === "running" && run.requested !== "stop")) {
      if (run.requested !== "pause") parts.push(button("Pause", "pause"));
      parts.push(button("Stop", "stop"));
    } else if (run.status === "launching") parts.push(button("Stop", "stop"));
    if (run.status === "running" && run.requested) parts.push(button("End now", "kill", "danger"));
    if (resumable) parts.push(button(run.status === "failed" ? "Retry" : "Resume", "resume", run.status === "failed" ? "" : "primary"));
    if (run.readable) parts.push(button("Fork", "fork"));
    if (follower) parts.push(el("button", { type: "button", class: "bgpo-button", text: `Run ${follower.id} evaluates it when it ends`, on: { click: () => live.select([follower.id]) } }));
    else if (run.readable && evaluable(run)) parts.push(button("Evaluate when it ends", "evaluate"));
    if (!GOING.has(run.status)) parts.push(button("Delete", "delete", "danger"));
    this.buttons.replaceChildren(...parts);
  }

  async act(run, action, button) {
    if (action === "delete" && !await confirmed(`Delete ${run.name}?`, "Its curves, samples, log and checkpoints are deleted from the disk. This cannot be undone.", "Delete")) return;
    if (action === "kill" && !await confirmed(`End ${run.name} at once?`, "It is killed without a checkpoint: the steps since its newest one are done again when it is resumed.", "End now")) return;
    button.disabled = true;
    setText(this.message, "");
    try {
      if (action === "fork") await openFork(run);
      else await post(`/api/runs/${run.id}/${action}`);
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
    this.failure.replaceChildren(...failureCard(run, (action, button) => this.act(run, action, button)));
    const log = this.failure.querySelector("pre");
    try {
      const { text } = await get(`/api/runs/${run.id}/log`);
      const lines = text.trimEnd().split("\n").map((line) => line.split("\r").pop());
      log.textContent = lines.slice(-20).join("\n") || "The log is empty.";
      log.scrollTop = log.scrollHeight;
    } catch (error) {
      log.textContent = error.message;
    }
  }
}

// a run that goes on and that leaves checkpoints behind
function evaluable(run) { return (GOING.has(run.status) || run.status === "paused") && ["train", "finetune"].includes(run.knobs.job ?? "train"); }

// the evaluation that waits for the run's end
function evaluationOf(run) { return live.list().find((other) => other.after === run.id && other.status === "queued" && other.knobs?.job === "evaluate"); }

function sentence(run) {
  const reward = run.reward === null ? "" : ` Held-out reward ${figure(run.reward)}${run.best !== null && run.best > run.reward ? `, best ${figure(run.best)}` : ""}.`;
  if (run.status === "queued") {
    const ahead = (run.queue_place || 1) - 1 + live.list().filter((other) => ["running", "launching"].includes(other.status)).length;
    if (run.reason.startsWith("Starts again")) return run.reason;
    if (live.queue.paused) return "Waits: the queue is paused.";
    if (run.start_at && run.start_at > live.now()) return `Starts ${clockWords(run.start_at)}, or when it is its turn after that.`;
    if (run.after && !["finished", "stopped", "failed"].includes(live.run(run.after)?.status ?? "finished")) return `Starts when run ${run.after} has ended.`;
    return ahead === 0 ? "Starts within a second." : `Starts when ${ahead === 1 ? "the run before it has" : `the ${ahead} runs before it have`} ended.`;
  }
  if (run.status === "launching") return "The process is being started.";
  if (run.status === "running") {
    const downloading = run.phase === "downloading"; // counts megabytes
    const parts = [run.total > 1 ? `${run.word} ${run.done}/${run.total}${downloading ? " MB" : ""}` : run.word];
    if (run.eta !== null) parts.push(left(run.eta));
    if (run.rate) parts.push(`${figure(run.rate)} ${downloading ? "MB" : "steps"}/s`);
    if (run.requested) parts.push(run.requested === "pause" ? "pauses with a checkpoint" : run.requested === "stop" ? "stops with a checkpoint" : "is being ended");
    if (run.quiet_since) parts.push(`no progress for ${duration(live.now() - run.quiet_since)}`);
    const quiet = run.beat ? live.now() - run.beat : 0;
    if (quiet > 15) parts.push(`last heard of ${age(run.beat, live.now())}`);
    return `${parts.join(", ")}.${reward}`;
  }
  const ended = run.finished ? ` ${age(run.finished, live.now())}` : "";
  const evaluates = run.knobs.job === "evaluate";
  const after = evaluates ? `after ${duration(run.seconds)}` : `after ${run.step} of ${run.steps} steps and ${duration(run.seconds)}`;
  if (evaluates && run.status === "finished") return `Finished${ended}: measured in ${duration(run.seconds)}. The scores are under Evaluations.`;
  if (run.status === "finished") return `Finished${ended}: ${run.steps} steps in ${duration(run.seconds)}.${reward}`;
  if (run.status === "paused") {
    const why = run.reason.startsWith("The disk") ? ` ${run.reason}` : "";
    return run.step ? `Paused${ended} ${after}; Resume goes on from there.${why}${reward}` : `Paused${ended}, before its first step.${why}`;
  }
  if (run.status === "stopped") return `Stopped${ended} ${after}.${reward}`;
  return `Failed${ended} ${after}.${reward}`;
}
