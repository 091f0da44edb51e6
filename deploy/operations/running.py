"""`dictpfl run`: start a federation, or go on with it, and watch it until its rounds are done."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog

from dictpfl.common.errors import ConfigError, EngineError, ProcessError
from dictpfl.common.fingerprint import matches
from dictpfl.deploy.ceremony.custody import record
from dictpfl.deploy.ceremony.identity import Role, coordinator_signer
from dictpfl.deploy.operations import begun, disk
from dictpfl.deploy.operations.agreed import agreed, installed
from dictpfl.deploy.operations.control import Control, RunState, connected
from dictpfl.deploy.operations.places import FLOWER, NODES, RUN, SECRET
from dictpfl.deploy.operations.settings import CoordinatorSettings
from dictpfl.server.agreement import Agreement
from dictpfl.server.coordinator import AGREEMENT, open_journal
from dictpfl.server.journal import Journal
from dictpfl.server.rows import ClosedRound
from dictpfl.server.troubles import news, trouble

POLL_SECONDS, ASK_SECONDS = 0.5, 2.0
"""Seconds between looks into the journal, and between questions to the SuperLink, each of which costs it a TLS handshake."""
ATTEMPTS = 5
"""Runs in a row that may end without closing a round."""
SHORT_SECONDS = 10.0
"""Seconds that too few institutions may be online before that is said: after a start they register one after another."""
AWAY_SECONDS = 300.0
"""Seconds that a SuperLink may be away: its supervisor starts it again."""
OnRound = Callable[[ClosedRound, int, int], None]
"""Told of each closed round, with the number of uploads in the sum and the sum's length in bytes."""
_log = structlog.get_logger(__name__)


def run(
    folder: Path,
    rounds: int | None = None,
    *,
    restart_from: int | None = None,
    digest: str | None = None,
    on_round: OnRound = lambda *_: None,
) -> int:
    """Run a federation to its end; started again, it goes on where the journal stops; return the rounds closed.

    Args:
        folder: the coordinator's.
        rounds: update rounds in all; kept in `federation.json`.
        restart_from: round whose state the federation may go on from, since the journal was lost; it holds until `run` is called again.
        digest: which state of that round, as people compared it (`dictpfl.common.fingerprint`); None: that which most institutions hold.
        on_round: told of each round that closes.

    Raises:
        ConfigError: the journal leads to that round already.
        IdentityError: `digest` is not one, or not all of it.
        EngineError: rounds keep failing. The journal keeps what was reached.
        ProcessError: `dictpfl coordinator up` does not run.
        AppBundleError: the app installed here is not the agreed one.
    """
    begun.require(folder, Role.COORDINATOR)
    folder = folder.resolve()
    agreement = Agreement.load(folder / AGREEMENT)
    wanted = agreement if rounds is None else replace(agreement, rounds=rounds)
    if digest is not None:
        matches(bytes(32), digest)
    if agreement.restart_from is not None or restart_from is not None:
        # What was said of a journal that was lost before is not said of one that is lost later.
        wanted = replace(wanted, restart_from=restart_from or 0, restart_digest=digest or "")
    watch = _Watch(folder, wanted, on_round)
    try:
        if restart_from is not None:
            watch.allow(restart_from, digest or "")
        if rounds is not None and (closed := watch.journal.updates()) > rounds:
            _log.warning(
                "more update rounds are closed than are asked for, and --rounds counts all: none is added",
                asked=rounds,
                closed=closed,
            )
        if changed := wanted != agreement:
            wanted.save(folder / AGREEMENT)
        watch.to_the_end(restart=changed and (restart_from is not None or wanted.rounds != agreement.rounds))
        return watch.seen
    finally:
        watch.journal.close()


class _Watch:
    def __init__(self, folder: Path, agreement: Agreement, on_round: OnRound) -> None:
        self._folder = folder
        settings = CoordinatorSettings.load(folder)
        self._superlink = settings.superlink, folder / settings.ca, folder / RUN / SECRET
        self._bundle = installed(folder / FLOWER, agreed(folder, folder, settings.bundle))
        self._agreement, self._on_round = agreement, on_round
        self.journal = open_journal(folder, agreement)
        self.seen = self.journal.next_round
        self._told = set(news(self.journal))
        self._run: int | None = None
        self._away: float | None = None
        self._asked = float("-inf")
        self._full = False
        self._short: float | None = None
        self._missed: list[str] = []

    def allow(self, number: int, digest: str) -> None:
        """Note that the operator lets the federation go on from the institutions' state.

        Raises:
            ConfigError: nothing was lost before that round.
        """
        if number <= self.journal.next_round:
            raise ConfigError(
                f"--from-institutions {number}: the journal leads to round {self.journal.next_round}, so nothing before it is lost; "
                "`dictpfl run` goes on"
            )
        self._noted("restart allowed", round=number, digest=digest, journal=self.journal.next_round)

    def to_the_end(self, *, restart: bool) -> None:
        """Start runs until the rounds are done; `restart`: a run that is on does not know of the new number."""
        idle, reached = 0, self.seen
        self._begin(restart=restart)
        while True:
            self._report()
            state = self._state()
            if state is not None and state.over:
                self._report()
                # Another `dictpfl run`, with another number, may have ended this one.
                self._agreement = Agreement.load(self._folder / AGREEMENT)
                if state.sub_status == "completed" and self.journal.finished(self._agreement.rounds):
                    self._noted("rounds done", closed=self.seen)
                    return
                idle = 0 if self.seen > reached else idle + 1
                reached = self.seen
                self._endure(state, idle)
                self._begin(restart=False)
            time.sleep(POLL_SECONDS)

    def _begin(self, *, restart: bool) -> None:
        with connected(*self._superlink) as control:
            for state in control.runs():
                if not state.over and restart:
                    control.stop(state.run)
                elif not state.over:
                    self._run = state.run
                    _log.info("watching the run that is on", run=state.run)
                    return
            self._run = control.start(self._bundle)
            _log.info("run started", run=self._run)
        self._noted("run started", run=self._run, epoch=self._agreement.epoch, rounds=self._agreement.rounds)

    def _noted(self, event: str, **facts: Any) -> None:
        record(self._folder, coordinator_signer(self._folder), event, **facts)

    def _state(self) -> RunState | None:
        """Ask Flower for the state of our run; None while the SuperLink is away, and between two questions."""
        if time.monotonic() - self._asked < ASK_SECONDS:
            return None
        self._asked = time.monotonic()
        try:
            with connected(*self._superlink) as control:
                state = _find(control, self._run)
                self._say_who_is_missing(control)
        except ProcessError as error:
            if self._away is None:
                self._away = time.monotonic()
                _log.warning("the SuperLink is away, waiting", reason=str(error))
            if time.monotonic() - self._away > AWAY_SECONDS:
                raise
            return None
        self._away = None
        return state

    def _say_who_is_missing(self, control: Control) -> None:
        """Say whom a round waits for, while fewer institutions are online than it needs: nothing else would be seen here."""
        members, missing = _not_online(self._agreement, self._folder, control, self.journal)
        least, online = self._agreement.least, len(members) - len(missing)
        if online >= least:
            self._short, self._missed = None, []
            return
        self._short = self._short or time.monotonic()
        if time.monotonic() - self._short >= SHORT_SECONDS and missing != self._missed:
            self._missed = missing
            _log.warning("waiting for institutions", online=online, minimum=least, not_online=missing)

    def _endure(self, state: RunState, idle: int) -> None:
        if reason := trouble(self.journal):
            raise EngineError(reason)
        if idle >= ATTEMPTS or "app bundle refused" in state.details:
            raise EngineError(
                f"the run ended ({state.sub_status}) without closing a round, {idle + 1} times in a row; Flower says: "
                f"{state.details or 'nothing'}. The journal keeps what was reached; "
                f"{disk.trouble(self._folder) or 'see logs/superexec.log'}"
            )
        _log.warning(
            "the run ended, starting another", run=state.run, sub_status=state.sub_status, details=state.details
        )

    def _report(self) -> None:
        if (full := disk.trouble(self._folder)) and not self._full:
            _log.error(full)
        self._full = bool(full)
        for text in news(self.journal):
            if text not in self._told:
                self._told.add(text)
                _log.error(text)
        if self.journal.next_round <= self.seen:
            return
        sums = self.journal.contributors()
        for closed in self.journal.rounds(self.seen):
            self._on_round(closed, *sums[closed.round])
            self.seen = closed.round + 1


def _find(control: Control, run: int | None) -> RunState:
    for state in control.runs():
        if state.run == run:
            return state
    return RunState(run or 0, "finished", "lost", "the SuperLink does not know the run: its database is new")


def away(folder: Path) -> list[str]:
    """Name the institutions that were not online when a run ended: they have not heard of its last sum.

    Raises:
        ProcessError: `dictpfl coordinator up` does not run.
    """
    folder = folder.resolve()
    agreement, settings = Agreement.load(folder / AGREEMENT), CoordinatorSettings.load(folder)
    journal = open_journal(folder, agreement)
    try:
        with connected(settings.superlink, folder / settings.ca, folder / RUN / SECRET) as control:
            return _not_online(agreement, folder, control, journal)[1]
    finally:
        journal.close()


def _not_online(agreement: Agreement, folder: Path, control: Control, journal: Journal) -> tuple[list[str], list[str]]:
    """Name all institutions that are asked for uploads, and those of them that are not online."""
    known = {node.name: node.status for node in control.nodes()}
    admitted = set(agreement.members) or {path.stem for path in (folder / NODES).glob("*.pub")}
    members = sorted(admitted - {one.name for one in journal.excluded()})
    return members, [name for name in members if known.get(name) != "online"]


def rounds_to_end_with(folder: Path) -> int:
    """Wait for the round that a run has open, if one runs; returns how many update rounds are done then, at least 1.

    Given to `dictpfl run`, that number leaves only what ends a federation: one round that measures, and a last message. An
    institution whose upload came too late keeps it in its residual.

    Raises:
        ProcessError: `dictpfl coordinator up` does not run.
        DictPFLError: the folder cannot be used.
    """
    begun.require(folder, Role.COORDINATOR)
    folder = folder.resolve()
    agreement, settings = Agreement.load(folder / AGREEMENT), CoordinatorSettings.load(folder)
    journal = open_journal(folder, agreement)
    try:
        before = journal.next_round
        while journal.next_round == before and _runs(settings.superlink, folder / settings.ca, folder / RUN / SECRET):
            time.sleep(POLL_SECONDS)
        done = max(1, journal.updates())
        _log.info("draining", rounds=done)
        return done
    finally:
        journal.close()


def _runs(address: str, ca: Path, secret: Path) -> bool:
    with connected(address, ca, secret) as control:
        return any(not run.over for run in control.runs())
