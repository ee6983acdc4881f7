// The checkpoints of the run, newest last, each with the validation reward it is chosen by, a way to talk to it and a way to take it along.

import { age, copyButton, el, figure, get, post, styles } from "./dom.js";
import { openFork } from "./fork.js";
import { live, openArea, writeUrl } from "./live.js";

const KINDS = { warm_start: "Warm start", evaluation: "Evaluation", final: "Final", stop: "Stopped here" };

export function mount(element) {
  styles("checkpoint_list");
  let shown = null;
  const draw = async () => {
    const run = live.focus();
    if (!run || !element.offsetParent) return;
    const key = `${run.id} ${run.status} ${run.step}`;
    if (key === shown) return;
    shown = key;
    try {
      const { checkpoints, disk_bytes } = await get(`/api/runs/${run.id}`);
      if (shown === key) element.replaceChildren(view(run, checkpoints), disk(run, disk_bytes));
    } catch (error) {
      shown = null;
      element.replaceChildren(el("p", { class: "bgpo-soft", text: error.message }));
    }
  };
  live.watch(element, ["selection", "runs"], draw);
  new ResizeObserver(draw).observe(element);
  draw();
}

function view(run, checkpoints) {
  if (!checkpoints.length) return el("p", { class: "bgpo-card none", text: "No checkpoint yet. The first is saved when the warm start is done, then one at every held-out evaluation." });
  const head = el("tr", {}, ...["Step", "Kind", "Validation reward", "Saved", ""].map((text) => el("th", { text, title: text === "Validation reward" ? "Mean greedy reward on validation problems. The best checkpoint is chosen by it, so that held-out problems stay a fair measure" : null })));
  const rows = checkpoints.map((checkpoint) => el("tr", {},
    el("td", { class: "step", text: checkpoint.step }), el("td", { class: "kind", text: KINDS[checkpoint.kind] || checkpoint.kind }),
    el("td", { class: "reward" }, checkpoint.reward === null ? "–" : meter(checkpoint.reward)),
    el("td", { class: "saved bgpo-soft", text: age(checkpoint.created, live.now()), title: new Date(checkpoint.created * 1000).toLocaleString() }),
    el("td", { class: "do" },
      pin(run, checkpoint),
      checkpoint.export ? el("button", { type: "button", class: "bgpo-button small", text: "Export", title: "The command that writes this checkpoint as a model that other tools read",
        on: { click: (event) => showExport(event.currentTarget.closest("tr"), checkpoint) } }) : null,
      checkpoint.onward ? link("Train from here", "new", checkpoint.onward) : null,
      link("Chat with it", "chat", { checkpoint: checkpoint.id }),
      el("button", { type: "button", class: "bgpo-button small", text: "Evaluate", disabled: !run.readable, "aria-label": `Evaluate step ${checkpoint.step}`, title: "Measures its pass@1 on held-out problems; the score then stands under Evaluations",
        on: { click: () => openFork(run, checkpoint.step, { job: "evaluate", examples: "" }).catch(() => {}) } }),
      el("button", { type: "button", class: "bgpo-button small", text: "Fork from here", disabled: !run.readable, "aria-label": `Fork from step ${checkpoint.step}`,
        on: { click: () => openFork(run, checkpoint.step).catch(() => {}) } }))));
  return el("div", { class: "bgpo-card scroll" }, el("table", {}, el("thead", {}, head), el("tbody", {}, ...rows)));
}

// A pinned checkpoint is kept; the others are freed when newer ones come, but for the first, the best and the final one.
function pin(run, checkpoint) {
  const button = el("button", { type: "button", class: "bgpo-button small", on: { click: async () => {
    try {
      checkpoint.pinned = (await post(`/api/runs/${run.id}/pin`, { checkpoint: checkpoint.id, pinned: !checkpoint.pinned })).pinned;
      draw();
    } catch (error) { button.title = error.message; button.textContent = "Not there any more"; }
  } } });
  const draw = () => {
    button.textContent = checkpoint.pinned ? "Pinned" : "Pin";
    button.title = checkpoint.pinned ? "Kept until you let it go" : "Keep this checkpoint whatever comes after it";
    button.setAttribute("aria-pressed", String(checkpoint.pinned));
    button.setAttribute("aria-label", `Pin the checkpoint of step ${checkpoint.step}`);
  };
  draw();
  return button;
}

function disk(run, bytes) {
  return el("p", { class: "disk bgpo-soft" }, `This run takes ${size(bytes)} on disk. `,
    el("a", { href: `/api/runs/${run.id}/archive`, download: "", text: "Download it as an archive",
      title: "Config, curves, completions, rollouts with their traces, events, alerts, the best, the last and the pinned checkpoints" }));
}

function size(bytes) {
  const unit = bytes < 1e6 ? [1e3, "kB"] : bytes < 1e9 ? [1e6, "MB"] : [1e9, "GB"];
  return `${figure(bytes / unit[0])} ${unit[1]}`;
}

// Opens a row under the checkpoint with its command, or closes it again. The weights stay on the machine that has them.
function showExport(row, checkpoint) {
  const open = row.nextElementSibling;
  if (open?.classList.contains("export")) return open.remove();
  const command = el("pre", { class: "bgpo-mono", text: checkpoint.export });
  row.after(el("tr", { class: "export" }, el("td", { colspan: "5" },
    el("p", { class: "bgpo-soft", text: "On the machine that runs BGPO Studio, this writes the model under its published names with its own config and tokenizer. A name that ends in .zip gives one file; --push you/name in place of --to uploads it, with the token from HF_TOKEN." }),
    el("div", { class: "command" }, command, copyButton(() => checkpoint.export, command)))));
}

// A link works on its own (in a new tab, too); a plain click needs no reload.
function link(text, area, query) {
  const go = (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    writeUrl({ tab: area, ...query });
    openArea(area);
  };
  return el("a", { class: "bgpo-button small", href: `?${new URLSearchParams({ tab: area, ...query })}`, text, on: { click: go } });
}

function meter(reward) {
  return el("span", { class: "meter" }, el("i", {}, el("b", { style: { width: `${Math.max(0, Math.min(1, reward)) * 100}%` } })), el("span", { text: figure(reward) }));
}
