"""Inputs of covered weights: which columns are loud, for Wanda's scores in a federation that learns thresholds (docs/decisions/0044)."""

from __future__ import annotations

import numpy as np

from dictpfl.client.compress.sparse.inputs import Squares, calibrate
from dictpfl.client.model.sparse.scores import Floats
from dictpfl.client.model.sparse.twin import ThresholdTwin
from dictpfl.client.training.tally import TALLIES, Form, Own, Subject
from dictpfl.common.errors import ConfigError
from dictpfl.common.law.seeds import small_seed
from dictpfl.common.law.tally import Tally
from dictpfl.common.settings import ACTIVATIONS

_FRACTION = 24


@TALLIES.register(ACTIVATIONS)
class Activations:
    """Mean square of each input column over an institution's calibration tokens, divided by its mean over columns.

    So each weight's vector has mean 1, whatever the scale of its inputs and however many tokens there were: only the order of
    columns within a row matters. One column can hold all of it, so that values go up to the number of columns.
    """

    def form(self, subject: Subject) -> Form:
        """See `dictpfl.client.training.tally.Source.form`.

        Raises:
            ConfigError: a federation without thresholds.
        """
        weights = _twin(subject).plain
        widest = max(w.shape[1] for w in weights.values())
        entries = [(name, (w.groups, w.shape[1])) for name, w in weights.items()]
        return Form(entries, bound=max(1, (widest - 1).bit_length()), fraction=_FRACTION)

    def local(self, subject: Subject, own: Own, tally: Tally) -> Floats:  # noqa: ARG002 -- as the others
        """See `dictpfl.client.training.tally.Source.local`: on W0, by `sparsity.calibration` training samples drawn by the seed.

        Samples may be few, unlike those that a weight is ranked by at home: others' are in the sum, and no small institution stops a
        federation.

        Raises:
            DataError: inputs that are not finite.
            ModelError: a weight that no sample reaches.
        """
        twin, count = _twin(subject), subject.config.sparsity.calibration
        samples = own.training
        if count < len(samples):
            draw = np.random.default_rng(small_seed(subject.config.seed.to_bytes(8, "little"), "calibration"))
            samples = samples.take(np.sort(draw.permutation(len(samples))[:count]))
        squares = Squares()
        calibrate(twin.dense, twin.plain, samples, squares.see)
        squares.require_finite()
        return np.concatenate([_normalised(squares.sums[name]).reshape(-1) for name in twin.plain])


def _normalised(sums: Floats) -> Floats:
    """Divide each group's sums by their mean; zeros where there is no input."""
    mean = sums.mean(axis=1, keepdims=True)
    found: Floats = np.divide(sums, mean, out=np.zeros_like(sums), where=mean > 0)
    return found


def _twin(subject: Subject) -> ThresholdTwin:
    if not isinstance(subject.twin, ThresholdTwin):
        raise ConfigError(
            f"the tally {ACTIVATIONS!r} says what thresholds are ranked by, and this federation has none; set sparsity.method = "
            '"lua", or leave the tally out'
        )
    return subject.twin
