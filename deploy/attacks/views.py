"""Views of each adversary on a run, and no more: coordinator, institution, both together, outsider.

Every view is read from the files that this very party has: the coordinator's folder, an institution's folder, a model.
So it makes no difference whether the run was simulated or deployed. What attackers are granted beyond their view is
`dictpfl.deploy.attacks.observations`' business, and stated with the results.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from safetensors.torch import load_file
from torch import Tensor

from dictpfl.client.data.samples import Samples
from dictpfl.client.folder import TRAIN, InstitutionSettings
from dictpfl.client.keys.epochs import Keyring
from dictpfl.client.replay import replay
from dictpfl.common.ckks.opening import Opener
from dictpfl.common.errors import ConfigError, WireError
from dictpfl.common.genesis import Genesis, components
from dictpfl.common.law.finishing import carried
from dictpfl.common.law.ledger import Ledger
from dictpfl.common.law.round import Plan
from dictpfl.common.law.state import Floats, SharedState
from dictpfl.common.law.tags import TAGS
from dictpfl.common.messages.protocol import Aggregate, RoundKind
from dictpfl.common.messages.wire import AGGREGATE, UPLOAD, Blob, read_header
from dictpfl.deploy.simulation.founding import samples_of
from dictpfl.server.agreement import Agreement
from dictpfl.server.coordinator import AGREEMENT, open_journal
from dictpfl.server.recording import EVENTS, RECORDING
from dictpfl.server.rows import ClosedRound


@dataclass(frozen=True)
class SeenUpload:
    """Upload as it arrived.

    Attributes:
        node: that sent it.
        round: number of the round.
        kind: of the round.
        blob: as it crossed the wire.
        asked: seconds since the epoch.
        answered: seconds since the epoch.
    """

    node: int
    round: int
    kind: RoundKind
    blob: bytes
    asked: float
    answered: float


@dataclass(frozen=True)
class ServerView:
    """View of the coordinator: its agreement, its journal, and every upload if it recorded them (`dictpfl.server.recording`)."""

    agreement: Agreement
    rounds: tuple[ClosedRound, ...]
    aggregates: Mapping[int, Aggregate]
    uploads: tuple[SeenUpload, ...]
    events: tuple[Mapping[str, Any], ...]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read a coordinator's folder.

        Raises:
            ConfigError, JournalError: missing or damaged.
        """
        agreement = Agreement.load(folder / AGREEMENT)
        journal = open_journal(folder, agreement)
        try:
            rounds = tuple(journal.rounds(0))
            aggregates = {aggregate.round: aggregate for aggregate in journal.aggregates(0)}
        finally:
            journal.close()
        events = _events(folder / RECORDING / EVENTS)
        return cls(agreement, rounds, aggregates, tuple(_uploads(folder / RECORDING, events)), events)

    def uploads_of(self, number: int) -> dict[int, SeenUpload]:
        """Pick the uploads of a round by node; the last one of each."""
        return {seen.node: seen for seen in self.uploads if seen.round == number}


@dataclass(frozen=True)
class OpenedSum:
    """Sum as an institution opens it.

    Attributes:
        before: shared state that it was made from.
        plan: of the round.
        total: sum of w * values over the institutions in it, float64, shape (size,).
        ledger: summed counts, losses and metrics.
        counted: ids of the uploads in it.
    """

    before: SharedState
    plan: Plan
    total: Floats
    ledger: Ledger
    counted: tuple[bytes, ...]

    @property
    def steps(self) -> Floats:
        """Steps of the grid that values were rounded to, float64, shape (size,); 0 where none were sealed."""
        steps = np.zeros(self.total.size)
        steps[self.plan.sealed.index] = self.plan.sealed.steps
        return steps


@dataclass(frozen=True)
class InstitutionView:
    """View of an institution: its samples and keys, genesis, every sum opened, and the shared state after the last one."""

    name: str
    keys: Keyring
    train: Samples
    sums: Mapping[int, OpenedSum]
    state: SharedState

    @property
    def genesis(self) -> Genesis:
        """Agreement of the federation."""
        return self.keys.genesis

    @classmethod
    def read(cls, folder: Path, aggregates: Iterable[Aggregate]) -> Self:
        """Read an institution's folder, and open the sums that it was sent, in order.

        Raises:
            DictPFLError: whatever the institution itself would raise.
        """
        settings = InstitutionSettings.load(folder)
        keys = Keyring(folder, settings)
        state, sums = keys.start(), {}
        for aggregate in aggregates:
            if aggregate.round < state.round:
                continue
            genesis, opener = keys.at(aggregate.round)
            done = replay(genesis, opener, state, aggregate, settings.min_participants, keys.roster_at(aggregate.round))
            total, ledger = opened(genesis, done.plan, aggregate.blob, opener, AGGREGATE)
            sums[aggregate.round] = OpenedSum(state, done.plan, total, ledger, aggregate.counted)
            state = done.state
        return cls(settings.name, keys, samples_of(folder / TRAIN, keys.genesis.config, state), sums, state)


@dataclass(frozen=True)
class CollusionView:
    """View of coordinator and one institution together: single uploads, and the key that all institutions share."""

    server: ServerView
    institution: InstitutionView

    def open(self, seen: SeenUpload) -> tuple[Floats, Ledger]:
        """Open a single upload of somebody else: w * values, float64, shape (size,), and what its ledger says.

        Raises:
            OpeningError, RoundError: it does not open, as where uploads are masked besides.
        """
        genesis, opener = self.institution.keys.at(seen.round)
        return opened(genesis, self.institution.sums[seen.round].plan, seen.blob, opener, UPLOAD)


@dataclass(frozen=True)
class OutsiderView:
    """View of who holds the final model: its tensors by their original names."""

    tensors: Mapping[str, Tensor]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a safetensors file.

        Raises:
            ConfigError: unreadable.
        """
        try:
            return cls(load_file(path))
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot read a model from {path}: {error}") from error


def opened(genesis: Genesis, plan: Plan, blob: bytes, opener: Opener, direction: int) -> tuple[Floats, Ledger]:
    """Open a sum, or a single upload: w * values, and the ledger.

    Raises:
        WireError, OpeningError, RoundError: it is not of this plan, or does not open.
    """
    parsed = Blob.parse(blob, genesis.limits, direction=direction, kind=plan.kind, round=plan.round)
    seeds = [entry.seed for entry in parsed.entries]
    opened = opener.open(parsed.words()[:-TAGS], seeds, components(genesis, plan))
    clear = np.frombuffer(parsed.clear, dtype="<i4").astype(np.int64)
    return carried(genesis.law, plan, opened, clear), genesis.law.ledger.read(opened)


def _events(path: Path) -> tuple[Mapping[str, Any], ...]:
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return ()
    events = []
    for line in lines:
        try:
            events.append(json.loads(line))
        except ValueError:
            continue  # a line cut off by a crash
    return tuple(events)


def _uploads(folder: Path, events: Iterable[Mapping[str, Any]]) -> Iterable[SeenUpload]:
    asked: dict[int, float] = {}
    for event in events:
        try:
            if event["event"] == "asked":
                asked[event["node"]] = event["at"]
            elif event["file"]:
                yield _upload(folder / event["file"], event, asked)
        except (KeyError, TypeError) as error:
            raise ConfigError(
                f"{folder / EVENTS} has a line that the coordinator did not write ({type(error).__name__}); restore it, or move {folder} away"
            ) from error


def _upload(path: Path, event: Mapping[str, Any], asked: Mapping[int, float]) -> SeenUpload:
    try:
        blob = path.read_bytes()
        header = read_header(blob)
    except (OSError, WireError) as error:
        said = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(
            f"cannot use {path}, which {EVENTS} beside it names: {said}; restore it, or move {path.parent} away"
        ) from error
    return SeenUpload(
        event["node"], header.round, header.kind, blob, asked.get(event["node"], event["at"]), event["at"]
    )
