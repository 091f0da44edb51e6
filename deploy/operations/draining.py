"""Ending early, as before a rotation: the open round is closed, none is opened after it, everybody gets the last sum."""

from __future__ import annotations

import time
from pathlib import Path

import structlog

from common.protocol import RoundKind
from deploy.operations.control import connected
from deploy.operations.settings import CoordinatorSettings
from server.agreement import Agreement
from server.coordinator import AGREEMENT, open_journal

POLL_SECONDS = 0.5
_log = structlog.get_logger(__name__)


def rounds_to_end_with(folder: Path) -> int:
    """Wait for the round that a run has open, if one runs; returns how many update rounds are done then, at least 1.

    Given to `dictpfl run`, that number leaves only what ends a federation: one round that measures, and a last message. An
    institution whose upload came too late keeps it in its residual.

    Raises:
        ProcessError: `dictpfl coordinator up` does not run.
        DictPFLError: the folder cannot be used.
    """
    folder = folder.resolve()
    agreement, settings = Agreement.load(folder / AGREEMENT), CoordinatorSettings.load(folder)
    journal = open_journal(folder, agreement)
    try:
        before = journal.next_round
        while journal.next_round == before and _runs(settings.superlink, folder / settings.ca):
            time.sleep(POLL_SECONDS)
        done = max(1, list(journal.kinds()).count(RoundKind.UPDATE))
        _log.info("draining", rounds=done)
        return done
    finally:
        journal.close()


def _runs(address: str, ca: Path) -> bool:
    with connected(address, ca) as control:
        return any(not run.over for run in control.runs())
