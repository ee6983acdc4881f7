"""Every metric that a run logs: its label, its unit and what it says, in one sentence.

The charts take their titles and tooltips from here. Torch-free. A run refuses to log a name that is
missing, so a number on a page always has its sentence.

What a run's evaluations measure at several completion lengths has the length behind its name: eval/pass_1/256.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from bgpo.tasks.base import PARTS


@dataclass(frozen=True)
class Metric:
    """One logged series. `unit` is empty for plain ratios and rewards."""

    name: str
    label: str
    unit: str
    help: str


# every held-out completion with its verdict, in a run's folder: a file per evaluation, and the job evaluate's one
EVALUATIONS, COMPLETIONS_FILE = "evaluations", "completions.jsonl"


def evaluation_file(step: int) -> str:
    """The name of an evaluation's file in EVALUATIONS."""
    return f"step-{step:06d}.jsonl"


def at_length(name: str, length: int) -> str:
    """The name under which a run logs a metric of evaluations at one completion length."""
    return f"{name}/{length}"


def explained(name: str) -> Metric | None:
    """The entry of a logged name, that of one completion length included; None when there is none."""
    if name in METRICS:
        return METRICS[name]
    found = _AT_LENGTH.fullmatch(name)
    metric = METRICS.get(found[1]) if found else None
    return metric and replace(metric, name=name, label=f"{metric.label}, {found[2]} tokens")


_AT_LENGTH = re.compile(r"(eval/\w+)/([1-9]\d{0,4})", re.ASCII)


def _table(*metrics: Metric) -> dict[str, Metric]:
    return {metric.name: metric for metric in metrics}


METRICS: dict[str, Metric] = _table(
    Metric("warmup/loss", "Warm-up loss", "nats/token", "Masked cross-entropy of the supervised warm start on its own careless demonstrations."),
    Metric("finetune/loss", "Training loss", "nats/token", "Masked cross-entropy on the examples of the step, answer and end tokens: the mean negative ELBO per token."),
    Metric("finetune/validation_loss", "Validation loss", "nats/token", "The same on examples kept back, always under the same masks. Where it rises while the training loss falls, the model learns the examples by heart."),
    Metric("finetune/validation_loss_se", "Validation loss, standard error", "nats/token", "One standard error of the validation loss over its examples."),
    Metric("reward/mean", "Train reward", "", "Mean reward of this step's rollouts on training problems."),
    Metric("reward/solved", "Right", "", "Share of this step's rollouts whose answer is right: what the task calls solved, whatever the reward pays for besides."),
    Metric("reward/pass_at_group", "Pass at G", "", "Share of groups in which at least one completion is right."),
    *(Metric(f"reward/part_{name}", f"Reward part: {label.lower()}", "", help) for name, (label, help) in PARTS.items()),
    Metric("reward/heldout_greedy", "Held-out, greedy", "", "Mean reward on held-out problems, decoded at temperature 0."),
    Metric("reward/heldout_greedy_se", "Held-out greedy, standard error", "", "One standard error of the greedy held-out reward."),
    Metric("reward/validation_greedy", "Validation, greedy", "", "Mean greedy reward on validation problems, on which the best checkpoint is chosen."),
    Metric("reward/validation_greedy_se", "Validation, standard error", "", "One standard error of the greedy validation reward."),
    Metric("reward/heldout_sampled", "Held-out, T = 1", "", "Mean reward on held-out problems, sampled at temperature 1."),
    Metric("reward/heldout_sampled_se", "Held-out T = 1, standard error", "", "One standard error of the sampled held-out reward."),
    Metric("bound/value", "BGPO bound", "reward", "The linear lower bound that BGPO maximises, averaged over completions, at the update."),
    Metric("bound/elbo_objective", "ELBO objective", "reward", "A times exp(mean log ratio), the objective that the bound bounds, at the update. On-policy both are the mean advantage."),
    Metric("bound/gap", "Gap", "reward", "ELBO objective minus bound at the update. On-policy it must be 0: a live check of the trainer."),
    Metric("bound/gap_positive", "Gap at the update, good completions", "reward", "The part of the gap at the last update of the step that comes from A > 0; 0 on-policy."),
    Metric("bound/gap_negative", "Gap at the update, bad completions", "reward", "The part of the gap at the last update of the step that comes from A < 0; 0 on-policy."),
    Metric("bound/gap_se", "Gap at the update, standard error", "reward", "Monte Carlo error of the gap at the last update: how far other mask draws of the same completions would move it (jackknife over the draws)."),
    Metric("bound/value_after_se", "BGPO bound after the update, standard error", "reward", "Monte Carlo error of the bound after the update (jackknife over the mask draws)."),
    Metric("bound/elbo_objective_after_se", "ELBO objective after the update, standard error", "reward", "Monte Carlo error of the ELBO objective after the update (jackknife over the mask draws)."),
    Metric("bound/gap_after_se", "Gap after the update, standard error", "reward", "Monte Carlo error of the gap after the update (jackknife over the mask draws)."),
    Metric("bound/gap_positive_after_se", "Gap, good completions, standard error", "reward", "Monte Carlo error of the gap's part from A > 0 after the update (jackknife over the mask draws)."),
    Metric("bound/gap_negative_after_se", "Gap, bad completions, standard error", "reward", "Monte Carlo error of the gap's part from A < 0 after the update (jackknife over the mask draws)."),
    Metric("bound/value_after", "BGPO bound after the update", "reward", "The bound measured again on some whole groups and the same masks, once the weights have moved: what the update has gained."),
    Metric("bound/elbo_objective_after", "ELBO objective after the update", "reward", "The ELBO objective measured again on some whole groups and the same masks, once the weights have moved."),
    Metric("bound/gap_after", "Gap after the update", "reward", "How far the bound falls below the objective after one update; never negative."),
    Metric("bound/gap_positive_after", "Gap, good completions", "reward", "The part of the gap after the update that comes from A > 0: about A delta^2 / 2, whatever the mask noise."),
    Metric("bound/gap_negative_after", "Gap, bad completions", "reward", "The part of the gap after the update that comes from A < 0: driven by the spread of the log ratios over the mask draws."),
    Metric("log_ratio/p05_after", "Log ratio, 5 % quantile", "nats", "One in twenty mask draws lost more log-likelihood than this through the update."),
    Metric("log_ratio/p95_after", "Log ratio, 95 % quantile", "nats", "One in twenty mask draws gained more log-likelihood than this through the update."),
    Metric("ratio/ess_after", "Effective sample size", "", "Share of completions that still count after the update: (sum of ratios)^2 / (n sum of squares); 1 when old and new policy agree."),
    Metric("ratio/clipped_fraction", "Clipped", "", "Share of scored tokens whose gradient the clip has set to 0 at the last update of the step."),
    Metric("kl/reference", "KL to the reference", "nats", "The estimate that kl_coefficient holds down, averaged over completions, at the first update of the step."),
    Metric("policy/entropy", "Entropy", "nats/token", "Mean surprise of the tokens that rollouts drew: an estimate of the policy's entropy where it decides."),
    Metric("log_ratio/mean_abs_after", "Policy movement", "nats", "Mean absolute log ratio per mask draw after the update."),
    Metric("elbo/mean", "ELBO", "nats", "Mean ELBO estimate of the step's completions, a lower bound on their log-likelihood."),
    Metric("elbo/spread", "ELBO spread", "nats", "Standard deviation of the ELBO over the mask draws of one completion, averaged: what mc_samples buys."),
    Metric("elbo/standard_error", "ELBO standard error", "nats", "ELBO spread divided by the square root of mc_samples: the noise left in the averaged estimate."),
    Metric("groups/live_fraction", "Live groups", "", "Share of groups whose rewards differ; only they carry a learning signal."),
    Metric("groups/distinct_fraction", "Distinct completions", "", "Share of distinct completions within a group, averaged."),
    Metric("groups/merged_fraction", "Merged completions", "", "Share of scored completions that were equal to another of their group and shared its passes."),
    Metric("completion/tokens_max", "Longest completion", "tokens", "Most tokens that one completion of the step wrote before the end token."),
    Metric("completion/tokens", "Completion length", "tokens", "Mean tokens written before the end token."),
    Metric("memory/saved_mb", "Held for backward", "MB", "Peak bytes of activations held for the backward pass, parameters not counted."),
    Metric("memory/rss_mb", "Process memory", "MB", "Resident memory of the training process."),
    Metric("memory/cuda_peak_mb", "GPU peak", "MB", "Peak memory allocated on the GPU since the run's process began."),
    Metric("memory/pass_tokens", "Tokens in a pass", "tokens", "Most tokens of one likelihood pass: the token budget. It is halved whenever memory runs out."),
    Metric("eval/pass_1", "pass@1", "", "Share of held-out completions that are right, at this completion length: what the task calls solved, whatever the reward pays for besides."),
    Metric("eval/pass_1_low", "pass@1, low end", "", "Low end of the 95 % interval of pass@1."),
    Metric("eval/pass_1_high", "pass@1, high end", "", "High end of the 95 % interval of pass@1."),
    Metric("eval/pass_k", "pass@k", "", "Unbiased estimate of the share of problems that eval_samples tries solve."),
    Metric("eval/tokens", "Tokens", "tokens", "Tokens written per completion, up to and including the end token."),
    Metric("eval/nfe", "Forward passes", "passes", "Forward passes per completion."),
    Metric("probe/bgpo_saved_mb", "BGPO, held for backward", "MB", "What one update of BGPO holds for backward, at this number of mask draws, measured for real."),
    Metric("probe/bgpo_rss_mb", "BGPO, process memory", "MB", "How far one update of BGPO raises the resident memory of the process."),
    Metric("probe/bgpo_cuda_mb", "BGPO, GPU peak", "MB", "Peak memory allocated on the GPU during one update of BGPO, weights and optimiser included."),
    Metric("probe/bgpo_s", "BGPO, seconds", "s", "Seconds of one update of BGPO at this number of mask draws."),
    Metric("probe/elbo_saved_mb", "Plain objective, held for backward", "MB", "What one update of the plain ELBO objective holds for backward, at this number of mask draws, measured for real."),
    Metric("probe/elbo_rss_mb", "Plain objective, process memory", "MB", "How far one update of the plain ELBO objective raises the resident memory of the process."),
    Metric("probe/elbo_cuda_mb", "Plain objective, GPU peak", "MB", "Peak memory allocated on the GPU during one update of the plain ELBO objective, weights and optimiser included."),
    Metric("probe/elbo_s", "Plain objective, seconds", "s", "Seconds of one update of the plain ELBO objective at this number of mask draws."),
    Metric("time/rollout_s", "Rollout", "s", "Seconds of this step spent on generating completions."),
    Metric("time/likelihood_s", "Likelihood", "s", "Seconds of this step spent on ELBO estimates, backward passes and the optimiser."),
    Metric("time/evaluation_s", "Evaluation", "s", "Seconds spent on the held-out evaluation at this step."),
    Metric("rollout/nfe", "Forward passes per completion", "passes", "Model forward calls spent on one rollout completion."),
    Metric("progress/tokens", "Tokens written", "tokens", "Tokens that the rollouts of all steps so far have written, end tokens included."),
    Metric("progress/compute", "Compute", "tokens", "Tokens forwarded by training so far, those of backward passes three times; the passes of bound_probe count, warm start and evaluations do not."),
    Metric("grad/norm", "Gradient norm", "", "Norm of the gradient before clipping."),
    Metric("grad/noise_fraction", "Gradient noise", "", "Share of the squared gradient that does not persist from step to step, from its product with AdamW's average of the earlier ones: 1 is all noise. More mask draws or completions lower it."),
    Metric("lr", "Learning rate", "", "AdamW's learning rate at this step."),
)
