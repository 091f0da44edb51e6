"""dictpfl attack experiments/privacy_digits.toml --attacks head-bias: the label of a single sample, from one bias."""

import numpy as np

from dictpfl.deploy.attacks.case import Case
from dictpfl.deploy.attacks.inversion_run import LabelAttack
from dictpfl.deploy.attacks.labels import Counts, head_entries


class HeadBias(LabelAttack):
    """Cross-entropy pushes one bias of the head up, that of the label, and all others down."""

    title = "head's bias"
    source = "Zhao, Mopuri, Bilen 2020"
    largest_batch = 1

    def counts(self, case: Case, seed: int) -> Counts:
        """How often each class was in each victim's samples, (victims, outputs)."""
        genesis = case.recorded.genesis
        _, bias = head_entries(genesis.layout, genesis.outputs)
        counts = np.zeros((len(case.victims), genesis.outputs), dtype=np.int64)
        if bias is not None:
            for row, victim in zip(counts, case.victims, strict=True):
                row[case.observation(victim).update[bias.span].argmax()] = len(victim.batches)
        return counts
