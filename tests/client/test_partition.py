"""Dividing a data set: no sample twice, the same parts for the same seed, errors before round 1."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from client.data import Dataset, Samples
from client.partition import Division, divide, split_site
from common.errors import ConfigError, DataError
from common.settings import Data


def dataset(count: int = 200, classes: int = 4, groups: list[str] | None = None) -> Dataset:
    # The feature is the sample's number, so that parts can be told from one another.
    labels = np.arange(count) % classes
    names = None if groups is None else np.array([groups[i % len(groups)] for i in range(count)])
    return Dataset(Samples(np.arange(count, dtype=np.float32)[:, None], labels), classes, names)


def numbers(samples: Samples) -> list[int]:
    return [int(x) for x in samples.features[:, 0]]


def parts(division: Division) -> list[Samples]:
    return [division.public, division.test, *(s for site in division.sites for s in (site.train, site.validation))]


@pytest.mark.parametrize("partition", ["iid", "dirichlet", "column"])
def test_every_sample_is_in_exactly_one_part(partition: Any, capsys: pytest.CaptureFixture[str]) -> None:
    data = Data(partition=partition, public_share=0.1, column="g", alpha=1.0)
    division = divide(dataset(groups=["x", "y", "z"]), data, 3, seed=1)
    assert sorted(n for part in parts(division) for n in numbers(part)) == list(range(200))
    assert (len(division.test), len(division.public)) == (40, 20)
    assert np.bincount(division.test.labels).tolist() == [10] * 4
    assert [s.name for s in division.sites] == (
        ["x", "y", "z"] if partition == "column" else ["site-1", "site-2", "site-3"]
    )
    assert capsys.readouterr().err == ""
    for site in division.sites:
        assert len(site.validation) == max(1, round(0.15 * (len(site.train) + len(site.validation))))


def test_iid_sites_have_all_classes_alike() -> None:
    sites = divide(dataset(400), Data(), 4, seed=1).sites
    assert [len(s.train) + len(s.validation) for s in sites] == [80] * 4
    counts = np.array([np.bincount(s.train.labels, minlength=4) for s in sites])
    assert counts.min() > 5
    assert len({tuple(c) for c in counts.tolist()}) > 1, "drawn, not dealt"


def test_dirichlet_is_skewed() -> None:
    spread = {
        a: np.mean(
            [
                np.bincount(s.train.labels, minlength=4).std() / len(s.train)
                for s in divide(dataset(400), Data(partition="dirichlet", alpha=a), 3, seed=1).sites
            ]
        )
        for a in (0.1, 100.0)
    }
    assert spread[0.1] > 2 * spread[100.0]


def test_columns_keep_their_samples() -> None:
    sites = divide(dataset(groups=["x", "y"]), Data(partition="column", column="g"), 2, seed=1).sites
    assert {n % 2 for n in numbers(sites[0].train)} == {0}
    assert {n % 2 for n in numbers(sites[1].train)} == {1}


@pytest.mark.parametrize("partition", ["iid", "dirichlet"])
def test_seeds(partition: Any) -> None:
    one, same, other = (
        [numbers(p) for p in parts(divide(dataset(), Data(partition=partition), 3, seed=s))] for s in (1, 1, 2)
    )
    assert one == same != other


def test_the_same_parts_in_another_process() -> None:
    code = f"""
import sys
sys.path[:0] = {sys.path!r}
import hashlib, numpy as np
from client.data import Dataset, Samples
from client.partition import divide
from common.settings import Data
assert "flwr_datasets" not in sys.modules
d = Dataset(Samples(np.arange(200, dtype=np.float32)[:, None], np.arange(200) % 4), 4)
s = divide(d, Data(partition="dirichlet"), 3, seed=1)
print(hashlib.sha256(b"".join(x.train.features.tobytes() for x in s.sites)).hexdigest())
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=120).stdout
    sites = divide(dataset(), Data(partition="dirichlet"), 3, seed=1).sites
    assert found.decode().strip() == hashlib.sha256(b"".join(s.train.features.tobytes() for s in sites)).hexdigest()


@pytest.mark.parametrize(
    ("count", "share", "validation"), [(1, 0.15, 0), (4, 0.1, 0), (5, 0.1, 1), (2, 0.9, 1), (20, 0, 0)]
)
def test_validation_of_tiny_sites(count: int, share: float, validation: int) -> None:
    site = split_site(dataset(count, 1).samples, share, seed=1, name="x")
    assert (len(site.validation), len(site.train)) == (validation, count - validation)


def test_regression_is_divided_too() -> None:
    values = Dataset(Samples(np.arange(30.0)[:, None], np.linspace(0, 1, 30)), 1)
    assert len(divide(values, Data(), 3, seed=1).sites) == 3
    with pytest.raises(ConfigError, match="for a regression"):
        divide(values, Data(partition="dirichlet"), 3, seed=1)


@pytest.mark.parametrize(
    ("count", "data", "participants", "error", "match"),
    [
        (5, Data(), 5, DataError, "4 samples are left for 5 institutions"),
        (12, Data(partition="dirichlet", alpha=0.001), 9, DataError, r"raise data\.alpha"),
        (60, Data(partition="column", column="g"), 3, DataError, r"names 2 institutions \(x, y\)"),
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


def test_no_samples_at_home_is_refused() -> None:
    with pytest.raises(DataError, match="north has no training samples"):
        split_site(Samples(np.ones((0, 2)), np.ones(0)), 0.1, seed=1, name="north")
