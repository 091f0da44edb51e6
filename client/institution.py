"""Institution: it applies sums, settles its last upload, makes the next one, remembers and replies."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog
import torch

from dictpfl.client.data.preparing.preparation import preparation_of
from dictpfl.client.data.stored import Stored
from dictpfl.client.defences.integrity import integrity_of
from dictpfl.client.defences.limits import waiting
from dictpfl.client.defences.masks import masks_of
from dictpfl.client.defences.pairs import Pairs
from dictpfl.client.defences.sums import Sums
from dictpfl.client.folder import GENESIS_WEIGHTS, SETTINGS, TRAIN, VALIDATION, InstitutionSettings
from dictpfl.client.keys.epochs import Keyring, home
from dictpfl.client.keys.once import one_state
from dictpfl.client.memory.diary import Diary
from dictpfl.client.memory.record import Memory, Record
from dictpfl.client.memory.resting import worked
from dictpfl.client.memory.snapshots import delivered, jumped, open_snapshot, seal_snapshot
from dictpfl.client.privacy.guard import guard_of
from dictpfl.client.training.measuring import agreed_metrics
from dictpfl.client.training.teacher import taught_task
from dictpfl.client.training.workbench import workbench_of
from dictpfl.client.uploading import Uploads, metrics, uploaded
from dictpfl.common.ckks.sealing import CKKSSealer, IdentitySealer, Sealer
from dictpfl.common.errors import (
    BehindError,
    DataError,
    DictPFLError,
    ParameterError,
    RoundError,
    SnapshotError,
    WireError,
    own_place,
)
from dictpfl.common.genesis import DOCUMENT
from dictpfl.common.law.order import admits, has_ended, occasion, stopped
from dictpfl.common.law.refresh import forgotten
from dictpfl.common.law.state import Residual
from dictpfl.common.messages.masks import SumQuestion, read_attempt
from dictpfl.common.messages.protocol import (
    LOCKED,
    NEWCOMER,
    PROTOCOL,
    REFUSED,
    SCORES_DUE,
    VOID,
    Aggregate,
    Reply,
    Request,
    RoundKind,
    Stage,
    Status,
    Wish,
)
from dictpfl.common.messages.snapshots import HEADER_BYTES, SnapshotHeader
from dictpfl.common.messages.wire import read_header

_log = structlog.get_logger(__name__)
_ABOUT_SUMS = frozenset({"reveal", "too-few", "integrity", "refused"})
"""Codes of refusals that come after a message was parsed: on the wire they are one, since whoever asks learns from each."""
_NOTED_WITH_SUM = frozenset({"integrity", "refused", LOCKED})
"""Codes whose reason the diary gets where the sum is; of a question about masks there is no sum."""


class Institution:
    """Institution of a folder; construct with `open_institution`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.settings = InstitutionSettings.load(folder)
        self._keys = Keyring(folder, self.settings)
        self._genesis = self._keys.genesis
        config = self._genesis.config
        # Its own to raise, and not to lower: other institutions' noise counts on what all agreed on.
        least = max(self.settings.min_participants, config.federation.min_participants)
        self.settings = self.settings.model_copy(update={"min_participants": least})
        if config.insecurities and not self.settings.toy_insecure:
            raise ParameterError(
                f"{'; '.join(config.insecurities)}. Set toy_insecure = true in {folder}/institution.toml to take part all the same",
                code="insecure",
            )
        self.settings.require_allowed(config.own_code, folder / SETTINGS)
        key = self._keys.key
        self._sealer: Sealer = CKKSSealer(key) if key else IdentitySealer(self._genesis.parameters)
        if self._sealer.fingerprint != self._genesis.fingerprint:
            raise WireError(
                f"the key in {self._keys.home} has fingerprint {self._sealer.fingerprint.hex()[:12]}, genesis names "
                f"{self._genesis.fingerprint.hex()[:12]}; ask the authority for the bundle of this epoch",
                code="wrong-key",
            )
        torch.set_num_threads(config.training.threads)
        skill = config.narrow.classes
        preparing = preparation_of(config)
        own, validation = (Stored(folder / name, skill, preparing, config.data) for name in (TRAIN, VALIDATION))
        if not len(own) and not skill:
            raise DataError(f"{folder}/{TRAIN} holds no samples; an institution needs at least one to take part")
        self._bench = workbench_of(self._genesis, self._keys.home / GENESIS_WEIGHTS)
        self._memory = Memory(folder / "memory", self._genesis.federation)
        self._guard = guard_of(self._genesis, self._memory.path, len(own))
        self._pairs = Pairs.load(self._keys)
        self._masks = masks_of(self._keys, self._pairs, self._memory.path, self.settings.min_participants)
        self._integrity = integrity_of(self._pairs, wanted=config.defences.integrity)
        self._diary = Diary(folder, self.settings.name)
        self._sums = Sums(
            folder, self._keys, self.settings, self._memory.path, self._integrity, self._pairs.own.name, self._diary
        )
        self._uploads = Uploads(
            self.settings.name, self._genesis, self._bench, taught_task(config, self._keys.home, self._genesis),
            agreed_metrics(self._genesis), own, validation, self._sealer, self._guard, self._masks, self._integrity, self._pairs.number,
            self._diary, folder, self.settings.own_training(config, folder / SETTINGS),
        )  # fmt: skip
        self._record: Record | None = None
        self._stamp = (-1, -1, -1)
        self._began = 0.0
        self._fits = False

    def handle(self, request: Request) -> Reply:
        """Answer a request. Errors stay in the local log; only their code leaves, and one for all that concern sums."""
        self._began = time.perf_counter()
        reply = self._handled(request)
        if reply.status is Status.REFUSED and reply.code in _ABOUT_SUMS:
            reply = replace(reply, code=REFUSED)
        elif reply.code != SCORES_DUE and self._record is not None and self._record.void == request.round - 1 >= 0:
            reply = replace(reply, code=VOID)
        worked(
            self,
            (self._record.nbytes if self._record else 0) + self._uploads.own.nbytes + self._uploads.validation.nbytes,
        )
        self._hold_back(reply)
        return reply

    def rest(self) -> None:
        """Let go of what is on disk, too: record and samples. The next request reads them again."""
        self._record = None
        self._uploads.own.close()
        self._uploads.validation.close()

    def _hold_back(self, reply: Reply) -> None:
        """Wait until a whole number of `reply_every_seconds` has passed since the request came, and of seconds if it refuses."""
        every = self.settings.reply_every_seconds
        refuses = reply.code in (REFUSED, LOCKED)
        time.sleep(waiting(time.perf_counter() - self._began, every, refuses=refuses))

    def _handled(self, request: Request) -> Reply:
        with self._memory.locked():
            try:
                reply = self._answer(request)
                return self._with_last_sum(request, replace(reply, snapshot=self._snapshot(request.wish)))
            except BehindError as error:
                _log.info("behind, asks for what is missing", institution=self.settings.name, reason=str(error))
                code = "" if self._memory.path.exists() else NEWCOMER
                return Reply(Status.BEHIND, request.round, self._position, code=code)
            except DictPFLError as error:
                raised = {"exc_info": error} if own_place(error) else {}
                _log.error(
                    "request refused", institution=self.settings.name, code=error.code, reason=str(error), **raised
                )
                if request.stage is not Stage.UPLOAD or error.code not in _NOTED_WITH_SUM:
                    self._diary.failed(request.round, error)
                return Reply(Status.REFUSED, request.round, self._position, code=error.code)
            except Exception as error:
                self._diary.failed(request.round, error)
                raise

    def prepare(self) -> None:
        """Prepare the next upload, while there is nothing to answer."""
        record = self._recall()
        self._require_fit(record)
        self._uploads.prepare(record)

    def _require_fit(self, record: Record) -> None:
        """Try one sample before the first upload: what does not fit is then said in its own words, and nothing is spent on it."""
        if not self._fits:
            self._fits = self._uploads.require_fit(record)

    @property
    def _position(self) -> int:
        return self._record.shared.round if self._record else 0

    def _answer(self, request: Request) -> Reply:
        self._require_ours(request)
        record = self._recall()
        if self._memory.path.exists() and record.tag != record.shared.tag(self._genesis.secret_seed):
            record = self._remember(record)  # from before a rotation
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
            early = stopped(self._genesis.law, record.shared)
            self._diary.note("settled", record.shared.round, 0, stopped=early, updates=record.shared.updates)
            return Reply(Status.SETTLED, request.round, record.shared.round)
        if has_ended(self._genesis.law, record.shared, request.kind):
            self._diary.note("finished", record.shared.round, 0)
            return Reply(Status.FINISHED, request.round, record.shared.round)
        if not admits(self._genesis.law, record.shared, request.kind):
            raise RoundError(
                f"round {request.round} asks for {request.kind}, and {len(record.shared.tallies)} tallies are open: scores are due first, so that "
                "nobody would apply its sum; nothing was made. The coordinator asks for them next",
                code="scores-due",
            )
        most = self.settings.most_rounds
        if request.kind is RoundKind.UPDATE and most and record.shared.updates >= most:
            raise RoundError(
                f"update {record.shared.updates + 1} is asked for, this institution makes {most} at most (most_rounds in its "
                "institution.toml); the coordinator's operator asks for more rounds than were agreed on"
            )
        return self._upload(record, request.kind, attempt)

    def _told(self, record: Record, request: Request) -> Reply:
        """Answer a question about the masks of the waiting upload."""
        pending = record.pending
        if self._masks is None or pending is None or pending.round != request.round:
            raise RoundError(
                f"asked about masks of round {request.round}, no upload of that round waits here", code="reveal"
            )
        question = SumQuestion.of_bytes(request.defence)
        if request.stage is Stage.AGREE:
            answer = self._masks.agree(pending, question)
        elif request.stage is Stage.SEEDS:
            answer = self._masks.tell_seeds(pending, question)
        else:
            if self._integrity:
                self._integrity.require_made(question, pending.blob)
            due = occasion(self._genesis.law, record.shared)
            answer = self._masks.tell_shares(record, pending, question, due)
        self._diary.note("told", pending.round, len(answer.to_bytes()), stage=str(request.stage))
        return Reply(Status.REVEALED, request.round, record.shared.round, defence=answer.to_bytes())

    def _require_ours(self, request: Request) -> None:
        if request.protocol != PROTOCOL or request.federation != self._genesis.federation:
            raise WireError(
                f"a request of protocol {request.protocol} and federation {request.federation.hex()[:12]}, this "
                f"institution is in {self._genesis.federation.hex()[:12]} with protocol {PROTOCOL}",
                code="wrong-federation",
            )
        if request.fingerprint != self._genesis.fingerprint:
            raise WireError("the coordinator names another key than this institution holds", code="wrong-key")

    def _recall(self) -> Record:
        stamp = self._memory.stamp()
        if self._record is None or stamp != self._stamp:
            recalled = self._memory.recall()
            if recalled is None:
                # Moved away by its operator, maybe with the record of what was opened: that is read anew, too.
                self._sums.read_again()
            record = recalled or Record(
                self._keys.start(),
                Residual.none(self._genesis.layout.size),
                self._pairs.marking,
                self._bench.first_local_state(),
            )
            self._record = replace(record, shared=one_state(record.shared))
            self._stamp = stamp
            if self._record.shared.round > self._keys.table.last.first_round:
                self._sums.openings.require_complete(self._record.shared.round)
        return self._record

    def _remember(self, record: Record) -> Record:
        shared = one_state(record.shared)
        record = self._memory.store(replace(record, shared=shared, tag=shared.tag(self._genesis.secret_seed)))
        self._record, self._stamp = record, self._memory.stamp()
        return record

    def _same_again(self, record: Record, request: Request, attempt: int) -> Reply | None:
        """Return the stored upload if it is what is asked for, masked for another attempt if need be."""
        pending = record.pending
        if pending is None or request.kind is None or not record.shared.round == request.round == pending.round:
            return None
        made = self._uploads.attempt(pending, request.kind)
        if made is None:
            return None
        if attempt != made:
            pending = self._uploads.again(record, pending, attempt)
            self._remember(replace(record, pending=pending))
        return uploaded(pending)

    def _caught_up(self, record: Record, request: Request) -> Record:
        """Apply the aggregates that are next, in order, settle the waiting upload, and store the result durably.

        Raises:
            DictPFLError: one is refused; those before it stay applied.
        """
        before = record
        if request.snapshot:
            record = self._jumped(record, request)
        last: Aggregate | None = None
        for place, aggregate in enumerate(request.aggregates):
            if aggregate.round == record.shared.round and aggregate.blob:
                following = request.aggregates[place + 1].blob if place + 1 < len(request.aggregates) else b""
                try:
                    record, last = self._applied(record, aggregate, following), aggregate
                except DictPFLError:
                    # Of a snapshot alone nothing is kept: no sum has shown yet that its state is the others'.
                    if last:
                        self._reached(record, last)
                    raise
        return record if record is before else self._reached(record, last)

    def _reached(self, record: Record, last: Aggregate | None) -> Record:
        """Store a record, and before it the sum that led to its state; None where that was a snapshot."""
        if last:
            self._memory.keep_sum(last, record.shared)
        return self._remember(record)

    def _jumped(self, record: Record, request: Request) -> Record:
        """Start from a snapshot if it is newer than the own state, which has to lead to it; an older one never takes anything back."""
        size, number = len(request.snapshot), SnapshotHeader.read(request.snapshot).round
        if number <= record.shared.round:
            _log.info(
                "snapshot left alone, not newer", institution=self.settings.name, round=number, here=record.shared.round
            )
            return record
        with self._diary.timed("open"):
            state = open_snapshot(self._keys, request.snapshot, request.aggregates, request.round)
        newcomer = not record.shared.round or not self._memory.path.exists()
        after, given_up = jumped(record, state, request.aggregates, self._genesis.layout, newcomer=newcomer)
        if given_up:
            _log.warning(
                "what was trained here but not delivered is given up: it cannot be told what of it was counted",
                institution=self.settings.name, first=record.shared.round, last=number - 1,
            )  # fmt: skip
        for skipped in delivered(record, request.aggregates, number):
            self._guard.confirm(skipped)
        self._sums.openings.skip(number)
        self._diary.note("jumped", number, size, skipped=number - record.shared.round, given_up=given_up)
        return after

    def _snapshot(self, wish: Wish) -> bytes:
        """Snapshot of the state that the answer was given in; a failure here never stops the answer."""
        if wish is Wish.NOTHING or self._record is None:
            return b""
        try:
            sealed = seal_snapshot(self._keys, self._record.shared)
        except SnapshotError as error:
            _log.warning("no snapshot made", institution=self.settings.name, reason=str(error))
            return b""
        return sealed if wish is Wish.WHOLE else sealed[:HEADER_BYTES]

    def _with_last_sum(self, request: Request, reply: Reply) -> Reply:
        """Add to a snapshot for which no upload is asked the sum that led to its state: a coordinator that lost its journal asks so."""
        if request.kind is not None or request.wish is Wish.NOTHING or self._record is None:
            return reply
        last = self._memory.last_sum(self._record.shared)
        return replace(reply, blob=last.blob, manifest=last.manifests) if last else reply

    def _applied(self, record: Record, aggregate: Aggregate, following: bytes) -> Record:
        with self._diary.timed("open"):
            done, own = self._sums.opened(record, aggregate, following)
        self._keys.require_agreed(done.state)
        number, counted = aggregate.round, () if done.void else own
        if done.void:
            _log.error("round void", institution=self.settings.name, round=number, reason=done.void)
        is_update = done.plan.kind is RoundKind.UPDATE
        # What was decrypted was seen, whether the round counts or not.
        if is_update and own:
            self._guard.confirm(number)
        residual = record.residual
        if is_update:
            residual = record.settled(number, counted, done.plan.mask)
            residual = forgotten(self._genesis.layout, residual, done.state.records[len(record.shared.records) :])
        delivery = {}
        if (pending := record.pending) and not done.void:
            deadline = self._genesis.config.federation.deadline_seconds
            delivery = self._diary.delivery(number, pending.seconds, deadline, counted=pending.upload_id in counted)
        self._diary.note("void" if done.void else "applied", number, len(aggregate.blob), **delivery)
        void = number if done.void else record.void
        return replace(record, shared=done.state, residual=residual, pending=None, void=void)

    def _upload(self, record: Record, kind: RoundKind, attempt: int) -> Reply:
        if self._masks:
            self._masks.require_open(record.shared.round, attempt)
        earlier: tuple[RoundKind, ...] = ()
        if (pending := record.pending) is not None:
            # It will never be counted. Under another key it is owed; of another kind it is made again from the same state, and would count twice.
            header = read_header(pending.blob)
            is_owed = header.fingerprint != self._genesis.fingerprint
            record = replace(record, residual=pending.missed if is_owed else record.residual, pending=None)
            earlier = () if is_owed else (*pending.earlier, header.kind)
        if kind in earlier:
            raise RoundError(
                f"expected {earlier[-1]} in round {record.shared.round}, found {kind} asked for once more after it: of each kind one upload is made, and "
                f"that one was given up. Nothing was made or paid for. The coordinator's operator closes the round as {earlier[-1]} first"
            )
        self._require_fit(record)
        made = self._uploads.make(record, kind, attempt, self._began)
        with self._diary.timed("store"):
            self._remember(replace(made.record, pending=replace(made.pending, earlier=earlier)))
        facts: dict[str, Any] = dict(metrics(made.measured))
        if kind is RoundKind.UPDATE:
            facts["device"] = self._uploads.device
        self._diary.note(
            "uploaded", record.shared.round, made.pending.sent_bytes, kind=str(kind), sent=made.sent, **facts
        )
        return uploaded(made.pending)


_OPEN: dict[Path, tuple[tuple[int, ...], Institution]] = {}


def open_institution(folder: Path) -> Institution:
    """Open the institution of a folder, and keep it for the life of the process, or until its settings, genesis or samples change.

    Raises:
        DictPFLError: settings, genesis, key or data cannot be used.
    """
    folder = folder.resolve()
    written = tuple(
        _changed(path) for path in (home(folder) / DOCUMENT, folder / SETTINGS, folder / TRAIN, folder / VALIDATION)
    )
    if folder not in _OPEN or _OPEN[folder][0] != written:
        _OPEN[folder] = (written, Institution(folder))
    return _OPEN[folder][1]


def forget_institutions() -> None:
    """Drop every institution that this process keeps open; a process may play many federations in turn."""
    _OPEN.clear()


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
