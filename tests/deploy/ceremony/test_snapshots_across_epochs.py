"""Snapshots and rotations: a snapshot opens for those who were in its epoch, and for nobody else."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from dictpfl.client.folder import InstitutionSettings
from dictpfl.client.institution import Institution
from dictpfl.client.keys.epochs import Keyring
from dictpfl.client.memory.snapshots import open_snapshot, seal_snapshot
from dictpfl.common.errors import KeyFileError, RoundError, SnapshotError, WireError
from dictpfl.common.messages.protocol import Request, Status
from dictpfl.common.messages.snapshots import HEADER_BYTES, SnapshotHeader
from dictpfl.deploy.ceremony import authority
from dictpfl.deploy.ceremony.export import export_state
from dictpfl.deploy.ceremony.identity import PUBLIC
from dictpfl.server.agreement import Agreement
from dictpfl.server.coordinator import AGREEMENT, JOURNAL, Coordinator
from tests.support.ceremonies import NAMES, PASSPHRASES, Ceremony

pytestmark = pytest.mark.usefixtures("quiet")
EVERY = 2


def keeping(world: Ceremony, epoch: int) -> None:
    """The coordinator's half of an epoch, with short retention."""
    world.hand_over(epoch)
    path = world.coordinator / AGREEMENT
    replace(Agreement.load(path), snapshot_every=EVERY, snapshots_kept=2).save(path)


@pytest.fixture(scope="module")
def rotated(tmp_path_factory: pytest.TempPathFactory) -> Ceremony:
    """Three rounds of three; Oslo leaves, Quito and Turin come; Kyoto, which stays, is away for five rounds more."""
    world = Ceremony.found(tmp_path_factory.mktemp("epochs"), federation__min_participants=3)
    for name in NAMES:
        world.join(name)
        world.give_data(name)
    keeping(world, 1)
    world.run(NAMES)
    shutil.copytree(world.home("kyoto"), world.root / "kyoto-before")
    for name in ("quito", "turin"):
        world.identity(name)
        world.give_data(name)
    export = world.root / "berlin.state"
    export_state(world.home("berlin"), PASSPHRASES["berlin"], export)
    authority.rotate(
        world.authority, PASSPHRASES["authority"], [export], world.handout(2),
        add={n: world.home(n) / PUBLIC for n in ("quito", "turin")}, remove=["oslo"], rounds=8,
    )  # fmt: skip
    for name in ("berlin", "quito", "turin", "kyoto"):
        world.join(name, 2)
    keeping(world, 2)
    world.run(("berlin", "quito", "turin"))
    return world


@pytest.fixture
def world(rotated: Ceremony, tmp_path: Path) -> Ceremony:
    return rotated.copy(tmp_path / "c")


def keyring(world: Ceremony, name: str) -> Keyring:
    return Keyring(world.home(name), InstitutionSettings.load(world.home(name)))


def newest(world: Ceremony) -> tuple[int, bytes]:
    coordinator = Coordinator.open(world.coordinator)
    journal = coordinator._journal
    number = max(journal.snapshots())
    data = journal.snapshot(number)
    coordinator.close_journal()
    return number, data


def test_one_that_stayed_and_was_away_starts_from_the_new_epochs_snapshot(world: Ceremony) -> None:
    """The rounds that it missed are of two epochs, and not kept any more."""
    before = world.state("kyoto")
    number, _ = newest(world)
    assert number > before.round + 2
    path = world.coordinator / AGREEMENT
    replace(Agreement.load(path), rounds=9).save(path)
    world.run(("berlin", "quito", "turin", "kyoto"))
    states = [world.state(name) for name in ("berlin", "quito", "turin", "kyoto")]
    assert len({state.digest for state in states}) == 1
    assert states[0].updates == 9
    assert '"jumped"' in (world.home("kyoto") / "diary.jsonl").read_text()


def test_who_left_opens_none_of_the_new_epoch(world: Ceremony) -> None:
    number, data = newest(world)
    left = keyring(world, "oslo")
    with pytest.raises(WireError, check=lambda e: e.code == "wrong-key"):
        open_snapshot(left, data, (), number)
    relabelled = replace(SnapshotHeader.read(data), epoch=1, fingerprint=left.genesis.fingerprint)
    with pytest.raises(SnapshotError, match="does not open"):
        open_snapshot(left, relabelled.to_bytes() + data[HEADER_BYTES:], (), number)


def test_who_left_and_the_coordinator_together_forge_none(world: Ceremony) -> None:
    """They hold the old key and the seed; which key a round's snapshot needs follows from the table, not from its header."""
    number, data = newest(world)
    left, berlin = keyring(world, "oslo"), Institution(world.home("kyoto"))
    state = replace(world.state("oslo"), round=number)
    forged = seal_snapshot(left, state)
    genuine = SnapshotHeader.read(data)
    held = world.state("kyoto")
    for header in (
        SnapshotHeader.read(forged),
        replace(SnapshotHeader.read(forged), epoch=genuine.epoch, fingerprint=genuine.fingerprint),
    ):
        request = Request(
            number, None, genuine.federation, genuine.fingerprint, (), header.to_bytes() + forged[HEADER_BYTES:]
        )
        reply = berlin.handle(request)
        assert reply.status is Status.REFUSED
        assert reply.code in {"wrong-key", "snapshot"}
    assert world.state("kyoto").digest == held.digest


def test_a_newcomer_cannot_open_those_of_the_epoch_before(world: Ceremony) -> None:
    old = seal_snapshot(keyring(world, "oslo"), replace(world.state("oslo"), round=2))
    with pytest.raises(KeyFileError, match="epoch 1"):
        open_snapshot(keyring(world, "quito"), old, (), 2)


def test_a_journal_that_was_lost_after_a_rotation(world: Ceremony) -> None:
    """The new journal begins where the epoch does, and goes on where the institutions are, once the operator has said so."""
    digest, number = world.state("berlin").digest, world.state("berlin").round
    for path in world.coordinator.glob(f"{JOURNAL}*"):
        path.unlink()
    agreed = replace(Agreement.load(world.coordinator / AGREEMENT), rounds=8)
    agreed.save(world.coordinator / AGREEMENT)
    with pytest.raises(RoundError, match=rf": round {number}, [a-z]{{5}}-"):
        world.run(("berlin", "quito", "turin", "kyoto"))
    assert world.state("berlin").digest == digest
    replace(agreed, restart_from=number).save(world.coordinator / AGREEMENT)
    behind = world.state("kyoto").digest
    world.run(("berlin", "quito", "turin", "kyoto"))
    assert world.state("kyoto").digest == behind, "nobody can list the rounds that it missed any more"
    assert "expected a snapshot of round" in (world.home("kyoto") / "diary.jsonl").read_text()
    for path in (world.home("kyoto") / "memory").glob("*.safetensors"):
        path.unlink()
    world.run(("berlin", "quito", "turin", "kyoto"))
    states = [world.state(name) for name in ("berlin", "quito", "turin", "kyoto")]
    assert len({state.digest for state in states}) == 1
    assert states[0].updates == 8, "no training round was added"
    assert (states[0].round, states[0].digest) == (number, digest), (
        "the sum that measured it came back from institutions"
    )
