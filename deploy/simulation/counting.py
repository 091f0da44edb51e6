"""Classes of each institution, counted when a simulation is founded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dictpfl.client.data.samples import Dataset, Samples
from dictpfl.common.files import write_private
from dictpfl.deploy.runs.census import CENSUS
from dictpfl.deploy.simulation.partition import Division

_MOST = 200  # classes; beyond that a picture shows nothing


def write_census(dataset: Dataset, division: Division, folder: Path) -> None:
    """Count, and write classes.json; nothing for a regression, a language model, or hundreds of classes."""
    labels = dataset.samples.labels
    if labels.dtype != np.int64 or labels.ndim != 1 or dataset.outputs > _MOST:
        return
    names = dataset.class_names or tuple(str(n) for n in range(dataset.outputs))
    institutions = {
        institution.name: (
            _counts(institution.train, dataset.outputs) + _counts(institution.validation, dataset.outputs)
        ).tolist()
        for institution in division.institutions
    }
    counts = {
        "classes": list(names),
        "institutions": institutions,
        "test": _counts(division.test, dataset.outputs).tolist(),
    }
    write_private(folder / CENSUS, (json.dumps(counts, indent=1) + "\n").encode())


def _counts(samples: Samples, classes: int) -> NDArray[np.int64]:
    return np.bincount(samples.labels, minlength=classes) if len(samples) else np.zeros(classes, np.int64)
