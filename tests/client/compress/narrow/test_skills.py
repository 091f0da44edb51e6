"""Two skills are compared by the samples that they select: content, or numbers where samples are read when they are needed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dictpfl.client.compress.narrow.skills import require_disjoint, skill_of
from dictpfl.client.data.lazy import LazySamples
from dictpfl.client.data.samples import IGNORED, PADDING, Dataset, Samples
from dictpfl.common.errors import DataError
from dictpfl.common.settings import Data


def rows(first: int, last: int) -> Samples:
    numbers = np.arange(first, last)
    return Samples(np.outer(numbers, np.ones(3)).astype(np.float32), numbers % 2)


def test_common_samples_are_counted() -> None:
    require_disjoint((rows(0, 5), rows(5, 9)), (rows(9, 12), rows(12, 20)))
    # 400: beyond what is read at once.
    with pytest.raises(DataError, match="5 of the 395 samples"):
        require_disjoint((rows(0, 5), rows(5, 10)), (rows(8, 10), rows(7, 400)))


def test_the_label_is_part_of_a_sample() -> None:
    one = Samples(np.ones((2, 3), np.float32), np.array([0, 0]))
    require_disjoint((one,), (Samples(one.features, np.array([1, 1])),))


def test_filling_behind_tokens_is_none_of_it() -> None:
    ids = np.array([[5, 6, PADDING], [5, PADDING, 7]])
    wide = np.concatenate([ids, np.full((2, 4), PADDING)], axis=1)
    labels = np.where(ids == PADDING, IGNORED, ids)
    wider = np.concatenate([labels, np.full((2, 4), IGNORED)], axis=1)
    with pytest.raises(DataError, match="2 of the 2"):
        require_disjoint((Samples(ids, labels),), (Samples(wide, wider),))
    require_disjoint((Samples(ids[:1], labels[:1]),), (Samples(ids[1:], labels[1:]),))


@pytest.mark.parametrize(
    ("said", "classes"), [("grade [II]", (1,)), ("grade*", (0, 1)), ("*", (2,)), ("??", (3,)), ("1", (4,)), ("2", (2,))]
)
def test_a_class_is_found_by_its_name_before_it_is_a_pattern_or_a_number(said: str, classes: tuple[int, ...]) -> None:
    named = Dataset(
        Samples(np.zeros((5, 1), np.float32), np.arange(5)), 5, class_names=("grade I", "grade [II]", "*", "no", "1")
    )
    assert skill_of(f"classes={said}", named).classes == classes


class Drawn:
    """Reads another picture of a sample each time, as random transforms do."""

    steady = False
    digest = "pictures"

    def __init__(self) -> None:
        self.random = np.random.default_rng(0)

    def __len__(self) -> int:
        return 10

    def read(self, numbers: Any, seed: int, room: Any = None) -> tuple[Any, None]:
        del seed, room
        return self.random.normal(size=(len(numbers), 4)).astype(np.float32), None


def test_samples_that_are_read_when_needed_have_numbers() -> None:
    def lazy(*numbers: int) -> LazySamples:
        return LazySamples(Drawn(), Data(), np.array(numbers), np.zeros(len(numbers), np.int64))

    require_disjoint((lazy(0, 1), lazy(2)), (lazy(3, 4), lazy(5)))
    with pytest.raises(DataError, match="1 of the 3"):
        require_disjoint((lazy(0, 1), lazy(2)), (lazy(3, 1), lazy(5)))
