"""Sources of tallies by name: their forms, what they may return, and what is refused before anything is sealed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from dictpfl.client.data.samples import Samples
from dictpfl.client.model.twin import Twin, decompose
from dictpfl.client.training.counting import SAMPLE_BITS, Counting, counting_form
from dictpfl.client.training.tally import Form, Own, Subject, integers_of, source_of, tallies_of
from dictpfl.client.training.task import load_task
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError, ModelError
from dictpfl.common.law.tally import Tally

NAME = f"{__name__}:Given"
RETURNED: dict[str, Any] = {}


class Given:
    """Returns what a test wants."""

    def form(self, subject: Subject) -> Form:
        return RETURNED.get("form", Form([("a", (2,)), ("b", (1,))], 3, 4, RETURNED.get("weight", "samples")))

    def local(self, subject: Subject, own: Own, tally: Tally) -> Any:
        return RETURNED["values"]


@pytest.fixture(scope="module")
def twin() -> Twin:
    return decompose(torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Linear(8, 4)), rank=1)


def subject(twin: Twin, *opening: str, **options: dict[str, Any]) -> Subject:
    said = {"tallies.opening": list(opening or (NAME,)), "tallies.options": options}
    return Subject(twin, FederationConfig.of({}, said), 4, (3,))


def own(labels: Any = (0, 1, 1, 3), validation: Any = (2,)) -> Own:
    made = [Samples(np.ones((len(some), 3), np.float32), np.asarray(some)) for some in (labels, validation)]
    return Own(made[0], made[1], load_task("classification"), Path())


def sealed(twin: Twin, values: Any, share: float = 1.0, **changes: Any) -> Any:
    RETURNED.clear()
    RETURNED.update(changes, values=values)
    about = subject(twin)
    (tally,) = tallies_of(about)
    return integers_of(tally, about, own(), share)


def test_values_are_weighted_rounded_and_clipped(twin: Twin) -> None:
    """q = clip(rint(ldexp(w v, 4)), +-2^7), half to even."""
    values = np.array([0.03125, -0.09375, 99.0])
    assert sealed(twin, values).tolist() == [0, -2, 128]
    assert sealed(twin, values, 0.5).tolist() == [0, -1, 128]
    assert sealed(twin, -values, 0.01).tolist() == [0, 0, -16]
    assert sealed(twin, values, 0.5, weight="none").tolist() == [0, -2, 128], "what is not weighted counts as it is"


def test_integers_are_sealed_as_they_are(twin: Twin) -> None:
    found = sealed(twin, np.array([5, -128, 128]), 0.5, weight="none")
    assert found.tolist() == [5, -128, 128]
    assert found.dtype == np.int64


def test_nothing_to_say_is_zeros_and_is_said_at_home(twin: Twin) -> None:
    with capture_logs() as said:
        assert sealed(twin, None).tolist() == [0, 0, 0]
        assert sealed(twin, np.array([1.0, 0.0, 0.0])).any()
    (line,) = said
    assert "zeros are sealed" in line["event"]
    assert {k: line[k] for k in ("tally", "training", "validation")} == {"tally": NAME, "training": 4, "validation": 1}


@pytest.mark.parametrize(
    ("values", "weight", "words"),
    [
        (
            np.zeros(4),
            "samples",
            r"returned float64 of shape \(4,\), expected float64 of shape \(3,\) \(weight 'samples'\)",
        ),
        (np.zeros(3, np.float32), "samples", "returned float32"),
        (np.zeros(3, np.int64), "samples", "returned int64 of shape .*, expected float64 of"),
        (np.zeros(3, np.int32), "none", "returned int32 of shape .*, expected float64 or int64 of"),
        (np.array([0, 0, 129]), "none", "integers from 0 to 129, the agreed bound is 128"),
        (np.array([0.0, np.nan, 0.0]), "samples", "not finite in 'a'; nothing is sealed"),
        (np.array([0.0, 0.0, np.inf]), "none", "not finite in 'b'"),
    ],
)
def test_what_no_round_could_carry_is_refused(twin: Twin, values: Any, weight: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        sealed(twin, values, weight=weight)


def test_a_source_of_another_release_is_refused(twin: Twin) -> None:
    """Its vector would be added to those of another form."""
    RETURNED.clear()
    RETURNED["values"] = np.zeros(3)
    about = subject(twin)
    (tally,) = tallies_of(about)
    RETURNED["form"] = Form([("a", (3,))], 3, 4)
    with pytest.raises(ConfigError, match="gives it another form here than genesis says"):
        integers_of(tally, about, own(), 1.0)


def test_names_and_options_are_looked_at_before_round_1(twin: Twin) -> None:
    with pytest.raises(ConfigError, match=r"tallies.opening, tallies.closing: 'nothing' is unknown; known: .*classes"):
        source_of("nothing", {})
    with pytest.raises(ConfigError, match=r"tallies.options.classes: .*'spilt'"):
        tallies_of(subject(twin, "classes", classes={"spilt": "training"}))
    with pytest.raises(ConfigError, match="split is 'test', expected 'training' or 'validation'"):
        tallies_of(subject(twin, "classes", classes={"split": "test"}))
    RETURNED["form"] = Form([], 3, 4)
    with pytest.raises(ConfigError, match="has no entries"):
        tallies_of(subject(twin))


def test_classes_counts_labels(twin: Twin) -> None:
    about = subject(twin, "classes")
    (tally,) = tallies_of(about)
    assert [entry.name for entry in tally.layout.entries] == ["labels", "samples", "clipped"]
    assert integers_of(tally, about, own(), 0.25).tolist() == [1, 2, 0, 1, 4, 0]
    there = subject(twin, "classes", classes={"split": "validation"})
    assert integers_of(tally, there, own(), 0.25).tolist() == [0, 0, 1, 0, 1, 0]
    assert integers_of(tally, there, own(validation=np.zeros(0, np.int64)), 0.25).tolist() == [0] * 6


@pytest.mark.parametrize("labels", [[0, 4], [0.5, 1.0]], ids=str)
def test_classes_of_what_are_none_are_refused(twin: Twin, labels: Any) -> None:
    about = subject(twin, "classes")
    (tally,) = tallies_of(about)
    with pytest.raises(ModelError, match=r"counts labels 0 to 3, found .* leave the tally out for this task"):
        integers_of(tally, about, own(labels), 1.0)


# sums over samples


def counting(size: int = 2, most: int = 1, fraction: int = 3) -> Counting:
    return Counting(counting_form([("v", (size,))], most=most, fraction=fraction).tally("votes", "opening"))


@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), max_size=30), st.randoms(use_true_random=False))
def test_sums_depend_on_no_order_and_no_division(rows: list[tuple[float, float]], random: Any) -> None:
    values = np.array(rows, dtype=np.float64).reshape(-1, 2)
    whole = counting()
    whole.add(values)
    shuffled = random.sample(rows, len(rows))
    total = np.zeros(4, np.int64)
    while shuffled:
        count, part = random.randint(1, len(shuffled)), counting()
        part.add(np.array(shuffled[:count]))
        total += part.total()
        del shuffled[:count]
    assert whole.total().tolist() == total.tolist()


def test_clipped_samples_are_counted() -> None:
    """A sample counts once, whatever of it was clipped; 2^most itself is not."""
    made = counting()
    made.add(np.array([[2.0, -2.0], [2.1, 0.0], [9.0, -9.0], [0.0625, 0.1875]]))
    assert made.total().tolist() == [16 + 16 + 16 + 0, -16 + 0 - 16 + 2, 4, 2]


def test_what_cannot_be_counted_is_refused() -> None:
    made = counting()
    for wrong, words in (
        (np.zeros(2), r"samples of shape \(2,\), expected \(samples, 2\)"), (np.zeros((1, 3)), r"\(1, 3\)"),
        (np.array([[0.0, np.nan]]), "not finite in 'v'"),
    ):  # fmt: skip
        with pytest.raises(ModelError, match=words):
            made.add(wrong)
    with pytest.raises(ConfigError, match="all of them are 0"):
        counting_form([("v", (1,))], most=-5, fraction=4)
    many = counting(size=1)
    many.add(np.zeros((1 << SAMPLE_BITS, 1)))
    with pytest.raises(ModelError, match=f"at most {1 << SAMPLE_BITS} samples"):
        many.add(np.zeros((1, 1)))


def test_a_million_samples_fit_the_bound() -> None:
    """The largest sums that anybody may count are within what the tally says an institution sends."""
    tally = counting_form([("v", (1,))], most=3, fraction=5).tally("votes", "opening")
    made = Counting(tally)
    made.add(np.full((1 << SAMPLE_BITS, 1), 99.0))
    assert made.total().tolist() == [tally.largest, 1 << SAMPLE_BITS, 1 << SAMPLE_BITS]
