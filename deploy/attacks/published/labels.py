"""Labels and their counts, read off the head's gradient."""

from __future__ import annotations

from dictpfl.deploy.attacks.case import Case
from dictpfl.deploy.attacks.inversion_run import LabelAttack
from dictpfl.deploy.attacks.labels import Counts, infer_counts
from dictpfl.deploy.attacks.registry import ATTACKS


@ATTACKS.register("labels")
class HeadLabels(LabelAttack):
    """Counts from the head's bias, or from its rows where the bias is not known."""

    title = "labels"
    source = "Zhao et al. 2020; Geng et al. 2021"

    def counts(self, case: Case, seed: int) -> Counts:
        """See `LabelAttack.counts`."""
        return infer_counts(case.recorded.matcher(case.number), case.recorded.genesis.layout, case.target(), seed)
