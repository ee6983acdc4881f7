// Enter in the prompt while an answer is under way: what was written waits under the buttons and is sent once the stream
// has ended. Gradio drops a submit that comes before its stream is closed, which is a moment after the last token is shown.
//
// A message that was sent is under way before the page shows it: until the button is disabled, for a moment at most.
// What is sent in between, Gradio drops as well.
//
// Only what was changed since the last message waits: the same text with the same settings would give the same answer.

import { el, setText } from "./dom.js";

const STARTS_MS = 3000; // within which the page shows that it answers, or what was wrong with the message
const WAITS = "Waits for this answer to end and is then sent. Esc, or another letter, takes it back.";

/** props: ids of the page's elements: `body` holds all that an answer reads, `prompt` the text, `button` what sends it. */
export function mount(element, props) {
  const words = el("p", { class: "later", role: "status" });
  element.append(words);
  const body = document.getElementById(props.body);
  const box = () => document.getElementById(props.prompt)?.querySelector("textarea");
  const button = () => document.getElementById(props.button);
  const free = () => { const found = button(); return Boolean(found) && !found.disabled && performance.now() - sent > STARTS_MS; };
  let waiting = "", changed = false, sent = -Infinity;

  const wait = (text) => { waiting = text; setText(words, text ? WAITS : ""); };

  const went = () => {
    changed = false;
    sent = performance.now();
    setTimeout(send, STARTS_MS + 50); // if no answer came of it, what waits goes off then
  };

  const send = () => {
    if (!waiting || !free()) return;
    const text = waiting;
    wait("");
    if (box().value !== text) fill(box(), text); // an answer that was stopped gives its own prompt back
    setTimeout(() => button().click());
  };

  body.addEventListener("input", (event) => { changed = true; if (event.target === box()) wait(""); });
  body.addEventListener("change", () => { changed = true; });
  body.addEventListener("keydown", (event) => {
    if (event.target !== box() || event.isComposing) return;
    if (event.key === "Escape" && waiting) { wait(""); event.stopPropagation(); }
    if (event.key !== "Enter" || event.shiftKey) return;
    if (free()) { went(); return; }
    event.preventDefault();
    event.stopPropagation();
    if (changed && !event.repeat) wait(box().value.trim() ? box().value : "");
  }, { capture: true });
  body.addEventListener("click", (event) => { if (button()?.contains(event.target)) went(); }, { capture: true });
  new MutationObserver((seen) => {
    if (seen.some(({ target }) => target === button())) sent = -Infinity; // what it says is true again
    send();
  }).observe(body, { subtree: true, attributes: true, attributeFilter: ["disabled"] });
}

function fill(box, text) {
  box.value = text;
  box.dispatchEvent(new Event("input", { bubbles: true }));
}
