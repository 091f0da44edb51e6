"""The coordinator's half: who may bring it, what it replaces, and what the coordinator's custody log says of all this."""

from __future__ import annotations

import hashlib
import shutil
import stat
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

import dictpfl.common.files
import dictpfl.deploy.ceremony.custody
import dictpfl.deploy.ceremony.installing
import dictpfl.deploy.ceremony.pinning
from dictpfl.common.errors import BundleError, CeremonyError, CustodyError, IdentityError, KeyFileError
from dictpfl.common.fingerprint import spoken
from dictpfl.common.messages.protocol import Aggregate, RoundKind
from dictpfl.deploy.ceremony import authority, custody
from dictpfl.deploy.ceremony.export import export_state
from dictpfl.deploy.ceremony.identity import PUBLIC, PublicIdentity, Role, coordinator_signer
from dictpfl.deploy.ceremony.installing import install, require_consistent
from dictpfl.deploy.ceremony.terms import TERMS, in_force, read_terms
from dictpfl.deploy.operations.witness import Witness
from dictpfl.server.agreement import Agreement
from dictpfl.server.coordinator import AGREEMENT, JOURNAL
from dictpfl.server.journal import Journal
from dictpfl.server.rows import ClosedRound
from tests.support.ceremonies import APP, NAMES, PASSPHRASES, Ceremony, config


def events(folder: Path) -> list[str]:
    (log,) = custody.verify(folder)
    return [entry["event"] for entry in log.entries]


def test_what_is_installed_and_said(ceremony: Ceremony) -> None:
    ceremony.hand_over()
    place = ceremony.coordinator
    assert require_consistent(place, Agreement.load(place / AGREEMENT)) == read_terms(place / TERMS)
    assert {path.stem for path in (place / "nodes").iterdir()} == set(NAMES)
    for name in NAMES:
        assert (place / "nodes" / f"{name}.pub").read_bytes() == (ceremony.home(name) / "node.pub").read_bytes()
    assert events(place) == ["epoch installed", *["node admitted"] * 3]
    (log,) = custody.verify(place)
    facts = log.entries[0]["facts"]
    assert (facts["epoch"], facts["app"]) == (1, APP)
    assert facts["half"] == hashlib.sha256((place / AGREEMENT).read_bytes()).hexdigest()
    assert log.party.role is Role.COORDINATOR
    assert log.party == PublicIdentity.load(place / PUBLIC)
    assert not [p for p in [place, *place.rglob("*")] if stat.S_IMODE(p.stat().st_mode) & 0o077]


def test_the_authority_is_confirmed_by_a_person_once(ceremony: Ceremony) -> None:
    half = ceremony.handout() / "coordinator"
    with pytest.raises(BundleError, match="nobody confirmed", check=lambda e: e.code == "unknown-sender"):
        install(ceremony.coordinator, half)
    with pytest.raises(BundleError, match="not by the authority whose", check=lambda e: e.code == "unknown-sender"):
        install(ceremony.coordinator, half, authority_fingerprint=spoken(bytes(32)))
    assert not list(ceremony.coordinator.iterdir())
    install(ceremony.coordinator, half, confirm=lambda sender: sender.name == "ministry")
    with pytest.raises(BundleError, match="a second half", check=lambda e: e.code == "same-epoch"):
        install(ceremony.coordinator, half)


def test_a_half_that_was_copied_and_then_installed(ceremony: Ceremony) -> None:
    """Copied by hand, it is held to as a page that is whole; the install is what compares the authority."""
    place = ceremony.coordinator
    shutil.copytree(ceremony.handout() / "coordinator", place)
    found = in_force(place, place)
    assert found is not None
    assert found.app == APP
    (place / TERMS).write_bytes((place / TERMS).read_bytes().replace(APP.encode(), b"cd" * 32))
    with pytest.raises(BundleError, check=lambda e: e.code == "tampered-bundle"):
        in_force(place, place)
    with pytest.raises(BundleError, match="nobody confirmed", check=lambda e: e.code == "unknown-sender"):
        install(place, ceremony.handout() / "coordinator")
    ceremony.hand_over()
    assert in_force(place, place) == found


def test_altered_halves(ceremony: Ceremony) -> None:
    half, place = ceremony.handout() / "coordinator", ceremony.coordinator
    fingerprint = ceremony.fingerprint
    for name in (AGREEMENT, TERMS):
        whole = (half / name).read_bytes()
        (half / name).write_bytes(whole.replace(b"3", b"2", 1))
        with pytest.raises(BundleError, match="altered", check=lambda e: e.code == "tampered-bundle"):
            install(place, half, authority_fingerprint=fingerprint)
        (half / name).unlink()
        with pytest.raises(CeremonyError, match="cannot read"):
            install(place, half, authority_fingerprint=fingerprint)
        (half / name).write_bytes(whole)
    assert not place.exists()


def test_another_federation_or_authority(ceremony: Ceremony, tmp_path_factory: pytest.TempPathFactory) -> None:
    ceremony.hand_over()
    other = Ceremony.found(tmp_path_factory.mktemp("other"))
    with pytest.raises(BundleError, match="the authority of", check=lambda e: e.code == "unknown-sender"):
        install(ceremony.coordinator, other.handout() / "coordinator", authority_fingerprint=other.fingerprint)
    (ceremony.authority / "federation.sealed").unlink()
    again = ceremony.genesis(ceremony.root / "again", NAMES, config())
    with pytest.raises(
        BundleError, match="another folder for another federation", check=lambda e: e.code == "wrong-bundle"
    ):
        install(ceremony.coordinator, again.coordinator)


def test_a_folder_of_another_party(ceremony: Ceremony) -> None:
    for folder in (ceremony.authority, ceremony.home("berlin")):
        with pytest.raises(IdentityError, match="one of its own"):
            install(folder, ceremony.handout() / "coordinator", authority_fingerprint=ceremony.fingerprint)


def rotated(ceremony: Ceremony) -> None:
    state = ceremony.root / "berlin.state"
    export_state(ceremony.home("berlin"), PASSPHRASES["berlin"], state)
    ceremony.identity("quito")
    authority.rotate(
        ceremony.authority, PASSPHRASES["authority"], [state], ceremony.handout(2),
        add={"quito": ceremony.home("quito") / PUBLIC}, remove=["oslo"],
    )  # fmt: skip


def test_nodes_follow_the_members(ceremony: Ceremony) -> None:
    ceremony.join("berlin")
    ceremony.hand_over()
    nodes = ceremony.coordinator / "nodes"
    # Kyoto lost its node key and was admitted anew by hand: that holds on.
    (nodes / "kyoto.pub").write_bytes(b"by hand\n")
    rotated(ceremony)
    ceremony.hand_over(2)
    assert {path.stem for path in nodes.iterdir()} == {"berlin", "kyoto", "quito"}
    assert (nodes / "kyoto.pub").read_bytes() == b"by hand\n"
    assert events(ceremony.coordinator)[4:] == ["epoch installed", "node dismissed", "node admitted"]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("fails_at", range(1, 9))
def test_an_install_that_dies_anywhere_is_repeated(
    ceremony: Ceremony, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    ceremony.join("berlin")
    ceremony.hand_over()
    journal(ceremony).close()
    rotated(ceremony)
    writes = 0

    def write(path: Path, data: bytes) -> None:
        nonlocal writes
        writes += 1
        if writes == fails_at:
            raise Killed
        dictpfl.common.files.write_private(path, data)

    with monkeypatch.context() as patched:
        for module in (
            dictpfl.deploy.ceremony.installing,
            dictpfl.deploy.ceremony.custody,
            dictpfl.deploy.ceremony.pinning,
        ):
            patched.setattr(module, "write_private", write)
        with suppress(Killed):
            ceremony.hand_over(2)
    try:
        ceremony.hand_over(2)
    except BundleError as error:
        assert error.code == "same-epoch"  # noqa: PT017 -- it may have come to an end before
    place = ceremony.coordinator
    terms = require_consistent(place, Agreement.load(place / AGREEMENT))
    assert terms is not None
    assert terms.epoch == 2
    assert {path.stem for path in (place / "nodes").glob("*.pub")} == {"berlin", "kyoto", "quito"}
    custody.record(place, coordinator_signer(place), "looked at")
    custody.verify(place)


# the coordinator's key


def test_a_coordinators_key(tmp_path: Path) -> None:
    place = tmp_path / "c"
    signer = coordinator_signer(place)
    assert coordinator_signer(place) == signer or coordinator_signer(place).public == signer.public
    (place / PUBLIC).unlink()
    assert coordinator_signer(place).public == signer.public, "the public half is made anew from the private one"
    (place / "custody.key").chmod(0o640)
    with pytest.raises(KeyFileError, match="expected 0600"):
        coordinator_signer(place)
    key = (place / "custody.key").read_bytes()
    (place / "custody.key").unlink()
    with pytest.raises(IdentityError, match="without custody"):
        coordinator_signer(place)
    for damaged in (b"", key[:40]):
        (place / "custody.key").write_bytes(damaged)
        (place / "custody.key").chmod(0o600)
        with pytest.raises(IdentityError, match="damaged"):
            coordinator_signer(place)
    other = coordinator_signer(tmp_path / "d")
    (place / "custody.key").write_bytes((tmp_path / "d" / "custody.key").read_bytes())
    with pytest.raises(IdentityError, match="not the public half"):
        coordinator_signer(place)
    assert other.public != signer.public


def test_an_institution_cannot_leave_out_what_it_receives_with() -> None:
    with pytest.raises(IdentityError, match="another kind"):
        PublicIdentity(Role.INSTITUTION, "berlin", b"", bytes(32))


# rounds


def journal(ceremony: Ceremony) -> Journal:
    agreement = Agreement.load(ceremony.coordinator / AGREEMENT)
    limits = agreement.uploads
    return Journal(ceremony.coordinator / JOURNAL, limits.federation, limits.fingerprint)


def close(ceremony: Ceremony, number: int) -> str:
    opened, blob = journal(ceremony), b"sum %d" % number
    closed = ClosedRound(number, RoundKind.UPDATE, 100.0, 101.0, 0.1, 10, 1, {"7": "drift"})
    opened.record(closed, Aggregate(number, blob, (b"a" * 16, b"b" * 16, b"c" * 16)))
    opened.close()
    return hashlib.sha256(blob).hexdigest()


def test_rounds_are_entered_once_with_the_digest_of_their_sum(ceremony: Ceremony) -> None:
    ceremony.hand_over()
    place = ceremony.coordinator
    witness = Witness(place, coordinator_signer(place))
    assert witness.look() == 0
    digests = [close(ceremony, number) for number in range(3)]
    assert witness.look() == 3
    assert witness.look() == 0
    digests.append(close(ceremony, 3))
    # Another process: it goes on where the log ends.
    again = Witness(place, coordinator_signer(place))
    assert again.look() == 1
    assert witness.look() == 0, "the first one sees what the other one entered"
    (log,) = custody.verify(place)
    entered = [entry["facts"] for entry in log.entries if entry["event"] == "round closed"]
    assert [facts["aggregate"] for facts in entered] == digests
    assert entered[0] == {
        "round": 0, "kind": "update", "started": "1970-01-01T00:01:40+00:00", "ended": "1970-01-01T00:01:41+00:00",
        "contributors": 3, "left_out": 1, "aggregate": digests[0],
    }  # fmt: skip


def test_a_journal_that_went_back_is_said(ceremony: Ceremony) -> None:
    ceremony.hand_over()
    place = ceremony.coordinator
    for number in range(3):
        close(ceremony, number)
    Witness(place, coordinator_signer(place)).look()
    for part in place.glob(f"{JOURNAL}*"):
        part.unlink()
    close(ceremony, 0)
    Witness(place, coordinator_signer(place)).look()
    said = [(e["event"], e["facts"].get("to", e["facts"].get("round"))) for e in custody.verify(place)[0].entries[4:]]
    assert said == [("round closed", 0), ("round closed", 1), ("round closed", 2), ("journal went back", 1)]
    close(ceremony, 1)
    assert Witness(place, coordinator_signer(place)).look() == 1


def test_an_entry_that_a_full_disk_cut_off_stops_no_witness(ceremony: Ceremony) -> None:
    """Neither the one that was writing, once there is room, nor that of the next `up`, which did not start."""
    ceremony.hand_over()
    place = ceremony.coordinator
    running = Witness(place, coordinator_signer(place))
    for number, witness in enumerate((running, running, None)):
        close(ceremony, number)
        with (place / custody.LOG).open("ab") as log:
            log.write(b'{"at":"2026-12-01T00:00:00+00:00","event":"round clo')
        assert (witness or Witness(place, coordinator_signer(place))).look() == 1
    assert events(place)[-3:] == ["round closed"] * 3


def test_an_altered_log_is_not_written_on(ceremony: Ceremony) -> None:
    ceremony.hand_over()
    place = ceremony.coordinator
    recorder = custody.Recorder(place, coordinator_signer(place))
    recorder.record("one")
    recorder.record("two")
    log = place / custody.LOG
    log.write_bytes(log.read_bytes().replace(b'"one"', b'"0ne"'))
    with pytest.raises(CustodyError):
        recorder.record("three")
    with pytest.raises(CustodyError):
        Witness(place, coordinator_signer(place))
    assert b'"three"' not in log.read_bytes()


def test_terms_of_another_epoch_beside_the_agreement(ceremony: Ceremony) -> None:
    ceremony.hand_over()
    agreement = Agreement.load(ceremony.coordinator / AGREEMENT)
    with pytest.raises(BundleError, match="coordinator install", check=lambda e: e.code == "wrong-bundle"):
        require_consistent(ceremony.coordinator, replace(agreement, epoch=2))
    assert require_consistent(ceremony.coordinator, replace(agreement, rounds=99)), (
        "rounds are the coordinator's to say"
    )
