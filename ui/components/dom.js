// Small helpers that every module shares. Text goes in through textContent only: names, logs and whatever a model
// wrote must never be read as markup.

// el("button", { class: "x", text: "Play", data: { step: 3 }, style: { "--c": "red" }, on: { click: f } }, child, "text", ...)
export function el(tag, options = {}, ...children) {
  return fill(document.createElement(tag), options, children);
}

const SVG = "http://www.w3.org/2000/svg";

export function svg(tag, options = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), options, children);
}

function fill(node, options, children) {
  const { text, on = {}, data = {}, style, ...attributes } = options;
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value === true ? "" : String(value));
  }
  if (typeof style === "string") node.setAttribute("style", style);
  else for (const [name, value] of Object.entries(style || {})) node.style.setProperty(name, value);
  Object.assign(node.dataset, data);
  for (const [type, handler] of Object.entries(on)) node.addEventListener(type, handler);
  if (text !== undefined && text !== null) node.textContent = String(text);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

// A module's style sheet, once per page. Modules that come before their sheet are not seen bare: the theme hides those
// without `bgpo-dressed` while a sheet is on its way.
export function styles(name) {
  const { href } = new URL(`./${name}.css`, import.meta.url);
  if (document.querySelector(`link[href="${href}"]`)) return;
  const link = el("link", { rel: "stylesheet", href, on: { load: () => dress(link), error: () => dress(link) } });
  undressed.add(link);
  document.documentElement.classList.add("bgpo-dressing");
  document.head.append(link);
}

const undressed = new Set(); // links of sheets that are on their way

function dress(link) {
  undressed.delete(link);
  if (undressed.size) return;
  document.documentElement.classList.remove("bgpo-dressing");
  for (const node of document.querySelectorAll(".bgpo-module")) node.classList.add("bgpo-dressed");
}

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// A part that scrolls is a stop of the Tab key, or who has no mouse never sees its end; one that fits is none.
export function reachable(node) {
  new ResizeObserver(() => {
    if (node.scrollHeight > node.clientHeight + 1) node.tabIndex = 0; else node.removeAttribute("tabindex");
  }).observe(node);
  return node;
}

// Three significant figures, without a tail of zeros or a false exponent.
export function figure(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 0.001 || size >= 1e6)) return value.toExponential(1).replace("e+", "e");
  if (size >= 100) return value.toFixed(0);
  if (size >= 10) return value.toFixed(1);
  return value.toFixed(size >= 1 ? 2 : 3).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "");
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "";
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 90) return `${whole} s`;
  if (whole < 5400) return `${Math.floor(whole / 60)} min ${String(whole % 60).padStart(2, "0")} s`;
  return `${Math.floor(whole / 3600)} h ${String(Math.floor((whole % 3600) / 60)).padStart(2, "0")} min`;
}

export function age(then, now) {
  const seconds = Math.max(0, now - then);
  if (seconds < 10) return "just now";
  if (seconds < 90) return `${Math.round(seconds)} s ago`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h ago`;
  return `${Math.round(seconds / 86400)} days ago`;
}

// Where the clipboard is closed (plain http from another machine) the text of `fallback` is selected instead; false then.
export async function copyText(text, fallback) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    getSelection().selectAllChildren(fallback);
    return false;
  }
}

// A small button that copies `text()`, or selects `fallback` where that is not allowed.
export function copyButton(text, fallback) {
  const button = el("button", { type: "button", class: "bgpo-button small", text: "Copy", on: { click: async () => {
    button.textContent = await copyText(text(), fallback) ? "Copied" : "Selected: press Ctrl+C";
    setTimeout(() => { button.textContent = "Copy"; }, 1800);
  } } });
  return button;
}

// Saves a blob under a name, as a download.
export function download(blob, name) {
  const link = el("a", { href: URL.createObjectURL(blob), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// Asks before something that cannot be undone. Resolves to true only on the named button.
export function confirmed(question, detail, action) {
  return new Promise((resolve) => {
    const dialog = el("dialog", { class: "bgpo-dialog", "aria-label": question });
    const close = (answer) => { dialog.close(); dialog.remove(); resolve(answer); };
    dialog.append(
      el("h3", { text: question }),
      el("p", { class: "bgpo-soft", text: detail }),
      el("div", { class: "bgpo-dialog-actions" },
        el("button", { type: "button", class: "bgpo-button", text: "Cancel", autofocus: true, on: { click: () => close(false) } }),
        el("button", { type: "button", class: "bgpo-button danger", text: action, on: { click: () => close(true) } })),
    );
    dialog.addEventListener("cancel", (event) => { event.preventDefault(); close(false); });
    (document.querySelector(".gradio-container") || document.body).append(dialog);
    dialog.showModal();
  });
}

// POST with JSON. Returns the answer, or throws an Error whose message is the server's sentence (and `problems`, if any).
export async function post(path, body = {}) {
  let response;
  try {
    response = await fetch(path, {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
    });
  } catch {
    throw new Error("The app does not answer. Is it still running?");
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) {
    const error = new Error(answer.error || `The app answered with status ${response.status}.`);
    error.problems = answer.problems || {};
    throw error;
  }
  return answer;
}

export async function get(path) {
  const response = await fetch(path);
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.error || `The app answered with status ${response.status}.`);
  return answer;
}
