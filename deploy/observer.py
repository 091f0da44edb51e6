"""Watching a run as its auditor: every aggregate opened and replayed, the shared model tested after each round.

Only who holds the key can do this: the simulation, which plays everybody, or an institution on its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from client.epochs import read_roster
from client.replay import Applied, apply, opener_for
from client.site import DIARY, GENESIS_WEIGHTS, PEERS
from client.tasks import load_task
from client.training import evaluate
from client.workbench import Workbench
from common.errors import JournalError
from common.layout import Layout
from common.protocol import RoundKind
from common.round import Plan
from deploy.founding import Founded
from server.coordinator import JOURNAL
from server.journal import ClosedRound, Journal


@dataclass(frozen=True)
class RoundRecord:
    """One closed round; a line of history.jsonl.

    Attributes:
        round: its number. `kind`: update, score or measure. `update`: update rounds finished by then.
        contributors: institutions in the sum. `rejected`: reasons of those that are not.
        sent: values of one upload. `sent_by_tensor`: of each tensor.
        ciphertexts: in one upload. `bytes_up`, `bytes_down`: of one institution, as on the wire.
        accuracy: the task's mean metric on the test split after the round; None where nothing changed.
        loss: mean test loss. `validation_accuracy`, `validation_loss`: before the round, over all
            institutions' validation samples, from the encrypted ledger; None without any.
        train_loss: mean over training samples; None where differential privacy keeps it at home.
        refreshed: dictionaries, or some of them, were drawn anew after it.
        seconds: train, seal, open, evaluate, store (mean of the institutions), fold (coordinator), round (wall clock).
    """

    round: int
    kind: str
    update: int
    contributors: int
    rejected: Mapping[str, str]
    sent: int
    sent_by_tensor: Mapping[str, int]
    ciphertexts: int
    bytes_up: int
    bytes_down: int
    accuracy: float | None
    loss: float | None
    validation_accuracy: float | None
    validation_loss: float | None
    train_loss: float | None
    refreshed: bool
    seconds: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


class Observer:
    """Follows the journal of a founded federation; holds no more state than shared state."""

    def __init__(self, founded: Founded) -> None:
        self._founded = founded
        self._genesis = founded.genesis
        config = self._genesis.config
        torch.set_num_threads(config.training.threads)
        self._opener = opener_for(self._genesis, founded.key)
        self._roster = read_roster(founded.site(0) / PEERS) if config.defences.integrity else None
        self._bench = Workbench(self._genesis, founded.site(0) / GENESIS_WEIGHTS)
        self._local = self._bench.local_state()
        self._task = load_task(config.training.task)
        self.state = self._genesis.start()
        participants = self._genesis.config.federation.participants
        self._diaries = Diaries([founded.site(index) for index in range(participants)])

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
            done = apply(self._genesis, self._opener, self.state, aggregate, 1, self._roster)
            refreshed = len(done.state.records) > len(self.state.records)
            self.state = done.state
            yield self._record(known, done, len(aggregate.blob), refreshed=refreshed)

    def _record(self, closed: ClosedRound, done: Applied, bytes_down: int, *, refreshed: bool) -> RoundRecord:
        accuracy = loss = None
        if closed.kind is RoundKind.UPDATE:
            accuracy, loss = self.test()
        ledger = done.ledger
        seconds = self._diaries.seconds(closed.round) | {
            "fold": round(closed.fold_seconds, 6),
            "round": round(closed.ended - closed.started, 6),
        }
        return RoundRecord(
            round=closed.round,
            kind=str(closed.kind),
            update=done.state.updates,
            contributors=ledger.participants,
            rejected=closed.rejected,
            sent=done.plan.sent,
            sent_by_tensor=_by_tensor(self._genesis.layout, done.plan),
            ciphertexts=closed.ciphertexts,
            bytes_up=closed.bytes_up // ledger.participants,
            bytes_down=bytes_down,
            accuracy=accuracy,
            loss=loss,
            validation_accuracy=ledger.metric / ledger.measured if ledger.measured else None,
            validation_loss=ledger.loss / ledger.measured if ledger.measured else None,
            train_loss=ledger.train_loss / ledger.samples if self._is_told(closed.kind) else None,
            refreshed=refreshed,
            seconds=seconds,
        )

    def _is_told(self, kind: RoundKind) -> bool:
        """Whether a round's ledger has the training loss."""
        privacy = self._genesis.config.privacy
        return kind is RoundKind.UPDATE and (privacy.mechanism == "none" or privacy.figures)

    def test(self) -> tuple[float, float]:
        """Mean metric and loss of the shared model on the test split."""
        twin = self._bench.twin_at(self.state, self._local)
        batch = self._genesis.config.training.evaluation_batch
        measured = evaluate(twin.module, self._founded.test, self._task, batch_size=batch)
        if not measured.count:
            raise JournalError("the test split is empty; raise data.test_share")
        return measured.metric_sum / measured.count, measured.loss_sum / measured.count

    def merged(self) -> torch.nn.Module:
        """A plain model with everything that was agreed so far."""
        return self._bench.merged(self.state)

    def timed(self, record: RoundRecord) -> RoundRecord:
        """The record with all seconds known by now: an aggregate is opened only when the next request brings it."""
        return replace(record, seconds=dict(record.seconds) | self._diaries.seconds(record.round))


class Diaries:
    """Seconds by round and phase, mean over the institutions, read from their diaries as these grow."""

    def __init__(self, sites: Sequence[Path]) -> None:
        self._offsets = dict.fromkeys((site / DIARY for site in sites), 0)
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
