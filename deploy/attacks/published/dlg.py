"""Deep leakage from gradients: images and labels by squared distance."""

from __future__ import annotations

from dictpfl.deploy.attacks.case import Case
from dictpfl.deploy.attacks.gradient_matching import match_gradients
from dictpfl.deploy.attacks.inversion import Effort, Reconstruction
from dictpfl.deploy.attacks.inversion_run import InversionAttack
from dictpfl.deploy.attacks.registry import ATTACKS


@ATTACKS.register("dlg")
class DLG(InversionAttack):
    """Images and labels together (Zhu, Liu, Han 2019)."""

    title = "DLG"
    source = "Zhu, Liu, Han 2019"
    largest_batch = 1

    def reconstruct(self, case: Case, effort: Effort, seed: int) -> Reconstruction:
        """See `InversionAttack.reconstruct`."""
        return match_gradients(case, effort, seed, None, squared=True)
