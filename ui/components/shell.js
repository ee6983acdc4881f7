// Loaded in the page's head: the remembered theme, the area named in the address, and the store's first poll.

import { live, openArea, writeUrl } from "/assets/live.js";

const AREAS = ["runs", "new", "chat", "system"];

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
  live.start();
});
