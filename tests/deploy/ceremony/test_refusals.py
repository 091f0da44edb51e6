"""What is refused, each with its own error, and nothing installed of it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import dictpfl.common.files
import dictpfl.deploy.ceremony.joining
from dictpfl.client.institution import Institution
from dictpfl.client.keys.epochs import installed
from dictpfl.common.errors import BundleError, CeremonyError, DictPFLError, IdentityError, KeyFileError, PassphraseError
from dictpfl.common.fingerprint import spoken
from dictpfl.deploy.ceremony import custody
from dictpfl.deploy.ceremony.bundle import KIND
from dictpfl.deploy.ceremony.envelope import Envelope, pack, seal, unpack
from dictpfl.deploy.ceremony.identity import PUBLIC, Identity, Role, make_identity, open_identity
from dictpfl.deploy.ceremony.keeping import FEDERATION
from dictpfl.deploy.cli import app
from tests.support.ceremonies import NAMES, PASSPHRASES, Ceremony, config

Refusal = type[DictPFLError] | tuple[type[DictPFLError], str]
"""A class of errors, or one and its code."""


def refused(ceremony: Ceremony, name: str, error: Refusal, match: str | None, **how: object) -> None:
    """It is refused, and what lies in the folder is what lay there."""
    kind, code = error if isinstance(error, tuple) else (error, "")
    before = ceremony.files(name)
    with pytest.raises(kind, match=match, check=lambda e: code in ("", e.code)):
        ceremony.join(name, **how)
    after = {path: data for path, data in ceremony.files(name).items() if not path.endswith(".lock")}
    assert after == {path: data for path, data in before.items() if not path.endswith(".lock")}
    assert list((ceremony.home(name) / "epochs").glob(".*")) == []


def test_a_bundle_for_somebody_else(ceremony: Ceremony) -> None:
    refused(ceremony, "berlin", (BundleError, "wrong-recipient"), "another party", bundle=ceremony.bundle("oslo"))


def test_the_same_bundle_again_is_told_as_harmless_and_another_one_of_its_epoch_is_refused(ceremony: Ceremony) -> None:
    """A repeat was refused like an attack: "if the first one is not the one that the authority made, call it"."""
    first = ceremony.join("berlin")
    before = ceremony.files("berlin")
    assert not first.repeated
    typed = ["institution", "join", str(ceremony.bundle("berlin")), "--folder", str(ceremony.home("berlin"))]
    done = CliRunner().invoke(app, [*typed, "--passphrase-file", str(ceremony.home("berlin") / "passphrase")])
    assert done.exit_code == 0, done.output
    assert "is in epoch 1 already, by this bundle: nothing was changed" in " ".join(done.output.split())
    assert ceremony.files("berlin") == before
    (ceremony.authority / FEDERATION).unlink()
    other = ceremony.genesis(ceremony.root / "other", NAMES, config())
    refused(ceremony, "berlin", (BundleError, "same-epoch"), "from another bundle", bundle=other.bundle("berlin"))


def test_a_wrong_passphrase(ceremony: Ceremony) -> None:
    refused(ceremony, "berlin", PassphraseError, "passphrase is wrong", passphrase=b"not the six random words")


@pytest.mark.parametrize("at", [0, 9, 11, 15, 40, 400, -3000, -65, -1])
def test_a_flipped_bit(ceremony: Ceremony, at: int) -> None:
    data = bytearray(ceremony.bundle("berlin").read_bytes())
    data[at] ^= 1
    ceremony.bundle("berlin").write_bytes(data)
    refused(ceremony, "berlin", BundleError, None)


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 21, 22, 300, -64, -1])
def test_a_cut_off_bundle(ceremony: Ceremony, kept: int) -> None:
    whole = ceremony.bundle("berlin").read_bytes()
    ceremony.bundle("berlin").write_bytes(whole[:kept])
    refused(ceremony, "berlin", (BundleError, "truncated-bundle") if kept else (BundleError, "not-a-bundle"), None)


def test_another_kind_of_file(ceremony: Ceremony) -> None:
    refused(ceremony, "berlin", (BundleError, "not-a-bundle"), "right file", bundle=ceremony.home("berlin") / PUBLIC)
    refused(ceremony, "berlin", CeremonyError, "cannot read", bundle=ceremony.root / "nothing")


def test_a_wrong_fingerprint_of_the_authority(ceremony: Ceremony) -> None:
    wrong = spoken(bytes(32))
    refused(
        ceremony, "berlin", (BundleError, "unknown-sender"), "whose fingerprint was given", authority_fingerprint=wrong
    )
    refused(ceremony, "berlin", IdentityError, "in full", authority_fingerprint=ceremony.fingerprint[:20])


def test_an_authority_that_nobody_confirmed(ceremony: Ceremony) -> None:
    refused(ceremony, "berlin", (BundleError, "unknown-sender"), "nobody confirmed", authority_fingerprint=None)
    asked = []
    refused(
        ceremony, "berlin", (BundleError, "unknown-sender"), "nobody confirmed",
        authority_fingerprint=None, confirm=lambda sender: asked.append(sender.name) or False,
    )  # fmt: skip
    assert asked == ["ministry"]


def test_a_confirmed_authority_is_held_to(ceremony: Ceremony) -> None:
    """Another one may not even bring a later epoch, whatever fingerprint somebody types."""
    ceremony.join("berlin", authority_fingerprint=None, confirm=lambda _sender: True)
    other = make_identity(ceremony.root / "other", "ministry", Role.AUTHORITY, PASSPHRASES["authority"])
    berlin = open_identity(ceremony.home("berlin"), PASSPHRASES["berlin"]).public
    forged = seal(KIND, {"institution": "berlin", "epoch": 2}, {"a": b""}, other, berlin)
    ceremony.bundle("berlin").write_bytes(forged)
    for said in (None, spoken(other.public.fingerprint)):
        refused(ceremony, "berlin", (BundleError, "unknown-sender"), "by phone", authority_fingerprint=said)


def test_an_institution_is_no_authority(ceremony: Ceremony) -> None:
    oslo = open_identity(ceremony.home("oslo"), PASSPHRASES["oslo"])
    berlin = open_identity(ceremony.home("berlin"), PASSPHRASES["berlin"]).public
    ceremony.bundle("berlin").write_bytes(seal(KIND, {"epoch": 1}, {"a": b""}, oslo, berlin))
    said = spoken(oslo.public.fingerprint)
    refused(ceremony, "berlin", (BundleError, "unknown-sender"), "only an authority", authority_fingerprint=said)


def resealed(ceremony: Ceremony, facts: dict[str, object], files: dict[str, bytes | None]) -> None:
    """A bundle by the true authority, with other facts or files: what a defect there would make."""
    authority = open_identity(ceremony.authority, PASSPHRASES["authority"])
    berlin = open_identity(ceremony.home("berlin"), PASSPHRASES["berlin"])
    envelope = Envelope.read(ceremony.bundle("berlin").read_bytes(), KIND)
    inside = {name: data for name, data in (envelope.open(berlin) | files).items() if data is not None}
    ceremony.bundle("berlin").write_bytes(seal(KIND, {**envelope.facts, **facts}, inside, authority, berlin.public))


def foreign(founded: Ceremony, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    other = Ceremony.found(tmp_path_factory.mktemp("foreign"))
    oslo = open_identity(other.home("oslo"), PASSPHRASES["oslo"])
    return Envelope.read(other.bundle("oslo").read_bytes(), KIND).open(oslo)


def test_a_bundle_whose_parts_contradict_each_other(
    founded: Ceremony, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    others = foreign(founded, tmp_path_factory)
    cases: list[tuple[dict[str, object], dict[str, bytes | None]]] = [
        ({"epoch": 2}, {}),
        ({"institution": "oslo"}, {}),
        ({"federation": "00"}, {}),
        ({"first_round": 3}, {}),
        ({}, {"federation.key": None}),
        ({}, {"../../evil": b"x"}),
        ({}, {"start.safetensors": b"x"}),
        ({}, {"weights.safetensors": b"x"}),
        ({}, {"epochs.json": b"{}"}),
        ({}, {"genesis.json": b"[]"}),
        *(({}, {name: others[name]}) for name in ("federation.key", "epochs.json", "genesis.json")),
    ]
    for number, (facts, files) in enumerate(cases):
        ceremony = founded.copy(tmp_path / str(number))
        resealed(ceremony, facts, files)
        refused(ceremony, "berlin", (BundleError, "wrong-bundle"), None)


def test_a_bundle_without_an_epoch(ceremony: Ceremony) -> None:
    resealed(ceremony, {"epoch": None}, {})
    refused(ceremony, "berlin", (BundleError, "tampered-bundle"), "no epoch")


def test_an_older_epoch(ceremony: Ceremony) -> None:
    ceremony.join("berlin")
    (ceremony.home("berlin") / "epochs/0001").rename(ceremony.home("berlin") / "epochs/0003")
    refused(ceremony, "berlin", (BundleError, "old-epoch"), "is in epoch 3")


@pytest.mark.parametrize("lax", ["identity.key", "passphrase", ".", "epochs/0001"])
def test_what_others_may_read(ceremony: Ceremony, lax: str) -> None:
    ceremony.join("berlin")
    path = ceremony.home("berlin") / lax
    path.chmod(0o750 if path.is_dir() else 0o640)
    ceremony.give_data("berlin")

    def use() -> None:
        if lax in ("passphrase", "epochs/0001"):
            Institution(ceremony.home("berlin"))
        else:
            open_identity(ceremony.home("berlin"), PASSPHRASES["berlin"])

    with pytest.raises((KeyFileError, PassphraseError), match="has mode"):
        use()


def test_a_sealed_key_that_others_may_read(ceremony: Ceremony) -> None:
    ceremony.join("berlin")
    ceremony.give_data("berlin")
    (ceremony.home("berlin") / "epochs/0001/federation.key.sealed").chmod(0o640)
    with pytest.raises(KeyFileError, match="has mode 0640"):
        Institution(ceremony.home("berlin"))


def test_a_sealed_key_without_a_passphrase_at_hand(ceremony: Ceremony, monkeypatch: pytest.MonkeyPatch) -> None:
    ceremony.join("berlin", passphrase_file=None)
    ceremony.give_data("berlin")
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(PassphraseError, match="no passphrase is at hand"):
        Institution(ceremony.home("berlin"))
    credentials = ceremony.root / "credentials"
    credentials.mkdir()
    (credentials / "dictpfl-passphrase").write_bytes(PASSPHRASES["berlin"])
    (credentials / "dictpfl-passphrase").chmod(0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    Institution(ceremony.home("berlin"))
    (credentials / "dictpfl-passphrase").chmod(0o600)
    (credentials / "dictpfl-passphrase").write_bytes(b"some other long passphrase")
    with pytest.raises(PassphraseError, match="wrong"):
        Institution(ceremony.home("berlin"))


WRITES = range(1, 11)


@pytest.mark.parametrize("fails_at", WRITES)
def test_a_join_that_dies_anywhere_is_not_half_done(
    ceremony: Ceremony, fails_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies at its n-th write; the epoch is there whole or not at all, and the next join does it."""

    class Killed(BaseException):
        pass

    writes = 0

    def write(path: Path, data: bytes) -> None:
        nonlocal writes
        writes += 1
        if writes == fails_at:
            raise Killed
        dictpfl.common.files.write_private(path, data)

    with monkeypatch.context() as patched:
        for module in (
            dictpfl.deploy.ceremony.joining,
            dictpfl.deploy.ceremony.custody,
            dictpfl.deploy.ceremony.pinning,
        ):
            patched.setattr(module, "write_private", write)
        patched.setattr(dictpfl.deploy.ceremony.joining.shutil, "rmtree", lambda *_a, **_k: None)
        with suppress(Killed):
            ceremony.join("berlin")
    folder = ceremony.home("berlin")
    if not installed(folder):
        ceremony.join("berlin")
    assert {path.name for path in (folder / "epochs").iterdir()} == {"0001"}
    assert len(list((folder / "epochs/0001").iterdir())) == 8
    ceremony.give_data("berlin")
    Institution(folder)
    custody.record(folder, open_identity(folder, PASSPHRASES["berlin"]), "looked at")
    custody.verify(folder)


# Every byte counts: no altered bundle is ever opened.


@pytest.fixture(scope="module")
def sealed(founded: Ceremony) -> tuple[bytes, Identity, bytes]:
    """A small envelope of the same making, so that every part of it is hit often."""
    authority = open_identity(founded.authority, PASSPHRASES["authority"])
    berlin = open_identity(founded.home("berlin"), PASSPHRASES["berlin"])
    data = seal(
        KIND, {"institution": "berlin", "epoch": 1}, {"a": b"some", "b": b"thing" * 9}, authority, berlin.public
    )
    return data, berlin, authority.public.fingerprint


def _opens(data: bytes, berlin: Identity, authority: bytes) -> dict[str, bytes]:
    """As `join` does: form, signature, trust, recipient, seal."""
    envelope = Envelope.read(data, KIND)
    if envelope.sender.fingerprint != authority:
        raise BundleError("of another authority", code="unknown-sender")
    return envelope.open(berlin)


def test_the_envelope_itself_opens(sealed: tuple[bytes, Identity, bytes]) -> None:
    data, berlin, authority = sealed
    assert _opens(data, berlin, authority) == {"a": b"some", "b": b"thing" * 9}


def test_every_single_flipped_byte_is_refused(sealed: tuple[bytes, Identity, bytes]) -> None:
    data, berlin, authority = sealed
    for at in range(len(data)):
        for flip in (1, 0x80, 0xFF):
            altered = bytearray(data)
            altered[at] ^= flip
            with pytest.raises(BundleError):
                _opens(bytes(altered), berlin, authority)


@settings(max_examples=400)
@given(st.data())
def test_any_tampering_is_refused(sealed: tuple[bytes, Identity, bytes], draw: st.DataObject) -> None:
    whole, berlin, authority = sealed
    altered = bytearray(whole)
    for _ in range(draw.draw(st.integers(1, 4))):
        start = draw.draw(st.integers(0, len(altered)))
        stop = draw.draw(st.integers(start, min(len(altered), start + 80)))
        altered[start:stop] = draw.draw(
            st.one_of(st.binary(max_size=40), st.just(b""), st.just(bytes(altered[start:stop]) * 2))
        )
    if bytes(altered) != whole:
        with pytest.raises(BundleError):
            _opens(bytes(altered), berlin, authority)


@settings(max_examples=100)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(BundleError):
        Envelope.read(data, KIND)
    with pytest.raises(BundleError):
        Envelope.read(b"DPFLSEAL\x01\x00" + data, KIND)


@given(st.dictionaries(st.text(max_size=12), st.binary(max_size=50), max_size=5))
def test_packing_is_undone_and_has_one_form(files: dict[str, bytes]) -> None:
    assert unpack(pack(files)) == files
    assert pack(dict(reversed(files.items()))) == pack(files)


def test_parts_of_two_envelopes_do_not_mix(founded: Ceremony, sealed: tuple[bytes, Identity, bytes]) -> None:
    """A header of one with the seal of another, signed anew: the seal is bound to its header."""
    data, berlin, _ = sealed
    authority = open_identity(founded.authority, PASSPHRASES["authority"])
    other = seal(KIND, {"institution": "berlin", "epoch": 2}, {"a": b"x"}, authority, berlin.public)
    one, two = Envelope.read(data, KIND), Envelope.read(other, KIND)
    mixed = Envelope(two.kind, two.facts, two.sender, two.recipient, two._header, one._sealed)
    with pytest.raises(BundleError, check=lambda e: e.code == "tampered-bundle"):
        mixed.open(berlin)
