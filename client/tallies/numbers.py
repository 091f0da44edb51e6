"""Digits of all institutions' numbers: how often each leads, comes second and ends, so that pooled data can be held against Benford's law.

An institution writes its counts once, from its raw tables (`dictpfl audit numbers --data FILE --into FOLDER`): training samples are
often scaled. Who laid none there seals zeros, so that nobody learns who. With `samples = true` the features of its training samples are
counted then, for simulations and for tables that nobody scaled; where `data.preprocessing` scales them, as they stood before.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from dictpfl.client.data.digits import FILE, PARTS, Histogram, histogram, read_numbers, words_of
from dictpfl.client.data.preparing.preparation import preparation_of
from dictpfl.client.training.tally import TALLIES, Form, Own, Subject
from dictpfl.common.arrays import Ints
from dictpfl.common.law.tally import Tally

NAME = "numbers"
_BOUND = 30


@TALLIES.register(NAME)
class Numbers:
    """Counts of digits, as they are: the tally is that of the pooled tables, to the last one."""

    raw = True

    def __init__(self, samples: bool = False) -> None:  # noqa: FBT001, FBT002 -- an option of the configuration, by name
        """Say whether training samples stand in for a file that is missing."""
        self._samples = samples

    def form(self, subject: Subject) -> Form:  # noqa: ARG002 -- the same for every model
        """See `dictpfl.client.training.tally.Source.form`."""
        return Form([(part, (size,)) for part, size in PARTS.items()], _BOUND, 0, "none")

    def local(self, subject: Subject, own: Own, tally: Tally) -> Ints | None:  # noqa: ARG002 -- as the others
        """See `dictpfl.client.training.tally.Source.local`; None where nothing is counted.

        Raises:
            ConfigError, DataError: a file that is none of counts.
        """
        path = own.folder / FILE
        if path.exists():
            return read_numbers(path).counts
        if not (self._samples and len(own.training)):  # none, where none of its samples belongs to a skill
            return None
        features, preparing = own.training.features, preparation_of(subject.config)
        if preparing is not None:  # categories are numbered, which says nothing
            names = preparing.columns.names
            features = features[:, [names.index(name) for name in preparing.columns.numbers]]
        return _of_samples(features).counts


def _of_samples(features: NDArray[Any]) -> Histogram:
    """Count the digits of each feature, written with the fewest digits that give it back."""
    columns = features.reshape(len(features), -1).T
    words = (words_of(column) if column.dtype.kind == "f" else map(str, column) for column in columns)
    return sum((histogram(column) for column in words), Histogram.empty())


def opened(sums: Ints) -> Histogram:
    """Counts of a tally's opened sums."""
    return Histogram(sums)
