"""Noise on embeddings: how large it is, on which tokens, when there is none, and that it can be drawn again."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from train.model import LoadedBase
from train.neftune import noisy_embeddings

SIZE = 64  # of the tiny model's embeddings


def noise(loaded: LoadedBase, alpha: float, lengths: Sequence[int], shape: tuple[int, int]) -> torch.Tensor:
    """What is added to the embeddings of a micro-batch of `shape` (rows, tokens)."""
    embeddings = loaded.model.get_input_embeddings()
    ids = torch.full(shape, 5)
    with noisy_embeddings(loaded.model, alpha, lengths):
        return (embeddings(ids) - embeddings.weight[5]).detach()


@pytest.fixture
def training(base: LoadedBase) -> Iterator[LoadedBase]:
    """The base, with its embeddings in training mode, as in a trainer."""
    base.model.get_input_embeddings().train()
    yield base
    base.model.eval()


def test_the_noise_is_uniform_up_to_its_bound(training: LoadedBase) -> None:
    torch.manual_seed(0)
    found = noise(training, 5.0, (400,), (1, 400))
    bound = 5.0 / math.sqrt(400 * SIZE)
    assert found.abs().max().item() == pytest.approx(bound, rel=1e-3)
    assert found.mean().item() == pytest.approx(0.0, abs=bound / 50)
    assert found.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)


@settings(deadline=None, max_examples=30)
@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=8), alpha=st.floats(0.1, 50.0))
def test_each_document_of_a_packed_row_has_the_noise_of_its_own_length(
    loaded: LoadedBase, lengths: list[int], alpha: float
) -> None:
    loaded.model.get_input_embeddings().train()
    try:
        found = noise(loaded, alpha, lengths, (1, sum(lengths)))
    finally:
        loaded.model.eval()
    for length, part in zip(lengths, found[0].split(lengths), strict=True):
        bound = alpha / math.sqrt(length * SIZE)
        assert 0.5 * bound < part.abs().max().item() <= bound * 1.001 + 1e-5


def test_padding_does_not_change_a_rows_noise(training: LoadedBase) -> None:
    found = noise(training, 5.0, (4, 100), (2, 100))
    for length, row in zip((4, 100), found, strict=True):
        assert row[:length].abs().max().item() == pytest.approx(5.0 / math.sqrt(length * SIZE), rel=0.05)


def test_packed_documents_have_to_fill_their_row(training: LoadedBase) -> None:
    with pytest.raises(AssertionError, match="11"):
        noise(training, 5.0, (5, 5), (1, 11))


def test_there_is_none_in_evaluation_with_alpha_0_and_afterwards(training: LoadedBase) -> None:
    state = torch.get_rng_state()
    embeddings = training.model.get_input_embeddings()
    assert not noise(training, 0.0, (9,), (1, 9)).any()
    embeddings.eval()
    assert not noise(training, 5.0, (9,), (1, 9)).any()
    assert torch.equal(torch.get_rng_state(), state)
    assert not embeddings._forward_hooks


def test_the_same_random_state_gives_the_same_noise(training: LoadedBase) -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, other = (noise(training, 5.0, (7, 2), (1, 9)) for _ in range(2))
    torch.set_rng_state(state)
    assert torch.equal(noise(training, 5.0, (7, 2), (1, 9)), first)
    assert not torch.equal(first, other)


def test_the_hook_goes_where_the_block_fails(training: LoadedBase) -> None:
    with pytest.raises(RuntimeError, match="stop"), noisy_embeddings(training.model, 5.0, (3,)):
        raise RuntimeError("stop")
    assert not training.model.get_input_embeddings()._forward_hooks
