"""Meters: what is counted, and that it is let go again."""

from __future__ import annotations

import torch

from bgpo.training.machine import MB, SavedBytes, choose_device, fastest_threads, memory_metrics


def test_saved_bytes_counts_each_storage_once_without_parameters_and_releases():
    layer = torch.nn.Linear(256, 256, bias=False)
    x = torch.randn(1024, 256, requires_grad=True)  # 1 MB
    saved = SavedBytes(layer)
    with saved:
        for _ in range(3):
            y = layer(x)  # holds x (1 MB) and the weight (a parameter, not counted)
            z = y.exp()  # holds its result (1 MB)
            (z + z * 1).sum().backward()
            del y, z
    assert saved.peak_mb == 2.0
    assert saved._alive == 0


def test_retained_graphs_add_up():
    layer = torch.nn.Linear(256, 256, bias=False)
    saved = SavedBytes(layer)
    with saved:
        kept = [layer(torch.randn(1024, 256)).exp() for _ in range(4)]
    assert saved.peak_mb == 8.0
    del kept
    assert saved._alive == 0


def test_fastest_threads_is_one_of_those_tried():
    before = torch.get_num_threads()
    try:
        assert fastest_threads(lambda: torch.randn(64, 64).mm(torch.randn(64, 64)), seconds=0.02) >= 1
    finally:
        torch.set_num_threads(before)


def test_device_and_memory():
    assert choose_device("cpu").type == "cpu"
    assert memory_metrics(torch.device("cpu"))["memory/rss_mb"] > 50
    assert MB == 2**20
