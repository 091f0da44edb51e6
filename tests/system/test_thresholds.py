"""Row thresholds in whole federations: through kills and latecomers all institutions end with one state and one mask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dictpfl.common.messages.protocol import RoundKind
from tests.support.federations import encrypted, tiny
from tests.support.harness import COORDINATOR_POINTS, INSTITUTION_POINTS, World, statement
from tests.system.test_tallies import SCORING

pytestmark = pytest.mark.usefixtures("quiet")
LUA: dict[str, Any] = {
    "sparsity__method": "lua",
    "sparsity__target": 0.7,
    "sparsity__calibration": 40,
    "training__steps": 2,
    "training__optimizer": "adamw",
    "training__learning_rate": 0.02,
    "federation__rounds": 3,
}


def masks(world: World) -> str:
    """SHA-256 of the one mask that all institutions derive."""
    found = set()
    for node in world.nodes:
        made = world.institution(node)._bench.masks_at(world.record(node).shared)
        assert made is not None
        assert made.kept == made.total - made.total * 7 // 10
        found.add(made.digest)
    (digest,) = found
    return digest


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, World]:
    folder = tmp_path_factory.mktemp("templates")
    defended = {"defences__masks": True, "defences__integrity": True}
    return {
        "plain": World.found(tiny(**LUA), folder / "plain"),
        "defended": World.found(encrypted(**LUA, **defended), folder / "defended"),
    }


@pytest.fixture(scope="module")
def undisturbed(templates: dict[str, World], tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, str]:
    world = templates["plain"].copy(tmp_path_factory.mktemp("undisturbed") / "world")
    world.run()
    assert [kind for kind, _ in world.journal()][:2] == [RoundKind.SCORE, RoundKind.UPDATE]
    found = world.digest(), masks(world)
    world.close()
    return found


@pytest.mark.parametrize("closed", [0, 2], ids=["tally", "update"])
def test_institutions_that_die_at_different_points(
    closed: int, templates: dict[str, World], undisturbed: tuple[bytes, str], tmp_path: Path
) -> None:
    """While the tally of inputs is made, and while thresholds are trained; encrypted, with masks and manifests."""
    world = templates["defended"].copy(tmp_path / "world")
    while len(world.journal()) < closed:
        world.exchange()
    training = {name: INSTITUTION_POINTS[name] for name in ("before training", "after sealing", "replying")}
    scoring = {name: SCORING[name] for name in ("before scoring", "after sealing", "replying")}
    for node, point in enumerate((training if closed else scoring).values()):
        world.exchange({node: point})
    world.run()
    assert (world.digest(), masks(world)) == undisturbed
    world.close()


@pytest.mark.parametrize("closed", [0, 2], ids=["tally", "update"])
def test_the_coordinator_dies(
    closed: int, templates: dict[str, World], undisturbed: tuple[bytes, str], tmp_path: Path
) -> None:
    world = templates["defended"].copy(tmp_path / "world")
    while len(world.journal()) < closed:
        world.exchange()
    world.exchange(closing=statement(world, **COORDINATOR_POINTS["after the sum"]))
    world.run()
    assert (world.digest(), masks(world)) == undisturbed
    world.close()


@pytest.mark.parametrize("rounds", [1, 3], ids=["after the tally", "after two updates"])
def test_a_latecomer_derives_the_same_masks(rounds: int, tmp_path: Path) -> None:
    """Four institutions, of which one sees nothing of the tally: it replays what decided the ranks, and trains from there."""
    world = World.found(tiny(**LUA, federation__participants=4), tmp_path / "world")
    for _ in range(rounds):
        world.exchange(offline=[3])
    world.run()
    late = world.record(3).shared
    assert [one.participants for one in late.tallies] == [3]
    assert len(set(world.digests())) == 1
    masks(world)
    world.close()
