"""Checks of parameters and of the key."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from dictpfl.deploy.audit.checks.bounds import RATE, chi_square, uniformity
from dictpfl.deploy.audit.checks.check import Check
from dictpfl.deploy.audit.cipher.sealed import Parameters
from dictpfl.deploy.audit.folder import RunFolder
from dictpfl.deploy.audit.replay.agreement import Agreement
from dictpfl.deploy.audit.replay.identity import federation_id

ERROR_VARIANCE = 10.5
"""Variance of an encryption's error: a centred binomial of 42 bits."""
_DEVIATIONS, _TOLERANCE, _SUM_BITS = 8.5, 0.25, 59


def checks(run: RunFolder) -> Iterator[Check]:
    """Check parameters and key of an encrypted run."""
    p = run.agreement.parameters
    yield Check.every("parameters keep noise below the tolerance", 1, [*_parameter_faults(p)])
    faults = [f"{home.name}: another genesis" for home in run.homes if not _agrees(run, home)]
    yield Check.every("the federation id is that of every institution's genesis", len(run.homes), faults)
    yield Check.every(
        "institutions know the same members, and hold their own private keys", len(run.homes), [*_unknown(run)]
    )
    if not p.encrypted:
        return
    names = [home.name for home in run.homes]
    faults = [
        f"{name}: the key's fingerprint is not that of its content, or of genesis"
        for name, key in zip(names, run.keys, strict=True)
        if not key.fingerprint == key.named == run.agreement.fingerprint
    ]
    faults += [
        f"{name}: the key is for other parameters than genesis names"
        for name, key in zip(names, run.keys, strict=True)
        if key.parameters != _parameters(run.homes[0])
    ]
    faults += [
        f"{name}: another key" for name, key in zip(names, run.keys, strict=True) if key.saved != run.keys[0].saved
    ]
    yield Check.every("institutions hold one key, whose fingerprint genesis names", len(names), faults)
    s = p.ring.centred(p.ring.coefficients(run.keys[0].secret))
    yield Check.every("the key is ternary", s.size, [f"a coefficient {c}" for c in s[np.abs(s) > 1].tolist()])
    counts = np.array([(s == value).sum() for value in (-1, 0, 1)])
    low, high = chi_square(2)
    yield Check.within("the key's coefficients are uniform", s.size, uniformity(counts), (max(0.0, low), high), RATE)
    pairs = np.bincount((s[0::2] + 1).clip(0, 2) * 3 + (s[1::2] + 1).clip(0, 2), minlength=9)
    low, high = chi_square(8)
    yield Check.within(
        "neighbours in the key are independent", s.size // 2, uniformity(pairs), (max(0.0, low), high), RATE
    )


def _agrees(run: RunFolder, home: Path) -> bool:
    """Compare an institution's genesis with the first one's, in what the id is of and in what it names beside it."""
    own, first = Agreement.read(home), run.agreement
    is_same = (own.federation, own.fingerprint, own.parameters) == (
        first.federation,
        first.fingerprint,
        first.parameters,
    )
    is_same &= _parameters(home) == _parameters(run.homes[0])
    try:
        return is_same and federation_id(home) == first.federation
    except (AttributeError, LookupError, TypeError, ValueError):
        return False  # something that the id is of is missing, or of another form


def _parameters(home: Path) -> dict[str, Any]:
    """Read all parameters that a genesis names, also those that nothing here is computed from."""
    said: dict[str, Any] = json.loads((home / "genesis.json").read_bytes())["parameters"]
    return said


def _unknown(run: RunFolder) -> Iterator[str]:
    for party in run.parties:
        receiving = X25519PrivateKey.from_private_bytes(party.receiving).public_key().public_bytes_raw()
        signing = Ed25519PrivateKey.from_private_bytes(party.signing).public_key().public_bytes_raw()
        names, text = [name for name, _, _ in party.peers], json.dumps(party.peers, separators=(",", ":"))
        if party.peers != run.parties[0].peers:
            yield f"{party.name}: another list of members"
        elif names != sorted(set(names)) or party.said != hashlib.sha256(text.encode()).hexdigest():
            yield f"{party.name}: a list of members that is out of order, or has another SHA-256 than it names"
        elif party.peers[party.number][1:] != [receiving.hex(), signing.hex()]:
            yield f"{party.name}: a private key that is not the listed one's"
        elif party.kept != party.secret:
            yield f"{party.name}: its memory names another secret than its private key gives"


def _parameter_faults(p: Parameters) -> Iterator[str]:
    step = p.q / p.p
    noise = _DEVIATIONS * math.sqrt(p.capacity * (ERROR_VARIANCE + step**2 / 12) + 1)
    if noise > 2**p.scale_bits * _TOLERANCE:
        yield f"8.5 deviations of noise are {noise:.0f}, a quarter of the scale is {2**p.scale_bits // 4}"
    if p.payload_bits + p.scale_bits > _SUM_BITS:
        yield f"payload and scale have {p.payload_bits + p.scale_bits} bits, more than {_SUM_BITS}"
