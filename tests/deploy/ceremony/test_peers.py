"""Members' keys among each other: who gets which, where they lie, and that rounds with masks and manifests run from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

from dictpfl.client.defences.masks import Masks
from dictpfl.client.defences.pairs import Pairs
from dictpfl.client.folder import PEERS, SEALED_PEER_KEY, InstitutionSettings
from dictpfl.client.institution import Institution
from dictpfl.client.keys.epochs import Keyring
from dictpfl.common.errors import BundleError, EngineError, RoundError
from dictpfl.common.law.members import Roster
from dictpfl.common.messages.masks import SumQuestion
from dictpfl.deploy.ceremony import authority
from dictpfl.deploy.ceremony.bundle import KIND
from dictpfl.deploy.ceremony.envelope import Envelope, seal
from dictpfl.deploy.ceremony.export import export_state
from dictpfl.deploy.ceremony.identity import open_identity
from dictpfl.deploy.ceremony.passphrase import change_passphrase
from dictpfl.server.agreement import Agreement
from dictpfl.server.coordinator import AGREEMENT
from tests.support.ceremonies import NAMES, PASSPHRASES, Ceremony


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Ceremony:
    return Ceremony.found(tmp_path_factory.mktemp("peers"), defences__masks=True, defences__integrity=True)


@pytest.fixture
def defended(template: Ceremony, tmp_path: Path) -> Ceremony:
    return template.copy(tmp_path / "ceremony")


@pytest.mark.usefixtures("quiet")
def test_rounds_run_from_what_the_ceremony_gave(defended: Ceremony) -> None:
    for name in NAMES:
        defended.join(name)
        defended.give_data(name)
    defended.hand_over()
    defended.run(NAMES)
    states = [defended.state(name) for name in NAMES]
    assert len({state.digest for state in states}) == 1
    assert states[0].updates == 3
    agreement = Agreement.load(defended.coordinator / AGREEMENT)
    assert agreement.masks
    assert len(agreement.signers) == 3


def pairs(ceremony: Ceremony, name: str) -> Pairs:
    return Pairs.load(Keyring(ceremony.home(name), InstitutionSettings.load(ceremony.home(name))))


def test_two_members_have_the_same_secret_and_a_third_another(defended: Ceremony) -> None:
    for name in NAMES:
        defended.join(name)
    berlin, kyoto, oslo = (pairs(defended, name) for name in NAMES)
    assert [p.number for p in (berlin, kyoto, oslo)] == [0, 1, 2]
    assert berlin.secrets[1] == kyoto.secrets[0]
    assert len({berlin.secrets[1], berlin.secrets[2], kyoto.secrets[2]}) == 3


def test_own_keys_lie_sealed(defended: Ceremony) -> None:
    defended.join("oslo")
    own = pairs(defended, "oslo").own
    for path in defended.home("oslo").rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            for secret in (own.receiving.private_bytes_raw(), own.signing.private_bytes_raw()):
                assert secret not in data, path
                assert secret.hex().encode() not in data, path


def test_a_new_passphrase_is_theirs_too(defended: Ceremony) -> None:
    defended.join("oslo")
    institution, new = defended.home("oslo"), b"six other words of oslo"
    (institution / "new").write_bytes(new + b"\n")
    (institution / "new").chmod(0o600)
    before = pairs(defended, "oslo").secrets
    assert f"epochs/0001/{SEALED_PEER_KEY}" in change_passphrase(
        institution, PASSPHRASES["oslo"], new, new_file=institution / "new"
    )
    assert pairs(defended, "oslo").secrets == before


def test_a_rotation_gives_other_secrets(defended: Ceremony) -> None:
    for name in NAMES:
        defended.join(name)
        defended.give_data(name)
    defended.hand_over()
    defended.run(NAMES)
    before = pairs(defended, "oslo")
    exported = defended.root / "oslo.state"
    export_state(defended.home("oslo"), PASSPHRASES["oslo"], exported)
    authority.rotate(defended.authority, PASSPHRASES["authority"], [exported], defended.handout(2), rounds=5)
    for name in NAMES:
        defended.join(name, 2)
    after = pairs(defended, "oslo")
    assert after.roster == before.roster
    assert set(after.secrets.values()).isdisjoint(before.secrets.values())
    defended.hand_over(2)
    defended.run(NAMES)
    assert len({defended.state(name).digest for name in NAMES}) == 1
    assert defended.state("oslo").updates == 5


@pytest.mark.usefixtures("quiet")
def test_a_rotation_leaves_a_sum_behind_that_never_opened(defended: Ceremony) -> None:
    """Half of those in it never came back: the round is asked for anew under the new key, and nobody is held to what it told."""
    for name in NAMES:
        defended.join(name)
        defended.give_data(name)
    defended.hand_over()
    opened = RoundError("nobody tells", code="reveal")
    with (
        mock.patch.object(Masks, "tell_shares", side_effect=opened),
        mock.patch("time.sleep", return_value=None),
        pytest.raises(EngineError),
    ):
        defended.run(NAMES)
    for name in NAMES:
        institution = Institution(defended.home(name))
        assert institution._masks is not None
        reveals = institution._masks._reveals
        # The coordinator gave sums up that everybody refused to open: what is told of is the last attempt.
        reveals.tell_of_sum(0, SumQuestion(reveals._of(0).attempt, {0: bytes(16)}))
    states = [defended.root / f"{name}.state" for name in NAMES]
    for name, state in zip(NAMES, states, strict=True):
        export_state(defended.home(name), PASSPHRASES[name], state)
    authority.rotate(defended.authority, PASSPHRASES["authority"], states, defended.handout(2))
    for name in NAMES:
        defended.join(name, 2)
    defended.hand_over(2)
    defended.run(NAMES)
    assert len({defended.state(name).digest for name in NAMES}) == 1
    assert defended.state("oslo").updates == 3


@pytest.mark.parametrize("what", ["missing", "one left out", "a key swapped"])
def test_a_list_that_is_not_of_the_terms_is_refused(what: str, defended: Ceremony) -> None:
    berlin = open_identity(defended.home("berlin"), PASSPHRASES["berlin"])
    ministry = open_identity(defended.authority, PASSPHRASES["authority"])
    envelope = Envelope.read(defended.bundle("berlin").read_bytes(), KIND)
    files = dict(envelope.open(berlin))
    roster = Roster.of_bytes(files.pop(PEERS), "bundle")
    if what == "one left out":
        files[PEERS] = Roster(roster.peers[:2]).to_bytes()
    elif what == "a key swapped":
        files[PEERS] = Roster((*roster.peers[:2], replace(roster.peers[2], signing=bytes(32)))).to_bytes()
    defended.bundle("berlin").write_bytes(seal(KIND, envelope.facts, files, ministry, berlin.public))
    said = "expected" if what == "missing" else "members' keys"
    with pytest.raises(BundleError, match=said, check=lambda e: e.code == "wrong-bundle"):
        defended.join("berlin")


def test_without_defences_everybody_gets_the_list_too(founded: Ceremony, tmp_path: Path) -> None:
    """Who checks a sum has to know who the members are."""
    made = founded.copy(tmp_path / "plain")
    made.join("oslo")
    (listed,) = made.home("oslo").rglob(PEERS)
    assert [peer.name for peer in Roster.of_bytes(listed.read_bytes(), "list").peers] == sorted(NAMES)
    assert len(list(made.home("oslo").rglob(SEALED_PEER_KEY))) == 1
