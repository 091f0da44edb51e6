"""Rounds with pairwise masks: what is never told of them, and what is never folded."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import structlog

from dictpfl.client.defences.agreed import signed
from dictpfl.client.defences.masks import MaskContext, Masks
from dictpfl.client.uploading import Uploads
from dictpfl.common.ckks.streams import SumOfStreams
from dictpfl.common.errors import OpeningError
from dictpfl.common.messages.masks import Answer, Note, SumQuestion
from dictpfl.common.messages.protocol import REFUSED, Reply, Request, RoundKind, Stage, Status
from dictpfl.common.messages.sharing import threshold
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
    return replace(SumQuestion(known[members[0]][0].attempt, ids, shares=shares), **changes).to_bytes()


def numbered(world: World) -> dict[int, int]:
    """Node by member."""
    found = {}
    for node in world.nodes:
        pending = world.record(node).pending
        assert pending is not None
        found[Note.of_bytes(pending.defence).member] = node
    return found


def own_of(world: World) -> int:
    """Member behind the first node, whom most questions go to."""
    return next(member for member, node in numbered(world).items() if node == 0)


def signatures(world: World, members: Sequence[int]) -> dict[int, bytes]:
    """Of those that sign a sum of these members."""
    found, node = {}, numbered(world)
    for member in members:
        reply = conversation(world, Stage.AGREE, question(world, members, member), node[member])
        if reply.status is Status.REVEALED:
            found[member] = Answer.of_bytes(reply.defence).signature
    return found


def test_a_second_sum_of_a_round_is_not_opened(five: World) -> None:
    five.exchange()
    own = own_of(five)
    everybody = question(five, range(5), own)
    reply = conversation(five, Stage.SHARES, everybody)
    assert reply.status is Status.REVEALED
    answer = Answer.of_bytes(reply.defence)
    assert answer.own == b"", "a quorum has not signed it yet"
    assert len(answer.others) == 4
    assert conversation(five, Stage.SHARES, everybody).status is Status.REVEALED, "the same again is no harm"
    members = [m for m in range(5) if m != (own + 1) % 5]
    fewer = question(five, members, own)
    for stage in (Stage.AGREE, Stage.SEEDS, Stage.SHARES):
        reply = conversation(five, stage, fewer)
        assert (reply.status, reply.code, reply.defence) == (Status.REFUSED, REFUSED, b"")
    five.kill_institution(0)
    assert conversation(five, Stage.AGREE, fewer).code == REFUSED, "it is remembered on disk"


def test_of_an_upload_whose_streams_were_told_the_own_mask_stays(five: World) -> None:
    five.exchange()
    own = own_of(five)
    late = (own + 1) % 5
    members = [m for m in range(5) if m != late]
    signed = signatures(five, members)
    without = question(five, members, own, signatures=signed)
    answer = Answer.of_bytes(conversation(five, Stage.SEEDS, without).defence)
    assert set(answer.others) == {late}
    assert answer.own == b""
    assert conversation(five, Stage.SHARES, question(five, range(5), own)).code == REFUSED
    answer = Answer.of_bytes(conversation(five, Stage.SHARES, without).defence)
    assert late not in answer.others
    assert answer.own
    assert conversation(five, Stage.SEEDS, without).code == REFUSED, "the sum is opened"


WRONG = (
    "too few", "own upload swapped", "another attempt", "nobody known", "itself missing", "not signed", "signed by too few", "by others",
    "of another sum", "twice by one",
)  # fmt: skip


@pytest.mark.parametrize("stage", [Stage.AGREE, Stage.SEEDS, Stage.SHARES])
@pytest.mark.parametrize("what", WRONG)
def test_questions_that_would_uncover_too_much(what: str, stage: Stage, five: World) -> None:
    five.exchange()
    own = own_of(five)
    ids = {m: upload for m, (_, upload) in notes(five).items()}
    others = [m for m in range(5) if m != own]
    four, another = [own, *others[:3]], [own, *others[1:]]
    signed = _signed(five, four)
    if what in WRONG[5:] and stage is Stage.AGREE:
        pytest.skip("nothing is told, and nothing has to be signed")
    made: Mapping[str, bytes] = {
        "too few": question(five, four[:3], own, signatures=_signed(five, four[:3])),
        "own upload swapped": question(five, four, own, signatures=signed, uploads=_of(ids, four) | {own: b"another upload!!"}),
        "another attempt": question(five, four, own, signatures=signed, attempt=3),
        "nobody known": question(five, four, own, signatures=signed, uploads=_of(ids, four) | {77: b"a stranger's id!"}),
        "itself missing": question(five, others, others[0], signatures=_signed(five, others)),
        "not signed": question(five, four, own),
        "signed by too few": question(five, four, own, signatures=_of(signed, four[1:])),
        "by others": question(five, four, own, signatures=_of(signed, four[1:]) | {others[3]: signed[own]}),
        "of another sum": question(five, four, own, signatures=_signed(five, another)),
        "twice by one": question(five, four, own, signatures=_of(signed, four[:3]) | {four[3]: signed[four[0]]}),
    }  # fmt: skip
    reply = conversation(five, stage, made[what])
    assert reply.status is Status.REFUSED
    assert reply.code == REFUSED, "whoever asks learns nothing of what was wrong"
    assert reply.defence == b""
    assert not told(five, 0).exists()


def _of(found: Mapping[int, bytes], members: Sequence[int]) -> dict[int, bytes]:
    return {member: found[member] for member in members if member in found}


def _signed(world: World, members: Sequence[int]) -> dict[int, bytes]:
    """Signatures of a sum's members by their keys, of which no institution is told."""
    found, node = {}, numbered(world)
    asked = SumQuestion.of_bytes(question(world, members, members[0]))
    for member in members:
        masks, pending = world.institution(node[member])._masks, world.record(node[member]).pending
        assert isinstance(masks, Masks)
        assert pending is not None
        found[member] = signed(masks._pairs, 0, RoundKind.UPDATE, asked)
    return found


@pytest.mark.parametrize("planted", [False, True], ids=["as it is", "signatures not counted"])
def test_no_upload_is_bare_when_its_maker_is_told_something_else(planted: bool, five: World) -> None:
    """The coordinator and one institution, the fifth, tell three that the third one is missing, and the third that all are there.

    All streams of its pairs are told then. Its own mask must stay: it told its own seed when it was asked about a sum of all (until 29
    November 2026), and what the fifth could open then was its upload, and nobody else's.
    """
    five.exchange()
    node, victim = numbered(five), 2
    others = [0, 1, 3, 4]
    signed_by = signatures(five, others)
    assert set(signed_by) == set(others)
    plus, minus = [], []
    for member in others:
        asked = question(five, others, member, signatures=signed_by)
        seed = Answer.of_bytes(conversation(five, Stage.SEEDS, asked, node[member]).defence).others[victim]
        (plus if victim < member else minus).append(seed)
    colluder = _of(_signed(five, range(5)), [4])
    own_word = Answer.of_bytes(conversation(five, Stage.AGREE, question(five, range(5), victim), node[victim]).defence)
    asked = question(five, range(5), victim, signatures={**colluder, victim: own_word.signature})
    faulty = mock.patch.object(Masks, "_is_agreed", return_value=True) if planted else nullcontext()
    with faulty:
        own = Answer.of_bytes(conversation(five, Stage.SHARES, asked, node[victim]).defence).own
    for member in (0, 1, 3):
        assert conversation(five, Stage.SHARES, question(five, range(5), member), node[member]).code == REFUSED
    pending = five.record(node[victim]).pending
    assert pending is not None
    blob, prime = parsed(five, pending.blob), five.genesis.parameters.word_prime
    bare = SumOfStreams(prime, plus=minus, minus=[*plus, *([own] if own else [])]).take(blob.header.words)
    add_modulo(bare, blob.words(), prime)
    if planted:
        assert opened(five, with_words(blob, bare)).size, "the attack works where signatures are not counted"
        return
    assert own == b""
    with pytest.raises(OpeningError, check=lambda e: e.code in ("guard", "noise")):
        opened(five, with_words(blob, bare))


def test_asking_different_halves_opens_no_second_sum(five: World) -> None:
    """A coordinator and one institution, the fifth, want the sums of {0, 1, 2, 4} and {0, 1, 3, 4}, which differ in single uploads.

    Each honest one signs one of the two, and without four signatures nothing is told of either.
    """
    five.exchange()
    node = numbered(five)
    first, second = [0, 1, 2, 4], [0, 1, 3, 4]
    assert set(signatures(five, second)) == set(second)
    few = signatures(five, first) | _of(_signed(five, first), [4])
    assert set(few) == {2, 4}, "zero and one have signed the other sum"
    for member in (0, 1, 2):
        for stage in (Stage.SEEDS, Stage.SHARES):
            asked = question(five, first, member, signatures=few)
            assert conversation(five, stage, asked, node[member]).code == REFUSED


def test_streams_of_all_pairs_are_not_told_one_question_after_the_other(five: World) -> None:
    """All others' shares of its own mask are told of a sum that holds it: with its pairs' streams too, its upload would be bare."""
    five.exchange()
    own = own_of(five)
    missing, *others = (m for m in range(5) if m != own)
    members = [own, *others]
    asked = question(five, members, own, signatures=signatures(five, members))
    assert conversation(five, Stage.SEEDS, asked).status is Status.REVEALED
    for other in others:
        fewer = [m for m in range(5) if m != other]
        assert conversation(five, Stage.AGREE, question(five, fewer, own)).code == REFUSED
        by_keys = question(five, fewer, own, signatures=_signed(five, fewer))
        assert conversation(five, Stage.SEEDS, by_keys).code == REFUSED
    again = Answer.of_bytes(conversation(five, Stage.SEEDS, asked).defence)
    assert set(again.others) == {missing}


def test_streams_with_many_partners_are_not_told_where_these_are_few_of_all(tmp_path: Path) -> None:
    """Eleven with six partners each: three of all may be missing, and of partners two, or some would tell too much of one upload."""
    eleven = World.found(
        encrypted(federation__participants=11, data__limit=300, defences__masks=True, defences__mask_partners=6),
        tmp_path / "eleven",
    )
    eleven.exchange()
    known = notes(eleven)
    own = own_of(eleven)
    partners = sorted(known[own][0].partners)
    others = sorted(set(known) - {own, *partners})

    def without(*missing: int) -> bytes:
        ids = {m: upload for m, (_, upload) in known.items() if m not in missing}
        return SumQuestion(known[own][0].attempt, ids).to_bytes()

    for missing in (partners[:3], [*partners[:2], *others[:2]]):
        assert conversation(eleven, Stage.AGREE, without(*missing)).code == REFUSED
    assert conversation(eleven, Stage.SHARES, without()).code == REFUSED, "in a circle nothing at all is told unsigned"
    assert conversation(eleven, Stage.AGREE, without(*partners[:2], others[0])).status is Status.REVEALED
    eleven.close()


@pytest.mark.parametrize("members", range(3, 200))
def test_of_an_attempt_one_sum_finds_a_quorum_and_one_is_opened(members: int) -> None:
    """As long as fewer than a third collude, who sign whatever they are asked to."""
    colluders, least = (members - 1) // 3, quorum(members)
    honest = members - colluders
    # Each honest one signs one sum: two sums with a quorum would need more than there are.
    assert 2 * (least - colluders) > honest
    # Who helped to open a sum of all without signatures signs no other one. A quorum of the rest leaves so few of them that with the shares
    # of those who collude no own mask comes off, of whoever is in no signed sum.
    assert members == least or members - least + colluders < threshold(members - 1)
    assert threshold(members - 1) <= members - 1


def test_too_many_said_to_be_missing(five: World) -> None:
    five.exchange()
    own = own_of(five)
    members = [own, *[m for m in range(5) if m != own][:2]]
    for stage in (Stage.AGREE, Stage.SEEDS):
        asked = question(five, members, own, signatures=_signed(five, members))
        assert conversation(five, stage, asked).code == REFUSED


def test_of_an_upload_under_an_older_key_nothing_is_told(five: World) -> None:
    """After a rotation it waits until it is made again: with seeds of the new epoch, told for it, the new one would be covered less."""
    five.exchange()
    asked, record = question(five, range(5), own_of(five)), five.record(0)
    assert record.pending is not None
    blob = parsed(five, record.pending.blob)
    older = with_words(blob, blob.words(), replace(blob.header, fingerprint=b"o" * 32))
    five.memory(0).store(replace(record, pending=replace(record.pending, blob=older)))
    for stage in (Stage.AGREE, Stage.SEEDS, Stage.SHARES):
        assert conversation(five, stage, asked).code == REFUSED
    assert not told(five, 0).exists()


def test_the_operator_reads_what_was_refused_about_masks(five: World) -> None:
    """Of too few uploads only a log said so: there is no sum that the refusal could be noted with."""
    five.exchange()
    own = own_of(five)
    assert conversation(five, Stage.SHARES, question(five, [own], own)).code == REFUSED
    assert "a sum of 1 uploads, this institution opens 4 or more" in of_institution(five.home(0))["not_answered"]


def test_a_late_upload_is_not_folded_and_does_not_open(five: World) -> None:
    """Its maker's partners have told the streams that they share with it: its own mask is still on it."""
    five.exchange(lost=[VICTIM])
    late = upload_of(five, VICTIM)
    pending = five.record(VICTIM).pending
    assert pending is not None
    five.exchange(offline=[VICTIM])  # the others sign what is in the sum
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
    here = [pending for node in five.nodes if node != VICTIM and (pending := five.record(node).pending) is not None]
    given_up = SumQuestion(0, {Note.of_bytes(one.defence).member: one.upload_id for one in here}).to_bytes()
    assert conversation(five, Stage.AGREE, given_up).status is Status.REVEALED
    five.run()
    five.digest()
    assert conversation(five, Stage.AGREE, given_up).status is Status.REFUSED, (
        "of attempts that were given up nothing is told"
    )


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


@pytest.mark.parametrize("restarted", [False, True], ids=["coordinator goes on", "coordinator started anew"])
@pytest.mark.parametrize("beside", [0, 8], ids=["whole id", "mark alone"])
def test_who_takes_anothers_id_costs_it_nothing(beside: int, restarted: bool, five: World) -> None:
    """Questions of an attempt that is given up tell ids; an institution that lets it fail uploads under another's, and before it.

    The coordinator knows whose id it was. One that was started in between does not: the other is left out, and owes what it trained.
    """
    liar, other = 0, 1
    until(five, Stage.SEEDS, offline=[VICTIM])
    five.exchange(offline=[liar, VICTIM])
    pending, first = five.record(other).pending, five.record(liar).pending
    assert pending is not None
    assert first is not None
    five.kill_institution(liar)
    for path in (five.memory(liar).path, told(five, liar)):
        path.unlink()
    taken = pending.upload_id[: 16 - beside] + bytes(beside)
    if restarted:
        five.kill_coordinator()
    five.exchange({liar: lambda: mock.patch.object(Uploads, "_upload_id", return_value=taken)})
    while not five.journal():
        assert five.exchanges < 12, "the round is asked for again and again"
        five.exchange()
    five.exchange()
    ((_, aggregate),) = five.journal()
    members = {entry.member: entry.upload_id for entry in parsed(five, aggregate.blob).entries}
    held, lied = (Note.of_bytes(one.defence).member for one in (pending, first))
    assert (members.get(held), members.get(lied)) == ((None, taken) if restarted else (pending.upload_id, None))
    record = five.record(other)
    assert record.shared.round == 1
    owed = pending.missed if restarted else pending.counted
    np.testing.assert_array_equal(record.residual.values, owed.values)
    five.run()
    five.digest()


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
        for _ in range(5):
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


def test_nobody_answers_in_anothers_name(five: World) -> None:
    """Questions tell signatures: with another's, an answer would take the place of that one's own, whose node is not asked any more."""
    until(five, Stage.SHARES, offline=[OTHER])
    coordinator = five.coordinator
    requests = coordinator.begin([0, 1, VICTIM, 3])
    replies = {node: five.institution(node).handle(request) for node, request in requests.items()}
    member = Answer.of_bytes(replies[VICTIM].defence).member
    for node, reply in replies.items():
        coordinator.receive(node, reply)
    signature = SumQuestion.of_bytes(requests[0].defence).signatures[member]
    false = Answer(member, b"", {}, signature).to_bytes()
    coordinator.receive(0, replace(replies[0], defence=false))
    assert coordinator.rejected == {0: "wrong-member"}
    masked = coordinator._unmasking._open
    assert (masked.uploads[member].node, bool(masked.told[member].own)) == (VICTIM, True)
    coordinator.close()
    five.run()
    five.digest()


@pytest.mark.parametrize("offline", [(), (OTHER,), (OTHER, 5)], ids=["all there", "one missing", "two missing"])
def test_a_wrong_signature_counts_for_nothing(offline: Sequence[int], tmp_path: Path) -> None:
    """With it taken for one, no institution would find a quorum of five, again and again."""
    seven = World.found(
        encrypted(federation__participants=7, data__limit=300, defences__masks=True), tmp_path / "seven"
    )
    held, honest = seven.institution(VICTIM)._masks, signed
    assert isinstance(held, Masks)

    def wrong(pairs: Any, *arguments: Any) -> bytes:
        return bytes(64) if pairs is held._pairs else honest(pairs, *arguments)

    with mock.patch("dictpfl.client.defences.masks.signed", wrong), structlog.testing.capture_logs() as logs:
        for _ in range(6):
            seven.exchange(offline=offline)
    assert {entry["node"] for entry in logs if "answer about masks left out" in entry["event"]} == {VICTIM}
    if len(offline) < 2:  # six or seven sign
        (closed, *_) = seven.coordinator._journal.rounds()
        assert closed.round == 0
        assert len(seven.journal()[0][1].counted) == 7 - len(offline)
    else:
        assert seven.journal() == [], "four right ones are too few"
    seven.run()
    assert seven.coordinator._journal.next_round > 1
    seven.digest()
    seven.close()


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
        for _ in range(7):
            seven.exchange(offline=[OTHER])
    (closed, *_) = seven.coordinator._journal.rounds()
    assert closed.round == 0
    assert closed.rejected == {str(VICTIM): "corrupt"}
    seven.run()
    assert seven.coordinator._journal.contributors()[1][0] == 7
    seven.digest()
    seven.close()
