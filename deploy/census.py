"""Classes of each institution in a simulation, for its report: a deployment knows nothing of the kind."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.data import Dataset, Samples
from client.partition import Division
from common.files import write_private

CENSUS = "classes.json"
_MOST = 200  # classes; beyond that a picture shows nothing


@dataclass(frozen=True)
class Census:
    """Samples by class: `sites` of each institution (training and validation), `test` of the test split."""

    classes: tuple[str, ...]
    sites: Mapping[str, tuple[int, ...]]
    test: tuple[int, ...]

    @property
    def imbalance(self) -> float:
        """Samples of the largest class over those of the smallest that occurs at all, all institutions together."""
        total = np.array(list(self.sites.values())).sum(axis=0)
        return float(total.max() / total[total > 0].min())

    def missing(self, site: str) -> int:
        """Classes of which an institution has no sample."""
        return sum(count == 0 for count in self.sites[site])

    def skew(self, site: str) -> float:
        """Total variation between the institution's mixture of classes and that of all: 0 alike, 1 nothing in common."""
        total = np.array(list(self.sites.values()), dtype=float).sum(axis=0)
        own = np.array(self.sites[site], dtype=float)
        return float(0.5 * np.abs(own / own.sum() - total / total.sum()).sum())


def write_census(dataset: Dataset, division: Division, folder: Path) -> None:
    """Count, and write classes.json; nothing for a regression, a language model, or hundreds of classes."""
    labels = dataset.samples.labels
    if labels.dtype != np.int64 or labels.ndim != 1 or dataset.outputs > _MOST:
        return
    names = dataset.class_names or tuple(str(n) for n in range(dataset.outputs))
    sites = {
        site.name: (_counts(site.train, dataset.outputs) + _counts(site.validation, dataset.outputs)).tolist()
        for site in division.sites
    }
    found = {"classes": list(names), "sites": sites, "test": _counts(division.test, dataset.outputs).tolist()}
    write_private(folder / CENSUS, (json.dumps(found, indent=1) + "\n").encode())


def read_census(folder: Path) -> Census | None:
    """What `write_census` wrote, or None."""
    try:
        found = json.loads((folder / CENSUS).read_bytes())
    except FileNotFoundError:
        return None
    sites = {name: tuple(counts) for name, counts in found["sites"].items()}
    return Census(tuple(found["classes"]), sites, tuple(found["test"]))


def _counts(samples: Samples, classes: int) -> NDArray[np.int64]:
    return np.bincount(samples.labels, minlength=classes) if len(samples) else np.zeros(classes, np.int64)
