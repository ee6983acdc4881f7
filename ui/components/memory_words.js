// Memory held for backward against the number of mask draws, in figures and words. Pure functions.
//
// facts: { base, own, shared, rest, room: { name, kind, mb } }, see ui/memory_view.py.

export const MOST_DRAWS = 1024;

export function bgpo(facts, draws) { return (facts.own ?? facts.base) * Math.min(draws, facts.shared); }
export function plain(facts, draws) { return facts.base * draws; }

// MB that are left for what is held once weights, optimiser and the process itself have theirs.
export function limit(facts) { return Math.max(0, facts.room.mb - facts.rest); }

// The most draws that the plain objective has room for; at least 0.
export function mostPlain(facts) { return facts.base > 0 ? Math.floor(limit(facts) / facts.base) : 0; }

// Places of a line on an axis of draws: every power of two and the quarters between.
export function places() {
  const found = new Set();
  for (let power = 0; power <= Math.log2(MOST_DRAWS); power += 0.25) found.add(Math.round(2 ** power));
  return [...found];
}

export function size(mb) {
  if (mb === null || mb === undefined) return "–";
  if (mb >= 1e6) return `${Number((mb / 1e6).toPrecision(3))} TB`;
  if (mb >= 1000) return `${Number((mb / 1000).toPrecision(3))} GB`;
  return `${mb >= 10 ? Math.round(mb) : Number(mb.toPrecision(2))} MB`;
}

export function times(value) { return value >= 10 ? Math.round(value) : Number(value.toPrecision(2)); }

export function sentence(facts, draws) {
  if (!facts.base) return "Nothing is measured yet: the first training step, or the measurement below, fills this in.";
  const ours = bgpo(facts, draws), theirs = plain(facts, draws), most = mostPlain(facts);
  const room = facts.room.kind === "cuda" ? `the ${size(facts.room.mb)} of ${facts.room.name}` : `the ${size(facts.room.mb)} of this machine`;
  const less = theirs > ours * 1.05 ? `, ${times(theirs / ours)} times as much as BGPO's ${size(ours)}` : ", no more than BGPO";
  const first = `With ${draws} ${draws === 1 ? "draw" : "draws"} the plain objective holds ${size(theirs)}${less}.`;
  if (theirs > limit(facts)) return `${first} That does not fit ${room}; it would end at ${most} ${most === 1 ? "draw" : "draws"}.`;
  return `${first} Both fit ${room}; the plain one would up to ${most > 99999 ? "about " : ""}${most.toLocaleString("en")} draws.`;
}
