"""What an institution does for one upload: measures the shared model, trains it, quantises, seals, masks, signs."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from client.data import Samples
from client.diary import Diary
from client.integrity import Integrity
from client.masking import Masks, Place
from client.memory import Pending, Record
from client.privacy import Guard
from client.replay import components, padded
from client.sensitivity import sensitivity
from client.speed import rate
from client.tasks import Task
from client.training import Measured, evaluate, train
from client.workbench import Workbench
from common.genesis import Genesis
from common.ledger import Ledger
from common.protocol import RoundKind
from common.round import Plan, Sealable, begin, seal_update
from common.sealing import Sealer
from common.seeds import small_seed
from common.state import Floats, Residual
from common.wire import UPLOAD, Header, write

_MOST_PREPARED = 1024
"""Ciphertexts prepared at most: 33 MB of memory, 0.6 s of work."""


@dataclass(frozen=True)
class Made:
    """An upload that was made.

    Attributes:
        record: to remember before anything is sent, with `pending` in it. `pending`: the upload.
        sent: values in it. `measured`: how the shared model did on own validation samples.
    """

    record: Record
    pending: Pending
    sent: int
    measured: Measured


@dataclass(frozen=True)
class Uploads:
    """Makes uploads; remembering and sending them is `client.institution`'s.

    Attributes:
        name: the institution's own, which its batches are drawn by.
        genesis, bench, task: of the federation. `own`: samples to train on; `validation`: to measure with.
        sealer, guard: encryption, and what differential privacy wants. `masks`, `integrity`: defences; None: off.
    """

    name: str
    genesis: Genesis
    bench: Workbench
    task: Task
    own: Samples
    validation: Samples
    sealer: Sealer
    guard: Guard
    masks: Masks | None
    integrity: Integrity | None
    diary: Diary

    def prepare(self, record: Record) -> None:
        """Do ahead, while there is nothing to answer, what the next upload needs and does not depend on its values."""
        plan = begin(self.genesis.law, record.shared, RoundKind.UPDATE)
        # The next round may send a little more than this one would.
        self.sealer.prepare(min(_MOST_PREPARED, self.genesis.items(components(self.genesis, plan)) + 2))

    def make(self, record: Record, kind: RoundKind, attempt: int, began: float) -> Made:
        """An upload for the round that `record` is at.

        Args:
            record: what is remembered; a pending upload in it was settled or will never be counted.
            kind: what the round carries. `attempt`: of its masks.
            began: `time.perf_counter()` when it was asked for; pending uploads say how long they took.

        Raises:
            DictPFLError: nothing is remembered; what differential privacy charged stays paid.
        """
        law, shared = self.genesis.law, record.shared
        if kind is RoundKind.UPDATE:
            self.guard.charge(shared.round)
        plan = begin(law, shared, kind)
        twin = self.bench.twin_at(shared, record.local)
        with self.diary.timed("evaluate"):
            batch = self.genesis.config.training.evaluation_batch
            measured = evaluate(twin.module, self.validation, self.task, batch_size=batch)
        samples = law.counted(len(self.own))
        ledger = Ledger(1, samples, 0.0, measured.count, measured.loss_sum, measured.metric_sum, np.zeros(0, np.int64))
        update, ledger = self._update(record, plan, ledger)
        with self.diary.timed("seal"):
            sealable = seal_update(law, plan, update, self.guard.said(ledger), self.guard.draw)
            upload_id = record.mark(plan.round) + secrets.token_bytes(8)
            place = Place(plan.round, kind, attempt, upload_id)
            blob = self._sealed(plan, sealable, shared.tag(self.genesis.seed), place, record.secret)
            defence = self.masks.note(place, record.secret) if self.masks else b""
        counted, owed = record.residual, record.residual
        if kind is RoundKind.UPDATE:
            counted = sealable.residual
            owed = Residual(np.where(plan.mask, update, counted.values))
        seconds = time.perf_counter() - began
        pending = self.signed(Pending(shared.round, upload_id, blob, counted, owed, seconds, defence))
        local = self.bench.local_state() if kind is RoundKind.UPDATE else record.local
        return Made(replace(record, local=local, pending=pending), pending, plan.sent, measured)

    def signed(self, pending: Pending) -> Pending:
        """With its manifest, where the federation wants one."""
        return replace(pending, manifest=self.integrity.manifest(pending.blob)) if self.integrity else pending

    def _update(self, record: Record, plan: Plan, ledger: Ledger) -> tuple[Floats, Ledger]:
        """The weighted vector that the round carries: u = w (local - x) + r, scores, or nothing."""
        law, twin = self.genesis.law, self.bench.twin
        weight = law.weight(len(self.own))
        if plan.kind is RoundKind.MEASURE:
            return np.zeros(law.layout.size), ledger
        if plan.kind is RoundKind.SCORE:
            with self.diary.timed("train"):
                return weight * sensitivity(twin, self.own, self.task), ledger
        before = twin.read()
        seed = small_seed(self.genesis.seed, "training", self.name, plan.round)
        sent = plan.mask if law.pruning.pruned == "freeze" else None
        config = self.genesis.config
        factor = rate(config.training, record.shared.updates, config.federation.rounds)
        with self.diary.timed("train"):
            trainer = self.guard.trainer or train
            trained = trainer(twin, self.own, config.training, self.task, seed=seed, sent=sent, rate=factor)
        loss = trained.loss_sum / max(1, trained.samples_seen) * ledger.samples
        return weight * (twin.read() - before) + record.residual.values, replace(ledger, train_loss=loss)

    def _sealed(self, plan: Plan, sealable: Sealable, tag: bytes, place: Place, secret: bytes) -> bytes:
        header = Header(
            UPLOAD, plan.kind, plan.round, self.genesis.federation, self.genesis.fingerprint, tag, place.upload_id
        )
        packed = padded(self.genesis, plan, sealable.components)
        items = self.sealer.seal(self.integrity.tagged(packed, header) if self.integrity else packed)
        if self.masks:
            items = self.masks.put_on(items, place, secret)
        return write(header, items, sealable.clear.astype("<i4").tobytes())


def metrics(measured: Measured) -> Mapping[str, float]:
    """Means over own validation samples; none where there were none."""
    if not measured.count:
        return {}
    return {"metric": measured.metric_sum / measured.count, "loss": measured.loss_sum / measured.count}
