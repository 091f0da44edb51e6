"""Audit of a recorded run: all checks, one after the other."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from dictpfl.common.files import write_private
from dictpfl.deploy.audit.checks import errors, keys, leaks, privacy, randomness, states, sums, uploads
from dictpfl.deploy.audit.checks.check import FAILED, Check
from dictpfl.deploy.audit.checks.opened import Opening
from dictpfl.deploy.audit.folder import RunFolder

_FORMAT = "dictpfl-audit-1"


def audited(folder: Path, further: Sequence[Path] = ()) -> Iterator[Check]:
    """Check a recorded run; lines come as they are done.

    Args:
        folder: folder that `dictpfl simulate --record` left.
        further: files and folders to search for secrets besides.

    Raises:
        ConfigError, KeyFileError, MemoryFileError, JournalError: not the folder of a recorded run of protocol 4.
    """
    run = RunFolder(folder)
    try:
        yield from _lines(run, further)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # A genesis that was altered says what no implementation can follow; the lines before have told of it.
        yield Check("what genesis says can be followed to the end", 1, FAILED, f"{type(error).__name__}: {error}")


def _lines(run: RunFolder, further: Sequence[Path]) -> Iterator[Check]:
    opening = Opening(run)
    yield from keys.checks(run)
    yield from uploads.checks(run, opening)
    yield from sums.checks(run, opening)
    replay = states.replay_of(run, opening)
    yield from states.checks(run, opening, replay)
    yield from errors.checks(opening, opening.uploads)
    yield from randomness.checks(opening, opening.uploads)
    yield from privacy.checks(run, opening.uploads, replay)
    yield from leaks.checks(run, list(further))


def report(folder: Path, checks: Iterable[Check]) -> dict[str, Any]:
    """Return the outcome as JSON values."""
    lines = [check.to_json() for check in checks]
    failed = sum(line["verdict"] == "FAILED" for line in lines)
    federation = RunFolder(folder).agreement.federation.hex()
    return {"format": _FORMAT, "run": folder.name, "federation": federation, "failed": failed, "checks": lines}


def write_report(path: Path, outcome: dict[str, Any]) -> None:
    """Write the outcome as JSON."""
    write_private(path, (json.dumps(outcome, indent=1) + "\n").encode())
