"""The two tables as the experiments read them, by centre."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dictpfl.client.data.source import load_dataset
from dictpfl.common.config import FederationConfig
from lib.clinical.linear import Kind, Rows
from lib.clinical.published import PUBLISHED, Published
from lib.machine import ROOT

KINDS: Mapping[str, Kind] = {"heart": "logistic", "tcga": "cox"}


@dataclass(frozen=True)
class Table:
    """A data set, divided by centre and by its own split.

    Attributes:
        name: of the experiment.
        kind: of the linear model.
        train, test: rows by centre.
    """

    name: str
    kind: Kind
    train: Mapping[str, Rows]
    test: Mapping[str, Rows]

    @property
    def published(self) -> Published:
        """What FLamby says of it."""
        return PUBLISHED[self.name]

    @classmethod
    def load(cls, name: str, **changes: object) -> Table:
        """Read the data of an experiment; `changes`: other values of `[data]`."""
        data = FederationConfig.load(ROOT / "experiments" / f"{name}.toml").data.model_copy(update=changes)
        dataset = load_dataset(data, 0)
        assert dataset.groups is not None
        assert dataset.splits is not None
        rows = Rows(dataset.samples.features.astype(np.float64), dataset.samples.labels.astype(np.float64))
        centres = sorted(set(dataset.groups.tolist()))
        parts = {
            split: {c: rows.take(np.flatnonzero((dataset.groups == c) & (dataset.splits == split))) for c in centres}
            for split in ("train", "test")
        }
        return cls(name, KINDS[name], parts["train"], parts["test"])
