"""Test vectors of protocol 4: the specification quotes them, and both implementations, which share no code, give them."""

from __future__ import annotations

import json
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from dictpfl.client.defences.masks import MaskContext, Masks
from dictpfl.client.defences.pairs import OwnKeys, Pairs
from dictpfl.client.memory.record import Record
from dictpfl.common.ckks.keys import FederationKey, make_key
from dictpfl.common.ckks.opening import CKKSOpener
from dictpfl.common.ckks.parameters import CKKSParameters
from dictpfl.common.ckks.polynomials import data_prime
from dictpfl.common.ckks.streams import WordStream
from dictpfl.common.law.aggregation import beginning, moved
from dictpfl.common.law.members import PairGraph, Peer, Roster
from dictpfl.common.law.packing import Digits, pack, unpack
from dictpfl.common.law.pruning import History, reactivation_thresholds
from dictpfl.common.law.seeds import expand, uint32s
from dictpfl.common.law.state import Residual, SharedState, acknowledging
from dictpfl.common.law.tags import RoundTags
from dictpfl.common.messages.protocol import RoundKind
from dictpfl.common.messages.wire import UPLOAD, Blob, Entry, Header, Limits, write
from dictpfl.common.rounds import Aggregation
from dictpfl.common.words import pack_words, to_coefficients, to_words, word_prime
from dictpfl.deploy.audit.cipher.ring import Ring
from dictpfl.deploy.audit.formats.digits import Digits as AuditedDigits

VECTORS = Path(__file__).parents[2] / "vectors"
SPECIFICATION = Path(__file__).parents[3] / "docs" / "specification.md"
KNOWN: dict[str, Any] = json.loads((VECTORS / "protocol4.json").read_bytes())
PARAMETERS = CKKSParameters(4096, (60,), 11, 48, 54, 3, 192)


def hexed(section: str, name: str) -> bytes:
    return bytes.fromhex(KNOWN[section][name])


def numbers(section: str, name: str) -> np.ndarray:
    return np.array([int(text) for text in KNOWN[section][name]], dtype=np.uint64)


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    return runpy.run_path(str(VECTORS / "protocol4.py"))


@pytest.fixture(scope="module")
def header() -> Header:
    return Header(UPLOAD, RoundKind.UPDATE, 5, 2, bytes(range(64, 96)), bytes(range(96, 128)), bytes(range(128, 160)))


@pytest.fixture(scope="module")
def entry() -> Entry:
    return Entry(1, hexed("upload id", "id"), hexed("ciphertext", "seed"))


def test_script_writes_the_vectors_that_are_here(made: dict[str, Any]) -> None:
    assert made["text"]() == (VECTORS / "protocol4.json").read_text()


def test_specification_quotes_the_vectors(made: dict[str, Any]) -> None:
    assert f"{made['BEGIN']}```json\n{made['text']()}```\n{made['END']}" in SPECIFICATION.read_text()


def test_product_expands_seeds() -> None:
    seed, context = hexed("expand", "seed"), KNOWN["expand"]["context"]
    assert expand(seed, *context, length=32) == hexed("expand", "bytes")


def test_product_draws_streams() -> None:
    seed = hexed("stream", "seed")
    assert WordStream(seed, KNOWN["stream"]["prime"]).take(64).tolist() == KNOWN["stream"]["words"]
    assert (WordStream(seed, data_prime(PARAMETERS)).take(3) == numbers("stream", "first of q")).all()


def test_product_has_these_primes() -> None:
    assert data_prime(PARAMETERS) == int(KNOWN["primes"]["q of N = 4096"])
    larger = CKKSParameters(8192, (60,), 11, 48, 54, 3, 192)
    assert data_prime(larger) == int(KNOWN["primes"]["q of N = 8192"])
    for bits, below in KNOWN["primes"]["2^w - p"].items():
        assert word_prime(int(bits)) == 2 ** int(bits) - below


def test_product_switches_and_packs_words() -> None:
    q, p = data_prime(PARAMETERS), PARAMETERS.word_prime
    words = to_words(numbers("words", "residues"), q, p)
    assert words.tolist() == numbers("words", "words").tolist()
    assert to_coefficients(words, q, p).tolist() == numbers("words", "back").tolist()
    assert pack_words(words, 54).hex() == KNOWN["words"]["packed"]


@pytest.mark.parametrize("bits", [2, 4, 8, 12])
def test_components_that_are_no_digits_are_read_alike(bits: int) -> None:
    """An institution may seal them, and what all others make of it is what the replay has to make of it."""
    known = KNOWN["digits"]
    product = Digits.fit(bits, known["K"], known["V"])
    audit = AuditedDigits.widest(product.per_component, known["K"], known["V"])
    assert audit.largest == product.largest
    most = 2 ** (known["V"] - 1)
    sums = np.concatenate([[-most, most], np.random.default_rng(bits).integers(-most, most, 100)])
    count = sums.size * product.per_component
    assert unpack(sums, count, product).tolist() == audit.unpacked(sums, count).tolist()


def test_product_packs_digits() -> None:
    known = KNOWN["digits"]
    digits = Digits.fit(known["bits"], known["K"], known["V"])
    assert (digits.per_component, digits.largest, digits.radix) == (known["d"], known["largest"], known["R"])
    assert pack(np.array(known["values"]), digits).tolist() == known["components"]


def test_product_opens_the_ciphertext() -> None:
    components = KNOWN["ciphertext"]["components"]
    opener = CKKSOpener(known_key())
    opened = opener.open(numbers("ciphertext", "words"), [hexed("ciphertext", "seed")], len(components))
    assert opened.tolist() == components


def known_key() -> FederationKey:
    """Put the vectors' secret key where SEAL keeps that of a key that it made."""
    ring = Ring(4096, data_prime(PARAMETERS))
    coefficients = np.frombuffer(expand(bytes(range(32)), "key", length=4096), np.uint8).astype(np.int64) % 3 - 1
    secret = ring.transformed(ring.residues(coefficients))
    assert secret[:2].tolist() == numbers("ciphertext", "s transformed, 0 to 1").tolist()
    saved = make_key(PARAMETERS).secret
    return FederationKey(PARAMETERS, bytes(16), saved[: -8 * 4096] + secret.astype("<u8").tobytes())


def test_product_tags_the_upload(header: Header, entry: Entry) -> None:
    tags = RoundTags.of(hexed("tags", "epoch seed"), header, PARAMETERS.word_prime)
    assert tags.made(numbers("ciphertext", "words"), b"", entry).tolist() == numbers("tags", "tags").tolist()


def test_product_writes_and_reads_the_upload(header: Header, entry: Entry) -> None:
    words = np.concatenate([numbers("ciphertext", "words"), numbers("tags", "tags")])
    data = hexed("upload", "blob")
    assert write(header, [entry], words, 54) == data
    limits = Limits(header.federation, header.fingerprint, 54, 100, 0, 3)
    blob = Blob.parse(data, limits, direction=UPLOAD, kind=RoundKind.UPDATE, round=5)
    assert (blob.entries, blob.words().tolist()) == ((entry,), words.tolist())


def test_product_marks_uploads() -> None:
    record = Record(state(), Residual.none(2), hexed("upload id", "secret"))
    assert record.mark(5) == hexed("upload id", "id")[:8]


def test_product_derives_masks(header: Header, tmp_path: Path) -> None:
    private = [hexed("masks", "private key"), hexed("upload id", "secret")]
    peers = [OwnKeys(f"{i}", X25519PrivateKey.generate(), Ed25519PrivateKey.generate()).public for i in range(5)]
    own = OwnKeys("1", X25519PrivateKey.from_private_bytes(private[0]), Ed25519PrivateKey.generate())
    peers[1], peers[4] = own.public, Peer("4", hexed("masks", "public key"), bytes(32))
    pairs = Pairs(
        own, 1, Roster(tuple(peers)), PairGraph(5, 30, bytes(32), b""), header.federation + header.fingerprint
    )
    assert pairs.secrets[4] == hexed("masks", "pair secret")
    masks, context = (
        Masks(pairs, PARAMETERS, tmp_path / "told.json", 3),
        MaskContext.of(header, hexed("upload id", "id")),
    )
    assert masks._own(context, private[1]) == hexed("masks", "own seed")
    assert masks._stream(4, context) == hexed("masks", "pair seed")


def state() -> SharedState:
    known = KNOWN["state"]
    history = History(np.array(known["idle"], np.uint8), np.array(known["exponent"], np.uint8))
    return SharedState(
        known["round"], known["updates"], np.array(known["values"]), history, np.array(known["ranges"]),
        acknowledged=hexed("state", "acknowledged"),
    )  # fmt: skip


def test_product_digests_and_tags_states() -> None:
    assert state().digest == hexed("state", "digest")
    assert state().tag(hexed("tags", "epoch seed")) == hexed("state", "tag")
    chain = acknowledging(hexed("state", "acknowledged"), 3, [bytes(16), hexed("upload id", "id")])
    assert chain == hexed("state", "acknowledged after")


@pytest.mark.parametrize("rule", ["average", "momentum", "adagrad", "adam", "yogi"])
def test_product_follows_rules(rule: str) -> None:
    known = KNOWN["rules"]
    settings = Aggregation(rule=rule, **known["settings"])
    values, moments = np.array(known["values"]), beginning(settings, 2)
    for update in known["mean updates"]:
        sent = np.array([number is not None for number in update])
        values, moments = moved(settings, values, moments, np.array([number or 0.0 for number in update]), sent)
    assert values.tolist() == known[rule]["values"]
    assert [moment.tolist() for moment in moments] == known[rule]["moments"]
    assert replace(state(), values=values, moments=moments).digest.hex() == known[rule]["digest"]


def test_product_draws_reactivations() -> None:
    known = KNOWN["pruning"]
    assert reactivation_thresholds(known["beta"]).tolist() == known["thresholds"]
    draws = uint32s(bytes(range(32)), "reactivation", bytes(range(64, 96)), 3, count=3)
    assert draws.tolist() == known["draws"]
