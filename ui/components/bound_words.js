// What the bound's figures mean, in sentences. Pure functions over curves {step, value}.

const ZERO = 1e-6; // rewards; what float32 passes in another order may leave of a gap that is zero in theory
const NEWEST = 10; // steps that "now" is the average of

// read(metric): the curve or null. updates: updates_per_rollout of the run.
// over: whether the run has ended.
// Returns { tone: good | warn | bad | "", title, sentences }.
export function verdict(read, updates, over = false) {
  const gap = read("bound/gap"), after = read("bound/gap_after");
  if (!gap?.step.length && !after?.step.length) return { tone: "", title: "Nothing measured yet", sentences: [over ? "The run ended before its first training step." : "The bound is measured at every training step; the first comes after the warm start."] };
  if (!gap?.step.length) return { tone: "", title: "Measured after the update only", sentences: ["This objective's own passes estimate no ELBO, so bound and objective are compared on extra mask draws once the weights have moved.", ...afterWords(read)] };
  return updates === 1 ? onPolicy(gap, read) : offPolicy(gap, read, updates);
}

function onPolicy(gap, read) {
  const wrong = gap.value.map((value, i) => i).filter((i) => gap.value[i] === null || Math.abs(gap.value[i]) > ZERO);
  if (wrong.length) {
    const at = wrong[0], size = gap.value[at] === null ? "not a finite number" : words(gap.value[at]);
    return { tone: "bad", title: "The gap is not zero, and on-policy it must be", sentences: [
      `At step ${gap.step[at]} the objective and its bound differ by ${size}${wrong.length > 1 ? `, and at ${wrong.length - 1} other ${wrong.length === 2 ? "step" : "steps"}` : ""}. With one update per batch both are the same function at the same weights.`,
      "Either the rollouts were not scored by the policy that wrote them, or the trainer computes one of the two wrongly. Do not trust this run.",
    ] };
  }
  const n = gap.step.length;
  return { tone: "good", title: "On-policy, the gap is zero at every update: the trainer is right", sentences: [
    `Checked at ${n === 1 ? "the one update" : `all ${n} updates`} so far: bound and ELBO objective agree to ${words(ZERO)}, as they must where the policy that is updated also wrote the rollouts.`,
    ...afterWords(read),
  ] };
}

function offPolicy(gap, read, updates) {
  const objective = read("bound/elbo_objective"), error = read("bound/gap_se");
  const lost = newest(gap), gained = newest(objective), negative = newest(read("bound/gap_negative"));
  const below = gap.value.filter((value) => value !== null && value < -ZERO).length;
  if (below) return { tone: "bad", title: "The bound lies above its objective", sentences: [`At ${below} of ${gap.step.length} steps the gap is negative, which no lower bound allows. Do not trust this run.`] };
  const stale = `With ${updates} updates per batch, the last one of each step works on rollouts of an older policy`;
  if (lost === null || gained === null) return { tone: "", title: "Off-policy", sentences: [`${stale}.`] };
  if (gained <= ZERO) return { tone: "warn", title: "The rollouts are stale and the updates gain nothing on them", sentences: [`${stale}; over the newest ${Math.min(NEWEST, gap.step.length)} steps the objective on these rollouts has not risen (${words(gained)}), while the gap is ${words(lost)}.`, ...afterWords(read)] };
  const share = lost / gained, range = newest(error);
  const give = `${percent(share)}${range ? ` (± ${percent(range / gained)})` : ""}`;
  const which = negative !== null && lost > ZERO ? ` ${percent(Math.max(0, Math.min(1, negative / lost)))} of that comes from bad completions (A < 0), where the gap follows the spread of the log ratios.` : "";
  const tone = share < 0.25 ? "good" : share < 0.6 ? "warn" : "bad";
  const title = tone === "good" ? `Off-policy, the bound gives away ${percent(share)} of what the updates gain` : `The rollouts are stale: the bound gives away ${percent(share)} of what the updates gain`;
  const advice = tone === "good" ? [] : ["Fewer updates_per_rollout, a lower learning_rate or more mc_samples bring the policy and its rollouts together again."];
  return { tone, title, sentences: [`${stale}: averaged over the newest ${Math.min(NEWEST, gap.step.length)} steps the bound does not see ${give} of the objective's gain.${which}`, ...advice, ...afterWords(read)] };
}

// How far one whole step moves the policy away from its rollouts.
function afterWords(read) {
  const gap = newest(read("bound/gap_after")), gain = newest(read("bound/elbo_objective_after"));
  const moved = newest(read("log_ratio/mean_abs_after")), sample = newest(read("ratio/ess_after"));
  if (gap === null || gain === null) return [];
  const lost = gain > ZERO ? `, and the bound would miss ${percent(gap / gain)} of the gain if the same rollouts were used again` : "";
  const far = moved === null ? "" : `One step now moves the policy by ${words(moved)} nats a draw${sample === null ? "" : ` (effective sample size ${percent(sample)})`}`;
  return [far ? `${far}${lost}.` : ""].filter(Boolean);
}

// The mean of the newest values, or null.
export function newest(series, count = NEWEST) {
  const known = (series?.value || []).filter((value) => value !== null).slice(-count);
  return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
}

function words(value) { return Number(value.toPrecision(2)).toString(); }
function percent(share) { const value = 100 * share; return `${value !== 0 && Math.abs(value) < 10 ? value.toFixed(1).replace(/\.0$/, "") : value.toFixed(0)} %`; }
