"""Training in less memory: what each way saves, and that it is the same training, resumes included."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from bgpo.algorithm.elbo import Pairs, token_logprob
from bgpo.config import ConfigError, TrainConfig
from bgpo.models.adapters import AdapterSettings, FrozenReference, adapter_off, add_adapter, load_adapter
from bgpo.models.checkpoints import load_model, load_optimizer, save_checkpoint
from bgpo.models.memory import attention_for, checkpoint_layers
from bgpo.models.tiny import build_tiny
from bgpo.training import policy
from bgpo.training.machine import SavedBytes
from bgpo.training.optimizer import policy_optimizer
from bgpo.training.trainer import run
from tests.training.test_trainer import SHORT as LONGER
from tests.training.test_trainer import Recorder, easy_reward  # noqa: F401 - the fixture

SHORT = LONGER.with_values(prompts_per_step=3, eval_every=4, eval_problems=8)
LAST = "checkpoints/step-000004"
LORA = {"adapter": "lora", "lora_rank": 4, "learning_rate": 3e-3}
WAYS = {
    "bf16": {"precision": "bf16"},
    "lora": LORA,
    "lora on bf16": LORA | {"precision": "bf16"},
    "pure bf16": {"precision": "bf16_pure", "learning_rate": 1e-3},
    "checkpointing": {"activation_checkpointing": True},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("low memory")


@pytest.fixture(scope="module")
def finished(home):
    """Whole runs by name, made when first asked for."""
    made: dict[str, Recorder] = {}

    def of(name: str, **values) -> Recorder:
        if name not in made:
            made[name] = Recorder()
            run(SHORT.with_values(**values), home / name, made[name], home / "warm_starts")
            assert made[name].points["grad/norm", 4] > 0, "a run without signal proves nothing"
        return made[name]

    return of


class StopsAtStep(Recorder):
    """Asks to stop once that many steps are made."""

    def __init__(self, step: int):
        super().__init__()
        self.step = step

    def should_stop(self):
        return ("grad/norm", self.step) in self.points


def files(folder) -> dict[str, torch.Tensor]:
    return {
        f"{path.name}|{name}": tensor for path in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def assert_same_files(left, right) -> None:
    a, b = files(left), files(right)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a), "weights, masters or moments differ"


# "lora on bf16" goes through the code of both; "pure bf16" through none that "bf16" does not
ALONE = {"bf16", "lora", "pure bf16"}


@pytest.mark.parametrize("way", [pytest.param(w, marks=pytest.mark.slow if w in ALONE else ()) for w in WAYS])
def test_stopped_and_resumed_equals_uninterrupted(home, finished, tmp_path, way):
    whole = finished(way, **WAYS[way])
    first, second = StopsAtStep(3), Recorder()
    config = SHORT.with_values(**WAYS[way])
    run(config, tmp_path / "run", first, home / "warm_starts")
    assert first.saved[-1][:2] == (3, "stop")
    assert run(config, tmp_path / "run", second, home / "warm_starts").status == "finished"
    assert_same_files(tmp_path / "run" / LAST, home / way / LAST)
    assert (first.reproducible | second.reproducible).items() <= whole.reproducible.items()


def test_masters_keep_the_steps_that_bfloat16_rounds_away(home, finished):
    finished("tiny steps", precision="bf16", learning_rate=1e-7)
    before, after = files(home / "tiny steps/checkpoints/step-000000"), files(home / "tiny steps" / LAST)
    name = "model.layers.0.mlp.down_proj.weight"
    weight, master = (after[f"{file}|{key}"] for file, key in (
        ("model.safetensors", name), ("optimizer.safetensors", f"{name}|master"),
    ))
    assert weight.dtype == torch.bfloat16 and master.dtype == torch.float32
    assert torch.equal(weight, master.bfloat16()), "the weights are not the rounded masters"
    start = before[f"model.safetensors|{name}"]
    assert (weight != start).float().mean() < 0.05 < (master != start.float()).float().mean()


def test_gradients_of_many_passes_add_up_in_float32():
    """Added in bfloat16, a thousand equal parts would stop growing at a few hundred of them."""
    weight = torch.nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)
    optimizer, masters = policy_optimizer(weight, SHORT.with_values(precision="bf16"))
    for _ in range(1000):
        weight(torch.ones(1, 1, dtype=torch.bfloat16)).sum().backward()
    assert masters.by_name["weight"].grad.item() == 1000 and weight.weight.grad is None
    optimizer.zero_grad(set_to_none=True)
    assert masters.by_name["weight"].grad is None


def test_an_adapter_checkpoint_is_small_and_peft_reads_it(home, finished):
    finished("lora", **LORA)
    folder = home / "lora" / LAST
    assert not (folder / "model.safetensors").exists()
    adapter = (folder / "adapter_model.safetensors").stat().st_size
    assert adapter < 0.15 * (home / "lora/base/model.safetensors").stat().st_size
    base = LlamaForCausalLM.from_pretrained(home / "lora/base")
    other = PeftModel.from_pretrained(base, str(folder)).eval().base_model.model
    ours = load_model(folder)
    ids = torch.randint(3, 50, (2, 13), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        got = ours.logits(ours.hidden(ids))
        assert torch.equal(got, other.lm_head(other.model(input_ids=ids).last_hidden_state))
        with adapter_off(ours.model):
            assert not torch.equal(got, ours.logits(ours.hidden(ids))), "the adapter has learned nothing"


def test_a_moved_run_folder_still_finds_its_base(home, finished, tmp_path):
    finished("lora", **LORA)
    import shutil

    shutil.copytree(home / "lora", tmp_path / "moved")
    config = tmp_path / "moved" / LAST / "adapter_config.json"
    shutil.rmtree(tmp_path / "moved/base")
    assert "base_model_name_or_path" in config.read_text()
    load_model(tmp_path / "moved" / LAST)  # by the name in its config
    shutil.copytree(home / "lora/base", tmp_path / "moved/base")
    shutil.move(home / "lora/base", home / "lora/elsewhere")
    try:
        load_model(tmp_path / "moved" / LAST)  # by its place
        with pytest.raises(ValueError, match="is an adapter, and the model it belongs to is not at"):
            load_model(home / "lora" / LAST)
    finally:
        shutil.move(home / "lora/elsewhere", home / "lora/base")


def test_kl_to_the_start_needs_no_second_copy_under_an_adapter(home, finished, monkeypatch):
    """The reference is the model with the adapter off: the same run as with a copy made at the start."""
    kl = LORA | {"kl_coefficient": 0.1, "updates_per_rollout": 2}
    shared = finished("kl", **kl)
    assert shared.points["kl/reference", 4] > 0

    def copied(config, model, step, checkpoints):
        assert isinstance(policy.reference_policy(config, model, step, checkpoints), FrozenReference)
        base = load_model(home / "kl copied/base")
        return base.with_model(copy.deepcopy(base.model))

    monkeypatch.setattr("bgpo.training.trainer.reference_policy", copied)
    assert finished("kl copied", **kl).reproducible == shared.reproducible
    assert_same_files(home / "kl copied" / LAST, home / "kl" / LAST)


def test_switching_the_adapter_off_leaves_it_as_it_was():
    model = build_tiny(torch.Generator().manual_seed(0))
    add_adapter(model.model, AdapterSettings(4, 8, 0.0, "attention"), "somewhere", torch.Generator().manual_seed(1))
    trained = {name for name, p in model.model.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in name and "self_attn" in name for name in trained)
    with adapter_off(model.model):
        pass
    assert {name for name, p in model.model.named_parameters() if p.requires_grad} == trained


def test_an_adapter_that_does_not_fit_is_refused_in_a_sentence(home, finished):
    finished("lora", **LORA)
    model = build_tiny(torch.Generator().manual_seed(0)).model
    del model.model.layers[2]
    with pytest.raises(ValueError, match="does not fit its base model"):
        load_adapter(model, home / "lora" / LAST)


def test_activation_checkpointing_is_the_same_run_in_less_memory(home, finished):
    plain, saving = finished("plain"), finished("checkpointing", **WAYS["checkpointing"])
    assert saving.reproducible == plain.reproducible
    assert_same_files(home / "checkpointing" / LAST, home / "plain" / LAST)
    assert saving.points["memory/saved_mb", 1] < 0.4 * plain.points["memory/saved_mb", 1]


@pytest.mark.parametrize("training", [True, False])
def test_layers_are_computed_again_whatever_the_mode_and_only_for_gradients(training):
    """transformers checkpoints in training mode alone, and drops caches there without a word."""
    model = build_tiny(torch.Generator().manual_seed(0))
    checkpoint_layers(model.model)
    model.model.train(training)
    calls = []
    for layer in model.model.model.layers:
        layer.input_layernorm.register_forward_hook(lambda *_: calls.append(1))
    ids = torch.randint(3, 50, (2, 16))
    with torch.no_grad():
        cache = model.model.model(input_ids=ids, use_cache=True).past_key_values
    assert len(calls) == 3 and cache.get_seq_length() == 16
    saved = SavedBytes(model.model)
    with saved:
        value = token_logprob(model, Pairs(ids[:, :8], ids[:, 8:], *[torch.ones(2, 8, dtype=torch.bool)] * 2)).sum()
    assert saved.peak_mb > 0 and len(calls) == 6
    value.backward()
    assert len(calls) == 9, "the layers were not computed again"


def test_runs_start_from_a_checkpoint_of_another(home, finished):
    plain = finished("plain")
    begun = finished("from plain", start_from=str(home / "plain" / LAST))
    assert not any(name == "warmup/loss" for name, _ in begun.points)
    names = ("from plain/checkpoints/step-000000", f"plain/{LAST}")
    left, right = (load_model(home / name).model.state_dict() for name in names)
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert begun.points["reward/heldout_greedy", 0] == plain.points["reward/heldout_greedy", 4]


def test_an_adapter_that_a_run_starts_from_becomes_part_of_the_weights(home, finished):
    finished("lora", **LORA)
    finished("from lora", start_from=str(home / "lora" / LAST), **LORA)
    a, b = load_model(home / "from lora/checkpoints/step-000000"), load_model(home / "lora" / LAST)
    ids = torch.randint(3, 50, (2, 13))
    with torch.no_grad():
        torch.testing.assert_close(a.logits(a.hidden(ids)), b.logits(b.hidden(ids)), rtol=0, atol=1e-5)


def test_a_start_that_is_no_checkpoint_is_a_sentence(tmp_path):
    with pytest.raises(ValueError, match="is not a whole checkpoint"):
        run(SHORT.with_values(start_from=str(tmp_path)), tmp_path / "run", Recorder(), tmp_path)


@pytest.mark.parametrize("values, knob, words", [
    ({"quantization": "4bit"}, "quantization", "leaves nothing to train"),
    ({"quantization": "4bit", "adapter": "lora", "device": "cpu"}, "quantization", "needs an NVIDIA GPU"),
    ({"optimizer": "adamw8bit", "device": "cpu"}, "optimizer", "needs an NVIDIA GPU"),
    ({"precision": "bf16_pure", "learning_rate": 5e-7}, "precision", "rounds nearly every step"),
])
def test_what_cannot_be_is_refused_before_it_starts(values, knob, words):
    with pytest.raises(ConfigError) as refused:
        TrainConfig.parse(values)
    assert words in refused.value.problems[knob]


@pytest.mark.parametrize("values", [{"optimizer": "adamw8bit"}, {"quantization": "4bit", **LORA}])
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_what_needs_a_gpu_says_so_without_one(home, values, tmp_path):
    with pytest.raises(ValueError, match=r"needs an NVIDIA GPU.*to (adamw|none)\."):
        run(SHORT.with_values(**values), tmp_path / "run", Recorder(), home / "warm_starts")


def test_eight_bit_moments_are_restored_exactly(tmp_path):
    optim = pytest.importorskip("bitsandbytes").optim
    model = build_tiny(torch.Generator().manual_seed(0))

    def steps(model, optimizer, seeds):
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed)
            for parameter in model.model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.step()

    optimizer = optim.AdamW8bit(model.model.parameters(), lr=1e-3)
    steps(model, optimizer, [1, 2])
    from bgpo.models.checkpoints import TrainingState

    save_checkpoint(tmp_path / "a", model, TrainingState("training", 2, 0, 1), optimizer)
    steps(model, optimizer, [3])
    again = load_model(tmp_path / "a")
    other = optim.AdamW8bit(again.model.parameters(), lr=1e-3)
    load_optimizer(tmp_path / "a", again, other)
    steps(again, other, [3])
    assert all(torch.equal(a, b) for a, b in zip(model.model.parameters(), again.model.parameters()))


def test_frozen_weights_in_four_bits_still_carry_gradients_to_the_adapter():
    pytest.importorskip("bitsandbytes")
    from bgpo.models.quantization import quantize

    model = build_tiny(torch.Generator().manual_seed(0))
    ids = torch.randint(3, 50, (2, 16))
    with torch.no_grad():
        before = model.logits(model.hidden(ids))
    quantize(model.model)
    add_adapter(model.model, AdapterSettings(4, 8, 0.0, "all"), "somewhere", torch.Generator().manual_seed(1))
    packed = model.model.model.layers[0].mlp.up_proj.base_layer.weight
    assert packed.dtype == torch.uint8 and packed.numel() == 96 * 256 // 2
    after = model.logits(model.hidden(ids))
    assert 0 < (after - before).norm() < 0.6 * before.norm()  # a width of 96 cuts its blocks of 64 badly
    after.sum().backward()
    B = [p.grad for name, p in model.model.named_parameters() if "lora_B" in name]
    assert all(gradient is not None and gradient.abs().max() > 0 for gradient in B)


def test_attention_without_a_gpu_is_sdpa():
    assert attention_for(torch.device("cpu"), torch.bfloat16) == "sdpa"


def test_attention_on_a_gpu_is_flash_where_it_is_installed_and_can_do_the_masks(monkeypatch):
    cuda = torch.device("cuda")
    monkeypatch.setattr("bgpo.models.memory.is_flash_attn_2_available", lambda: True)
    assert attention_for(cuda, torch.bfloat16) == "flash_attention_2"
    assert attention_for(cuda, torch.float32) == attention_for(cuda, torch.bfloat16, block_causal=True) == "sdpa"
    monkeypatch.setattr("bgpo.models.memory.is_flash_attn_2_available", lambda: False)
    assert attention_for(cuda, torch.bfloat16) == "sdpa"
