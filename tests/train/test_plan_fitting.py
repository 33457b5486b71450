"""What a memory has room for, how little checkpointing that allows, and what is said where a recipe does not fit."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.planning.fitting import MARGIN, least_checkpointed, misfit, room
from train.planning.plan import BaseFacts, plan, shape_of
from train.recipe import Base, Recipe, Source

GIB = 2**30
LLAMA = "meta-llama/Llama-3.1-8B"


def recipe(**changes: Any) -> Recipe:
    sources = (Source(name="a", path="a.jsonl"), Source(name="b", path="b.jsonl", use="preference"))
    return Recipe(**{"base": Base(model="base"), "sources": sources, "examples": 1600, **changes})


@pytest.fixture(scope="module")
def llama() -> BaseFacts:
    return shape_of(LLAMA)


@pytest.mark.parametrize("base", [LLAMA, "mistralai/Mistral-7B-v0.3", "Qwen/Qwen2.5-7B"])
def test_room_is_the_largest_that_fits_and_one_more_does_not(base: str) -> None:
    facts, limit = shape_of(base), 11 * GIB
    chosen = recipe(max_length=1024, batch_size=48, gradient_checkpointing=True, rank=32)
    found = room(chosen, facts, "cuda", limit)

    def fits(**changes: int) -> bool:
        return plan(chosen.model_copy(update=changes), facts, "cuda").fits(limit)

    sizes = [size for size in range(1, 49) if 48 % size == 0]
    assert found.micro_batch_size in sizes[1:-1]
    assert fits(micro_batch_size=found.micro_batch_size)
    assert not fits(micro_batch_size=sizes[sizes.index(found.micro_batch_size) + 1])
    assert fits(max_length=found.max_length)
    assert not fits(max_length=found.max_length + 1)
    assert fits(uncheckpointed_layers=found.uncheckpointed_layers)
    assert not fits(uncheckpointed_layers=found.uncheckpointed_layers + 1)


def test_nothing_has_room_in_too_little_memory(llama: BaseFacts) -> None:
    chosen = recipe(gradient_checkpointing=True)
    assert room(chosen, llama, "cuda", 4 * GIB) == (0, 0, 0)
    assert room(recipe(max_length=256), llama, "cuda", 16 * GIB).uncheckpointed_layers == 0  # all are already


# What a misfit is told


def test_a_misfit_is_told_the_largest_batch_that_fits_and_that_one_does(llama: BaseFacts) -> None:
    chosen = recipe(max_length=2048, micro_batch_size=8, gradient_checkpointing=True)
    said = misfit(chosen, llama, "cuda", 10 * GIB)
    assert "in the sft stage (weights 5.31 GiB, " in said
    assert said.endswith(
        "and may have 10.00 GiB: the largest batch that fits is micro_batch_size = 2 with max_length = 2048"
    )
    assert misfit(chosen.model_copy(update={"micro_batch_size": 2}), llama, "cuda", 10 * GIB) == ""


def test_a_misfit_without_checkpointing_is_told_what_fits_with_it(llama: BaseFacts) -> None:
    said = misfit(recipe(max_length=2048), llama, "cuda", 10 * GIB)
    assert (
        "the largest batch that fits, every layer checkpointed, is micro_batch_size = 2 with max_length = 2048" in said
    )


def test_a_misfit_whose_rows_are_too_long_is_told_the_longest(llama: BaseFacts) -> None:
    chosen = recipe(max_length=16384, gradient_checkpointing=True)
    said = misfit(chosen, llama, "cuda", 10 * GIB)
    length = int(said.rpartition(" ")[2])
    assert f"micro_batch_size = 1 with max_length = {length}" in said
    assert misfit(chosen.model_copy(update={"max_length": length}), llama, "cuda", 10 * GIB) == ""
    assert misfit(chosen.model_copy(update={"max_length": length + 1}), llama, "cuda", 10 * GIB) != ""


def test_where_nothing_fits_that_is_said(llama: BaseFacts) -> None:
    said = misfit(recipe(), llama, "cuda", 4 * GIB)
    assert "not even one short row fits; take a smaller base model, a lower rank, or a card with more memory" in said


# Checkpointing that the plan chooses


recipes = st.builds(
    recipe,
    rank=st.sampled_from([4, 16, 128]),
    targets=st.sampled_from(["all-linear", "attention"]),
    max_length=st.integers(64, 4096),
    micro_batch_size=st.sampled_from([1, 2, 4]),
    dpo_share=st.sampled_from([0.0, 0.2]),
)


@given(recipes, st.floats(5.0, 40.0))
def test_as_few_layers_as_possible_are_checkpointed(chosen: Recipe, gib: float) -> None:
    facts, limit = shape_of(LLAMA), int(gib * GIB)
    made = least_checkpointed(chosen, facts, "cuda", limit)
    allowed = int((1 - MARGIN) * limit)

    def fits(count: int) -> bool:
        tried = chosen.model_copy(update={"gradient_checkpointing": True, "uncheckpointed_layers": count})
        return plan(tried, facts, "cuda").fits(allowed)

    Recipe.model_validate(made.model_dump())  # it is a recipe that somebody could have written
    count = made.uncheckpointed_layers if made.gradient_checkpointing else facts.layers
    assert count == 0 or fits(count)
    assert count == facts.layers or not fits(count + 1)
    assert made.model_copy(update={"gradient_checkpointing": False, "uncheckpointed_layers": 0}) == chosen
    assert least_checkpointed(made, facts, "cuda", limit) == made  # and the choice does not depend on what was there


def test_without_a_limit_nothing_is_checkpointed(llama: BaseFacts) -> None:
    made = least_checkpointed(recipe(gradient_checkpointing=True), llama, "cpu", None)
    assert (made.gradient_checkpointing, made.uncheckpointed_layers) == (False, 0)
