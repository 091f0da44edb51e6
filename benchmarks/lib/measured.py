"""What a scheme that averages vectors is, and what one turn of it takes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

PARTICIPANTS = 3
"""As in the paper."""
Vectors = Sequence[NDArray[np.float32]]
"""One float32 vector an institution, all of shape (n,)."""


@dataclass
class Measured:
    """What one turn of a scheme took.

    Attributes:
        seconds: by phase; `prepare` only where a scheme can do part of its work ahead.
        cpu: the same as processor time of all threads.
        up, down: bytes of one institution.
        error: largest difference from the mean of the vectors, in their unit.
        entropy: bytes a value below which no code of single values goes, of what an institution sends; 0: not looked at.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)
    up: int = 0
    down: int = 0
    error: float = 0.0
    entropy: float = 0.0

    @contextmanager
    def phase(self, name: str, share: float = 1.0) -> Iterator[None]:
        """Time what is inside; it counts by its share of the phase."""
        began, worked = time.perf_counter(), time.process_time()
        yield
        self.add(name, share * (time.perf_counter() - began), share * (time.process_time() - worked))

    def add(self, name: str, seconds: float, cpu: float) -> None:
        """Count seconds towards a phase."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        self.cpu[name] = self.cpu.get(name, 0.0) + cpu

    def judge(self, found: NDArray[Any], vectors: Vectors, start: int = 0) -> None:
        """Compare a piece of the result that begins at `start` with the mean."""
        wanted = np.mean([v[start : start + found.size] for v in vectors], axis=0, dtype=np.float64)
        self.error = max(self.error, float(np.abs(found - wanted).max()))


class Scheme(Protocol):
    """A way to average vectors without showing them to the server."""

    name: str

    def run(self, vectors: Vectors) -> Measured:
        """One round."""
        ...
