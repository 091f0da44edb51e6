"""The best model so far and when to stop: held to what a person would say who has all the figures on a sheet."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError
from dictpfl.common.law.selection import Best, Course, score
from dictpfl.common.rounds import Selection

figures = st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.625, 0.75, 1.0]) | st.floats(-8, 8), max_size=30)


def followed(scores: list[float], selection: Selection) -> list[Course]:
    course, found = Course(), []
    for number, value in enumerate(scores):
        course = course.followed(selection, Best(value, number, 0, np.array([float(number)])))
        found.append(course)
    return found


def stops_at(scores: list[float], patience: int, delta: float) -> int | None:
    """The measurement after which nobody trains: with the whole sheet at hand."""
    counted = 0
    for number, value in enumerate(scores):
        if value > scores[counted] + delta:
            counted = number
        elif number - counted >= patience:
            return number
    return None


@given(figures)
def test_the_best_is_the_first_of_the_highest(scores: list[float]) -> None:
    for number, course in enumerate(followed(scores, Selection())):
        seen = scores[: number + 1]
        assert course.best is not None
        assert course.best.score == max(seen)
        assert course.best.updates == seen.index(max(seen))
        assert course.best.values.tolist() == [course.best.updates]


@given(figures, st.integers(1, 5), st.sampled_from([0.0, 0.1, 0.3, 2.0]))
def test_it_stops_when_figures_stall_and_never_starts_again(scores: list[float], patience: int, delta: float) -> None:
    selection = Selection(patience=patience, min_delta=delta)
    wanted = stops_at(scores, patience, delta)
    for number, course in enumerate(followed(scores, selection)):
        assert course.stopped(selection) == (wanted is not None and number >= wanted)


def test_without_patience_it_never_stops() -> None:
    assert not any(course.stopped(Selection()) for course in followed([1.0] + [0.0] * 50, Selection()))


@given(figures, st.integers(1, 5), st.sampled_from([0.0, 0.1, 0.3]), st.data())
def test_measuring_a_model_more_often_changes_nothing_about_the_stop(
    scores: list[float], patience: int, delta: float, data: st.DataObject
) -> None:
    """A coordinator may ask for it at any time, as it does where a run ends; then the run goes on with the same model."""
    selection, course = Selection(patience=patience, min_delta=delta), Course()
    for number, (value, plain) in enumerate(zip(scores, followed(scores, selection), strict=True)):
        measured = Best(value, number, 0, np.array([float(number)]))
        for _ in range(data.draw(st.integers(0, 3))):
            course = course.followed(selection, measured, trains=False)
        course = course.followed(selection, measured)
        assert (course.mark, course.waited) == (plain.mark, plain.waited)
        assert course.best is not None
        assert plain.best is not None
        assert course.best.score == plain.best.score


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection(), 0.75),
        (Selection(higher=False), -0.75),
        (Selection(by="loss"), -1.5),
        (Selection(by="loss", higher=False), -1.5),
    ],
)
def test_more_is_better(selection: Selection, expected: float) -> None:
    assert score(selection, 4, 6.0, 3.0) == expected


@pytest.mark.parametrize("changes", [{"selection.by": "none"}, {"data.validation_share": 0.0}])
def test_patience_without_anything_to_measure_is_refused(changes: dict[str, object]) -> None:
    FederationConfig.of({}, changes)
    with pytest.raises(ConfigError, match="nothing is measured to stop by"):
        FederationConfig.of({}, {"selection.patience": 3, **changes})
