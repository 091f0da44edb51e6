"""A budget of sent values: exactly so many in all, the same masks at a latecomer, and found again by the second implementation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dictpfl.common.errors import ConfigError
from dictpfl.common.law.layout import Kind, Layout
from dictpfl.common.law.pruning import History
from dictpfl.common.law.round import Law, begin
from dictpfl.common.messages.protocol import RoundKind
from dictpfl.common.rounds import Budget, Grid, Pruning
from dictpfl.deploy.audit.audit import audited
from dictpfl.deploy.simulation.simulate import simulate
from tests.support.federations import encrypted, tiny
from tests.support.harness import World

ROUNDS = 6
BUDGET: dict[str, Any] = {
    "federation__rounds": ROUNDS,
    "pruning__schedule": "logistic",
    "pruning__tau": 1,
    "pruning__budget": {"values": 1201, "slope": 8.0},
}


@settings(max_examples=200, deadline=None)
@given(st.data(), st.integers(1, 60), st.integers(0, 9), st.integers(1, 12), st.floats(-20, 20), st.booleans())
def test_rounds_send_exactly_the_budget_whatever_the_history(
    data: st.DataObject, prunable: int, always: int, rounds: int, slope: float, reactivation: bool
) -> None:
    entries = [("table", (prunable,), Kind.TABLE), *([("statistic", (always,), Kind.STATISTIC)] if always else [])]
    total = data.draw(st.integers(rounds * (always + 1), rounds * (always + prunable)))
    pruning = Pruning(
        schedule="logistic", tau=2, reactivation=reactivation, budget=Budget(values=total, slope=slope, centre=0.4)
    )
    agreed: dict[str, Any] = {"seed": b"\7" * 32, "federation": bytes(32), "capacity": 3, "sample_cap": 8}
    law = Law(Layout.of(entries), pruning, Grid(), payload_bits=30, rounds=rounds, **agreed)
    size, spent = prunable + always, 0
    for number in range(rounds):
        state = law.start(np.zeros(size))
        seed = data.draw(st.integers(0, 1 << 30))
        rng = np.random.default_rng(seed)
        idle = rng.integers(0, 3, size).astype(np.uint8)
        exponent = np.where(idle >= 2, rng.integers(1, 4, size), 0).astype(np.uint8)
        object.__setattr__(state, "history", History(idle, exponent))
        object.__setattr__(state, "updates", number)
        plan = begin(law, state, RoundKind.UPDATE)
        assert plan.mask[prunable:].all()
        active, reactivated = idle[:prunable] < 2, idle[:prunable] >= 2
        if plan.mask[:prunable][reactivated].any():
            assert plan.mask[:prunable][active].all()  # nobody comes back while an active one waits
        spent += plan.sent
    assert spent == total


def test_a_run_spends_it_all_and_an_audit_finds_the_same_masks(tmp_path: Path) -> None:
    run = simulate(encrypted(**BUDGET), tmp_path / "run", engine="local", record=True)
    sent = [record.sent for record in run.records if record.kind == "update"]
    assert len(sent) == ROUNDS
    assert sum(sent) == 1201
    assert sent == sorted(sent, reverse=True)
    assert sent[0] > 2 * sent[-1]
    checks = list(audited(tmp_path / "run"))
    assert [check for check in checks if check.failed] == []
    opened = simulate(tiny(**BUDGET), tmp_path / "identity", engine="local")
    assert run.summary["state_digest"] == opened.summary["state_digest"]


def test_a_latecomer_replays_the_same_masks(tmp_path: Path) -> None:
    world = World.found(tiny(**BUDGET | {"federation__participants": 4}), tmp_path / "world")
    for _ in range(4):
        world.exchange(offline=[3])
    world.run()
    assert len(world.digest()) == 32  # one digest of all four: had a mask differed, its sum would not have opened
    law = world.genesis.law
    plans = [begin(law, state, RoundKind.UPDATE) for state in world.states()]
    assert len({plan.mask.tobytes() for plan in plans}) == 1
    world.close()


def test_a_quota_is_sent_in_every_round(tmp_path: Path) -> None:
    run = simulate(tiny(pruning__quota=50, pruning__tau=1), tmp_path / "run", engine="local")
    assert len({record.sent for record in run.records if record.kind == "update"}) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pruning__schedule": "constant"}, "pruning.budget.values is 1201, but pruning.schedule is"),
        ({"pruning__budget": {}}, "pruning.budget.values is 0; say how many"),
        ({"pruning__schedule": "constant", "pruning__budget": {}, "pruning__quota": 5, "pruning__enabled": False}, "pruning.quota is 5"),
        ({"pruning__quota": 5}, "pruning.quota is 5, but pruning.schedule is"),
    ],
)  # fmt: skip
def test_what_contradicts_itself_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny(**BUDGET | change)


def test_a_budget_below_what_is_always_sent_names_the_least(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a budget of 5 over 6 rounds: expected from 6 to"):
        simulate(tiny(**BUDGET | {"pruning__budget": {"values": 5}}), tmp_path / "run", engine="local")
