"""Memory within a budget: those that worked longest ago rest first, and whoever works now never."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from dictpfl.client.memory import resting
from dictpfl.client.memory.resting import worked


class Worker:
    """Somebody who notes that it was told to rest."""

    def __init__(self) -> None:
        self.rested = 0

    def rest(self) -> None:
        """Rest."""
        self.rested += 1


@pytest.fixture(autouse=True)
def hundred(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(resting, "MOST_BYTES", 100)
    resting._AWAKE.clear()
    yield
    resting._AWAKE.clear()


def test_the_one_that_worked_longest_ago_rests_first() -> None:
    a, b, c = Worker(), Worker(), Worker()
    worked(a, 40)
    worked(b, 40)
    worked(a, 40)
    worked(c, 40)
    assert (a.rested, b.rested, c.rested) == (0, 1, 0)
    worked(b, 100)
    assert (a.rested, b.rested, c.rested) == (1, 1, 1)


def test_whoever_works_now_stays_awake_however_large() -> None:
    a, b = Worker(), Worker()
    worked(a, 1000)
    assert a.rested == 0
    worked(b, 1000)
    assert (a.rested, b.rested) == (1, 0)


def test_it_holds_nobody_who_is_gone() -> None:
    a = Worker()
    worked(a, 99)
    del a
    gc.collect()
    b = Worker()
    worked(b, 2)
    assert list(resting._AWAKE.values()) == [2]
