// Which runs are listed, in what order, under which headings. Pure functions over the rows of the live store.
//
//   adder seed                both words, in the name, the task, a tag or what changed
//   #paper  -#old             with a tag, without one
//   mc_samples=16  lr<1e-4    a knob's value; `lr` is enough where only one knob begins or ends like that
//   status:failed             running, queued, finished, stopped, failed
//   reward>0.9  best>=0.5     the held-out reward, newest or best

const TERM = /^(-)?(?:#(\S+)|status:(\S+)|([a-z_]\w*)(<=|>=|!=|=|<|>)(\S+)|(.+))$/i;
const FIGURES = { reward: "reward", best: "best", step: "step", steps: "steps", seconds: "seconds" };
const SHORT = { lr: "learning_rate", k: "mc_samples", n_t: "mc_samples" };

// Terms of a filter; what cannot be read as more is a word.
export function terms(text) {
  return text.trim().split(/\s+/).filter(Boolean).map((part) => {
    const [, minus, tag, status, name, sign, value, word] = TERM.exec(part) || [];
    const no = Boolean(minus);
    if (tag) return { no, kind: "tag", tag: tag.toLowerCase() };
    if (status) return { no, kind: "status", status: status.toLowerCase() };
    if (name) return { no, kind: "value", name: name.toLowerCase(), sign, value };
    return { no, kind: "word", word: (word || part).toLowerCase() };
  });
}

// knob(run, name): its value. names: of all knobs.
export function matches(run, wanted, knob, names) {
  return wanted.every((term) => holds(run, term, knob, names) !== term.no);
}

function holds(run, term, knob, names) {
  if (term.kind === "tag") return run.tags.some((tag) => tag.startsWith(term.tag));
  if (term.kind === "status") return run.status.startsWith(term.status) || run.word.toLowerCase().startsWith(term.status);
  if (term.kind === "word") return words(run).includes(term.word);
  const name = FIGURES[term.name] ? null : knobNamed(term.name, names);
  const value = FIGURES[term.name] ? run[FIGURES[term.name]] : name ? knob(run, name) : undefined;
  return value !== undefined && value !== null && compared(value, term.sign, term.value);
}

function words(run) { return [run.name, run.task, run.changed.join(" "), run.tags.join(" "), run.reason].join(" ").toLowerCase(); }

export function knobNamed(text, names) {
  const long = SHORT[text] || text;
  if (names.includes(long)) return long;
  const close = names.filter((name) => name.startsWith(long) || name.endsWith(long));
  return close.length === 1 ? close[0] : null;
}

function compared(value, sign, text) {
  const given = Number(text), numbers = typeof value === "number" && Number.isFinite(given);
  if (typeof value === "boolean") text = /^(yes|true|on|1)$/i.test(text) ? "true" : /^(no|false|off|0)$/i.test(text) ? "false" : text;
  const equal = numbers ? value === given : String(value).toLowerCase() === text.toLowerCase();
  if (sign === "=") return equal;
  if (sign === "!=") return !equal;
  if (!numbers) return false;
  return { "<": value < given, ">": value > given, "<=": value <= given, ">=": value >= given }[sign];
}

export const SORTS = {
  newest: ["Newest first", (run) => run.id],
  reward: ["Reward now", (run) => run.reward ?? -Infinity],
  best: ["Best reward", (run) => run.best ?? -Infinity],
  rate: ["Steps per second", (run) => run.rate ?? -Infinity],
  seconds: ["Running time", (run) => run.seconds],
  name: ["Name", null],
};

export function sorted(runs, by) {
  if (by === "name") return [...runs].sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }) || b.id - a.id);
  const key = (SORTS[by] || SORTS.newest)[1];
  return [...runs].sort((a, b) => key(b) - key(a) || b.id - a.id);
}

// [{ key, title, runs }] in the order in which the groups first appear; one without a title where nothing is grouped.
// Other modules add their own ways in GROUPINGS: name -> { label, of(run) -> [title] }.
export const GROUPINGS = {
  status: { label: "Status", of: (run) => [run.word] },
  task: { label: "Task", of: (run) => [run.task || "unknown"] },
  tag: { label: "Tag", of: (run) => (run.tags.length ? run.tags.map((tag) => `#${tag}`) : ["no tag"]) },
  sweep: { label: "Sweep", of: (run) => [run.sweep_name || "no sweep"] },
  parent: { label: "Parent", of: (run) => [run.parent ? `from run ${run.parent}` : "no parent"] },
};

export function grouped(runs, by, knob) {
  if (!by) return withSweeps(runs);
  const groups = new Map();
  for (const run of runs) {
    const titles = GROUPINGS[by] ? GROUPINGS[by].of(run) : [shown(knob(run, by))];
    for (const title of titles) groups.set(title, [...(groups.get(title) || []), run]);
  }
  const found = [...groups].map(([title, members]) => ({ key: `${by} ${title}`, title, runs: members }));
  if (GROUPINGS[by]) return found;
  const value = (group) => knob(group.runs[0], by);
  return found.sort((a, b) => (typeof value(a) === "number" && typeof value(b) === "number" ? value(a) - value(b) : a.title.localeCompare(b.title)));
}

// Ungrouped, a sweep is one line, where the first of its runs would stand; the runs around it have no heading.
function withSweeps(runs) {
  const found = [], sweeps = new Map();
  for (const run of runs) {
    const last = found[found.length - 1];
    if (run.sweep === null || run.sweep === undefined) {
      if (last && !last.title) last.runs.push(run); else found.push({ key: `runs from ${run.id}`, title: "", runs: [run] });
    } else if (sweeps.has(run.sweep)) sweeps.get(run.sweep).runs.push(run);
    else {
      sweeps.set(run.sweep, { key: `sweep ${run.sweep}`, title: run.sweep_name || `Sweep ${run.sweep}`, runs: [run], sweep: true });
      found.push(sweeps.get(run.sweep));
    }
  }
  return found.length ? found : [{ key: "", title: "", runs }];
}

export function shown(value) {
  if (value === true) return "yes";
  if (value === false) return "no";
  return value === undefined || value === null || value === "" ? "not set" : String(value);
}

// Names of the knobs in which these runs are not all the same.
export function differingKnobs(runs, names, knob) {
  return names.filter((name) => new Set(runs.filter((run) => run.readable).map((run) => knob(run, name))).size > 1);
}
