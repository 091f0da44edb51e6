"""What an adversary can read of one institution's update: values, and which of them it has.

Attackers are granted more than they would have: shared state before the round and the seed, hence the mask, the steps
and the model (`GRANTED`). Only the key is kept from them. What they cannot read, they read all the same as if it were
not encrypted, so that every attack runs to its end on everything that crossed the wire.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from client.replay import payload
from common.genesis import Genesis
from common.masking import Bools
from common.opening import IdentityOpener
from common.packing import Ints
from common.parameters import CKKSParameters
from common.polynomials import first_polynomial
from common.round import Plan, carried
from common.state import Floats
from common.wire import UPLOAD, Blob
from deploy.privacy.views import CollusionView, InstitutionView, SeenUpload

GRANTED = (
    "the model's code, W0 and the dictionaries",
    "shared state before the attacked round, and the seed: hence every mask and every quantisation step",
    "the sample counts, the batch size and the number of local steps",
    "the optimiser and its learning rate",
    "the range of a feature's values, and the test split as a public sample of the same kind of data",
)
"""What attackers know beyond their view; more than a coordinator or an institution would."""


@dataclass(frozen=True)
class Observation:
    """One update as an adversary has it.

    Attributes:
        update: w * (local - x), float64, shape (size,); zero where nothing is known.
        known: which coordinates it has, shape (size,).
        real: False where ciphertexts were read as if they were numbers.
    """

    update: Floats
    known: Bools
    real: bool = True


def on_the_wire(genesis: Genesis, plan: Plan, seen: SeenUpload) -> Observation:
    """What the coordinator reads of an upload: everything, the part in clear, or ciphertexts taken for numbers."""
    parsed = Blob.parse(seen.blob, genesis.uploads, direction=UPLOAD, kind=plan.kind, round=plan.round)
    clear = np.frombuffer(parsed.clear, dtype="<i4").astype(np.int64)
    needed = payload(genesis, plan)
    known = np.zeros(genesis.layout.size, dtype=bool)
    known[plan.clear.index] = True
    if genesis.config.encryption.sealer == "identity":
        known[plan.sealed.index] = True
        components = IdentityOpener(genesis.parameters).open(parsed.sealed, parsed.header.item_length)[:needed]
        return Observation(carried(genesis.law, plan, components, clear), known)
    if known.any():
        return Observation(carried(genesis.law, plan, np.zeros(needed, dtype=np.int64), clear), known)
    components = residues(parsed.sealed, parsed.header.item_length, genesis.parameters)[:needed]
    known[plan.sealed.index] = True
    return Observation(carried(genesis.law, plan, components, clear), known, real=False)


def residues(sealed: memoryview, item_length: int, parameters: CKKSParameters) -> Ints:
    """A ciphertext's own numbers as if they were components: what somebody without a key would take for values."""
    items = [sealed[i : i + item_length] for i in range(0, len(sealed), item_length)]
    words = np.concatenate([first_polynomial(item, parameters)[: parameters.components] for item in items])
    bits = parameters.payload_bits
    words >>= np.uint64(parameters.scale_bits)
    return (words & np.uint64((1 << bits) - 1)).astype(np.int64) - (1 << (bits - 1))


def in_collusion(view: CollusionView, seen: SeenUpload) -> Observation:
    """What coordinator and one institution together read of another's upload."""
    update, _ = view.open(seen)
    return Observation(update, view.institution.sums[seen.round].plan.mask)


def of_the_others(view: InstitutionView, number: int, own: Floats) -> Observation:
    """What an institution reads of a sum: everybody else's updates together, its own subtracted."""
    opened = view.sums[number]
    return Observation(opened.total - own, opened.plan.mask)
