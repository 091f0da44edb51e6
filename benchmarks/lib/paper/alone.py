"""Whether a measurement had the machine to itself."""

from __future__ import annotations

import os
import time
from types import TracebackType
from typing import Self

import psutil

from dictpfl.common.errors import DictPFLError

MOST = 0.1
"""Cores that other processes may have kept busy meanwhile, as a mean: what a machine does by itself."""


class BusyError(DictPFLError):
    """Other processes ran beside a measurement of time."""

    code = "process"


class Alone:
    """Measures, as a context, how many cores other processes kept busy meanwhile: `others`, a mean."""

    others = 0.0

    def __enter__(self) -> Self:
        """Begin."""
        self._wall, self._all, self._own = time.monotonic(), _busy(), _own()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End.

        Raises:
            BusyError: they kept more than `MOST` busy.
        """
        wall = time.monotonic() - self._wall
        self.others = max(0.0, (_busy() - self._all) - (_own() - self._own)) / wall
        if error is None and self.others > MOST:
            raise BusyError(
                f"other processes kept {self.others:.2f} cores busy; seconds need a machine that does nothing else (at most {MOST:g}). "
                "Stop them, and run it again"
            )


def _busy() -> float:
    """CPU seconds of the whole machine so far, idle and waiting for disks apart."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))


def _own() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
