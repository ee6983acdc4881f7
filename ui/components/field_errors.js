// Puts sentences at the fields they are about: under the control, and told to screen readers as its error.

import { el, styles } from "./dom.js";

const state = new Map(); // prefix -> problems, kept so that a field that is unfolded later gets its sentence too

/** problems: {name: sentence}; the control of a name is the element with id prefix + name. */
export function placeErrors(prefix, problems, names) {
  styles("field_errors");
  state.set(prefix, { problems, names });
  for (const name of names) place(document.getElementById(prefix + name), prefix + name, problems[name]);
}

function place(field, id, sentence) {
  if (!field) return;
  const inputs = field.querySelectorAll("input, textarea, select");
  const found = field.querySelector(":scope > .fe-error");
  if (!sentence) {
    found?.remove();
    for (const input of inputs) { input.removeAttribute("aria-invalid"); input.removeAttribute("aria-describedby"); }
    field.classList.remove("fe-bad");
    return;
  }
  const line = found ?? field.appendChild(el("p", { class: "fe-error", id: `${id}-error` }));
  if (line.textContent !== sentence) line.textContent = sentence;
  for (const input of inputs) {
    if (input.getAttribute("aria-invalid") === "true") continue;
    input.setAttribute("aria-invalid", "true");
    input.setAttribute("aria-describedby", `${id}-error`);
  }
  field.classList.add("fe-bad");
}

/** Goes to a field: unfolds what it is in, scrolls, focuses. */
export function goTo(prefix, name, open) {
  const reach = () => {
    const field = document.getElementById(prefix + name);
    if (!field || field.offsetParent === null) return false;
    field.scrollIntoView({ block: "center", behavior: "smooth" });
    field.querySelector("input, textarea, select")?.focus({ preventScroll: true });
    return true;
  };
  if (reach()) return;
  open?.();
  let tries = 40; // what was folded is built by Gradio in its own time
  const timer = setInterval(() => { if (reach() || (tries -= 1) <= 0) clearInterval(timer); }, 50);
}

/** Keeps sentences in place while `root`'s controls come and go (folded groups are not in the page). */
export function keepErrors(prefix, root) {
  new MutationObserver(() => {
    const { problems, names } = state.get(prefix) ?? {};
    if (names) for (const name of names) place(document.getElementById(prefix + name), prefix + name, problems[name]);
  }).observe(root, { childList: true, subtree: true });
}

/** As a component of its own: `props.value` is {prefix, names, problems}. */
export function mount(element, props, watch) {
  styles("field_errors");
  const draw = () => { if (props.value) placeErrors(props.value.prefix, props.value.problems ?? {}, props.value.names ?? []); };
  draw();
  watch("value", draw);
}
