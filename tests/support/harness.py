"""Federations in one process whose parties are killed on purpose and opened again from what lies on disk."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray

import dictpfl.client.defences.sums
import dictpfl.client.memory.record
import dictpfl.client.uploading
import dictpfl.common.files
from dictpfl.client.institution import Institution
from dictpfl.client.memory.diary import Diary
from dictpfl.client.memory.record import Memory, Record
from dictpfl.client.training.train import Trained
from dictpfl.common.config import FederationConfig
from dictpfl.common.genesis import Genesis
from dictpfl.common.law.state import SharedState
from dictpfl.common.messages.protocol import Aggregate, Reply, Request, RoundKind
from dictpfl.deploy.simulation.founding import found
from dictpfl.server.coordinator import Coordinator
from tests.support.failing_disks import Killed, MortalDatabase

Floats = NDArray[np.float64]
Point = Callable[[], AbstractContextManager[Any]]


class World:
    """One federation, driven by hand in place of Flower."""

    def __init__(self, folder: Path, participants: int) -> None:
        self.folder = folder
        self.nodes = range(participants)
        self.coordinator_folder = folder / "coordinator"
        self.exchanges = 0
        self.hasty = False
        """No syncing of the journal, where many runs count and no power fails."""
        self._generation = 0
        self._coordinator: Coordinator | None = None
        self._institutions: dict[int, Institution] = {}

    @classmethod
    def found(cls, config: FederationConfig, folder: Path) -> World:
        """Found a federation in the folder."""
        return cls(found(config, folder).folder, config.federation.participants)

    def copy(self, folder: Path) -> World:
        """The same federation with everything that is on disk, elsewhere."""
        shutil.copytree(self.folder, folder)
        made = World(folder, len(self.nodes))
        made.coordinator_folder = folder / self.coordinator_folder.relative_to(self.folder)
        made._generation = self._generation
        return made

    # parties

    @property
    def coordinator(self) -> Coordinator:
        if self._coordinator is None:
            self._coordinator = Coordinator.open(self.coordinator_folder)
            if self.hasty:
                self._coordinator._journal._db.execute("PRAGMA synchronous=OFF")
        return self._coordinator

    def institution(self, node: int) -> Institution:
        if node not in self._institutions:
            self._institutions[node] = Institution(self.home(node))
        return self._institutions[node]

    def kill_institution(self, node: int) -> None:
        """Its process is gone; what is on disk stays."""
        self._institutions.pop(node, None)

    def kill_coordinator(self) -> None:
        """Its process is gone, without closing the journal: the files go on in a copy taken at this moment."""
        if self._coordinator is None:
            return
        self._generation += 1
        after = self.folder / f"coordinator-{self._generation}"
        shutil.copytree(self.coordinator_folder, after)
        self.close()
        self.coordinator_folder = after

    def close(self) -> None:
        """Let go of the journal's file."""
        if self._coordinator is not None:
            self._coordinator._journal.close()
            self._coordinator = None

    # what lies on disk

    def home(self, node: int) -> Path:
        return self.folder / "institutions" / f"institution-{node:03d}"

    @cached_property
    def genesis(self) -> Genesis:
        return Genesis.load(self.home(0))

    def memory(self, node: int) -> Memory:
        return Memory(self.home(node) / "memory", self.genesis.federation)

    def record(self, node: int) -> Record:
        found_record = self.memory(node).recall()
        assert found_record is not None
        return found_record

    def states(self) -> list[SharedState]:
        return [self.record(node).shared for node in self.nodes]

    def digests(self) -> list[bytes]:
        return [state.digest for state in self.states()]

    def merge(self, node: int) -> dict[str, torch.Tensor]:
        """The plain model that an institution's shared state stands for, by tensor."""
        return self.institution(node)._bench.merged(self.record(node).shared).state_dict()

    def events(self, node: int, *names: str) -> list[tuple[str, int]]:
        """Events of these names in an institution's diary, each with its round."""
        lines = map(json.loads, (self.home(node) / "diary.jsonl").read_text().splitlines())
        return [(line["event"], line["round"]) for line in lines if line["event"] in names]

    def digest(self) -> bytes:
        """The one digest of all institutions."""
        (digest,) = set(self.digests())
        return digest

    def journal(self) -> list[tuple[RoundKind, Aggregate]]:
        """All closed rounds."""
        kept = self.coordinator._journal
        return list(zip(kept.kinds(), kept.aggregates(0), strict=True))

    def journal_of(self, number: int) -> Aggregate:
        """A closed round's acknowledgements."""
        (found_round,) = self.coordinator._journal.acknowledgements(number, number + 1)
        return found_round

    # messages

    def exchange(
        self,
        during: Mapping[int, Point] | None = None,
        *,
        lost: Sequence[int] = (),
        offline: Sequence[int] = (),
        closing: Point = nullcontext,
    ) -> dict[int, Reply]:
        """One exchange.

        Args:
            during: what goes wrong while an institution is at work; `Killed` ends its process.
            lost: nodes that do their work, and whose answer does not arrive.
            offline: nodes that see no request.
            closing: what goes wrong at the coordinator when it closes.
        """
        self.exchanges += 1
        coordinator, replies = self.coordinator, {}
        for node, request in coordinator.begin([n for n in self.nodes if n not in offline]).items():
            with suppress(Killed), (during or {}).get(node, nullcontext)():
                replies[node] = self.converse(node, request, lost=node in lost)
                continue
            self.kill_institution(node)
            coordinator.failed(node, "flower-error-5")
        self.close_exchange(closing)
        return replies

    def close_exchange(self, closing: Point = nullcontext) -> None:
        try:
            with closing():
                self.coordinator.close()
        except Killed:
            self.kill_coordinator()

    def converse(self, node: int, request: Request, *, lost: bool = False) -> Reply:
        """A request, its answer, and follow-ups until the coordinator has no more."""
        more: Request | None = request
        while more is not None:
            reply = self.institution(node).handle(more)
            if lost:
                self.coordinator.failed(node, "deadline")
                return reply
            more = self.coordinator.receive(node, reply)
        return reply

    def run(self, most: int = 60, **options: Any) -> None:
        """Exchange until the coordinator has finished; hanging is a failure."""
        before = self.exchanges
        while not self.coordinator.finished:
            assert self.exchanges - before < most, "the federation does not get on"
            self.exchange(**options)


# Where an institution may die


@contextmanager
def dies_before(target: object, name: str, count: int = 1) -> Iterator[dict[str, int]]:
    """The process dies when `target.name` is called for the count-th time, before it does anything."""
    real, calls = getattr(target, name), {"count": 0}

    def mortal(*arguments: Any, **options: Any) -> Any:
        calls["count"] += 1
        if calls["count"] == count:
            raise Killed
        return real(*arguments, **options)

    with mock.patch.object(target, name, mortal):
        yield calls


@contextmanager
def dies_after(target: object, name: str, count: int = 1) -> Iterator[dict[str, int]]:
    """The same, after it has done what it does."""
    real, calls = getattr(target, name), {"count": 0}

    def mortal(*arguments: Any, **options: Any) -> Any:
        result = real(*arguments, **options)
        calls["count"] += 1
        if calls["count"] == count:
            raise Killed
        return result

    with mock.patch.object(target, name, mortal):
        yield calls


@contextmanager
def dies_at_once() -> Iterator[None]:
    """The request never reaches it."""
    raise Killed
    yield


@contextmanager
def dies_replying() -> Iterator[None]:
    """All is done and stored; the process dies before the answer leaves."""
    with dies_after(Institution, "handle"):
        yield


INSTITUTION_POINTS: dict[str, Point] = {
    "at once": dies_at_once,
    "replying": dies_replying,
    "before training": lambda: dies_before(dictpfl.client.uploading, "train"),
    "after training": lambda: dies_after(dictpfl.client.uploading, "train"),
    "before opening": lambda: dies_before(dictpfl.client.defences.sums, "apply"),
    "after opening": lambda: dies_after(dictpfl.client.defences.sums, "apply"),
    "before sealing": lambda: dies_before(dictpfl.client.uploading, "write"),
    "after sealing": lambda: dies_after(dictpfl.client.uploading, "write"),
    "diary, first line": lambda: dies_before(Diary, "note", 1),
    "diary, second line": lambda: dies_before(Diary, "note", 2),
    **{
        f"before store {n}": lambda n=n: dies_before(dictpfl.client.memory.record, "replace_private", n) for n in (1, 2)
    },
    **{f"before rename {n}": lambda n=n: dies_before(os, "replace", n) for n in (1, 2, 3)},
    **{f"after rename {n}": lambda n=n: dies_after(os, "replace", n) for n in (1, 2, 3)},
    **{f"before folder sync {n}": lambda n=n: dies_before(dictpfl.common.files, "sync_folder", n) for n in (1, 2, 3)},
    **{f"after store {n}": lambda n=n: dies_after(dictpfl.client.memory.record, "replace_private", n) for n in (1, 2)},
}


# Where the coordinator may die


def statement(world: World, *, before: str = "", after: str = "") -> Point:
    """The coordinator dies at a statement of its journal."""

    @contextmanager
    def point() -> Iterator[None]:
        journal = world.coordinator._journal
        journal._db = MortalDatabase(journal._db, before=before, after=after)  # type: ignore[assignment]
        yield

    return point


COORDINATOR_POINTS: dict[str, dict[str, str]] = {
    "before BEGIN": {"before": "BEGIN"},
    "after BEGIN": {"after": "BEGIN"},
    "after the round": {"after": "INSERT INTO rounds"},
    "after the sum": {"after": "INSERT INTO blobs"},
    "before COMMIT": {"before": "COMMIT"},
    "after COMMIT": {"after": "COMMIT"},
}


MASK_POINTS: dict[str, dict[str, str]] = {
    "before an attempt is given up": {"before": "DELETE FROM attempts"},
    "after an attempt is given up": {"after": "INSERT INTO attempts"},
    "before the masked sum": {"before": "INSERT INTO masked"},
    "after the masked sum": {"after": "INSERT INTO masked"},
    "before the masked sum goes": {"before": "DELETE FROM masked"},
    "after COMMIT": {"after": "COMMIT"},
}


# An oracle that knows what was trained and what was counted


class Oracle:
    """Plain bookkeeping beside the run: every upload that was stored, what it carries, and what was trained for it.

    Training is replaced by a cheap, reproducible perturbation, whose true size is noted.
    """

    def __init__(self) -> None:
        self.delivered: dict[bytes, Floats] = {}
        self.trained: dict[bytes, Floats] = {}
        self.samples: dict[bytes, int] = {}
        self.owner: dict[bytes, str] = {}
        self._delta: Floats = np.zeros(0)
        self._count = 0

    @contextmanager
    def watching(self) -> Iterator[None]:
        real = Memory.store

        def store(memory: Memory, record: Record) -> Record:
            try:
                return real(memory, record)
            finally:
                # Only what is durable: an upload whose writing failed or was cut short never leaves, and is made anew.
                held = memory.recall()
                if held is not None and held.pending is not None:
                    self._note(memory, held)

        with (
            mock.patch.object(dictpfl.client.uploading, "train", self._train),
            mock.patch.object(Memory, "store", store),
            mock.patch.object(os, "fsync", return_value=None),
        ):
            yield

    def _train(self, twin: Any, samples: Any, *_arguments: Any, seed: int, **_options: Any) -> Trained:
        before = twin.read()
        twin.load(before + np.random.default_rng(seed).normal(scale=0.01, size=before.shape))
        self._delta, self._count = twin.read() - before, len(samples)
        return Trained(len(samples), 0.0)

    def _note(self, memory: Memory, record: Record) -> None:
        pending = record.pending
        if pending is None or pending.upload_id in self.delivered:
            return
        self.delivered[pending.upload_id] = pending.missed.values - pending.counted.values
        self.owner[pending.upload_id] = memory.path.parents[1].name
        self.samples[pending.upload_id] = self._count
        # A stale delta would be noted for a measuring round, whose upload carries nothing.
        self.trained[pending.upload_id] = self._delta * bool(self.delivered[pending.upload_id].any())

    def check(self, world: World, void: Collection[int] = ()) -> None:
        """Hold a finished federation to it; nothing of the rounds that are `void` was delivered."""
        genesis = world.genesis
        cap = genesis.sample_cap
        x, rounds = genesis.values.copy(), world.journal()
        seen: set[bytes] = set()
        for kind, aggregate in rounds:
            counted = () if aggregate.round in void else aggregate.counted
            assert not seen & set(counted), "an upload was counted twice"
            assert len({self.owner[upload] for upload in counted}) == len(counted), "an institution was counted twice"
            seen |= set(counted)
            if kind is RoundKind.UPDATE and counted:
                total = sum(self.delivered[upload] for upload in sorted(counted))
                x += total * (cap / sum(min(self.samples[upload], cap) for upload in counted))
        for node in world.nodes:
            record = world.record(node)
            assert record.pending is None
            np.testing.assert_array_equal(record.shared.values, x)
            self.settled(world, node, seen)

    def settled(self, world: World, node: int, counted: Collection[bytes]) -> None:
        """Hold what an institution owes to what it trained, less what it delivered in the uploads that are `counted`."""
        record, name, cap = world.record(node), world.home(node).name, world.genesis.sample_cap
        own = [upload for upload, owner in self.owner.items() if owner == name]
        trained = sum(self.trained[u] * (min(self.samples[u], cap) / cap) for u in own)
        delivered = sum(self.delivered[u] for u in own if u in counted)
        np.testing.assert_allclose(record.residual.values + delivered, trained, atol=1e-12, err_msg=name)
