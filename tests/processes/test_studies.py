"""A second study on a standing network: docs/how-to/studies.md typed by each party in a shell, and run by real processes over TLS."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from dictpfl.client.data.samples import Samples
from dictpfl.client.folder import TRAIN, VALIDATION
from dictpfl.client.keys.epochs import home
from dictpfl.client.memory.record import Memory
from dictpfl.common.genesis import Genesis
from dictpfl.deploy.operations.certificates import try_out
from dictpfl.deploy.operations.settings import CoordinatorSettings, NodeSettings
from dictpfl.deploy.simulation.flower import session
from dictpfl.deploy.studies.network import Network
from dictpfl.deploy.studies.store import Studies
from tests.support import ROOT
from tests.support.ceremonies import NAMES, PASSPHRASES, Ceremony
from tests.support.machines import NGINX, free_port, until
from tests.support.shown import not_shown
from tests.support.study_page import Block, Send, pieces

pytestmark = pytest.mark.deployment
PARTIES = ("authority", "coordinator", *NAMES)


class Shells:
    """For each party a folder with its own folder in it, where its operator types."""

    def __init__(self, root: Path) -> None:
        self.root, self.made = root, standing(root / "network")
        self.listen, self.local = free_port(), free_port()
        tools = root / "bin"
        tools.mkdir()
        for name, program in (("dictpfl", f"{shlex.quote(sys.executable)} -m dictpfl.deploy.cli"), ("nginx", NGINX)):
            (tools / name).write_text(f'#!/bin/sh\nexec {program} "$@"\n')
            (tools / name).chmod(0o755)
        self.environment = {
            **os.environ,
            "PATH": f"{tools}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
        }
        self.running: list[subprocess.Popen[bytes]] = []
        self.settings = f"LISTEN=127.0.0.1:{self.listen}\nLOCAL={self.local}\n"
        for party in PARTIES:
            own = party if party in ("authority", "coordinator") else "institution"
            self.place(party).mkdir()
            (self.place(party) / own).symlink_to(self.made.root / party)
            if party != "coordinator":
                shutil.copy(self.made.root / party / "passphrase", self.place(party) / "passphrase")
        CoordinatorSettings.updated(self.made.coordinator, heartbeat=10.0)
        for name in NAMES:
            ca = self.made.home(name) / "ca.pem"
            shutil.copy(self.made.coordinator / "tls" / "ca.pem", ca)
            NodeSettings.updated(
                self.made.home(name),
                coordinator=f"localhost:{self.listen}",
                ca="ca.pem",
                heartbeat=10.0,
                port=free_port(),
            )

    def place(self, party: str) -> Path:
        return self.root / party

    def study(self, party: str) -> Path:
        return self.made.root / party / "studies" / "wide"

    def start(self, party: str, code: str, log: str) -> subprocess.Popen[bytes]:
        with (self.place(party) / log).open("wb") as out:
            script = f"set -euo pipefail\numask 077\n{self.settings}{code}"
            shell = subprocess.Popen(
                ["bash", "-c", script], cwd=self.place(party), env=self.environment, stdin=subprocess.DEVNULL,
                stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self.running.append(shell)
        return shell

    def typed(self, block: Block, parties: tuple[str, ...]) -> None:
        """The same at several parties, at once."""
        log = f"step-{block.step}.log"
        shells = {party: self.start(party, block.code, log) for party in parties}
        for party, shell in shells.items():
            assert shell.wait(400) == 0, (block.code, self.read(party, log))
            lacking = not_shown(block.shows, self.read(party, log))
            assert lacking is None, (lacking, self.read(party, log))

    def read(self, party: str, log: str) -> str:
        return (self.place(party) / log).read_text(encoding="utf-8", errors="replace")

    def stop(self) -> None:
        with suppress(OSError, ValueError):
            os.kill(int((self.study("coordinator") / "run" / "nginx.pid").read_text()), signal.SIGTERM)
        for number in (signal.SIGTERM, signal.SIGKILL):
            for shell in self.running:
                for pid in session(shell.pid):
                    with suppress(ProcessLookupError):
                        os.kill(pid, number)
            with suppress(AssertionError):
                until(lambda: not any(session(shell.pid) for shell in self.running), 20, "all ended")
        for shell in self.running:
            shell.wait()


def standing(root: Path) -> Ceremony:
    """A network as the ceremony leaves it, with samples as the page's study wants them."""
    made = Ceremony.found(root)
    for name in NAMES:
        made.join(name)
        rng = np.random.default_rng(sum(name.encode()))
        for file, size in ((TRAIN, 60), (VALIDATION, 20)):
            features = rng.random(size=(size, 64)).astype(np.float32)
            Samples(features, features[:, :10].argmax(axis=1)).save(made.home(name) / file)
    (made.authority / "passphrase").write_bytes(PASSPHRASES["authority"] + b"\n")
    (made.authority / "passphrase").chmod(0o600)
    made.hand_over()
    try_out(made.coordinator / "tls", ["localhost"])
    return made


@pytest.fixture
def shells(tmp_path: Path) -> Iterator[Shells]:
    made = Shells(tmp_path)
    try:
        yield made
    finally:
        made.stop()


def carried(shells: Shells, piece: Send) -> None:
    readers = [n for n in NAMES if "each institution" in piece.reader]
    readers += [one for one in ("authority", "coordinator") if f"the {one}" in piece.reader]
    for sender in PARTIES:
        for reader in readers:
            source = shells.place(sender) / piece.source.replace("$NAME", reader)
            target = shells.place(reader) / piece.target.replace("wide.approved", f"{sender}.approved")
            if source.is_dir():
                shutil.copytree(source, target)
            elif source.exists() and source != target:
                shutil.copy(source, target)


@pytest.mark.skipif(NGINX is None, reason="NO PROXY, so the page cannot be followed: apt-get install nginx-light")
def test_a_second_study_from_nothing_to_its_last_round(shells: Shells) -> None:
    identities = {name: (shells.made.home(name) / "identity.pub").read_bytes() for name in NAMES}
    commands = dict.fromkeys(NAMES, 0)
    for piece in pieces():
        if isinstance(piece, Send):
            carried(shells, piece)
        elif piece.file:
            (shells.place("kyoto") / piece.file).write_text(piece.code)
        elif piece.role == "institution":
            for name in NAMES:
                commands[name] += len(piece.commands)
            if piece.step < 5:
                shells.typed(piece, NAMES)
                continue
            for name in NAMES:
                shells.start(name, piece.code, "up.log")
            until(
                lambda shown=piece.shows: all(not_shown(shown, shells.read(name, "up.log")) is None for name in NAMES),
                200, "all keys taken",
            )  # fmt: skip
        elif not piece.settings:
            shells.typed(piece, ({"lead": "kyoto"}.get(piece.role, piece.role),))
    assert set(commands.values()) == {3}, "commands at a site"

    run = Block(
        6,
        "coordinator",
        "dictpfl run --folder coordinator/studies/wide\n",
        shows=("round 0 (update): 3 institutions, …",),
    )
    shells.typed(run, ("coordinator",))
    assert "3 rounds closed, all institutions told" in shells.read("coordinator", "step-6.log")
    digests = set()
    for name in NAMES:
        record = Memory(shells.study(name) / "memory", Genesis.load(home(shells.study(name))).federation).recall()
        assert record is not None
        assert record.shared.updates == 2
        digests.add(record.shared.digest)
        assert (shells.made.home(name) / "identity.pub").read_bytes() == identities[name]
        assert not list(shells.study(name).glob("identity.*"))
    assert len(digests) == 1

    # The lead ends it: whoever takes the notice up stops.
    lead = shells.made.home("kyoto")
    abort = Block(
        7, "kyoto", "dictpfl study abort wide --reason done --folder institution --passphrase-file passphrase\n"
    )
    shells.typed(abort, ("kyoto",))
    shutil.copy(shells.place("kyoto") / "wide.aborted", shells.place("berlin") / "wide.aborted")
    shells.typed(Block(8, "berlin", "dictpfl study show wide.aborted --folder institution\n"), ("berlin",))
    for name in ("kyoto", "berlin"):
        until(lambda name=name: not (shells.study(name) / "run" / "processes.json").exists(), 60, f"{name} stopped")
    assert Studies(lead, Network.of(lead)).get("wide").aborted
