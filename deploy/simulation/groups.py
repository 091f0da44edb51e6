"""Every institution's own test figure, where the data name the institution of each test sample (`data.column`)."""

from __future__ import annotations

import io
import statistics
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from dictpfl.client.data.samples import Samples
from dictpfl.client.training.pooled import Metrics
from dictpfl.client.training.speed import Precision
from dictpfl.client.training.task import Task, measured_whole
from dictpfl.client.training.train import Measured, evaluate
from dictpfl.common.errors import DataError
from dictpfl.common.files import write_private

TEST_GROUPS = "test_groups.npy"


def write_groups(names: NDArray[np.str_] | None, folder: Path) -> None:
    """Write the institution of each test sample beside the samples, in their order; nothing where nobody knows it."""
    if names is None:
        return
    buffer = io.BytesIO()
    np.save(buffer, names, allow_pickle=False)
    write_private(folder / TEST_GROUPS, buffer.getvalue())


class TestSplit:
    """The test split of a simulation, whole and by institution."""

    __test__ = False  # no class of tests, whatever pytest reads in its name

    def __init__(self, samples: Samples, groups: NDArray[np.str_] | None = None) -> None:
        """Divide the samples.

        Args:
            samples: all of the split.
            groups: the institution of each, shape (n,); None: not known.

        Raises:
            DataError: another number of groups than of samples.
        """
        if groups is not None and groups.shape != (len(samples),):
            raise DataError(
                f"{TEST_GROUPS} names the institutions of {groups.size} test samples, there are {len(samples)}; found the "
                "federation anew"
            )
        self.samples = samples
        names = [] if groups is None else sorted(set(groups.tolist()))
        self.parts = {str(name): samples.take(np.flatnonzero(groups == name)) for name in names}

    @classmethod
    def load(cls, samples: Samples, folder: Path) -> TestSplit:
        """Read what `write_groups` left in the folder, if it left anything.

        Raises:
            DataError: damaged, or of another test split.
        """
        path = folder / TEST_GROUPS
        if not path.exists():
            return cls(samples)
        try:
            return cls(samples, np.load(path, allow_pickle=False))
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"cannot read {path}: {error}; found the federation anew") from error

    @property
    def counts(self) -> dict[str, int]:
        """Test samples of each institution."""
        return {name: len(part) for name, part in self.parts.items()}

    def measure(
        self,
        module: nn.Module,
        task: Task,
        batch_size: int = 0,
        metrics: Metrics | None = None,
        precision: Precision | None = None,
    ) -> tuple[Measured, dict[str, float]]:
        """Measure a model on the whole split, and on each institution's part of it.

        Returns:
            The whole split's sums; the mean metric of each institution, empty where nobody knows it.
        """
        by_name = {
            name: evaluate(module, part, task, batch_size=batch_size, metrics=metrics, precision=precision)
            for name, part in self.parts.items()
        }
        figures = {name: part.metric_sum / part.count for name, part in by_name.items() if part.count}
        if not by_name or measured_whole(task):
            whole = evaluate(module, self.samples, task, batch_size=batch_size, metrics=metrics, precision=precision)
            return whole, figures
        each = by_name.values()
        count, loss, metric = (sum(getattr(m, name) for m in each) for name in ("count", "loss_sum", "metric_sum"))
        sums = tuple(np.sum(parts, axis=0) for parts in zip(*(m.sums for m in each), strict=True))
        return Measured(count, loss, metric, sums), figures


def mean_of(figures: Mapping[str, float]) -> float | None:
    """Plain mean over institutions, however many samples each has; None without any."""
    return statistics.fmean(figures.values()) if figures else None
