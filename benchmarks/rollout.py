"""What the sampler costs, as a share of the forward passes it makes, measured side by side in one process.

    python -m benchmarks.rollout            a table
    python -m benchmarks.rollout --json     the same, with one JSON object on the last line
    python -m benchmarks.rollout --quick    a small model, in seconds: shows that it runs, not what it costs

A bidirectional Llama of 60 M parameters (8 layers, d = 512, V = 32,000), 8 different prompts of 64 tokens, 128 new
tokens in blocks of 32 and 64 steps, order max_prob, float32. `ratio` is CPU time over (passes x a bare pass), where the
bare pass reads the whole canvas and computes the logits of every position, which is what a textbook loop does. All
figures are CPU seconds of one thread; the bare pass is timed before and after each run. Without a cache every block
costs the same, so one block is timed, with --whole all of them.

`trace_cost` is what a trace with guesses, entropies, runners-up and log-probabilities adds, the encoding included: two
samplers that take turns step by step, one of them watched.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bgpo.models.decoding import CACHES, NO_CACHE, SamplerSettings
from bgpo.models.denoiser import Denoiser, Spec
from bgpo.models.noise import Noise
from bgpo.models.sampler import Canvas, Watch
from bgpo.models.tiny import tiny_tokenizer
from bgpo.models.trace import STREAMS, Recorder, Trace, encode

MEASURED = [cache for cache in CACHES if cache != "block_causal"]
TEMPERATURES = (0.0, 1.0)
NOTHING, EVERYTHING = Watch(), Watch(guesses=True, entropy=True, runners_up=4)


@dataclass(frozen=True)
class Work:
    """The common work."""

    model: Denoiser
    prompt_ids: torch.Tensor
    settings: SamplerSettings

    def bare_pass(self) -> None:
        """The whole canvas, all logits."""
        masks = torch.full((len(self.prompt_ids), self.settings.completion_length), self.model.mask_id)
        with torch.no_grad():
            self.model.logits(self.model.hidden(torch.cat([self.prompt_ids, masks], 1)))

    def canvas(self, cache: str, temperature: float, watch: Watch = NOTHING) -> Canvas:
        settings = replace(self.settings, cache=cache, temperature=temperature)
        return Canvas(self.model, self.prompt_ids, settings, Noise(0), watch=watch)


def common_work(quick: bool) -> Work:
    vocabulary, width, layers, batch = (500, 32, 2, 2) if quick else (32_000, 512, 8, 8)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, num_hidden_layers=layers, num_attention_heads=8,
        intermediate_size=3 * width, tie_word_embeddings=False, use_cache=False,
    )
    config.is_causal = False
    model = LlamaForCausalLM(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.02, generator=generator)
    spec = Spec("tiny", mask_id=vocabulary - 1, pad_id=0, eos_ids=(1,))
    prompts = torch.randint(2, vocabulary - 1, (batch, 64), generator=generator)
    return Work(Denoiser(model, tiny_tokenizer(), spec), prompts, SamplerSettings(128, 64, 32, 1.0, "max_prob"))


def cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def ratio(work: Work, cache: str, temperature: float, whole: bool) -> dict[str, float]:
    """CPU time of a run over its passes, each at the price of a bare one."""
    canvas = work.canvas(cache, temperature)
    passes = canvas.passes()
    steps = work.settings.denoising_steps if whole or cache != NO_CACHE else work.settings.steps_per_block
    bare = [cpu_seconds(work.bare_pass) for _ in range(2)]
    seconds = cpu_seconds(lambda: [next(passes) for _ in range(steps)])
    bare += [cpu_seconds(work.bare_pass) for _ in range(2)]
    price = statistics.mean(bare)
    tokens = len(work.prompt_ids) * work.settings.completion_length * steps / work.settings.denoising_steps
    return {"ratio": seconds / steps / price, "bare": price, "tokens_per_second": tokens / seconds, "passes": steps}


def trace_cost(work: Work) -> float:
    """Share that tracing everything adds, without a cache at temperature 1.

    Over all steps, each of the two first in turn: the time of a single step strays by more than tracing costs.
    """
    kinds = {"plain": work.canvas(NO_CACHE, 1.0).passes(), "watched": _traced(work.canvas(NO_CACHE, 1.0, EVERYTHING))}
    seconds = dict.fromkeys(kinds, 0.0)
    for step in range(work.settings.denoising_steps):
        for name in list(kinds) if step % 2 else list(kinds)[::-1]:
            seconds[name] += cpu_seconds(partial(next, kinds[name]))
    return seconds["watched"] / seconds["plain"] - 1


def _traced(canvas: Canvas) -> Iterator[None]:
    """Records every row and encodes each step, with a header of its own: more than a real run does."""
    recorders = [Recorder(row) for row in range(len(canvas.ids))]
    for event in canvas.steps():
        for recorder in recorders:
            recorder.add(event)
            last = (recorder.steps[-1],)
            encode(Trace(canvas.ids.shape[1], canvas.model.mask_id, canvas.model.eos_id, last), STREAMS)
        yield


def report(quick: bool, whole: bool) -> dict[str, object]:
    work = common_work(quick)
    work.bare_pass()  # lazily loaded kernels
    print(f"{'cache':>8} {'T':>3} | {'passes':>6} {'bare, CPU s':>11} | {'ratio':>6} {'tokens/CPU s':>13}", flush=True)
    found: dict[str, object] = {}
    for cache in MEASURED:
        of_cache = found[cache] = {}
        for temperature in TEMPERATURES:
            cell = ratio(work, cache, temperature, whole)
            of_cache[f"T{temperature:.0f}"] = round(cell["ratio"], 3)
            print(f"{cache:>8} {temperature:>3.0f} | {cell['passes']:>6.0f} {cell['bare']:>11.3f} | "
                  f"{cell['ratio']:>6.3f} {cell['tokens_per_second']:>13.1f}", flush=True)
    found["trace_cost"] = round(trace_cost(work), 4)
    print(f"tracing adds {100 * found['trace_cost']:.1f} %")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--quick", action="store_true", help="a small model, in seconds")
    parser.add_argument("--whole", action="store_true", help="time all blocks without a cache, too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = report(arguments.quick, arguments.whole)
    if arguments.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
