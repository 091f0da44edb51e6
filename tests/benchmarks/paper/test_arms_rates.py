"""An arm's cell gives a tuned rate to what the method that it was tuned for trains."""

from __future__ import annotations

import pytest

from lib.paper.arms import ARMS
from lib.paper.catalogue import arm


@pytest.mark.parametrize(
    ("label", "rated"), [("fedhe-full", "dense"), ("adaptive-batch-4", "dense"), ("paper-adaptive-batch-4", "tables")]
)
def test_what_a_rate_is_of(label: str, rated: str) -> None:
    point = next(point for point in ARMS["adaptive-batch"].points if point.label == label)
    cell = arm("adaptive-batch", point, 1)
    training = cell.config(**cell.at(2e-3)).training
    assert cell.rated == rated
    assert training.learning_rate == 2e-3
    file = cell.config().training
    ratio = file.dense_learning_rate / file.learning_rate if rated == "tables" else 0.0
    assert training.dense_learning_rate == 2e-3 * ratio
    assert cell.decimals == (0 if label == "fedhe-full" else 4)
