"""A rotation in the middle of a federation of real processes: one institution leaves, two come, the model goes on."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from dictpfl.client.folder import InstitutionSettings
from dictpfl.client.institution import Institution
from dictpfl.client.keys.epochs import Keyring
from dictpfl.common.ckks.opening import CKKSOpener
from dictpfl.common.errors import GuardError, IntegrityError, WireError
from dictpfl.common.genesis import require_tagged
from dictpfl.common.messages.protocol import Request, RoundKind, Status
from dictpfl.common.messages.wire import AGGREGATE, Blob, read_header
from tests.support.ceremonial import Ceremonial
from tests.support.machines import until
from tests.support.opened import opened

pytestmark = pytest.mark.deployment
FOUNDERS, NEWCOMERS = ("berlin", "kyoto", "oslo"), ("quito", "turin")
AFTERWARDS = ("berlin", "kyoto", "quito", "turin")


def test_three_rounds_one_leaves_two_come_three_more(world: Ceremonial) -> None:
    world.online(FOUNDERS)
    run = world.run("--rounds", 3)
    assert run.wait(240) == 0, run.text
    # The run's end is the drain: one round without an update measures, and everybody who is up has the last sum.
    before = {name: world.record(name) for name in FOUNDERS}
    assert {record.shared.round for record in before.values()} == {4}
    assert len({record.shared.digest for record in before.values()}) == 1
    assert all(record.pending is None for record in before.values())
    left = world.folder / "oslo-when-it-left"
    shutil.copytree(world.home("oslo"), left, ignore=shutil.ignore_patterns("run", "logs", "flower"))

    world.rotate(exporters=("berlin", "kyoto"), add=NEWCOMERS, remove=("oslo",), rounds=6)
    # Institutions first: one that cannot say that it leaves counts as there for two heartbeats more.
    for name in ("berlin", "kyoto"):
        world.nodes[name].stop()
    assert world.up is not None
    world.up.stop()
    wrong = world.join("kyoto", epoch=2, passphrase=world.passphrase("oslo"))
    assert wrong.wait(60) == 1
    assert "passphrase is wrong" in wrong.text
    # One command for each, whether it stays or comes. Oslo does nothing, and its processes stay up.
    world.all([world.join(name, epoch=2) for name in AFTERWARDS])
    world.hand_over(2)
    world.start(AFTERWARDS)
    world.online(AFTERWARDS)
    run = world.run()
    assert run.wait(240) == 0, run.text

    # The model continues from where it was.
    state = world.record("berlin").shared
    assert (state.round, state.updates) == (8, 6)
    assert {world.record(name).shared.digest for name in AFTERWARDS} == {state.digest}
    assert world.sums() == dict.fromkeys(range(4), 3) | dict.fromkeys(range(4, 8), 4)
    for name in NEWCOMERS:
        start = Keyring(world.home(name), InstitutionSettings.load(world.home(name))).start()
        assert start.digest == before["berlin"].shared.digest
        assert np.array_equal(start.values, before["berlin"].shared.values)
    assert not np.array_equal(state.values, before["berlin"].shared.values)
    # What an institution owed before the rotation it owes afterwards: nothing was started anew.
    assert world.record("berlin").secret == before["berlin"].secret

    # The one that left was asked nothing that it could answer, and knows the state that it left with.
    assert world.record("oslo").shared.digest == before["oslo"].shared.digest
    assert "oslo" not in [path.stem for path in (world.coordinator / "nodes").glob("*.pub")]
    cannot_open(world, left)
    read_on(world, left)


def cannot_open(world: Ceremonial, left: Path) -> None:
    """With its key, and all that the coordinator has, who left opens old sums and no new one."""
    mine = Keyring(left, InstitutionSettings.load(left))
    theirs = Keyring(world.home("berlin"), InstitutionSettings.load(world.home("berlin")))
    assert mine.key is not None
    assert theirs.key is not None
    assert mine.key.fingerprint != theirs.key.fingerprint
    outsider, insider = CKKSOpener(mine.key), CKKSOpener(theirs.key)
    found = {"opened": 0, "refused": 0}
    for aggregate in world.aggregates():
        header = read_header(aggregate.blob)
        number, genesis = header.round, (mine if header.round < 4 else theirs).genesis
        blob = Blob.parse(aggregate.blob, genesis.limits, direction=AGGREGATE, kind=header.kind, round=number)
        if number < 4:
            assert opened(blob, outsider, genesis.parameters).any()
            found["opened"] += 1
            continue
        # By its header it is refused, and so it is if it looks past the header.
        with pytest.raises(WireError, check=lambda e: e.code == "wrong-key"):
            Blob.parse(aggregate.blob, mine.genesis.limits, direction=AGGREGATE, kind=header.kind, round=number)
        # Nor could it have told that the sum is a right one: tags are made with the seed that came with the new key.
        assert require_tagged(theirs.genesis, blob).size
        with pytest.raises(IntegrityError, check=lambda e: e.reason == "tag"):
            require_tagged(mine.genesis, blob)
        with pytest.raises(GuardError, match="another key"):
            opened(blob, outsider, genesis.parameters)
        assert opened(blob, insider, genesis.parameters).any()
        found["refused"] += 1
    assert found == {"opened": 4, "refused": 4}


def read_on(world: Ceremonial, left: Path) -> None:
    """The same by its own app: given the coordinator's new sums, it refuses, and its state stays."""
    institution = Institution(left)
    genesis = institution._genesis
    new = tuple(aggregate for aggregate in world.aggregates() if aggregate.round >= 4)
    request = Request(8, RoundKind.UPDATE, genesis.federation, genesis.fingerprint, new)
    reply = institution.handle(request)
    assert (reply.status, reply.code) == (Status.REFUSED, "wrong-key")
    assert institution._position == 4


def test_a_run_is_drained_before_its_end(world: Ceremonial) -> None:
    """As before a rotation that cannot wait: the round that is open counts, no other begins, everybody has the last sum."""
    before = world.rounds()
    long = world.more(50)
    until(lambda: world.rounds() > before, 90, "a round of a long run")
    drain = world.run("--drain", log="drain.log")
    assert drain.wait(120) == 0, drain.text
    assert long.wait(60) == 0, long.text
    with world.journal() as journal:
        kinds, settled = journal.kinds(), journal.is_settled(journal.next_round)
    assert settled
    assert kinds[-1] is RoundKind.MEASURE
    assert before + 2 <= len(kinds) <= before + 6, "not many, and not fifty"
    present = [name for name in world.nodes if name != "oslo"] if world.rotated else list(world.nodes)
    records = [world.record(name) for name in present]
    assert {record.shared.round for record in records} == {len(kinds)}
    assert len({record.shared.digest for record in records}) == 1
    assert all(record.pending is None for record in records)


def test_the_coordinator_refuses_an_older_half(world: Ceremonial) -> None:
    """Putting the first epoch's half back is refused by `run`, in words, and by the app that adds."""
    half = world.coordinator / "federation.json"
    kept = half.read_bytes()
    shutil.copy(world.handout(1) / "coordinator" / "federation.json", half)
    try:
        run = world.run("--rounds", 9)
        assert run.wait(60) == 1
        assert "is in epoch 2" in run.text
        assert "Traceback" not in run.text
    finally:
        half.write_bytes(kept)


def test_status_after_the_rotation(world: Ceremonial) -> None:
    updates, rounds = world.record("berlin").shared.updates, world.rounds()
    text = world.did("status", "--folder", world.coordinator)
    assert f"{updates} of {updates} update rounds" in text
    until(lambda: world.node_states().get("quito") == "online", 60, "quito is seen")
    assert f"round {rounds}, {updates} updates" in world.did("status", "--institution", world.home("turin"))


def test_a_wrong_passphrase_while_rounds_go_on(world: Ceremonial) -> None:
    """An institution whose passphrase file was replaced is left out: told so at its end, by a bare word at the other."""
    path = world.passphrase("kyoto")
    kept = path.read_bytes()
    path.write_bytes(b"six random words of somebody\n")
    try:
        run = world.more(1)
        assert run.wait(240) == 0, run.text
    finally:
        path.write_bytes(kept)
    assert set(world.sums().values()) >= {3}
    assert world.sums()[world.rounds() - 1] == 3
    said = (world.home("kyoto") / "logs" / "superexec.log").read_text()
    assert "passphrase is wrong" in said
    heard = (world.coordinator / "logs" / "superexec.log").read_text()
    assert '"reason": "passphrase"' in heard
    assert "passphrase is wrong" not in heard, "the words stay at home"
    assert world.more(1).wait(240) == 0
    assert world.sums()[world.rounds() - 1] == 4, "with the right one, it is back"
