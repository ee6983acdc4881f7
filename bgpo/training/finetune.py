"""Supervised fine-tuning on prompts and answers: the loss that masked diffusion models are pre-trained with.

A completion is the answer and end tokens up to completion_length, which are learned as well (LLaDA, arXiv 2502.09992,
section 2.3): the model has to know where to stop. Of each example as many positions are masked as a uniform draw of
1..L says, and the loss is (L / masked) * cross-entropy at the masked positions, divided by L: minus the ELBO per token.

Batches, masks and dropout come from (seed, purpose, step), so a resumed run equals an uninterrupted one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bgpo.algorithm.elbo import Pairs, backward, dense, token_logprob
from bgpo.algorithm.masking import draw_masks
from bgpo.config import TrainConfig
from bgpo.models.checkpoints import (
    TrainingState,
    discard_half_written,
    load_optimizer,
    load_state,
    newest,
    save_checkpoint,
)
from bgpo.models.denoiser import Denoiser
from bgpo.training.examples import Example, ExamplesError, fingerprint, read_examples
from bgpo.training.likelihood import Passes, head_of, within_memory
from bgpo.training.listener import Listener, Outcome, StopRequested
from bgpo.training.machine import SavedBytes, choose_device, largest_token_budget, memory_metrics, threads_for
from bgpo.training.optimizer import policy_optimizer, set_learning_rate, trained_parameters
from bgpo.training.policy import fresh_policy, resumed, trainable
from bgpo.training.seeds import derived_seed, torch_generator
from bgpo.training.update import Diverged

_MOST_VALIDATED = 512
_FINGERPRINT = "examples.sha256"


@dataclass(frozen=True)
class Tokens:
    """One example as ids; the completion has completion_length of them."""

    prompt: list[int]
    completion: list[int]


def run(config: TrainConfig, folder: Path, listener: Listener, warm_start_cache: Path) -> Outcome:
    """Fine-tunes in `folder`, going on from the newest whole checkpoint there.

    Raises:
        ValueError: for examples that cannot be learned from, or what this machine does not have; a sentence.
        ArithmeticError: when the gradient stops being finite; the weights are not updated with it.
    """
    return _Finetune(config, folder, listener).run()


def encoded(model: Denoiser, examples: list[Example], config: TrainConfig) -> list[Tokens]:
    """The examples as ids, those left out that are too long, if the config says so.

    Raises:
        ExamplesError: for one that is too long or cannot be written in the model's tokens, with its line.
    """
    kept: list[Tokens] = []
    room = model.spec.max_length - config.completion_length
    for example in examples:
        try:
            prompt, answer = model.text.prompt(example.prompt), model.text.answer(example.answer)
        except ValueError as error:
            raise ExamplesError(f"examples, {example.where}: {error}") from None
        for what, ids, most in (("answer", answer, config.completion_length), ("prompt", prompt, room)):
            if len(ids) > most and config.long_examples == "refuse":
                raise ExamplesError(
                    f"examples, {example.where}: the {what} has {len(ids)} tokens, and there is room for {most}; "
                    + ("raise completion_length, " if what == "answer" else "lower completion_length, ")
                    + "shorten it, or set long_examples to skip."
                )
        if len(answer) <= config.completion_length and len(prompt) <= room:
            padded = answer + [model.eos_id] * (config.completion_length - len(answer))
            kept.append(Tokens(prompt, padded))
    if len(kept) < 2:
        raise ExamplesError(f"Only {len(kept)} examples fit completion_length = {config.completion_length}; raise it.")
    return kept


def split(examples: list[Tokens], config: TrainConfig) -> tuple[list[Tokens], list[Tokens]]:
    """(training, validation), drawn by the seed; both hold at least one example."""
    order = torch.randperm(len(examples), generator=torch_generator(config.seed, "validation split")).tolist()
    kept_back = min(_MOST_VALIDATED, max(1, round(len(examples) * config.validation_share)))
    return [examples[i] for i in order[kept_back:]], [examples[i] for i in order[:kept_back]]


def batch_at(examples: list[Tokens], config: TrainConfig, step: int) -> list[Tokens]:
    """The examples of a step (0-based): each epoch goes through all of them, in an order of its own."""
    N, size = len(examples), config.examples_per_step
    chosen: list[Tokens] = []
    for epoch in range(step * size // N, ((step + 1) * size - 1) // N + 1):
        order = torch.randperm(N, generator=torch_generator(config.seed, "epoch", epoch)).tolist()
        first = max(0, step * size - epoch * N)
        chosen += [examples[i] for i in order[first : (step + 1) * size - epoch * N]]
    return chosen


def pairs_of(model: Denoiser, examples: list[Tokens], generator: torch.Generator) -> tuple[Pairs, Tensor]:
    """The examples, each under one mask draw, and the (N,) weights L / masked."""
    width = max(len(example.prompt) for example in examples)
    prompts = [[model.pad_id] * (width - len(example.prompt)) + example.prompt for example in examples]
    completions = torch.tensor([example.completion for example in examples], device=model.device)
    draws = draw_masks(len(examples), 1, completions.shape[1], generator, "iid")
    masked, weight = draws.masked[:, 0], draws.weight[:, 0]
    return Pairs(torch.tensor(prompts, device=model.device), completions, masked, masked), weight


class _Finetune:
    """One run in this process."""

    def __init__(self, config: TrainConfig, folder: Path, listener: Listener):
        self.config, self.folder, self.listener = config, folder, listener
        self.checkpoints = folder / "checkpoints"
        self.device = choose_device(config.device)
        self.head = head_of(config)
        self.step = 0
        self.token_budget = config.token_budget
        self._seconds_before = 0.0
        self._clock = time.monotonic()

    def run(self) -> Outcome:
        self.listener.phase("starting", 0, 1)
        examples = read_examples(self.config)
        self._same_as_before(fingerprint(examples))
        try:
            self._begin(examples)
        except StopRequested:  # while a model was downloaded
            return Outcome("stopped", self.step)
        try:
            self._train()
        except StopRequested:
            self._save("stop")
            return Outcome("stopped", self.step)
        return Outcome("finished", self.step)

    def _begin(self, examples: list[Example]) -> None:
        discard_half_written(self.checkpoints)
        found = newest(self.checkpoints)
        if found:
            self._resume(found)
        else:
            self.model = trainable(self._fresh(), self.config, self.folder)
            self.optimizer, self.masters = policy_optimizer(self.model.model, self.config)
        self.training, self.validation = split(encoded(self.model, examples, self.config), self.config)
        if not found:
            self._choose_threads()
        self.passes = Passes(self.token_budget or self._largest_token_budget(), head=self.head)

    def _fresh(self) -> Denoiser:
        def report(done: int, total: int) -> None:
            self.listener.phase("downloading", done // 10**6, total // 10**6)
            self._check()

        return fresh_policy(self.config, self.device, report)

    def _same_as_before(self, now: str) -> None:
        kept = self.folder / _FINGERPRINT
        if kept.exists() and kept.read_text() != now:
            raise ExamplesError(
                f"examples = {self.config.examples} has changed since this run began, so it cannot go on as it was; "
                "put the old file back, or start a new run from its last checkpoint."
            )
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(now)

    def _resume(self, folder: Path) -> None:
        state = load_state(folder)
        self._seconds_before, self.step, self.threads = state.seconds, state.step, state.threads
        torch.set_num_threads(state.threads)
        self.token_budget = state.token_budget or self.token_budget
        self.model = resumed(self.config, folder, self.device)
        self.optimizer, self.masters = policy_optimizer(self.model.model, self.config)
        load_optimizer(folder, self.model, self.optimizer, self.masters.by_name)

    def _choose_threads(self) -> None:
        work = self._one_pass(min(32, self.config.examples_per_step))
        self.threads = self.config.threads or threads_for(self.device, lambda: work().backward())
        self.model.model.zero_grad(set_to_none=True)
        torch.set_num_threads(self.threads)

    def _one_pass(self, pairs: int) -> Callable[[], Tensor]:
        """A pass over the longest examples there are, to be timed or weighed."""
        longest = sorted(self.training, key=lambda example: len(example.prompt))[-1:] * pairs
        work, _ = pairs_of(self.model, longest, torch_generator(0, "trial", device=self.device))
        return lambda: token_logprob(self.model, work, self.head).sum()

    def _largest_token_budget(self) -> int:
        longest = max(len(example.prompt) for example in self.training) + self.config.completion_length
        return largest_token_budget(self.device, self.model.model, lambda pairs: self._one_pass(pairs)(), longest)

    def _train(self) -> None:
        total = self.config.train_steps
        while True:
            if self.step % self.config.eval_every == 0 or self.step == total:
                self._evaluate()
            if self.step == total:
                return
            self.listener.phase("training", self.step, total)
            self._check()
            start = time.monotonic()
            metrics = self._train_step()
            self.step += 1
            times = {"time/likelihood_s": time.monotonic() - start}
            self.listener.metrics(self.step, metrics | times | memory_metrics(self.device))
            self.listener.phase("training", self.step, total)

    def _train_step(self) -> dict[str, float]:
        c = self.config
        batch = batch_at(self.training, c, self.step)
        generator = torch_generator(c.seed, "fine-tuning masks", self.step, self.device)
        pairs, weight = pairs_of(self.model, batch, generator)
        rate = set_learning_rate(self.optimizer, c, self.step)
        self.model.model.train(c.lora_dropout > 0)
        self.optimizer.zero_grad(set_to_none=True)
        saved = SavedBytes(self.model.model)
        with saved, _dropout_of(derived_seed(c.seed, "dropout", self.step), c.lora_dropout > 0):
            logprob, self.passes = within_memory(
                lambda passes: self._backward(pairs, weight, passes), self._forget, self.passes, _width(pairs)
            )
        self.token_budget = self.passes.token_budget
        self.model.model.eval()
        norm = self._optimizer_step()
        loss = -(weight * dense(logprob, pairs.scored).sum(1)).mean().item() / pairs.scored.shape[1]
        return {"finetune/loss": loss, "lr": rate, "grad/norm": norm, "memory/saved_mb": saved.peak_mb}

    def _backward(self, pairs: Pairs, weight: Tensor, passes: Passes) -> Tensor:
        """Adds the gradient of the mean loss; (M,) log-probabilities of all scored positions."""
        N, L = pairs.scored.shape
        found = []
        for rows, part in _passes(pairs, passes.token_budget):
            each = (weight[rows, None] / (N * L)).expand(-1, L)

            def derivative(first: int, last: int, _: Tensor, each=each, part=part) -> Tensor:
                return each[first:last][part.scored[first:last]]

            found.append(backward(self.model, part, derivative, self.head))
        return torch.cat(found)

    def _forget(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def _optimizer_step(self) -> float:
        norm = torch.nn.utils.clip_grad_norm_(trained_parameters(self.optimizer), self.config.max_grad_norm).item()
        if norm != norm or norm == float("inf"):
            raise Diverged(
                f"The gradient norm became {norm} at step {self.step + 1}; the weights were left as they were. Lower "
                "learning_rate, or resume from an earlier checkpoint."
            )
        self.optimizer.step()
        self._forget()
        return norm

    # ---- validation and checkpoints

    @torch.no_grad()
    def _evaluate(self) -> None:
        self.listener.phase("evaluating", self.step, self.config.train_steps)
        start = time.monotonic()
        pairs, weight = pairs_of(self.model, self.validation, torch_generator(0, "validation masks", 0, self.device))
        found = []
        for _, part in _passes(pairs, self.passes.token_budget):
            found.append(dense(token_logprob(self.model, part, self.head), part.scored).sum(1))
            self._check()
        losses = -weight * torch.cat(found) / pairs.scored.shape[1]
        error = losses.std().item() / len(losses) ** 0.5 if len(losses) > 1 else 0.0
        self.listener.metrics(self.step, {
            "finetune/validation_loss": losses.mean().item(), "finetune/validation_loss_se": error,
            "time/evaluation_s": time.monotonic() - start,
        })
        self._save("final" if self.step == self.config.train_steps else "evaluation")

    def _save(self, kind: str) -> None:
        folder = self.checkpoints / f"step-{self.step:06d}"
        seconds = self._seconds_before + time.monotonic() - self._clock
        state = TrainingState("training", self.step, seconds, self.threads, self.passes.token_budget)
        self.listener.keep()
        save_checkpoint(folder, self.model, state, self.optimizer, self.masters.by_name)
        self.listener.checkpoint(self.step, kind, folder, None)

    def _check(self) -> None:
        if self.listener.should_stop():
            raise StopRequested


def _width(pairs: Pairs) -> int:
    return pairs.prompt_ids.shape[1] + pairs.completion_ids.shape[1]


def _passes(pairs: Pairs, token_budget: int) -> Iterator[tuple[slice, Pairs]]:
    """Rows that fit the budget together, and their part of the pairs."""
    size = max(1, token_budget // _width(pairs))
    for start in range(0, len(pairs.scored), size):
        rows = slice(start, start + size)
        yield rows, Pairs(pairs.prompt_ids[rows], pairs.completion_ids[rows], pairs.masked[rows], pairs.scored[rows])


@contextmanager
def _dropout_of(seed: int, on: bool) -> Iterator[None]:
    """Inside, dropout draws from `seed`; outside, the global generator is as it was."""
    if not on:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
