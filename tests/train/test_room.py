"""Room on the disk, told so that what is missing can be seen."""

from __future__ import annotations

import pytest

from train.room import more, spelled

GIB, MIB = 2**30, 2**20


@pytest.mark.parametrize(
    ("needed", "there", "missing"),
    [
        (GIB, GIB - 1, "0.1 MiB"),  # both are 1.0 GiB
        (GIB + 3 * MIB, GIB, "3.0 MiB"),
        (12 * GIB, 10 * GIB, "2.0 GiB"),
        (12 * GIB + 1, 10 * GIB, "2.1 GiB"),
        (5 * MIB, 0, "5.0 MiB"),
    ],
)
def test_what_is_missing_is_told_in_a_unit_of_its_own_and_suffices(needed: int, there: int, missing: str) -> None:
    assert more(needed, there) == missing


def test_a_size_is_told_in_the_unit_that_reads_best() -> None:
    assert (spelled(GIB), spelled(GIB - MIB), spelled(1)) == ("1.0 GiB", "1,023.0 MiB", "0.0 MiB")
