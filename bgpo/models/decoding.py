"""What a completion is denoised with: schedule, order, cache. Torch-free: forms list them, `sampler` runs them."""

from __future__ import annotations

from dataclasses import dataclass

QUOTA, DREAM, THRESHOLD, FACTOR, ENTROPY_BOUND = "quota", "dream", "threshold", "factor", "entropy_bound"
NO_CACHE, PREFIX, DUAL, BLOCK_CAUSAL = "none", "prefix", "dual", "block_causal"
LOW_CONFIDENCE = "low_confidence"

# how many positions a step commits
SCHEDULES: dict[str, str] = {
    QUOTA: "An equal share of the block at each step, the remainder first (LLaDA).",
    DREAM: "Shares that follow Dream's noise levels: fewest first.",
    THRESHOLD: "All positions at least as sure as confidence_threshold, at least one (Fast-dLLM).",
    FACTOR: "The r surest while the r-th is at least 1 - factor / (r + 1) sure (Fast-dLLM).",
    ENTROPY_BOUND: "As many as keep the sum of entropies but the largest within entropy_bound nats (EB).",
}
FIXED_SCHEDULES = (QUOTA, DREAM)  # those that spend denoising_steps, whatever the model says

# which positions a step commits
ORDERS: dict[str, str] = {
    "random": "Any, whatever the model says.",
    "max_prob": "Where the likeliest token is likeliest.",
    "margin": "Where the likeliest token leads the next by most.",
    "entropy": "Where the prediction has the least entropy.",
    "left_to_right": "The leftmost.",
    LOW_CONFIDENCE: "Where the token just sampled is likeliest (LLaDA's published rule): above temperature 0 it draws "
                    "from a sharper law than the policy's.",
}
# orders that may write rollouts at any temperature: positions do not depend on the tokens drawn, so a rollout's
# log-probability is the sum over its commits
ROLLOUT_ORDERS = tuple(name for name in ORDERS if name != LOW_CONFIDENCE)

# which keys and values are read again instead of computed
CACHES: dict[str, str] = {
    NO_CACHE: "Every pass reads the whole canvas: exact.",
    PREFIX: "What stands before the block is computed once per block: an approximation, unless the model is "
            "block-causal.",
    DUAL: "What stands before and after the block is computed once per block: a coarser approximation.",
    BLOCK_CAUSAL: "Finished blocks are never computed again: exact, for block-causal models alone.",
}
EXACT_CACHES = (NO_CACHE, BLOCK_CAUSAL)


@dataclass(frozen=True)
class SamplerSettings:
    """How a completion is denoised. `temperature` 0 takes the likeliest token.

    Attributes:
        denoising_steps: passes for the whole completion under a fixed schedule; others spend as many as they need.
        remasking: one of ORDERS.
        cfg_scale: weight of classifier-free guidance; 0 is none. Each pass then also reads the canvas without prompt.
        stop_at_eos: a completion that has written its end token by the end of a block is filled up with end tokens.
        masked_rows_only: off, the head runs on the whole block, committed positions included.
    """

    completion_length: int
    denoising_steps: int
    block_length: int
    temperature: float
    remasking: str
    schedule: str = QUOTA
    confidence_threshold: float = 0.9
    factor: float = 1.0
    entropy_bound: float = 0.1
    cache: str = NO_CACHE
    cfg_scale: float = 0.0
    stop_at_eos: bool = False
    masked_rows_only: bool = True

    @property
    def blocks(self) -> int:
        return self.completion_length // self.block_length

    @property
    def steps_per_block(self) -> int:
        return self.denoising_steps // self.blocks

    def problem(self) -> tuple[str, str] | None:
        """The field at fault and a sentence, or None when the settings go together."""
        length, block, steps = self.completion_length, self.block_length, self.denoising_steps
        if length % block:
            return "block_length", (
                f"block_length = {block} does not divide completion_length = {length}; change one of them."
            )
        if self.schedule in FIXED_SCHEDULES and (steps > length or steps % self.blocks):
            return "denoising_steps", (
                f"denoising_steps = {steps} does not divide: it must be a multiple of the {self.blocks} blocks and at "
                f"most completion_length = {length}; change denoising_steps or block_length."
            )
        return None
