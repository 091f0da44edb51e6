"""Making of one upload: evaluate the shared model, train it, quantise, seal, mask and sign."""

from __future__ import annotations

import hashlib
import hmac
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import structlog
import torch
from numpy.typing import NDArray

from dictpfl.client.data.samples import Samples
from dictpfl.client.data.stored import Stored
from dictpfl.client.defences.integrity import Integrity
from dictpfl.client.defences.masks import MaskContext, Masks
from dictpfl.client.folder import TRAIN, VALIDATION
from dictpfl.client.memory.diary import Diary
from dictpfl.client.memory.record import Pending, Record
from dictpfl.client.privacy.guard import Guard
from dictpfl.client.training.pooled import Metrics
from dictpfl.client.training.scorer import scores_of
from dictpfl.client.training.speed import Precision, device_name, rate, scale_of_round
from dictpfl.client.training.tally import Own, Subject, integers_of, reads_raw
from dictpfl.client.training.task import Task, learnt
from dictpfl.client.training.train import Measured, evaluate, resolve_device, train
from dictpfl.client.training.workbench import Workbench
from dictpfl.common.ckks.sealing import Sealed, Sealer
from dictpfl.common.errors import DataError, ModelError, WireError
from dictpfl.common.genesis import Genesis, components, padded
from dictpfl.common.law.ledger import Ledger
from dictpfl.common.law.round import Plan, Sealable, begin, seal_update, without_statistics
from dictpfl.common.law.seeds import small_seed
from dictpfl.common.law.state import Floats, Residual, SharedState
from dictpfl.common.law.tags import TAGS
from dictpfl.common.law.tally import Tally
from dictpfl.common.law.tallying import seal_tally
from dictpfl.common.messages.protocol import Reply, RoundKind, Status
from dictpfl.common.messages.wire import UPLOAD, Blob, Entry, Header, kind_number, write
from dictpfl.common.settings import Training
from dictpfl.common.words import pack_words

_log = structlog.get_logger(__name__)
_MOST_PREPARED = 1024
"""Most ciphertexts that are prepared ahead: 33 MB of memory, 0.6 s of work."""
_HASHED = 1 << 18
"""Words packed at once for a hash: a multiple of eight, which fill whole bytes."""


@dataclass(frozen=True)
class Made:
    """Upload that was made.

    Attributes:
        record: record to store before anything is sent; `pending` is in it.
        pending: the upload.
        sent: number of values in it.
        measured: evaluation of the shared model on the institution's validation samples.
    """

    record: Record
    pending: Pending
    sent: int
    measured: Measured


@dataclass(frozen=True)
class Uploads:
    """Maker of uploads; `dictpfl.client.institution` stores and sends them.

    Attributes:
        name: name of the institution, part of its training's seed.
        genesis: agreement of the federation.
        bench: model.
        task: task that gives loss and metric.
        metrics: metrics from sums, as genesis has them.
        own: samples to train on.
        validation: samples to evaluate on.
        sealer: encryption.
        guard: differential privacy.
        masks: masks on uploads; None: none.
        integrity: manifests; None: none.
        member: number of the institution among the members of the epoch.
        diary: diary that times are written to.
        folder: folder of the institution.
        training: settings of training, with what the institution has otherwise.
    """

    name: str
    genesis: Genesis
    bench: Workbench
    task: Task
    metrics: Metrics
    own: Stored
    validation: Stored
    sealer: Sealer
    guard: Guard
    masks: Masks | None
    integrity: Integrity | None
    member: int
    diary: Diary
    folder: Path
    training: Training

    @property
    def device(self) -> str:
        """Name of the device that trains, and its arithmetic."""
        return device_name(self.training, resolve_device(self.training.device))

    @property
    def _precision(self) -> Precision:
        return Precision(self.training, resolve_device(self.training.device))

    @cached_property
    def counted(self) -> int:
        """Number of samples that it counts as: of labels of tokens in memory, without samples of which nothing is learnt."""
        labels = self.own.raw().labels if hasattr(self.task, "units") else None
        some = isinstance(labels, np.ndarray)
        return self.genesis.law.counted(learnt(self.task, torch.from_numpy(labels)) if some else len(self.own))

    def prepare(self, record: Record) -> None:
        """Prepare the part of the next upload that does not depend on its values, while there is nothing to answer."""
        plan = begin(self.genesis.law, record.shared, RoundKind.UPDATE)
        # Two more ciphertexts than this round needs: the next one may send a few more values.
        self.sealer.prepare(
            min(_MOST_PREPARED, self.genesis.parameters.ciphertexts(components(self.genesis, plan)) + 2)
        )

    def require_fit(self, record: Record) -> bool:
        """Look at all labels in memory; have the model and the task look at the samples with the largest label and token: others are not further out.

        Returns:
            Whether there was one: samples that all institutions prepare together are not there before that.

        Raises:
            DataError: samples of another shape, type, or range of labels or tokens than the model's.
        """
        own = self.own.open(record.shared)
        if not len(own):
            return False
        self._require_classes(own, TRAIN)
        self._require_classes(self.validation.open(record.shared), VALIDATION)
        module = self.bench.twin_at(record.shared, record.local).module
        tokens = _furthest(own.features) if own.features.dtype == np.int64 else 0
        for row in sorted({_furthest(own.labels), tokens}):
            one = own.take(np.array([row]))
            try:
                evaluate(module, one, self.task, batch_size=1, precision=self._precision)
            except (ModelError, RuntimeError, ValueError, IndexError) as error:
                features, labels = one.features, one.labels
                raise DataError(
                    f"{self.folder}/{TRAIN} does not fit the federation's model: a sample of shape {list(features.shape[1:])} ({features.dtype}) "
                    f"with label {labels[0]} is refused with: {str(error).splitlines()[0]}. Make the file anew from the same columns and "
                    "with the same options as the other institutions"
                ) from error
        return True

    def _require_classes(self, samples: Samples, name: str) -> None:
        """Refuse a label of no class here: a GPU would end the process at it, and say neither where nor which."""
        labels, count = samples.labels, self.genesis.outputs
        # Of one output, whole numbers are a regression's; a task with outputs of its own knows what its labels are, and a model what its tokens are.
        of_classes = count > 1 and getattr(self.task, "wanted_outputs", None) is None
        if of_classes and isinstance(labels, np.ndarray) and labels.dtype == np.int64 and labels.ndim == 1:
            for row in np.flatnonzero(labels >= count)[:1]:
                raise DataError(
                    f"{self.folder}/{name}, sample {row}: its label is outside of 0..{count - 1}, the federation's {count} classes, it is "
                    f"{labels[row]}; number them from 0 as all agreed"
                )

    def make(self, record: Record, kind: RoundKind, attempt: int, began: float) -> Made:
        """Make an upload for the round that `record` is at.

        Args:
            record: record before the round; a pending upload in it was settled or will never be counted.
            kind: kind of the round.
            attempt: number of the attempt at the round.
            began: `time.perf_counter()` at the request's arrival; pending uploads say how long they took.

        Raises:
            DictPFLError: nothing is stored; what differential privacy charged stays paid.
        """
        law, shared = self.genesis.law, record.shared
        if kind is RoundKind.UPDATE:
            self.guard.charge(shared.round)
        plan = begin(law, shared, kind)
        twin = self.bench.twin_at(shared, record.local)
        with self.diary.timed("evaluate"):
            measured = evaluate(
                twin.module, self.validation.open(shared), self.task, batch_size=self.training.evaluation_batch,
                metrics=self.metrics, precision=self._precision, workers=self.training.workers,
            )  # fmt: skip
        metric = told(measured.metric_sum, higher=law.selection.higher)
        ledger = Ledger(
            1, self.counted, 0.0, measured.count, measured.loss_sum, metric, np.zeros(0, np.int64),
            self.metrics.sealed(measured.sums),
        )  # fmt: skip
        sealable, update = self._sealable(record, plan, ledger)
        with self.diary.timed("seal"):
            sealed = self.sealer.seal(padded(self.genesis, plan, sealable.components))
            clear = sealable.clear.astype("<i4").tobytes()
            tag = shared.tag(self.genesis.secret_seed)
            header = Header(UPLOAD, kind, plan.round, attempt, self.genesis.federation, self.genesis.fingerprint, tag)
            upload_id = self._upload_id(record, header, sealed, clear)
            blob, defence = self._covered(header, sealed, clear, upload_id, record.secret)
        counted, owed = record.residual, record.residual
        if kind is RoundKind.UPDATE:
            counted = sealable.residual
            np.copyto(update, counted.values, where=~plan.mask)  # in its place: it is as long as the shared vector
            owed = Residual(without_statistics(law.layout, update))
        seconds = time.perf_counter() - began
        pending = self.signed(Pending(shared.round, upload_id, blob, counted, owed, seconds, defence))
        local = self.bench.local_state() if kind is RoundKind.UPDATE else record.local
        return Made(replace(record, local=local, pending=pending), pending, plan.sent, measured)

    def signed(self, pending: Pending) -> Pending:
        """Add the manifest, where the federation wants one."""
        return replace(pending, manifest=self.integrity.manifest(pending.blob)) if self.integrity else pending

    def attempt(self, pending: Pending, kind: RoundKind) -> int | None:
        """Return the attempt that a waiting upload was made for; None if it is of another kind, or of another key."""
        try:
            blob = Blob.parse(pending.blob, self.genesis.limits, direction=UPLOAD, kind=kind, round=pending.round)
        except WireError:
            return None
        return blob.header.attempt

    def again(self, record: Record, pending: Pending, attempt: int) -> Pending:
        """Make the stored upload anew for another attempt: other tags and masks on the same ciphertexts.

        Raises:
            RoundError (reveal): the round was opened, or the attempt was given up.
        """
        blob = Blob.own(pending.blob, self.genesis.parameters.word_bits)
        words = blob.words()
        if self.masks:
            words = self.masks.take_off(words, MaskContext.of(blob.header, pending.upload_id), record.secret)
            # Recorded first: once the next attempt has an upload, nothing may be told of the one that is given up.
            self.masks.move_on(pending.round, attempt)
        header = replace(blob.header, attempt=attempt)
        sealed = Sealed(words[:-TAGS], blob.entries[0].seed)
        data, defence = self._covered(header, sealed, bytes(blob.clear), pending.upload_id, record.secret)
        return self.signed(replace(pending, blob=data, defence=defence))

    def _sealable(self, record: Record, plan: Plan, ledger: Ledger) -> tuple[Sealable, Floats]:
        """Make the integers of the round, and the weighted vector that they were rounded from, of size 0 for a tally."""
        law, tally = self.genesis.law, plan.tally
        if tally is not None and not tally.decides:
            genesis = self.genesis
            subject = Subject(self.bench.twin, genesis.config, genesis.outputs, genesis.sample_shape)
            own = self._own(record.shared, tally)
            with self.diary.timed("train"):
                integers = integers_of(tally, subject, own, law.weight(self.counted))
            return seal_tally(law, plan, integers, ledger), np.zeros(0)
        update, ledger = self._update(record, plan, ledger)
        said = self.guard.said(ledger)
        if cut := law.ledger.cut(said):
            _log.warning(
                "figures beyond what the ledger holds are cut: what institutions learn of them is wrong, and so is a choice by them. Give "
                "labels in a larger unit, or have a look whether training diverged",
                institution=self.name, round=plan.round, figures=list(cut),
            )  # fmt: skip
        with self.diary.timed("seal"):
            return seal_update(law, plan, update, said, self.guard.draw), update

    def _own(self, state: SharedState, tally: Tally) -> Own:
        """What is this institution's own, for the source of a tally; its tables as they stand, for statistics of columns."""
        opened = {one.name: one for one in state.tallies}
        if reads_raw(tally.name):
            return Own(self.own.raw(), self.validation.raw(), self.task, self.folder, opened)
        return Own(self.own.open(state), self.validation.open(state), self.task, self.folder, opened)

    def _update(self, record: Record, plan: Plan, ledger: Ledger) -> tuple[Floats, Ledger]:
        """Compute the round's weighted vector: the update u = w (local - x) + r, scores, or zeros."""
        law, twin = self.genesis.law, self.bench.twin
        weight = law.weight(self.counted)
        if plan.kind is RoundKind.MEASURE:
            return np.zeros(law.layout.size), ledger
        if plan.kind is RoundKind.SCORE:
            with self.diary.timed("train"):
                chosen = self.genesis.config.scores
                # Where the largest alone matter, clipping changes nothing, as in selective encryption.
                most = law.score_range if chosen.decision else math.inf
                return weight * scores_of(
                    chosen.measure, twin, self.own.open(record.shared), self.task, most=most
                ), ledger
        if not len(self.own):
            # None of its samples belongs to the skill ([narrow]): it adds nothing but what it owes, and counts all the same.
            return record.residual.values.copy(), ledger
        before = self._as_trained(twin.read())
        seed = small_seed(self.genesis.secret_seed, "training", self.name, plan.round)
        sent = plan.mask if law.pruning.pruned == "freeze" else None
        config = self.genesis.config
        factor = rate(config.training, record.shared.updates, config.federation.rounds)
        with self.diary.timed("train"):
            trainer = self.guard.trainer or partial(train, scale=scale_of_round(self.folder, plan.round))
            trained = trainer(
                twin, self.own.open(record.shared), self.training, self.task, seed=seed, sent=sent, rate=factor
            )
        loss = trained.loss_sum / max(1, trained.samples_seen) * ledger.samples
        update = twin.read()
        # One after the other, in place: w (local - x) + r.
        update -= before
        update *= weight
        update += record.residual.values
        return update, replace(ledger, train_loss=loss)

    def _as_trained(self, values: Floats) -> NDArray[Any]:
        """Return the model's values in its own width, which holds all of them: half of float64's for most models."""
        trained = self.genesis.config.training.dtype
        return values if trained == "float64" else values.astype(np.float32)

    def _upload_id(self, record: Record, header: Header, sealed: Sealed, clear: bytes) -> bytes:
        """Derive the upload's id from the institution's secret and what it sealed, so that it can be recomputed."""
        items = hashlib.sha256(sealed.seed)
        for start in range(0, sealed.words.size, _HASHED):
            items.update(pack_words(sealed.words[start : start + _HASHED], self.genesis.parameters.word_bits))
        items.update(clear)
        context = b"items" + bytes([kind_number(header.kind)]) + header.round.to_bytes(8, "little")
        return record.mark(header.round) + hmac.digest(record.secret, context + items.digest(), "sha256")[:8]

    def _covered(
        self, header: Header, sealed: Sealed, clear: bytes, upload_id: bytes, secret: bytes
    ) -> tuple[bytes, bytes]:
        """Put tags and masks on an upload; return it as it travels, and the note on its masks."""
        entry = Entry(self.member, upload_id, sealed.seed)
        tags = self.genesis.tags(header).made(sealed.words, clear, entry)
        words, note = np.concatenate([sealed.words, tags]), b""
        if self.masks:
            context = MaskContext.of(header, upload_id)
            words, note = self.masks.put_on(words, context, secret), self.masks.note(context, secret)
        return write(header, [entry], words, self.genesis.parameters.word_bits, clear), note


def _furthest(values: Any) -> int:
    """Find the sample with the largest number; the first where they are not in memory."""
    return int(np.argmax(values.reshape(len(values), -1).max(axis=1))) if isinstance(values, np.ndarray) else 0


def told(metric: float, *, higher: bool) -> float:
    """Metric as the ledger takes it: what is no number is the worst that there is, so that nobody takes such a model for the best.

    Args:
        metric: sum over the validation samples.
        higher: whether a higher one is better.
    """
    return (-math.inf if higher else math.inf) if math.isnan(metric) else metric


def metrics(measured: Measured) -> Mapping[str, float]:
    """Compute means over the institution's validation samples; empty where there are none."""
    if not measured.count:
        return {}
    return {"metric": measured.metric_sum / measured.count, "loss": measured.loss_sum / measured.count}


def uploaded(pending: Pending) -> Reply:
    """Make the reply that carries an upload."""
    number = pending.round
    return Reply(Status.UPLOAD, number, number, pending.blob, defence=pending.defence, manifest=pending.manifest)
