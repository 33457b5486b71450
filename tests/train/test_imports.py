"""The garbage collector during imports."""

from __future__ import annotations

import gc

import pytest

from train.imports import collector_paused


def test_the_collector_is_off_within_and_as_it_was_afterwards() -> None:
    assert gc.isenabled()
    with collector_paused():
        assert not gc.isenabled()
        with collector_paused():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()


def test_it_runs_again_after_an_import_that_failed() -> None:
    with pytest.raises(ImportError), collector_paused():
        raise ImportError
    assert gc.isenabled()
