// Whether a file holds a trace that the stage can show: everything that it reads is of its kind, in its range and not more
// than a browser draws in a moment. No DOM here.

const MOST_POSITIONS = 4096, MOST_STEPS = 4096;
const MOST_PROMPT = 20_000; // tokens
const MOST_WRITES = 65_536; // of all positions together, those written over included

export function isTrace(events) {
  if (!Array.isArray(events) || !events.every(isObject)) return false;
  const [start, ...rest] = events, steps = rest.filter((event) => event.kind === "step");
  if (start?.kind !== "start" || !isStart(start) || steps.length > MOST_STEPS) return false;
  let writes = 0;
  const whole = steps.every((step, place) => {
    writes += Array.isArray(step.commits) ? step.commits.length : 0;
    return step.step === place + 1 && isStep(step, start.length);
  });
  return whole && writes <= MOST_WRITES && rest.filter((event) => event.kind !== "step").every(isEnd);
}

function isStart({ length, steps = 0, block_length = 0, prompt, prompt_tokens, locked, ends, turns = 0 }) {
  return count(length, MOST_POSITIONS) && length > 0 && count(steps, MOST_STEPS) && count(block_length ?? 0, MOST_POSITIONS) && text(prompt)
    && texts(prompt_tokens) && (prompt_tokens?.length ?? 0) <= MOST_PROMPT && placed(locked, length) && texts(ends) && count(turns, 1e6);
}

function isStep({ commits, ghosts, filled, seconds, details }, length) {
  return Array.isArray(commits) && placed(commits, length) && placed(ghosts, length) && placed(filled, length) && number(seconds)
    && (missing(details) || (isObject(details) && Object.values(details).every(isDetail)));
}

function isDetail(detail) {
  return isObject(detail) && Number.isFinite(detail.entropy) && Array.isArray(detail.others)
    && detail.others.every((item) => Array.isArray(item) && typeof item[0] === "string" && number(item[1]));
}

function isEnd({ tokens, nfe, seconds, text: written, message, unjudged, verdict }) {
  return [tokens, nfe, seconds].every(number) && [written, message, unjudged].every(text) && (missing(verdict) || isVerdict(verdict));
}

function isVerdict(verdict) {
  const { reward, reason, parts } = verdict;
  return isObject(verdict) && Number.isFinite(reward) && text(reason)
    && (missing(parts) || (Array.isArray(parts) && parts.every((item) => Array.isArray(item) && typeof item[0] === "string" && Number.isFinite(item[1]))));
}

// [[position, token, probability or id], ...]
function placed(items, length) {
  return missing(items) || (Array.isArray(items) && items.every((item) => Array.isArray(item) && count(item[0], length - 1) && typeof item[1] === "string" && number(item[2])));
}

function isObject(value) { return typeof value === "object" && value !== null && !Array.isArray(value); }
function missing(value) { return value === undefined || value === null; }
function number(value) { return missing(value) || Number.isFinite(value); }
function text(value) { return missing(value) || typeof value === "string"; }
function texts(value) { return missing(value) || (Array.isArray(value) && value.every((item) => typeof item === "string")); }
function count(value, most) { return Number.isInteger(value) && value >= 0 && value <= most; }
