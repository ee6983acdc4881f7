// One problem with its completions side by side. A press on a completion opens how it was judged and how it was denoised.

import { el, figure, get, reachable, setText } from "./dom.js";
import { eventsOfStored } from "./denoise_trace.js";
import { Stage } from "./denoise_stage.js";
import { openArea, writeUrl } from "./live.js";

const SHORT = 18; // characters; longer completions get wide cells of several lines

export class GroupCard {
  /** rows: the group's completions; followed(prompt): shows that prompt through training. */
  constructor(run, rows, followed) {
    [this.run, this.rows] = [run, rows];
    const [first] = rows;
    this.largest = Math.max(...rows.map((row) => Math.abs(row.advantage ?? 0)), 1e-9);
    const long = rows.some((row) => row.completion.length > SHORT);
    this.cells = rows.map((row) => this.cell(row));
    this.detail = el("div", { class: "detail", hidden: true });
    this.element = el("article", { class: "bgpo-card group" },
      el("header", {},
        el("div", { class: "problem" }, reachable(el("h4", { class: "bgpo-mono", text: first.prompt })),
          reachable(el("p", { class: "bgpo-soft" }, "expected ", el("span", { class: "bgpo-mono", text: first.expected || "–" })))),
        el("div", { class: "facts" }, this.chip(), el("button", { type: "button", class: "bgpo-button small", text: "Follow this prompt", on: { click: () => followed(first.prompt) } }))),
      el("div", { class: `cells${long ? " long" : ""}`, role: "group", "aria-label": "Completions" }, ...this.cells), this.detail);
    this.loadOrders(first);
  }

  chip() {
    const rewards = this.rows.map((row) => row.reward ?? 0);
    const mean = rewards.reduce((sum, reward) => sum + reward, 0) / rewards.length;
    const right = this.rows.filter((row) => row.solved).length;
    if (new Set(rewards).size > 1) return el("span", { class: "bgpo-chip", text: `${right} of ${rewards.length} right, mean ${figure(mean)}` });
    const [tone, words] = right === rewards.length ? ["good", "All right"] : right ? ["", "All equal"] : ["bad", "All wrong"];
    return el("span", { class: `bgpo-chip ${tone}`, text: `${words}, no signal`, title: "Every completion has the same reward, so every advantage is 0 and the group teaches nothing at this step." });
  }

  cell(row) {
    const verdict = verdictOf(row);
    const advantage = row.advantage ?? 0;
    const bar = el("span", { class: `advantage ${advantage < 0 ? "down" : "up"}`, style: { "--size": `${(50 * Math.abs(advantage)) / this.largest}%` } }, el("i"));
    return el("button", { type: "button", class: `cell ${verdict}`, title: row.reason, "aria-expanded": "false",
      "aria-label": `Completion ${row.index + 1}: ${row.completion || "nothing"}, ${verdict}, reward ${figure(row.reward)}, advantage ${figure(advantage)}. ${row.reason}.`,
      on: { click: () => this.open(row) } },
    el("span", { class: "text bgpo-mono", text: row.completion || "∅" }), bar,
    el("span", { class: "order", data: { index: row.index } }), el("span", { class: "small", text: `${signed(advantage)} · ${row.tokens} tok` }));
  }

  /** When each token was fixed, as a row of marks from first to last: asked for once the cells stand. */
  async loadOrders({ step, problem }) {
    let orders = {};
    try {
      orders = (await get(`/api/runs/${this.run}/rollouts/orders?step=${step}&problem=${problem}`)).orders;
    } catch {
      return; // the cells say all else
    }
    for (const place of this.element.querySelectorAll(".order")) {
      const order = orders[place.dataset.index];
      if (!order?.length) continue;
      const last = Math.max(...order, 2);
      place.title = `Fixed at step: ${order.join(" ")}`;
      place.replaceChildren(...order.slice(0, 128).map((at) => at || last).map((at) => el("i", { style: { "--x": `${Math.round((100 * (at - 1)) / (last - 1))}%` } })));
    }
  }

  async open(row) {
    const again = this.opened === row.index && !this.detail.hidden;
    this.opened = row.index;
    this.detail.hidden = again;
    this.cells.forEach((cell, i) => cell.setAttribute("aria-expanded", String(!again && this.rows[i].index === row.index)));
    if (again) return;
    this.build();
    setText(this.text, row.completion || "nothing");
    this.verdict.className = `bgpo-chip ${{ right: "good", partly: "warn", wrong: "bad" }[verdictOf(row)]}`;
    setText(this.verdict, `Reward ${figure(row.reward)}`);
    setText(this.reason, row.reason);
    this.parts.replaceChildren(...partRows(row));
    this.lab.href = `?tab=lab&rollout=${this.run}-${row.step}-${row.problem}-${row.index}`;
    try {
      const { trace } = await get(`/api/runs/${this.run}/rollouts/trace?step=${row.step}&problem=${row.problem}&completion=${row.index}`);
      if (this.opened === row.index) this.stage.load(eventsOfStored({ ...row, trace }), { play: true });
    } catch (error) {
      setText(this.reason, error.message);
    }
  }

  build() {
    if (this.stage) return;
    this.text = reachable(el("p", { class: "whole bgpo-mono" }));
    this.verdict = el("span", { class: "bgpo-chip" });
    this.reason = el("p", { class: "reason" });
    this.parts = el("dl", { class: "parts" });
    const stage = el("div", { class: "stage" });
    this.lab = el("a", { class: "bgpo-button small", text: "Open in the Lab", on: { click: (event) => openHere(event, this.lab.search) } });
    this.detail.append(el("div", { class: "facts" }, el("div", { class: "top" }, this.verdict, this.lab), this.text, this.reason, this.parts), stage);
    this.stage = new Stage(stage);
  }
}

// The link works on its own (in a new tab, too); a plain click needs no reload.
function openHere(event, search) {
  if (event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  writeUrl(Object.fromEntries(new URLSearchParams(search)));
  openArea("lab");
}

// Right is what the task calls solved; a reward may pay for more, or pay 1 for the form of a wrong answer.
export function verdictOf(row) {
  return row.solved ? "right" : row.reward > 0 ? "partly" : "wrong";
}

export function signed(value) {
  return value > 0 ? `+${figure(value)}` : value < 0 ? `−${figure(-value)}` : "0";
}

function partRows(row) {
  const facts = [...Object.entries(row.parts).map(([name, value]) => [name.replaceAll("_", " "), value, true]), ["advantage", row.advantage, false], ["tokens", row.tokens, false]];
  return facts.flatMap(([name, value, part]) => [
    el("dt", { text: name }),
    el("dd", { class: part ? (value > 0 ? "good" : "bad") : "", text: name === "advantage" ? signed(value ?? 0) : figure(value) }),
  ]);
}
