"""The head that goes by hand: the same numbers and gradients as autograd's, whatever the chunks."""

from __future__ import annotations

import pytest
import torch

from bgpo.algorithm import elbo
from bgpo.algorithm.elbo import Head, backward_in_chunks
from bgpo.models.denoiser import linear_matrix


class LinearHead:
    """A head of 11 words over 5 features, by hand or not, with logits that reach +-1e4."""

    mask_id = 0

    def __init__(self, by_hand: bool):
        generator = torch.Generator().manual_seed(0)
        self.head = torch.nn.Linear(5, 11, bias=False, dtype=torch.float64)
        self.head.weight.data = torch.randn(11, 5, generator=generator, dtype=torch.float64)
        self.head.weight.data[3] *= 1e4
        self.rows = torch.randn(9, 5, generator=generator, dtype=torch.float64, requires_grad=True)
        self.head_matrix = linear_matrix(self.head) if by_hand else None

    def logits(self, hidden):
        return self.head(hidden)


@pytest.mark.parametrize("rows_per_chunk", [1, 4])
def test_a_head_by_hand_gives_the_values_and_gradients_of_autograd(monkeypatch, rows_per_chunk):
    monkeypatch.setattr(elbo, "_CHUNK_BYTES", rows_per_chunk * 11 * 8)
    targets = torch.tensor([0, 10, 3, 3, 7, 1, 10, 2, 5])  # the last word of the vocabulary among them

    def derivative(first: int, last: int, values: torch.Tensor) -> torch.Tensor:
        return values.exp() + first  # one that needs the values

    got = []
    for by_hand in (True, False):
        scorer = LinearHead(by_hand)
        values = backward_in_chunks(scorer, scorer.rows * 1, targets, torch.tensor([2, 1, 3, 0, 3]), derivative, Head())
        got.append((values, scorer.rows.grad, scorer.head.weight.grad))
    for ours, theirs in zip(*got):
        assert torch.isfinite(ours).all() and theirs.abs().sum() > 0
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_only_a_bare_matrix_goes_by_hand():
    assert linear_matrix(torch.nn.Linear(5, 11)) is None, "it has a bias"
    assert linear_matrix(torch.nn.Linear(5, 11, bias=False).bfloat16()) is None, "half precision wants float32 logits"
    assert linear_matrix(torch.nn.Sequential(torch.nn.Linear(5, 11, bias=False))) is None
    hooked = torch.nn.Linear(5, 11, bias=False)
    hooked.register_forward_hook(lambda *_: None)
    assert linear_matrix(hooked) is None
