"""From identities to a trained model, and what may lie where after it."""

from __future__ import annotations

import base64
import stat

import pytest

from dictpfl.client.folder import InstitutionSettings
from dictpfl.client.keys.epochs import Keyring
from dictpfl.common.genesis import Genesis
from dictpfl.deploy.ceremony import custody
from dictpfl.server.agreement import Agreement
from tests.support.ceremonies import NAMES, PASSPHRASES, Ceremony, config


@pytest.mark.usefixtures("quiet")
def test_three_institutions_join_and_train_to_the_same_state(ceremony: Ceremony) -> None:
    for name in NAMES:
        joined = ceremony.join(name)
        assert (joined.epoch, joined.first_round) == (1, 0)
        ceremony.give_data(name)
    ceremony.hand_over()
    ceremony.run(NAMES)
    states = [ceremony.state(name) for name in NAMES]
    assert len({state.digest for state in states}) == 1
    assert states[0].updates == 3
    assert states[0].values.any()
    assert [len(log.entries) for log in custody.verify(ceremony.home("kyoto"))] == [2]

    # Nothing at the coordinator lets it open a ciphertext or replay a mask.
    keys = Keyring(ceremony.home("oslo"), InstitutionSettings.load(ceremony.home("oslo")))
    assert keys.key is not None
    for secret in (keys.key.secret, keys.genesis.seed):
        for form in (secret, base64.b64encode(secret), secret.hex().encode()):
            for place in (ceremony.coordinator, ceremony.handout()):
                for path in place.rglob("*"):
                    if path.is_file():
                        data = path.read_bytes()
                        assert form not in data, path
                        assert form[: len(form) // 2] not in data, path
    # Nor does the key lie in clear at an institution, or at the authority at all.
    for path in [*ceremony.home("oslo").rglob("*"), *ceremony.authority.rglob("*")]:
        if path.is_file():
            assert base64.b64encode(keys.key.secret)[:64] not in path.read_bytes(), path


def test_only_owners_read(ceremony: Ceremony) -> None:
    ceremony.join("berlin")
    lax = [
        path
        for place in (ceremony.home("berlin"), ceremony.authority, ceremony.handout())
        for path in [place, *place.rglob("*")]
        if stat.S_IMODE(path.stat().st_mode) & 0o077
    ]
    assert lax == []


def test_the_same_inputs_give_the_same_genesis_but_for_key_and_seed(tmp_path_factory: pytest.TempPathFactory) -> None:
    first, second = (Ceremony(tmp_path_factory.mktemp(name)) for name in ("a", "b"))
    issued = []
    for made in (first, second):
        from dictpfl.deploy.ceremony.identity import Role, make_identity

        make_identity(made.authority, "ministry", Role.AUTHORITY, PASSPHRASES["authority"])
        for name in NAMES:
            made.identity(name)
        issued.append(made.genesis(made.handout(), NAMES, config(), seed=bytes(range(32))))
    one, two = (i.genesis for i in issued)
    assert one.federation == two.federation
    assert one.fingerprint != two.fingerprint
    assert one.files()["genesis.safetensors"] == two.files()["genesis.safetensors"]
    halves = [Agreement.load(i.coordinator / "federation.json") for i in issued]
    assert halves[0].uploads.federation == halves[1].uploads.federation
    assert halves[0].parameters == halves[1].parameters


def test_seeds_are_secret_by_default(founded: Ceremony, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Not from config.seed, which everybody can read."""
    other = Ceremony.found(tmp_path_factory.mktemp("other"))
    for made in (founded, other):
        made.copy(made.root / "joined").join("oslo")
    seeds = {Genesis.load(made.root / "joined/oslo/epochs/0001").seed for made in (founded, other)}
    assert len(seeds) == 2
