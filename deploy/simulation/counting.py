"""Classes of a simulation when it is founded: their order, and how many samples each institution has of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dictpfl.client.data.samples import Dataset, Samples
from dictpfl.client.data.source import COLUMNS
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import DataError
from dictpfl.common.files import write_private
from dictpfl.deploy.runs.census import CENSUS
from dictpfl.deploy.simulation.partition import Division

_MOST = 200  # classes; beyond that a picture shows nothing
_LETTERED = (*COLUMNS, "imagefolder", "videofolder")
"""Sources that number words by their letters."""


def require_ordered(config: FederationConfig, dataset: Dataset) -> None:
    """Refuse words in the order of their letters where the order of classes means something.

    Raises:
        DataError: `high, low, medium`, of which nobody said an order; `low` would be one class from `medium`, and two from none.
    """
    training, names = config.measuring, dataset.class_names
    asked = training.task == "ordinal" or {"kappa", "class-distance"} & {training.metric, *training.metrics}
    # Two have no order that matters, numbers have theirs, and what a function of one's own names is said.
    is_unsaid = "classes" not in config.data.options and config.data.source in _LETTERED
    is_numbered = all(name.isdecimal() for name in names) and list(names) == sorted(names, key=int)
    if asked and is_unsaid and len(names) > 2 and list(names) == sorted(names) and not is_numbered:  # noqa: PLR2004 -- two classes
        raise DataError(
            f'the classes are {", ".join(names[:10])}, in the order of their letters, and training.task = "ordinal" and the metrics kappa and '
            "class-distance count how far they are apart; set data.options.classes to all of them, from the lowest to the highest"
        )


def write_census(config: FederationConfig, dataset: Dataset, division: Division, folder: Path) -> None:
    """Count, and write classes.json; nothing for a regression, a language model, pairs, whose labels are not read, or hundreds of classes."""
    labels = dataset.samples.labels
    if (
        config.measuring.task == "contrastive"
        or labels.dtype != np.int64
        or labels.ndim != 1
        or dataset.outputs > _MOST
    ):
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
