"""Inverting gradients: images by cosine distance and total variation."""

from __future__ import annotations

from dictpfl.deploy.attacks.case import Case
from dictpfl.deploy.attacks.gradient_matching import guess_labels, match_gradients
from dictpfl.deploy.attacks.inversion import Effort, Reconstruction
from dictpfl.deploy.attacks.inversion_run import InversionAttack
from dictpfl.deploy.attacks.registry import ATTACKS


@ATTACKS.register("cosine")
class Cosine(InversionAttack):
    """Labels read off the head's gradient, then images by cosine distance (Geiping et al. 2020)."""

    title = "cosine"
    source = "Geiping et al. 2020"

    def reconstruct(self, case: Case, effort: Effort, seed: int) -> Reconstruction:
        """See `InversionAttack.reconstruct`."""
        return match_gradients(case, effort, seed, guess_labels(case, seed), squared=False, guessed=True)
