"""Shared state, its digest and its keyed tag (section 10)."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dictpfl.deploy.audit.formats.streams import expand
from dictpfl.deploy.audit.replay.agreement import Bools, Floats
from dictpfl.deploy.audit.replay.tallies import Opened, said_of

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Taken:
    """Refresh: which tables W0 took up (bool, shape (tables,)), and their values (float64)."""

    chosen: Bools
    values: Floats


@dataclass(frozen=True)
class Best:
    """Best model so far, and how measurements went on.

    Attributes:
        score: its figure.
        updates: number of updates in it.
        refreshes: number of refreshes in it.
        values: its shared vector, float64.
        mark: last score that counted as progress.
        waited: measurements since then that count for stopping.
    """

    score: float
    updates: int
    refreshes: int
    values: Floats
    mark: float
    waited: int


@dataclass(frozen=True)
class State:
    """Shared state before a round.

    Attributes:
        round: number of that round.
        updates: number of updates so far.
        values: shared vector, float64, shape (size,).
        idle: inactive rounds in a row, uint8, shape (size,).
        exponent: exponent of the reactivation probability, uint8, shape (size,).
        ranges: range of each tensor, float64.
        clear: mask of the values that cross in clear; None: none do.
        taken: refreshes so far.
        best: best model; None before a measurement.
        pace: largest mean update and age of each table; None: refreshes do not depend on them.
        scores: mean score of each tensor; None: none were kept.
        moments: memory of the server-side rule: none, m, or m and v; float64, shape (size,) each.
        void_scores: number of score rounds that were void.
        acknowledged: chain over the uploads of all sums, 32 bytes.
        rescored: number of updates before the last score round.
        tallies: opened tallies, in the order of their rounds.
    """

    round: int
    updates: int
    values: Floats
    idle: Bytes
    exponent: Bytes
    ranges: Floats
    clear: Bools | None = None
    taken: tuple[Taken, ...] = field(default=(), repr=False)
    best: Best | None = None
    pace: tuple[Floats, NDArray[np.uint32]] | None = None
    scores: Floats | None = None
    moments: tuple[Floats, ...] = ()
    void_scores: int = 0
    acknowledged: bytes = bytes(32)
    rescored: int = 0
    tallies: tuple[Opened, ...] = ()

    @property
    def digest(self) -> bytes:
        """SHA-256 over all that the next round depends on, 32 bytes."""
        text = b"dictpfl-state-1 %d %d %d " % (self.round, self.updates, len(self.taken))
        parts: list[NDArray[Any]] = [self.values, self.ranges, self.idle, self.exponent]
        parts += [part for one in self.taken for part in (one.chosen, one.values)]
        parts += self.pace or ()
        if self.clear is not None:
            parts.append(np.packbits(self.clear))
        if self.scores is not None:
            text += b"scores "
            parts.append(self.scores)
        if self.moments:
            text += b"moments %d " % len(self.moments)
            parts += self.moments
        if self.void_scores:
            text += b"void %d " % self.void_scores
        if self.rescored:
            text += b"rescored %d " % self.rescored
        text += said_of(self.tallies)
        parts += [one.sums for one in self.tallies]
        if self.best is not None:
            b = self.best
            text += f"best {(b.score.hex(), b.updates, b.refreshes, b.mark.hex(), b.waited)} ".encode()
            parts.append(b.values)
        return hashlib.sha256(text + b"".join(_listed(part) for part in parts)).digest()

    def tag(self, seed: bytes) -> bytes:
        """Compute the tag that blobs of the next round carry, 32 bytes; `seed`: of the epoch."""
        return hmac.digest(expand(seed, "state tag", length=32), self.digest + self.acknowledged, "sha256")

    def acknowledging(self, uploads: Iterable[bytes]) -> bytes:
        """Go on with the chain of acknowledgements by this round, whose sum holds uploads of these ids."""
        number = self.round.to_bytes(4, "little")
        return hashlib.sha256(self.acknowledged + number + b"".join(sorted(uploads))).digest()

    def void(self, kind: str) -> State:
        """Return the state after a round that was void."""
        return replace(
            self,
            round=self.round + 1,
            void_scores=self.void_scores + (kind == "score"),
            acknowledged=self.acknowledging(()),
        )


def _listed(part: NDArray[Any]) -> bytes:
    return f"{part.dtype.kind}{part.size} ".encode() + part.astype(part.dtype.newbyteorder("<")).tobytes()


def remembered(facts: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> State:
    """Rebuild the state of an institution's memory file from its facts and arrays."""
    records = sorted(name.removeprefix("record/") for name in arrays if name.startswith("record/"))
    best = None
    if (course := facts.get("course")) is not None:
        numbers = (float(course["score"]), int(course["updates"]), int(course["refreshes"]))
        best = Best(*numbers, arrays["best"], float(course["mark"]), int(course["waited"]))
    return State(
        int(facts["round"]),
        int(facts["updates"]),
        arrays["values"],
        arrays["idle"],
        arrays["exponent"],
        arrays["ranges"],
        arrays.get("clear"),
        tuple(Taken(arrays[f"chosen/{name}"], arrays[f"record/{name}"]) for name in records),
        best,
        (arrays["pace/largest"], arrays["pace/age"]) if "pace/age" in arrays else None,
        arrays.get("scores"),
        tuple(arrays[name] for name in ("moment/0", "moment/1") if name in arrays),
        int(facts.get("void_scores", 0)),
        bytes.fromhex(facts["acknowledged"]),
        rescored=int(facts.get("rescored", 0)),
        tallies=Opened.remembered(facts, arrays),
    )
