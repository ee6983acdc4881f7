// Enter in the prompt while an answer is under way: what was written waits under the buttons and is sent once the stream
// has ended. Gradio drops a submit that comes before its stream is closed, which is a moment after the last token is shown.
//
// Only what was changed since the last message waits: the same text with the same settings would give the same answer.

import { el, setText } from "./dom.js";

const WAITS = "Waits for this answer to end and is then sent. Esc, or another letter, takes it back.";

/** props: ids of the page's elements: `body` holds all that an answer reads, `prompt` the text, `button` what sends it. */
export function mount(element, props) {
  const words = el("p", { class: "later", role: "status" });
  element.append(words);
  const body = document.getElementById(props.body);
  const box = () => document.getElementById(props.prompt)?.querySelector("textarea");
  const button = () => document.getElementById(props.button);
  const free = () => { const found = button(); return Boolean(found) && !found.disabled; };
  let waiting = "", changed = false;

  const wait = (text) => { waiting = text; setText(words, text ? WAITS : ""); };

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
    if (free()) { changed = false; return; }
    event.preventDefault();
    event.stopPropagation();
    if (changed && !event.repeat) wait(box().value.trim() ? box().value : "");
  }, { capture: true });
  body.addEventListener("click", (event) => { if (button()?.contains(event.target)) changed = false; }, { capture: true });
  new MutationObserver(send).observe(body, { subtree: true, attributes: true, attributeFilter: ["disabled"] });
}

function fill(box, text) {
  box.value = text;
  box.dispatchEvent(new Event("input", { bubbles: true }));
}
