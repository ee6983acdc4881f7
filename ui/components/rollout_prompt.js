// One prompt through training: its group at every step that drew it, worst to best with the mean, and what was written.

import { el, figure, get, reachable, svg } from "./dom.js";
import { GroupCard } from "./rollout_group.js";

const [WIDTH, HEIGHT, EDGE] = [600, 90, 8];

/** groups: oldest first; go(step) opens a step. Returns the view's elements. */
export function promptLine(run, prompt, groups, go) {
  const head = el("article", { class: "bgpo-card line" }, reachable(el("h4", { class: "bgpo-mono", text: prompt })));
  if (!groups.length) {
    head.append(el("p", { class: "bgpo-soft", text: "No kept group of this run has this prompt." }));
    return [head];
  }
  head.append(reachable(el("p", { class: "bgpo-soft" }, "expected ", el("span", { class: "bgpo-mono", text: groups[0].expected || "–" }))), plot(groups), table(groups, go));
  const cards = el("div", { class: "cards" });
  const open = async (group) => {
    const rows = await get(`/api/runs/${run}/rollouts/group?step=${group.step}&problem=${group.problem}`);
    cards.append(el("p", { class: "status", text: `Step ${group.step}` }), new GroupCard(run, rows, () => {}).element);
  };
  // the first and the last say what training did; the table leads to all others
  (async () => { for (const group of groups.length > 1 ? [groups[0], groups[groups.length - 1]] : groups) await open(group); })().catch(() => {});
  return [head, cards];
}

function plot(groups) {
  const [first, last] = [groups[0].step, groups[groups.length - 1].step];
  const top = Math.max(1, ...groups.map((group) => group.best ?? 0));
  const x = (group) => (last === first ? WIDTH / 2 : EDGE + ((group.step - first) / (last - first)) * (WIDTH - 2 * EDGE));
  const y = (value) => HEIGHT - EDGE - ((value ?? 0) / top) * (HEIGHT - 2 * EDGE);
  return svg("svg", { class: "plot", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `Mean reward of the group from ${figure(groups[0].mean)} at step ${first} to ${figure(groups[groups.length - 1].mean)} at step ${last}` },
    ...groups.map((group) => svg("line", { class: "span", x1: x(group), x2: x(group), y1: y(group.worst), y2: y(group.best) })),
    svg("polyline", { class: "mean", points: groups.map((group) => `${x(group)},${y(group.mean)}`).join(" ") }),
    ...groups.map((group) => svg("circle", { class: "mean", cx: x(group), cy: y(group.mean), r: 3 })));
}

function table(groups, go) {
  const head = el("tr", {}, ...["Step", "Worst", "Mean", "Best", "Completions"].map((text) => el("th", { scope: "col", text })));
  const rows = groups.map((group) => el("tr", {},
    el("td", {}, el("button", { type: "button", class: "link", text: group.step, on: { click: () => go(group.step) } })),
    ...[group.worst, group.mean, group.best].map((value) => el("td", { text: figure(value) })), el("td", { text: group.completions })));
  return el("details", {}, el("summary", { text: "As a table" }), el("div", { class: "scroll" }, el("table", {}, el("thead", {}, head), el("tbody", {}, ...rows))));
}
