"""Statistics of columns for `data.preprocessing`: moments and categories first, then histograms around them."""

from __future__ import annotations

import numpy as np

from dictpfl.client.data.columns import Columns
from dictpfl.client.data.preparing.statistics import (
    BINS,
    Bins,
    local_moments,
    moment_entries,
    moments,
)
from dictpfl.client.data.preparing.wide import RADIX_BITS
from dictpfl.client.training.tally import TALLIES, Form, Own, Subject
from dictpfl.common.arrays import Ints
from dictpfl.common.errors import ConfigError
from dictpfl.common.law.tally import MOMENTS, QUANTILES, Tally


@TALLIES.register(MOMENTS)
class ColumnMoments:
    """Numbers known and missing, exact sums and sums of squares of each column of numbers; counts of each category."""

    def form(self, subject: Subject) -> Form:
        """See `dictpfl.client.training.tally.Source.form`.

        Raises:
            ConfigError: a federation that prepares no columns.
        """
        return Form(moment_entries(_columns(subject)), RADIX_BITS, 0, "none")

    def local(self, subject: Subject, own: Own, tally: Tally) -> Ints:  # noqa: ARG002 -- as the others
        """See `dictpfl.client.training.tally.Source.local`: of training samples alone."""
        return local_moments(_columns(subject), own.training.features)


@TALLIES.register(QUANTILES)
class ColumnQuantiles:
    """Histogram of each column of which a quantile is wanted, in bins that follow from the pooled moments."""

    def form(self, subject: Subject) -> Form:
        """See `dictpfl.client.training.tally.Source.form`."""
        return Form([("histograms", (len(_columns(subject).ranked), BINS))], RADIX_BITS, 0, "none")

    def local(self, subject: Subject, own: Own, tally: Tally) -> Ints:  # noqa: ARG002 -- as the others
        """See `dictpfl.client.training.tally.Source.local`."""
        columns = _columns(subject)
        found = moments(columns, own.opened[MOMENTS].sums)
        counts = [
            Bins.of(found[name]).counts(own.training.features[:, columns.names.index(name)]) for name in columns.ranked
        ]
        return np.concatenate(counts)


def _columns(subject: Subject) -> Columns:
    if not subject.config.data.preprocessing.on:
        raise ConfigError(
            f"the tallies {MOMENTS!r} and {QUANTILES!r} belong to data.preprocessing, which says nothing; set it, and leave them out of tallies"
        )
    return Columns.of(subject.config.data)
