"""A journal that was lost while a sum went out: institutions stand one round apart, and one of them may lie."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from dictpfl.common.errors import RoundError
from dictpfl.server.agreement import Agreement
from dictpfl.server.coordinator import AGREEMENT
from tests.support.federations import encrypted
from tests.support.harness import World

pytestmark = pytest.mark.usefixtures("quiet")
LIAR = 3
FOUR = {"federation__participants": 4, "federation__rounds": 4}
DEFENDED = {"defences__masks": True, "defences__integrity": True}


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, World]:
    folder = tmp_path_factory.mktemp("templates")
    return {
        "defended": World.found(encrypted(**FOUR, **DEFENDED), folder / "defended"),
        "bare": World.found(encrypted(**FOUR), folder / "bare"),
    }


@pytest.fixture
def four(templates: dict[str, World], tmp_path: Path) -> World:
    return templates["defended"].copy(tmp_path / "world")


def operator(world: World, **choice: object) -> None:
    """What `dictpfl run` writes into the coordinator's half before it starts the coordinator."""
    world.close()
    path = world.coordinator_folder / AGREEMENT
    replace(Agreement.load(path), **choice).save(path)  # type: ignore[arg-type]


def apart(world: World, behind: tuple[int, ...], least: int = 2) -> int:
    """Play until round `least` is closed, hand its sum to all but those `behind`, and lose the journal; return the newest position."""
    while world.coordinator._journal.next_round <= least:
        world.exchange()
    world.exchange(offline=behind)
    world.close()
    world._generation += 1
    fresh = world.folder / f"coordinator-new-{world._generation}"
    fresh.mkdir(mode=0o700)
    shutil.copy(world.coordinator_folder / AGREEMENT, fresh / AGREEMENT)
    world.coordinator_folder = fresh
    number = least + 1
    assert positions(world) == {node: number - (node in behind) for node in world.nodes}
    return number


def positions(world: World) -> Mapping[int, int]:
    return {node: world.record(node).shared.round for node in world.nodes}


def forge(world: World, node: int, number: int) -> bytes:
    """A member writes a state of its own into its memory, of a later round; return that state's digest."""
    record = world.record(node)
    shared = replace(record.shared, round=number, values=record.shared.values + 1.0)
    world.memory(node).store(replace(record, shared=shared, pending=None))
    return shared.digest


def test_a_liar_ahead_of_an_honest_split_is_not_adopted(four: World) -> None:
    """10 / 9 / 10 and a liar at 14: no state has a majority, and the operator types what the liar says."""
    number = apart(four, behind=(1,))
    forged = forge(four, LIAR, number + 4)
    before = {node: four.record(node).shared.digest for node in (0, 1, 2)}
    operator(four, restart_from=number + 4)
    with pytest.raises(RoundError):
        four.run(most=8)
    after = {node: four.record(node).shared.digest for node in (0, 1, 2)}
    assert forged not in after.values(), "the forged state was adopted"
    assert after == before
