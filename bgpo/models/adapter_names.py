"""Adapters trained on a model's own code name its modules as published; the stock class has other names for them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from bgpo.models.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from bgpo.models.folders import ModelError
from bgpo.models.loading import renamed
from bgpo.models.registry import MODELS

_PREFIX = "base_model.model."


@contextmanager
def with_stock_names(folder: Path, family: str) -> Iterator[Path]:
    """The adapter folder itself, or a copy under stock names for as long as the context lasts; raises ModelError."""
    names = {published.removesuffix(".weight"): stock.removesuffix(".weight")
             for published, stock in MODELS[family].key_names.items()}
    try:
        tensors = load_file(folder / ADAPTER_WEIGHTS)
        config = json.loads((folder / ADAPTER_CONFIG).read_text())
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"The adapter in {folder} cannot be read ({error}); save it again with safetensors.") from None
    stock: dict[str, str] = {}
    for name in tensors:
        module, found, rest = name.removeprefix(_PREFIX).partition(".lora_")
        other = renamed(module, names)
        if found and other != module:
            stock[name] = f"{_PREFIX}{other}.lora_{rest}"
    if not stock:
        yield folder
        return
    modules = {new.removeprefix(_PREFIX).partition(".lora_")[0] for new in stock.values()}
    with tempfile.TemporaryDirectory() as work:
        save_file({stock.get(name, name): tensor for name, tensor in tensors.items()}, Path(work) / ADAPTER_WEIGHTS)
        # whole names: the end of one, such as ff_out, may mean two modules
        (Path(work) / ADAPTER_CONFIG).write_text(json.dumps(config | {"target_modules": sorted(modules)}))
        yield Path(work)
