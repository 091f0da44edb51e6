"""A real run to attack: founded, played and recorded, with what only the experimenter knows, to judge by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from client.data import Samples
from client.institution import forget_institutions
from client.loading import indices
from client.memory import Memory
from client.site import GENESIS_WEIGHTS, TRAIN, SiteSettings
from client.workbench import Workbench
from common.config import FederationConfig
from common.errors import EngineError
from common.genesis import Genesis
from common.keys import owner_only
from common.protocol import RoundKind
from common.seeds import small_seed
from deploy.engines.local import run_local
from deploy.founding import COORDINATOR, SITES, TEST, found
from deploy.privacy.matching import Matcher
from deploy.privacy.results import Seen
from deploy.privacy.views import CollusionView, InstitutionView, SeenUpload, ServerView
from server.recording import RECORDING


@dataclass(frozen=True)
class Victim:
    """An institution in one round, as the experimenter knows it.

    Attributes:
        index: of the institution. `seen`: its upload as the coordinator got it.
        batches: the samples of each local step, in order.
        weight: w of its update.
    """

    index: int
    seen: SeenUpload
    batches: tuple[Samples, ...]
    weight: float

    @property
    def samples(self) -> Samples:
        """All of them."""
        return Samples(
            np.concatenate([b.features for b in self.batches]), np.concatenate([b.labels for b in self.batches])
        )


@dataclass(frozen=True)
class Stage:
    """A folder with a recorded run: `coordinator/` with `recording/`, `sites/`, `test.npz`."""

    folder: Path

    @cached_property
    def server(self) -> ServerView:
        """What the coordinator saw."""
        return ServerView.read(self.folder / COORDINATOR)

    @cached_property
    def auditor(self) -> InstitutionView:
        """What institution 0 saw; the others saw the same sums."""
        return self.institution(0)

    def institution(self, index: int) -> InstitutionView:
        """What an institution saw."""
        aggregates = [self.server.aggregates[number] for number in sorted(self.server.aggregates)]
        return InstitutionView.read(self.site(index), aggregates)

    @cached_property
    def collusion(self) -> CollusionView:
        """The coordinator with institution 0."""
        return CollusionView(self.server, self.auditor)

    @property
    def genesis(self) -> Genesis:
        """The agreement."""
        return self.auditor.genesis

    @cached_property
    def public(self) -> Samples:
        """The test split: a public sample of the same kind of data."""
        return Samples.load(self.folder / TEST)

    def site(self, index: int) -> Path:
        """An institution's folder."""
        return self.folder / SITES / f"institution-{index:03d}"

    @cached_property
    def update_rounds(self) -> Sequence[int]:
        """Numbers of the rounds that carried updates."""
        return [number for number, opened in self.auditor.sums.items() if opened.plan.kind is RoundKind.UPDATE]

    def victims(self, number: int) -> list[Victim]:
        """Every institution of a round whose upload was recorded, by index; matched by the marks that it knows again."""
        uploads = list(self.server.uploads_of(number).values())
        return [
            self._victim(index, seen)
            for index in range(self.genesis.config.federation.participants)
            if (seen := self._upload(index, number, uploads)) is not None
        ]

    def _upload(self, index: int, number: int, uploads: Sequence[SeenUpload]) -> SeenUpload | None:
        record = Memory(self.site(index) / "memory", self.genesis.federation).recall()
        mark = record.mark(number) if record is not None else b""
        return next((seen for seen in uploads if mark and mark in seen.blob[:232]), None)

    def _victim(self, index: int, seen: SeenUpload) -> Victim:
        genesis, site = self.genesis, self.site(index)
        train, name = Samples.load(site / TRAIN), SiteSettings.load(site).name
        seed = small_seed(genesis.seed, "training", name, seen.round)
        batches = [train.take(i.numpy()) for i in indices(len(train), genesis.config.training, seed)]
        return Victim(index, seen, tuple(batches), genesis.law.weight(len(train)))

    @cached_property
    def _bench(self) -> Workbench:
        return Workbench(self.genesis, self.site(0) / GENESIS_WEIGHTS)

    def matcher(self, number: int) -> Matcher:
        """The model as it was before a round."""
        twin = self._bench.twin_at(self.auditor.sums[number].before, {})
        return Matcher(twin, self.genesis.config.training)

    def seen(self) -> list[Seen]:
        """Who saw what in this run, counted from the recording."""
        server, encrypted = self.server, self.genesis.config.encryption.sealer == "ckks"
        masked = self.genesis.config.defences.masks
        uploads = [seen.blob for seen in server.uploads]
        sums = [aggregate.blob for aggregate in server.aggregates.values()]
        clear = 4 * sum(
            int(opened.plan.clear.index.size) * len(opened.counted) for opened in self.auditor.sums.values()
        )
        total = sum(map(len, uploads))
        rows = [
            ("server", "uploads, encrypted" if encrypted else "uploads, in clear", len(uploads), total - clear, not encrypted),
            ("server", "sums, encrypted" if encrypted else "sums, in clear", len(sums), sum(map(len, sums)), not encrypted),
            ("server", "events: who was asked, who answered, when, how much", len(server.events), 0, True),
            ("institution", "sums, opened", len(self.auditor.sums), sum(map(len, sums)), True),
            ("institution", "its own samples", len(self.auditor.train), int(self.auditor.train.features.nbytes), True),
            ("collusion", "single uploads of others, masked" if masked else "single uploads of others, opened with the shared key",
             len(uploads), total, not masked),
            ("outsider", "the final model", 1, 4 * int(sum(e.size for e in self.genesis.layout.entries)), True),
        ]  # fmt: skip
        if clear:
            rows.insert(1, ("server", "parts of uploads that are not encrypted", len(uploads), clear, True))
        return [
            Seen.model_validate({"party": party, "what": what, "count": count, "bytes": size, "readable": readable})
            for party, what, count, size, readable in rows
        ]


def play(config: FederationConfig, folder: Path) -> Stage:
    """Found a federation in an empty folder and run it in this process, with a coordinator that records.

    Raises:
        DictPFLError: whatever the run raises.
    """
    founded = found(config, folder)
    owner_only(founded.coordinator / RECORDING)
    try:
        run_local(founded.coordinator, founded.sites, config.federation.participants)
    finally:
        forget_institutions()
    stage = Stage(folder)
    if not stage.server.uploads:
        raise EngineError("the run left no recorded upload; nothing can be attacked")
    return stage
