"""Reading one institution's update as an adversary: values, and which of them it has.

Attackers are granted more than they would have: shared state before the round and the seed, hence the mask, the steps
and the model (`GRANTED`). Only the key is kept from them. Ciphertexts are not read: taken for numbers they are noise under
any cipher, a broken one as well, so that nothing would follow (`dictpfl.deploy.attacks.ciphertexts` has what they are held to).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dictpfl.common.ckks.opening import IdentityOpener
from dictpfl.common.errors import ConfigError
from dictpfl.common.genesis import Genesis, components
from dictpfl.common.law.finishing import carried
from dictpfl.common.law.pruning import Bools
from dictpfl.common.law.round import Plan
from dictpfl.common.law.state import Floats
from dictpfl.common.law.tags import TAGS
from dictpfl.common.messages.wire import UPLOAD, Blob
from dictpfl.deploy.attacks.views import CollusionView, InstitutionView, SeenUpload

GRANTED = (
    "the model's code, W0 and the dictionaries",
    "shared state before the attacked round, and the seed: hence every mask and every quantisation step",
    "the sample counts, the batch size and the number of local steps",
    "the optimiser and its learning rate",
    "the range of a feature's values, and the test split as a public sample of the same kind of data",
)
"""Knowledge of attackers beyond their view; more than a coordinator or an institution would have."""


@dataclass(frozen=True)
class Observation:
    """Update as an adversary has it.

    Attributes:
        update: w * (local - x), float64, shape (size,); zero where nothing is known.
        known: coordinates that it has, shape (size,).
    """

    update: Floats
    known: Bools


def in_clear(genesis: Genesis, plan: Plan, seen: SeenUpload) -> Observation:
    """Read what an upload holds in clear, as the coordinator can.

    Raises:
        ConfigError: everything in it is encrypted, so that there are no values to read.
    """
    parsed = Blob.parse(seen.blob, genesis.limits, direction=UPLOAD, kind=plan.kind, round=plan.round)
    clear = np.frombuffer(parsed.clear, dtype="<i4").astype(np.int64)
    needed = components(genesis, plan)
    read, known = np.zeros(needed, dtype=np.int64), np.zeros(genesis.layout.size, dtype=bool)
    known[plan.clear.index] = True
    if genesis.config.encryption.sealer == "identity":
        known[plan.mask] = True
        read = IdentityOpener(genesis.parameters).open(parsed.words()[:-TAGS], (), needed)
    if not known.any():
        raise ConfigError(
            "an attack on data needs values, and all of this upload is encrypted; attack a method that leaves some in clear, "
            "and audit this one (dictpfl.deploy.attacks.ciphertexts)"
        )
    return Observation(carried(genesis.law, plan, read, clear), known)


def in_collusion(view: CollusionView, seen: SeenUpload) -> Observation:
    """Read another's upload as coordinator and one institution together."""
    update, _ = view.open(seen)
    return Observation(update, view.institution.sums[seen.round].plan.mask)


def of_the_others(view: InstitutionView, number: int, own: Floats) -> Observation:
    """Read a sum as an institution: everybody else's updates together, its own subtracted."""
    opened = view.sums[number]
    return Observation(opened.total - own, opened.plan.mask)
