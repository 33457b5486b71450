"""Faster imports of torch and its kin. Imports nothing heavy itself."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """Keep Python's garbage collector from running during a block of imports.

    What imports make stays, so that every collection in between goes through more and more objects for nothing: a
    quarter of the time that torch, transformers, peft and bitsandbytes take.
    """
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()
