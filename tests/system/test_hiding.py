"""Uploads of constant size and answers that are held back: nothing changes but what a coordinator sees."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from dictpfl.client.folder import InstitutionSettings
from dictpfl.client.institution import Institution
from tests.support.federations import encrypted, tiny
from tests.support.harness import World

pytestmark = pytest.mark.usefixtures("quiet")
PRUNED = {
    "federation__rounds": 6,
    "model__options": {"hidden": [256, 64]},
    "decomposition__enabled": False,
    "pruning__tau": 1,
}


def played(world: World) -> tuple[bytes, list[int]]:
    """The last digest, and the size of each round's sum."""
    world.run()
    sizes = [len(aggregate.blob) for _, aggregate in world.journal()]
    digest = world.digest()
    world.close()
    return digest, sizes


@pytest.mark.parametrize("make", [tiny, encrypted], ids=["identity", "ckks"])
def test_padding_changes_sizes_and_nothing_else(make: object, tmp_path: Path) -> None:
    plain, varying = played(World.found(make(**PRUNED), tmp_path / "plain"))  # type: ignore[operator]
    padded, constant = played(
        World.found(make(**PRUNED, encryption__pad_to="full"), tmp_path / "padded")  # type: ignore[operator]
    )
    assert plain == padded
    # The first round has wider digits, the last carries no update: both whatever the data.
    assert len(set(constant[1:-1])) == 1
    assert len(set(varying[1:-1])) > 1
    assert min(constant[1:-1]) >= max(varying[1:-1])


def test_padding_is_no_other_federation(tmp_path: Path) -> None:
    one = World.found(encrypted(), tmp_path / "one").genesis
    other = World.found(encrypted(encryption__pad_to="full"), tmp_path / "other").genesis
    assert one.federation == other.federation


def test_answers_leave_at_whole_multiples(tmp_path: Path) -> None:
    world = World.found(tiny(), tmp_path)
    InstitutionSettings(name="slow", toy_insecure=True, reply_every_seconds=0.4).save(world.home(0))
    assert InstitutionSettings.load(world.home(0)).reply_every_seconds == 0.4
    institution = Institution(world.home(0))
    request = world.coordinator.begin(world.nodes)[0]
    for _ in range(2):
        began = time.perf_counter()
        institution.handle(request)
        passed = time.perf_counter() - began
        assert passed >= 0.4
        assert passed % 0.4 < 0.2
    world.close()
