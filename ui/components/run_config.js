// Every knob of the run, with those that were changed made plain; the command that does the same; what happened when.

import { configFile } from "./config_file.js";
import { age, copyButton, el, get, styles } from "./dom.js";
import { live } from "./live.js";

export function mount(element) {
  styles("run_config");
  let shown = null;
  const draw = async () => {
    const run = live.focus();
    if (!run || !element.offsetParent) return;
    const key = `${run.id} ${run.status} ${run.name}`;
    if (key === shown) return;
    shown = key;
    try {
      const facts = await get(`/api/runs/${run.id}`);
      if (shown === key) element.replaceChildren(...view(run, facts));
    } catch (error) {
      shown = null;
      element.replaceChildren(el("p", { class: "bgpo-soft", text: error.message }));
    }
  };
  live.watch(element, ["selection", "runs"], draw);
  new ResizeObserver(draw).observe(element);
  draw();
}

function view(run, facts) {
  const command = el("pre", { class: "bgpo-mono", text: facts.command || "The config cannot be read by this version." });
  const parts = [el("section", { class: "bgpo-card command" },
    el("header", {}, el("h3", { text: "The same run without a browser" }), copyButton(() => facts.command, command)), command,
    facts.config ? configFile(facts.config, `run-${run.id}-config.json`) : null)];
  const groups = [...new Set(facts.knobs.map((knob) => knob.group))];
  const changed = facts.knobs.filter((knob) => knob.differs).length;
  parts.push(el("p", { class: "bgpo-soft count", text: changed === 0 ? `All knobs as in the preset ${facts.preset}.` : `${changed} of ${facts.knobs.length} knobs differ from the preset ${facts.preset}.` }));
  parts.push(el("div", { class: "groups" }, ...groups.map((group) => el("section", { class: "bgpo-card" }, el("h3", { text: group }),
    el("dl", {}, ...facts.knobs.filter((knob) => knob.group === group).map(knobView))))));
  parts.push(el("section", { class: "bgpo-card history" }, el("h3", { text: "What happened" }),
    el("ol", {}, ...facts.events.map((event) => el("li", {},
      el("time", { text: age(event.time, live.now()), title: new Date(event.time * 1000).toLocaleString() }),
      el("b", { text: event.from === event.to ? "asked" : event.to }), el("span", { text: [event.why, event.who ? `(${event.who})` : ""].filter(Boolean).join(" ") }))))));
  return parts;
}

function knobView(knob) {
  return el("div", { class: knob.differs ? "differs" : "", title: knob.help },
    el("dt", { class: "bgpo-mono", text: knob.name }),
    el("dd", {}, el("b", { text: knob.value }), knob.unit ? el("span", { class: "unit", text: ` ${knob.unit}` }) : null,
      knob.differs ? el("span", { class: "usual", text: `preset ${knob.usual}` }) : null));
}
