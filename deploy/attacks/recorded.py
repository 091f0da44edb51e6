"""Real runs to attack: founded, played and recorded, with what only the experimenter knows, to judge by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from dictpfl.client.data.samples import Samples
from dictpfl.client.folder import GENESIS_WEIGHTS, TRAIN, InstitutionSettings
from dictpfl.client.institution import forget_institutions
from dictpfl.client.memory.record import Memory, Record
from dictpfl.client.training.batches import indices
from dictpfl.client.training.speed import rate
from dictpfl.client.training.workbench import Workbench
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import EngineError
from dictpfl.common.files import owner_only
from dictpfl.common.genesis import Genesis
from dictpfl.common.law.seeds import small_seed
from dictpfl.common.messages.protocol import RoundKind
from dictpfl.deploy.attacks.gradient_model import Matcher
from dictpfl.deploy.attacks.results import Seen
from dictpfl.deploy.attacks.views import CollusionView, InstitutionView, SeenUpload, ServerView
from dictpfl.deploy.runs.run import INSTITUTIONS
from dictpfl.deploy.simulation.founding import COORDINATOR, TEST, found, samples_of
from dictpfl.deploy.simulation.local import run_local
from dictpfl.server.recording import RECORDING


@dataclass(frozen=True)
class Victim:
    """Institution in one round, as the experimenter knows it.

    Attributes:
        index: of the institution.
        seen: its upload as the coordinator got it.
        batches: the samples of each local step, in order.
        weight: w of its update.
    """

    index: int
    seen: SeenUpload
    batches: tuple[Samples, ...]
    weight: float

    @property
    def samples(self) -> Samples:
        """Samples of all steps."""
        return Samples(
            np.concatenate([b.features for b in self.batches]), np.concatenate([b.labels for b in self.batches])
        )


@dataclass(frozen=True)
class RecordedRun:
    """Folder with a recorded run: `coordinator/` with `recording/`, `institutions/`, `test.npz`."""

    folder: Path

    @cached_property
    def server(self) -> ServerView:
        """View of the coordinator."""
        return ServerView.read(self.folder / COORDINATOR)

    @cached_property
    def auditor(self) -> InstitutionView:
        """View of institution 0; the others saw the same sums."""
        return self.institution(0)

    def institution(self, index: int) -> InstitutionView:
        """Read the view of an institution."""
        aggregates = [self.server.aggregates[number] for number in sorted(self.server.aggregates)]
        return InstitutionView.read(self.home(index), aggregates)

    @cached_property
    def collusion(self) -> CollusionView:
        """View of the coordinator together with institution 0."""
        return CollusionView(self.server, self.auditor)

    @property
    def genesis(self) -> Genesis:
        """Agreement of the federation."""
        return self.auditor.genesis

    @cached_property
    def public(self) -> Samples:
        """Test split: a public sample of the same kind of data."""
        return _in_memory(samples_of(self.folder / TEST, self.genesis.config, self.auditor.state))

    def samples(self, index: int) -> Samples:
        """Read an institution's training samples."""
        return _in_memory(samples_of(self.home(index) / TRAIN, self.genesis.config, self.auditor.state))

    def home(self, index: int) -> Path:
        """Name an institution's folder."""
        return self.folder / INSTITUTIONS / f"institution-{index:03d}"

    @cached_property
    def update_rounds(self) -> Sequence[int]:
        """Numbers of the rounds that carried updates."""
        return [number for number, opened in self.auditor.sums.items() if opened.plan.kind is RoundKind.UPDATE]

    def victims(self, number: int) -> list[Victim]:
        """Find every institution of a round whose upload was recorded, by index; matched by the marks that it knows again."""
        uploads = list(self.server.uploads_of(number).values())
        return [
            self._victim(index, seen)
            for index in range(self.genesis.config.federation.participants)
            if (seen := self._upload(index, number, uploads)) is not None
        ]

    def _upload(self, index: int, number: int, uploads: Sequence[SeenUpload]) -> SeenUpload | None:
        record = self._record(index)
        return next((seen for seen in uploads if record is not None and record.mark(number) in seen.blob[:232]), None)

    def _record(self, index: int) -> Record | None:
        return Memory(self.home(index) / "memory", self.genesis.federation).recall()

    def _victim(self, index: int, seen: SeenUpload) -> Victim:
        genesis, institution = self.genesis, self.home(index)
        train = samples_of(institution / TRAIN, genesis.config, self.auditor.state)
        name = InstitutionSettings.load(institution).name
        seed = small_seed(genesis.secret_seed, "training", name, seen.round)
        batches = [_in_memory(train.take(i.numpy())) for i in indices(len(train), genesis.config.training, seed)]
        return Victim(index, seen, tuple(batches), genesis.law.weight(len(train)))

    @cached_property
    def _bench(self) -> Workbench:
        return Workbench(self.genesis, self.home(0) / GENESIS_WEIGHTS)

    def matcher(self, number: int) -> Matcher:
        """Rebuild the model as it was before a round, and the rate of that round's steps."""
        config, state = self.genesis.config, self.auditor.sums[number].before
        factor = rate(config.training, state.updates, config.federation.rounds)
        training = config.training.model_copy(update={"learning_rate": factor * config.training.learning_rate})
        return Matcher(self._bench.twin_at(state, {}), training)

    def seen(self) -> list[Seen]:
        """Count from the recording who saw what in this run."""
        server, encrypted = self.server, self.genesis.config.encryption.sealer == "ckks"
        masked = self.genesis.config.defences.masks
        uploads = [seen.blob for seen in server.uploads]
        own = self._record(0)
        others = [s.blob for s in server.uploads if own is None or own.mark(s.round) not in s.blob[:232]]
        sums = [aggregate.blob for aggregate in server.aggregates.values()]
        opened = self.auditor.sums.values()
        clear = 4 * sum(int(each.plan.clear.index.size) * len(each.counted) for each in opened)
        clear_of_sums = 4 * sum(int(each.plan.clear.index.size) for each in opened)
        total, summed = sum(map(len, uploads)), sum(map(len, sums))
        # Merged, it has the very tensors of W0.
        model = (self.home(0) / GENESIS_WEIGHTS).stat().st_size
        rows = [
            ("server", "uploads, encrypted" if encrypted else "uploads, in clear", len(uploads), total - clear, not encrypted),
            ("server", "sums, encrypted" if encrypted else "sums, in clear", len(sums), summed - clear_of_sums, not encrypted),
            ("server", "events: who was asked, who answered, when, how much", len(server.events), 0, True),
            ("institution", "sums, opened", len(self.auditor.sums), summed, True),
            ("institution", "its own samples", len(self.auditor.train), int(self.auditor.train.features.nbytes), True),
            ("collusion", "single uploads of others, masked" if masked else "single uploads of others, opened with the shared key",
             len(others), sum(map(len, others)), not masked),
            ("outsider", "the final model", 1, model, True),
        ]  # fmt: skip
        if clear:
            rows.insert(1, ("server", "parts of uploads that are not encrypted", len(uploads), clear, True))
            rows.insert(3, ("server", "parts of sums that are not encrypted", len(sums), clear_of_sums, True))
        return [
            Seen.model_validate({"party": party, "what": what, "count": count, "bytes": size, "readable": readable})
            for party, what, count, size, readable in rows
        ]


def _in_memory(samples: Samples) -> Samples:
    """Samples as arrays: attacks compute with them, and those of an index are read."""
    return Samples(np.asarray(samples.features), np.asarray(samples.labels))


def play(config: FederationConfig, folder: Path) -> RecordedRun:
    """Found a federation in an empty folder and run it in this process, with a coordinator that records.

    Raises:
        DictPFLError: whatever the run raises.
    """
    founded = found(config, folder)
    owner_only(founded.coordinator / RECORDING)
    try:
        run_local(founded.coordinator, founded.institutions, config.federation.participants)
    finally:
        forget_institutions()
    recorded = RecordedRun(folder)
    if not recorded.server.uploads:
        raise EngineError("the run left no recorded upload; nothing can be attacked")
    return recorded
