"""A model folder -> `Denoiser`, and back: published tensor names and files both ways.

Weights are read by stock transformers classes with a mapping of names; nothing of the folder is executed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import save_torch_state_dict
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast, Qwen2Tokenizer

from bgpo.models.denoiser import Denoiser, Spec
from bgpo.models.folders import SPEC_FILE, ModelError, check_family, check_weights, published_files, read_config
from bgpo.models.llada import Float32RotaryLlama
from bgpo.models.registry import MODELS, LayoutError, ModelFamily

transformers.utils.logging.disable_progress_bar()

_SHARD = "5GB"
_OVERRIDES = ("family", "mask_id", "prompt_style", "attention_block")


@dataclass(frozen=True)
class Overrides:
    """What a user may say instead of the family's default.

    Attributes:
        mask_id: -1: what the folder or the family says.
        prompt_style: "chat", "plain", or "auto": chat where the tokenizer has a chat template.
        attention_block: 0: the family's.
    """

    mask_id: int = -1
    prompt_style: str = "auto"
    attention_block: int = 0


def load(
    folder: Path,
    family_name: str = "",
    *,
    dtype: torch.dtype | str = torch.float32,
    device: torch.device | str = "cpu",
    overrides: Overrides = Overrides(),
    **options: Any,
) -> Denoiser:
    """The model and tokenizer of a folder in published layout, in eval mode.

    Args:
        family_name: key in MODELS; '' takes what the folder was saved with.
        dtype: of the weights; "auto": what they are stored in.
        options: passed on to `from_pretrained`, such as a quantization config.

    Raises:
        ModelError: in one sentence, for anything that is missing, unexpected, cut short or of another family.
    """
    published = read_config(folder)
    saved = _saved_spec(folder)
    if saved.get("attention_block") and overrides.attention_block not in (0, saved["attention_block"]):
        raise ModelError(
            f"attention_block = {overrides.attention_block}, and {folder} was trained with blocks of "
            f"{saved['attention_block']} tokens; set attention_block to 0 or {saved['attention_block']}."
        )
    family = _family(folder, family_name or saved.get("family") or _family_of_type(published))
    stock = stock_config(published, family, folder)
    check_weights(folder)
    tokenizer = read_tokenizer(folder, family)
    if len(tokenizer) > stock.vocab_size:
        raise ModelError(
            f"{folder} holds a tokenizer of {len(tokenizer)} tokens beside a model of {stock.vocab_size}; copy the "
            "model's own tokenizer there."
        )
    model = _read_weights(folder, family, stock, dtype, options).eval()
    if "device_map" not in options:
        model.to(device)
    chosen = replace(overrides, **{
        name: saved[name] for name in ("mask_id", "prompt_style", "attention_block")
        if name in saved and getattr(overrides, name) == getattr(Overrides(), name)
    })
    return Denoiser(model, tokenizer, _spec(family, published, model, tokenizer, chosen, published_files(folder)))


def stock_config(published: Mapping[str, Any], family: ModelFamily, folder: Path) -> transformers.PretrainedConfig:
    """The stock config of a published config.json; raises ModelError."""
    name = check_family(dict(published), family, folder)
    try:
        fields = family.stock_config(published)
        config = getattr(transformers, name).config_class(**fields)
    except LayoutError as error:
        raise ModelError(f"{folder}: {error}") from None
    except (TypeError, ValueError, StrictDataclassError) as error:
        raise ModelError(
            f"{folder / 'config.json'} does not describe a {name} ({_line(error)}); download it again."
        ) from None
    config.is_causal = False
    config.use_cache = False
    if not family.built_in:
        # an embedding gives its padding row no gradient, and here that row is the end token's
        config.pad_token_id = None
    return config


def stock_class(config: transformers.PretrainedConfig, family: ModelFamily) -> type[PreTrainedModel]:
    """The class that computes a family."""
    if family.rope_in_float32:
        return Float32RotaryLlama
    classes = {getattr(transformers, name) for name in family.classes.values()}
    return next(found for found in classes if type(config) is found.config_class)


def read_tokenizer(folder: Path, family: ModelFamily) -> PreTrainedTokenizerBase:
    """The folder's tokenizer by a stock class, whatever class its config names; raises ModelError.

    Dream's has a class of its own over Qwen2's files; Qwen2's reads them.
    """
    one_file = (folder / "tokenizer.json").is_file()
    if not one_file and not ((folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()):
        raise ModelError(
            f"{folder} holds no tokenizer (neither tokenizer.json nor vocab.json with merges.txt); copy the "
            "tokenizer's files beside the weights."
        )
    reader = PreTrainedTokenizerFast if one_file else Qwen2Tokenizer
    try:
        return reader.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the readers of tokenizer files raise anything, down to bare Exception
        raise ModelError(
            f"{folder} holds no tokenizer that {family.title} can be read with ({_line(error)}); copy the tokenizer "
            "files beside the weights."
        ) from None


def save_published(model: Denoiser, folder: Path) -> None:
    """Weights under published names with the published config.json and tokenizer files, into an existing folder."""
    family = MODELS[model.spec.family]
    save_torch_state_dict(
        published_tensors(model.model, family), folder, max_shard_size=_SHARD, metadata={"format": "pt"}
    )
    if model.spec.files:
        for name, content in model.spec.files.items():
            (folder / name).write_bytes(content)
    else:
        model.model.config.save_pretrained(folder)
        model.tokenizer.save_pretrained(folder)
    values = {name: getattr(model.spec, name) for name in _OVERRIDES}
    (folder / SPEC_FILE).write_text(json.dumps(values, indent=1))


def published_tensors(model: PreTrainedModel, family: ModelFamily) -> dict[str, Tensor]:
    """The state dict under published names; a tied head is left to the embedding."""
    tied = model.config.tie_word_embeddings
    names = {stock: published for published, stock in family.key_names.items()}
    return {
        renamed(name, names): tensor for name, tensor in model.state_dict().items()
        if not (tied and name == "lm_head.weight")
    }


def renamed(name: str, names: Mapping[str, str]) -> str:
    """A tensor's name by a table whose entries hold {i} where names hold the layer."""
    parts = name.split(".")
    layer = next((part for part in parts if part.isdigit()), "")
    key = ".".join("{i}" if part.isdigit() else part for part in parts)
    return names[key].replace("{i}", layer) if key in names else name


def _family_of_type(published: Mapping[str, Any]) -> str:
    """The first family that computes this type, or ''."""
    model_type = str(published.get("model_type", ""))
    return next((family.name for family in MODELS.values() if model_type in family.classes), "")


def _family(folder: Path, name: str) -> ModelFamily:
    if name in MODELS:
        return MODELS[name]
    check_family(read_config(folder), MODELS["tiny"], folder)  # says what the folder holds
    raise ModelError(f"model = {name!s:.40} is not known; choose one of {', '.join(MODELS)}.")


def _saved_spec(folder: Path) -> dict[str, Any]:
    try:
        values = json.loads((folder / SPEC_FILE).read_text())
    except (OSError, ValueError):
        return {}
    return {name: values[name] for name in _OVERRIDES if name in values} if isinstance(values, dict) else {}


def _read_weights(folder, family, stock, dtype, options) -> PreTrainedModel:
    mapping = {
        "^" + published.replace(".", r"\.").replace("{i}", r"(\d+)") + "$": name.replace("{i}", r"\1")
        for published, name in family.key_names.items()
    }
    try:
        model, info = stock_class(stock, family).from_pretrained(
            folder, config=stock, dtype=dtype, key_mapping=mapping or None, local_files_only=True, use_safetensors=True,
            output_loading_info=True, trust_remote_code=False, **options,
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise ModelError(f"{folder} does not fit its config.json ({_line(error)}); download it again.") from None
    strange = [f"{name} is missing" for name in sorted(info["missing_keys"])]
    strange += [f"{name} is not expected" for name in sorted(info["unexpected_keys"])]
    strange += [f"{entry[0]} has another shape" for entry in sorted(info["mismatched_keys"])]
    if strange:
        raise ModelError(
            f"{folder} does not hold the tensors of {family.title}: {', '.join(strange[:3])}"
            f"{f', and {len(strange) - 3} more' * (len(strange) > 3)}; download it again, or choose its family."
        )
    return model


def _spec(family, published, model, tokenizer, chosen: Overrides, files: dict[str, bytes]) -> Spec:
    if family.built_in:
        return Spec(family.name, tokenizer.mask_token_id, tokenizer.pad_token_id, (tokenizer.eos_token_id,),
                    max_length=family.max_length, files={})
    vocabulary = tokenizer.get_vocab()
    eos = _first(published.get("eos_token_id"), tokenizer.eos_token_id)
    if eos is None:
        raise ModelError("The model names no end token (eos_token_id in config.json); add it there.")
    turn_end = next((vocabulary[token] for token in family.turn_ends if token in vocabulary), None)
    style = chosen.prompt_style
    if style == "auto":
        style = "chat" if tokenizer.chat_template else "plain"
    if style == "chat" and not tokenizer.chat_template:
        raise ModelError("The tokenizer has no chat template; set prompt_style to plain, or choose an Instruct model.")
    pad = _first(published.get("pad_token_id"), tokenizer.pad_token_id, eos)
    longest = min(family.max_length, model.config.max_position_embeddings)
    return Spec(
        family.name, _mask_id(family, published, model, tokenizer, chosen.mask_id), pad,
        tuple(dict.fromkeys(index for index in (eos, turn_end) if index is not None)), family.logit_shift,
        chosen.attention_block or family.attention_block, longest, style, turn_end, family.template_options, files,
    )


def _mask_id(family, published, model, tokenizer, chosen: int) -> int:
    """What was asked for, else config.json's, the tokenizer's, the token by its text, the family's number."""
    vocabulary = tokenizer.get_vocab()
    by_text = [vocabulary[token] for token in family.mask_tokens if token in vocabulary]
    found = chosen if chosen >= 0 else _first(
        published.get("mask_token_id"), tokenizer.mask_token_id, *by_text, family.mask_id
    )
    if not 0 <= found < model.config.vocab_size:
        raise ModelError(
            f"mask_id = {found} is outside the model's vocabulary of {model.config.vocab_size}; set mask_id to the "
            "id of its mask token."
        )
    return found


def _first(*values: Any) -> int | None:
    """The first that is a token id; config files may hold a list."""
    for value in values:
        value = value[0] if isinstance(value, list) and value else value
        if isinstance(value, int):
            return value
    return None


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
