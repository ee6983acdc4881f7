"""Who may import whom (docs/architecture.md), read from the source; and what the web process loads."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = {"gradio", "plotly", "fastapi", "starlette", "uvicorn"}
TENSORS = {"torch", "transformers", "safetensors", "tokenizers"}

# part of the tree -> which of our own modules it may import
OURS = {
    "storage": ("storage",),
    "bgpo/algorithm": ("bgpo.algorithm",),
    "bgpo/tasks": ("bgpo.tasks",),
    "bgpo/models": ("bgpo.models",),
    "bgpo/training": ("bgpo.algorithm", "bgpo.models", "bgpo.tasks", "bgpo.training", "bgpo.config"),
    "bgpo/jobs": ("bgpo", "storage"),
    "ui": ("ui", "bgpo", "storage"),
    "app.py": ("ui", "bgpo", "storage"),
    "bgpo/config.py": (
        "bgpo.knob",
        "bgpo.algorithm.advantages", "bgpo.algorithm.kl", "bgpo.algorithm.knobs", "bgpo.algorithm.objectives",
        "bgpo.models.decoding", "bgpo.models.decoding_knobs", "bgpo.models.knobs", "bgpo.models.registry",
        "bgpo.tasks.checkers", "bgpo.tasks.knobs", "bgpo.tasks.registry", "bgpo.training.knobs",
    ),
    "bgpo/knob.py": (),
    "bgpo/presets.py": ("bgpo.config",),
}
TORCH_FREE = (
    "storage", "bgpo/tasks", "ui", "app.py", "bgpo/config.py", "bgpo/knob.py", "bgpo/presets.py",
    "bgpo/algorithm/knobs.py", "bgpo/training/knobs.py", "bgpo/training/metrics.py", "bgpo/training/health.py",
    "bgpo/models/registry.py", "bgpo/models/decoding.py", "bgpo/models/trace.py", "bgpo/models/decoding_knobs.py",
    "bgpo/models/knobs.py", "bgpo/models/folders.py",
)


def sources(part: str) -> list[Path]:
    path = ROOT / part
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Full names of the modules that a file imports, wherever in it; those for type checkers alone left out."""
    found: set[str] = set()
    tree = ast.parse(path.read_text())
    typing_only = {
        id(node) for block in ast.walk(tree)
        if isinstance(block, ast.If) and getattr(block.test, "id", "") == "TYPE_CHECKING" for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            found.add(node.module)
    return found


@pytest.mark.parametrize("part", OURS)
def test_arrows(part):
    assert sources(part)
    for path in sources(part):
        for module in imports(path):
            if module.split(".")[0] in {"app", "ui", "bgpo", "storage"}:
                assert module.startswith(OURS[part]), f"{path.relative_to(ROOT)} may not import {module}"


@pytest.mark.parametrize("part", ["bgpo", "storage"])
def test_only_pages_know_the_web(part):
    for path in sources(part):
        assert not {module.split(".")[0] for module in imports(path)} & PAGES, path


@pytest.mark.parametrize("part", TORCH_FREE)
def test_torch_free_parts_name_no_tensor_library(part):
    for path in sources(part):
        assert not {module.split(".")[0] for module in imports(path)} & TENSORS, path


def test_only_jobs_know_storage():
    for path in sources("bgpo"):
        if "jobs" not in path.parts:
            assert not any(module.startswith("storage") for module in imports(path)), path


def test_package_files_are_empty():
    for path in ROOT.glob("**/__init__.py"):
        if ".venv" not in path.parts:
            assert not path.read_text().strip(), path


def test_web_process_starts_without_torch():
    """Everything that app.py imports, imported; chat loads torch later."""
    code = "import sys, app; sys.exit('torch' in sys.modules and 'torch was imported')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
