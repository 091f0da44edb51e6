"""Tallies: their agreement, and their opened sums (section 14)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dictpfl.common.arrays import Ints
from dictpfl.common.errors import RoundError


@dataclass(frozen=True)
class Tally:
    """Agreed tally: name, when it is due, number of entries, exponents of its bound and of its steps, places that are never negative."""

    name: str
    when: str
    size: int
    bound: int
    fraction: int
    counted: tuple[slice, ...] = ()

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> Tally:
        """Read an entry of the list `tallies` of genesis.json."""
        name, size, counted = str(said["name"]), 0, []
        for entry, shape, _ in said["layout"]:
            start, size = size, size + int(np.prod(shape, dtype=np.int64))
            if name in ("columns", "quantiles") and entry != "sum":
                counted.append(slice(start, size))
        return cls(name, str(said["when"]), size, int(said["bound"]), int(said["fraction"]), tuple(counted))

    @property
    def most(self) -> int:
        """Largest integer that one upload may hold, by magnitude."""
        return int(2 ** (self.bound + self.fraction))


@dataclass(frozen=True)
class Opened:
    """Opened sums of a tally: name, when, institutions and samples behind them, and int64, shape (entries,)."""

    name: str
    when: str
    participants: int
    samples: int
    sums: Ints

    @property
    def said(self) -> list[str | int]:
        """All but the sums, as the digest and memories have it."""
        return [self.name, self.when, self.participants, self.samples]

    @classmethod
    def remembered(cls, facts: Mapping[str, Any], arrays: Mapping[str, Any]) -> tuple[Opened, ...]:
        """Read those of an institution's memory file."""
        said = facts.get("tallies", [])
        return tuple(
            cls(name, when, participants, samples, arrays[f"tally/{place:03d}"])
            for place, (name, when, participants, samples) in enumerate(said)
        )


def said_of(opened: Sequence[Opened]) -> bytes:
    """Text in the digest of the state."""
    return b"tallies %s " % json.dumps([one.said for one in opened], separators=(",", ":")).encode() if opened else b""


def opened_of(tally: Tally, values: Ints, participants: int, samples: int) -> Opened:
    """Keep the sums of a round.

    Raises:
        RoundError: beyond what so many institutions may send, or a negative count; the round is void.
    """
    if any(abs(value) > participants * tally.most for value in values.tolist()):
        raise RoundError(f"sums of tally {tally.name!r} beyond {participants} times {tally.most}")
    if any((values[place] < 0).any() for place in tally.counted):
        raise RoundError(f"counts of tally {tally.name!r} below zero")
    return Opened(tally.name, tally.when, participants, samples, values.astype(np.int64))
