from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tiny_train import LLAMA, make_recipe, make_splits, tokenizer

from train.loop import train
from train.model import LoadedBase, drop_adapter, load_base
from train.packing import ATTENTION, IGNORED, StepBatch, attend_documents, attention_of, fill, step_batch
from train.recipe import Base
from train.rundir import RunDir
from train.sft import token_losses

ARCHITECTURES = {
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA)),
    "qwen2": lambda: transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**LLAMA)),
    "mistral": lambda: transformers.MistralForCausalLM(transformers.MistralConfig(**LLAMA, sliding_window=7)),
}


@pytest.fixture(scope="module", params=sorted(ARCHITECTURES))
def any_base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedBase:
    """A tiny model of each architecture; Mistral's attention slides over 7 tokens."""
    folder = tmp_path_factory.mktemp(request.param)
    tokenizer().save_pretrained(folder)
    torch.manual_seed(0)
    ARCHITECTURES[request.param]().save_pretrained(folder)
    return load_base(Base(model=str(folder)), threads=1, device="cpu")


def rows_of(lengths: list[int], seed: int = 0) -> list[dict[str, list[int]]]:
    """Rows of these lengths, of which the first third is a prompt."""
    draw = torch.Generator().manual_seed(seed)
    rows = []
    for length in lengths:
        ids = torch.randint(3, 259, (length,), generator=draw).tolist()
        rows.append({"input_ids": ids, "labels": [IGNORED] * (length // 3 + 1) + ids[length // 3 + 1 :]})
    return rows


def losses(base: LoadedBase, batch: StepBatch) -> list[float]:
    """The loss of every learned token, sorted."""
    found: list[float] = []
    for one in batch.micro_batches:
        with torch.no_grad(), attention_of(base.model, ATTENTION if "document_lengths" in one.inputs else "sdpa"):
            found += token_losses(base, one).tolist()
    return sorted(found)


def packed(rows: list[dict[str, list[int]]], capacity: int) -> StepBatch:
    return step_batch(rows, packing=True, micro_batch_size=1, max_length=capacity, pad=0)


# Bins


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=60), capacity=st.integers(8, 80))
def test_bins_hold_every_row_once_and_no_more_than_they_may(lengths: list[int], capacity: int) -> None:
    bins = fill(lengths, capacity)
    assert sorted(index for chosen in bins for index in chosen) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in chosen) <= capacity or len(chosen) == 1 for chosen in bins)
    if max(lengths) <= capacity:
        assert len(bins) <= math.ceil(sum(lengths) / capacity) * 11 / 9 + 2  # loose: the optimum may be larger
    assert bins == fill(tuple(lengths), capacity)


@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=20), size=st.integers(1, 5), packing=st.booleans())
def test_a_step_learns_the_same_tokens_packed_or_padded(lengths: list[int], size: int, packing: bool) -> None:
    rows = rows_of([length + 1 for length in lengths])
    batch = step_batch(rows, packing=packing, micro_batch_size=size, max_length=32, pad=0)
    targets = [t for one in batch.micro_batches for t in one.labels[:, 1:].flatten().tolist() if t != IGNORED]
    assert sorted(targets) == sorted(t for row in rows for t in row["labels"] if t != IGNORED)
    assert batch.learned == len(targets)
    assert batch.tokens == sum(len(row["input_ids"]) for row in rows)
    for one in batch.micro_batches:
        assert one.labels.shape == one.inputs["input_ids"].shape
        if packing:
            assert one.labels.shape == (1, sum(one.lengths))


# The same losses


@pytest.mark.parametrize("lengths", [[5, 9, 3, 12], [40], [2, 2, 2, 2, 2, 2], [17, 3, 30, 8, 2]])
def test_packed_losses_are_those_of_each_row_by_itself(any_base: LoadedBase, lengths: list[int]) -> None:
    rows = rows_of(lengths)
    alone = sorted(value for row in rows for value in _reference(any_base, row))
    assert losses(any_base, packed(rows, 48)) == pytest.approx(alone, abs=1e-5)
    padded = step_batch(rows, packing=False, micro_batch_size=3, max_length=48, pad=0)
    assert losses(any_base, padded) == pytest.approx(alone, abs=1e-5)


def _reference(base: LoadedBase, row: dict[str, list[int]]) -> list[float]:
    """What the model itself says, with its own attention."""
    with torch.no_grad():
        logits = base.model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1]
    values = torch.nn.functional.cross_entropy(logits, torch.tensor(row["labels"][1:]), reduction="none")
    return [float(value) for value, label in zip(values, row["labels"][1:], strict=True) if label != IGNORED]


def test_a_document_knows_nothing_of_its_neighbours(any_base: LoadedBase) -> None:
    first, second, other = rows_of([11, 9, 9], seed=1)
    with torch.no_grad(), attention_of(any_base.model, ATTENTION):
        (a,) = packed([first, second], 32).micro_batches
        (b,) = packed([first, other], 32).micro_batches
        count = sum(label != IGNORED for label in first["labels"])
        mine, beside = token_losses(any_base, a), token_losses(any_base, b)
    assert torch.equal(mine[:count], beside[:count])
    assert not torch.allclose(mine[count:], beside[count:])


def test_gradients_pass_through_packed_attention_as_through_the_model_s_own() -> None:
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, heads, 12, 8, generator=draw, dtype=torch.double) for heads in (4, 2, 2))

    def gradients(attend: Any) -> list[torch.Tensor]:
        inputs = [tensor.clone().requires_grad_() for tensor in (q, k, v)]
        attend(*inputs).square().sum().backward()
        return [tensor.grad for tensor in inputs if tensor.grad is not None]

    def masked(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        block = torch.block_diag(torch.ones(5, 5), torch.ones(7, 7)).bool().tril()
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, block, enable_gqa=True)

    def documents(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return attend_documents(torch.nn.Identity(), query, key, value, None, document_lengths=(5, 7))[0]

    for ours, theirs in zip(gradients(documents), gradients(masked), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-12)


# Whole runs


def _losses_of_a_run(base: LoadedBase, run: RunDir, **fields: Any) -> list[float]:
    recipe = make_recipe(Path(base.base.model), dropout=0.0, learning_rate=1e-3, **fields)
    drop_adapter(train(recipe, run, base, splits=make_splits(recipe), rungs=()).model)
    return [event["loss"] for event in run.read_events() if event["event"] == "step"]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_packed_run_has_the_losses_of_a_padded_one(any_base: LoadedBase, tmp_path: Path, checkpointing: bool) -> None:
    whole = _losses_of_a_run(any_base, RunDir(tmp_path / "padded"), packing=False)
    for name, size in (("two bins or more", 1), ("one bin", 4)):
        fields = {"micro_batch_size": size, "max_length": 32, "gradient_checkpointing": checkpointing}
        assert _losses_of_a_run(any_base, RunDir(tmp_path / name), **fields) == pytest.approx(whole, abs=1e-5)
    assert any_base.model.config._attn_implementation == "sdpa"
