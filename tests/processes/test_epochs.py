"""Epochs of a running deployment: what each party types, and which app it then runs. Founded by the ceremony's commands."""

from __future__ import annotations

import json
import shutil
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
from dictpfl.deploy.ceremony import custody
from dictpfl.deploy.ceremony.terms import TERMS, read_terms
from dictpfl.deploy.operations.certificates import try_out
from dictpfl.deploy.operations.control import connected
from dictpfl.deploy.operations.places import RUN, SECRET
from tests.support import ROOT
from tests.support.federations import as_toml
from tests.support.machines import HEARTBEAT, Command, free_port, until

pytestmark = pytest.mark.deployment

FOUNDERS = ("berlin", "kyoto", "oslo")
CONFIG = as_toml(
    federation__rounds=2, federation__max_participants=4, federation__sample_cap=64, federation__deadline_seconds=120.0
)


class World:
    """Parties' folders below one, and their processes."""

    def __init__(self, root: Path) -> None:
        self.root, self.port = root, free_port()
        self.coordinator = root / "coordinator"
        self.running: dict[str, Command] = {}
        self.words = ""

    def does(self, *arguments: object, fails: str = "", name: str = "commands", **environment: str) -> str:
        """A command that ends; `fails`: what its refusal must say."""
        log = self.root / "logs" / f"{name}.log"
        before = len(log.read_text()) if log.exists() else 0
        command = Command([str(a) for a in arguments], log, environment)
        code, said = command.wait(120), command.text[before:]
        assert "Traceback" not in said, said
        assert code == (1 if fails else 0), said
        assert fails in said
        return said

    def keys(self, party: str) -> tuple[object, ...]:
        return ("--folder", self.root / party, "--passphrase-file", self.root / f"{party}.passphrase")

    def identity(self, party: str, role: str = "institution") -> None:
        secret = self.root / f"{party}.passphrase"
        secret.write_text(f"six random words of {party}\n")
        secret.chmod(0o600)
        self.does(role, "identity", "--name", party, *self.keys(party))
        if role == "institution":
            shutil.copy(self.coordinator / "tls" / "ca.pem", self.root / party / "ca.pem")
            rng = np.random.default_rng(sum(party.encode()))
            for file, size in ((TRAIN, 40), (VALIDATION, 12)):
                features = rng.normal(size=(size, 6)).astype(np.float32)
                Samples(features, features[:, :3].argmax(axis=1)).save(self.root / party / file)

    def named(self, option: str, names: tuple[str, ...]) -> list[object]:
        return [part for name in names for part in (option, f"{name}={self.root / name / 'identity.pub'}")]

    def join(self, name: str, epoch: int) -> str:
        bundle = self.root / f"handout-{epoch}" / "bundles" / f"{name}.bundle"
        words = ("--authority-fingerprint", self.words) if epoch == 1 or name == "quito" else ()
        return self.does("institution", "join", bundle, *self.keys(name), *words)

    def up(self, party: str, **environment: str) -> Command:
        if party == "coordinator":
            arguments: list[object] = ["coordinator", "up", "--port", self.port]
        else:
            arguments = ["institution", "up", "--coordinator", f"127.0.0.1:{self.port}", "--port", free_port()]
        arguments += ["--folder", self.root / party, "--heartbeat", HEARTBEAT, "--log-json"]
        self.running[party] = Command([str(a) for a in arguments], self.root / "logs" / f"{party}.log", environment)
        return self.running[party]

    def ready(self) -> bool:
        assert self.running["coordinator"].process.poll() is None, self.running["coordinator"].text
        with suppress(OSError, ValueError, KeyError):
            found = json.loads((self.coordinator / "run" / "processes.json").read_text())
            return bool(found["programs"]["superexec"]["pid"])
        return False

    def run(self, *more: object) -> None:
        run = Command([str(a) for a in ("run", "--folder", self.coordinator, *more)], self.root / "logs" / "run.log")
        assert run.wait(240) == 0, run.text

    def digests(self, names: tuple[str, ...]) -> set[str]:
        found = set()
        for name in names:
            record = Memory(self.root / name / "memory", Genesis.load(home(self.root / name)).federation).recall()
            assert record is not None
            found.add(f"{record.shared.updates} {record.shared.digest.hex()}")
        return found

    def nodes(self) -> dict[str, str]:
        superlink = f"127.0.0.1:{self.port}", self.coordinator / "tls" / "ca.pem", self.coordinator / RUN / SECRET
        with connected(*superlink) as control:
            return {node.name: node.status for node in control.nodes()}

    def stop(self) -> None:
        for command in self.running.values():
            if command.process.poll() is None:
                command.process.terminate()
        for command in self.running.values():
            command.wait(20)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A federation that has done two rounds."""
    made = World(tmp_path_factory.mktemp("epochs"))
    (made.root / "logs").mkdir()
    try_out(made.coordinator / "tls", [])
    made.coordinator.chmod(0o700)
    made.identity("authority", "authority")
    for name in FOUNDERS:
        made.identity(name)
    shown = made.does("audit", "fingerprint", made.root / "authority" / "identity.pub")
    made.words = shown.splitlines()[1].strip()
    (made.root / "federation.toml").write_text(CONFIG)
    made.does(
        "authority", "genesis", made.root / "federation.toml", *made.named("--institution", FOUNDERS),
        "--sample-shape", 6, "--outputs", 3, "--checked", "--out", made.root / "handout-1", *made.keys("authority"),
    )  # fmt: skip
    half = ("coordinator", "install", made.root / "handout-1" / "coordinator", "--folder", made.coordinator)
    made.does(*half, fails="nobody confirmed")
    made.does(*half, "--authority-fingerprint", made.words)
    for name in FOUNDERS:
        made.join(name, 1)
    try:
        made.up("coordinator")
        until(made.ready, 60, "coordinator ready")
        for name in FOUNDERS:
            made.up(name)
        made.run()
        assert len(made.digests(FOUNDERS)) == 1
        yield made
    finally:
        made.stop()


def events(folder: Path) -> list[str]:
    (log,) = custody.verify(folder)
    return [entry["event"] for entry in log.entries]


def test_nobody_admitted_a_node_by_hand_and_nothing_is_pinned_by_settings(world: World) -> None:
    assert set(world.nodes()) == set(FOUNDERS)
    app = world.does("bundle").strip()
    assert read_terms(world.coordinator / TERMS).app == app
    for party in ("coordinator.toml", "../berlin/node.toml"):
        assert 'bundle = ""' in (world.coordinator / party).read_text()


def test_the_coordinators_custody_log_has_every_round(world: World) -> None:
    until(lambda: events(world.coordinator).count("round closed") == 3, 30, "two updates and a measurement")
    found = events(world.coordinator)
    assert [event for event in found if event.startswith(("run", "rounds"))] == ["run started", "rounds done"]
    said = world.does("audit", "verify", world.coordinator)
    assert f"whole: {len(found)} entries of coordinator coordinator" in said


def test_a_rotation_is_one_command_for_each_party_while_all_stays_up(world: World) -> None:
    pids = {name: command.process.pid for name, command in world.running.items()}
    # Nobody exports by hand: the end of the run left it.
    states = [world.root / name / "handover.state" for name in ("berlin", "kyoto")]
    until(lambda: all(state.exists() for state in states), 30, "the state for the authority")
    world.identity("quito")
    world.does(
        "authority", "rotate", *(x for state in states for x in ("--state", state)), "--remove", "oslo", *world.named("--add", ("quito",)), "--rounds", 4,
        "--checked", "--out", world.root / "handout-2", *world.keys("authority"),
    )  # fmt: skip
    # Who stays: one command. The coordinator: one. The newcomer: identity, join, up. Who leaves: none.
    stay = ("berlin", "kyoto")
    for name in (*stay, "quito"):
        world.join(name, 2)
    world.does("coordinator", "install", world.root / "handout-2" / "coordinator", "--folder", world.coordinator)
    world.up("quito")
    world.run()
    assert {name: world.running[name].process.pid for name in pids} == pids
    assert all(command.process.poll() is None for command in world.running.values())
    (digest,) = world.digests((*stay, "quito"))
    assert digest.startswith("4 ")
    (left,) = world.digests(("oslo",))
    assert left.startswith("2 ")
    states = world.nodes()
    assert states["oslo"] == "unregistered"
    assert {name for name, state in states.items() if state != "unregistered"} == {*stay, "quito"}
    until(lambda: events(world.coordinator).count("round closed") == 6, 30, "the second epoch's rounds")
    assert events(world.coordinator).count("node dismissed") == 1
    for party in ("authority", "berlin", "quito", "coordinator"):
        world.does("audit", "verify", world.root / party)


def test_a_node_that_was_struck_off_is_taken_back_and_struck_off_again(world: World) -> None:
    """Its key was refused for good: one `dismiss` too many cost an institution its identity."""
    typed = ("--folder", world.coordinator, "oslo")
    assert "oslo admitted" in world.does("coordinator", "admit", *typed, world.root / "oslo" / "node.pub")
    assert world.nodes()["oslo"] == "registered"
    world.does("coordinator", "dismiss", *typed)
    assert world.nodes()["oslo"] == "unregistered"


def test_an_app_that_was_not_agreed_on_starts_at_neither_end(world: World, tmp_path: Path) -> None:
    """Another release at a party: `up` says which was agreed on and which is there, and starts nothing."""
    source = tmp_path / "release"
    shutil.copytree(
        ROOT / "dictpfl", source / "dictpfl", ignore=shutil.ignore_patterns("__pycache__")
    )  # follows the links
    with (source / "dictpfl" / "server" / "app.py").open("a") as file:
        file.write("# another release\n")
    agreed = read_terms(world.coordinator / TERMS).app
    for party in ("berlin", "coordinator"):
        world.running.pop(party).stop()
        up = world.up(party, PYTHONPATH=str(source))
        assert up.wait(60) == 1
        assert f"agreed on was {agreed[:16]}" in up.text
        assert not (world.root / party / "run" / "processes.json").exists()
        world.running.pop(party)

    # An upgrade: the authority names the new one, and each party's own release must follow.
    other = world.does("bundle", PYTHONPATH=str(source), name="other").strip()
    assert other != agreed
    state = world.root / "berlin.state"
    world.does("institution", "export-state", state, *world.keys("berlin"))
    world.does(
        "authority", "rotate", "--state", state, "--one-state", "--app", other, "--rounds", 5, "--checked", "--out",
        world.root / "handout-3", *world.keys("authority"),
    )  # fmt: skip
    for name in ("berlin", "kyoto", "quito"):
        assert other in world.join(name, 3)
    world.does("coordinator", "install", world.root / "handout-3" / "coordinator", "--folder", world.coordinator)
    up = world.up("coordinator")
    assert up.wait(60) == 1
    assert f"agreed on was {other[:16]}" in up.text
    world.up("coordinator", PYTHONPATH=str(source))
    until(world.ready, 60, "the coordinator with the new release")
    # Quito joined, but its `up` is still that of the old release: it refuses, in words at home and a code at the other end.
    for name in ("berlin", "kyoto"):
        if name in world.running:
            world.running.pop(name).stop()
        world.up(name, PYTHONPATH=str(source))
    run = Command(
        ["run", "--folder", str(world.coordinator)], world.root / "logs" / "run.log", {"PYTHONPATH": str(source)}
    )
    log = world.root / "quito" / "logs" / "superexec.log"
    heard = world.coordinator / "logs" / "superexec.log"
    try:
        until(lambda: "start `up` again" in log.read_text(), 120, "quito's words")
        until(lambda: '"reason": "bundle"' in heard.read_text(), 120, "the code at the coordinator")
        world.running.pop("quito").stop()
        world.up("quito", PYTHONPATH=str(source))
        assert run.wait(240) == 0, run.text
    finally:
        run.kill()
    (digest,) = world.digests(("berlin", "kyoto", "quito"))
    assert digest.startswith("5 ")
