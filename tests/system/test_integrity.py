"""A coordinator that does not follow the protocol, played here: what it does is found out, and the evidence convinces others."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from harness import World, encrypted, tiny
from typer.testing import CliRunner

from client.evidence import EVIDENCE
from client.memory import Pending
from common.adding import ckks_adder
from common.errors import ConfigError, EvidenceError
from common.manifest import Manifest, joined, separated
from common.polynomials import add_modulo, data_prime, first_polynomial, polynomials
from common.protocol import Aggregate, Reply, Request, RoundKind, Status
from common.revealing import SharesQuestion
from common.wire import AGGREGATE, HEADER_BYTES, Header, read_header, resealed, write
from deploy.cli import app
from deploy.evidence import judge
from server.agreement import Agreement
from server.coordinator import AGREEMENT

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

    def blobs(self) -> list[bytes]:
        return [pending.blob for pending in self.now.values()]

    def manifests(self) -> list[Manifest]:
        return [Manifest.of_bytes(pending.manifest) for pending in self.now.values()]

    def sum(self, blobs: Sequence[bytes], claimed: int | None = None) -> bytes:
        """The sum of uploads, under a header that claims so many contributors."""
        adder, header = ckks_adder(self.world.genesis.parameters), read_header(self.blobs()[0])
        for blob in blobs:
            body = memoryview(blob)[HEADER_BYTES:]
            adder.add(adder.load(body, read_header(blob).item_length))
        made = Header(
            AGGREGATE, header.kind, header.round, header.federation, header.fingerprint, header.tag,
            contributors=len(blobs) if claimed is None else claimed,
        )  # fmt: skip
        return write(made, adder.total())

    def aggregate(self, blob: bytes, manifests: Sequence[Manifest]) -> Aggregate:
        return Aggregate(
            1, blob, tuple(sorted(m.upload_id for m in manifests)), b"".join(m.to_bytes() for m in manifests)
        )

    def honest(self) -> Aggregate:
        return self.aggregate(self.sum(self.blobs()), self.manifests())


@pytest.fixture
def server(five: World) -> Server:
    five.exchange()
    old = {node: five.record(node).pending for node in five.nodes}
    requests = five.coordinator.begin(five.nodes)
    for node, request in requests.items():
        assert five.institution(node).handle(request).status is Status.UPLOAD
    now = {node: five.record(node).pending for node in five.nodes}
    return Server(five, {n: p for n, p in old.items() if p}, {n: p for n, p in now.items() if p})


def dropped(server: Server) -> Aggregate:
    """Named, and not in the sum."""
    return server.aggregate(server.sum(server.blobs()[:4], claimed=5), server.manifests())


def dropped_and_said(server: Server) -> Aggregate:
    """Acknowledged as if it were in the sum, though fewer are claimed."""
    return server.aggregate(server.sum(server.blobs()[:4]), server.manifests())


def repeated(server: Server) -> Aggregate:
    """One twice, another not at all, all named once: numbers fit."""
    blobs = server.blobs()
    return server.aggregate(server.sum([*blobs[:4], blobs[0]]), server.manifests())


def repeated_and_said(server: Server) -> Aggregate:
    blobs, manifests = server.blobs(), server.manifests()
    return server.aggregate(server.sum([*blobs[:4], blobs[0]]), [*manifests[:4], manifests[0]])


def reordered(server: Server) -> Aggregate:
    """The ciphertexts behind the ledger's in another order, in one upload."""
    blobs = server.blobs()
    assert read_header(blobs[0]).items >= 3
    turned = resealed(blobs[0], lambda items: [items[0], *items[:0:-1]])
    return server.aggregate(server.sum([turned, *blobs[1:]]), server.manifests())


def altered(server: Server) -> Aggregate:
    """A plaintext of the coordinator's own making on top of the sum: it needs no key for that, and nothing looks damaged."""
    parameters = server.world.genesis.parameters
    own = np.zeros(parameters.ring_degree, dtype=np.uint64)
    own[100:110] = 3 << parameters.scale_bits

    def change(items: Sequence[bytes]) -> list[bytes]:
        out = bytearray(items[1])
        add_modulo(first_polynomial(out, parameters), own, data_prime(parameters))
        return [items[0], bytes(out), *items[2:]]

    return server.aggregate(resealed(server.sum(server.blobs()), change), server.manifests())


def flipped(server: Server, polynomial: int) -> Aggregate:
    """A bit of a ciphertext of the sum, whose digest is made anew."""

    def change(items: Sequence[bytes]) -> list[bytes]:
        out = bytearray(items[1])
        polynomials(out, server.world.genesis.parameters, 2)[polynomial, 7] ^= np.uint64(1 << 50)
        return [items[0], bytes(out), *items[2:]]

    return server.aggregate(resealed(server.sum(server.blobs()), change), server.manifests())


def invented(server: Server) -> Aggregate:
    """An institution's name under what it has not signed."""
    manifests = server.manifests()
    forged = replace(manifests[4], digest=bytes(32)).signed(Ed25519PrivateKey.generate())
    return server.aggregate(server.sum(server.blobs()), [*manifests[:4], forged])


def invented_member(server: Server) -> Aggregate:
    manifests = server.manifests()
    key = Ed25519PrivateKey.generate()
    return server.aggregate(server.sum(server.blobs()), [*manifests, replace(manifests[0], member=5).signed(key)])


def invented_content(server: Server) -> Aggregate:
    """An upload in the sum that nobody made, in place of one that is named: another's, doubled minus a third."""
    blobs = server.blobs()
    one = resealed(blobs[4], lambda items: [items[0], *(item for item in server_items(blobs[3])[1:])])
    return server.aggregate(server.sum([*blobs[:4], one]), server.manifests())


def server_items(blob: bytes) -> list[bytes]:
    found: list[bytes] = []
    resealed(blob, lambda items: found.extend(items) or items)  # type: ignore[func-returns-value]
    return found


def cross_round(server: Server) -> Aggregate:
    """An upload of the round before, with its own manifest."""
    now = server.manifests()
    old = Manifest.of_bytes(server.old[4].manifest)
    blobs = [
        *server.blobs()[:4],
        resealed(server.blobs()[4], lambda _items: server_items(server.old[4].blob)[: len(_items)]),
    ]
    return server.aggregate(server.sum(blobs), [*now[:4], old])


def cross_round_content(server: Server) -> Aggregate:
    """The ciphertexts of the round before under this round's manifest."""
    blobs = server.blobs()
    before = server_items(server.old[4].blob)
    moved = resealed(blobs[4], lambda items: (before * len(items))[: len(items)])
    return server.aggregate(server.sum([*blobs[:4], moved]), server.manifests())


def cross_federation(server: Server) -> Aggregate:
    """What a member has signed for another federation that it is in."""
    now, key = server.manifests(), server.world.institution(4)._integrity
    assert key is not None
    other = replace(now[4], federation=b"another federation, same members").signed(key.pairs.own.signing)
    return server.aggregate(server.sum(server.blobs()), [*now[:4], other])


def no_manifests(server: Server) -> Aggregate:
    return replace(server.honest(), manifests=b"")


def cut(server: Server) -> Aggregate:
    whole = server.honest()
    return replace(whole, manifests=whole.manifests[:-1])


def own_altered(server: Server) -> Aggregate:
    """A second upload of institution 0, which it signed for the same round, named in place of the one that it knows."""
    now, key = server.manifests(), server.world.institution(0)._integrity
    assert key is not None
    other = replace(now[0], digest=bytes(32)).signed(key.pairs.own.signing)
    return server.aggregate(server.sum(server.blobs()), [other, *now[1:]])


PLAYED: dict[str, tuple[Callable[[Server], Aggregate], str, bool]] = {
    "dropped": (dropped, "count", True),
    "dropped, and said so": (dropped_and_said, "count", False),
    "repeated": (repeated, "tag", True),
    "repeated, and said so": (repeated_and_said, "repeated", False),
    "reordered": (reordered, "tag", True),
    "altered": (altered, "tag", True),
    "a bit of the first polynomial, which is one value's": (lambda server: flipped(server, 0), "tag", True),
    "a bit of the second polynomial, which is every value's": (lambda server: flipped(server, 1), "guard", True),
    "invented": (invented, "invented", False),
    "invented member": (invented_member, "invented", False),
    "invented content": (invented_content, "tag", True),
    "of another round": (cross_round, "cross-round", False),
    "of another round, under a good manifest": (cross_round_content, "tag", True),
    "of another federation": (cross_federation, "cross-federation", False),
    "no manifests": (no_manifests, "count", False),
    "manifests cut": (cut, "form", False),
    "own upload named otherwise": (own_altered, "altered", False),
}
"""What is played, the reason that is found, and whether it takes a key to see it."""


def ask(world: World, node: int, aggregate: Aggregate) -> Reply:
    genesis = world.genesis
    request = Request(2, RoundKind.UPDATE, genesis.federation, genesis.fingerprint, (aggregate,))
    return world.institution(node).handle(request)


def test_the_honest_sum_is_applied(server: Server) -> None:
    for node in server.world.nodes:
        assert ask(server.world, node, server.honest()).status is Status.UPLOAD
    assert not list(server.world.folder.glob(f"sites/*/{EVIDENCE}"))


@pytest.mark.parametrize("name", PLAYED)
def test_what_a_coordinator_may_try(name: str, server: Server) -> None:
    """The round is refused everywhere, shared state stays, evidence is kept, and whoever looks at it finds the same."""
    play, reason, inside = PLAYED[name]
    world, made = server.world, play(server)
    before = [world.record(node).shared.digest for node in world.nodes]
    for node in world.nodes if name != "own upload named otherwise" else [0]:
        reply = ask(world, node, made)
        assert reply.status is Status.REFUSED
        assert reply.code in ("integrity", reason)
        (path,) = (world.site(node) / EVIDENCE).iterdir()
        assert path.name.startswith(f"round-000001-{reason}-")
        ask(world, node, made)
        assert len(list((world.site(node) / EVIDENCE).iterdir())) == 1, "the same sum is not written down twice"
        if inside:
            with pytest.raises(EvidenceError, match="without a key"):
                judge(path)
        else:
            assert judge(path).reason == reason
        assert judge(path, world.site((node + 1) % 5)).reason == reason, "another institution finds the same"
    assert [world.record(node).shared.digest for node in world.nodes] == before
    for node in world.nodes:
        assert ask(world, node, server.honest()).status is Status.UPLOAD, "with the honest sum it goes on"


def kept(server: Server, name: str = "altered") -> Path:
    ask(server.world, 0, PLAYED[name][0](server))
    (path,) = (server.world.site(0) / EVIDENCE).iterdir()
    return path


def test_the_command_says_so(server: Server) -> None:
    path = kept(server)
    done = CliRunner().invoke(app, ["audit", "verify", str(path), "--institution", str(server.world.site(1))])
    assert done.exit_code == 0, done.output
    assert "right to refuse" in done.output
    assert "tag" in done.output


def test_evidence_cannot_be_altered_or_made_up(server: Server) -> None:
    path = kept(server)
    document = json.loads(path.read_bytes())
    for field, value in (("round", 3), ("member", 1), ("counted", []), ("manifests", ""), ("reason", "invented")):
        path.write_text(json.dumps({**document, field: value}), encoding="utf-8")
        with pytest.raises(EvidenceError, match="altered"):
            judge(path, server.world.site(1))
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(EvidenceError):
        judge(path)


def test_evidence_against_an_honest_sum_convinces_nobody(server: Server) -> None:
    integrity = server.world.institution(0)._integrity
    assert integrity is not None
    error = EvidenceError("nothing")
    path = integrity.keep_evidence(server.world.site(0), error, server.honest(), b"", integrity_components(server))
    with pytest.raises(EvidenceError, match="nothing is wrong"):
        judge(path, server.world.site(1))


def integrity_components(server: Server) -> int:
    from client.replay import components
    from common.round import begin

    state = server.world.record(0).shared
    return components(server.world.genesis, begin(server.world.genesis.law, state, RoundKind.UPDATE))


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
    question = SharesQuestion.of_bytes(request.defence)
    if what == "none":
        question = replace(question, manifests=b"")
    elif what == "another id":
        victim = next(m for m in question.uploads if m != separated(question.manifests)[0].member)
        question = replace(question, uploads={**question.uploads, victim: b"an invented one!"})
    else:
        question = replace(question, manifests=joined(separated(question.manifests)[1:]))
    reply = world.institution(0).handle(replace(request, defence=question.to_bytes()))
    assert (reply.status, reply.code, reply.defence) == (Status.REFUSED, "integrity", b"")
    assert world.institution(0).handle(request).status is Status.REVEALED
    world.close()


def test_a_newcomer_checks_all_rounds(five: World) -> None:
    for _ in range(3):
        five.exchange(offline=[2])
    five.run()
    five.digest()


def test_tags_without_encryption(tmp_path: Path) -> None:
    world = World.found(tiny(defences__integrity=True), tmp_path / "world")
    world.run()
    assert len(Agreement.load(world.coordinator_folder / AGREEMENT).signers) == 3
    world.close()


def test_components_too_narrow_for_tags(tmp_path: Path) -> None:
    config = encrypted(defences__integrity=True, federation__max_participants=8000, encryption__ring_degree=8192)
    with pytest.raises(ConfigError, match="integrity"):
        World.found(config, tmp_path / "world")
