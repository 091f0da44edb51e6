"""Influence by layer of all institutions' samples: which blocks the federation's task leaves untrained (LayerIF, arXiv 2505.23811).

Two numbers a block, each institution's divided by their sum over blocks, so that every one has the same say for its weight and the
scale of its loss does not matter. What is allotted by them is decided by whoever founds the next federation (docs/decisions/0057).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dictpfl.client.compress.influence.layers import Measure, layer_influence, share_of_each
from dictpfl.client.compress.influence.solvers import MOST
from dictpfl.client.compress.influence.tables import tables_of
from dictpfl.client.data.samples import Samples
from dictpfl.client.training.tally import TALLIES, Form, Own, Subject
from dictpfl.client.training.task import require_single, task_of
from dictpfl.common.errors import ConfigError
from dictpfl.common.law.seeds import small_seed
from dictpfl.common.law.tally import Tally

NAME, INFLUENCE, GRADIENT = "layerif", "influence", "gradient"
_BOUND, _FRACTION = 1, 30


@TALLIES.register(NAME)
class LayerIF:
    """Share of each block in the influence of an institution's training samples on its validation loss, and in their gradients' norms."""

    def __init__(
        self,
        samples: int = 64,
        validation: int = 32,
        solver: str = "exact",
        damping: float = 0.1,
        part: str = "positive",
        top: float = 0.25,
    ) -> None:
        """Choose samples and figure.

        Args:
            samples: training samples of an institution, drawn by the configuration's seed.
            validation: validation samples, likewise.
            solver, damping, part, top: see `dictpfl.client.compress.influence.layers.Measure`.

        Raises:
            ConfigError: numbers out of range.
        """
        if not (1 <= samples <= MOST and validation >= 1):
            raise ConfigError(
                f"tallies.options.{NAME}: samples is {samples} and validation {validation}; expected 1 to {MOST} and at least 1"
            )
        self.samples, self.validation = samples, validation
        try:
            self.measure = Measure(solver, damping, part, top)
        except ConfigError as error:
            raise ConfigError(f"tallies.options.{NAME}: {error}") from error

    def form(self, subject: Subject) -> Form:
        """See `dictpfl.client.training.tally.Source.form`.

        Raises:
            ConfigError: a federation without tables.
            ModelError: a task whose loss belongs to samples together.
        """
        require_single(task_of(subject.config.measuring), f'the tally "{NAME}"')
        blocks = dict.fromkeys(
            w.block for w in tables_of(subject.twin, subject.config.decomposition.layers)[1].values()
        )
        entries = [(f"{what}/{block}", (1,)) for what in (INFLUENCE, GRADIENT) for block in blocks]
        return Form(entries, _BOUND, _FRACTION)

    def local(self, subject: Subject, own: Own, tally: Tally) -> NDArray[np.float64] | None:  # noqa: ARG002 -- as the others
        """See `dictpfl.client.training.tally.Source.local`; None without validation samples."""
        if not len(own.validation):
            return None
        model, weights, narrowed = tables_of(subject.twin, subject.config.decomposition.layers)
        seed = subject.config.seed.to_bytes(8, "little")
        found = layer_influence(
            model, _drawn(own.training, self.samples, seed), _drawn(own.validation, self.validation, seed), own.task,
            measure=self.measure, weights=weights, narrowed=narrowed,
        )  # fmt: skip
        shares = [share_of_each(found.scores), share_of_each(found.gradients)]
        return np.array([value for each in shares for value in each.values()])


def _drawn(samples: Samples, count: int, seed: bytes) -> Samples:
    if count >= len(samples):
        return samples
    draw = np.random.default_rng(small_seed(seed, NAME))
    return samples.take(np.sort(draw.permutation(len(samples))[:count]))
