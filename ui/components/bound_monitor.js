// The bound of each selected run in words: a live check of the trainer on-policy, a measure of staleness off-policy.

import { el, setText, styles } from "./dom.js";
import { isOver, live } from "./live.js";
import { verdict } from "./bound_words.js";

export function mount(element) {
  styles("bound_monitor");
  const list = el("ul", { class: "verdicts" });
  const said = el("p", { class: "bgpo-sr", role: "status" });
  element.append(list, said);
  const cards = new Map();
  const draw = () => {
    if (!element.offsetParent) return;
    const runs = live.chosen().filter((run) => run.readable);
    for (const [id, card] of cards) if (!runs.some((run) => run.id === id)) { card.node.remove(); cards.delete(id); }
    runs.forEach((run, place) => {
      if (!cards.has(run.id)) cards.set(run.id, new Verdict());
      const card = cards.get(run.id);
      if (list.children[place] !== card.node) list.insertBefore(card.node, list.children[place] || null);
      card.draw(run, runs.length > 1);
    });
    const wrong = runs.filter((run) => cards.get(run.id).found?.tone === "bad");
    setText(said, wrong.map((run) => `${run.name}: ${cards.get(run.id).found.title}`).join(". "));
  };
  live.watch(element, ["points", "selection", "runs"], draw);
  new ResizeObserver(draw).observe(element);
  draw();
}

class Verdict {
  constructor() {
    this.run = el("span", { class: "run" });
    this.title = el("h3");
    this.body = el("div", { class: "body" });
    this.node = el("li", { class: "bgpo-card" }, el("i", { class: "sign", "aria-hidden": "true" }), el("div", {}, this.run, this.title, this.body));
  }

  draw(run, several) {
    const updates = live.knob(run, "updates_per_rollout");
    const found = verdict((metric) => live.series(run.id, metric), updates, isOver(run));
    this.found = found;
    setText(this.run, several ? run.name : "");
    this.run.style.setProperty("--run", `var(--bgpo-c${live.colour(run.id)})`);
    setText(this.title, found.title);
    this.node.className = `bgpo-card ${found.tone}`;
    this.node.dataset.tone = found.tone;
    setText(this.node.querySelector(".sign"), { good: "✓", warn: "!", bad: "✕" }[found.tone] || "…");
    const key = found.sentences.join("\n");
    if (key === this.key) return;
    this.key = key;
    this.body.replaceChildren(...found.sentences.map((text) => el("p", { text })));
  }
}
