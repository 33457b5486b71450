from __future__ import annotations

import math

import pytest
import torch
from tiny_train import make_splits

from train import probe
from train.data.splits import ProbeRow
from train.model import LoadedBase, drop_adapter, fresh_adapter
from train.probe import bits_per_byte
from train.recipe import Recipe


def plain(loaded: LoadedBase, rows: tuple[ProbeRow, ...]) -> float:
    """The same by the book: one row at a time, one token at a time."""
    nats, size = 0.0, 0
    for row in rows:
        with torch.no_grad():
            logits = loaded.model(input_ids=torch.tensor([row.input_ids])).logits[0]
        for i, label in enumerate(row.labels):
            if label != -100:
                nats -= float(torch.log_softmax(logits[i - 1], 0)[label])
        size += row.response_bytes
    return nats / math.log(2) / size


def test_it_is_the_likelihood_of_the_responses_by_their_bytes(base: LoadedBase, recipe: Recipe) -> None:
    rows = make_splits(recipe).probe
    assert bits_per_byte(base, base.model, rows) == pytest.approx(plain(base, rows), rel=1e-6)


@pytest.mark.parametrize(("name", "limit"), [("_TOKENS", 1), ("_TOKENS", 40), ("_LOGITS", 1)])
def test_batches_change_nothing(
    base: LoadedBase, recipe: Recipe, monkeypatch: pytest.MonkeyPatch, name: str, limit: int
) -> None:
    rows = make_splits(recipe).probe
    whole = bits_per_byte(base, base.model, rows)
    monkeypatch.setattr(probe, name, limit)
    assert bits_per_byte(base, base.model, rows) == pytest.approx(whole, rel=1e-6)


def test_it_leaves_the_mode_and_the_random_state_as_they_were(base: LoadedBase, recipe: Recipe) -> None:
    adapted = fresh_adapter(base, recipe)
    for training in (True, False):
        adapted.train(training)
        before = torch.get_rng_state()
        first = bits_per_byte(base, adapted, make_splits(recipe).probe)
        assert first == bits_per_byte(base, adapted, make_splits(recipe).probe)  # no dropout
        assert torch.equal(torch.get_rng_state(), before)
        assert adapted.training is training
    drop_adapter(adapted)


def test_a_model_without_its_own_cut_of_the_logits_measures_the_same(base: LoadedBase, recipe: Recipe) -> None:
    rows = make_splits(recipe).probe
    whole = bits_per_byte(base, base.model, rows)
    forward = base.model.forward
    base.model.forward = lambda input_ids, attention_mask, use_cache: forward(input_ids, attention_mask)
    try:
        assert bits_per_byte(base, base.model, rows) == pytest.approx(whole, rel=1e-6)
    finally:
        del base.model.forward
