"""What a recipe can say about LoRA, its optimizer and its memory: each does what it says, and goes on bit for bit."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import peft
import pytest
import torch
from safetensors.torch import load_file
from tiny_train import make_recipe, make_splits

from train import model
from train.loop import StepFacts, Unwatched, train
from train.model import LoadedBase, adapter_parameters, checkpoint_layers, drop_adapter, fresh_adapter, load_adapter
from train.recipe import DPOLoss, Recipe
from train.rundir import RunDir
from train.stage import make_optimizer

IDS = torch.arange(3, 43).reshape(2, 20)


class Stop(Unwatched):
    """Notes the losses, and stops after `step`."""

    def __init__(self, step: int | None = None) -> None:
        self.at, self.losses = step, list[float]()

    def step(self, facts: StepFacts) -> None:
        self.losses.append(facts.loss)

    def should_stop(self) -> bool:
        return len(self.losses) == self.at


def go(recipe: Recipe, folder: Path, base: LoadedBase, stop_after: int | None = None) -> list[float]:
    """Train, drop the adapter again, and return the loss of each step."""
    watch = Stop(stop_after)
    splits = make_splits(recipe)
    trained = train(recipe, RunDir(folder), base, watch=watch, splits=splits, rungs=(), checkpoint_every_s=1e9)
    drop_adapter(trained.model)
    return watch.losses


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(RunDir(folder).adapter / "adapter_model.safetensors")


def equal(some: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    return some.keys() == others.keys() and all(torch.equal(some[name], others[name]) for name in some)


SETTINGS: dict[str, dict[str, Any]] = {
    "dora": {"use_dora": True, "weight_decay": 0.1},
    "rslora": {"use_rslora": True},
    "loraplus": {"loraplus_ratio": 16.0},
    "loraplus in 8 bits": {"loraplus_ratio": 16.0, "optimizer": "adamw_8bit", "rank": 64},
    "neftune": {"neftune_alpha": 5.0},
    "neftune in padded rows": {"neftune_alpha": 5.0, "packing": False},
    "one layer uncheckpointed": {"gradient_checkpointing": True, "uncheckpointed_layers": 1},
    "wsd": {"schedule": "wsd", "decay": 0.5, "adam_beta2": 0.95},
    "pattern": {"targets": r".*\.1\..*(q_proj|up_proj)"},
}


WITH_STATE = ("dora", "loraplus in 8 bits", "neftune", "neftune in padded rows", "one layer uncheckpointed")


@pytest.mark.parametrize("name", WITH_STATE)
def test_a_run_goes_on_bit_for_bit(base: LoadedBase, base_folder: Path, tmp_path: Path, name: str) -> None:
    recipe = make_recipe(base_folder, examples=8, **SETTINGS[name])
    losses = go(recipe, tmp_path / "whole", base)
    assert go(recipe, tmp_path / "parts", base, stop_after=1) + go(recipe, tmp_path / "parts", base) == losses
    assert equal(weights(tmp_path / "parts"), weights(tmp_path / "whole"))


def test_dora_goes_on_bit_for_bit_in_dpo(base: LoadedBase, base_folder: Path, tmp_path: Path) -> None:
    recipe = make_recipe(base_folder, examples=12, dpo_share=0.6, use_dora=True)
    losses = go(recipe, tmp_path / "whole", base)
    assert go(recipe, tmp_path / "parts", base, stop_after=2) + go(recipe, tmp_path / "parts", base) == losses
    assert equal(weights(tmp_path / "parts"), weights(tmp_path / "whole"))


@pytest.mark.parametrize("name", ["dora", "rslora", "loraplus", "neftune", "wsd", "pattern"])
def test_a_setting_changes_the_weights(base: LoadedBase, base_folder: Path, tmp_path: Path, name: str) -> None:
    plain, other = make_recipe(base_folder, examples=8), make_recipe(base_folder, examples=8, **SETTINGS[name])
    go(plain, tmp_path / "plain", base)
    go(other, tmp_path / "other", base)
    plain_weights, other_weights = weights(tmp_path / "plain"), weights(tmp_path / "other")
    shared = plain_weights.keys() & other_weights.keys()
    assert not all(torch.equal(plain_weights[key], other_weights[key]) for key in shared)


def test_rslora_scales_by_the_root_of_the_rank(base: LoadedBase, base_folder: Path) -> None:
    for use, scale in ((False, 2.0), (True, 2.0 * math.sqrt(16))):
        adapted = fresh_adapter(base, make_recipe(base_folder, rank=16, alpha_ratio=2.0, use_rslora=use))
        layer = next(module for module in adapted.modules() if isinstance(module, peft.tuners.lora.LoraLayer))
        assert layer.scaling["default"] == pytest.approx(scale)
        drop_adapter(adapted)


# DoRA


def test_dora_begins_as_the_base_and_learns_magnitudes_in_float32(base: LoadedBase, base_folder: Path) -> None:
    with torch.no_grad():
        before = base.model(input_ids=IDS).logits
    adapted = fresh_adapter(base, make_recipe(base_folder, use_dora=True, targets="attention-qv"))
    parameters = adapter_parameters(adapted)
    magnitudes = {name: p for name, p in parameters.items() if name.endswith(".lora_magnitude_vector")}
    assert len(magnitudes) == 2 * 2
    assert sum(p.numel() for p in magnitudes.values()) == 2 * (64 + 32)
    assert {p.dtype for p in parameters.values()} == {torch.float32}
    with torch.no_grad():
        assert torch.equal(adapted.eval()(input_ids=IDS).logits, before)
    adapted.train()(input_ids=IDS, labels=IDS).loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in magnitudes.values())
    drop_adapter(adapted)


def test_a_dora_adapter_has_pefts_names_and_comes_back(base: LoadedBase, base_folder: Path, tmp_path: Path) -> None:
    adapted = fresh_adapter(base, make_recipe(base_folder, use_dora=True))
    with torch.no_grad():
        for parameter in adapter_parameters(adapted).values():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
        expected = adapted.eval()(input_ids=IDS).logits
    assert adapter_parameters(adapted).keys() == peft.get_peft_model_state_dict(adapted).keys()
    model.write_adapter(adapted, tmp_path)
    drop_adapter(adapted)
    again = load_adapter(base, tmp_path)
    with torch.no_grad():
        assert torch.equal(again(input_ids=IDS).logits, expected)
    drop_adapter(again)


# LoRA+


def groups(recipe: Recipe, adapted: Any) -> list[tuple[float, float, set[str]]]:
    """Learning rate, weight decay and kinds of weight of each of the optimizer's groups."""
    kinds = {id(p): name.split("lora_")[1].split(".")[0] for name, p in adapter_parameters(adapted).items()}
    optimizer = make_optimizer(recipe, adapter_parameters(adapted), 1e-3)
    return [(g["lr"], g["weight_decay"], {kinds[id(p)] for p in g["params"]}) for g in optimizer.param_groups]


def test_b_learns_faster_by_the_ratio_and_magnitudes_do_not_decay(base: LoadedBase, base_folder: Path) -> None:
    recipe = make_recipe(base_folder, use_dora=True, weight_decay=0.1)
    adapted = fresh_adapter(base, recipe)
    assert groups(recipe, adapted) == [(1e-3, 0.1, {"A", "B"}), (1e-3, 0.0, {"magnitude_vector"})]
    faster = recipe.model_copy(update={"loraplus_ratio": 4.0})
    expected = [(1e-3, 0.1, {"A"}), (4e-3, 0.1, {"B"}), (1e-3, 0.0, {"magnitude_vector"})]
    assert groups(faster, adapted) == expected
    drop_adapter(adapted)


# Gradient checkpointing


def gradients(base: LoadedBase, recipe: Recipe, *, late: bool = False) -> tuple[list[torch.Tensor], list[bool]]:
    """The adapter's gradients, and for each decoder layer whether it was checkpointed."""
    adapted = fresh_adapter(base, recipe)
    layers = [layer for layer in base.model.modules() if isinstance(layer, model.GradientCheckpointingLayer)]
    with model.untouched(base.model):
        if not late:
            checkpoint_layers(adapted, recipe)
        if recipe.gradient_checkpointing:
            base.model.activation_checkpointing_enable()
            base.model.activation_checkpointing_disable()  # as TRL does around the reference
            base.model.activation_checkpointing_enable()
        if late:
            checkpoint_layers(adapted, recipe)
        for layer in layers:
            layer.train()
        adapted(input_ids=IDS, labels=IDS).loss.backward()
        switched = [bool(layer.gradient_checkpointing) for layer in layers]
    found = [p.grad for p in adapter_parameters(adapted).values()]
    drop_adapter(adapted)
    assert not any(layer.gradient_checkpointing for layer in layers)
    return found, switched


def test_gradients_are_equal_with_whole_partial_and_no_checkpointing(base: LoadedBase, base_folder: Path) -> None:
    recipe = make_recipe(base_folder, dropout=0.0)
    none, switched = gradients(base, recipe)
    assert switched == [False, False]
    assert any(gradient.any() for gradient in none)
    for left_out, late in ((0, False), (1, False), (1, True), (2, False), (9, True)):
        update = {"gradient_checkpointing": True, "uncheckpointed_layers": left_out}
        found, switched = gradients(base, recipe.model_copy(update=update), late=late)
        assert switched == [layer < 2 - left_out for layer in range(2)]
        assert all(torch.allclose(a, b, rtol=1e-6, atol=1e-9) for a, b in zip(found, none, strict=True))


def test_an_uncheckpointed_layer_is_computed_once(base: LoadedBase, base_folder: Path, tmp_path: Path) -> None:
    """Over whole runs with a DPO stage: what is left out stays left out while TRL switches for the reference."""
    first, last = (layer.mlp for layer in base.model.model.layers)
    calls = {"first": 0, "last": 0}

    def counted(name: str) -> Any:
        return lambda *_: calls.update({name: calls[name] + torch.is_grad_enabled()})

    hooks = [first.register_forward_pre_hook(counted("first")), last.register_forward_pre_hook(counted("last"))]
    recipe = make_recipe(base_folder, examples=16, dpo_share=0.5, gradient_checkpointing=True, uncheckpointed_layers=1)
    go(recipe, tmp_path, base)
    for hook in hooks:
        hook.remove()
    assert calls["first"] == 2 * calls["last"] > 0


# DPO's losses

AT_THE_REFERENCE = {  # of a pair that policy and reference see alike, with beta 0.1
    "sigmoid": math.log(2),
    "sigmoid_norm": math.log(2),
    "hinge": 1.0,
    "ipo": (1 / 0.2) ** 2,
    "apo_zero": 1.0,
    "apo_down": 1.0,
    "bco_pair": 2 * math.log(2),
    "nca_pair": 2 * math.log(2),
    "sppo_hard": 2 * (0.5 / 0.1) ** 2,
    "discopop": 0.5 * math.log(2) + 0.5,
}


@pytest.mark.parametrize("loss", get_args(DPOLoss))
def test_each_dpo_loss_begins_where_it_should_and_falls(
    base: LoadedBase, base_folder: Path, tmp_path: Path, loss: str
) -> None:
    recipe = make_recipe(base_folder, examples=12, dpo_share=0.6, dpo_loss=loss, dpo_learning_rate=1e-2, warmup=0.0)
    splits = make_splits(recipe)
    assert splits.dpo is not None
    one = splits.dpo.select([0, 1, 2, 3] * 2)  # the same pairs in each step
    watch = Stop()
    trained = train(recipe, RunDir(tmp_path), base, watch=watch, splits=replace(splits, dpo=one), rungs=())
    drop_adapter(trained.model)
    _, first, last = watch.losses
    assert first == pytest.approx(AT_THE_REFERENCE[loss], rel=1e-4)
    assert last < first
