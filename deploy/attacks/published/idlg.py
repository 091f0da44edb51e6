"""Improved deep leakage: labels first, then images by squared distance."""

from __future__ import annotations

from dictpfl.deploy.attacks.case import Case
from dictpfl.deploy.attacks.gradient_matching import guess_labels, match_gradients
from dictpfl.deploy.attacks.inversion import Effort, Reconstruction
from dictpfl.deploy.attacks.inversion_run import InversionAttack
from dictpfl.deploy.attacks.registry import ATTACKS


@ATTACKS.register("idlg")
class IDLG(InversionAttack):
    """Labels read off the head's gradient, then images (Zhao, Mopuri, Bilen 2020)."""

    title = "iDLG"
    source = "Zhao, Mopuri, Bilen 2020"
    largest_batch = 1

    def reconstruct(self, case: Case, effort: Effort, seed: int) -> Reconstruction:
        """See `InversionAttack.reconstruct`."""
        return match_gradients(case, effort, seed, guess_labels(case, seed), squared=True, guessed=True)
