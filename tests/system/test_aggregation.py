"""Server-side rules in whole federations: encrypted as in clear, replayed by who comes late, and by who was killed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dictpfl.client.memory.snapshots import SLACK, seal_snapshot, snapshot_bytes
from dictpfl.deploy.audit.audit import audited
from dictpfl.deploy.simulation.simulate import simulate
from dictpfl.server.agreement import Agreement
from dictpfl.server.coordinator import AGREEMENT
from tests.support.federations import encrypted, tiny
from tests.support.harness import INSTITUTION_POINTS, World

pytestmark = pytest.mark.usefixtures("quiet")
RULES = {"average": 0, "momentum": 1, "adagrad": 2, "adam": 2, "yogi": 2}
"""Each with the number of moments that it keeps."""
LATE = 3


def ruled(rule: str, **changes: Any) -> dict[str, Any]:
    """Settings under which every part has to do: pruning, a refresh, momentum."""
    made = {"federation__rounds": 5, "pruning__tau": 1, "decomposition__refresh_every": 3}
    return made | {"aggregation__rule": rule, "aggregation__rate": 0.3} | changes


def all_rounds(world: World) -> list[bytes]:
    """Digests after each exchange; one institution misses the second round."""
    seen = []
    while not world.coordinator.finished:
        world.exchange(offline=[0] if world.exchanges == 1 else [])
        seen.append(world.digests()[-1])
    world.digest()
    world.close()
    return seen


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[World, bytes]]:
    """For each rule a federation of four as founded, and the digest where nobody is late and nothing dies."""
    made, folder = {}, tmp_path_factory.mktemp("undisturbed")
    for rule in RULES:
        world = World.found(tiny(**ruled(rule, federation__participants=4, federation__rounds=6)), folder / rule)
        keeping(world)
        other = world.copy(folder / f"{rule}-ran")
        for _ in range(5):
            other.exchange(offline=[LATE])
        other.run()
        made[rule] = world, other.digest()
        other.close()
    return made


def keeping(world: World, **changes: Any) -> None:
    path = world.coordinator_folder / AGREEMENT
    replace(Agreement.load(path), **({"snapshots_kept": 0, "snapshot_every": 0} | changes)).save(path)


@pytest.mark.parametrize("rule", RULES)
def test_encrypted_and_in_clear_have_the_same_states(rule: str, tmp_path: Path) -> None:
    settings = ruled(rule, federation__min_participants=2, toy_insecure=True)
    sealed, clear = (World.found(make(**settings), tmp_path / make.__name__) for make in (encrypted, tiny))
    assert all_rounds(sealed) == all_rounds(clear)
    state = sealed.record(0).shared
    assert (len(state.moments), len(state.records), state.updates) == (RULES[rule], 1, 5)
    assert all(moment.any() for moment in state.moments)
    for moment in state.moments[1:]:
        assert (moment >= 0).all()


def test_every_rule_makes_another_model(undisturbed: dict[str, tuple[World, bytes]]) -> None:
    assert len({digest for _, digest in undisturbed.values()}) == len(RULES)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("by", ["replay", "snapshot"])
def test_who_comes_late_has_the_same_state(
    rule: str, by: str, undisturbed: dict[str, tuple[World, bytes]], tmp_path: Path
) -> None:
    template, digest = undisturbed[rule]
    world = template.copy(tmp_path / "world")
    if by == "snapshot":
        keeping(world, snapshots_kept=1, snapshot_every=4)
    for _ in range(5):
        world.exchange(offline=[LATE])
    assert world.coordinator._journal.oldest == (4 if by == "snapshot" else 0)
    world.run()
    assert world.digest() == digest
    assert world.events(LATE, "jumped") == ([("jumped", 4)] if by == "snapshot" else [])
    for node in (0, LATE):
        moments = world.record(node).shared.moments
        assert len(moments) == RULES[rule]
        assert all(a.tobytes() == b.tobytes() for a, b in zip(moments, world.record(1).shared.moments, strict=True))
    world.close()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("point", ["after training", "after opening", "after store 1", "replying"])
def test_who_was_killed_applies_each_round_once(
    rule: str, point: str, undisturbed: dict[str, tuple[World, bytes]], tmp_path: Path
) -> None:
    """Three make a round, so that no round closes without the one that dies: the sums are those of the other run."""
    template, digest = undisturbed[rule]
    world = template.copy(tmp_path / "world")
    deaths = 0
    while (number := len(world.journal())) < 5:
        dies = {1: INSTITUTION_POINTS[point]} if world.exchanges in (1, 2, 4) else {}
        deaths += len(dies.keys() - world.exchange(dies, offline=[LATE]).keys())
        assert world.exchanges < 20, f"round {number} does not close"
    assert deaths == 3
    world.run()
    assert world.digest() == digest
    world.close()


@pytest.mark.parametrize("rule", RULES)
def test_snapshots_are_as_long_as_the_coordinator_is_told(
    rule: str, undisturbed: dict[str, tuple[World, bytes]]
) -> None:
    """It admits no longer one: what a rule remembers is in what genesis says."""
    genesis = undisturbed[rule][0].genesis
    whole, every_round = snapshot_bytes(genesis)
    state = genesis.start()
    keys = undisturbed[rule][0].institution(0)._keys
    assert whole - 2 * SLACK < len(seal_snapshot(keys, state)) + 8 * state.values.size <= whole
    assert every_round > 0
    average = undisturbed["average"][0].genesis
    assert whole - snapshot_bytes(average)[0] >= RULES[rule] * 8 * average.layout.size


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
def test_the_audit_replays_it(rule: str, tmp_path: Path) -> None:
    run = simulate(encrypted(**ruled(rule)), tmp_path / "run", engine="local", record=True)
    assert [f"{check.what}: {check.detail}" for check in audited(run.folder) if check.failed] == []
