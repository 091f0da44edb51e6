"""What was trained is delivered or owed: error feedback over lost and counted uploads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dictpfl.common.law.layout import Kind
from tests.support.federations import encrypted, tiny
from tests.support.harness import INSTITUTION_POINTS, Oracle, World

pytestmark = pytest.mark.usefixtures("quiet")

FAITHFUL = {"pruning__residual_decay": 1.0, "pruning__tau": 1, "pruning__s": 0.7}


@pytest.mark.parametrize("pruning", [True, False])
@pytest.mark.parametrize("sealer", ["identity", "ckks"])
def test_lost_and_counted_uploads(pruning: bool, sealer: str, tmp_path: Path) -> None:
    config = (tiny if sealer == "identity" else encrypted)(
        federation__participants=5, federation__rounds=5, pruning__enabled=pruning, **FAITHFUL
    )
    world, oracle = World.found(config, tmp_path / "world"), Oracle()
    with oracle.watching():
        world.exchange()
        world.exchange(lost=[1])
        world.exchange(lost=[1, 3])
        world.exchange({2: INSTITUTION_POINTS["after store 2"]}, offline=[0])
        world.run()
        world.digest()
        oracle.check(world)
    counted = {upload for _, aggregate in world.journal() for upload in aggregate.counted}
    assert len(set(oracle.delivered) - counted) >= 3, "some uploads were lost"
    if pruning:
        assert any(np.any(world.record(node).residual.values) for node in world.nodes)
    world.close()


def test_a_single_institution_that_misses_out_delivers_all_of_it_later(tmp_path: Path) -> None:
    """Clipping and rounding aside nothing is owed in the end: the lost upload travels with the next one."""
    config = tiny(
        federation__participants=5, federation__rounds=3, pruning__enabled=False, grid__value_bits=8, grid__headroom=2.0
    )
    world, oracle = World.found(config, tmp_path / "world"), Oracle()
    with oracle.watching():
        world.exchange(lost=[1])
        assert np.any(world.record(1).pending.missed.values)  # type: ignore[union-attr]
        world.run()
        oracle.check(world)
    record = world.record(1)
    cap = world.genesis.sample_cap
    own = [upload for upload, owner in oracle.owner.items() if owner == world.home(1).name]
    trained = sum(oracle.trained[u] * (min(oracle.samples[u], cap) / cap) for u in own)
    assert np.abs(record.residual.values).max() < np.abs(trained).max() / 20
    world.close()


def test_nothing_is_owed_of_a_running_statistic(tmp_path: Path) -> None:
    """It is measured anew in every round: with the next upload it would count twice, and a variance fall below 0."""
    config = tiny(
        federation__participants=5, federation__rounds=4, model__source="cnn", model__options={}, decomposition__rank=1
    )
    world = World.found(config, tmp_path / "world")
    statistics = world.genesis.layout.coordinates(Kind.STATISTIC)
    assert statistics.any()
    for _ in range(3):
        world.exchange(lost=[1])
        missed = world.record(1).pending.missed.values  # type: ignore[union-attr]
        assert not missed[statistics].any()
        assert missed[~statistics].any()
    world.run()
    assert not world.record(1).residual.values[statistics].any()
    values = world.record(0).shared.values
    for entry in world.genesis.layout.entries:
        if entry.name.endswith("running_var"):
            assert values[entry.span].min() > 0
    world.close()
