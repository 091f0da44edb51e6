"""A new key for a new set of institutions; the model goes on from where it was."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
from typer.testing import CliRunner

from dictpfl.client.folder import InstitutionSettings
from dictpfl.client.institution import Institution
from dictpfl.client.keys.epochs import Epoch, EpochTable, Keyring
from dictpfl.client.memory.record import Memory
from dictpfl.client.uploading import Uploads
from dictpfl.common.ckks.opening import CKKSOpener
from dictpfl.common.ckks.parameters import GUARDS
from dictpfl.common.errors import (
    BundleError,
    CeremonyError,
    ConfigError,
    GuardError,
    IdentityError,
    IntegrityError,
    JournalError,
    KeyFileError,
    RoundError,
    WireError,
)
from dictpfl.common.genesis import require_tagged
from dictpfl.common.law.layout import Kind, Layout
from dictpfl.common.law.selection import Best, Course
from dictpfl.common.law.state import Pace, Refresh
from dictpfl.common.law.stored import of_bytes, to_bytes
from dictpfl.common.law.tags import TAGS
from dictpfl.common.messages.protocol import Aggregate, Request, Status
from dictpfl.common.messages.wire import AGGREGATE, Blob, read_header, with_words
from dictpfl.deploy.ceremony import authority, custody, keeping
from dictpfl.deploy.ceremony.authority import Issued
from dictpfl.deploy.ceremony.export import agreed_state, export_state
from dictpfl.deploy.ceremony.identity import PUBLIC
from dictpfl.deploy.ceremony.installing import require_consistent
from dictpfl.deploy.ceremony.keeping import FEDERATION
from dictpfl.deploy.cli import app
from dictpfl.server.agreement import Agreement
from dictpfl.server.coordinator import AGREEMENT, JOURNAL, Coordinator
from dictpfl.server.journal import Journal
from tests.support.ceremonies import NAMES, PASSPHRASES, Ceremony

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture(scope="module")
def ran(founded: Ceremony, tmp_path_factory: pytest.TempPathFactory) -> Ceremony:
    """Three institutions after three rounds; not to be changed."""
    made = founded.copy(tmp_path_factory.mktemp("ran") / "c")
    for name in NAMES:
        made.join(name)
        made.give_data(name)
    made.hand_over()
    made.run(NAMES)
    for name in ("quito", "turin"):
        made.identity(name)
        made.give_data(name)
    return made


@pytest.fixture
def world(ran: Ceremony, tmp_path: Path) -> Ceremony:
    return ran.copy(tmp_path / "c")


def export(world: Ceremony, name: str) -> Path:
    path = world.root / f"{name}.state"
    path.unlink(missing_ok=True)
    export_state(world.home(name), PASSPHRASES[name], path)
    return path


def rotated(world: Ceremony, epoch: int = 2, **how: object) -> Issued:
    """Oslo leaves, two come."""
    states = [export(world, name) for name in how.pop("exporters", ("berlin", "kyoto"))]
    how = {"add": {n: world.home(n) / PUBLIC for n in ("quito", "turin")}, "remove": ["oslo"], "rounds": 6} | how
    return authority.rotate(world.authority, PASSPHRASES["authority"], states, world.handout(epoch), **how)


STAY_OR_COME = ("berlin", "kyoto", "quito", "turin")


def test_what_the_authority_cannot_keep_is_not_issued(world: Ceremony, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bundles that lie there would be sent, and the next rotation issues others for the same epoch."""
    records = (world.authority / FEDERATION).read_bytes()

    def full(*_what: object) -> None:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patched:
        patched.setattr(keeping, "write_private", full)
        with pytest.raises(CeremonyError, match="No space left on device; nothing was issued"):
            rotated(world)
    assert not world.handout(2).exists()
    assert (world.authority / FEDERATION).read_bytes() == records
    assert rotated(world).table.last.number == 2


def test_one_leaves_two_come_and_the_model_goes_on(world: Ceremony) -> None:
    before, entries = world.state("berlin"), len(custody.verify(world.authority)[0].entries)
    issued = rotated(world)
    assert (issued.table.last.number, issued.table.last.first_round) == (2, before.round)
    assert sorted(path.stem for path in (world.handout(2) / "bundles").iterdir()) == sorted(STAY_OR_COME)
    for name in STAY_OR_COME:
        assert world.join(name, 2).first_round == before.round
    world.hand_over(2)
    world.run(STAY_OR_COME)

    states = [world.state(name) for name in STAY_OR_COME]
    assert len({state.digest for state in states}) == 1
    assert states[0].updates == 6
    assert not np.array_equal(states[0].values, before.values)
    assert len(custody.verify(world.authority)[0].entries) == entries + 1

    # The first epoch's sums are where they were, and nobody needed more than one command.
    journal = Journal(
        world.coordinator / JOURNAL, issued.genesis.federation, issued.genesis.fingerprint,
        epoch=2, first_round=before.round,
    )  # fmt: skip
    aggregates = list(journal.aggregates(0))
    journal.close()
    assert [aggregate.round for aggregate in aggregates] == list(range(len(aggregates)))

    # Who left has the old key only: it opens the old sums, and none of the new.
    left = Keyring(world.home("oslo"), InstitutionSettings.load(world.home("oslo")))
    assert left.key is not None
    mine, theirs = left.genesis, issued.genesis
    for aggregate in aggregates:
        header = read_header(aggregate.blob)
        number, kind = header.round, header.kind
        limits = (mine if number < before.round else theirs).limits
        blob = Blob.parse(aggregate.blob, limits, direction=AGGREGATE, kind=kind, round=number)
        words, seeds = blob.words()[:-TAGS], [entry.seed for entry in blob.entries]
        components = words.size - GUARDS * -(-words.size // left.key.parameters.ring_degree)
        if number < before.round:
            CKKSOpener(left.key).open(words, seeds, components)
        else:
            with pytest.raises(GuardError):
                CKKSOpener(left.key).open(words, seeds, components)
            with pytest.raises(WireError, check=lambda e: e.code == "wrong-key"):
                Blob.parse(aggregate.blob, mine.limits, direction=AGGREGATE, kind=kind, round=number)
            with pytest.raises(IntegrityError):
                require_tagged(replace(mine, fingerprint=theirs.fingerprint), blob)

    # A newcomer has the new key only.
    came = Keyring(world.home("turin"), InstitutionSettings.load(world.home("turin")))
    assert came.start().digest == before.digest
    with pytest.raises(KeyFileError, match="not here"):
        came.at(0)
    secret = came.key.secret if came.key else b""
    assert not any(secret in path.read_bytes() for path in world.coordinator.rglob("*") if path.is_file())


def test_who_comes_starts_from_opened_tallies(tmp_path: Path) -> None:
    """What a tally opened is a part of the state that an epoch starts from: a newcomer has it, and so has who lost its memory."""
    world = Ceremony.found(tmp_path / "c", tallies__opening=["classes"])
    for name in NAMES:
        world.join(name)
        world.give_data(name)
    world.hand_over()
    world.run(NAMES)
    before = world.state("berlin")
    for name in ("quito", "turin"):
        world.identity(name)
        world.give_data(name)
    rotated(world)
    for name in STAY_OR_COME:
        world.join(name, 2)
    shutil.rmtree(world.home("kyoto") / "memory")
    for name in ("kyoto", "quito"):
        keys = Keyring(world.home(name), InstitutionSettings.load(world.home(name)))
        assert [one.facts() for one in keys.start().tallies] == [one.facts() for one in before.tallies]
    world.hand_over(2)
    world.run(STAY_OR_COME)
    assert len({world.state(name).digest for name in STAY_OR_COME}) == 1
    assert world.state("quito").updates == 6


def test_one_that_was_behind_replays_under_the_old_key(world: Ceremony) -> None:
    """Its memory is from before the first round; the rounds of both epochs bring it to the others' state."""
    shutil.rmtree(world.home("kyoto") / "memory")
    rotated(world, exporters=("berlin",))
    for name in STAY_OR_COME:
        world.join(name, 2)
    genesis = Keyring(world.home("kyoto"), InstitutionSettings.load(world.home("kyoto"))).genesis
    fresh = Institution(world.home("kyoto"))
    fresh._memory.store(replace(fresh._recall(), shared=genesis.start()))
    world.hand_over(2)
    world.run(STAY_OR_COME)
    assert len({world.state(name).digest for name in STAY_OR_COME}) == 1


def test_an_upload_that_was_pending_under_the_old_key_is_owed_not_lost(world: Ceremony) -> None:
    """A round was open when the run was stopped: its upload is never counted, and goes back into the residual."""
    half = world.coordinator / "federation.json"
    half.write_text(half.read_text().replace('"rounds": 3', '"rounds": 4').replace('"rounds":3', '"rounds":4'))
    coordinator = Coordinator.open(world.coordinator)
    requests = coordinator.begin([1, 2, 3])
    berlin = Institution(world.home("berlin"))
    assert berlin.handle(requests[1]).blob
    coordinator.close_journal()
    pending = berlin._recall().pending
    assert pending is not None
    rotated(world)
    for name in STAY_OR_COME:
        world.join(name, 2)
    world.hand_over(2)
    coordinator = Coordinator.open(world.coordinator)
    request = coordinator.begin([1, 2, 3, 4])[1]
    after = Institution(world.home("berlin"))
    owed: list[np.ndarray] = []
    update = Uploads._update

    def watch(uploads, record, plan, ledger):
        owed.append(record.residual.values)
        return update(uploads, record, plan, ledger)

    with mock.patch.object(Uploads, "_update", watch):
        assert after.handle(request).blob != pending.blob
    np.testing.assert_array_equal(owed[0], pending.missed.values)
    coordinator.close_journal()


def test_a_rotation_needs_the_state_of_the_last_round(world: Ceremony) -> None:
    """Rounds closed under the old key after the export cannot be opened by newcomers: the journal refuses."""
    rotated(world)
    half = world.coordinator / "federation.json"
    half.write_text(half.read_text().replace('"rounds": 3', '"rounds": 4').replace('"rounds":3', '"rounds":4'))
    world.run(NAMES)
    with pytest.raises(JournalError, match="export its state again"):
        world.hand_over(2)
    Coordinator.open(world.coordinator).close_journal()  # the epoch before is as it was
    # The institutions see it, too, and the way out is another rotation.
    with pytest.raises(BundleError, match="rotate again", check=lambda e: e.code == "wrong-bundle"):
        world.join("berlin", 2)
    with pytest.raises(CeremonyError, match="--abandon", check=lambda e: e.code == "rotation"):
        rotated(world, 3, add={}, remove=[])
    again = rotated(world, 3, abandon=True, add={n: world.home(n) / PUBLIC for n in ("oslo",)}, remove=["quito"])
    assert [epoch.number for epoch in again.table.epochs] == [1, 3]
    members = ("berlin", "kyoto", "oslo", "turin")
    for name in members:
        world.join(name, 3)
    world.hand_over(3)
    world.run(members)
    assert len({world.state(name).digest for name in members}) == 1


def test_a_lost_journal_goes_on_from_the_epochs_state(world: Ceremony) -> None:
    issued = rotated(world)
    for name in STAY_OR_COME:
        world.join(name, 2)
    shutil.rmtree(world.coordinator)
    world.hand_over(2)
    coordinator = Coordinator.open(world.coordinator)
    assert coordinator.begin([1])[1].round == issued.table.last.first_round
    coordinator.close_journal()
    world.run(STAY_OR_COME)
    assert len({world.state(name).digest for name in STAY_OR_COME}) == 1


def test_older_halves_and_older_journals_are_refused(world: Ceremony) -> None:
    rotated(world)
    world.hand_over(2)
    Coordinator.open(world.coordinator).close_journal()
    with pytest.raises(BundleError, match="is in epoch 2", check=lambda e: e.code == "old-epoch"):
        world.hand_over(1)
    shutil.copy(world.handout(1) / "coordinator" / AGREEMENT, world.coordinator / AGREEMENT)
    with pytest.raises(JournalError, match="Take the newest"):
        Coordinator.open(world.coordinator)
    with pytest.raises(BundleError, match="not of epoch 2", check=lambda e: e.code == "wrong-bundle"):
        require_consistent(world.coordinator, Agreement.load(world.coordinator / AGREEMENT))


def test_an_epoch_after_the_journals_end(tmp_path: Path) -> None:
    Journal(tmp_path / "j", b"f" * 32, b"k" * 32).close()
    with pytest.raises(JournalError, match="ends before round"):
        Journal(tmp_path / "j", b"f" * 32, b"n" * 32, epoch=2, first_round=7)
    Journal(tmp_path / "j", b"f" * 32, b"n" * 32, epoch=2).close()
    again = Journal(tmp_path / "j", b"f" * 32, b"n" * 32, epoch=2)
    assert again.next_round == 0
    again.close()
    fresh = Journal(tmp_path / "fresh", b"f" * 32, b"n" * 32, epoch=2, first_round=7)
    assert fresh.next_round == 7
    fresh.close()


def test_capacity_is_fixed_at_genesis(world: Ceremony) -> None:
    world.identity("lagos")
    everybody = {n: world.home(n) / PUBLIC for n in ("quito", "turin", "lagos")}
    with pytest.raises(CeremonyError, match="sized for sums of 4 at genesis", check=lambda e: e.code == "rotation"):
        rotated(world, add=everybody)
    with pytest.raises(CeremonyError, match="at least 3", check=lambda e: e.code == "rotation"):
        rotated(world, add={})
    assert not world.handout(2).exists()


def test_who_may_come_and_go(world: Ceremony) -> None:
    with pytest.raises(CeremonyError, match="no member", check=lambda e: e.code == "rotation"):
        rotated(world, remove=["nobody"])
    with pytest.raises(CeremonyError, match="members already", check=lambda e: e.code == "rotation"):
        rotated(world, add={"kyoto": world.home("kyoto") / PUBLIC})
    with pytest.raises(IdentityError, match="expected the institution 'turin'"):
        rotated(world, add={"turin": world.home("quito") / PUBLIC})
    with pytest.raises(ConfigError, match="not empty"):
        rotated(world, epoch=1)
    with pytest.raises(CeremonyError, match="no exported state", check=lambda e: e.code == "rotation"):
        rotated(world, exporters=())


def test_exports_must_agree_and_come_from_members(world: Ceremony) -> None:
    berlin = Institution(world.home("berlin"))
    record = berlin._recall()
    values = record.shared.values.copy()
    values[0] += 2.0**-40
    berlin._memory.store(replace(record, shared=replace(record.shared, values=values)))
    with pytest.raises(CeremonyError, match="drifted or lies", check=lambda e: e.code == "rotation"):
        rotated(world)
    # One liar alone: the others notice when they join, or when their replay gets there.
    rotated(world, exporters=("berlin",))
    with pytest.raises(BundleError, match="another shared state", check=lambda e: e.code == "wrong-bundle"):
        world.join("kyoto", 2)
    shutil.rmtree(world.home("kyoto") / "memory")
    world.join("kyoto", 2)
    keys = Keyring(world.home("kyoto"), InstitutionSettings.load(world.home("kyoto")))
    with pytest.raises(RoundError, match="the exporting one has drifted", check=lambda e: e.code == "drift"):
        keys.require_agreed(record.shared)


def exported(name: str) -> Any:
    state = SimpleNamespace(digest=b"digest", round=4)
    return SimpleNamespace(sender=SimpleNamespace(name=name), state=state, epoch=1)


@pytest.mark.parametrize(("options", "least"), [([], 2), (["--one-state"], 1)])
def test_a_rotation_takes_one_institutions_word_only_when_told_to(
    options: list[str], least: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[object] = []
    monkeypatch.setattr("dictpfl.deploy.ceremony.authority.rotate", lambda *_, **how: asked.append(how["least"]))
    monkeypatch.setattr("dictpfl.deploy.ceremony.cli.say_issued", lambda _: None)
    monkeypatch.setattr("dictpfl.deploy.ceremony.cli.asked_passphrase", lambda _: b"six random words")
    done = CliRunner().invoke(
        app, ["authority", "rotate", "--state", "a", "--out", str(tmp_path / "o"), "--checked", *options]
    )
    assert done.exit_code == 0, done.output
    assert asked == [least]
    for exports in ([exported("berlin")], [exported("berlin"), exported("berlin")]):  # twice the same one is one
        if least == 1:
            assert agreed_state(exports, least) == (exports[0].state, 1)
            continue
        with pytest.raises(CeremonyError, match=r"that of berlin alone.*--one-state"):
            agreed_state(exports, least)
    assert agreed_state([exported("berlin"), exported("oslo")], 2)[1] == 1


def test_a_stranger_exports_nothing(world: Ceremony) -> None:
    path = export(world, "oslo")
    rotated(world)
    with pytest.raises(BundleError, match="no member", check=lambda e: e.code == "unknown-sender"):
        authority.rotate(world.authority, PASSPHRASES["authority"], [path], world.handout(3), remove=["quito"])


def test_an_export_is_for_its_authority_and_whole(world: Ceremony, founded: Ceremony) -> None:
    path = export(world, "berlin")
    data = bytearray(path.read_bytes())
    data[-200] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, check=lambda e: e.code == "tampered-bundle"):
        authority.rotate(world.authority, PASSPHRASES["authority"], [path], world.handout(2), remove=[])
    with pytest.raises(BundleError, check=lambda e: e.code == "wrong-recipient"):
        world.join("berlin", 2, bundle=world.bundle("kyoto"))


def test_one_that_has_not_caught_up_exports_nothing(world: Ceremony) -> None:
    rotated(world)
    world.join("kyoto", 2)
    keys = Keyring(world.home("kyoto"), InstitutionSettings.load(world.home("kyoto")))
    memory = Memory(world.home("kyoto") / "memory", keys.genesis.federation)
    record = memory.recall()
    assert record is not None
    memory.store(replace(record, shared=keys.genesis.start()))
    with pytest.raises(CeremonyError, match="catch up", check=lambda e: e.code == "rotation"):
        export(world, "kyoto")


def test_two_rotations_in_a_row(world: Ceremony) -> None:
    """A newcomer of the second epoch has no key of the first; one that skipped an epoch lacks the key of that one."""
    rotated(world)
    for name in ("berlin", "quito", "turin"):
        world.join(name, 2)
    world.hand_over(2)
    world.run(("berlin", "quito", "turin"))
    rotated(world, 3, exporters=("quito", "turin"), add={}, remove=[], rounds=8)
    for name in STAY_OR_COME:
        world.join(name, 3)
    world.hand_over(3)
    # Kyoto slept through epoch 2: it says exactly what is missing, and the others go on.
    world.run(STAY_OR_COME)
    assert len({world.state(name).digest for name in ("berlin", "quito", "turin")}) == 1
    assert world.state("kyoto").round < world.state("berlin").round
    keys = Keyring(world.home("kyoto"), InstitutionSettings.load(world.home("kyoto")))
    with pytest.raises(KeyFileError, match=r"Move .*memory away"):
        keys.at(world.state("kyoto").round)
    (world.home("kyoto") / "memory").rename(world.home("kyoto") / "memory.epoch-1")
    half = world.coordinator / "federation.json"
    half.write_text(half.read_text().replace('"rounds": 8', '"rounds": 9').replace('"rounds":8', '"rounds":9'))
    world.run(STAY_OR_COME)
    assert len({world.state(name).digest for name in STAY_OR_COME}) == 1


def test_an_epochs_folder_that_was_altered(world: Ceremony) -> None:
    rotated(world)
    world.join("kyoto", 2)
    home = world.home("kyoto") / "epochs/0002"
    settings = InstitutionSettings.load(world.home("kyoto"))
    start = (home / "start.safetensors").read_bytes()
    (home / "start.safetensors").write_bytes(start[:-1] + bytes([start[-1] ^ 1]))
    with pytest.raises(ConfigError, match="snapshot"):
        Keyring(world.home("kyoto"), settings).start()
    shutil.copy(world.home("kyoto") / "epochs/0001/epochs.json", home / "epochs.json")
    with pytest.raises(ConfigError, match="not of this epoch"):
        Keyring(world.home("kyoto"), settings)


def test_who_left_and_the_coordinator_together_forge_nothing(world: Ceremony) -> None:
    """They have the old key, and the tag of the newest state from the uploads: the round says which key is due."""
    issued = rotated(world)
    world.join("berlin", 2)
    first = issued.table.last.first_round
    journal = Journal(world.coordinator / JOURNAL, issued.genesis.federation, issued.table.epochs[0].fingerprint)
    old = next(iter(journal.aggregates(first - 1)))
    journal.close()
    berlin = Institution(world.home("berlin"))
    state = berlin._recall().shared
    left = Keyring(world.home("oslo"), InstitutionSettings.load(world.home("oslo"))).genesis
    kind = read_header(old.blob).kind
    blob = Blob.parse(old.blob, left.limits, direction=AGGREGATE, kind=kind, round=old.round)
    tag = state.tag(Keyring(world.home("berlin"), berlin.settings).genesis.secret_seed)
    forged = with_words(blob, blob.words(), replace(blob.header, round=first, state_tag=tag))
    for fingerprint in (issued.genesis.fingerprint, left.fingerprint):
        request = Request(first + 1, None, left.federation, fingerprint, (Aggregate(first, forged, old.counted),))
        reply = berlin.handle(request)
        assert (reply.status, reply.code) == (Status.REFUSED, "wrong-key")
    assert berlin._recall().shared.digest == state.digest


def test_snapshots_are_whole_or_refused(world: Ceremony) -> None:
    state, federation = world.state("berlin"), b"f" * 32
    layout = Keyring(world.home("berlin"), InstitutionSettings.load(world.home("berlin"))).genesis.layout
    data = to_bytes(state, federation)
    assert of_bytes(data, federation, layout).digest == state.digest
    assert to_bytes(of_bytes(data, federation, layout), federation) == data
    with pytest.raises(ConfigError):
        of_bytes(data, b"g" * 32, layout)
    other = Layout.of((e.name, e.shape, e.kind) for e in layout.entries[:-1])
    with pytest.raises(ConfigError):
        of_bytes(data, federation, other)
    tables = sum(e.kind is Kind.TABLE for e in layout.entries)
    lies = [
        replace(state, ranges=state.ranges[:-1]),
        replace(state, ranges=-state.ranges),
        replace(state, values=np.where(np.arange(layout.size) == 3, np.nan, state.values)),
        replace(state, values=state.values.astype(np.float32)),
        replace(state, history=replace(state.history, idle=state.history.idle[1:])),
        replace(state, clear=np.zeros(3, bool)),
        replace(state, records=(Refresh(np.ones(tables, dtype=bool), state.values[:2]),)),
        replace(state, records=(Refresh(np.zeros(tables + 1, dtype=bool), state.values[:0]),)),
        replace(state, records=(Refresh(np.zeros(tables, dtype=np.uint8), state.values[:0]),)),
        replace(state, pace=Pace(np.zeros(tables + 1), np.zeros(tables + 1, dtype=np.uint32))),
        replace(state, course=Course(Best(0.5, 1, 1, state.values))),
        replace(state, course=Course(Best(float("nan"), 1, 0, state.values))),
        replace(state, course=Course(Best(0.5, 1, 0, state.values[1:]))),
        replace(state, updates=99),
    ]
    for lie in lies:
        with pytest.raises(ConfigError):
            of_bytes(to_bytes(lie, federation), federation, layout)
    for at in range(0, len(data), 97):
        altered = bytearray(data)
        altered[at] ^= 0x10
        with pytest.raises(ConfigError):
            of_bytes(bytes(altered), federation, layout)


@pytest.mark.parametrize(
    "epochs",
    [(), ((1, 1),), ((2, 0), (1, 3)), ((1, 0), (1, 3)), ((1, 3), (2, 0)), ((0, 0),)],
)
def test_tables_that_make_no_sense(epochs: tuple[tuple[int, int], ...]) -> None:
    made = tuple(Epoch(number, first, b"k" * 32) for number, first in epochs)
    with pytest.raises(ConfigError):
        EpochTable(made, b"s" * 32 if len(made) > 1 else None)
