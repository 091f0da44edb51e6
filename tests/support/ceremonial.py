"""A deployment that begins with the key ceremony: parties have names, keys come in bundles, epochs follow each other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dictpfl.client.data.samples import Samples
from dictpfl.client.folder import TRAIN, VALIDATION
from dictpfl.client.memory.record import Memory, Record
from dictpfl.common.fingerprint import spoken
from dictpfl.common.messages.protocol import Aggregate, RoundKind
from dictpfl.deploy.ceremony.identity import PUBLIC, PublicIdentity
from dictpfl.deploy.operations.certificates import try_out
from dictpfl.deploy.simulation.founding import found
from dictpfl.server.agreement import Agreement
from dictpfl.server.coordinator import AGREEMENT, JOURNAL
from dictpfl.server.journal import Journal
from tests.support.machines import NGINX, Command, Deployment, config, free_port, settings

AUTHORITY = "authority"
PLANTED_SAMPLES = 48_611
"""Training samples of the first institution: a count that stands out."""


def planted(number: int) -> NDArray[np.float32]:
    """Features that stand out, by number: shape (1, 8, 8)."""
    return np.random.default_rng(number).random((1, 8, 8), dtype=np.float32)


class Ceremonial(Deployment):
    """Institutions by name (`index` is one, where `Deployment` has a number), made by commands as operators type them."""

    heartbeat = 30.0
    """Nothing is killed here, but a task is held while its memory is copied, and must not count as dead."""

    def __init__(self, folder: Path, founders: Sequence[str], newcomers: Sequence[str], **changes: Any) -> None:
        self.folder, self.founders = folder, tuple(founders)
        self.names = (*founders, *newcomers)
        self.coordinator = folder / "coordinator"
        self.port, self.listen, self.proxied = free_port(), free_port() if NGINX else 0, NGINX is not None
        self.logs = folder / "outputs"
        self.logs.mkdir(parents=True)
        self.up: Command | None = None
        self.nodes = {}
        self._ports = {name: free_port() for name in self.names}
        self._nginx = None
        self._said = 0
        agreed = {"federation.sample_cap": 1 << 16, "federation.max_participants": len(self.names)} | {
            name.replace("__", "."): value for name, value in changes.items()
        }
        self._settings = settings(**agreed) | {"federation.participants": len(founders)}
        self._divide(len(self.names))
        for party in (AUTHORITY, *self.names):
            path = self.passphrase(party)
            path.write_text(f"six random words of {party}\n")
            path.chmod(0o600)
        self.all(self.identity(party) for party in (AUTHORITY, *self.names))
        self.did(*self.authority("genesis", self._toml(), *self._named("--institution", founders)),
                 "--sample-shape", "x".join(map(str, self._shape)), "--outputs", 10, "--checked",
                 "--out", self.handout(1))  # fmt: skip
        self.hand_over(1)
        try_out(self.coordinator / "tls", [])
        for name in self.names:
            shutil.copy(self.coordinator / "tls" / "ca.pem", self.home(name) / "ca.pem")

    def _divide(self, parts: int) -> None:
        """Real samples for each institution, those that a simulation of as many would give it."""
        made = found(config(**{name.replace(".", "__"): v for name, v in self._settings.items()
                               if name.startswith("data.")}, federation__participants=parts), self.folder / "data")  # fmt: skip
        self._shape = made.genesis.sample_shape
        for index, name in enumerate(self.names):
            self.home(name).mkdir(mode=0o700)
            for file in (TRAIN, VALIDATION):
                shutil.copy(made.home(index) / file, self.home(name) / file)
        own = Samples.load(self.home(self.names[0]) / TRAIN)
        features = [planted(number).reshape(own.features.shape[1:]) for number in range(8)]
        count = PLANTED_SAMPLES - len(features)
        own = own.take(np.arange(count) % len(own))
        Samples(np.concatenate([own.features, np.stack(features)]), np.append(own.labels, np.arange(8))).save(
            self.home(self.names[0]) / TRAIN
        )

    def _toml(self) -> Path:
        path = self.folder / "federation.toml"
        path.write_text("".join(f"{name} = {_toml_value(value)}\n" for name, value in self._settings.items()))
        return path

    @contextmanager
    def running(self) -> Iterator[Self]:
        """All founders have joined and are up, inside; all that runs is stopped afterwards."""
        try:
            self.all([self.join(name) for name in self.founders])
            self.start(self.founders)
            yield self
        finally:
            self.stop()

    # the ceremony's commands

    def did(self, *arguments: Any) -> str:
        """A command that must succeed, and what it said."""
        return self.all([self.said(*arguments)])[0]

    def said(self, *arguments: Any) -> Command:
        """A command."""
        self._said += 1
        return Command(arguments, self.logs / f"command-{self._said:02d}-{arguments[1]}.log")

    @staticmethod
    def all(commands: Any) -> list[str]:
        """Several at once; all must succeed."""
        texts = []
        for command in list(commands):
            assert command.wait(120) == 0, f"{command.arguments}: {command.text}"
            texts.append(command.text)
        return texts

    def identity(self, party: str) -> Command:
        role = AUTHORITY if party == AUTHORITY else "institution"
        return self.said(role, "identity", "--name", party, *self._keys(party))

    def authority(self, command: str, *arguments: Any) -> list[Any]:
        return [AUTHORITY, command, *arguments, *self._keys(AUTHORITY)]

    def _keys(self, party: str) -> list[Any]:
        return ["--folder", self.home(party), "--passphrase-file", self.passphrase(party)]

    def _named(self, option: str, names: Sequence[str]) -> list[Any]:
        return [part for name in names for part in (option, f"{name}={self.home(name) / PUBLIC}")]

    def join(self, name: str, epoch: int = 1, bundle: Path | None = None, passphrase: Path | None = None) -> Command:
        words = spoken(PublicIdentity.load(self.home(AUTHORITY) / PUBLIC).fingerprint)
        keys = ["--folder", self.home(name), "--passphrase-file", passphrase or self.passphrase(name)]
        return self.said(
            "institution", "join", bundle or self.bundle(name, epoch), *keys, "--authority-fingerprint", words
        )

    def export(self, name: str) -> Path:
        out = self.folder / f"{name}.state"
        self.did("institution", "export-state", out, *self._keys(name))
        return out

    def rotate(self, exporters: Sequence[str], add: Sequence[str], remove: Sequence[str], rounds: int) -> None:
        states = [part for name in exporters for part in ("--state", self.export(name))]
        leave = [part for name in remove for part in ("--remove", name)]
        self.did(*self.authority("rotate", *states, *leave, *self._named("--add", add)),
                 "--rounds", rounds, "--checked", "--out", self.handout(2))  # fmt: skip

    def hand_over(self, epoch: int) -> None:
        """The coordinator's operator installs the epoch's half; journal, certificates and Flower's state stay."""
        half = self.handout(epoch) / "coordinator"
        words = spoken(PublicIdentity.load(self.home(AUTHORITY) / PUBLIC).fingerprint)
        self.did("coordinator", "install", half, "--folder", self.coordinator, "--authority-fingerprint", words)

    # places

    def home(self, index: Any) -> Path:
        return self.folder / str(index)

    def passphrase(self, party: str) -> Path:
        return self.folder / f"{party}.passphrase"

    def handout(self, epoch: int) -> Path:
        return self.folder / f"handout-{epoch}"

    def bundle(self, name: str, epoch: int = 1) -> Path:
        return self.handout(epoch) / "bundles" / f"{name}.bundle"

    # looking

    @property
    def agreed(self) -> Agreement:
        return Agreement.load(self.coordinator / AGREEMENT)

    def more(self, rounds: int) -> Command:
        """Run that many update rounds beyond those that are done."""
        with self.journal() as journal:
            done = list(journal.kinds()).count(RoundKind.UPDATE)
        return self.run("--rounds", done + rounds)

    @property
    def rotated(self) -> bool:
        return self.agreed.epoch > 1

    def outputs(self) -> list[Path]:
        """What the coordinator's commands printed."""
        return [
            self.logs / name
            for name in ("coordinator.log", "run.log", "drain.log", "nginx.log")
            if (self.logs / name).exists()
        ]

    @contextmanager
    def journal(self) -> Iterator[Journal]:
        agreed = self.agreed
        epoch = {"epoch": agreed.epoch, "first_round": agreed.first_round}
        journal = Journal(self.coordinator / JOURNAL, agreed.uploads.federation, agreed.uploads.fingerprint, **epoch)
        try:
            yield journal
        finally:
            journal.close()

    def aggregates(self) -> list[Aggregate]:
        with self.journal() as journal:
            return list(journal.aggregates(0))

    def record(self, name: str) -> Record:
        record = Memory(self.home(name) / "memory", self.agreed.uploads.federation).recall()
        assert record is not None
        return record

    def sealed(self, name: str) -> bool:
        """Whether the institution has sealed its upload for the round that is open, and does not know its fate yet."""
        record = Memory(self.home(name) / "memory", self.agreed.uploads.federation).recall()
        return record is not None and record.pending is not None and record.pending.round == self.rounds()


def _toml_value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name} = {_toml_value(inner)}" for name, inner in value.items()) + "}"
    return json.dumps(value)
