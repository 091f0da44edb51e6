"""Bytes that a benchmark counts are those of the protocol; tables against bytes are read off rightly."""

from __future__ import annotations

from pathlib import Path

import pytest

import bits
from dictpfl.deploy.simulation.simulate import simulate
from lib.courses import at_bytes, averaged, by_round, smoothed
from tests.support.federations import encrypted


def course(accuracy: list[float], cost: float, seed: int = 1) -> dict:
    count = len(accuracy)
    return {"seed": seed, "accuracy": accuracy, "bytes": [cost] * count, "sent": [10] * count,
            "values": {"model": 100}}  # fmt: skip


def test_accuracy_at_a_budget() -> None:
    found = course([60.0, 90.0, 90.0, 90.0], 5.0)
    assert smoothed(found) == [60.0, 75.0, 80.0, 90.0]
    assert at_bytes(found, 4.0) is None
    assert at_bytes(found, 5.0) == 60.0
    assert at_bytes(found, 19.0) == 80.0
    assert at_bytes(found, 1e9) == 90.0


def test_the_mean_of_seeds() -> None:
    both = averaged([course([90.0] * 3, 5.0), course([80.0] * 3, 7.0, seed=2)])
    assert (both["accuracy"], both["bytes"], both["share"]) == (85.0, 18.0, 10.0)
    assert both["spread"] == pytest.approx(7.071, abs=1e-3)
    assert both["spent"] == [6.0, 12.0, 18.0]
    assert both["seeds"] == {"1": 90.0, "2": 80.0}


def test_bytes_are_those_of_the_product(tmp_path: Path) -> None:
    run = simulate(encrypted(federation__rounds=3, grid__value_bits=3), tmp_path / "run", engine="local")
    rounds = by_round(run)
    closing = run.records[-1]  # only measures, and is no update
    assert sum(rounds["bytes"]) + closing.bytes_up + closing.bytes_down == sum(run.summary["bytes"].values())
    assert rounds["accuracy"] == [100 * accuracy for accuracy in run.summary["test_history"]]
    assert [len(rounds[name]) for name in ("bytes", "accuracy", "sent")] == [3, 3, 3]


def arms(*accuracies: float) -> dict:
    """Arms of headrooms 0.5, 1, 2 ... with these accuracies on seed 1."""
    return {bits.Arm("MLP, pruned", 4, 0.5 * 2**i): {1: course([value] * 3, 5.0)} for i, value in enumerate(accuracies)}


@pytest.mark.parametrize(
    ("accuracies", "best", "further"),
    [([90.0, 95.0, 91.0], 1.0, []), ([96.0, 95.0, 91.0], 0.5, [0.25]), ([90.0, 91.0], 1.0, [2.0])],
)
def test_headroom_is_tuned_until_the_best_is_inside_the_grid(
    accuracies: list[float], best: float, further: list[float]
) -> None:
    measured = arms(*accuracies)
    chosen = bits.tuned(measured, "MLP, pruned", 4, [1])
    assert chosen.headroom == best
    assert [arm.headroom for arm in bits.beyond(measured, chosen)] == further
