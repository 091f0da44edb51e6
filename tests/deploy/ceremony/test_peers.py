"""Members' keys among each other: who gets which, where they lie, and that rounds with masks and manifests run from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
from ceremonies import NAMES, PASSPHRASES, Ceremony

from client.epochs import Keyring
from client.institution import Institution
from client.masking import Masks
from client.pairs import Pairs
from client.site import PEERS, SEALED_PEER_KEY, SiteSettings
from common.circle import Roster
from common.errors import EngineError, RevealError, WrongBundleError
from common.revealing import SharesQuestion
from deploy.ceremony import authority
from deploy.ceremony.bundle import KIND
from deploy.ceremony.envelope import Envelope, seal
from deploy.ceremony.export import export_state
from deploy.ceremony.identity import open_identity
from deploy.ceremony.passphrase import change_passphrase
from server.agreement import Agreement
from server.coordinator import AGREEMENT


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
    return Pairs.load(Keyring(ceremony.site(name), SiteSettings.load(ceremony.site(name))))


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
    for path in defended.site("oslo").rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            for secret in (own.receiving.private_bytes_raw(), own.signing.private_bytes_raw()):
                assert secret not in data, path
                assert secret.hex().encode() not in data, path


def test_a_new_passphrase_is_theirs_too(defended: Ceremony) -> None:
    defended.join("oslo")
    site, new = defended.site("oslo"), b"six other words of oslo"
    (site / "new").write_bytes(new + b"\n")
    (site / "new").chmod(0o600)
    before = pairs(defended, "oslo").secrets
    assert f"epochs/0001/{SEALED_PEER_KEY}" in change_passphrase(site, PASSPHRASES["oslo"], new, new_file=site / "new")
    assert pairs(defended, "oslo").secrets == before


def test_a_rotation_gives_other_secrets(defended: Ceremony) -> None:
    for name in NAMES:
        defended.join(name)
        defended.give_data(name)
    defended.hand_over()
    defended.run(NAMES)
    before = pairs(defended, "oslo")
    exported = defended.root / "oslo.state"
    export_state(defended.site("oslo"), PASSPHRASES["oslo"], exported)
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
    opened = RevealError("nobody tells")
    with (
        mock.patch.object(Masks, "tell_shares", side_effect=opened),
        mock.patch("time.sleep", return_value=None),
        pytest.raises(EngineError),
    ):
        defended.run(NAMES)
    for name in NAMES:
        site = Institution(defended.site(name))
        assert site._masks is not None
        site._masks._reveals.tell_of_sum(0, SharesQuestion(0, {0: bytes(16)}))
    states = [defended.root / f"{name}.state" for name in NAMES]
    for name, state in zip(NAMES, states, strict=True):
        export_state(defended.site(name), PASSPHRASES[name], state)
    authority.rotate(defended.authority, PASSPHRASES["authority"], states, defended.handout(2))
    for name in NAMES:
        defended.join(name, 2)
    defended.hand_over(2)
    defended.run(NAMES)
    assert len({defended.state(name).digest for name in NAMES}) == 1
    assert defended.state("oslo").updates == 3


@pytest.mark.parametrize("what", ["missing", "one left out", "a key swapped"])
def test_a_list_that_is_not_of_the_terms_is_refused(what: str, defended: Ceremony) -> None:
    berlin = open_identity(defended.site("berlin"), PASSPHRASES["berlin"])
    ministry = open_identity(defended.authority, PASSPHRASES["authority"])
    envelope = Envelope.read(defended.bundle("berlin").read_bytes(), KIND)
    files = dict(envelope.open(berlin))
    roster = Roster.of_bytes(files.pop(PEERS), "bundle")
    if what == "one left out":
        files[PEERS] = Roster(roster.peers[:2]).to_bytes()
    elif what == "a key swapped":
        files[PEERS] = Roster((*roster.peers[:2], replace(roster.peers[2], signing=bytes(32)))).to_bytes()
    defended.bundle("berlin").write_bytes(seal(KIND, envelope.facts, files, ministry, berlin.public))
    with pytest.raises(WrongBundleError, match="members' keys"):
        defended.join("berlin")


def test_without_defences_nobody_gets_a_list(founded: Ceremony, tmp_path: Path) -> None:
    made = founded.copy(tmp_path / "plain")
    made.join("oslo")
    assert not list(made.site("oslo").rglob(PEERS))
    assert not list(made.site("oslo").rglob(SEALED_PEER_KEY))
