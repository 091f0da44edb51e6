"""A coordinator that does not follow the protocol, played here: what it does is found out, and the evidence convinces others."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from dictpfl.client.defences.evidence import EVIDENCE, Evidence
from dictpfl.client.defences.pairs import OwnKeys
from dictpfl.client.memory.record import Pending
from dictpfl.common.ckks.polynomials import data_prime
from dictpfl.common.errors import EvidenceError, IntegrityError
from dictpfl.common.law.members import Roster
from dictpfl.common.law.tags import TAGS
from dictpfl.common.messages.manifest import Manifest, joined, separated
from dictpfl.common.messages.masks import SumQuestion
from dictpfl.common.messages.protocol import REFUSED, VOID, Aggregate, Reply, Request, RoundKind, Status
from dictpfl.common.messages.wire import read_header
from dictpfl.common.words import Words, add_modulo, to_words
from dictpfl.deploy.ceremony.evidence import judge
from dictpfl.deploy.cli import app
from dictpfl.server.agreement import Agreement
from dictpfl.server.coordinator import AGREEMENT
from tests.support.crooked import Part, summed, total
from tests.support.federations import encrypted, tiny
from tests.support.harness import World

pytestmark = pytest.mark.usefixtures("quiet")
FIVE: dict[str, Any] = {
    "federation__participants": 5, "federation__rounds": 3, "model__options": {"hidden": [512]}, "pruning__enabled": False, "decomposition__enabled": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, World]:
    """Uploads of two ciphertexts or more, so that there is an order in them."""
    folder = tmp_path_factory.mktemp("templates")
    return {
        "five": World.found(encrypted(**FIVE, defences__integrity=True), folder / "five"),
        "bare": World.found(encrypted(**FIVE), folder / "bare"),
        "both": World.found(encrypted(**FIVE, defences__integrity=True, defences__masks=True), folder / "both"),
    }


def test_the_same_state_with_integrity_and_without(undisturbed: dict[str, bytes]) -> None:
    assert undisturbed["five"] == undisturbed["both"] == undisturbed["bare"]


@dataclass
class Server:
    """Holds the uploads of round 1 and of round 0, and everything that the coordinator has."""

    world: World
    old: dict[int, Pending]
    now: dict[int, Pending]

    def parts(self) -> list[Part]:
        return [self.part(pending) for pending in self.now.values()]

    def part(self, pending: Pending) -> Part:
        return Part.of(pending, self.world.genesis.parameters.word_bits)

    def aggregate(
        self, parts: Sequence[Part], named: Sequence[Part] | None = None, manifests: Sequence[Manifest] | None = None
    ) -> Aggregate:
        """The sum of these uploads, under these names, beside these manifests; by default all three agree."""
        return self.of_words(total(self.world.genesis.parameters, parts), named or parts, manifests)

    def of_words(self, words: Words, named: Sequence[Part], manifests: Sequence[Manifest] | None = None) -> Aggregate:
        signed = [part.manifest for part in named if part.manifest] if manifests is None else manifests
        return summed(read_header(self.now[0].blob), self.world.genesis.parameters, words, named, signed)

    def manifests(self) -> list[Manifest]:
        return [part.manifest for part in self.parts() if part.manifest]

    def honest(self) -> Aggregate:
        return self.aggregate(self.parts())


def held(world: World) -> Server:
    world.exchange()
    old = {node: world.record(node).pending for node in world.nodes}
    requests = world.coordinator.begin(world.nodes)
    for node, request in requests.items():
        assert world.institution(node).handle(request).status is Status.UPLOAD
    now = {node: world.record(node).pending for node in world.nodes}
    return Server(world, {n: p for n, p in old.items() if p}, {n: p for n, p in now.items() if p})


@pytest.fixture
def server(five: World) -> Server:
    return held(five)


@pytest.fixture
def bare(templates: dict[str, World], tmp_path: Path) -> Iterator[Server]:
    world = templates["bare"].copy(tmp_path / "bare")
    yield held(world)
    world.close()


def dropped(server: Server) -> Aggregate:
    """Named, and not in the sum."""
    return server.aggregate(server.parts()[:4], server.parts())


def dropped_and_said(server: Server) -> Aggregate:
    """A sum of four, beside what five have signed."""
    return server.aggregate(server.parts()[:4], manifests=server.manifests())


def repeated(server: Server) -> Aggregate:
    """One twice, another not at all, all named once: numbers fit."""
    parts = server.parts()
    return server.aggregate([*parts[:4], parts[0]], parts)


def reordered(server: Server) -> Aggregate:
    """The words behind the ledger's in another order, in one upload."""
    first, *others = server.parts()
    turned = first.words.copy()
    turned[100:-TAGS] = turned[100:-TAGS][::-1]
    return server.aggregate([replace(first, words=turned), *others], server.parts())


def altered(server: Server) -> Aggregate:
    """A plaintext of the coordinator's own making on top of the sum: it needs no key for that, and nothing looks damaged."""
    parameters = server.world.genesis.parameters
    words = total(parameters, server.parts())
    own = np.full(10, 3 << parameters.scale_bits, dtype=np.uint64)
    add_modulo(words[100:110], to_words(own, data_prime(parameters), parameters.word_prime), parameters.word_prime)
    return server.of_words(words, server.parts())


def flipped(server: Server, place: int) -> Aggregate:
    """A bit of a word of the sum, whose digest is made anew."""
    words = total(server.world.genesis.parameters, server.parts())
    words[place] ^= np.uint64(1)
    return server.of_words(words, server.parts())


def another_entry(server: Server, **changes: Any) -> Aggregate:
    """The right sum, with an upload named otherwise than it was sent, in the entry alone."""
    parts = server.parts()
    renamed = replace(parts[4], entry=replace(parts[4].entry, **changes))
    return server.aggregate(parts, [*parts[:4], renamed], server.manifests())


def invented(server: Server) -> Aggregate:
    """An institution's name under what it has not signed."""
    manifests = server.manifests()
    forged = replace(manifests[4], digest=bytes(32)).signed(Ed25519PrivateKey.generate())
    return server.aggregate(server.parts(), manifests=[*manifests[:4], forged])


def invented_member(server: Server) -> Aggregate:
    parts = server.parts()
    assert parts[0].manifest
    entry = replace(parts[0].entry, member=5)
    forged = replace(parts[0].manifest, member=5).signed(Ed25519PrivateKey.generate())
    return server.aggregate(parts, [*parts[1:], Part(entry, parts[0].words, forged)])


def invented_content(server: Server) -> Aggregate:
    """An upload in the sum that nobody made, in place of one that is named: another's under its name."""
    parts = server.parts()
    return server.aggregate([*parts[:4], replace(parts[4], words=parts[3].words)], parts)


def before(server: Server) -> Part:
    """The fourth institution's upload of the round before, as long as this round's."""
    old, now = server.part(server.old[4]), server.parts()[4]
    return replace(old, words=np.resize(old.words, now.words.shape))


def cross_round(server: Server) -> Aggregate:
    """An upload of the round before, with its own manifest."""
    return server.aggregate([*server.parts()[:4], before(server)])


def cross_round_content(server: Server) -> Aggregate:
    """The ciphertexts of the round before under this round's manifest."""
    parts = server.parts()
    return server.aggregate([*parts[:4], replace(parts[4], words=before(server).words)], parts)


def cross_federation(server: Server) -> Aggregate:
    """What a member has signed for another federation that it is in."""
    now, key = server.manifests(), server.world.institution(4)._integrity
    assert key is not None
    other = replace(now[4], federation=b"another federation, same members").signed(key.pairs.own.signing)
    return server.aggregate(server.parts(), manifests=[*now[:4], other])


def no_manifests(server: Server) -> Aggregate:
    return replace(server.honest(), manifests=b"")


def cut(server: Server) -> Aggregate:
    whole = server.honest()
    return replace(whole, manifests=whole.manifests[:-1])


PLAYED: dict[str, tuple[Callable[[Server], Aggregate], str, bool]] = {
    "dropped": (dropped, "tag", True),
    "dropped, and said so": (dropped_and_said, "count", False),
    "repeated": (repeated, "tag", True),
    "reordered": (reordered, "tag", True),
    "altered": (altered, "tag", True),
    "a bit of a word": (lambda server: flipped(server, 7), "tag", True),
    "a bit of the last word before the tags": (lambda server: flipped(server, -TAGS - 1), "tag", True),
    "a bit of a tag": (lambda server: flipped(server, -1), "tag", True),
    "a seed, which is every value's": (lambda server: another_entry(server, seed=bytes(32)), "tag", True),
    "an upload's id": (lambda server: another_entry(server, upload_id=bytes(16)), "count", False),
    "invented": (invented, "invented", False),
    "invented content": (invented_content, "tag", True),
    "of another round": (cross_round, "cross-round", False),
    "of another round, under a good manifest": (cross_round_content, "tag", True),
    "of another federation": (cross_federation, "cross-federation", False),
    "no manifests": (no_manifests, "count", True),
    "manifests cut": (cut, "form", False),
}
"""What is played, the reason that is found, and whether it takes a key to see it."""
BARE = [name for name, (_, reason, _) in PLAYED.items() if reason == "tag"] + ["an upload's id", "of another round"]
"""What is found by tags alone, without manifests."""


def ask(world: World, node: int, aggregate: Aggregate) -> Reply:
    genesis = world.genesis
    request = Request(2, RoundKind.UPDATE, genesis.federation, genesis.fingerprint, (aggregate,))
    return world.institution(node).handle(request)


def test_the_honest_sum_is_applied(server: Server) -> None:
    for node in server.world.nodes:
        assert ask(server.world, node, server.honest()).status is Status.UPLOAD
    assert not list(server.world.folder.glob(f"institutions/*/{EVIDENCE}"))


@pytest.mark.parametrize("name", PLAYED)
def test_what_a_coordinator_may_try(name: str, server: Server) -> None:
    """The sum is refused everywhere, evidence is kept, and whoever looks at it finds the same; again, the round is void."""
    play, reason, inside = PLAYED[name]
    world, made = server.world, play(server)
    earlier = [world.record(node).shared for node in world.nodes]
    for node in world.nodes:
        reply = ask(world, node, made)
        assert (reply.status, reply.code) == (Status.REFUSED, REFUSED), "whoever asks learns nothing of what was wrong"
        (path,) = (world.home(node) / EVIDENCE).iterdir()
        assert path.name.startswith(f"round-000001-{reason}-")
        if inside:
            with pytest.raises(EvidenceError, match="without a key"):
                judge(path)
        else:
            assert judge(path).reason == reason
        if name != "no manifests":
            assert judge(path, world.home((node + 1) % 5)).reason == reason, "another institution finds the same"
    assert [world.record(node).shared.digest for node in world.nodes] == [state.digest for state in earlier]
    for node in world.nodes:
        assert (reply := ask(world, node, made)).status is Status.UPLOAD, "what comes again makes the round void"
        assert reply.code == VOID
        assert len(list((world.home(node) / EVIDENCE).iterdir())) == 1, "the same sum is not written down twice"
        assert world.record(node).shared.digest == earlier[node].void(score=False).digest


@pytest.mark.parametrize("name", BARE)
def test_tags_alone_find_it(name: str, bare: Server) -> None:
    """In a federation without manifests; nobody keeps evidence there, for nobody outside could check it."""
    world, made = bare.world, PLAYED[name][0](bare)
    earlier = [world.record(node).shared for node in world.nodes]
    for node in world.nodes:
        reply = ask(world, node, made)
        assert (reply.status, reply.code) == (Status.REFUSED, REFUSED)
        assert world.record(node).shared.digest == earlier[node].digest
        assert world.events(node, "refused") == [("refused", 1)]
        assert ask(world, node, made).code == VOID
        assert world.record(node).shared.digest == earlier[node].void(score=False).digest
    assert not list(world.folder.glob(f"institutions/*/{EVIDENCE}"))


@pytest.mark.parametrize("play", [invented_member, lambda server: server.aggregate(server.parts()[:2])])
def test_a_sum_of_others_than_enough_members_never_counts(play: Callable[[Server], Aggregate], server: Server) -> None:
    """Neither of too few for this institution nor of some that are no members: it is not void either, however often it comes."""
    made = play(server)
    digest = server.world.record(0).shared.digest
    for _ in range(2):
        reply = ask(server.world, 0, made)
        assert (reply.status, reply.code) == (Status.REFUSED, REFUSED)
    (path,) = (server.world.home(0) / EVIDENCE).iterdir()
    assert path.name.startswith("round-000001-members-")
    assert server.world.record(0).shared.digest == digest


def test_one_named_twice_is_no_sum(server: Server) -> None:
    """Everybody can see that, so that it counts as no refused sum, and the honest one is applied."""
    parts = server.parts()
    reply = ask(server.world, 0, server.aggregate([*parts[:4], parts[0]]))
    assert (reply.status, reply.code) == (Status.REFUSED, "duplicate")
    assert not (server.world.home(0) / EVIDENCE).exists()
    assert ask(server.world, 0, server.honest()).status is Status.UPLOAD


def test_of_one_round_one_sum_is_tried(server: Server) -> None:
    """After a wrong one the honest one is not opened either: two sums of a round would give their difference."""
    assert ask(server.world, 0, altered(server)).code == REFUSED
    reply = ask(server.world, 0, server.honest())
    assert (reply.status, reply.code) == (Status.REFUSED, REFUSED)
    assert ask(server.world, 0, altered(server)).code == VOID


def kept(server: Server, name: str = "altered") -> Path:
    ask(server.world, 0, PLAYED[name][0](server))
    (path,) = (server.world.home(0) / EVIDENCE).iterdir()
    return path


def test_the_command_says_so(server: Server) -> None:
    path = kept(server)
    done = CliRunner().invoke(app, ["audit", "verify", str(path), "--institution", str(server.world.home(1))])
    assert done.exit_code == 0, done.output
    assert "right to refuse" in done.output
    assert "tag" in done.output


def test_evidence_cannot_be_altered_or_made_up(server: Server) -> None:
    path = kept(server)
    document = json.loads(path.read_bytes())
    for field, value in (("round", 3), ("member", 1), ("sha256", ""), ("manifests", ""), ("reason", "invented")):
        path.write_text(json.dumps({**document, field: value}), encoding="utf-8")
        with pytest.raises(EvidenceError, match="altered"):
            judge(path, server.world.home(1))
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(EvidenceError):
        judge(path)


def test_evidence_against_an_honest_sum_convinces_nobody(server: Server) -> None:
    integrity = server.world.institution(0)._integrity
    assert integrity is not None
    path = integrity.keep_evidence(
        server.world.home(0), IntegrityError("tag", "nothing"), server.honest(), b"", integrity.pairs.roster
    )
    assert path is not None
    with pytest.raises(EvidenceError, match="nothing is wrong"):
        judge(path, server.world.home(1))


def test_members_whom_an_accuser_makes_up_convince_no_institution(server: Server, tmp_path: Path) -> None:
    """Evidence brings its own list of members: with keys of the accuser's making, an honest sum has forged manifests."""
    peers = server.world.institution(0)._keys.roster_at(1).peers
    own = [OwnKeys.make(peer.name) for peer in peers]
    made_up = Evidence("invented", "forged", 0, Roster(tuple(keys.public for keys in own)), server.honest(), b"")
    path = tmp_path / "round-000001-invented-0.json"
    path.write_bytes(made_up.to_bytes(own[0].signing))
    with pytest.raises(EvidenceError, match="names other members, or other keys of theirs"):
        judge(path, server.world.home(1))
    assert "Whose signatures these are is said by the file alone" in "\n".join(judge(path).lines())
    true = kept(server, "invented")
    assert "said by the file alone" not in "\n".join(judge(true, server.world.home(1)).lines())


# The coordinator's own check, which spares the others an institution's mistake


def test_an_upload_without_its_manifest_is_left_out(five: World) -> None:
    requests = five.coordinator.begin(five.nodes)
    replies = {node: five.institution(node).handle(request) for node, request in requests.items()}
    five.coordinator.receive(0, replace(replies[0], manifest=b""))
    five.coordinator.receive(1, replace(replies[1], manifest=replies[2].manifest))
    forged = Manifest.of_bytes(replies[2].manifest).signed(Ed25519PrivateKey.generate())
    five.coordinator.receive(2, replace(replies[2], manifest=forged.to_bytes()))
    assert dict(five.coordinator.rejected) == {0: "corrupt", 1: "corrupt", 2: "corrupt"}
    five.coordinator.close()
    five.run()
    five.digest()


def test_manifests_are_journalled_with_the_sum(templates: dict[str, World], tmp_path: Path) -> None:
    world = templates["both"].copy(tmp_path / "both")
    world.exchange(lost=[3])
    world.exchange(offline=[3])
    world.kill_coordinator()
    world.exchange()
    world.run()
    for _, aggregate in world.journal():
        named = separated(aggregate.manifests)
        assert sorted(m.upload_id for m in named) == sorted(aggregate.counted)
        assert joined(named) == aggregate.manifests
    world.digest()
    world.close()


@pytest.mark.parametrize("what", ["none", "another id", "one left out"])
def test_masks_are_told_of_signed_uploads_only(what: str, templates: dict[str, World], tmp_path: Path) -> None:
    """A coordinator that claims uploads which nobody made could have a sum of one real upload opened."""
    world = templates["both"].copy(tmp_path / "both")
    world.exchange()
    request = world.coordinator.begin(world.nodes)[0]
    question = SumQuestion.of_bytes(request.defence)
    if what == "none":
        question = replace(question, manifests=b"")
    elif what == "another id":
        victim = next(m for m in question.uploads if m != separated(question.manifests)[0].member)
        question = replace(question, uploads={**question.uploads, victim: b"an invented one!"})
    else:
        question = replace(question, manifests=joined(separated(question.manifests)[1:]))
    reply = world.institution(0).handle(replace(request, defence=question.to_bytes()))
    assert (reply.status, reply.code, reply.defence) == (Status.REFUSED, REFUSED, b"")
    assert world.institution(0).handle(request).status is Status.REVEALED
    world.close()


def test_a_newcomer_checks_all_rounds(five: World) -> None:
    for _ in range(3):
        five.exchange(offline=[2])
    five.run()
    five.digest()


def test_manifests_without_encryption(tmp_path: Path) -> None:
    world = World.found(tiny(defences__integrity=True), tmp_path / "world")
    world.run()
    assert len(Agreement.load(world.coordinator_folder / AGREEMENT).signers) == 3
    world.close()
