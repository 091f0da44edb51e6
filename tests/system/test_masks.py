"""Rounds with pairwise masks: what one upload opens to, who may be missing when, and what is never told."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import structlog

import dictpfl.client.defences.reveals
from dictpfl.client.defences.masks import Masks
from dictpfl.client.institution import Institution
from dictpfl.common.ckks.keys import load_key
from dictpfl.common.ckks.opening import CKKSOpener
from dictpfl.common.ckks.parameters import GUARDS
from dictpfl.common.ckks.sealing import CKKSSealer, Sealed
from dictpfl.common.ckks.streams import SumOfStreams
from dictpfl.common.errors import ConfigError, OpeningError
from dictpfl.common.law.tags import TAGS
from dictpfl.common.messages.masks import Answer, Note, SeedsQuestion, SharesQuestion
from dictpfl.common.messages.protocol import REFUSED, Reply, Request, Stage, Status
from dictpfl.common.messages.wire import Blob, with_words
from dictpfl.common.words import add_modulo
from dictpfl.deploy.operations.status import of_institution
from dictpfl.server.agreement import Agreement
from dictpfl.server.coordinator import AGREEMENT
from tests.support.federations import encrypted
from tests.support.harness import MASK_POINTS, World, dies_after, dies_at_once, dies_before, statement
from tests.support.opened import components_of
from tests.support.opened import opened as opened_blob

pytestmark = pytest.mark.usefixtures("quiet")
VICTIM, OTHER = 2, 4


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, World]:
    folder = tmp_path_factory.mktemp("templates")
    five = {"federation__participants": 5, "federation__rounds": 3}
    return {
        "three": World.found(encrypted(federation__rounds=3, defences__masks=True), folder / "three"),
        "five": World.found(encrypted(**five, defences__masks=True), folder / "five"),
        "bare": World.found(encrypted(**five), folder / "bare"),
        "bare three": World.found(encrypted(federation__rounds=3), folder / "bare-three"),
    }


def upload_of(world: World, node: int) -> bytes:
    pending = world.record(node).pending
    assert pending is not None
    return pending.blob


def told(world: World, node: int) -> Path:
    return world.memory(node).path.with_suffix(f".{world.genesis.fingerprint.hex()[:16]}.told.json")


# What they are for


def parsed(world: World, upload: bytes) -> Blob:
    return Blob.own(upload, world.genesis.parameters.word_bits)


def opened(world: World, upload: bytes) -> np.ndarray:
    opener = CKKSOpener(load_key(world.home(0) / "federation.key"))
    return opened_blob(parsed(world, upload), opener, world.genesis.parameters)


def decoded(world: World, upload: bytes) -> np.ndarray:
    """What who has the key can make of one upload: scaled integers with their noise, as no guard has looked at them."""
    blob, opener = parsed(world, upload), CKKSOpener(load_key(world.home(0) / "federation.key"))
    seeds = [entry.seed for entry in blob.entries]
    noisy = opener._noisy(blob.words()[:-TAGS], seeds, components_of(blob, world.genesis.parameters))
    return np.concatenate([part[:-GUARDS] for part in noisy])


def correlations(world: World) -> list[float]:
    """Of each upload of the first round, as opened by another institution, with what its maker sealed."""
    true: list[np.ndarray] = []
    real = CKKSSealer.seal

    def seal(sealer: CKKSSealer, components: np.ndarray) -> Sealed:
        true.append(components)
        return real(sealer, components)

    with mock.patch.object(CKKSSealer, "seal", seal):
        world.exchange()
    return [
        float(np.corrcoef(decoded(world, upload_of(world, node)), true[node].astype(np.float64))[0, 1])
        for node in world.nodes
    ]


@pytest.mark.parametrize("masks", [True, False])
def test_who_has_the_key_and_one_upload_has_noise(masks: bool, tmp_path: Path) -> None:
    config = encrypted(
        federation__participants=5, model__options={"hidden": [1600]}, pruning__enabled=False, defences__masks=masks
    )
    world = World.found(config, tmp_path / "world")
    found = np.abs(correlations(world))
    if masks:
        assert found.mean() < 0.02  # five deviations: noise of so many components has less in common with anything
    else:
        assert found.min() > 1 - 1e-9
    world.close()


def test_a_masked_upload_alone_is_refused_and_so_is_a_part_of_the_sum(five: World) -> None:
    five.exchange()
    uploads = [upload_of(five, node) for node in five.nodes]
    words = np.zeros_like(parsed(five, uploads[0]).words())
    for blob in uploads[:-1]:
        with pytest.raises(OpeningError):
            opened(five, blob)
        add_modulo(words, parsed(five, blob).words(), five.genesis.parameters.word_prime)
    with pytest.raises(OpeningError):
        opened(five, with_words(parsed(five, uploads[0]), words))


def test_the_same_state_with_masks_and_without(undisturbed: dict[str, bytes]) -> None:
    assert undisturbed["three"] == undisturbed["bare three"]
    assert undisturbed["five"] == undisturbed["bare"]


def test_the_same_state_in_the_larger_ring(tmp_path: Path) -> None:
    changes = {"encryption__ring_degree": 8192, "federation__rounds": 2}
    found = set()
    for masks in (True, False):
        world = World.found(encrypted(**changes, defences__masks=masks), tmp_path / str(masks))
        world.run()
        found.update(world.digests())
        world.close()
    assert len(found) == 1


def test_the_sum_is_the_same_to_the_last_byte_that_institutions_open(five: World, templates: dict[str, World]) -> None:
    """Masks leave nothing behind: uploads have the lengths that they have without, and so do sums."""
    bare = templates["bare"].copy(five.folder.parent / "bare")
    for world in (five, bare):
        world.run()
    lengths = [[len(aggregate.blob) for _, aggregate in world.journal()] for world in (five, bare)]
    assert lengths[0] == lengths[1]
    bare.close()


# Who may be missing


def test_one_who_never_delivers(five: World, templates: dict[str, World]) -> None:
    reference = templates["bare"].copy(five.folder.parent / "bare")
    for world in (five, reference):
        world.run(offline=[VICTIM])
        assert [len(aggregate.counted) for _, aggregate in world.journal()] == [4, 4, 4, 4]
    assert five.record(0).shared.digest == reference.record(0).shared.digest
    reference.close()


def test_two_who_never_deliver(five: World, templates: dict[str, World]) -> None:
    reference = templates["bare"].copy(five.folder.parent / "bare")
    for world in (five, reference):
        world.run(offline=[VICTIM, OTHER])
    assert five.record(0).shared.digest == reference.record(0).shared.digest
    reference.close()


def until(world: World, stage: Stage, **options: Any) -> None:
    """Exchange until the next one is of this stage."""
    for _ in range(6):
        if world.coordinator._unmasking.waiting and world.coordinator._unmasking.stage is stage:
            return
        world.exchange(**options)
    raise AssertionError(stage)


def test_one_who_delivered_and_never_tells(five: World, undisturbed: dict[str, bytes]) -> None:
    """Its own mask comes off by shares of it; it is in the sum."""
    until(five, Stage.SHARES)
    five.exchange(offline=[VICTIM])
    assert [len(aggregate.counted) for _, aggregate in five.journal()] == [5]
    five.run()
    assert five.digest() == undisturbed["five"]


def test_two_who_delivered_and_never_tell(five: World, undisturbed: dict[str, bytes]) -> None:
    until(five, Stage.SHARES)
    five.exchange(offline=[VICTIM, OTHER])
    assert [len(aggregate.counted) for _, aggregate in five.journal()] == [5]
    five.run()
    assert five.digest() == undisturbed["five"]


def test_three_of_five_who_do_not_tell_are_waited_for(five: World, undisturbed: dict[str, bytes]) -> None:
    """Two are fewer than the threshold: the sum stays closed, and opens once one more is back."""
    until(five, Stage.SHARES)
    five.exchange(offline=[0, VICTIM, OTHER])
    assert five.journal() == []
    five.kill_coordinator()
    five.exchange(offline=[VICTIM, OTHER])
    assert [len(aggregate.counted) for _, aggregate in five.journal()] == [5]
    five.run()
    assert five.digest() == undisturbed["five"]


def test_one_missing_and_another_silent_about_it_give_the_attempt_up(five: World) -> None:
    """Streams of the missing one are known then: all uploads are masked anew, and the round loses nothing."""
    until(five, Stage.SEEDS, offline=[VICTIM])
    before = {node: upload_of(five, node) for node in (0, 1, OTHER)}
    five.exchange(offline=[OTHER, VICTIM])
    assert five.journal() == []
    five.exchange(offline=[VICTIM])
    for node, blob in before.items():
        earlier, later = parsed(five, blob), parsed(five, upload_of(five, node))
        assert later.header.attempt > earlier.header.attempt
        assert replace(later.header, attempt=earlier.header.attempt) == earlier.header
        assert later.entries == earlier.entries
        assert (later.words() != earlier.words()).mean() > 0.999
    five.run()
    five.digest()
    assert [len(aggregate.counted) for _, aggregate in five.journal()] == [4, 5, 5, 5]


def test_masking_anew_changes_nothing_below_the_masks(five: World, undisturbed: dict[str, bytes]) -> None:
    until(five, Stage.SEEDS, offline=[VICTIM])
    five.exchange(offline=[OTHER, VICTIM])
    five.run()
    assert five.digest() == undisturbed["five"], "all five delivered in the second attempt what they had trained"


# Any step of the round

STEPS = {
    "before the upload": (0, dies_at_once),
    "upload made, reply lost": (0, lambda: dies_after(Institution, "handle")),
    "before telling": (1, dies_at_once),
    "before it is noted": (1, lambda: dies_before(dictpfl.client.defences.reveals, "write_private")),
    "noted, not told": (1, lambda: dies_after(dictpfl.client.defences.reveals, "write_private")),
    "told, reply lost": (1, lambda: dies_after(Institution, "handle")),
}


@pytest.mark.parametrize("victims", [(VICTIM,), (VICTIM, OTHER)], ids=["one", "two"])
@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step(step: str, victims: Sequence[int], five: World) -> None:
    """The round completes for the others, or is asked again with nothing lost; then the next one completes with all."""
    exchange, point = STEPS[step]
    five.exchange()
    five.exchange()
    assert len(five.journal()) == 1
    for number in range(2):
        five.exchange(dict.fromkeys(victims, point) if number == exchange else {})
    while len(five.journal()) < 2:
        five.exchange()
    five.run()
    five.digest()
    counts = [len(aggregate.counted) for _, aggregate in five.journal()]
    assert counts[1] >= 3
    assert counts[0] == counts[2] == counts[3] == 5


@pytest.mark.parametrize("name", MASK_POINTS)
@pytest.mark.parametrize("offline", [(), (VICTIM,)], ids=["all there", "one missing"])
def test_the_coordinator_dies_at_its_journal(
    name: str, offline: Sequence[int], five: World, templates: dict[str, World]
) -> None:
    five.exchange()
    five.exchange()
    for _ in range(3):
        five.exchange(offline=offline, closing=statement(five, **MASK_POINTS[name]))
    five.run()
    five.digest()
    assert all(len(aggregate.counted) >= 4 for _, aggregate in five.journal())


def test_a_coordinator_that_is_started_anew_asks_by_member(five: World, undisturbed: dict[str, bytes]) -> None:
    """Its process does not know which node is which member; numbers of nodes may even have changed."""
    until(five, Stage.SHARES)
    five.kill_coordinator()
    five.run()
    assert five.digest() == undisturbed["five"]


def test_an_old_copy_of_the_journal_with_a_sum_that_waits(five: World) -> None:
    """The round was closed long ago: institutions are ahead, and the federation goes on from their state."""
    until(five, Stage.SHARES)
    older = five.folder / "older"
    five.close()
    shutil.copytree(five.coordinator_folder, older)
    for _ in range(4):
        five.exchange()
    ahead = max(five.record(node).shared.round for node in five.nodes)
    assert ahead >= 1
    five.close()
    five.coordinator_folder = older
    five.run()
    five.digest()
    assert five.record(0).shared.round > ahead


# What is never told, and never folded


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


def test_the_coordinator_refuses_uploads_without_a_note_and_of_pairs_that_differ(five: World) -> None:
    five.exchange()
    known = {node: five.record(node).pending for node in five.nodes}
    fresh = five.folder / "fresh"
    fresh.mkdir()
    shutil.copy(five.coordinator_folder / AGREEMENT, fresh / AGREEMENT)
    five.close()
    five.coordinator_folder = fresh
    coordinator = five.coordinator
    coordinator.begin(five.nodes)
    first, second, third = (known[node] for node in (0, 1, 2))
    assert first
    assert second
    assert third
    coordinator.receive(0, Reply(Status.UPLOAD, 0, 0, first.blob))
    assert coordinator.rejected[0] == "corrupt"
    coordinator.receive(1, Reply(Status.UPLOAD, 0, 0, second.blob, defence=second.defence))
    note = Note.of_bytes(third.defence)
    partners = {n: replace(p, commitment=bytes(16)) for n, p in note.partners.items()}
    wrong = replace(note, partners=partners).to_bytes()
    coordinator.receive(2, Reply(Status.UPLOAD, 0, 0, third.blob, defence=wrong))
    assert coordinator.rejected[2] == "corrupt"
    coordinator.receive(3, Reply(Status.UPLOAD, 0, 0, third.blob, defence=second.defence))
    assert coordinator.rejected[3] == "wrong-round", "the note of another member"


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


def test_a_wrong_commitment_to_a_pair_whose_other_is_missing_stalls_nothing(five: World) -> None:
    """Its stream never fits what it said, in no attempt: from the second on the round does without it, and it takes part in the next."""
    held = five.institution(VICTIM)._masks
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
            five.exchange(offline=[OTHER])
    (closed, *_) = five.coordinator._journal.rounds()
    assert closed.round == 0
    assert closed.rejected == {str(VICTIM): "corrupt"}
    five.run()
    assert five.coordinator._journal.contributors()[1][0] == 5
    five.digest()


# Bounds


@pytest.mark.parametrize(
    "changes",
    [
        {"encryption__sealer": "identity", "toy_insecure": True},
        {"federation__participants": 2},
        {"defences__mask_partners": 5},
    ],
    ids=["nothing encrypted", "two", "odd"],
)
def test_masks_where_they_cannot_be(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        encrypted(**({"defences__masks": True, "toy_insecure": True, "federation__min_participants": 2} | changes))


def test_the_coordinators_folder_knows_no_key_of_masks(five: World) -> None:
    five.run()
    data = b"".join(path.read_bytes() for path in five.coordinator_folder.iterdir())
    for node in five.nodes:
        held = five.institution(node)._masks
        assert isinstance(held, Masks)
        own = held._pairs.own
        secrets = [own.receiving.private_bytes_raw(), own.signing.private_bytes_raw(), *held._pairs.secrets.values()]
        assert all(secret not in data and secret.hex().encode() not in data for secret in secrets)
    assert Agreement.load(five.coordinator_folder / AGREEMENT).masks


def test_a_circle_smaller_than_everybody(tmp_path: Path) -> None:
    """Eight institutions with four partners each, one of them missing, one silent."""
    many = {"federation__participants": 8, "federation__rounds": 2, "data__limit": 300}
    world = World.found(encrypted(**many, defences__masks=True, defences__mask_partners=4), tmp_path / "masked")
    bare = World.found(encrypted(**many), tmp_path / "bare")
    for each in (world, bare):
        each.exchange(offline=[1])
    world.exchange(offline=[1])
    world.exchange(offline=[1, 6])
    assert [len(aggregate.counted) for _, aggregate in world.journal()] == [7]
    for each in (world, bare):
        each.run()
    assert world.digest() == bare.digest()
    world.close()
    bare.close()
