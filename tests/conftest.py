"""For all tests: one compute thread per process, and no clock on examples. Several processes share the machine."""

import gc
import os

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

LONGEST_FIRST = ("benchmarks", "ui", "jobs", "training", "storage", "tasks")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Folders whose files take long go first, so that no process is left with a long file in the end."""
    def place(item: pytest.Item) -> int:
        folder = item.path.parent.name
        return LONGEST_FIRST.index(folder) if folder in LONGEST_FIRST else len(LONGEST_FIRST)

    items.sort(key=place)


def pytest_collection_finish() -> None:
    """What was imported stays: a collection of garbage, of which tests ask for many, need not look at it again."""
    gc.collect()
    gc.freeze()
