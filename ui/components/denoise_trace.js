// What a sampler reported, step by step, and the canvas at any step of it. No DOM here.

/** End tokens of the model families, as events spell them; a denoising says its own. */
export const END_TOKENS = ["<eos>", "<|endoftext|>", "<|eot_id|>", "<|im_end|>"];

/** Events of one completion, in the order they were made: "start", "step" (many), then "end", "stopped" or "error". */
export class Trace {
  constructor() {
    this.start = null;
    this.end = null;
    this.commits = [[]];    // per step: [[position, token, confidence], ...]
    this.ghosts = [[]];     // per step: the current guess of every position still masked, same shape
    this.seconds = [null];    // per step: seconds since the first one began, or null in a stored trace
    this.details = new Map(); // position -> {id, entropy, others: [[token, probability], ...]} of its last commit
    this.locked = new Map();  // position -> [token, id] of what stood from the start
    this.filled = new Map();  // position -> id of the end tokens that filled an ended answer up, not written by the model
    this.history = new Map(); // position -> [{step, token, confidence}, ...] in order
  }

  add(event) {
    if (event.kind === "start") {
      this.start = event;
      for (const [position, token, id] of event.locked ?? []) this.locked.set(position, [token, id]);
    }
    else if (event.kind === "step") this.addStep(event);
    else if (["end", "stopped", "error"].includes(event.kind)) this.end = event;
  }

  addStep(event) {
    const step = event.step;
    this.commits[step] = event.commits ?? [];
    this.ghosts[step] = event.ghosts ?? [];
    this.seconds[step] = event.seconds ?? null;
    for (const [position, detail] of Object.entries(event.details ?? {})) this.details.set(Number(position), detail);
    for (const [position, token, confidence] of this.commits[step]) this.write(position, { step, token, confidence: confidence ?? null });
    for (const [position, token, id] of event.filled ?? []) {
      this.filled.set(position, id);
      this.write(position, { step, token, confidence: null, filled: true });
    }
  }

  write(position, cell) {
    if (!this.history.has(position)) this.history.set(position, []);
    this.history.get(position).push(cell);
  }

  /**
   * What stands after `step` steps as [[position, token id], ...]; [position, {piece: token}] where it came without its
   * id, as in a stored rollout.
   */
  ids(step) {
    const named = (token, id) => (Number.isInteger(id) ? id : { piece: token });
    const found = [...this.locked].map(([position, [token, id]]) => [position, named(token, id)]);
    for (const [position, commits] of this.history) {
      const shown = commits.findLast((commit) => commit.step <= step);
      if (shown) found.push([position, named(shown.token, this.details.get(position)?.id ?? this.filled.get(position))]);
    }
    return found;
  }

  /** Steps received so far. */
  get last() { return Math.max(0, this.commits.length - 1); }

  /** Steps there will be, as far as known. */
  get total() { return this.end && this.end.kind !== "stopped" ? this.last : Math.max(this.start?.steps ?? 0, this.last); }

  get length() { return this.start?.length ?? 0; }

  get finished() { return this.end !== null; }

  /** One cell per position after `step` steps: {token, confidence, step} when filled, {ghost, probability} or {} when not. */
  canvas(step) {
    const cells = Array.from({ length: this.length }, () => ({}));
    for (const [position, token, probability] of this.ghosts[step] ?? []) {
      if (cells[position]) cells[position] = { ghost: token, probability };
    }
    for (const [position, [token]] of this.locked) if (cells[position]) cells[position] = { token, confidence: null, step: 0 };
    for (const [position, commits] of this.history) {
      const shown = commits.findLast((commit) => commit.step <= step);
      if (shown && cells[position]) cells[position] = shown;
    }
    return cells;
  }

  /** Positions still masked after `step` steps. */
  masksLeft(step) { return this.canvas(step).filter((cell) => cell.token === undefined).length; }

  /** How many positions after `step` steps the model has written itself. */
  written(step) {
    return this.canvas(step).filter((cell) => cell.token !== undefined && cell.step > 0 && !cell.filled).length;
  }

  isEnd(token) { return (this.start?.ends ?? END_TOKENS).includes(token); }

  /** A token as people read it. */
  shown(token) { return this.isEnd(token) ? "end" : visible(token); }

  /** How many end-of-text tokens close the canvas; 0 unless there are at least two to fold. */
  tail(cells) {
    let count = 0;
    while (count < cells.length && this.isEnd(cells[cells.length - 1 - count].token)) count += 1;
    return count >= 2 ? count : 0;
  }

  /** The canvas after `step` steps in one line of text, for people who do not see it. */
  text(step) {
    const cells = this.canvas(step);
    const tail = this.tail(cells);
    const body = cells.slice(0, cells.length - tail).map((cell) => (cell.token === undefined ? "_" : this.shown(cell.token)));
    return body.join(" ") + (tail ? ` end x ${tail}` : "");
  }
}

/**
 * Events for a completion stored with its trace.
 * stored: {prompt, length?, trace: [[step, position, token, confidence], ...], completion?, reward?, reason?, promptTokens?}
 */
export function eventsOfStored(stored) {
  const rows = stored.trace ?? [];
  const steps = rows.reduce((most, [step]) => Math.max(most, step), 0);
  const length = stored.length ?? rows.reduce((most, row) => Math.max(most, row[1] + 1), 0);
  const prompt_tokens = stored.promptTokens ?? [...(stored.prompt ?? "")];
  const events = [{ kind: "start", prompt: stored.prompt, prompt_tokens, length, steps }];
  for (let step = 1; step <= steps; step += 1) {
    const commits = rows.filter((row) => row[0] === step).map(([, position, token, p]) => [position, token, p]);
    events.push({ kind: "step", step, commits, ghosts: [] });
  }
  // step 0: an ended completion was filled up there, after its last step and not by the model
  const filled = rows.filter(([step]) => step === 0).map(([, position, token]) => [position, token]);
  if (filled.length && steps) events[events.length - 1].filled = filled;
  const verdict = stored.reward === undefined || stored.reward === null
    ? null : { reward: stored.reward, reason: stored.reason ?? "" };
  events.push({ kind: "end", text: stored.completion ?? null, verdict });
  return events;
}

/** A token as it can be seen: blanks and line ends get a sign. */
export function visible(token) {
  return token.replaceAll(" ", "\u2423").replaceAll("\n", "\u23ce").replaceAll("\t", "\u21e5") || "\u2205";
}

/**
 * What an answer took: {seconds, tokens, perSecond, passes, perPass, firstChange}; null for what is not known. Tokens are
 * those that were written up to the end of the text; what stood from the start does not count.
 */
export function figures(trace) {
  const { end, seconds, last } = trace;
  const took = end?.seconds ?? seconds[last] ?? null;
  const standing = [...trace.locked.keys()].filter((position) => position < end?.tokens).length;
  const tokens = Number.isFinite(end?.tokens) ? end.tokens - standing : null;
  const passes = end?.nfe || null;
  const first = trace.commits.findIndex((commits) => commits.length > 0);
  return {
    seconds: took, tokens, passes,
    perSecond: tokens !== null && took > 0 ? tokens / took : null,
    perPass: tokens !== null && passes ? tokens / passes : null,
    firstChange: first > 0 ? seconds[first] ?? null : null,
  };
}

/** A rate with three figures: 97.6, 0.5, 1234. */
export function rate(value) {
  return String(value >= 100 ? Math.round(value) : Number(value.toPrecision(3)));
}

/** "4 ms", "1.3 s", "2 min 5 s". */
export function duration(seconds) {
  if (seconds < 0.9995) return `${Math.max(1, Math.round(seconds * 1000))} ms`;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
}

/** "1 pass", "3 passes". */
export function plural(count, one, many = `${one}s`) {
  return `${count} ${count === 1 ? one : many}`;
}

/** 0.973 -> "97 %"; never "100 %" or "0 %" for what only rounds to it. */
export function percent(share) {
  if (share === null || share === undefined || Number.isNaN(share)) return "unknown";
  if (share > 0.995 && share < 1) return "> 99 %";
  if (share < 0.005 && share > 0) return "< 1 %";
  return `${Math.round(share * 100)} %`;
}
