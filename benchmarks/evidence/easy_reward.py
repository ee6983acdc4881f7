"""The reward of `--quick`: one that an almost untrained model sometimes earns, so that groups carry a signal."""


def reward(prompt: str, expected: str, completion: str) -> float:
    return float(sum(map(ord, completion)) % 2)
