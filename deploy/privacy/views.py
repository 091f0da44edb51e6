"""What each adversary sees of a run, and no more: coordinator, institution, both together, outsider.

Every view is read from the files that this very party has: the coordinator's folder, an institution's folder, a model.
So it makes no difference whether the run was simulated or deployed. What attackers are granted beyond their view is
`deploy.privacy.knowledge`'s business, and stated with the results.
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

from client.data import Samples
from client.epochs import Keyring
from client.replay import apply, untagged
from client.site import TRAIN, SiteSettings
from common.errors import ConfigError
from common.genesis import Genesis
from common.ledger import Ledger, ledger_size
from common.opening import Opener
from common.protocol import Aggregate, RoundKind
from common.round import Plan, carried
from common.state import Floats, SharedState
from common.wire import AGGREGATE, UPLOAD, Blob, read_kind
from server.agreement import Agreement
from server.coordinator import AGREEMENT, open_journal
from server.journal import ClosedRound
from server.recording import EVENTS, RECORDING


@dataclass(frozen=True)
class SeenUpload:
    """An upload as it arrived. `asked`, `answered`: seconds since the epoch."""

    node: int
    round: int
    kind: RoundKind
    blob: bytes
    asked: float
    answered: float


@dataclass(frozen=True)
class ServerView:
    """The coordinator's: its agreement, its journal, and every upload if it recorded them (`server.recording`)."""

    agreement: Agreement
    rounds: tuple[ClosedRound, ...]
    aggregates: Mapping[int, Aggregate]
    uploads: tuple[SeenUpload, ...]
    events: tuple[Mapping[str, Any], ...]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """From a coordinator's folder.

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
        """The uploads of a round by node; the last one of each."""
        return {seen.node: seen for seen in self.uploads if seen.round == number}


@dataclass(frozen=True)
class OpenedSum:
    """A sum as an institution opens it.

    Attributes:
        before: shared state that it was made from. `plan`: of the round.
        total: sum of w * values over the institutions in it, float64, shape (size,).
        ledger: summed counts, losses and metrics.
        counted: ids of the uploads in it.
    """

    before: SharedState
    plan: Plan
    total: Floats
    ledger: Ledger
    counted: tuple[bytes, ...]


@dataclass(frozen=True)
class InstitutionView:
    """An institution's: its own samples and keys, genesis, every sum opened, and the shared state after the last one."""

    name: str
    keys: Keyring
    train: Samples
    sums: Mapping[int, OpenedSum]
    state: SharedState

    @property
    def genesis(self) -> Genesis:
        """The agreement."""
        return self.keys.genesis

    @classmethod
    def read(cls, folder: Path, aggregates: Iterable[Aggregate]) -> Self:
        """From an institution's folder and the sums that it was sent, in order.

        Raises:
            DictPFLError: whatever the institution itself would raise.
        """
        settings = SiteSettings.load(folder)
        keys = Keyring(folder, settings)
        state, sums = keys.start(), {}
        for aggregate in aggregates:
            if aggregate.round < state.round:
                continue
            genesis, opener = keys.at(aggregate.round)
            done = apply(genesis, opener, state, aggregate, settings.min_participants, keys.roster_at(aggregate.round))
            total, ledger = opened(genesis, done.plan, aggregate.blob, opener, AGGREGATE)
            sums[aggregate.round] = OpenedSum(state, done.plan, total, ledger, aggregate.counted)
            state = done.state
        return cls(settings.name, keys, Samples.load(folder / TRAIN), sums, state)


@dataclass(frozen=True)
class CollusionView:
    """Coordinator and one institution together: single uploads, and the key that all institutions share."""

    server: ServerView
    institution: InstitutionView

    def open(self, seen: SeenUpload) -> tuple[Floats, Ledger]:
        """A single upload of somebody else: w * values, float64, shape (size,), and what its ledger says.

        Raises:
            OpeningError, RoundError: it does not open, as where uploads are masked besides.
        """
        genesis, opener = self.institution.keys.at(seen.round)
        return opened(genesis, self.institution.sums[seen.round].plan, seen.blob, opener, UPLOAD)


@dataclass(frozen=True)
class OutsiderView:
    """Who holds the final model: its tensors by their original names."""

    tensors: Mapping[str, Tensor]

    @classmethod
    def read(cls, path: Path) -> Self:
        """From a safetensors file.

        Raises:
            ConfigError: unreadable.
        """
        try:
            return cls(load_file(path))
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot read a model from {path}: {error}") from error


def opened(genesis: Genesis, plan: Plan, blob: bytes, opener: Opener, direction: int) -> tuple[Floats, Ledger]:
    """What a sum, or a single upload, carries for who can open it: w * values, and the ledger.

    Raises:
        WireError, OpeningError, RoundError: it is not of this plan, or does not open.
    """
    limits = genesis.uploads if direction == UPLOAD else genesis.aggregates
    parsed = Blob.parse(blob, limits, direction=direction, kind=plan.kind, round=plan.round)
    components = untagged(genesis, plan, opener.open(parsed.sealed, parsed.header.item_length))
    clear = np.frombuffer(parsed.clear, dtype="<i4").astype(np.int64)
    ledger = Ledger.read(components[: ledger_size(len(genesis.layout.entries))])
    return carried(genesis.law, plan, components, clear), ledger


def _events(path: Path) -> tuple[Mapping[str, Any], ...]:
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return ()
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue  # a line cut off by a crash
    return tuple(found)


def _uploads(folder: Path, events: Iterable[Mapping[str, Any]]) -> Iterable[SeenUpload]:
    asked: dict[int, float] = {}
    for event in events:
        if event["event"] == "asked":
            asked[event["node"]] = event["at"]
        elif event["file"]:
            blob = (folder / event["file"]).read_bytes()
            number, kind, _ = read_kind(blob)
            yield SeenUpload(event["node"], number, kind, blob, asked.get(event["node"], event["at"]), event["at"])
