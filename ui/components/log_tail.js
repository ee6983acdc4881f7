// The log of the selected run, followed while one is at its end. Text only: whatever a process printed stays text.

import { copyButton, el, get, setText, styles } from "./dom.js";
import { live } from "./live.js";

const MOST_LINES = 3000;
const FOLLOW_MS = 1500;

export function mount(element) {
  styles("log_tail");
  const text = el("pre", { class: "bgpo-mono", tabindex: "0", "aria-label": "Log of the run" });
  const note = el("span", { class: "bgpo-soft" });
  const copy = copyButton(() => text.textContent, text);
  const whole = el("a", { class: "bgpo-button small", text: "Download all", download: "" });
  element.append(el("div", { class: "bgpo-card" }, el("header", {}, note, el("span", { class: "tools" }, copy, whole)), text));
  let run = null, offset = -1, lines = [""], busy = false, skipped = 0;

  const follow = async () => {
    if (busy || document.hidden || !element.offsetParent) return;
    const chosen = live.focus()?.id ?? null;
    if (chosen !== run) { run = chosen; whole.href = `/api/runs/${chosen}/log/whole`; offset = -1; lines = [""]; text.textContent = ""; }
    if (run === null) return;
    busy = true;
    try {
      const answer = await get(`/api/runs/${run}/log?offset=${offset}`);
      if (chosen !== live.focus()?.id) return;
      if (offset < 0) skipped = answer.skipped;
      if (answer.text) show(answer.text);
      offset = answer.offset;
      setText(note, !answer.size ? "Nothing is logged yet." : skipped ? `The last part of ${kilobytes(answer.size)}` : kilobytes(answer.size));
    } catch (error) {
      setText(note, error.message);
    } finally {
      busy = false;
    }
  };

  // A carriage return means "this line again", as progress bars use it.
  const show = (added) => {
    const atEnd = text.scrollHeight - text.scrollTop - text.clientHeight < 40;
    const parts = (lines.pop() + added).split("\n");
    lines.push(...parts.map((line, i) => (i < parts.length - 1 ? line.replace(/\r$/, "").split("\r").pop() : line)));
    if (lines.length > MOST_LINES) lines = lines.slice(-MOST_LINES);
    text.textContent = [...lines.slice(0, -1), lines[lines.length - 1].split("\r").pop()].join("\n");
    if (atEnd) text.scrollTop = text.scrollHeight;
  };

  live.watch(element, ["selection", "runs"], follow);
  new ResizeObserver(follow).observe(element);
  const clock = setInterval(() => { if (element.isConnected) follow(); else clearInterval(clock); }, FOLLOW_MS);
  follow();
}

function kilobytes(size) {
  return size < 10_000 ? `${size} bytes` : size < 1e7 ? `${(size / 1000).toFixed(0)} kB` : `${(size / 1e6).toFixed(0)} MB`;
}
