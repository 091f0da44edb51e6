"""One institution: catches up by replay, settles its last upload, makes the next (`client.uploading`), remembers, replies."""

from __future__ import annotations

import secrets
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog
import torch

from client.data import Samples
from client.delivery import missed
from client.diary import Diary
from client.epochs import Keyring, home
from client.integrity import integrity_of
from client.jump import jumped
from client.masking import masks_of
from client.memory import Memory, Pending, Record
from client.privacy import guard_of
from client.replay import Applied, apply, components
from client.sealed import open_snapshot, seal_snapshot
from client.site import GENESIS_WEIGHTS, SITE, TRAIN, VALIDATION, SiteSettings
from client.tasks import load_task
from client.uploading import Uploads, metrics
from client.workbench import Workbench
from common.errors import (
    BehindError,
    DataError,
    DictPFLError,
    InsecureParametersError,
    IntegrityError,
    OpeningError,
    RevealError,
    RoundError,
    SnapshotError,
    WireError,
    WrongFederationError,
    WrongKeyError,
)
from common.genesis import DOCUMENT, Genesis
from common.opening import Opener
from common.protocol import NEWCOMER, PROTOCOL, Aggregate, Reply, Request, RoundKind, Stage, Status, Wish
from common.refresh import forgotten
from common.revealing import SeedsQuestion, SharesQuestion, read_attempt
from common.round import begin, stopped
from common.sealing import CKKSSealer, IdentitySealer, Sealer
from common.snapshots import HEADER_BYTES, SnapshotHeader
from common.state import Residual
from common.wire import UPLOAD, Blob, read_kind

_log = structlog.get_logger(__name__)
_MOST_EXPECTED = 1024
"""Ciphertexts of the upload that waits, whose seeds are drawn ahead at most: 66 MB of memory, 0.2 s of work."""


class Institution:
    """The institution whose folder is given; construct with `open_institution`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.settings = SiteSettings.load(folder)
        self._keys = Keyring(folder, self.settings)
        self._genesis = self._keys.genesis
        config = self._genesis.config
        if config.insecurities and not self.settings.toy_insecure:
            raise InsecureParametersError(
                f"{'; '.join(config.insecurities)}. Set toy_insecure = true in {folder}/site.toml to take part all the same"
            )
        key = self._keys.key
        self._sealer: Sealer = CKKSSealer(key) if key else IdentitySealer(self._genesis.parameters)
        if self._sealer.fingerprint != self._genesis.fingerprint:
            raise WrongKeyError(
                f"the key in {self._keys.home} has fingerprint {self._sealer.fingerprint.hex()[:12]}, genesis names "
                f"{self._genesis.fingerprint.hex()[:12]}; ask the authority for the bundle of this epoch"
            )
        torch.set_num_threads(config.training.threads)
        own = Samples.load(folder / TRAIN)
        if not len(own):
            raise DataError(f"{folder}/{TRAIN} holds no samples; an institution needs at least one to take part")
        self._bench = Workbench(self._genesis, self._keys.home / GENESIS_WEIGHTS)
        self._memory = Memory(folder / "memory", self._genesis.federation)
        self._guard = guard_of(self._genesis, self._memory.path, len(own))
        self._masks = masks_of(self._keys, self._memory.path, self.settings.min_participants)
        self._integrity = integrity_of(self._keys)
        self._diary = Diary(folder, self.settings.name)
        self._uploads = Uploads(
            self.settings.name, self._genesis, self._bench, load_task(config.training.task), own,
            Samples.load(folder / VALIDATION), self._sealer, self._guard, self._masks, self._integrity, self._diary,
        )  # fmt: skip
        self._record: Record | None = None
        self._stamp = (-1, -1, -1)
        self._began = 0.0

    def handle(self, request: Request) -> Reply:
        """Answer a request. What goes wrong stays in the local log; a bare code leaves."""
        self._began = time.perf_counter()
        reply = self._handled(request)
        self._hold_back()
        return reply

    def _hold_back(self) -> None:
        """Wait until a whole number of `reply_every_seconds` has passed since the request came."""
        every, passed = self.settings.reply_every_seconds, time.perf_counter() - self._began
        if every:
            time.sleep(-passed % every)

    def _handled(self, request: Request) -> Reply:
        with self._memory.locked():
            try:
                reply = self._answer(request)
                return replace(reply, snapshot=self._snapshot(request.wish))
            except BehindError as error:
                _log.info("behind, asks for what is missing", site=self.settings.name, reason=str(error))
                code = "" if self._memory.path.exists() else NEWCOMER
                return Reply(Status.BEHIND, request.round, self._position, code=code)
            except DictPFLError as error:
                _log.error("request refused", site=self.settings.name, code=error.code, reason=str(error))
                return Reply(Status.REFUSED, request.round, self._position, code=error.code)

    def prepare(self) -> None:
        """Do ahead, while there is nothing to answer, what the next upload and the opening of its sum need."""
        record = self._recall()
        self._uploads.prepare(record)
        if record.pending is not None:
            number, kind, _ = read_kind(record.pending.blob)
            genesis, opener = self._keys.at(number)
            blob = Blob.parse(record.pending.blob, genesis.uploads, direction=UPLOAD, kind=kind, round=number)
            opener.expect(blob.sealed[: _MOST_EXPECTED * blob.header.item_length])

    @property
    def _position(self) -> int:
        return self._record.shared.round if self._record else 0

    def _answer(self, request: Request) -> Reply:
        self._require_ours(request)
        record = self._recall()
        if request.stage is not Stage.UPLOAD:
            return self._told(record, request)
        attempt = read_attempt(request.defence)
        if request.kind is not None and (reply := self._same_again(record, request, attempt)):
            return reply
        record = self._caught_up(record, request)
        if record.shared.round < request.round:
            raise BehindError(
                f"round {request.round} is asked for; here, rounds {record.shared.round} to {request.round - 1} are missing, "
                "or a snapshot of a later state"
            )
        if record.shared.round > request.round:
            raise RoundError(
                f"the coordinator asks for round {request.round}, this institution already applied all before "
                f"{record.shared.round}: the coordinator's journal was lost or is an old copy. Its operator should restore "
                "the newest one; without one, it goes on from the institutions' state once most of them say this"
            )
        if request.kind is None:
            self._diary.note("settled", record.shared.round, 0)
            return Reply(Status.SETTLED, request.round, record.shared.round)
        if request.kind is RoundKind.UPDATE and stopped(self._genesis.law, record.shared):
            self._diary.note("finished", record.shared.round, 0)
            return Reply(Status.FINISHED, request.round, record.shared.round)
        return self._upload(record, request.kind, attempt)

    def _told(self, record: Record, request: Request) -> Reply:
        """What is asked about masks, of the upload that waits."""
        pending = record.pending
        if self._masks is None or pending is None or pending.round != request.round:
            raise RevealError(f"asked about masks of round {request.round}, no upload of that round waits here")
        if request.stage is Stage.SEEDS:
            answer = self._masks.tell_seeds(pending, SeedsQuestion.of_bytes(request.defence))
        else:
            question = SharesQuestion.of_bytes(request.defence)
            if self._integrity:
                self._integrity.require_made(question, pending.blob, pending.manifest)
            answer = self._masks.tell_shares(record, pending, question)
        self._diary.note("told", pending.round, len(answer.to_bytes()), stage=str(request.stage))
        return Reply(Status.REVEALED, request.round, record.shared.round, defence=answer.to_bytes())

    def _require_ours(self, request: Request) -> None:
        if request.protocol != PROTOCOL or request.federation != self._genesis.federation:
            raise WrongFederationError(
                f"a request of protocol {request.protocol} and federation {request.federation.hex()[:12]}, this "
                f"institution is in {self._genesis.federation.hex()[:12]} with protocol {PROTOCOL}"
            )
        if request.fingerprint != self._genesis.fingerprint:
            raise WrongKeyError("the coordinator names another key than this institution holds")

    def _recall(self) -> Record:
        stamp = self._memory.stamp()
        if self._record is None or stamp != self._stamp:
            self._record = self._memory.recall() or Record(
                self._keys.start(),
                Residual.none(self._genesis.layout.size),
                secrets.token_bytes(32),
                self._bench.local_state(),
            )
            self._stamp = stamp
        return self._record

    def _remember(self, record: Record) -> Record:
        self._memory.store(record)
        self._record, self._stamp = record, self._memory.stamp()
        return record

    def _same_again(self, record: Record, request: Request, attempt: int) -> Reply | None:
        """The stored upload, if it is what is asked for: same round, same kind, same key; masked for another attempt if need be."""
        pending = record.pending
        if pending is None or request.kind is None or record.shared.round != request.round:
            return None
        try:
            Blob.parse(pending.blob, self._genesis.uploads, direction=UPLOAD, kind=request.kind, round=request.round)
        except WireError:
            return None
        if self._masks and attempt != self._masks.attempt_of(pending):
            pending = self._uploads.signed(self._masks.changed(record, pending, attempt))
            self._remember(replace(record, pending=pending))
        return _uploaded(pending)

    def _caught_up(self, record: Record, request: Request) -> Record:
        """Apply what is next, in order, and settle the upload that waits for it; durable before anything else."""
        before = record
        if request.snapshot:
            record = self._jumped(record, request)
        for aggregate in request.aggregates:
            if aggregate.round == record.shared.round and aggregate.blob:
                record = self._applied(record, aggregate)
        return record if record is before else self._remember(record)

    def _jumped(self, record: Record, request: Request) -> Record:
        """Start from a snapshot if it is newer than what is here; an older one never takes anything back."""
        size, number = len(request.snapshot), SnapshotHeader.read(request.snapshot).round
        if number <= record.shared.round:
            _log.info("snapshot left alone, not newer", site=self.settings.name, round=number, here=record.shared.round)
            return record
        with self._diary.timed("open"):
            state = open_snapshot(self._keys, request.snapshot, request.aggregates, request.round)
        after, given_up = jumped(record, state, request.aggregates, self._genesis.layout)
        if given_up:
            _log.warning(
                "what was trained here but not delivered is given up: it cannot be told what of it was counted",
                site=self.settings.name, first=record.shared.round, last=number - 1,
            )  # fmt: skip
        self._diary.note("jumped", number, size, skipped=number - record.shared.round, given_up=given_up)
        return after

    def _snapshot(self, wish: Wish) -> bytes:
        """A snapshot of the state that the answer was given in; never a reason not to answer."""
        if wish is Wish.NOTHING or self._record is None:
            return b""
        try:
            sealed = seal_snapshot(self._keys, self._record.shared)
        except SnapshotError as error:
            _log.warning("no snapshot made", site=self.settings.name, reason=str(error))
            return b""
        return sealed if wish is Wish.WHOLE else sealed[:HEADER_BYTES]

    def _applied(self, record: Record, aggregate: Aggregate) -> Record:
        with self._diary.timed("open"):
            genesis, opener = self._keys.at(aggregate.round)
            done = self._checked(genesis, opener, record, aggregate)
        self._keys.require_agreed(done.state)
        if done.plan.kind is RoundKind.UPDATE and record.is_in(aggregate.counted, aggregate.round):
            self._guard.confirm(aggregate.round)
        residual = record.residual
        if done.plan.kind is RoundKind.UPDATE:
            residual = record.settled(aggregate.round, aggregate.counted, done.plan.mask)
            residual = forgotten(self._genesis.layout, residual, done.state.records[len(record.shared.records) :])
        delivery = self._delivery(record.pending, aggregate) if record.pending else {}
        self._diary.note("applied", aggregate.round, len(aggregate.blob), **delivery)
        return replace(record, shared=done.state, residual=residual, pending=None)

    def _checked(self, genesis: Genesis, opener: Opener, record: Record, aggregate: Aggregate) -> Applied:
        """Apply a sum, and keep evidence of one that is not what it is said to be."""
        pending, minimum = record.pending, self.settings.min_participants
        own = pending.manifest if pending is not None and pending.round == aggregate.round else b""
        try:
            roster = self._keys.roster_at(aggregate.round)
            return apply(genesis, opener, record.shared, aggregate, minimum, roster, own)
        except (IntegrityError, OpeningError) as error:
            if self._integrity:
                plan = begin(genesis.law, record.shared, read_kind(aggregate.blob)[1])
                count = components(genesis, plan)
                path = self._integrity.keep_evidence(self._folder, error, aggregate, own, count)
                _log.error(
                    "evidence kept of a refused sum", site=self.settings.name, round=aggregate.round, file=str(path)
                )
            raise

    def _delivery(self, pending: Pending, aggregate: Aggregate) -> dict[str, Any]:
        """Whether the upload that waited was in time: its maker hears of it nowhere else."""
        if pending.upload_id in aggregate.counted:
            return {"counted": True}
        facts = missed(pending.seconds, self._genesis.config.federation.deadline_seconds)
        _log.warning(
            "this institution's upload is not in the sum", site=self.settings.name, round=aggregate.round, **facts
        )
        return {"counted": False, **facts}

    def _upload(self, record: Record, kind: RoundKind, attempt: int) -> Reply:
        if self._masks:
            self._masks.require_open(record.shared.round, attempt)
        if record.pending is not None:
            # Made for another kind of this very round, or under another key: it will never be counted.
            record = replace(record, residual=record.pending.missed, pending=None)
        made = self._uploads.make(record, kind, attempt, self._began)
        with self._diary.timed("store"):
            self._remember(made.record)
        facts = metrics(made.measured)
        self._diary.note(
            "uploaded", record.shared.round, len(made.pending.blob), kind=str(kind), sent=made.sent, **facts
        )
        return _uploaded(made.pending)


def _uploaded(pending: Pending) -> Reply:
    number = pending.round
    return Reply(Status.UPLOAD, number, number, pending.blob, defence=pending.defence, manifest=pending.manifest)


def forget_institutions() -> None:
    """Let go of every institution that this process keeps; a process may play many federations in turn."""
    _OPEN.clear()


_OPEN: dict[Path, tuple[tuple[int, ...], Institution]] = {}


def open_institution(folder: Path) -> Institution:
    """The institution of a folder; kept for the life of the process, since loading model and data takes a while.

    Raises:
        DictPFLError: settings, genesis, key or data cannot be used.
    """
    folder = folder.resolve()
    written = tuple(
        _changed(path) for path in (home(folder) / DOCUMENT, folder / SITE, folder / TRAIN, folder / VALIDATION)
    )
    if folder not in _OPEN or _OPEN[folder][0] != written:
        _OPEN[folder] = (written, Institution(folder))
    return _OPEN[folder][1]


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
