"""Rounds with pairwise masks: what is never told of them, and what is never folded."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import structlog

from dictpfl.client.defences.masks import MaskContext, Masks
from dictpfl.common.ckks.streams import SumOfStreams
from dictpfl.common.errors import OpeningError
from dictpfl.common.messages.masks import Answer, Note, SeedsQuestion, SharesQuestion
from dictpfl.common.messages.protocol import REFUSED, Reply, Request, Stage, Status
from dictpfl.common.messages.sharing import combine, commitment, threshold
from dictpfl.common.messages.wire import with_words
from dictpfl.common.protection import quorum
from dictpfl.common.words import add_modulo
from dictpfl.deploy.operations.status import of_institution
from dictpfl.server.coordinator import AGREEMENT
from tests.support.federations import encrypted
from tests.support.harness import World
from tests.support.masked import OTHER, VICTIM, founded, opened, parsed, told, until, upload_of

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, World]:
    return founded(tmp_path_factory.mktemp("templates"))


def conversation(world: World, stage: Stage, defence: bytes, node: int = 0) -> Reply:
    genesis = world.genesis
    number, kind = world.coordinator._journal.next_round, world.coordinator._state.next_kind()
    request = Request(number, kind, genesis.federation, genesis.fingerprint, stage=stage, defence=defence)
    return world.institution(node).handle(request)


def notes(world: World) -> dict[int, tuple[Note, bytes]]:
    """Note and upload id by member."""
    found = {}
    for node in world.nodes:
        pending = world.record(node).pending
        if pending is not None:
            note = Note.of_bytes(pending.defence)
            found[note.member] = (note, pending.upload_id)
    return found


def question(world: World, members: Sequence[int], holder: int, **changes: Any) -> bytes:
    known = notes(world)
    shares = {m: {holder: known[m][0].partners[holder].share} for m in members if m != holder}
    ids = {m: known[m][1] for m in members}
    return replace(SharesQuestion(known[members[0]][0].attempt, ids, shares), **changes).to_bytes()


def test_a_second_sum_of_a_round_is_not_opened(five: World) -> None:
    five.exchange()
    member = notes(five)
    (own,) = (m for m in member if Note.of_bytes(five.record(0).pending.defence).member == m)  # type: ignore[union-attr]
    everybody = question(five, sorted(member), own)
    assert conversation(five, Stage.SHARES, everybody).status is Status.REVEALED
    assert conversation(five, Stage.SHARES, everybody).status is Status.REVEALED, "the same again is no harm"
    fewer = question(five, [m for m in sorted(member) if m != (own + 1) % 5], own)
    reply = conversation(five, Stage.SHARES, fewer)
    assert (reply.status, reply.code, reply.defence) == (Status.REFUSED, REFUSED, b"")
    five.kill_institution(0)
    assert conversation(five, Stage.SHARES, fewer).code == REFUSED, "it is remembered on disk"
    assert conversation(five, Stage.SEEDS, SeedsQuestion(0, ((own + 1) % 5,)).to_bytes()).code == REFUSED


def test_of_an_upload_whose_streams_were_told_the_own_mask_stays(five: World) -> None:
    five.exchange()
    own = Note.of_bytes(five.record(0).pending.defence).member  # type: ignore[union-attr]
    late = (own + 1) % 5
    reply = conversation(five, Stage.SEEDS, SeedsQuestion(0, (late,)).to_bytes())
    assert reply.status is Status.REVEALED
    answer = Answer.of_bytes(reply.defence)
    assert set(answer.others) == {late}
    assert answer.own == b""
    assert conversation(five, Stage.SHARES, question(five, range(5), own)).code == REFUSED
    without = question(five, [m for m in range(5) if m != late], own)
    answer = Answer.of_bytes(conversation(five, Stage.SHARES, without).defence)
    assert late not in answer.others


@pytest.mark.parametrize("what", ["too few", "own upload swapped", "another attempt", "nobody known", "itself missing"])
def test_questions_that_would_uncover_too_much(what: str, five: World) -> None:
    five.exchange()
    own = Note.of_bytes(five.record(0).pending.defence).member  # type: ignore[union-attr]
    ids = {m: upload for m, (_, upload) in notes(five).items()}
    others = [m for m in range(5) if m != own]
    if what == "too few":
        reply = conversation(five, Stage.SHARES, question(five, [own, others[0]], own))
    elif what == "own upload swapped":
        reply = conversation(
            five, Stage.SHARES, question(five, range(5), own, uploads=ids | {own: b"another upload!!"})
        )
    elif what == "another attempt":
        reply = conversation(five, Stage.SHARES, question(five, range(5), own, attempt=3))
    elif what == "nobody known":
        reply = conversation(five, Stage.SHARES, question(five, range(5), own, uploads=ids | {77: b"a stranger's id!"}))
    else:
        reply = conversation(five, Stage.SEEDS, SeedsQuestion(0, (own,)).to_bytes())
    assert reply.status is Status.REFUSED
    assert reply.code == REFUSED, "whoever asks learns nothing of what was wrong"
    assert reply.defence == b""
    assert not told(five, 0).exists()


def test_asking_different_halves_opens_no_second_sum(five: World) -> None:
    """A coordinator and one institution, the fifth, want the sums of {0, 1, 2, 4} and {0, 1, 3, 4}, which differ in single uploads.

    Nobody helps with two sums of a round. Those who help with one of four are so many that the others, with the fifth, are too few to take
    off the own masks of 0 and 1 once more. Sums of three, which leave more for another one, are refused.
    """
    five.exchange()
    known = notes(five)
    node = {Note.of_bytes(five.record(n).pending.defence).member: n for n in five.nodes}  # type: ignore[union-attr]
    first, second = [0, 1, 2, 4], [0, 1, 3, 4]
    assert conversation(five, Stage.SEEDS, SeedsQuestion(0, (2, 3)).to_bytes(), node[0]).code == REFUSED
    assert conversation(five, Stage.SHARES, question(five, [0, 1, 4], 0), node[0]).code == REFUSED

    def told_of(stage: Stage, member: int, defence: bytes) -> Answer:
        reply = conversation(five, stage, defence, node[member])
        assert reply.status is Status.REVEALED, (stage, member)
        return Answer.of_bytes(reply.defence)

    for member in (0, 1, 3):  # what 4 shares with the missing one it tells itself
        told_of(Stage.SEEDS, member, SeedsQuestion(0, (2,)).to_bytes())
        told_of(Stage.SHARES, member, question(five, second, member))
    told_of(Stage.SEEDS, 2, SeedsQuestion(0, (3,)).to_bytes())
    colluder = five.institution(node[4])._masks
    assert isinstance(colluder, Masks)
    context = colluder._context_of(five.record(node[4]).pending)  # type: ignore[arg-type]
    shares = {
        2: told_of(Stage.SHARES, 2, question(five, first, 2)).others,
        4: dict(colluder._shares(context, SharesQuestion.of_bytes(question(five, first, 4)))),
    }
    for maker in (0, 1):
        places = {holder: place for place, holder in enumerate(known[maker][0].partners)}
        assert threshold(len(places)) > len(shares)
        found = combine({places[holder]: some[maker] for holder, some in shares.items()})
        assert commitment(found) != known[maker][0].commitment
        refused = conversation(five, Stage.SHARES, question(five, first, maker), node[maker])
        assert refused.code == REFUSED


def test_streams_of_all_pairs_are_not_told_one_question_after_the_other(five: World) -> None:
    """All others' shares of its own mask are told of a sum that holds it: with its pairs' streams too, its upload would be bare."""
    five.exchange()
    known = notes(five)
    own = Note.of_bytes(five.record(0).pending.defence).member  # type: ignore[union-attr]
    first, *others = (m for m in known if m != own)
    assert conversation(five, Stage.SEEDS, SeedsQuestion(0, (first,)).to_bytes()).status is Status.REVEALED
    for other in others:
        assert conversation(five, Stage.SEEDS, SeedsQuestion(0, (other,)).to_bytes()).code == REFUSED
    assert (
        conversation(five, Stage.SEEDS, SeedsQuestion(0, (first,)).to_bytes()).status is Status.REVEALED
    )  # the same again


def test_streams_with_many_partners_are_not_told_where_these_are_few_of_all(tmp_path: Path) -> None:
    """Eleven with six partners each: three of all may be missing, and of partners two, or some would tell too much of one upload."""
    eleven = World.found(
        encrypted(federation__participants=11, data__limit=300, defences__masks=True, defences__mask_partners=6),
        tmp_path / "eleven",
    )
    eleven.exchange()
    known = notes(eleven)
    own = Note.of_bytes(eleven.record(0).pending.defence).member  # type: ignore[union-attr]
    partners = sorted(known[own][0].partners)
    others = sorted(set(known) - {own, *partners})
    assert conversation(eleven, Stage.SEEDS, SeedsQuestion(0, tuple(partners[:3])).to_bytes()).code == REFUSED
    for missing in (partners[:2], others[:1]):
        assert conversation(eleven, Stage.SEEDS, SeedsQuestion(0, tuple(missing)).to_bytes()).status is Status.REVEALED
    for one in (partners[2], others[1]):
        assert conversation(eleven, Stage.SEEDS, SeedsQuestion(0, (one,)).to_bytes()).code == REFUSED
    eleven.close()


@pytest.mark.parametrize("members", range(3, 40))
def test_two_sums_of_a_round_find_too_few_who_help(members: int) -> None:
    """Whoever helps with one of them, the honest ones that are left and fewer than a third that collude do not open another."""
    colluders = (members - 1) // 3
    honest, least = members - colluders, min(threshold(members - 1), quorum(members)) - colluders
    assert 2 * least > honest or quorum(members) == members
    assert threshold(members - 1) <= members - 1
    assert quorum(members) <= members


def test_too_many_said_to_be_missing(five: World) -> None:
    five.exchange()
    own = Note.of_bytes(five.record(0).pending.defence).member  # type: ignore[union-attr]
    missing = tuple(m for m in range(5) if m != own)[:3]
    assert conversation(five, Stage.SEEDS, SeedsQuestion(0, missing).to_bytes()).code == REFUSED


def test_a_late_upload_is_not_folded_and_does_not_open(five: World) -> None:
    """Its maker's partners have told the streams that they share with it: its own mask is still on it."""
    five.exchange(lost=[VICTIM])
    late = upload_of(five, VICTIM)
    pending = five.record(VICTIM).pending
    assert pending is not None
    coordinator = five.coordinator
    requests = coordinator.begin(five.nodes)
    assert {request.stage for request in requests.values()} == {Stage.SEEDS}
    seeds: dict[int, bytes] = {}
    for node, request in requests.items():
        if node == VICTIM:
            continue
        reply = five.institution(node).handle(request)
        seeds |= {Answer.of_bytes(reply.defence).member: s for s in Answer.of_bytes(reply.defence).others.values()}
        coordinator.receive(node, reply)
    coordinator.receive(VICTIM, Reply(Status.UPLOAD, 0, 0, late, defence=pending.defence))
    coordinator.close()
    five.exchange()
    ((_, aggregate),) = five.journal()
    assert len(aggregate.counted) == 4
    assert pending.upload_id not in aggregate.counted
    # All its pairs' streams, as the coordinator and whoever taps it know them by now, taken off it:
    member = Note.of_bytes(pending.defence).member
    assert len(seeds) == 4
    plus = [seed for other, seed in seeds.items() if other < member]
    minus = [seed for other, seed in seeds.items() if other > member]
    blob, prime = parsed(five, late), five.genesis.parameters.word_prime
    bare = SumOfStreams(prime, plus=plus, minus=minus).take(blob.header.words)
    add_modulo(bare, blob.words(), prime)
    with pytest.raises(OpeningError, check=lambda e: e.code in ("guard", "noise")):
        opened(five, with_words(blob, bare))
    five.run()
    five.digest()


def test_an_upload_of_an_attempt_that_was_given_up_is_not_folded(five: World) -> None:
    five.exchange(offline=[VICTIM])
    old = {node: five.record(node).pending for node in (0, 1, OTHER)}
    five.exchange(offline=[OTHER, VICTIM])
    coordinator = five.coordinator
    coordinator.begin(five.nodes)
    for node, pending in old.items():
        assert pending is not None
        coordinator.receive(node, Reply(Status.UPLOAD, 0, 0, pending.blob, defence=pending.defence))
    assert dict(coordinator.rejected) == dict.fromkeys(old, "wrong-round")
    coordinator.close()
    assert conversation(five, Stage.SEEDS, SeedsQuestion(0, (VICTIM,)).to_bytes()).status is Status.REVEALED
    five.run()
    five.digest()
    assert conversation_refused_for_old(five)


def conversation_refused_for_old(world: World) -> bool:
    """Of attempts that were given up nothing is told."""
    return conversation(world, Stage.SEEDS, SeedsQuestion(0, (VICTIM,)).to_bytes()).status is Status.REFUSED


def test_a_round_that_was_opened_takes_no_other_attempt(five: World) -> None:
    """A coordinator whose journal was lost in between: institutions do not help to open a second sum."""
    until(five, Stage.SHARES)
    older = five.folder / "older"
    five.exchange(offline=[3, OTHER, VICTIM])
    five.close()
    shutil.copytree(five.coordinator_folder, older)
    five.coordinator_folder = older
    for path in older.glob("journal.sqlite*"):
        path.unlink()
    five.coordinator._journal.give_up(0, 0)
    replies = five.exchange()
    assert {node: reply.code for node, reply in replies.items() if reply.status is Status.REFUSED} == dict.fromkeys(
        (0, 1), REFUSED
    )
    said = of_institution(five.home(0))["not_answered"]
    assert "told.json" in said, "its operator reads what can be done, and that all have to agree"
    five.close()


def test_the_coordinator_refuses_uploads_without_a_note_and_with_anothers(five: World) -> None:
    five.exchange()
    known = {node: five.record(node).pending for node in five.nodes}
    fresh = five.folder / "fresh"
    fresh.mkdir()
    shutil.copy(five.coordinator_folder / AGREEMENT, fresh / AGREEMENT)
    five.close()
    five.coordinator_folder = fresh
    coordinator = five.coordinator
    coordinator.begin(five.nodes)
    first, second, third = (known[node] for node in (0, 1, 3))
    assert first
    assert second
    assert third
    coordinator.receive(0, Reply(Status.UPLOAD, 0, 0, first.blob))
    assert coordinator.rejected[0] == "corrupt"
    coordinator.receive(1, Reply(Status.UPLOAD, 0, 0, second.blob, defence=second.defence))
    coordinator.receive(3, Reply(Status.UPLOAD, 0, 0, third.blob, defence=second.defence))
    assert coordinator.rejected[3] == "wrong-round", "the note of another member"


def misleading(five: World, liars: Mapping[int, Sequence[int]]) -> AbstractContextManager[object]:
    """Have nodes commit to another stream than theirs with each of these partners."""
    held = {id(five.institution(node)._masks): partners for node, partners in liars.items()}
    honest = Masks.note

    def misled(masks: Masks, *arguments: Any) -> bytes:
        note = Note.of_bytes(honest(masks, *arguments))
        false = {n: replace(note.partners[n], commitment=bytes(16)) for n in held.get(id(masks), ())}
        return replace(note, partners={**note.partners, **false}).to_bytes()

    return mock.patch.object(Masks, "note", misled)


@pytest.mark.parametrize("liar", [0, 4])
def test_whom_most_others_contradict_is_left_out_whoever_came_first(liar: int, five: World) -> None:
    """Not those who came after it: their notes are right, and the first one is not believed for being the first."""
    others = [node for node in five.nodes if node != liar]
    with misleading(five, {liar: others}), structlog.testing.capture_logs() as logs:
        for _ in range(4):
            five.exchange()
    (closed, *_) = five.coordinator._journal.rounds()
    assert (closed.round, closed.rejected) == (0, {str(liar): "corrupt"})
    assert len(five.journal()[0][1].counted) == 4
    assert [entry["member"] for entry in logs if "its partners have" in entry["event"]] == [liar]
    assert five.coordinator._journal.vain_attempts()[0] == [f"{liar}: corrupt"]
    five.run()
    assert five.coordinator._journal.contributors()[1][0] == 5
    five.digest()


def lefts(five: World) -> list[dict[str, str]]:
    """Play three rounds; who was left out of each, and why."""
    while len(five.journal()) < 3:
        assert five.exchanges < 25, "the rounds do not close"
        five.exchange()
    return [dict(closed.rejected) for closed in five.coordinator._journal.rounds()[:3]]


def test_of_two_that_contradict_each_other_each_has_its_turn(five: World) -> None:
    """Nobody can tell which one is wrong, so neither has the other left out for good."""
    held, honest = five.institution(VICTIM)._masks, Masks._stream

    def other(masks: Masks, partner: int, context: MaskContext) -> bytes:
        seed = honest(masks, partner, context)
        return bytes(32) if masks is held and partner == OTHER else seed

    with mock.patch.object(Masks, "_stream", other):
        assert lefts(five) == [{str(node): "corrupt"} for node in (VICTIM, OTHER, VICTIM)]


def test_who_is_left_out_takes_part_again_once_the_other_tells_what_it_did_not_commit_to(five: World) -> None:
    with misleading(five, {VICTIM: [OTHER]}):
        assert lefts(five) == [{str(VICTIM): "corrupt"}] * 3
    assert five.coordinator._journal.vain_attempts()[1][0] == f"{OTHER}: corrupt", "its turn"


def test_a_note_on_partners_that_are_nobody_stops_nobody_else(five: World) -> None:
    """They would be missing for ever, and the others refuse to tell of so many: the upload is left out, and its sender named."""
    real = Masks.note

    def note(masks: Masks, *arguments: Any) -> bytes:
        made = Note.of_bytes(real(masks, *arguments))
        nobody = dict.fromkeys(range(100, 110), made.partners[0])
        return replace(made, partners={**made.partners, **nobody}).to_bytes()

    while not five.journal():
        assert five.exchanges < 5, "the round is asked for again and again"
        five.exchange({1: lambda: mock.patch.object(Masks, "note", note)})
    (closed,) = five.coordinator._journal.rounds()
    assert (closed.round, dict(closed.rejected)) == (0, {"1": "corrupt"})
    assert len(five.journal()[0][1].counted) == 4
    five.close()


def test_false_answers_do_not_spoil_the_sum(five: World, undisturbed: dict[str, bytes]) -> None:
    until(five, Stage.SHARES)
    coordinator = five.coordinator
    requests = coordinator.begin(five.nodes)
    for node, request in requests.items():
        reply = five.institution(node).handle(request)
        answer = Answer.of_bytes(reply.defence)
        if node == VICTIM:
            reply = replace(reply, defence=replace(answer, own=bytes(32)).to_bytes())
        coordinator.receive(node, reply)
    assert coordinator.rejected == {VICTIM: "corrupt"}
    coordinator.close()
    five.run()
    assert five.digest() == undisturbed["five"]


def test_one_wrong_commitment_to_an_own_mask_stalls_nothing(five: World, undisturbed: dict[str, bytes]) -> None:
    """The seed is right, the commitment to it differs in a bit; what is in the sum is final, so the round must go on with it."""
    until(five, Stage.SHARES)
    masked = five.coordinator._unmasking._open
    own = masked.uploads[VICTIM]
    flipped = bytes([own.note.commitment[0] ^ 1]) + own.note.commitment[1:]
    masked.uploads[VICTIM] = replace(own, note=replace(own.note, commitment=flipped))
    with structlog.testing.capture_logs() as logs:
        five.exchange()
        assert five.coordinator._journal.next_round == 0  # not at once: a maker may only have answered wrongly
        five.run()
    assert [entry["members"] for entry in logs if "does not fit the seed" in entry["event"]] == [[VICTIM]]
    assert five.digest() == undisturbed["five"]


def test_a_wrong_commitment_to_a_pair_whose_other_is_missing_stalls_nothing(tmp_path: Path) -> None:
    """Its stream never fits what it said, in no attempt: from the second on the round does without it, and it takes part in the next."""
    seven = World.found(
        encrypted(federation__participants=7, data__limit=300, defences__masks=True), tmp_path / "seven"
    )
    held = seven.institution(VICTIM)._masks
    assert isinstance(held, Masks)
    honest = Masks.note

    def misled(masks: Masks, *arguments: Any) -> bytes:
        note = Note.of_bytes(honest(masks, *arguments))
        partners = dict(note.partners)
        if masks is held:
            partners[OTHER] = replace(partners[OTHER], commitment=bytes(16))
        return replace(note, partners=partners).to_bytes()

    with mock.patch.object(Masks, "note", misled):
        for _ in range(5):
            seven.exchange(offline=[OTHER])
    (closed, *_) = seven.coordinator._journal.rounds()
    assert closed.round == 0
    assert closed.rejected == {str(VICTIM): "corrupt"}
    seven.run()
    assert seven.coordinator._journal.contributors()[1][0] == 7
    seven.digest()
    seven.close()
