"""Health rules: what a run's metrics say when it goes wrong, in words. Torch-free and pure.

A rule looks at the last steps and returns two sentences, or nothing. `Health` turns that into alerts: one when a
condition begins, and no second one before it has been gone for a while. Training is never stopped by a rule, and a
metric that a run does not log silences its rules. Everything is judged over windows: one step says little.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median

from bgpo.config import TrainConfig

WARNING, SERIOUS = "warning", "serious"  # worth a look; the run is not learning, or its numbers are wrong

WINDOW = 8  # steps: the step noise of a mean reward shrinks to about a third, and a collapse shows within minutes
WIDTHS = (8, 16, 32)  # steps: a fall is looked for in short windows, for crashes, and in longer ones, for slow decay
MEMORY = 64  # steps kept of each metric: enough for the longest window, the same for every length of run
CLEAR_STEPS = 20  # steps without the condition before it may be raised again: longer than a window, so no flicker

KEPT = 0.7  # a reward below this share of its best has fallen: in healthy runs evaluations dip by a tenth or two
SURE_FALL = 0.75  # standard errors beyond 2 sqrt(ln steps), which lie between best and worst by luck alone
SURE_CHANGE = 2.0  # standard errors: enough where it only adds to a second sign
SHRUNK = 0.5  # completions half as long as at the start: an answer learns to be brief by less than that
MOSTLY_RIGHT = 0.8  # share of right answers: from here on agreement within groups is success, not collapse
ALL_RIGHT = 0.99  # from here on nothing is left to learn
ESS_LOW = 0.5  # below half of the completions the importance weights, not the rewards, say what is learnt
LOG_RATIO_LARGE = math.log(2)  # one update doubles or halves a probability; healthy runs stay below a tenth of it
ONCE_LEARNT = 0.1  # a step with that much reward shows that the run knew something before it lost it
DEAD_STEPS = 10  # steps, and
DEAD_GROUPS = 64  # groups in a row without signal: few groups per step are often all alike by chance
NEAR_ONE_ANSWER = 0.05  # how far the distinct share may be above 1/G, of the way to 1
ENTROPY_LOW = 0.01  # nats: the model is 99.9 % sure of each token, so sampling finds nothing new
CLIP_WINDOW = 50  # steps
CLIPPED_SHARE = 0.9  # clipping in that many steps makes the clip, not the gradient, set the length of a step;
FAR_ABOVE_CLIP = 10.0  # yet the presets clip every step at about 3 times the clip and learn, so only beyond this
EXPLODED = 10.0  # times the usual gradient norm; a run that learns fast gets there too, so the reward must suffer
EXPLODED_STEPS = 3  # a single odd batch is no explosion
USUAL_STEPS = 16  # steps before them that say what is usual
ROUNDING = 1e-6  # gaps are summed in float64, which leaves 1e-12; anything above this is no rounding


@dataclass(frozen=True)
class Alert:
    """A condition that began at `step`. `message`: what was seen, with numbers, and what to do."""

    name: str
    severity: str  # warning or serious
    step: int
    message: str


class _Series:
    """The newest values of one metric, and the mean of its first window."""

    def __init__(self) -> None:
        self.recent: deque[float] = deque(maxlen=MEMORY)
        self.first: list[float] = []
        self.step = -1

    def add(self, step: int, value: float) -> None:
        self.step = step
        self.recent.append(value)
        if len(self.first) < WINDOW:
            self.first.append(value)


@dataclass(frozen=True)
class _Best:
    """The best window of rewards so far and the live groups of the same window, which ends at `step`."""

    reward: float
    live: float | None
    step: int


@dataclass(frozen=True)
class _Fall:
    """The last `width` steps against the best as many steps before."""

    width: int
    reward: float
    live: float | None
    best: _Best

    @property
    def live_too(self) -> bool:
        """Whether fewer groups carry a signal than when the reward was best."""
        return None not in (self.live, self.best.live) and self.live < KEPT * self.best.live


class History:
    """What the rules look at: windows over the watched metrics. Its size does not depend on the run's length."""

    def __init__(self, config: TrainConfig):
        self.config = config
        self.step = 0
        self.best: dict[int, _Best] = {}  # by width of the window
        self.highest = 0.0  # mean reward of any single step
        self._squares, self._pairs = 0.0, 0  # of the change of the reward from a step to the next
        self._series: dict[str, _Series] = {}

    def add(self, step: int, values: Mapping[str, float]) -> None:
        self.step = step
        for name, value in values.items():
            if math.isfinite(value):
                self._series.setdefault(name, _Series()).add(step, value)
        self.highest = max([self.highest, *self.last("reward/mean", 1)])
        for left, right in pairwise(self.last("reward/mean", 2)):
            self._squares += (right - left) ** 2
            self._pairs += 1
        for width in WIDTHS:
            reward = self.mean("reward/mean", width)
            if reward is not None and (width not in self.best or reward > self.best[width].reward):
                self.best[width] = _Best(reward, self.mean("groups/live_fraction", width), step)

    def last(self, name: str, count: int = WINDOW) -> list[float]:
        """The newest `count` values; empty while there are fewer, and when this step has none."""
        series = self._series.get(name)
        if series is None or series.step != self.step or len(series.recent) < count:
            return []
        return list(series.recent)[-count:]

    def seen(self, name: str) -> list[float]:
        """All values that are kept; empty when this step has none."""
        series = self._series.get(name)
        return list(series.recent) if series and series.step == self.step else []

    def mean(self, name: str, width: int = WINDOW) -> float | None:
        values = self.last(name, width)
        return fmean(values) if values else None

    def right(self, width: int = WINDOW) -> float | None:
        """The share of right answers, whatever the reward pays; the mean reward of steps that have not logged it."""
        solved = self.mean("reward/solved", width)
        return self.mean("reward/mean", width) if solved is None else solved

    def middle(self, name: str) -> float | None:
        """The median of the window: a single odd step does not move it."""
        values = self.last(name)
        return median(values) if values else None

    def start(self, name: str) -> float | None:
        """The mean of the first window."""
        series = self._series.get(name)
        return fmean(series.first) if series and len(series.first) == WINDOW else None

    def error(self, width: int = WINDOW) -> float:
        """Standard error of a difference of two windows' mean rewards.

        From step to step, so that a trend is none; over the whole run, so that neither a lucky nor a quiet stretch
        makes it too small.
        """
        return math.sqrt(self._squares / self._pairs / 2 * 2 / width) if self._pairs else 0.0

    def risen(self) -> bool:
        """Whether the reward is above that of the start by more than noise."""
        start, now = self.start("reward/mean"), self.mean("reward/mean")
        return None not in (start, now) and now - start > SURE_CHANGE * self.error()

    def below_best(self) -> bool:
        """Whether the reward is below its best by more than noise: a second sign, not one of its own."""
        now, best = self.mean("reward/mean"), self.best.get(WINDOW)
        return None not in (now, best) and best.reward - now > SURE_CHANGE * self.error()

    def fall(self) -> _Fall | None:
        """The reward's fall from its best, if it is a good part of it and beyond all luck."""
        for width in WIDTHS:
            now, best = self.mean("reward/mean", width), self.best.get(width)
            if None in (now, best) or now >= KEPT * best.reward:
                continue
            if best.reward - now > (2 * math.sqrt(math.log(self.step)) + SURE_FALL) * self.error(width):
                return _Fall(width, now, self.mean("groups/live_fraction", width), best)
        return None


def _collapse(h: History) -> str | None:
    fall = h.fall()
    if fall is None or not fall.live_too:
        return None
    return (
        f"Over the last {fall.width} steps the mean reward was {fall.reward:.2f} and {fall.live:.0%} of groups were "
        f"live, down from {fall.best.reward:.2f} and {fall.best.live:.0%} around step {fall.best.step}. Stop the run "
        "and start again with a lower learning_rate; its checkpoints from before are kept."
    )


def _reward_falling(h: History) -> str | None:
    fall = h.fall()
    if fall is None or fall.live_too:  # together they are a collapse, which says more
        return None
    return (
        f"Over the last {fall.width} steps the mean reward was {fall.reward:.2f}, down from {fall.best.reward:.2f} "
        f"around step {fall.best.step}. If it does not come back, start again with a lower learning_rate."
    )


def _shrinking(h: History) -> str | None:
    start, now = h.start("completion/tokens"), h.mean("completion/tokens")
    if start is None or now is None or now >= SHRUNK * start or h.risen():
        return None
    return (
        f"Completions shrank from {start:.1f} to {now:.1f} tokens while the reward did not rise. Read the held-out "
        "samples: if answers are cut off, lower learning_rate or check that the reward does not favour short ones."
    )


def _policy_drift(h: History) -> str | None:
    ess = h.middle("ratio/ess_after")
    if ess is not None and ess < ESS_LOW:
        seen = f"After an update the effective sample size was {ess:.0%} of the completions"
    else:
        ends = [h.middle(f"log_ratio/{name}_after") for name in ("p05", "p95")]
        far = max((end for end in ends if end is not None), key=abs, default=0.0)
        if abs(far) <= LOG_RATIO_LARGE:
            return None
        seen = f"After an update one completion in twenty had a log ratio beyond {far:.2f} nats"
    many = "updates_per_rollout or " if h.config.updates_per_rollout > 1 else ""
    return f"{seen} (median of {WINDOW} steps). The policy moves too far at once: lower {many}learning_rate."


def _no_signal(h: History) -> str | None:
    count = min(MEMORY, max(DEAD_STEPS, math.ceil(DEAD_GROUPS / h.config.prompts_per_step)))
    live, rewards = h.last("groups/live_fraction", count), h.last("reward/mean", count)
    if not live or not rewards or any(live) or h.right(count) >= ALL_RIGHT:
        return None
    reward = fmean(rewards)
    if reward > 0:
        way_out = "raise temperature or group_size, so that completions of a problem differ"
    elif h.highest > ONCE_LEARNT:
        way_out = f"start again with a lower learning_rate: it once had {h.highest:.2f}"
    else:
        way_out = "give the warm start more warmup_steps or a higher correct_fraction"
    return (
        f"For {count} steps no group had rewards that differ, at a mean reward of {reward:.2f}, so nothing was learnt. "
        f"Stop the run and {way_out}."
    )


def _same_answers(h: History) -> str | None:
    reward, distinct = h.mean("reward/mean"), h.mean("groups/distinct_fraction")
    G = h.config.group_size
    if reward is None or distinct is None or G == 1 or h.right() >= MOSTLY_RIGHT:
        return None
    if distinct > 1 / G + NEAR_ONE_ANSWER * (1 - 1 / G):
        return None
    return (
        f"Only {distinct * G:.1f} of {G} completions of a problem were distinct, at a mean reward of {reward:.2f}. "
        "The policy has stopped exploring: raise temperature, or start again with a lower learning_rate."
    )


def _trainer_wrong(h: History) -> str | None:
    report = "The trainer computes something wrong: do not trust this run, and report it with its config."
    after = h.last("bound/gap_after", 1)
    if after and after[0] < -ROUNDING:
        return f"After the update the bound was {-after[0]:.2g} above the objective, which cannot be. {report}"
    gap = h.last("bound/gap", 1)
    if gap and h.config.updates_per_rollout == 1 and abs(gap[0]) > ROUNDING:
        return f"At an on-policy update the gap was {gap[0]:.2g} instead of 0. {report}"
    return None


def _no_entropy(h: History) -> str | None:
    reward, entropy = h.mean("reward/mean"), h.mean("policy/entropy")
    if reward is None or entropy is None or entropy >= ENTROPY_LOW or h.right() >= MOSTLY_RIGHT:
        return None
    return (
        f"The policy's entropy fell to {entropy:.2g} nats at a mean reward of {reward:.2f}: it is sure of answers that "
        "are often wrong. Raise temperature, or start again with a lower learning_rate."
    )


def _always_clipped(h: History) -> str | None:
    norms, clip = h.last("grad/norm", CLIP_WINDOW), h.config.max_grad_norm
    clipped = sum(norm > clip for norm in norms)
    if clipped <= CLIPPED_SHARE * CLIP_WINDOW or median(norms) <= FAR_ABOVE_CLIP * clip or h.risen():
        return None
    return (
        f"The gradient was clipped in {clipped} of {CLIP_WINDOW} steps, its norm mostly {median(norms):.2g} where "
        f"max_grad_norm is {clip:g}, and the reward has not risen. Raise max_grad_norm, or use more prompts_per_step "
        "or mc_samples for a steadier gradient."
    )


def _exploding(h: History) -> str | None:
    norms = [norm for norm in h.seen("grad/norm") if norm > 0]  # 0: a step without a live completion
    before, now = norms[:-EXPLODED_STEPS], norms[-EXPLODED_STEPS:]
    if len(before) < USUAL_STEPS or median(now) <= EXPLODED * median(before) or not h.below_best():
        return None
    return (
        f"The gradient norm jumped to {median(now):.2g}, where {median(before):.2g} was usual, and the mean reward is "
        f"down to {h.mean('reward/mean'):.2f} from {h.best[WINDOW].reward:.2f}. Stop the run and start again with a "
        "lower learning_rate."
    )


@dataclass(frozen=True)
class Rule:
    """`check` returns the message while the condition holds."""

    name: str
    severity: str
    check: Callable[[History], str | None]


RULES = (
    Rule("collapse", SERIOUS, _collapse),
    Rule("reward_falling", WARNING, _reward_falling),
    Rule("shrinking_completions", WARNING, _shrinking),
    Rule("policy_drift", WARNING, _policy_drift),
    Rule("no_signal", SERIOUS, _no_signal),
    Rule("same_answers", WARNING, _same_answers),
    Rule("trainer_wrong", SERIOUS, _trainer_wrong),
    Rule("no_entropy", WARNING, _no_entropy),
    Rule("always_clipped", WARNING, _always_clipped),
    Rule("exploding_gradient", SERIOUS, _exploding),
)

# every metric that a rule reads
WATCHED = frozenset({
    "reward/mean", "reward/solved", "groups/live_fraction", "groups/distinct_fraction", "completion/tokens",
    "ratio/ess_after", "log_ratio/p05_after", "log_ratio/p95_after", "bound/gap", "bound/gap_after", "policy/entropy",
    "grad/norm",
})


class Health:
    """Watches one run. Give it every training step once; it raises each alert when its condition begins.

    The same metrics in the same order give the same alerts, so a resumed run goes on exactly where it was once it
    has observed the stored steps again.
    """

    def __init__(self, config: TrainConfig):
        self._history = History(config)
        self._clear: dict[str, int] = {}  # of each condition that has begun: steps since it was last seen

    def observe(self, step: int, values: Mapping[str, float]) -> list[Alert]:
        """What began with this step. `values` are all that training measured at it, by METRICS name.

        A step that was seen already, and values that no rule reads, change nothing: a resumed run repeats some
        steps, and evaluation and warm start count their own.
        """
        watched = {name: float(value) for name, value in values.items() if name in WATCHED and value is not None}
        if not watched or step <= self._history.step:
            return []
        self._history.add(step, watched)
        return [alert for rule in RULES if (alert := self._raised(rule, step))]

    def _raised(self, rule: Rule, step: int) -> Alert | None:
        message = rule.check(self._history)
        begun = rule.name in self._clear
        if message is not None:
            self._clear[rule.name] = 0
            return None if begun else Alert(rule.name, rule.severity, step, message)
        if begun:
            self._clear[rule.name] += 1
            if self._clear[rule.name] >= CLEAR_STEPS:
                del self._clear[rule.name]
        return None
