"""Inverting gradients by an attacker who was told the labels."""

from __future__ import annotations

import torch

from dictpfl.deploy.attacks.case import Case
from dictpfl.deploy.attacks.gradient_matching import match_gradients
from dictpfl.deploy.attacks.inversion import Effort, Reconstruction
from dictpfl.deploy.attacks.inversion_run import InversionAttack
from dictpfl.deploy.attacks.registry import ATTACKS


@ATTACKS.register("cosine-labels-known")
class CosineLabelsKnown(InversionAttack):
    """Images by cosine distance, with the true labels (Geiping et al. 2020)."""

    title = "cosine, labels known"
    source = "Geiping et al. 2020"

    def reconstruct(self, case: Case, effort: Effort, seed: int) -> Reconstruction:
        """See `InversionAttack.reconstruct`."""
        labels = torch.stack([torch.stack([torch.from_numpy(b.labels) for b in v.batches]) for v in case.victims])
        return match_gradients(case, effort, seed, labels, squared=False)
