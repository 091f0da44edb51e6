"""A network of three institutions, their authority and coordinator, and papers of studies on it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

import dictpfl.client.keys.vault
from dictpfl.deploy.ceremony.identity import Identity, open_identity
from dictpfl.deploy.cli import app
from dictpfl.deploy.operations.certificates import try_out
from dictpfl.deploy.studies.network import Network
from dictpfl.deploy.studies.proposing import Asked, propose
from dictpfl.deploy.studies.store import Studies, Study
from tests.support.ceremonies import NAMES, PASSPHRASES, Ceremony, config

ASKED = Asked("try a wider model", "six numbers a row", (6,), 3, 2.0, 4.0, gpu=False, days=30)
APP = "cd" * 32


@pytest.fixture(scope="session", autouse=True)
def _cheap_passphrases() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(dictpfl.client.keys.vault, "_COST", {"iterations": 1, "lanes": 1, "memory_kib": 64})
        yield


@pytest.fixture(scope="session")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Ceremony:
    """A network whose members have joined; not to be changed: `copy` it."""
    made = Ceremony.found(tmp_path_factory.mktemp("network"))
    for name in NAMES:
        made.join(name)
        made.give_data(name)
    (made.authority / "passphrase").write_bytes(PASSPHRASES["authority"] + b"\n")
    (made.authority / "passphrase").chmod(0o600)
    made.hand_over()
    try_out(made.coordinator / "tls", [])
    return made


@dataclass
class World:
    """The network in a folder of its own, and what its parties do there."""

    made: Ceremony

    def home(self, party: str) -> Path:
        return self.made.authority if party == "authority" else self.made.home(party)

    def identity(self, party: str) -> Identity:
        return open_identity(self.home(party), PASSPHRASES[party])

    def studies(self, party: str) -> Studies:
        passphrase = PASSPHRASES[party] if party == "authority" else None
        return Studies(self.home(party), Network.of(self.home(party), passphrase))

    def proposed(self, lead: str = "kyoto", name: str = "wide", **changes: object) -> Study:
        changes = {"model__options": {"hidden": [16]}, "defences__masks": True} | changes
        return propose(self.studies(lead), self.identity(lead), config(**changes), ASKED, app=APP, name=name)

    def handed(self, study: Study, *parties: str) -> list[Study]:
        """The proposal as each of these parties takes it up."""
        return [self.studies(party).receive(study.wanted, "the proposal") for party in parties]

    def typed(self, party: str, command: str, *words: object) -> str:
        """A command of a party that must succeed; returns what it printed."""
        home = self.home(party)
        keys = [] if party == "coordinator" else ["--passphrase-file", str(home / "passphrase")]
        done = CliRunner().invoke(app, ["study", command, *map(str, words), "--folder", str(home), *keys])
        assert done.exit_code == 0, (done.output, done.exception)
        return done.output

    def logged(self, party: str) -> list[dict[str, object]]:
        """The facts of a party's custody log, with the events."""
        lines = (self.home(party) / "custody.jsonl").read_text(encoding="utf-8").splitlines()
        return [{"event": entry["event"], **entry["facts"]} for entry in map(json.loads, lines)]


@pytest.fixture
def world(standing: Ceremony, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A copy of the standing network; papers are written into the working directory."""
    made = standing.copy(tmp_path / "network")
    papers = tmp_path / "papers"
    papers.mkdir()
    monkeypatch.chdir(papers)
    return World(made)
