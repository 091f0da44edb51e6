"""Watching a run as its auditor: every aggregate opened and replayed, the shared model tested after each round.

Only who holds the key can do this: the simulation, which plays everybody, or an institution on its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dictpfl.client.data.preparing.preparation import as_samples
from dictpfl.client.data.raw import Table
from dictpfl.client.folder import DIARY, GENESIS_WEIGHTS, PEERS
from dictpfl.client.keys.epochs import read_roster
from dictpfl.client.model.sparse.masks import Masks
from dictpfl.client.replay import Applied, replay
from dictpfl.client.training.measuring import agreed_metrics
from dictpfl.client.training.pooled import scalars
from dictpfl.client.training.speed import Precision
from dictpfl.client.training.task import task_of
from dictpfl.client.training.train import resolve_device
from dictpfl.client.training.workbench import workbench_of
from dictpfl.common.ckks.opening import opener_for
from dictpfl.common.errors import JournalError
from dictpfl.common.law.layout import Layout
from dictpfl.common.law.ledger import Ledger
from dictpfl.common.law.round import Plan
from dictpfl.common.messages.protocol import Aggregate, RoundKind
from dictpfl.deploy.runs.record import RoundRecord
from dictpfl.deploy.simulation.founding import Founded
from dictpfl.deploy.simulation.groups import TestSplit
from dictpfl.server.coordinator import JOURNAL
from dictpfl.server.journal import Journal
from dictpfl.server.rows import ClosedRound


class Observer:
    """Follows the journal of a founded federation; holds no more state than shared state."""

    def __init__(self, founded: Founded, test_every: int = 1) -> None:
        """Open a federation's journal to read.

        Args:
            founded: what is watched.
            test_every: update rounds between two measurements on the test split; the last one is always measured.
        """
        self._founded = founded
        self._test_every = test_every
        self._genesis = founded.genesis
        config = self._genesis.config
        torch.set_num_threads(config.training.threads)
        self._opener = opener_for(self._genesis.parameters, founded.key)
        self._roster = read_roster(founded.home(0) / PEERS)
        self._bench = workbench_of(self._genesis, founded.home(0) / GENESIS_WEIGHTS)
        self._local = self._bench.first_local_state()
        self._task, self._metrics = task_of(config.measuring), agreed_metrics(self._genesis)
        self.figures: dict[str, dict[str, dict[str, Any]]] = {"test": {}, "validation": {}}
        """All figures of `training.metrics` that were found last, by split, metric and name: lists by class among them."""
        self.split = TestSplit.load(founded.test, founded.folder)
        self.state = self._genesis.start()
        participants = self._genesis.config.federation.participants
        self._diaries = Diaries([founded.home(index) for index in range(participants)])

    def poll(self) -> Iterator[RoundRecord]:
        """Records of the rounds that closed since the last call."""
        if not (self._founded.coordinator / JOURNAL).exists():
            return
        journal = Journal(self._founded.coordinator / JOURNAL, self._genesis.federation, self._genesis.fingerprint)
        try:
            closed = journal.rounds(self.state.round)
            aggregates = list(journal.aggregates(self.state.round))[: len(closed)]
        finally:
            journal.close()
        for known, aggregate in zip(closed, aggregates, strict=True):
            done = replay(self._genesis, self._opener, self.state, aggregate, 1, self._roster)
            refreshed = len(done.state.records) > len(self.state.records)
            self.state = done.state
            yield self._record(known, done, aggregate, refreshed=refreshed)

    def _record(self, closed: ClosedRound, done: Applied, aggregate: Aggregate, *, refreshed: bool) -> RoundRecord:
        contributors = len(aggregate.counted)
        ledger = done.ledger or Ledger.void(contributors)
        if validation := self._metrics.opened(ledger.measures) if ledger.measured else {}:
            self.figures["validation"] = validation
        seconds = self._diaries.seconds(closed.round) | {
            "fold": round(closed.fold_seconds, 6),
            "round": round(closed.ended - closed.started, 6),
        }
        record = RoundRecord(
            round=closed.round,
            kind=str(closed.kind),
            update=done.state.updates,
            contributors=contributors,
            rejected=closed.rejected,
            sent=done.plan.sent,
            sent_by_tensor=_by_tensor(self._genesis.layout, done.plan),
            ciphertexts=closed.ciphertexts,
            bytes_up=closed.bytes_up // contributors,
            bytes_down=len(aggregate.blob),
            test=None,
            test_loss=None,
            validation=ledger.metric / ledger.measured if ledger.measured else None,
            validation_loss=ledger.loss / ledger.measured if ledger.measured else None,
            train_loss=ledger.train_loss / ledger.samples if ledger.samples and self._is_told(closed.kind) else None,
            refreshed=refreshed,
            seconds=seconds,
            metric=self._task.metric_name,
            validation_metrics=scalars(validation),
        )
        is_due = closed.kind is RoundKind.UPDATE and self._is_tested(done.state.updates)
        return self._tested(record) if is_due else record

    def _tested(self, record: RoundRecord) -> RoundRecord:
        """Add the figures of the shared model on the test split."""
        figure, loss, by_group = self.test()
        metrics = scalars(self.figures["test"])
        return replace(record, test=figure, test_loss=loss, test_by_group=by_group, test_metrics=metrics)

    def _is_tested(self, updates: int) -> bool:
        return updates % self._test_every == 0 or updates >= self._genesis.config.federation.rounds

    def _is_told(self, kind: RoundKind) -> bool:
        """Tell whether a round's ledger has the training loss."""
        privacy = self._genesis.config.privacy
        return kind is RoundKind.UPDATE and (privacy.mechanism == "none" or privacy.figures)

    def test(self) -> tuple[float, float, dict[str, float]]:
        """Mean metric and loss of the shared model on the test split, and the metric of each institution's part of it."""
        if isinstance(self.split.samples, Table):
            prepared = as_samples(self.split.samples, self._genesis.config, self.state)
            self.split = TestSplit.load(prepared, self._founded.folder)
        twin = self._bench.twin_at(self.state, self._local)
        training = self._genesis.config.training
        precision = Precision(training, resolve_device(training.device))
        batch = training.evaluation_batch
        measured, by_group = self.split.measure(twin.module, self._task, batch, self._metrics, precision)
        if not measured.count:
            raise JournalError(
                "nothing of the test split can be measured: it is empty (raise data.test_share), or no token of it has a label"
            )
        self.figures["test"] = self._metrics.figures(measured.sums)
        return measured.metric_sum / measured.count, measured.loss_sum / measured.count, by_group

    def merged(self) -> torch.nn.Module:
        """Return a plain model with everything that was agreed so far."""
        return self._bench.merged(self.state)

    def masks(self) -> Masks | None:
        """Make the masks that shared state means; None in a federation without thresholds."""
        return self._bench.masks_at(self.state)

    def completed(self, history: Sequence[RoundRecord]) -> list[RoundRecord]:
        """Return the records of a run that has ended, with all seconds known by now.

        The last update is measured on the test split if it is not yet: institutions may stop before the last round.
        """
        records = [self.timed(record) for record in history]
        last = max(at for at, record in enumerate(records) if record.kind == RoundKind.UPDATE)
        if records[last].test is None:
            records[last] = self._tested(records[last])
        return records

    def timed(self, record: RoundRecord) -> RoundRecord:
        """Return the record with all seconds known by now; an aggregate is opened when the next request brings it."""
        return replace(record, seconds=dict(record.seconds) | self._diaries.seconds(record.round))


class Diaries:
    """Seconds by round and phase, mean over the institutions, read from their diaries as these grow."""

    def __init__(self, institutions: Sequence[Path]) -> None:
        self._offsets = dict.fromkeys((institution / DIARY for institution in institutions), 0)
        self._sums: dict[int, dict[str, float]] = {}

    def seconds(self, number: int) -> dict[str, float]:
        """Phases of a round so far; one that was repeated counts all its tries."""
        for path in self._offsets:
            self._read(path)
        return {phase: round(value / len(self._offsets), 6) for phase, value in self._sums.get(number, {}).items()}

    def _read(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                file.seek(self._offsets[path])
                data = file.read()
        except FileNotFoundError:
            return
        whole = data[: data.rfind(b"\n") + 1]
        self._offsets[path] += len(whole)
        for line in whole.splitlines():
            try:
                entry = json.loads(line)
                sums = self._sums.setdefault(entry["round"], {})
                for phase, value in entry["seconds"].items():
                    sums[phase] = sums.get(phase, 0.0) + value
            except (ValueError, KeyError, TypeError, AttributeError):
                continue  # a line cut off by a crash


def _by_tensor(layout: Layout, plan: Plan) -> dict[str, int]:
    return {entry.name: int(plan.mask[entry.span].sum()) for entry in layout.entries}
