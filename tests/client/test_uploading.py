"""One upload by itself: its id can be recomputed, its tags are right under its masks, and another attempt changes no value."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dictpfl.client.data.samples import IGNORED, Samples
from dictpfl.client.data.stored import Stored
from dictpfl.client.defences.masks import MaskContext
from dictpfl.client.memory.record import Record
from dictpfl.client.training.tasks.causal_lm import CausalLM
from dictpfl.common.ckks.adding import WordSum
from dictpfl.common.ckks.keys import load_key
from dictpfl.common.ckks.opening import CKKSOpener
from dictpfl.common.errors import IntegrityError
from dictpfl.common.genesis import components, require_tagged
from dictpfl.common.law.round import begin
from dictpfl.common.law.tags import TAGS
from dictpfl.common.messages.masks import attempt_bytes
from dictpfl.common.messages.protocol import Reply, Request, RoundKind, Status
from dictpfl.common.messages.wire import Blob, kind_number, with_words
from dictpfl.common.words import Words, pack_words
from tests.support.federations import encrypted
from tests.support.harness import World


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "masked"])
def template(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.found(encrypted(defences__masks=request.param), tmp_path_factory.mktemp("template") / "world")


@pytest.fixture
def world(template: World, tmp_path: Path) -> Iterator[World]:
    made = template.copy(tmp_path / "world")
    yield made
    made.close()


def ask(world: World, node: int, attempt: int = 0, kind: RoundKind = RoundKind.UPDATE) -> Reply:
    genesis = world.genesis
    request = Request(0, kind, genesis.federation, genesis.fingerprint, defence=attempt_bytes(attempt))
    return world.institution(node).handle(request)


def blob_of(world: World, reply: Reply) -> Blob:
    assert reply.status is Status.UPLOAD
    return Blob.own(reply.blob, world.genesis.parameters.word_bits)


def bare(world: World, node: int, blob: Blob) -> Words:
    """Words of an upload without its masks, tags included; its maker alone can do this."""
    masks = world.institution(node)._masks
    if masks is None:
        return blob.words()
    return masks.take_off(
        blob.words(), MaskContext.of(blob.header, blob.entries[0].upload_id), world.record(node).secret
    )


def recomputed(world: World, record: Record, blob: Blob, words: Words) -> bytes:
    """As the specification says it, from the institution's secret and what it sealed."""
    number, bits = blob.header.round, world.genesis.parameters.word_bits
    mark = hmac.digest(record.secret, b"upload" + number.to_bytes(8, "little"), "sha256")[:8]
    items = hashlib.sha256(blob.entries[0].seed + pack_words(words[:-TAGS], bits) + bytes(blob.clear)).digest()
    context = b"items" + bytes([kind_number(blob.header.kind)]) + number.to_bytes(8, "little")
    return mark + hmac.digest(record.secret, context + items, "sha256")[:8]


@pytest.mark.parametrize("kind", [RoundKind.UPDATE, RoundKind.MEASURE])
def test_an_uploads_id_follows_from_the_secret_and_what_was_sealed(kind: RoundKind, world: World) -> None:
    """No values fit into it, and who audits an institution can recompute it."""
    blob = blob_of(world, ask(world, 1, kind=kind))
    record, words = world.record(1), bare(world, 1, blob)
    (entry,) = blob.entries
    assert entry.upload_id == recomputed(world, record, blob, words)
    assert entry.upload_id[:8] == record.mark(0)
    assert entry.upload_id != recomputed(world, replace(record, secret=bytes(32)), blob, words)
    words[3] ^= np.uint64(1)
    assert entry.upload_id != recomputed(world, record, blob, words)


def test_an_upload_is_as_its_plan_says_and_rightly_tagged(world: World) -> None:
    genesis = world.genesis
    plan = begin(genesis.law, genesis.start(), RoundKind.UPDATE)
    size = components(genesis, plan)
    for node in world.nodes:
        blob = blob_of(world, ask(world, node))
        assert blob.header.words == genesis.parameters.words(size) + TAGS
        assert blob.entries[0].member == node
        assert (blob.header.contributors, blob.header.attempt, bytes(blob.clear)) == (1, 0, b"")
        assert blob.header.state_tag == genesis.start().tag(genesis.seed)
        uncovered = Blob.own(with_words(blob, bare(world, node, blob)), blob.word_bits)
        assert require_tagged(genesis, uncovered).size == blob.header.words - TAGS
        if world.institution(node)._masks:
            with pytest.raises(IntegrityError):
                require_tagged(genesis, blob)


def test_another_attempt_has_other_tags_and_masks_on_the_same_ciphertexts(world: World) -> None:
    first = blob_of(world, ask(world, 1))
    again = blob_of(world, ask(world, 1, attempt=4))
    assert again.header == replace(first.header, attempt=4)
    assert again.entries == first.entries
    one, other = bare(world, 1, first), bare(world, 1, again)
    assert one[:-TAGS].tolist() == other[:-TAGS].tolist(), "encrypted once"
    assert not (one[-TAGS:] == other[-TAGS:]).any()
    assert require_tagged(world.genesis, Blob.own(with_words(again, other), again.word_bits)).size == one.size - TAGS
    if world.institution(1)._masks:
        assert not (first.words() == again.words()).any()
    assert world.record(1).pending is not None
    assert ask(world, 1, attempt=4).blob == world.record(1).pending.blob, "stored before it is sent"  # type: ignore[union-attr]


def test_masks_and_tags_of_all_members_add_up_to_those_of_the_sum(world: World) -> None:
    """Pairs' masks vanish; what is left are the members' own masks, which are told after the sum is fixed."""
    genesis, parameters = world.genesis, world.genesis.parameters
    blobs = [blob_of(world, ask(world, node)) for node in world.nodes]
    total, uncovered = WordSum(parameters.word_prime), WordSum(parameters.word_prime)
    for node, blob in enumerate(blobs):
        total.add(total.load(blob.words()))
        uncovered.add(uncovered.load(bare(world, node, blob)))
    masked = world.institution(0)._masks is not None
    assert (total.total().tolist() == uncovered.total().tolist()) is not masked
    entries = [entry for blob in blobs for entry in blob.entries]
    words, tags = uncovered.total()[:-TAGS], uncovered.total()[-TAGS:]
    assert genesis.tags(blobs[0].header).fit(words, b"", tags, entries)
    plan = begin(genesis.law, genesis.start(), RoundKind.UPDATE)
    opener = CKKSOpener(load_key(world.home(0) / "federation.key"))
    opened = opener.open(words, [entry.seed for entry in entries], components(genesis, plan))
    assert genesis.law.ledger.read(opened).participants == 3


def test_seeds_and_ids_differ_between_institutions_and_kinds(world: World) -> None:
    blobs = [
        blob_of(world, ask(world, node, kind=kind))
        for node in world.nodes
        for kind in (RoundKind.MEASURE, RoundKind.UPDATE)
    ]
    entries = [blob.entries[0] for blob in blobs]
    assert len({entry.seed for entry in entries}) == len({entry.upload_id for entry in entries}) == 6


def test_texts_without_a_label_carry_no_weight(world: World, tmp_path: Path) -> None:
    """Of a prompt that fills all its tokens nothing is learnt: else who has many of them would outweigh the others."""
    ids = np.arange(20).reshape(4, 5)
    labels = np.where(np.array([[1], [0], [1], [0]]), ids, IGNORED)
    Samples(ids, labels).save(tmp_path / "texts.npz")
    uploads = replace(world.institution(0)._uploads, task=CausalLM(), own=Stored(tmp_path / "texts.npz"))
    assert (len(uploads.own), uploads.counted) == (4, 2)
    other = world.institution(0)._uploads
    assert other.counted == other.genesis.law.counted(len(other.own)) > 0
