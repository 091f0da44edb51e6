"""What tests read off SEAL's objects: `from ciphertexts import second_of`."""

from __future__ import annotations

from typing import Any

import numpy as np
import tenseal.sealapi as seal

from common.ckks import Scratch, context
from common.parameters import CKKSParameters
from common.polynomials import Words, data_prime, polynomials
from common.transform import blank


def second_of(ciphertext: Any, parameters: CKKSParameters) -> Words:
    """c1 of a ciphertext whose c0 is zero: SEAL compresses zeros, so that something is added before saving, and taken off."""
    saved, prime, both = blank(parameters), np.uint64(data_prime(parameters)), seal.Ciphertext()
    carrier = Scratch().fill(seal.Ciphertext(), parameters, saved)
    seal.Evaluator(context(parameters)).add(carrier, ciphertext, both)
    own, found = polynomials(saved, parameters, 2), polynomials(Scratch().bytes_of(both), parameters, 2)
    assert np.array_equal(own[0], found[0]), "c0 is not zero"
    return (found[1] + prime - own[1]) % prime
