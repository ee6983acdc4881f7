// What this is, in one sentence, and the presets: the first click chooses one and shows what it will do, the second
// starts it. Knobs in the page's address (?preset=adder&train_steps=3) change the preset, and the card says so.

import { el, get, post, styles } from "./dom.js";
import { live, openArea, openRun } from "./live.js";

export async function mount(element) {
  styles("launcher");
  const state = { chosen: null, cards: [], busy: false, error: "" };
  const draw = () => element.replaceChildren(...view(state, draw));
  let empty = null;
  const settle = () => {
    if (!live.loaded || empty === (live.runs.size === 0)) return;
    empty = live.runs.size === 0;
    document.body.classList.toggle("bgpo-no-runs", empty);
    document.body.classList.add("bgpo-ready");
    draw();
  };
  live.watch(element, ["runs"], settle);
  settle(); // the runs may be there before this module is
  const known = new URLSearchParams(location.search);
  const query = new URLSearchParams([...known].filter(([name]) => !["tab", "run", "x"].includes(name)));
  try {
    state.cards = await get(`/api/presets?${query}`);
  } catch (error) {
    state.error = error.message;
  }
  draw();
}

function view(state, draw) {
  const first = live.loaded && live.runs.size === 0;
  const parts = [];
  if (first) {
    parts.push(el("div", { class: "hero" },
      el("h2", { text: "Reinforcement learning for diffusion language models, on your own machine." }),
      el("p", { text: "BGPO Studio trains a model that fills in masked text from nothing but rewards, shows every curve while it learns, and lets you watch its answers denoise." })));
  }
  parts.push(el("div", { class: "bgpo-eyebrow", text: first ? "No runs yet. Choose a preset, then press Start." : "Start a run" }));
  parts.push(el("div", { class: "cards", role: "group", "aria-label": "Presets" }, ...state.cards.map((card) => cardView(card, state, draw, first))));
  if (state.error) parts.push(el("p", { class: "error", role: "alert", text: state.error }));
  parts.push(el("button", { type: "button", class: "all", text: "Set every knob yourself", on: { click: () => openArea("new") } }));
  return parts;
}

function cardView(card, state, draw, first) {
  const chosen = state.chosen === card.name;
  const choose = () => { state.chosen = chosen ? null : card.name; state.error = ""; draw(); if (!chosen) document.querySelector(".bgpo-launcher .start")?.focus({ preventScroll: true }); };
  const box = el("div", { class: `card bgpo-card ${chosen ? "chosen" : ""}`, data: { preset: card.name } },
    el("button", { type: "button", class: "choose", "aria-expanded": String(chosen), on: { click: choose } },
      el("b", { text: card.title }), first || chosen ? el("span", { text: card.summary }) : null,
      first ? el("code", { text: card.example }) : null));
  if (!chosen) return box;
  const facts = el("ul", {}, ...card.facts.map((fact) => el("li", { text: fact })));
  for (const change of card.changed || []) facts.append(el("li", { class: "change", text: `From this page's address: ${change}` }));
  for (const problem of card.problems) facts.append(el("li", { class: "problem", text: problem }));
  box.append(el("div", { class: "plan" }, facts,
    el("p", { class: "bgpo-soft", text: `The demonstrations are careless on purpose: most of what the warm start sees ${card.careless}. That is what the rewards then put right.` }),
    el("button", { type: "button", class: "bgpo-button primary start", text: state.busy ? "Starting" : "Start",
      disabled: state.busy || card.problems.length > 0, on: { click: () => launch(card, state, draw) } })));
  return box;
}

async function launch(card, state, draw) {
  state.busy = true;
  draw();
  try {
    const { id } = await post("/api/runs", { preset: card.name, values: card.values });
    state.chosen = null;
    openRun(id);
  } catch (error) {
    state.error = error.message;
  }
  state.busy = false;
  draw();
}
