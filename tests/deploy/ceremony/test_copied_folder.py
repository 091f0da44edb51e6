"""A coordinator with a copy of an institution's folder, without its passphrase: nothing in it makes a tag."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dictpfl.client.folder import InstitutionSettings
from dictpfl.client.institution import Institution
from dictpfl.client.keys.epochs import Keyring
from dictpfl.client.keys.vault import seal_at_rest
from dictpfl.client.memory.record import Memory
from dictpfl.common.ckks.keys import FederationKey, key_document, make_key
from dictpfl.common.errors import BundleError, KeyFileError, PassphraseError
from dictpfl.common.genesis import DOCUMENT, Genesis
from dictpfl.common.law.tags import TAGS, RoundTags
from dictpfl.common.messages.protocol import Aggregate, Reply, Request, RoundKind, Status
from dictpfl.common.messages.wire import AGGREGATE, Blob, write
from dictpfl.deploy.audit.checks import leaks
from dictpfl.deploy.ceremony import charter
from tests.support.ceremonies import NAMES, PASSPHRASES, Ceremony

pytestmark = pytest.mark.usefixtures("quiet")
WIDTH = 32
TEXT = re.compile(rb"[0-9A-Za-z+/_=-]{40,}")


def played(root: Path) -> Ceremony:
    """Three institutions have joined and trained."""
    made = Ceremony.found(root)
    for name in NAMES:
        made.join(name)
        made.give_data(name)
    made.hand_over()
    made.run(NAMES)
    return made


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Ceremony:
    return played(tmp_path_factory.mktemp("copied"))


def stolen(world: Ceremony, place: Path) -> Path:
    """All of Oslo's folder but the file with the passphrase, which the manual keeps elsewhere."""
    copy = shutil.copytree(world.home("oslo"), place / "stolen")
    (copy / "passphrase").unlink()
    with pytest.raises(PassphraseError):
        Keyring(copy, InstitutionSettings.load(copy))
    return copy


def secret(world: Ceremony) -> bytes:
    return Keyring(world.home("oslo"), InstitutionSettings.load(world.home("oslo"))).genesis.secret_seed


def leaking(folder: Path, seed: bytes) -> list[Path]:
    """Files with 8 bytes of it or more: raw, hexadecimal, base64 or as numbers. A passphrase file is no copy of its folder."""
    needles = {"the seed": np.unique(leaks._windows(seed))}
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "passphrase"]
    assert len(files) > 5
    return [path for path in files if leaks.held(path.read_bytes(), needles)]


def guesses(folder: Path) -> Iterator[bytes]:
    """All that might be a seed: each 32 bytes in a row of every file, and of all that a file's texts decode to."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        data = path.read_bytes()
        pieces = [data]
        for text in TEXT.findall(data):
            pieces += [bytes.fromhex(found.decode()) for found in re.findall(rb"(?:[0-9a-fA-F]{2}){32,}", text)]
            pieces += [
                base64.b64decode(re.sub(rb"[=_-]", b"", text)[start:][: (len(text) - start) // 4 * 4 - 4])
                for start in range(4)
            ]
        for piece in pieces:
            yield from (piece[start : start + WIDTH] for start in range(len(piece) - WIDTH + 1))


def asked(institution: Institution, number: int, *aggregates: Aggregate) -> Reply:
    genesis = institution._genesis
    return institution.handle(
        Request(number, RoundKind.MEASURE, genesis.federation, genesis.fingerprint, tuple(aggregates))
    )


def makers(folder: Path, upload: Blob, prime: int) -> set[bytes]:
    """Seeds among all guesses that make the state tag of an upload, and its tags: such a seed makes those of any sum."""
    record = Memory(folder / "memory", Genesis.load(folder / "epochs/0001").federation).recall()
    assert record is not None, "shared state lies in clear, so that each guess can be tried on the tag of it first"
    body, tags = upload.words()[:-TAGS], upload.words()[-TAGS:]
    found = {seed for seed in set(guesses(folder)) if record.shared.tag(seed) == upload.header.state_tag}
    return {
        seed
        for seed in found
        if np.array_equal(
            RoundTags.of(seed, upload.header, prime).made(body, bytes(upload.clear), upload.entries[0]), tags
        )
    }


def forged(upload: Blob, seed: bytes, prime: int) -> bytes:
    """A sum of three times one upload's words, with the tags that this seed makes."""
    words = upload.words()[:-TAGS] * np.uint64(3) % np.uint64(prime)
    (own,) = upload.entries
    entries = [replace(own, member=member, upload_id=bytes([member]) * 16) for member in range(3)]
    keys = RoundTags.of(seed, upload.header, prime)
    parts = [keys.made(np.zeros_like(words), b"", entry) for entry in entries]
    hashed = [(h + sum(int(part[at]) for part in parts)) % prime for at, h in enumerate(keys._hashes(words, b""))]
    header = replace(upload.header, direction=AGGREGATE)
    return write(header, entries, np.append(words, np.array(hashed, np.uint64)), upload.word_bits)


def attempted(world: Ceremony, place: Path) -> tuple[set[bytes], Reply]:
    """What a coordinator with the copy finds in it, and what an institution says to a sum that it makes with that, or with genesis's seed."""
    copy, kyoto = stolen(world, place), Institution(world.home("kyoto"))
    number, parameters = kyoto._recall().shared.round, kyoto._genesis.parameters
    upload = Blob.own(asked(kyoto, number).blob, parameters.word_bits)
    found = makers(copy, upload, parameters.word_prime)
    seed = next(iter(found), Genesis.load(copy / "epochs/0001").seed)
    shown = Aggregate(number, forged(upload, seed, parameters.word_prime))
    return found, asked(kyoto, number + 1, shown)


def test_no_file_of_any_party_holds_the_seed(world: Ceremony) -> None:
    assert leaking(world.root, secret(world)) == []
    keys = Keyring(world.home("oslo"), InstitutionSettings.load(world.home("oslo")))
    assert keys.key is not None
    assert keys.key.seed == keys.genesis.secret_seed != keys.genesis.seed
    for text in (repr(keys.key), repr(keys.genesis)):
        assert secret(world).hex() not in text


@pytest.mark.parametrize("form", [bytes.hex, lambda seed: base64.b64encode(seed).decode()])
def test_a_seed_that_is_written_is_found(form: Callable[[bytes], str], world: Ceremony, tmp_path: Path) -> None:
    copy = stolen(world, tmp_path)
    path = copy / "epochs/0001" / DOCUMENT
    document = json.loads(path.read_bytes())
    path.write_text(json.dumps(document | {"note": form(secret(world))}))
    assert leaking(copy, secret(world)) == [path]


def test_a_copied_folder_makes_no_right_tag(world: Ceremony, tmp_path: Path) -> None:
    found, reply = attempted(world.copy(tmp_path / "world"), tmp_path)
    assert found == set()
    assert (reply.status, reply.code) == (Status.REFUSED, "refused")


def test_with_the_seed_of_genesis_it_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted fault: tags are made with what `genesis.json` holds, as they were in the first epoch."""
    monkeypatch.setattr(Genesis, "secret_seed", property(lambda genesis: genesis.seed))
    made = played(tmp_path / "world")
    found, reply = attempted(made, tmp_path)
    assert found == {Genesis.load(made.home("oslo") / "epochs/0001").seed}
    assert reply.status is Status.UPLOAD, "the sum was opened"


def without_seed(key: FederationKey) -> FederationKey:
    return replace(key, seed=b"")


def test_a_folder_and_a_bundle_of_an_earlier_release_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their first epoch has no seed of its own."""
    monkeypatch.setattr(charter, "make_key", lambda parameters, _seed: make_key(parameters))
    made = Ceremony.found(tmp_path / "world")
    with pytest.raises(BundleError, match=r"brings no seed of the epoch.*found the federation again"):
        made.join("oslo")
    assert not (made.home("oslo") / "epochs").exists() or not list((made.home("oslo") / "epochs").iterdir())


def test_a_folder_of_an_earlier_release_says_what_to_do(world: Ceremony, tmp_path: Path) -> None:
    copy = world.copy(tmp_path / "world")
    settings = InstitutionSettings.load(copy.home("oslo"))
    keys, home = Keyring(copy.home("oslo"), settings), copy.home("oslo") / "epochs/0001"
    assert keys.key is not None
    document = key_document(without_seed(keys.key))
    (home / "federation.key.sealed").write_bytes(seal_at_rest(document, PASSPHRASES["oslo"], "federation key"))
    with pytest.raises(KeyFileError, match=r"brings no seed of its epoch.*founds the federation again.*join"):
        Keyring(copy.home("oslo"), settings)
