// The checkpoints of the run, newest last, each with its held-out reward and a way to talk to it.

import { age, el, figure, get, styles } from "/assets/dom.js";
import { live, openArea, writeUrl } from "/assets/live.js";

const KINDS = { warm_start: "Warm start", evaluation: "Evaluation", final: "Final", stop: "Stopped here" };

export function mount(element) {
  styles("checkpoint_list");
  let shown = null;
  const draw = async () => {
    const run = live.focus();
    if (!run || !element.offsetParent) return;
    const key = `${run.id} ${run.status} ${run.step}`;
    if (key === shown) return;
    shown = key;
    try {
      const { checkpoints } = await get(`/api/runs/${run.id}`);
      if (shown === key) element.replaceChildren(view(checkpoints));
    } catch (error) {
      shown = null;
      element.replaceChildren(el("p", { class: "bgpo-soft", text: error.message }));
    }
  };
  live.watch(element, ["selection", "runs"], draw);
  new ResizeObserver(draw).observe(element);
  draw();
}

function view(checkpoints) {
  if (!checkpoints.length) return el("p", { class: "bgpo-card none", text: "No checkpoint yet. The first is saved when the warm start is done, then one at every held-out evaluation." });
  const head = el("tr", {}, ...["Step", "Kind", "Held-out reward", "Saved", ""].map((text) => el("th", { text })));
  const rows = checkpoints.map((checkpoint) => el("tr", {},
    el("td", { class: "step", text: checkpoint.step }), el("td", { text: KINDS[checkpoint.kind] || checkpoint.kind }),
    el("td", {}, checkpoint.reward === null ? "–" : meter(checkpoint.reward)),
    el("td", { class: "bgpo-soft", text: age(checkpoint.created, live.now()), title: new Date(checkpoint.created * 1000).toLocaleString() }),
    el("td", {}, el("a", { class: "bgpo-button small", href: `?tab=chat&checkpoint=${checkpoint.id}`, text: "Chat with it",
      on: { click: (event) => talk(event, checkpoint.id) } }))));
  return el("div", { class: "bgpo-card scroll" }, el("table", {}, el("thead", {}, head), el("tbody", {}, ...rows)));
}

// The link works on its own (in a new tab, too); a plain click needs no reload.
function talk(event, id) {
  if (event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  writeUrl({ tab: "chat", checkpoint: id });
  openArea("chat");
}

function meter(reward) {
  return el("span", { class: "meter" }, el("i", {}, el("b", { style: { width: `${Math.max(0, Math.min(1, reward)) * 100}%` } })), el("span", { text: figure(reward) }));
}
