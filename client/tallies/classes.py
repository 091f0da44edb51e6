"""Counts of labels: how many samples of each class all institutions have together."""

from __future__ import annotations

from typing import Literal

import numpy as np

from dictpfl.client.training.counting import Counting, counting_form
from dictpfl.client.training.tally import TALLIES, Form, Own, Subject
from dictpfl.common.arrays import Ints
from dictpfl.common.errors import ConfigError, ModelError
from dictpfl.common.law.tally import Tally

_AT_ONCE = 4096  # of samples


@TALLIES.register("classes")
class Classes:
    """Samples of each class, for tasks whose labels are numbers of classes."""

    def __init__(self, split: Literal["training", "validation"] = "training") -> None:
        """Choose the samples to count.

        Raises:
            ConfigError: another split.
        """
        if split not in ("training", "validation"):
            raise ConfigError(f"tallies.options.classes: split is {split!r}, expected 'training' or 'validation'")
        self._split = split

    def form(self, subject: Subject) -> Form:
        """See `dictpfl.client.training.tally.Source.form`."""
        return counting_form([("labels", (subject.outputs,))])

    def local(self, subject: Subject, own: Own, tally: Tally) -> Ints:
        """See `dictpfl.client.training.tally.Source.local`.

        Raises:
            ModelError: labels that are no numbers of classes.
        """
        labels = np.asarray((own.training if self._split == "training" else own.validation).labels)
        is_class = labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer)
        if not is_class or not ((labels >= 0) & (labels < subject.outputs)).all():
            raise ModelError(
                f"tally {tally.name!r} counts labels 0 to {subject.outputs - 1}, found {labels.dtype} of shape {labels.shape}"
                f"{f', {labels.min()} to {labels.max()}' if is_class else ''}; leave the tally out for this task"
            )
        counting, one_hot = Counting(tally), np.eye(subject.outputs)
        for start in range(0, len(labels), _AT_ONCE):
            counting.add(one_hot[labels[start : start + _AT_ONCE]])
        return counting.total()
