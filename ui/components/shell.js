// Loaded in the page's head: the remembered theme, the area named in the address, and the store's first poll.

import { live, openArea, writeUrl } from "./live.js";
import { keys } from "./keys.js";

const AREAS = ["runs", "new", "chat", "lab", "system"];

export function storedTheme() {
  try { return localStorage.getItem("bgpo-theme"); } catch { return null; }
}

export function setTheme(name) {
  try { localStorage.setItem("bgpo-theme", name); } catch { /* private windows may refuse; the choice then lasts as long as the page */ }
  document.body.classList.toggle("dark", name === "dark");
}

function applyTheme() {
  const name = storedTheme();
  if (name) document.body.classList.toggle("dark", name === "dark");
}

// Gradio builds the page after this script ran; its tab bar is what we wait for.
function whenBuilt(action) {
  if (document.getElementById("area-runs-button")) { action(); return; }
  const observer = new MutationObserver(() => {
    if (!document.getElementById("area-runs-button")) return;
    observer.disconnect();
    action();
  });
  observer.observe(document.documentElement, { childList: true, subtree: true });
}

function area() {
  const name = new URLSearchParams(location.search).get("tab");
  return AREAS.includes(name) ? name : "runs";
}

whenBuilt(() => {
  applyTheme();
  if (area() !== "runs") openArea(area());
  document.getElementById("bgpo-areas").addEventListener("click", (event) => {
    const match = event.target.closest("button[role=tab]")?.id.match(/^area-(\w+)-button$/);
    if (match) writeUrl({ tab: match[1] === "runs" ? "" : match[1] });
  });
  document.getElementById("bgpo-run-tabs")?.addEventListener("click", (event) => {
    const match = event.target.closest("button[role=tab]")?.id.match(/^run-(\w+)-button$/);
    if (match) writeUrl({ part: match[1] === "curves" ? "" : match[1] });
    if (match) inSight(event.target.closest("button"));
  });
  openPart(new URLSearchParams(location.search).get("part"));
  const strip = document.querySelector("#bgpo-run-tabs > .tab-wrapper");
  if (strip) new ResizeObserver(() => inSight(strip.querySelector("[aria-selected=true]"))).observe(strip);
  live.start();
});

// The parts of a run are tabs of their own, and so in the address as well; digits open them.
// Gradio may still be setting them up and then opens the first one again, so for a moment the address is held to.
function openPart(name) {
  if (!name || !/^[a-z_]+$/.test(name)) return;
  const asked = () => new URLSearchParams(location.search).get("part") === name;
  const open = () => {
    const button = document.getElementById(`run-${name}-button`);
    if (asked() && button?.getAttribute("aria-selected") !== "true") button?.click();
  };
  open();
  let looks = 12;
  const timer = setInterval(() => { open(); if ((looks -= 1) <= 0 || !asked()) clearInterval(timer); }, 250);
}

// On a phone the parts are a strip that is wider than the screen; the open one stands in its middle.
function inSight(button) {
  if (!button) return;
  const strip = button.closest(".tab-wrapper"), [at, frame] = [button.getBoundingClientRect(), strip.getBoundingClientRect()];
  strip.scrollLeft += at.left + at.width / 2 - frame.left - frame.width / 2;
}

for (let place = 1; place <= 9; place += 1) {
  keys.add(String(place), place === 1 ? "First part of the run, and so on to 9" : "", "Runs", () => {
    const tab = [...document.querySelectorAll("#bgpo-run-tabs > .tab-wrapper button[role=tab]")].filter((button) => button.offsetParent)[place - 1];
    if (tab) tab.click();
    return Boolean(tab);
  });
}

// What starts the work of the area that is open, also while somebody types in it.
const GO = "#new-run-start, #chat-generate, .bgpo-lab .actions .primary, .bgpo-launcher .start";

keys.add("Ctrl+Enter", "Start the run, generate, denoise", "Everywhere", () => {
  const button = [...document.querySelectorAll(GO)].find((one) => one.offsetParent && !one.disabled);
  if (button) button.click();
  return Boolean(button);
});
keys.note("\u2190 \u2192", "A step back or on, in a denoising that has the focus", "Denoising");
keys.note("Home End", "Its first step, its last", "Denoising");
keys.note("Space", "Play or pause it", "Denoising");
keys.note("\u2191 \u2193", "Choose a token; with Shift, a span", "Denoising");
keys.note("Esc", "Let go of the token", "Denoising");
