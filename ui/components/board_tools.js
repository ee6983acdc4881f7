// How all charts are looked at, in one line that stays in sight: axis, smoothing, scale, tail, seeds; which charts; kept
// views; a link to exactly this.

import { copyText, el, post, get, setText, styles } from "./dom.js";
import { live } from "./live.js";
import { AXES, view } from "./view.js";
import { drawnRuns } from "./chart_curves.js";
import { crosshair } from "./crosshair.js";
import { keys } from "./keys.js";
import { menuButton } from "./menu.js";
import { ChartChooser } from "./chart_chooser.js";

export function mount(element, props) {
  styles("board_tools");
  const axis = segments();
  const slider = el("input", { type: "range", min: 0, max: 0.99, step: 0.01, "aria-label": "Smoothing", on: { input: () => view.set({ smoothing: Number(slider.value) }) } });
  const amount = el("output", {});
  const log = toggle("Log", "Logarithmic value axes (l)", () => { const all = view.log.has("all"); view.set({ log: new Set(all ? [] : ["all"]), zoomY: new Map() }); });
  const follow = toggle("Follow", "Keep the newest steps in sight; off as soon as you zoom (f)", () => view.set({ follow: !view.follow, followWidth: view.zoom ? view.zoom[1] - view.zoom[0] : 0, zoom: null }));
  const mean = toggle("Mean of seeds", "One line with its 95 % interval for runs that differ in nothing but the seed (m)", () => view.set({ mean: !view.mean }));
  const whole = el("button", { type: "button", class: "whole", text: "Whole run", title: "Back to the whole run (0, or double-click a chart)", on: { click: () => view.set({ zoom: null, follow: false, zoomY: new Map() }) } });
  const pinned = el("button", { type: "button", class: "pinned", title: "Let go of this step (Esc)", on: { click: () => crosshair.pin(view.pinned) } });
  const rollouts = el("button", { type: "button", class: "bgpo-menu-button", text: "Its rollouts", title: "What the policy wrote at this step", on: { click: () => document.getElementById("run-rollouts-button")?.click() } });
  const said = el("span", { class: "bgpo-sr", role: "status" });
  const chooser = new ChartChooser(props);
  const charts = menuButton("Charts", () => [chooser.node()]);
  const link = el("button", { type: "button", class: "bgpo-menu-button", text: "Link", title: "A link that shows exactly this view (c)", on: { click: () => copyLink(link) } });
  const help = el("button", { type: "button", class: "bgpo-menu-button", text: "?", "aria-label": "Keyboard", title: "Keyboard (?)", on: { click: () => keys.sheet() } });
  element.append(el("div", { class: "line", role: "toolbar", "aria-label": "How the charts are looked at" },
    axis, el("label", { class: "smooth" }, el("span", { text: "Smooth" }), slider, amount), log, follow, mean, whole, pinned, rollouts, said,
    el("span", { class: "gap" }), charts, viewsMenu(), link, help));
  keys.add("c", "Copy a link to this view", "Everywhere", () => copyLink(link));
  const draw = () => {
    for (const part of axis.children) part.setAttribute("aria-pressed", String(part.dataset.axis === view.axis));
    if (Number(slider.value) !== view.smoothing) slider.value = view.smoothing;
    setText(amount, view.smoothing ? view.smoothing.toFixed(2) : "off");
    log.setAttribute("aria-pressed", String(view.log.has("all")));
    follow.setAttribute("aria-pressed", String(view.follow));
    mean.setAttribute("aria-pressed", String(view.mean));
    mean.hidden = live.selected.length < 2;
    whole.hidden = !view.zoom;
    pinned.hidden = rollouts.hidden = view.pinned === null;
    setText(pinned, view.pinned === null ? "" : `Step ${view.pinned} ×`);
    setText(said, view.pinned === null ? "" : `Step ${view.pinned} is pinned`);
    setText(charts, view.charts.length ? `My charts (${view.charts.length})` : "Charts");
    element.classList.toggle("mean", view.mean && drawnRuns().length < live.selected.length);
  };
  live.watch(element, ["view", "selection", "runs"], draw);
  draw();
}

function segments() {
  const button = (name) => el("button", { type: "button", text: AXES[name].label, data: { axis: name }, on: { click: () => view.setAxis(name) } });
  return el("div", { class: "switch", role: "group", "aria-label": "Horizontal axis" }, ...Object.keys(AXES).map(button));
}

function toggle(text, title, run) {
  return el("button", { type: "button", class: "bgpo-menu-button toggle", text, title, "aria-pressed": "false", on: { click: run } });
}

async function copyLink(button) {
  view.write();
  const done = await copyText(location.href, button);
  setText(button, done ? "Copied" : "Copy the address");
  setTimeout(() => setText(button, "Link"), 1800);
}

// ---- views that are kept in the database, for everybody who opens this app

function viewsMenu() {
  let kept = [];
  const load = async () => { try { kept = await get("/api/views"); } catch { kept = []; } };
  const button = menuButton("Views", () => [...list(), null, form()]);
  const list = () => (kept.length ? kept.map(row) : [el("p", { class: "words", text: "A view is everything the address holds: runs, axis, zoom, charts. Keep the one you look at:" })]);
  const row = (one) => el("div", { class: "row" },
    el("button", { type: "button", class: "entry", on: { click: () => { button.closeMenu(); view.open(one.query); } } }, el("span", { class: "what", text: one.name })),
    el("button", { type: "button", class: "bgpo-button small", text: "Forget", "aria-label": `Forget the view ${one.name}`, on: { click: async () => { await post(`/api/views/${one.id}/delete`); await load(); button.closeMenu(); } } }));
  const form = () => {
    const name = el("input", { class: "bgpo-input", placeholder: "Name of this view", "aria-label": "Name of this view", maxlength: 80 });
    const message = el("p", { class: "words", role: "alert" });
    const keep = async (event) => {
      event.preventDefault();
      view.write();
      try {
        await post("/api/views", { name: name.value, query: location.search.slice(1) });
        await load();
        button.closeMenu();
      } catch (error) { setText(message, error.message); }
    };
    return el("form", { on: { submit: keep } }, el("div", { class: "row" }, name, el("button", { type: "submit", class: "bgpo-button small primary", text: "Keep" })), message);
  };
  load();
  button.addEventListener("pointerenter", load);
  button.addEventListener("focus", load);
  return button;
}
