"""Shared state, which all institutions hold bit for bit alike, and the residual, which each keeps for itself."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dictpfl.common.errors import ConfigError
from dictpfl.common.law.aggregation import Moments
from dictpfl.common.law.layout import Kind, Layout
from dictpfl.common.law.pruning import Bools, History
from dictpfl.common.law.seeds import expand
from dictpfl.common.law.selection import Course
from dictpfl.common.law.tally import Tallied, Tally, digested

Floats = NDArray[np.float64]
NOTHING_ACKNOWLEDGED = bytes(32)
"""Start of the chain of acknowledgements."""


@dataclass(frozen=True)
class Refresh:
    """Record of a refresh: the tables that W0 took up.

    Attributes:
        chosen: mask of these tables, bool, shape (tables,), in the layout's order.
        values: their T, one after the other, float64.
    """

    chosen: Bools
    values: Floats

    def tables(self, layout: Layout) -> dict[str, Floats]:
        """Split the values into the T of each chosen table, by name."""
        tables, start = {}, 0
        entries = [entry for entry in layout.entries if entry.kind is Kind.TABLE]
        for entry, is_chosen in zip(entries, self.chosen, strict=True):
            if is_chosen:
                tables[entry.name] = self.values[start : start + entry.size].reshape(entry.shape)
                start += entry.size
        return tables


@dataclass(frozen=True)
class Pace:
    """Pace of the tables' updates, kept where refreshes wait for a stall.

    Attributes:
        largest: largest mean magnitude of an update since the table's last refresh, float64, shape (tables,).
        age: number of update rounds since then, uint32, shape (tables,).
    """

    largest: Floats
    age: NDArray[np.uint32]


@dataclass(frozen=True)
class SharedState:
    """Shared state before a round; never altered, only replaced by `dictpfl.common.law.finishing.finish`.

    Attributes:
        round: number of the next round.
        updates: number of finished update rounds.
        values: x, the shared vector, float64, shape (size,).
        history: history that pruning masks are derived from.
        ranges: range of each tensor's update, float64, shape (tensors,).
        clear: mask of the coordinates that cross unencrypted, bool, shape (size,); None: all are encrypted.
        records: every refresh so far; W0 is rebuilt from genesis and these, so it is no part of the digest.
        course: course of the validation figure, with the best model so far.
        pace: pace of the tables' updates; None: refreshes do not wait for a stall.
        moments: memory of the server-side rule (`dictpfl.common.law.aggregation`); empty for `average`.
        scores: mean opened score of each tensor, float64, shape (tensors,), after a score round of `scores.decision`.
        void_scores: number of score rounds that were void, and are made up for.
        rescored: number of updates before the last score round; 0: none came after an update.
        acknowledged: chain over the uploads of every sum so far, 32 bytes (`acknowledging`); it is no part of the digest,
            since ids of uploads differ between runs that agree in everything else.
        tallies: opened sums of tallies, in the order of their rounds.
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
    moments: Moments = ()
    scores: Floats | None = None
    void_scores: int = 0
    rescored: int = 0
    acknowledged: bytes = NOTHING_ACKNOWLEDGED
    tallies: tuple[Tallied, ...] = ()

    @cached_property
    def digest(self) -> bytes:
        """Digest of every bit that the next round depends on: SHA-256, 32 bytes."""
        state = hashlib.sha256(f"dictpfl-state-1 {self.round} {self.updates} {len(self.records)} ".encode())
        arrays: list[NDArray[Any]] = [self.values, self.ranges, self.history.idle, self.history.exponent]
        for record in self.records:
            arrays += [record.chosen, record.values]
        if self.pace is not None:
            arrays += [self.pace.largest, self.pace.age]
        if self.clear is not None:
            arrays.append(np.packbits(self.clear))
        if self.scores is not None:
            state.update(b"scores ")
            arrays.append(self.scores)
        if self.moments:
            state.update(f"moments {len(self.moments)} ".encode())
            arrays += self.moments
        if self.void_scores:
            state.update(f"void {self.void_scores} ".encode())
        if self.rescored:
            state.update(f"rescored {self.rescored} ".encode())
        state.update(digested(self.tallies))
        arrays += [one.sums for one in self.tallies]
        if (best := self.course.best) is not None:
            numbers = (best.score.hex(), best.updates, best.refreshes, self.course.mark.hex(), self.course.waited)
            state.update(f"best {numbers} ".encode())
            arrays.append(best.values)
        for array in arrays:
            state.update(f"{array.dtype.kind}{array.size} ".encode())
            state.update(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).data)
        return state.digest()

    def fits(self, layout: Layout, tallies: Sequence[Tally] = ()) -> bool:
        """Check shapes, dtypes and ranges against a layout: a state may come from a party that lies, or from a plug-in.

        `tallies`: those that are kept, in their order; the state holds the sums of the first of them.
        """
        size, history = layout.size, self.history
        if len(self.tallies) > len(tallies) or not all(map(Tallied.fits, self.tallies, tallies)):
            return False
        lengths = np.array([entry.size for entry in layout.entries if entry.kind is Kind.TABLE], dtype=np.int64)
        if any(r.chosen.dtype != np.bool_ or r.chosen.shape != lengths.shape for r in self.records):
            return False
        expected: list[tuple[NDArray[Any], Any, int]] = [
            (self.values, np.float64, size),
            (self.ranges, np.float64, len(layout.entries)),
            (history.idle, np.uint8, size),
            (history.exponent, np.uint8, size),
            *((moment, np.float64, size) for moment in self.moments),
            *((record.values, np.float64, int(lengths[record.chosen].sum())) for record in self.records),
        ]
        if self.clear is not None:
            expected.append((self.clear, np.bool_, size))
        floats = [self.values, self.ranges, *self.moments, *(record.values for record in self.records)]
        if self.scores is not None:
            expected.append((self.scores, np.float64, len(layout.entries)))
            floats.append(self.scores)
        if self.pace is not None:
            expected += [(self.pace.largest, np.float64, lengths.size), (self.pace.age, np.uint32, lengths.size)]
            floats.append(self.pace.largest)
        if (best := self.course.best) is not None:
            expected.append((best.values, np.float64, size))
            floats += [best.values, np.array([best.score, self.course.mark])]
            if not (0 <= best.updates <= self.updates and 0 <= best.refreshes <= len(self.records)):
                return False
        return (
            all(array.dtype == kind and array.shape == (length,) for array, kind, length in expected)
            and all(bool(np.isfinite(array).all()) for array in floats)
            and bool((self.ranges > 0).all())
            and all(bool((squares >= 0).all()) for squares in self.moments[1:])
            and 0 <= self.updates <= self.round
            and self.course.waited >= 0
            and 0 <= self.void_scores <= self.round
            and 0 <= self.rescored <= self.updates
            and len(self.acknowledged) == len(NOTHING_ACKNOWLEDGED)
        )

    def at_best(self) -> SharedState | None:
        """Return the state with the best model's values, to make that model from; None where none was measured."""
        best = self.course.best
        if best is None:
            return None
        return replace(self, updates=best.updates, values=best.values, records=self.records[: best.refreshes])

    def tallied(self, name: str, when: str = "") -> Tallied:
        """Return the opened sums of a tally; the latest, where `when` does not say which.

        Raises:
            ConfigError: there are none.
        """
        found = [one for one in self.tallies if one.name == name and when in ("", one.when)]
        if not found:
            known = ", ".join(f"{one.name} ({one.when})" for one in self.tallies) or "none"
            raise ConfigError(
                f"expected sums of the tally {name!r} in shared state, found {known}; name it under [tallies] before round 1, and let "
                "its round be closed"
            )
        return found[-1]

    def tag(self, seed: bytes) -> bytes:
        """Compute the keyed digest, 32 bytes: whoever lacks the seed learns only whether two states are equal."""
        return hmac.digest(expand(seed, "state tag", length=32), self.digest + self.acknowledged, "sha256")

    def void(self, *, score: bool) -> SharedState:
        """Return the state after a round whose sum held nonsense: nothing has changed but the round's number."""
        return replace(
            self,
            round=self.round + 1,
            void_scores=self.void_scores + score,
            acknowledged=acknowledging(self.acknowledged, self.round, ()),
        )


def acknowledging(chain: bytes, number: int, uploads: Iterable[bytes]) -> bytes:
    """Go on with the chain of acknowledgements by a round and the ids of the uploads in its sum: 32 bytes."""
    return hashlib.sha256(chain + number.to_bytes(4, "little") + b"".join(sorted(uploads))).digest()


@dataclass(frozen=True)
class Residual:
    """Residual: change that an institution has trained but not delivered, times its weight; float64, shape (size,)."""

    values: Floats

    @classmethod
    def none(cls, size: int) -> Residual:
        """Make an empty residual."""
        return cls(np.zeros(size, dtype=np.float64))
