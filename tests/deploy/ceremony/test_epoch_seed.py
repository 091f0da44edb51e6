"""Each epoch has a seed of its own: who left can compute nothing of the epoch that began without it."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dictpfl.client.defences.pairs import Pairs
from dictpfl.client.folder import InstitutionSettings
from dictpfl.client.keys.epochs import Keyring
from dictpfl.client.memory.snapshots import seal_snapshot
from dictpfl.common.genesis import Genesis
from dictpfl.common.law.members import PairGraph
from dictpfl.common.law.round import begin
from dictpfl.common.law.state import SharedState
from dictpfl.common.messages.protocol import RoundKind
from dictpfl.common.messages.snapshots import SnapshotHeader
from dictpfl.deploy.ceremony import authority
from dictpfl.deploy.ceremony.export import export_state
from dictpfl.deploy.ceremony.identity import PUBLIC
from tests.support.ceremonies import NAMES, PASSPHRASES, Ceremony

STAY_OR_COME = ("berlin", "kyoto", "quito", "turin")

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Ceremony:
    """Oslo left, Quito and Turin came; the new epoch has run. Coordinates are pruned after one idle round."""
    made = Ceremony.found(tmp_path_factory.mktemp("seeds"), defences__masks=True, pruning__tau=1)
    for name in NAMES:
        made.join(name)
        made.give_data(name)
    made.hand_over()
    made.run(NAMES)
    states = []
    for name in ("berlin", "kyoto"):
        states.append(made.root / f"{name}.state")
        export_state(made.home(name), PASSPHRASES[name], states[-1])
    for name in ("quito", "turin"):
        made.identity(name)
        made.give_data(name)
    come = {name: made.home(name) / PUBLIC for name in ("quito", "turin")}
    authority.rotate(
        made.authority, PASSPHRASES["authority"], states, made.handout(2), add=come, remove=["oslo"], rounds=6
    )
    for name in STAY_OR_COME:
        made.join(name, 2)
    made.hand_over(2)
    made.run(STAY_OR_COME)
    return made


def keyring(world: Ceremony, name: str) -> Keyring:
    return Keyring(world.home(name), InstitutionSettings.load(world.home(name)))


def computed(genesis: Genesis, state: SharedState, context: bytes) -> Mapping[str, bytes]:
    """All that an institution derives from the seed for the round that `state` is before."""
    mask = begin(genesis.law, state, RoundKind.UPDATE).mask
    assert 0 < mask.sum() < mask.size
    graph = PairGraph(40, genesis.config.defences.mask_partners, genesis.secret_seed, context)
    return {
        "mask": np.packbits(mask).tobytes(),
        "state tag": state.tag(genesis.secret_seed),
        "circle": repr([graph.partners(member) for member in range(40)]).encode(),
    }


def same(world: Ceremony) -> set[str]:
    """What Oslo computes as the members do, from its old files and the newest state and key fingerprint."""
    state, member = world.state("berlin"), keyring(world, "berlin").genesis
    left = replace(keyring(world, "oslo").genesis, fingerprint=member.fingerprint)
    context = member.federation + member.fingerprint
    mine, theirs = computed(left, state, context), computed(member, state, context)
    newcomer = computed(keyring(world, "turin").genesis, state, context)
    assert newcomer == theirs
    return {name for name, value in mine.items() if value == theirs[name]}


def test_who_left_computes_no_mask_no_tag_and_no_circle(world: Ceremony) -> None:
    assert same(world) == set()


def test_with_the_seed_of_genesis_it_would(world: Ceremony, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Genesis, "secret_seed", property(lambda genesis: genesis.seed))
    assert same(world) == {"mask", "state tag", "circle"}


def test_members_use_it_for_what_they_send_and_keep(world: Ceremony) -> None:
    """The circle of a real member, and the tag in a real snapshot, are of the epoch's seed."""
    keys, state = keyring(world, "berlin"), world.state("berlin")
    seed = keys.genesis.secret_seed
    assert len(seed) == 32
    assert seed != keys.genesis.seed
    assert Pairs.load(keys).graph.seed == seed
    assert SnapshotHeader.read(seal_snapshot(keys, state)).tag == state.tag(seed)
    assert len({world.state(name).digest for name in STAY_OR_COME}) == 1
    assert state.updates == 6


def test_rounds_of_the_first_epoch_keep_their_seed(world: Ceremony) -> None:
    """Who stayed replays them under the one that came with the first key; federation id and dictionaries of refreshes do not change."""
    keys = keyring(world, "kyoto")
    first, _ = keys.at(0)
    now, _ = keys.at(keys.table.last.first_round)
    assert first.seed == now.seed
    assert len({first.seed, first.secret_seed, now.secret_seed}) == 3
    assert now.federation == first.federation
    assert now.files() == replace(now, epoch_seed=b"").files()


def test_it_lies_in_clear_nowhere_and_is_not_printed(world: Ceremony) -> None:
    keys = keyring(world, "turin")
    assert keys.key is not None
    seed = keys.key.seed
    assert seed == keys.genesis.epoch_seed
    forms = (seed, seed.hex().encode(), base64.b64encode(seed))
    for path in (path for path in Path(world.root).rglob("*") if path.is_file()):
        data = path.read_bytes()
        assert not any(form in data for form in forms), path
    for text in (repr(keys.key), repr(keys.genesis), str(keys.key)):
        assert seed.hex() not in text
        assert repr(seed)[2:-1] not in text


def test_every_rotation_draws_its_own(world: Ceremony, tmp_path: Path) -> None:
    copy, seeds = world.copy(tmp_path / "c"), set()
    path = copy.root / "again.state"
    export_state(copy.home("berlin"), PASSPHRASES["berlin"], path)
    for number in (3, 4):
        how = {"rounds": 9, "abandon": number > 3}
        authority.rotate(copy.authority, PASSPHRASES["authority"], [path], copy.handout(number), **how)
        other = world.copy(tmp_path / f"c{number}")
        other.join("berlin", number, bundle=copy.bundle("berlin", number))
        seeds.add(keyring(other, "berlin").genesis.secret_seed)
    assert len(seeds) == 2
