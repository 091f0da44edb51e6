"""Limits that a study runs within at an institution: hours, memory of each process, GPU, and how many studies at a time."""

from __future__ import annotations

import math
import os
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dictpfl.common.errors import StudyError
from dictpfl.common.files import lock_if_free, write_private
from dictpfl.deploy.studies.papers import Proposal
from dictpfl.deploy.studies.policy import Policy
from dictpfl.deploy.studies.store import Study

_BEGAN = "began"
_GIB = 1 << 30
_HOUR = 3600.0
_HIDDEN = {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": ""}


@dataclass(frozen=True)
class Limits:
    """Limits of one study: the time (seconds since 1970) at which it ends, bytes of memory a process, and whether it gets a GPU."""

    ends: float
    memory: int
    gpu: bool

    @classmethod
    def of(cls, study: Study, policy: Policy) -> Limits:
        """Return the tighter of what was proposed and what the policy allows now; the first call begins the hours."""
        proposal = study.wanted
        began = study.folder / _BEGAN
        if not began.exists():
            write_private(began, f"{time.time():.0f}\n".encode())
        started = _time_in(began)
        hours, memory = min(proposal.hours, policy.hours), min(proposal.memory_gib, policy.memory_gib)
        return cls(started + hours * _HOUR, int(memory * _GIB), proposal.gpu and policy.gpu)

    def require_time(self, proposal: Proposal) -> None:
        """Refuse to start what has had its time.

        Raises:
            StudyError: it has.
        """
        if time.time() >= self.ends:
            raise StudyError(f"{proposal.name} has had its hours here; the lead should clone it to go on")

    def impose(self) -> Mapping[str, str]:
        """Bind this process, and all that it starts, to memory and GPU; returns what was added to the environment.

        A lower limit of this machine, by systemd or `ulimit`, goes on to hold.
        """
        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        memory = min(self.memory, sys.maxsize if most == resource.RLIM_INFINITY else most)
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
        hidden = {} if self.gpu else _HIDDEN
        os.environ.update(hidden)
        return hidden


def _time_in(path: Path) -> float:
    """Seconds since 1970 that a file holds.

    Raises:
        StudyError: it holds none.
    """
    try:
        found = float(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise StudyError(
            f"{path} is damaged, and with it from when on the study's hours count; restore it from backup, or write into it the seconds since "
            "1970 of the first start here"
        )
    return found


@contextmanager
def one_of(root: Path, study: Study, at_once: int) -> Iterator[None]:
    """Hold one of the places for studies that run at a time.

    Args:
        root: folder of the party's studies.
        study: that is to run.
        at_once: places.

    Raises:
        StudyError: none is free.
    """
    places = [root / f".place-{number}.lock" for number in range(at_once)]
    held = next((place for place in map(lock_if_free, places) if place is not None), None)
    if held is None:
        names = sorted({place.read_text(encoding="utf-8") or "another one" for place in places})
        raise StudyError(
            f"{study.name} is not started: at_once in policy.toml lets {at_once} run at a time, and {', '.join(names)} has a place until its "
            f"`up` is stopped. Stop that, then start {study.name} again"
        )
    try:
        os.ftruncate(held, 0)
        os.pwrite(held, study.name.encode(), 0)
        yield
    finally:
        os.close(held)
