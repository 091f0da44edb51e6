"""A journal that was lost while a sum went out: institutions stand one round apart, and one of them may lie."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from dictpfl.client.defences.sums import Sums as Opened
from dictpfl.client.memory.record import Record
from dictpfl.common.errors import RoundError
from dictpfl.common.messages.protocol import REFUSED, Aggregate, Request, Status, Wish
from dictpfl.common.messages.wire import Blob, read_entries, read_header, with_words
from dictpfl.deploy.operations.status import of_institution
from dictpfl.server.agreement import Agreement
from dictpfl.server.coordinator import AGREEMENT
from dictpfl.server.journal import Journal
from dictpfl.server.troubles import trouble
from tests.support.federations import encrypted
from tests.support.harness import World

pytestmark = pytest.mark.usefixtures("quiet")
LIAR = 3
FOUR = {"federation__participants": 4, "federation__rounds": 4}
DEFENDED = {"defences__masks": True, "defences__integrity": True}


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, World]:
    folder = tmp_path_factory.mktemp("templates")
    return {
        "defended": World.found(encrypted(**FOUR, **DEFENDED), folder / "defended"),
        "bare": World.found(encrypted(**FOUR), folder / "bare"),
    }


@pytest.fixture
def four(templates: dict[str, World], tmp_path: Path) -> World:
    return templates["defended"].copy(tmp_path / "world")


def operator(world: World, **choice: object) -> None:
    """What `dictpfl run` writes into the coordinator's half before it starts the coordinator."""
    world.close()
    path = world.coordinator_folder / AGREEMENT
    replace(Agreement.load(path), **choice).save(path)  # type: ignore[arg-type]


def apart(world: World, behind: tuple[int, ...], least: int = 2) -> int:
    """Play until round `least` is closed, hand its sum to all but those `behind`, and lose the journal; return the newest position."""
    while world.coordinator._journal.next_round <= least:
        world.exchange()
    world.exchange(offline=behind)
    world.close()
    world._generation += 1
    fresh = world.folder / f"coordinator-new-{world._generation}"
    fresh.mkdir(mode=0o700)
    shutil.copy(world.coordinator_folder / AGREEMENT, fresh / AGREEMENT)
    world.coordinator_folder = fresh
    number = least + 1
    assert positions(world) == {node: number - (node in behind) for node in world.nodes}
    return number


def at_home(world: World, node: int) -> tuple[int, str]:
    """Round and words of a state as the institution's own operator reads them, without a coordinator."""
    standing = of_institution(world.home(node))
    assert standing["state_words"]
    return standing["round"], standing["state_words"]


def stopped(world: World) -> str:
    """Run until the operator has to say what now; return what `status` tells."""
    with pytest.raises(RoundError) as stop:
        world.run(most=8)
    assert str(stop.value) == trouble(world.coordinator._journal)
    return str(stop.value)


class Sums:
    """All sums that institutions are sent, by round, and all uploads that they send."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened: dict[int, set[bytes]] = {}
        self.applied: list[tuple[int, int]] = []
        real = Opened.opened

        def opened(sums: Opened, record: Record, aggregate: Aggregate, following: bytes) -> object:
            done = real(sums, record, aggregate, following)
            self.opened.setdefault(aggregate.round, set()).add(aggregate.blob)
            self.applied.append((id(sums), aggregate.round))
            return done

        monkeypatch.setattr(Opened, "opened", opened)


@pytest.fixture
def sums(monkeypatch: pytest.MonkeyPatch) -> Sums:
    return Sums(monkeypatch)


def positions(world: World) -> Mapping[int, int]:
    return {node: world.record(node).shared.round for node in world.nodes}


def forge(world: World, node: int, number: int) -> bytes:
    """A member writes a state of its own into its memory, of a later round; return that state's digest."""
    record = world.record(node)
    shared = replace(record.shared, round=number, values=record.shared.values + 1.0)
    world.memory(node).store(replace(record, shared=shared, pending=None))
    return shared.digest


def test_a_liar_ahead_of_an_honest_split_is_not_adopted(four: World) -> None:
    """10 / 9 / 10 and a liar at 14: no state has a majority, and the operator types what the liar says."""
    number = apart(four, behind=(1,))
    forged = forge(four, LIAR, number + 4)
    before = {node: four.record(node).shared.digest for node in (0, 1, 2)}
    operator(four, restart_from=number + 4)
    with suppress(RoundError):
        four.run(most=8)
    after = {node: four.record(node).shared.digest for node in (0, 1, 2)}
    assert forged not in after.values(), "the forged state was adopted"
    assert after == before
    text = stopped(four)
    for node in four.nodes:
        assert f"round {at_home(four, node)[0]}, {at_home(four, node)[1]}" in text, (
            "the table has what each reads at home"
        )
    assert "--from-institutions ROUND --digest WORDS" in text, "and names no round"


def test_with_the_digest_of_the_honest_the_federation_goes_on_and_the_liar_stays_out(four: World, sums: Sums) -> None:
    number = apart(four, behind=(1,))
    forge(four, LIAR, number + 4)
    said = at_home(four, 0)
    assert said == at_home(four, 2)
    operator(four, restart_from=said[0], restart_digest=said[1])
    four.run()
    honest = {four.record(node).shared.digest for node in (0, 1, 2)}
    assert len(honest) == 1
    assert four.record(0).shared.updates == 4
    assert {number: len(blobs) for number, blobs in sums.opened.items() if len(blobs) > 1} == {}


@pytest.mark.parametrize("protection", ["defended", "bare"])
@pytest.mark.parametrize("behind", [(1, 2, 3), (2, 3), (1,)], ids=["10 9 9 9", "10 10 9 9", "10 10 10 9"])
def test_what_the_last_sum_reached_is_gone_on_from(
    behind: tuple[int, ...], protection: str, templates: dict[str, World], tmp_path: Path, sums: Sums
) -> None:
    """The coordinator died while a sum went out: those who lack it are sent that sum by way of those who have it."""
    world = templates[protection].copy(tmp_path / "world")
    number = apart(world, behind)
    files = {node: sorted(path.name for path in world.memory(node).path.parent.iterdir()) for node in world.nodes}
    operator(world, restart_from=0)
    assert at_home(world, 0)[1] in stopped(world)
    (chosen, words) = at_home(world, 0)
    assert chosen == number
    operator(world, restart_from=chosen, restart_digest=words)
    world.run()
    world.digest()
    assert world.record(0).shared.updates == 4
    assert all(len(blobs) == 1 for blobs in sums.opened.values()), "two sums of one round were opened"
    assert len(sums.applied) == len(set(sums.applied)), "a round was applied twice"
    counted = [entry.upload_id for blobs in sums.opened.values() for blob in blobs for entry in read_entries(blob)]
    assert len(counted) == len(set(counted)), "an upload was opened in two sums"
    for node in world.nodes:
        assert set(files[node]) <= {path.name for path in world.memory(node).path.parent.iterdir()}
        assert not world.events(node, "jumped"), "nobody needed a snapshot"
    world.close()


@pytest.mark.parametrize("behind", [(1, 2, 3), (2, 3), (1,)], ids=["10 9 9 9", "10 10 9 9", "10 10 10 9"])
def test_where_one_person_is_all_parties_the_same_goes_on_by_itself(
    behind: tuple[int, ...], four: World, sums: Sums
) -> None:
    apart(four, behind)
    four.run()
    four.digest()
    assert all(len(blobs) == 1 for blobs in sums.opened.values())


def test_a_copy_of_the_journal_that_lacks_the_last_round(four: World, sums: Sums) -> None:
    """Three stand where it ends, and open no other sum of that round than the one that the fourth has."""
    while four.coordinator._journal.next_round < 1:
        four.exchange()
    four.close()
    older = shutil.copytree(four.coordinator_folder, four.folder / "older")
    while four.coordinator._journal.next_round < 2:
        four.exchange()
    four.exchange(offline=[1, 2, 3])
    four.close()
    four.coordinator_folder = older
    assert positions(four) == {0: 2, 1: 1, 2: 1, 3: 1}
    operator(four, restart_from=0)
    text = stopped(four)
    for node in four.nodes:
        assert at_home(four, node)[1] in text
    operator(four, restart_from=2, restart_digest=at_home(four, 0)[1])
    four.run()
    four.digest()
    assert all(len(blobs) == 1 for blobs in sums.opened.values())


def test_a_state_that_one_has_gone_on_from_is_not_gone_on_from_again(four: World) -> None:
    """Three hold it and tell masks of one sum only, which the fourth has: their round gets no second sum, and the text says so."""
    number = apart(four, behind=(1, 2, 3))
    held, words = at_home(four, 1)
    assert held == number - 1
    for choice in ({"restart_digest": words}, {}):
        operator(four, restart_from=held, restart_digest="")
        operator(four, restart_from=held, **choice)
        text = stopped(four)
        assert f"has the sum that leads from {words} to its own state" in text
        assert "dictpfl coordinator exclude NAME" in text
        assert four.coordinator._journal.next_round == 0


def test_two_of_four_need_the_digest_and_the_electorate_never_shrinks(four: World) -> None:
    """Two and two: half is no majority, also when those who hold the other state do not answer the second time."""
    number = apart(four, behind=(2, 3))
    operator(four, restart_from=number)
    four.exchange()
    with pytest.raises(RoundError, match="--digest WORDS"):
        four.exchange(offline=[2, 3])
    assert four.coordinator._journal.next_round == 0


def altered(world: World, node: int) -> None:
    """A member changes one word of the sum that it hands on, and writes a digest that fits."""
    memory, shared = world.memory(node), world.record(node).shared
    true = memory.last_sum(shared)
    assert true
    blob = Blob.own(true.blob, world.genesis.parameters.word_bits)
    words = blob.words()
    words[0] = (words[0] + 1) % world.genesis.parameters.word_prime
    memory.keep_sum(replace(true, blob=with_words(blob, words)), shared)


def test_of_two_sums_that_lead_to_one_state_none_is_handed_on(four: World) -> None:
    """Who sent the false one is left out, and the others go on."""
    number = apart(four, behind=(2, 3))
    altered(four, 1)
    operator(four, restart_from=number, restart_digest=at_home(four, 0)[1])
    stopped(four)
    assert four.coordinator._journal.next_round == 0
    four.run(offline=[1])
    assert four.record(0).shared.digest == four.record(2).shared.digest


def test_a_sum_that_is_handed_on_is_checked_as_any_sum(four: World) -> None:
    number = apart(four, behind=(1, 2, 3))
    altered(four, 0)
    operator(four, restart_from=number, restart_digest=at_home(four, 0)[1])
    for _ in range(2):
        four.exchange()
    assert four.coordinator._journal.next_round == number
    replies = four.exchange()
    for node in (1, 2, 3):
        assert (replies[node].status, replies[node].code) == (Status.REFUSED, REFUSED)
        assert four.record(node).shared.round == number - 1


def test_what_has_not_the_form_of_a_sum_is_left_out(four: World) -> None:
    number = apart(four, behind=(2, 3))
    memory, shared = four.memory(1), four.record(1).shared
    true = memory.last_sum(shared)
    assert true
    assert memory.last_sum(four.record(2).shared) is None, "only that which led to this very state"
    memory.keep_sum(replace(true, blob=true.blob[:-1]), shared)
    operator(four, restart_from=number, restart_digest=at_home(four, 0)[1])
    four.run()
    four.digest()


def test_only_who_asks_for_no_upload_and_for_a_state_is_sent_the_last_sum(four: World) -> None:
    number = apart(four, behind=(1,))
    genesis = four.genesis

    def asked(wish: Wish) -> bytes:
        request = Request(number, None, genesis.federation, genesis.fingerprint, wish=wish)
        return four.institution(0).handle(request).blob

    assert asked(Wish.NOTHING) == b""
    assert read_header(asked(Wish.HEADER)).round == number - 1


def test_a_sum_that_its_disk_spoiled_is_not_handed_on(four: World) -> None:
    apart(four, behind=(1,))
    memory, shared = four.memory(0), four.record(0).shared
    path = memory.path.with_suffix(".sum")
    assert memory.last_sum(shared)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    assert memory.last_sum(shared) is None
    path.unlink()
    assert memory.last_sum(shared) is None


def test_the_restart_is_one_transaction(four: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in the middle, the coordinator has neither the sum nor the state, and asks again."""
    number = apart(four, behind=(1, 2, 3))
    operator(four, restart_from=number, restart_digest=at_home(four, 0)[1])
    four.exchange()
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "_keep_snapshot", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            four.exchange()
    four.close()
    assert four.coordinator._journal.next_round == 0
    four.run()
    four.digest()
