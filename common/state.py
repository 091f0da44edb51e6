"""What all institutions share and must hold bit for bit alike, and what each keeps for itself."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.layout import Kind, Layout
from common.masking import Bools, History
from common.seeds import expand
from common.selection import Course

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Refresh:
    """What W0 took up at a refresh of dictionaries.

    Attributes:
        chosen: which tables, bool, shape (tables,), in the layout's order.
        values: T of these, one after the other, float64.
    """

    chosen: Bools
    values: Floats

    def tables(self, layout: Layout) -> dict[str, Floats]:
        """T of the chosen tables, by name."""
        found, start = {}, 0
        entries = [entry for entry in layout.entries if entry.kind is Kind.TABLE]
        for entry, is_chosen in zip(entries, self.chosen, strict=True):
            if is_chosen:
                found[entry.name] = self.values[start : start + entry.size].reshape(entry.shape)
                start += entry.size
        return found


@dataclass(frozen=True)
class Pace:
    """How far tables move in a round, where refreshes wait for a stall; each of shape (tables,).

    Attributes:
        largest: largest mean magnitude of an update since the last refresh of the table, float64.
        age: update rounds since then, uint32.
    """

    largest: Floats
    age: NDArray[np.uint32]


@dataclass(frozen=True)
class SharedState:
    """Shared state before a round; never altered, only replaced by `common.round.finish`.

    Attributes:
        round: number of the next round.
        updates: update rounds finished.
        values: x, the shared vector, float64, shape (size,).
        history: of the masks.
        ranges: of each tensor's update, float64, shape (tensors,).
        clear: coordinates that cross unencrypted (methods that encrypt a part), or None.
        records: every refresh so far; W0 is rebuilt from genesis and these, so it is no part of the digest.
        course: of the validation figure, with the best model so far.
        pace: of the tables, where refreshes wait for a stall.
    """

    round: int
    updates: int
    values: Floats
    history: History
    ranges: Floats
    clear: Bools | None = None
    records: tuple[Refresh, ...] = field(default=(), repr=False)
    course: Course = field(default_factory=Course)
    pace: Pace | None = None

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 over every bit that the next round depends on, 32 bytes."""
        state = hashlib.sha256(f"dictpfl-state-1 {self.round} {self.updates} {len(self.records)} ".encode())
        arrays: list[NDArray[Any]] = [self.values, self.ranges, self.history.idle, self.history.exponent]
        for record in self.records:
            arrays += [record.chosen, record.values]
        if self.pace is not None:
            arrays += [self.pace.largest, self.pace.age]
        if self.clear is not None:
            arrays.append(np.packbits(self.clear))
        if (best := self.course.best) is not None:
            numbers = (best.score.hex(), best.updates, best.refreshes, self.course.mark.hex(), self.course.waited)
            state.update(f"best {numbers} ".encode())
            arrays.append(best.values)
        for array in arrays:
            state.update(f"{array.dtype.kind}{array.size} ".encode())
            state.update(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).data)
        return state.digest()

    def at_best(self) -> SharedState | None:
        """The state with the values of the best model so far, to make that model from; None where none was measured."""
        best = self.course.best
        if best is None:
            return None
        return replace(self, updates=best.updates, values=best.values, records=self.records[: best.refreshes])

    def tag(self, seed: bytes) -> bytes:
        """Keyed digest, 32 bytes: the coordinator learns equality only."""
        return hmac.digest(expand(seed, "state tag", length=32), self.digest, "sha256")


@dataclass(frozen=True)
class Residual:
    """What an institution has trained but not delivered, in weighted units: w times values; float64, shape (size,)."""

    values: Floats

    @classmethod
    def none(cls, size: int) -> Residual:
        """Nothing is owed."""
        return cls(np.zeros(size, dtype=np.float64))
