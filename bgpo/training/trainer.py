"""The loop: warm start, then collect, accumulate over mask draws, step, report.

It reports to a `Listener` and does not know who listens. Stopping is cooperative: the listener is asked
between denoising steps and between likelihood passes, and a step that is left early changes nothing, so a
resumed run goes on exactly where an uninterrupted one would be.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

import torch

from bgpo.algorithm.elbo import Pairs, token_logprob
from bgpo.config import TrainConfig, prompt_room
from bgpo.models.checkpoints import (
    TrainingState,
    discard_half_written,
    load_model,
    load_optimizer,
    load_state,
    newest,
    save_checkpoint,
)
from bgpo.models.denoiser import Denoiser
from bgpo.models.registry import MODELS
from bgpo.tasks.base import Task, with_prompt_length
from bgpo.tasks.listed import ListedTask
from bgpo.training import warmup
from bgpo.training.evaluation import evaluate, held_out_problems, validation_problems, validation_reward
from bgpo.training.likelihood import Passes, head_of
from bgpo.training.listener import Listener, Outcome, StopRequested
from bgpo.training.machine import choose_device, largest_token_budget, memory_metrics, threads_for
from bgpo.training.metrics import EVALUATIONS, evaluation_file
from bgpo.training.optimizer import policy_optimizer, set_learning_rate
from bgpo.training.plugins import judge_of, keep_copies, objective_of, task_of
from bgpo.training.policy import fresh_policy, reference_policy, resumed, trainable
from bgpo.training.rollouts import collect, kept_rollouts
from bgpo.training.scores import keep
from bgpo.training.spending import Spending
from bgpo.training.update import Updater

_WARMUP_POINT_EVERY = 10
_log = logging.getLogger(__name__)


def run(config: TrainConfig, folder: Path, listener: Listener, warm_start_cache: Path) -> Outcome:
    """Trains `config` in `folder`, going on from the newest whole checkpoint there.

    Raises:
        ValueError: when the config asks for something this machine or task does not have, or names a file that
            holds no objective or reward.
        ArithmeticError: when the gradient stops being finite; the weights are not updated with it.
    """
    return _Run(config, folder, listener, warm_start_cache).run()


class _Run:
    """One run in this process: the model, the optimiser, the clock."""

    def __init__(self, config: TrainConfig, folder: Path, listener: Listener, warm_start_cache: Path):
        self.config = config
        self.folder = folder
        self.checkpoints = folder / "checkpoints"
        self.listener = listener
        self.cache = warm_start_cache
        keep_copies(config, folder)
        self.task: Task = with_prompt_length(task_of(config, folder), prompt_room(config))
        self.objective = objective_of(config, folder)
        self.judge = judge_of(config, folder)
        self.device = choose_device(config.device)
        self.held_out = held_out_problems(self.task, config)
        self.validation = validation_problems(self.task, config)
        self.step = 0
        self.token_budget = config.token_budget
        self.spending = Spending()
        self._seconds_before = 0.0
        self._clock = time.monotonic()

    def run(self) -> Outcome:
        self.listener.phase("starting", 0, 1)
        discard_half_written(self.checkpoints)
        found = newest(self.checkpoints)
        state = load_state(found) if found else None
        if state:
            self._seconds_before = state.seconds
        try:
            if state and state.phase == "training":
                self._resume(found, state)
            else:
                self._begin(found, state)
            self._train()
        except StopRequested:
            return Outcome("stopped", self.step)
        return Outcome("finished", self.step)

    # ---- where the weights come from

    def _begin(self, found: Path | None, state: TrainingState | None) -> None:
        from_elsewhere = self.config.start_from or not (self._built_in or self.config.warmup_steps)
        if from_elsewhere:
            model = fresh_policy(self.config, self.device, self._report_download)
            self.threads = self._choose_threads(model)
        else:
            model = self._warm_start(found, state)
        self.model = trainable(model, self.config, self.folder)
        self.optimizer, self.masters = policy_optimizer(self.model.model, self.config)

    def _warm_start(self, found: Path | None, state: TrainingState | None) -> Denoiser:
        # a published model is too large to keep a copy of for every warm start
        stored = warmup.cached(self.config, self.cache, self.device) if self._built_in and not found else None
        if stored is None:
            return self._supervise(found, state)
        # runs that share a warm start share its thread count: they add up in the same order, so equal seeds
        # give equal curves
        model, made = stored
        self.threads = self.config.threads or made.threads
        torch.set_num_threads(self.threads)
        self.listener.phase("warming_up", self.config.warmup_steps, self.config.warmup_steps)
        return model

    def _supervise(self, found: Path | None, state: TrainingState | None) -> Denoiser:
        config = self.config
        model = (
            load_model(found, self.device) if found else fresh_policy(config, self.device, self._report_download)
        )
        self.threads = state.threads if state else self._choose_threads(model)
        torch.set_num_threads(self.threads)
        optimizer = warmup.warmup_optimizer(model, config)
        if found:
            load_optimizer(found, model, optimizer)
        first = state.step if state else 0
        model.model.train()
        losses: list[float] = []

        def report(done: int, loss: float) -> None:
            losses.append(loss)
            self.listener.phase("warming_up", done, config.warmup_steps)
            if done % _WARMUP_POINT_EVERY == 0 or done == config.warmup_steps:
                self.listener.metrics(done, {"warmup/loss": sum(losses) / len(losses)})
                losses.clear()
            if self.listener.should_stop():
                folder = self.checkpoints / f"warm-up-{done:06d}"
                self.listener.keep()
                save_checkpoint(folder, model, self._state("warming_up", done), optimizer)
                raise StopRequested

        self.listener.phase("warming_up", first, config.warmup_steps)
        model.source = None
        if first < config.warmup_steps:
            warmup.warm_up(model, optimizer, warmup.demonstrations(model, self.task, config), config, first, report)
        if self._built_in:
            warmup.store(config, self.cache, model, self._state("warming_up", config.warmup_steps))
        return model

    @property
    def _built_in(self) -> bool:
        return MODELS[self.config.model].built_in

    def _report_download(self, done: int, total: int) -> None:
        self.listener.phase("downloading", done // 10**6, total // 10**6)
        self._check()

    def _choose_threads(self, model: Denoiser) -> int:
        width = self.task.prompt_length + self.config.completion_length
        ids = torch.full((self.config.warmup_batch, width), model.mask_id, device=self.device)
        threads = self.config.threads or threads_for(
            self.device, lambda: model.logits(model.hidden(ids)).sum().backward()
        )
        model.model.zero_grad(set_to_none=True)
        torch.set_num_threads(threads)
        return threads

    # ---- training

    def _resume(self, folder: Path, state: TrainingState) -> None:
        self.threads = state.threads
        torch.set_num_threads(state.threads)
        self.model = resumed(self.config, folder, self.device)
        self.optimizer, self.masters = policy_optimizer(self.model.model, self.config)
        load_optimizer(folder, self.model, self.optimizer, self.masters.by_name)
        self.step = state.step
        # what fell when memory ran out stays down, and a person may have set a smaller one since
        self.token_budget = min((budget for budget in (state.token_budget, self.token_budget) if budget), default=0)
        self.spending = Spending(state.tokens, state.compute)

    def _train(self) -> None:
        self.model.model.eval()  # no dropout anywhere: old and new policy must be the same function
        self.updater = self._updater()
        scorers = filter(None, (self.model, self.updater.reference))
        for model in {scorer.model for scorer in scorers}:  # under an adapter both are one model
            self.spending.watch(model)
        self._leave_out_long_prompts()
        while True:
            try:
                if self.step % self.config.eval_every == 0 or self.step == self.config.train_steps:
                    self._evaluate()
                if self.step == self.config.train_steps:
                    return
                self.listener.phase("training", self.step, self.config.train_steps)
                self._train_step()
            except StopRequested:
                self._save("stop", None)
                raise

    def _leave_out_long_prompts(self) -> None:
        """A data set may hold a few problems that no setting was made for; a run should not end at one of them."""
        if isinstance(self.task, ListedTask):
            longest, text = self.task.prompt_length, self.model.text
            left_out = self.task.leave_out(lambda prompt: len(text.prompt(prompt)) > longest)
            if left_out:
                _log.info("%d training problems are left out: prompts of more than %d tokens.", left_out, longest)

    def _updater(self) -> Updater:
        c = self.config
        budget = self.token_budget or token_budget_for(self.model, self.task.prompt_length, c.completion_length)
        passes = Passes(budget, c.packed, head_of(c))
        reference = reference_policy(c, self.model, self.step, self.checkpoints)
        return Updater(c, self.objective, self.model, self.optimizer, passes, reference)

    def _train_step(self) -> None:
        """One batch of rollouts and its updates. Left early before the first update, it changes nothing."""
        start = time.monotonic()
        with self.spending.step():
            rollouts = collect(self.model, self.task, self.config, self.step, self.judge, self._check)
            collected = time.monotonic()
            metrics = {"lr": set_learning_rate(self.optimizer, self.config, self.step)}
            metrics |= self.updater.update(rollouts, self.step, self._check)
        self.spending.tokens += int(rollouts.written.sum())
        metrics |= self.spending.metrics()
        self.token_budget = self.updater.passes.token_budget
        self.step += 1
        times = {"time/rollout_s": collected - start, "time/likelihood_s": time.monotonic() - collected}
        memory = memory_metrics(self.device) | {"memory/pass_tokens": float(self.token_budget)}
        self.listener.metrics(self.step, rollouts.metrics | metrics | times | memory)
        if self.config.keep_rollouts:
            self.listener.rollouts(self.step, kept_rollouts(self.model, rollouts, self.config.keep_rollouts))
        self.listener.phase("training", self.step, self.config.train_steps)

    # ---- evaluation and checkpoints

    def _evaluate(self) -> None:
        total = self.config.train_steps
        self.listener.phase("evaluating", self.step, total)
        start = time.monotonic()
        result = evaluate(self.model, self.task, self.config, self.held_out, self.judge, self._check)
        chosen_on = validation_reward(
            self.model, self.task, self.config, self.validation, self.judge, self._check
        )
        keep(result.judged, self.folder / EVALUATIONS / evaluation_file(self.step), traces=False)
        # in this order: a page that sees the reward then finds the samples, too
        self.listener.completions(self.step, result.shown)
        self.listener.metrics(self.step, result.metrics | chosen_on | {"time/evaluation_s": time.monotonic() - start})
        kind = "warm_start" if self.step == 0 else "final" if self.step == total else "evaluation"
        self._save(kind, chosen_on.get("reward/validation_greedy"))

    def _save(self, kind: str, reward: float | None) -> None:
        folder = self.checkpoints / f"step-{self.step:06d}"
        state = self._state("training", self.step)
        self.listener.keep()
        save_checkpoint(folder, self.model, state, self.optimizer, self.masters.by_name)
        self.listener.checkpoint(self.step, kind, folder, reward)

    def _state(self, phase: str, step: int) -> TrainingState:
        seconds = self._seconds_before + time.monotonic() - self._clock
        spent = self.spending
        return TrainingState(phase, step, seconds, self.threads, self.token_budget, spent.tokens, spent.compute)

    def _check(self) -> None:
        if self.listener.should_stop():
            raise StopRequested


def token_budget_for(model: Denoiser, prompt_length: int, completion_length: int) -> int:
    """Most tokens of a likelihood pass that this machine takes, by passes of one and three pairs of that size."""
    width, L = prompt_length, completion_length

    def one_pass(pairs: int) -> torch.Tensor:
        # no padding, so that all of it is work
        ids = torch.full((pairs, width + L), model.mask_id, device=model.device)
        every = torch.ones(pairs, L, dtype=torch.bool, device=model.device)
        return token_logprob(model, Pairs(ids[:, :width], ids[:, width:], every, every))

    return largest_token_budget(model.device, model.model, one_pass, width + L)
