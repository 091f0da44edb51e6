"""Handover for a rotation, ready when it comes: at the end of a run, the shared state, sealed for the authority.

So an institution types nothing for others to come or leave but `join`: its operator mails a file that is there. An
institution whose passphrase nobody stored cannot sign it unattended, and exports by hand.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import structlog

from dictpfl.client.folder import DIARY, InstitutionSettings
from dictpfl.client.keys.epochs import installed
from dictpfl.client.keys.vault import stored_passphrase
from dictpfl.common.errors import BundleError, CeremonyError, DictPFLError
from dictpfl.deploy.ceremony.departures import is_study
from dictpfl.deploy.ceremony.envelope import Envelope
from dictpfl.deploy.ceremony.export import KIND, export_state
from dictpfl.deploy.ceremony.pinning import pinned

HANDOVER = "handover.state"
_TAIL = 4096
_log = structlog.get_logger(__name__)


class Handover:
    """Keeps `handover.state` in an institution's folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made = self._found()

    def look(self) -> bool:
        """Export, if a run has ended since the last export; whether it did. One try a run: an operator can export, too.

        Nothing is exported of a study: it has no rotation, and no identity of its own that could sign.
        """
        if is_study(self._folder):
            return False
        ended = settled(self._folder / DIARY)
        epochs = installed(self._folder)
        if ended is None or not epochs or (ended.round, epochs[-1]) == self._made or pinned(self._folder) is None:
            return False
        self._made = (ended.round, epochs[-1])
        try:
            settings = InstitutionSettings.load(self._folder)
            file = self._folder / settings.passphrase_file if settings.passphrase_file else None
            passphrase = stored_passphrase(file)
            if passphrase is None:
                return False
            state = export_state(self._folder, passphrase, self._folder / HANDOVER, replace=True)
        except DictPFLError as error:
            _log.error(
                "state not exported; `dictpfl institution export-state` does it by hand",
                code=error.code,
                reason=str(error),
            )
            return False
        _log.info("state exported for the authority", file=str(self._folder / HANDOVER), round=state.round)
        return True

    def _found(self) -> tuple[int, int] | None:
        """Round and epoch of the export that is there."""
        try:
            facts = Envelope.read((self._folder / HANDOVER).read_bytes(), KIND).facts
            return int(facts["round"]), int(facts["epoch"])
        except (OSError, BundleError, CeremonyError, KeyError, ValueError, TypeError):
            return None


class Settled(NamedTuple):
    """End of a run, by an institution's diary.

    Attributes:
        round: at which it ended; score rounds and void ones count.
        updates: of the model by then.
        stopped: whether `selection.patience` ended it.
    """

    round: int
    updates: int
    stopped: bool


def settled(diary: Path) -> Settled | None:
    """Read how a run ended, if that is the last thing that happened."""
    try:
        with diary.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - _TAIL))
            line = json.loads(file.read().splitlines()[-1])
        # Lines of version 0.1 have the round alone.
        updates = int(line.get("updates", line["round"]))
        stopped = line.get("stopped") is True
        return Settled(int(line["round"]), updates, stopped) if line["event"] == "settled" else None
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError):
        return None
