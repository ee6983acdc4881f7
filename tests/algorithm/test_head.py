"""The head by hand and by Liger's kernel: the same numbers and gradients as autograd's, whatever the chunks."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from bgpo.algorithm import elbo
from bgpo.algorithm.elbo import Head, backward_in_chunks, cross_entropy_for, liger_cross_entropy
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


@pytest.mark.parametrize("most_rows, held", [(0, True), (4, True), (5, False)])
def test_a_draw_of_few_rows_holds_no_logits_where_another_may_have_many(monkeypatch, most_rows, held):
    """Bytes held for backward are those of the trunk alone, whether a draw masks one token or all."""
    monkeypatch.setattr(elbo, "_CHUNK_BYTES", 4 * 11 * 8)
    scorer, packed = LinearHead(by_hand=True), []
    rows = scorer.rows * 1

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        packed.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        targets, counts = torch.tensor([0, 10, 3]), torch.tensor([2, 1])
        backward_in_chunks(scorer, rows[:3], targets, counts, lambda *given: given[2], Head(), most_rows)
    assert (len(packed) > 0) == held


def rows_on(device: str, dtype: torch.dtype = torch.float32) -> SimpleNamespace:
    """What the choice of a kernel looks at; a machine without a GPU has no other rows on one."""
    return SimpleNamespace(is_cuda=device == "cuda", dtype=dtype)


def test_liger_computes_on_a_gpu_where_it_is_installed_and_not_switched_off(monkeypatch):
    def kernel() -> None: ...

    monkeypatch.setattr(elbo, "liger_cross_entropy", lambda: kernel)
    assert cross_entropy_for(rows_on("cuda"), Head()) is kernel
    assert cross_entropy_for(rows_on("cuda", torch.bfloat16), Head()) is kernel
    assert cross_entropy_for(rows_on("cuda", torch.float64), Head()) is F.cross_entropy, "it computes in float32"
    assert cross_entropy_for(rows_on("cuda"), Head(fused=False)) is F.cross_entropy
    assert cross_entropy_for(torch.zeros(1), Head()) is F.cross_entropy, "rows on the CPU"
    monkeypatch.setattr(elbo, "liger_cross_entropy", lambda: None)
    assert cross_entropy_for(rows_on("cuda"), Head()) is F.cross_entropy


def test_a_missing_liger_is_no_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "liger_kernel", None)  # an import then fails
    assert liger_cross_entropy.__wrapped__() is None


@pytest.mark.parametrize("rows_per_chunk", [4, 100])
def test_ligers_kernel_gives_the_values_and_gradients_of_torch(monkeypatch, rows_per_chunk):
    """Where liger-kernel is installed: on a GPU, or without one in Triton's interpreter (TRITON_INTERPRET=1)."""
    pytest.importorskip("liger_kernel")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("no GPU; with TRITON_INTERPRET=1 it runs on the CPU")
    monkeypatch.setattr(elbo, "_CHUNK_BYTES", rows_per_chunk * 11 * 4)
    targets = torch.tensor([0, 10, 3, 3, 7, 1, 10, 2, 5], device=device)
    got = []
    for kernel in (liger_cross_entropy(), F.cross_entropy):
        used = []

        def counted(*args, kernel=kernel, used=used, **kwargs):
            used.append(len(args[0]))
            return kernel(*args, **kwargs)

        monkeypatch.setattr(elbo, "cross_entropy_for", lambda rows, head, counted=counted: counted)
        scorer = LinearHead(by_hand=True)
        scorer.head.to(device, torch.float32)
        rows = scorer.rows.detach().to(device, torch.float32).requires_grad_()
        values = backward_in_chunks(
            scorer, rows * 1, targets, torch.tensor([2, 1, 3, 0, 3]), lambda first, last, values: values.exp() - 0.5,
            Head(),
        )
        assert sum(used) == 9
        got.append((values, rows.grad, scorer.head.weight.grad))
    for ours, theirs in zip(*got):
        assert theirs.abs().sum() > 0
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_only_a_bare_matrix_goes_by_hand():
    assert linear_matrix(torch.nn.Linear(5, 11)) is None, "it has a bias"
    assert linear_matrix(torch.nn.Linear(5, 11, bias=False).bfloat16()) is None, "half precision wants float32 logits"
    assert linear_matrix(torch.nn.Sequential(torch.nn.Linear(5, 11, bias=False))) is None
    hooked = torch.nn.Linear(5, 11, bias=False)
    hooked.register_forward_hook(lambda *_: None)
    assert linear_matrix(hooked) is None
