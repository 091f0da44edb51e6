"""The language model narrowed: arms are of one shape, the audit places losses turned round, and a null is said first."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import narrow_language as subject
from dictpfl.client.compress.cutting.axes import axes_of
from dictpfl.client.compress.cutting.cut import cut
from lib import hybrid
from lib.arms import Cells, Study
from lib.machine import machine

FACTS = machine()


def cells(left: float) -> Cells:
    """Cells of all arms; of what is cut, so much of the messages is left."""
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for arm in subject.ARMS:
        for seed in (1, 2, 3):
            general, scratch = 4.5 + seed / 10, 6.0 + seed / 10
            place = {subject.CEILING: 1.0, subject.FLOOR: 0.0}.get(arm, left)
            back = {str(n): scratch - place * (scratch - general) for n in subject.STEPS["relearn"]}
            python = 5.0 if arm in (subject.FLOOR, subject.TAUGHT) else 4.0
            found[arm, seed] = {
                "steps": 1200, "samples": 19200, "parameters": 9, "after": python + seed / 50, "python": python + seed / 50,
                "messages": scratch, "relearnt": back, "machine": FACTS,
            }  # fmt: skip
    return Cells(Study("narrow_language", subject.measure, subject.ARMS, (1, 2, 3)), found)


@pytest.mark.parametrize(("left", "verdict"), [(0.9, "still there"), (0.1, "as if never learnt"), (0.3, "unclear")])
def test_what_is_left_is_placed_between_scratch_and_the_general_model(left: float, verdict: str) -> None:
    placed = subject.residuals(cells(left))
    assert {by[300].verdict for by in placed.values()} == {verdict}
    text = subject.page(cells(left))
    assert ("Nothing is harder to relearn" in text) == (left == 0.9)
    assert "NOT MET" not in text
    subject.draw(cells(left))


def test_a_cut_model_that_is_no_better_than_scratch_does_not_meet_what_was_asked() -> None:
    found = cells(0.9)
    for (arm, _), one in found.found.items():
        one["python"] = 4.9 if arm in subject.cut_arms(found) else 5.0
    assert [r.met for r in subject.requirements(found)] == [False, True]


def test_scratch_has_the_shape_of_what_is_cut() -> None:
    model = hybrid.fresh(1)
    kept = {n: np.arange(subject.SIZES[a.setting]) for n, a in axes_of(model).items() if a.setting in subject.SIZES}
    count = sum(p.numel() for p in cut(model, kept).parameters())
    assert count == sum(p.numel() for p in hybrid.fresh(1001, **subject.SIZES).parameters())


def test_an_arm_that_cannot_be_placed_has_no_verdict() -> None:
    found = cells(0.9)
    for one in found.found.values():
        one["relearnt"] = dict.fromkeys(one["relearnt"], 5.0)
    assert [r.met for r in subject.requirements(found)] == [True, False]
