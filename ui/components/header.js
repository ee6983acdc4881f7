// Name, connection and the light/dark switch, on the line of the areas.

import { el, setText, styles } from "./dom.js";
import { live } from "./live.js";
import { setTheme } from "./shell.js";

export function mount(element) {
  styles("header");
  const state = el("span", { class: "state", role: "status" });
  const toggle = el("button", { type: "button", class: "toggle", on: { click: () => {
    setTheme(document.body.classList.contains("dark") ? "light" : "dark");
  } } });
  element.append(
    el("h1", {}, el("a", { class: "brand", href: "?" }, el("i", { "aria-hidden": "true" }, el("b"), el("b"), el("b"), el("b")), "BGPO Studio")),
    el("div", { class: "right" }, state, toggle),
  );
  const draw = () => {
    const active = live.list().filter((run) => run.status === "running").length;
    const waiting = live.queue.queued; // of very many not all are here
    const words = [active ? `${active} running` : "", waiting ? `${waiting} queued` : ""].filter(Boolean).join(", ");
    setText(state, live.connected ? words : "No connection, trying again");
    state.className = `state ${live.connected ? (active ? "active" : "") : "lost"}`;
    const dark = document.body.classList.contains("dark");
    setText(toggle, dark ? "Light" : "Dark");
    toggle.setAttribute("aria-label", dark ? "Switch to the light theme" : "Switch to the dark theme");
  };
  live.watch(element, ["runs", "queue", "connection", "theme"], draw);
  draw();
}
