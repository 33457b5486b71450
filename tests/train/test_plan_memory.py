"""The closed form against recorded simulations of the whole space, and against measurements of real cards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from train.base import facts_of_config
from train.catalog import known
from train.planning.memory import Step, peaks
from train.planning.shapes import SHAPES, shape_of
from train.planning.simulated import Shape

DATA = Path(__file__).parent.parent / "data"


def recorded(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((DATA / name).read_text(encoding="utf-8"))["rows"]
    return found


def closed_form(base: str, shape: Shape) -> int:
    facts = shape_of(base)
    linears = [linear for linear in facts.linears if linear.name in shape.targets]
    whole = shape.uncheckpointed_layers if shape.checkpointing else facts.layers
    dpo = shape.stage == "dpo"
    step = Step(
        device=shape.device,
        stage=shape.stage,
        rows=shape.micro_batch_size * (2 if dpo else 1),
        length=shape.length,
        packed=shape.packing and not dpo,
        accumulates=shape.accumulates,
        rank=shape.rank,
        modules={linear.name: shape.rank * (linear.inputs + linear.outputs) * linear.count for linear in linears},
        sides=tuple(shape.rank * side for linear in linears for side in (linear.inputs, linear.outputs)),
        dropout=shape.dropout and not dpo,
        optimizer=shape.optimizer,
        checkpointed=facts.layers - whole,
        whole=whole,
    )
    return round(max(sum(memory.values()) for memory in peaks(facts, step).values()))


def test_the_closed_form_is_within_half_a_percent_of_two_hundred_simulations() -> None:
    errors = []
    for row in recorded("simulations.json"):
        shape = Shape.model_validate_json(json.dumps({"config": {}, **row["shape"]}))
        errors.append(abs(closed_form(row["base"], shape) / row["peak_bytes"] - 1))
    assert len(errors) >= 200
    assert max(errors) < 0.005
    assert sum(errors) / len(errors) < 0.001


def test_simulations_of_foreign_training_are_near_what_was_measured_on_t4_cards() -> None:
    """Twenty-one QLoRA runs on a Tesla T4, none of them used to tune anything; see the file for their source."""
    workspaces = 2 * (4096 * 1024 * 2 + 16 * 1024 * 8)  # PyTorch's default for cuBLAS: one forward, one backward
    rows = recorded("fitcheck_t4.json")
    errors = [(row["simulated_bytes"] + workspaces) / (row["peak_allocated_mib"] * 2**20) - 1 for row in rows]
    assert len(errors) == 21
    assert max(map(abs, errors)) < 0.015
    assert sum(map(abs, errors)) / len(errors) < 0.006


@pytest.mark.parametrize("base", SHAPES)
def test_the_sizes_of_known_models_give_their_number_of_parameters(base: str) -> None:
    entry = known(base)
    assert entry is not None
    assert facts_of_config(SHAPES[base]).parameters == entry.parameters
