from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_train import make_recipe, make_splits, tokenizer, write_llama

from train import model
from train.loop import train
from train.model import LoadedBase, drop_adapter, fresh_adapter, load_adapter, load_base, write_adapter
from train.planning.plan import inspect_base, plan
from train.recipe import Base, Recipe, RecipeError
from train.rundir import RunDir
from train.targets import TARGET_MODULES

IDS = torch.arange(3, 43).reshape(2, 20)


def linears(loaded: LoadedBase) -> list[Any]:
    return [module for module in loaded.model.modules() if isinstance(module, bnb.nn.Linear4bit)]


def test_the_base_is_nf4_with_double_quantization_frozen_and_in_sdpa(base: LoadedBase) -> None:
    assert len(linears(base)) == 14
    for module in linears(base):
        state = module.weight.quant_state
        assert (state.quant_type, state.nested, module.compute_dtype) == ("nf4", True, torch.float32)
        assert not module.support_avx512bf16_for_cpu
    assert base.model.config._attn_implementation == "sdpa"
    assert not base.model.training
    assert not any(p.requires_grad for p in base.model.parameters())
    assert base.context == 2048
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("dora", [False, True])
def test_gradients_are_the_same_after_an_evaluation(base: LoadedBase, recipe: Recipe, dora: bool) -> None:
    adapted = fresh_adapter(base, recipe.model_copy(update={"dropout": 0.0, "use_dora": dora}))

    def gradients() -> list[torch.Tensor]:
        adapted.zero_grad()
        adapted.train()
        adapted(input_ids=IDS, labels=IDS).loss.backward()
        return [p.grad.clone() for p in model.adapter_parameters(adapted).values() if p.grad is not None]

    before = gradients()
    adapted.eval()
    with torch.no_grad():
        adapted(input_ids=IDS)
    assert all(map(torch.equal, before, gradients()))
    drop_adapter(adapted)


def test_an_adapter_is_float32_and_a_function_of_the_seed(base: LoadedBase, recipe: Recipe) -> None:
    made = []
    for seed in (1, 1, 2):
        adapted = fresh_adapter(base, recipe.model_copy(update={"seed": seed}))
        made.append(model.adapter_tensors(adapted))
        drop_adapter(adapted)
    assert all(tensor.dtype == torch.float32 for tensor in made[0].values())
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])
    assert not all(torch.equal(made[0][name], made[2][name]) for name in made[0])


@pytest.mark.parametrize(
    ("targets", "modules", "per_rank_and_layer"),
    [
        ("attention-qv", {"q_proj", "v_proj"}, 128 + 96),
        ("attention", {"q_proj", "k_proj", "v_proj", "o_proj"}, 128 + 96 + 96 + 128),
        ("mlp", {"gate_proj", "up_proj", "down_proj"}, 3 * 192),
        (("v_proj", "q_proj"), {"q_proj", "v_proj"}, 128 + 96),
        (r".*\.(q|v)_proj", {"q_proj", "v_proj"}, 128 + 96),
    ],
)
def test_targets_name_the_modules(
    base: LoadedBase, base_folder: Path, targets: object, modules: set[str], per_rank_and_layer: int
) -> None:
    adapted = fresh_adapter(base, make_recipe(base_folder, targets=targets, rank=8))
    config = adapted.peft_config["default"]
    assert config.target_modules == modules
    assert (config.r, config.lora_alpha) == (8, 16)
    assert model.trainable_parameters(adapted) == 8 * 2 * per_rank_and_layer
    drop_adapter(adapted)


@pytest.mark.parametrize(
    ("targets", "modules"),
    [
        (r".*\.1\..*(q_proj|up_proj)", ["model.layers.1.mlp.up_proj", "model.layers.1.self_attn.q_proj"]),
        (["layers.0.mlp.down_proj"], ["model.layers.0.mlp.down_proj"]),
        (r".*", "all-linear"),  # the head is not among them
    ],
)
def test_targets_pick_single_modules_and_the_plan_counts_the_same(
    base: LoadedBase, base_folder: Path, targets: object, modules: object
) -> None:
    recipe = make_recipe(base_folder, targets=targets, use_dora=True)
    expected = sorted(TARGET_MODULES[modules]) if isinstance(modules, str) else modules
    assert model.target_modules(base.model, recipe.targets) == expected
    adapted = fresh_adapter(base, recipe)
    planned = plan(recipe, inspect_base(str(base_folder)), "cpu")
    assert planned.trainable_parameters == model.trainable_parameters(adapted)
    drop_adapter(adapted)


def test_targets_that_the_model_lacks_name_those_it_has() -> None:
    other = torch.nn.ModuleDict({"query_key_value": torch.nn.Linear(2, 2), "dense": torch.nn.Linear(2, 2)})
    with pytest.raises(RecipeError, match=r"q_proj, v_proj.*its linear modules are dense, query_key_value"):
        model.target_modules(other, "attention-qv")


def everything(loaded: LoadedBase) -> dict[str, object]:
    """All that a later trial could notice: modules, their attributes and hooks, weights, configurations."""
    found: dict[str, object] = {}
    for name, module in loaded.model.named_modules():
        for key, value in vars(module).items():
            found[f"{name}.{key}"] = list(value) if key in ("_modules", "_parameters", "_buffers") else repr(value)
    for name, tensor in loaded.model.state_dict().items():
        found[f"{name} data"] = tensor.clone().numpy().tobytes()
    for name, parameter in loaded.model.named_parameters():
        found[f"{name} grad"] = (parameter.requires_grad, parameter.grad is None, parameter.dtype)
    found["config"] = loaded.model.config.to_dict()
    found["generation"] = loaded.model.generation_config.to_dict()
    return found


@pytest.mark.parametrize("settings", [{}, {"use_dora": True, "uncheckpointed_layers": 1, "neftune_alpha": 5.0}])
def test_dropping_restores_the_base_exactly(
    base: LoadedBase, both: Recipe, tmp_path: Path, settings: dict[str, object]
) -> None:
    before = everything(base)
    recipe = both.model_copy(update={"gradient_checkpointing": True, **settings})
    trained = train(recipe, RunDir(tmp_path), base, splits=make_splits(recipe))
    drop_adapter(trained.model)
    after = everything(base)
    assert {key for key in before | after if before.get(key) != after.get(key)} == set()


def test_a_model_that_was_trained_generates_with_its_cache(base: LoadedBase, both: Recipe, tmp_path: Path) -> None:
    trained = train(both, RunDir(tmp_path), base, splits=make_splits(both))
    assert trained.model.config.use_cache
    assert not trained.model.training
    assert list(trained.model.peft_config) == ["default"]
    drop_adapter(trained.model)


def test_an_adapter_is_written_in_pefts_format_and_comes_back(
    base: LoadedBase, recipe: Recipe, base_folder: Path, tmp_path: Path
) -> None:
    adapted = fresh_adapter(base, recipe)
    for parameter in model.adapter_parameters(adapted).values():
        torch.nn.init.normal_(parameter)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_adapter(adapted, tmp_path / name)
    with torch.no_grad():
        expected = adapted.eval()(input_ids=IDS).logits
    drop_adapter(adapted)

    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == ["adapter_config.json", "adapter_model.safetensors"]
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in files)
    config = json.loads((tmp_path / "one" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base_folder)
    assert config["target_modules"] == sorted(config["target_modules"])

    again = load_adapter(base, tmp_path / "one")
    with torch.no_grad():
        assert torch.equal(again(input_ids=IDS).logits, expected)
    assert model.trainable_parameters(again) == 0
    drop_adapter(again)


def test_an_adapter_that_is_not_there_or_does_not_fit_is_refused(
    base: LoadedBase, recipe: Recipe, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match="holds no adapter"):
        load_adapter(base, tmp_path)
    adapted = fresh_adapter(base, recipe)
    write_adapter(adapted, tmp_path)
    drop_adapter(adapted)
    weights = tmp_path / "adapter_model.safetensors"
    save_file({name: tensor[:, :3].contiguous() for name, tensor in load_file(weights).items()}, weights)
    with pytest.raises(RecipeError, match="does not fit"):
        load_adapter(base, tmp_path)


# The pad token


@pytest.mark.parametrize(
    ("tokens", "specials", "chosen"),
    [
        ({}, (), "<pad>"),
        ({"pad_token": "<eos>"}, ("<|start|>", "<|fim_pad|>"), "<pad>"),
        ({"pad_token": None, "unk_token": None}, ("<|reserved_special_token_0|>",), "<pad>"),
    ],
)
def test_pad_is_not_eos_where_the_tokenizer_knows_another(
    tokens: dict[str, str | None], specials: tuple[str, ...], chosen: str
) -> None:
    made = tokenizer(specials, **tokens)
    model.choose_pad_token(made, 300)
    assert made.pad_token == chosen
    assert made.pad_token_id != made.eos_token_id


class Tokens:
    """A tokenizer as far as choose_pad_token looks at it."""

    def __init__(self, specials: list[str], pad: str | None, unk: str | None) -> None:
        self.added_tokens_decoder = dict(enumerate(specials))
        self.pad_token, self.unk_token, self.eos_token = pad, unk, "<eos>"

    def convert_tokens_to_ids(self, token: str) -> int:
        return {token: i for i, token in self.added_tokens_decoder.items()}[token]


@pytest.mark.parametrize(
    ("specials", "pad", "unk", "chosen"),
    [
        (["<eos>", "<|im_start|>", "<|fim_pad|>"], "<eos>", None, "<|fim_pad|>"),  # Qwen2.5
        (["<s>", "<eos>", "<unk>"], None, "<unk>", "<unk>"),  # Mistral
        (["<eos>", "<|reserved_special_token_0|>"], None, None, "<|reserved_special_token_0|>"),
        (["<eos>"], None, None, "<eos>"),
        (["<eos>", "a", "b", "c", "<late pad>"], None, None, "<eos>"),  # beyond the embeddings
    ],
)
def test_what_stands_in_for_a_pad_token(specials: list[str], pad: str | None, unk: str | None, chosen: str) -> None:
    made = Tokens(specials, pad, unk)
    model.choose_pad_token(made, 4)
    assert made.pad_token == chosen


# What cannot be loaded


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_llama(tmp_path / "base")


def refused(folder: Path, match: str, device: str = "cpu") -> None:
    with pytest.raises(RecipeError, match=match):
        load_base(Base(model=str(folder)), threads=1, device=device)


def test_a_missing_folder_and_an_unknown_device_are_refused(tmp_path: Path, base_folder: Path) -> None:
    refused(tmp_path / "nowhere", "does not exist")
    refused(base_folder, "device 'tpu' is unknown; give one of cpu, cuda", "tpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_is_refused_where_there_is_none(base_folder: Path) -> None:
    refused(base_folder, "sees no CUDA device.*set device = 'cpu'", "cuda")


def test_missing_weights_are_not_made_up(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    refused(folder, r"lacks 1 of the model's weights \(model.layers.1.mlp.up_proj.weight\)")


def test_a_broken_tokenizer_is_one_sentence(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    refused(folder, "cannot be loaded on cpu: ")


def test_a_model_that_was_tuned_for_chat_is_refused_unless_allowed(folder: Path) -> None:
    chat = folder.rename(folder.with_name("base-chat"))
    refused(chat, r"base-chat is no base model, .*: its name, base-chat, says chat.*set allow_instruct = true")
    load_base(Base(model=str(chat), allow_instruct=True), threads=1, device="cpu")


def test_a_models_own_code_does_not_run(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "odd", "architectures": ["OddForCausalLM"]}
    config["auto_map"] = {"AutoConfig": "odd.OddConfig", "AutoModelForCausalLM": "odd.OddForCausalLM"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "odd.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    refused(folder, "cannot be loaded on cpu: ")
    assert not (tmp_path / "ran").exists()


def test_peft_is_asked_for_nothing_but_plain_lora(base: LoadedBase, recipe: Recipe) -> None:
    adapted = fresh_adapter(base, recipe)
    assert isinstance(adapted, peft.PeftModelForCausalLM)
    assert all("lora_A" in name or "lora_B" in name for name in model.adapter_parameters(adapted))
    assert {p.requires_grad for p in model.adapter_parameters(adapted).values()} == {True}
    drop_adapter(adapted)
