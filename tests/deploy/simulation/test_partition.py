"""Dividing a data set: no sample twice, the same parts for the same seed, errors before round 1."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pytest
from flwr_datasets.partitioner import Partitioner

from dictpfl.client.data.samples import Dataset, Samples
from dictpfl.common.errors import ConfigError, DataError
from dictpfl.common.settings import Data
from dictpfl.deploy.simulation.equal import equal_parts
from dictpfl.deploy.simulation.partition import Division, divide, split_share


def dataset(count: int = 200, classes: int = 4, groups: list[str] | None = None) -> Dataset:
    # The feature is the sample's number, so that parts can be told from one another.
    labels = np.arange(count) % classes
    names = None if groups is None else np.array([groups[i % len(groups)] for i in range(count)])
    return Dataset(Samples(np.arange(count, dtype=np.float32)[:, None], labels), classes, names)


def numbers(samples: Samples) -> list[int]:
    return [int(x) for x in samples.features[:, 0]]


def parts(division: Division) -> list[Samples]:
    return [
        division.public,
        division.test,
        *(s for institution in division.institutions for s in (institution.train, institution.validation)),
    ]


@pytest.mark.parametrize("partition", ["iid", "dirichlet", "column"])
def test_every_sample_is_in_exactly_one_part(partition: Any, capsys: pytest.CaptureFixture[str]) -> None:
    data = Data(partition=partition, public_share=0.1, column="g", alpha=1.0)
    division = divide(dataset(groups=["x", "y", "z"]), data, 3, seed=1)
    assert sorted(n for part in parts(division) for n in numbers(part)) == list(range(200))
    assert (len(division.test), len(division.public)) == (40, 20)
    assert np.bincount(division.test.labels).tolist() == [10] * 4
    assert [s.name for s in division.institutions] == (
        ["x", "y", "z"] if partition == "column" else ["site-1", "site-2", "site-3"]
    )
    assert capsys.readouterr().err == ""
    for institution in division.institutions:
        assert len(institution.validation) == max(
            1, round(0.15 * (len(institution.train) + len(institution.validation)))
        )


def test_iid_institutions_have_all_classes_alike() -> None:
    institutions = divide(dataset(400), Data(), 4, seed=1).institutions
    assert [len(s.train) + len(s.validation) for s in institutions] == [80] * 4
    counts = np.array([np.bincount(s.train.labels, minlength=4) for s in institutions])
    assert counts.min() > 5
    assert len({tuple(c) for c in counts.tolist()}) > 1, "drawn, not dealt"


def test_dirichlet_is_skewed() -> None:
    spread = {
        a: np.mean(
            [
                np.bincount(s.train.labels, minlength=4).std() / len(s.train)
                for s in divide(dataset(400), Data(partition="dirichlet", alpha=a), 3, seed=1).institutions
            ]
        )
        for a in (0.1, 100.0)
    }
    assert spread[0.1] > 2 * spread[100.0]
    ignored = Data(partition="dirichlet", sizes="equal", partition_options={"min_partition_size": 10})
    with pytest.raises(ConfigError, match=r"data\.partition_options has min_partition_size, and .* would be ignored"):
        divide(dataset(400), ignored, 3, seed=1)


@pytest.mark.parametrize("count", [400, 403])
def test_equal_sizes_are_those_of_iid_and_labels_follow_alpha(count: int) -> None:
    def sizes(division: Division) -> list[int]:
        return [len(s.train) + len(s.validation) for s in division.institutions]

    spread = {}
    for alpha in (0.1, 100.0):
        data = Data(partition="dirichlet", alpha=alpha, sizes="equal")
        division = divide(dataset(count), data, 3, seed=1)
        assert sizes(division) == sizes(divide(dataset(count), Data(), 3, seed=1))
        assert sorted(n for part in parts(division) for n in numbers(part)) == list(range(count))
        spread[alpha] = np.mean([np.bincount(s.train.labels, minlength=4).std() / len(s.train)
                                 for s in division.institutions])  # fmt: skip
        again = divide(dataset(count), data, 3, seed=1)
        assert [numbers(part) for part in parts(again)] == [numbers(part) for part in parts(division)]
    assert spread[0.1] > 2 * spread[100.0]


def test_labels_of_equal_sizes_are_those_of_the_draw_as_far_as_sizes_allow() -> None:
    """Where the draw happens to give equal sizes, nothing is moved: here each of four wants one class alone."""
    labels = np.repeat(np.arange(4), 100)
    with mock.patch.object(np.random, "default_rng", return_value=Whole()):
        found = equal_parts(labels, 4, 0.01, seed=1)
    assert [sorted(set(labels[part].tolist())) for part in found] == [[3], [2], [1], [0]]


class Whole(np.random.Generator):
    """A generator whose Dirichlet draws are all or nothing: class c goes to institution 3 - c."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(1))

    def dirichlet(self, alpha: Any, size: Any = None) -> Any:
        return np.eye(size)[::-1]


def test_equal_sizes_where_an_institution_wants_nothing_that_is_left() -> None:
    """At alpha = 0.01 most draws are all or nothing; sizes are equal all the same."""
    labels = np.array([0] * 90 + [1] * 10)
    for seed in range(20):
        found = equal_parts(labels, 3, 0.01, seed)
        assert [part.size for part in found] == [34, 33, 33]
        assert sorted(np.concatenate(found).tolist()) == list(range(100))


def test_columns_keep_their_samples() -> None:
    institutions = divide(dataset(groups=["x", "y"]), Data(partition="column", column="g"), 2, seed=1).institutions
    assert {n % 2 for n in numbers(institutions[0].train)} == {0}
    assert {n % 2 for n in numbers(institutions[1].train)} == {1}


@pytest.mark.parametrize("partition", ["iid", "dirichlet"])
def test_seeds(partition: Any) -> None:
    one, same, other = (
        [numbers(p) for p in parts(divide(dataset(), Data(partition=partition), 3, seed=s))] for s in (1, 1, 2)
    )
    assert one == same != other


def test_the_same_parts_in_another_process() -> None:
    code = f"""
import sys
from dataclasses import replace
sys.path[:0] = {sys.path!r}
import hashlib, numpy as np
from dictpfl.client.data.samples import Dataset, Samples
from dictpfl.deploy.simulation.partition import divide
from dictpfl.common.settings import Data
assert "flwr_datasets" not in sys.modules
d = Dataset(Samples(np.arange(200, dtype=np.float32)[:, None], np.arange(200) % 4), 4)
s = divide(d, Data(partition="dirichlet"), 3, seed=1)
print(hashlib.sha256(b"".join(x.train.features.tobytes() for x in s.institutions)).hexdigest())
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=120).stdout
    institutions = divide(dataset(), Data(partition="dirichlet"), 3, seed=1).institutions
    assert (
        found.decode().strip() == hashlib.sha256(b"".join(s.train.features.tobytes() for s in institutions)).hexdigest()
    )


@pytest.mark.parametrize(
    ("count", "share", "validation"), [(1, 0.15, 0), (4, 0.1, 0), (5, 0.1, 1), (2, 0.9, 1), (20, 0, 0)]
)
def test_validation_of_tiny_institutions(count: int, share: float, validation: int) -> None:
    institution = split_share(dataset(count, 1).samples, share, seed=1, name="x")
    assert (len(institution.validation), len(institution.train)) == (validation, count - validation)


def test_regression_is_divided_too() -> None:
    values = Dataset(Samples(np.arange(30.0)[:, None], np.linspace(0, 1, 30)), 1)
    assert len(divide(values, Data(), 3, seed=1).institutions) == 3
    with pytest.raises(ConfigError, match="for a regression"):
        divide(values, Data(partition="dirichlet"), 3, seed=1)


@pytest.mark.parametrize(
    ("count", "data", "participants", "error", "match"),
    [
        (5, Data(), 5, DataError, "4 samples are left for 5 institutions"),
        (12, Data(partition="dirichlet", alpha=0.001), 9, DataError, r"raise data\.alpha"),
        (60, Data(partition="column", column="g"), 3, DataError, r"names 2 institutions \(x, y\)"),
        (
            60,
            Data(partition_options={"shards": 2}),
            3,
            ConfigError,
            "partition_options has shards, .* 'iid' takes none",
        ),
    ],
)
def test_errors_before_the_first_round(count: int, data: Data, participants: int, error: Any, match: str) -> None:
    with pytest.raises(error, match=match):
        divide(dataset(count, groups=["x", "y"]), data, participants, seed=1)


def test_a_column_is_needed_for_groups() -> None:
    with pytest.raises(ConfigError, match=r"data\.column"):
        divide(dataset(), Data(partition="column"), 3, seed=1)


def test_a_group_that_the_test_split_took_whole_is_named() -> None:
    groups = np.array(["x"] * 19 + ["lonely"])
    found = set()
    for seed in range(30):
        try:
            divide(Dataset(Samples(np.ones((20, 1)), np.zeros(20, int)), 1, groups), Data(partition="column"), 2, seed)
        except DataError as error:
            found.add(str(error))
    assert found
    assert all(text.startswith("lonely has no training samples") for text in found)


def test_samples_of_nobody_are_told() -> None:
    with pytest.raises(DataError, match="samples to train on name no institution"):
        divide(dataset(60, groups=["x", "y", ""]), Data(partition="column", column="g"), 2, seed=1)


def test_no_samples_at_home_is_refused() -> None:
    with pytest.raises(DataError, match="north has no training samples"):
        split_share(Samples(np.ones((0, 2)), np.ones(0)), 0.1, seed=1, name="north")


def marked(count: int = 200, groups: list[str] | None = None) -> Dataset:
    """Every fifth sample is for the test, every tenth for validation."""
    plain = dataset(count, groups=groups)
    words = np.array(["test" if n % 5 == 4 else "validation" if n % 10 == 0 else "train" for n in range(count)])
    return replace(plain, splits=words)


@pytest.mark.parametrize("partition", ["iid", "dirichlet", "column"])
def test_what_the_data_mark_is_what_it_is_for(partition: Any) -> None:
    data = Data(partition=partition, public_share=0.1, column="g", alpha=1.0, test_share=0.7)
    whole = marked(groups=["x", "y", "z"])
    division = divide(whole, data, 3, seed=1)
    assert sorted(n for part in parts(division) for n in numbers(part)) == list(range(200))
    assert sorted(numbers(division.test)) == list(range(4, 200, 5)), "test_share is not used"
    assert len(division.public) == round(0.1 * 140), "of those that train, none of the validation samples"
    held = sorted(n for institution in division.institutions for n in numbers(institution.validation))
    assert held == list(range(0, 200, 10)), "validation_share is not used"
    assert division.test_groups is not None
    assert division.test_groups.tolist() == [["x", "y", "z"][n % 3] for n in numbers(division.test)]
    if partition == "column":
        for place, institution in enumerate(division.institutions):
            assert {n % 3 for part in (institution.train, institution.validation) for n in numbers(part)} == {place}


def test_without_validation_marks_each_institution_draws_its_own() -> None:
    whole = marked()
    assert whole.splits is not None
    two = replace(whole, splits=np.where(whole.splits == "validation", "train", whole.splits))
    for institution in divide(two, Data(validation_share=0.25), 4, seed=1).institutions:
        assert (len(institution.validation), len(institution.train)) == (10, 30)


def test_the_test_split_is_capped_by_a_draw_and_nobody_trains_on_the_rest() -> None:
    for whole in (dataset(), marked()):
        full = divide(whole, Data(), 3, seed=1)
        few = divide(whole, Data(test_limit=7), 3, seed=1)
        assert len(few.test) == 7
        assert set(numbers(few.test)) < set(numbers(full.test))
        assert parts(few)[2].features.tolist() == parts(full)[2].features.tolist()
        assert numbers(few.test) != numbers(divide(whole, Data(test_limit=7), 3, seed=2).test)


def test_marks_that_leave_nothing_are_refused() -> None:
    for words, match in (
        (["train"], "leaves 9 samples to train and 0 to test"),
        (["test"], "leaves 0 .* and 9 to test"),
    ):
        alone = replace(dataset(9), splits=np.array(words * 9))
        with pytest.raises(DataError, match=match):
            divide(alone, Data(split_column="s"), 3, seed=1)
        with pytest.raises(DataError, match=r"^data\.source 'mine:Scans' leaves"):
            divide(alone, Data(source="mine:Scans"), 3, seed=1)
    two = replace(dataset(12, groups=["x", "y"]), splits=np.array(["train", "validation"] * 5 + ["test", "validation"]))
    with pytest.raises(DataError, match="y has no training samples, only validation"):
        divide(two, Data(split_column="s", partition="column", column="g"), 2, seed=1)


class EveryOther(Partitioner):
    """A partitioner as a user writes it."""

    def __init__(self, num_partitions: int, first: int = 0) -> None:
        super().__init__()
        self._count, self._first = num_partitions, first

    def load_partition(self, partition_id: int) -> Any:
        return self.dataset.select(range((partition_id + self._first) % self._count, len(self.dataset), self._count))

    @property
    def num_partitions(self) -> int:
        return self._count


def test_a_partitioner_of_ones_own() -> None:
    said = {"partition": f"{__name__}:EveryOther", "validation_share": 0.0}
    plain, shifted = (
        divide(dataset(60), Data(**said, partition_options=options), 3, seed=1).institutions
        for options in ({}, {"first": 1})
    )
    assert [len(one.train) for one in plain] == [16, 16, 16]
    assert sorted(numbers(plain[1].train)) == sorted(numbers(shifted[0].train))


@pytest.mark.parametrize(
    ("partition", "match"),
    [
        ("dirichet", "'dirichet'; known: iid, .*`package.module:name`; did you mean 'dirichlet'"),
        ("Partitioner", "known: iid"),
        ("flwr_datasets.partitioner:Partitioner", "expected a class that derives from"),
        ("math:pi", "expected a class that derives from .* found 3.14"),
        ("no.such:Thing", "cannot load 'no.such:Thing'"),
    ],
)
def test_a_partitioner_that_is_none(partition: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        divide(dataset(60), Data(partition=partition), 3, seed=1)
