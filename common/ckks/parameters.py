"""Checked CKKS parameters: chosen from capacity and security, validated against the 2024 table of moduli."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Self

from dictpfl.common.errors import ParameterError
from dictpfl.common.messages.protocol import FOUND_ANEW, PROTOCOL
from dictpfl.common.protection import Encryption
from dictpfl.common.settings import NO_PUBLIC_KEY
from dictpfl.common.words import WORD_BITS, word_prime

MAX_MODULUS_BITS: dict[int, dict[int, int]] = {
    128: {1024: 26, 2048: 53, 4096: 106, 8192: 214, 16384: 430},
    192: {1024: 17, 2048: 36, 4096: 73, 8192: 147, 16384: 297},
    256: {1024: 13, 2048: 27, 4096: 56, 8192: 113, 16384: 229},
}
"""Most bits of the whole modulus for classical security with a ternary secret, by security and ring degree.

"Security Guidelines for Implementing Homomorphic Encryption" (Bossuat et al. 2024, IACR ePrint 2024/463);
nowhere above SEAL's own, older table.
"""

GUARDS = 4
"""Components of each ciphertext that are always zero and are checked on opening."""

_LARGEST_RING = 8192
_CAPACITIES = 2**32
"""A blob counts its uploads in 32 bits; the bound on noise needs a number that a float holds."""
_PRIME_BITS = 60
_SIGN_BITS = 1
_LEAST_PAYLOAD_BITS = 40
"""Counts and sums of losses take a component each (`dictpfl.common.law.ledger`)."""
_DEVIATIONS = 8.5
FRESH_VARIANCE = 10.5
"""Variance of the error of a fresh encryption: SEAL's centred binomial of 42 bits."""
TOLERANCE = 0.25
"""Distance from an integer at which opening refuses a decrypted value."""
_PROFILE = "symmetric"
"""The one profile, whose name digests and fingerprints contain since there was another (docs/decisions/0030)."""


@dataclass(frozen=True)
class CKKSParameters:
    """Parameters of CKKS over integers.

    Construct with `choose`, or `from_json`, which checks again; there is no unchecked way in.

    Attributes:
        ring_degree: N, coefficients of a polynomial.
        primes: bits of each prime of the modulus; one of 60 bits.
        scale_bits: S; integers are encrypted times 2^S, above the noise.
        payload_bits: V, bits of a component of a sum, sign included.
        word_bits: w, bits of a coefficient as it travels (`dictpfl.common.words`).
        capacity: most uploads in a sum.
        security: least classical security, bits.
    """

    ring_degree: int
    primes: tuple[int, ...]
    scale_bits: int
    payload_bits: int
    word_bits: int
    capacity: int
    security: int

    def __post_init__(self) -> None:
        self._require_form()
        self._require_secure()
        self._require_exact()

    @classmethod
    def choose(cls, encryption: Encryption, capacity: int, value_bits: int = 8) -> Self:
        """Choose parameters for sums of at most `capacity` uploads, so that values of `value_bits` take least bytes.

        For each number of digits that a component may hold, the payload is as small as it can be; what it leaves of the
        modulus raises the scale, and the higher the scale, the more low bits of a coefficient need not travel.

        Raises:
            ParameterError (insecure): ring degree too small for the wanted security.
            ParameterError: no payload left.
        """
        radix = 2 * capacity * (2 ** (value_bits - 1) - 1) + 1
        choices = sorted((word / digits, payload, word) for digits, payload, word in _choices(radix, capacity))
        if not choices:
            raise ParameterError(
                f"no component holds values of {value_bits} bits from {capacity} participants above the noise; lower "
                "grid.value_bits or federation.max_participants"
            )
        _, payload, word = choices[0]
        scale = _PRIME_BITS - _SIGN_BITS - payload
        return cls(encryption.ring_degree, (_PRIME_BITS,), scale, payload, word, capacity, encryption.security)

    @property
    def components(self) -> int:
        """Payload components of a ciphertext: its N coefficients, less the guards."""
        return self.ring_degree - GUARDS

    @property
    def word_prime(self) -> int:
        """The prime p that words are residues of."""
        return word_prime(self.word_bits)

    def ciphertexts(self, components: int) -> int:
        """Number of ciphertexts that hold `components` components."""
        return -(-components // self.components)

    def words(self, components: int) -> int:
        """Number of words of the ciphertexts of `components` components: used coefficients only, and each one's guards."""
        return components + GUARDS * self.ciphertexts(components)

    def to_json(self) -> dict[str, Any]:
        """Encode as JSON values, in an order that digests depend on."""
        fields = asdict(self)
        names = ("ring_degree", "primes", "scale_bits", "payload_bits", "word_bits", "capacity", "profile", "security")
        return {name: fields.get(name, _PROFILE) for name in names} | {"primes": list(self.primes)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Decode what `to_json` made; checks as the constructor does.

        Raises:
            ParameterError: unknown or missing fields, or parameters that the constructor refuses.
        """
        fields = dict(value)
        if (profile := fields.pop("profile", None)) != _PROFILE:
            raise ParameterError(
                f"CKKS parameters of profile {profile!r}, expected {_PROFILE!r}: {NO_PUBLIC_KEY}; found a new federation"
            )
        if "seeded_sums" in fields:
            raise ParameterError(f"CKKS parameters of protocol 3, expected {PROTOCOL}: {FOUND_ANEW}")
        try:
            return cls(**{**fields, "primes": tuple(fields["primes"])})
        except (TypeError, KeyError) as error:
            raise ParameterError(f"CKKS parameters with unknown or missing fields: {error}") from error

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 over protocol version and parameters, 32 bytes."""
        text = json.dumps([PROTOCOL, self.to_json()], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).digest()

    def _require_form(self) -> None:
        numbers = (self.ring_degree, *self.primes, self.scale_bits, self.payload_bits, self.word_bits)
        whole = all(type(number) is int for number in (*numbers, self.capacity, self.security))
        if not whole or not 1 <= self.capacity < _CAPACITIES:
            raise ParameterError(
                f"CKKS parameters {self.to_json()}: expected whole numbers, and a capacity from 1 to {_CAPACITIES - 1}"
            )
        if self.ring_degree > _LARGEST_RING:
            raise ParameterError(
                f"ring degree {self.ring_degree}: expected at most {_LARGEST_RING}, whose polynomials SEAL saves in one piece"
            )
        if self.primes != (_PRIME_BITS,):
            # SEAL saves through zstd: words of smaller primes compress, and polynomials would not lie where they are read.
            raise ParameterError(f"primes of {list(self.primes)} bits: expected one prime of {_PRIME_BITS} bits")
        if self.word_bits not in WORD_BITS:
            raise ParameterError(f"words of {self.word_bits} bits: expected {WORD_BITS[0]} to {WORD_BITS[-1]}")

    def _require_secure(self) -> None:
        limit = _limit(self.security, self.ring_degree)
        if sum(self.primes) > limit:
            raise ParameterError(
                f"a modulus of {sum(self.primes)} bits with ring degree {self.ring_degree} is below {self.security}-bit "
                f"security (at most {limit} bits, 2024 table); raise encryption.ring_degree",
                code="insecure",
            )

    def _require_exact(self) -> None:
        most = _PRIME_BITS - _SIGN_BITS - self.scale_bits
        if not _LEAST_PAYLOAD_BITS <= self.payload_bits <= most:
            raise ParameterError(
                f"{self.payload_bits} payload bits with a {_PRIME_BITS}-bit prime and scale 2^{self.scale_bits}: "
                f"expected {_LEAST_PAYLOAD_BITS} to {most}"
            )
        if _noise(self.capacity, self.word_bits) > math.ldexp(TOLERANCE, self.scale_bits):
            raise ParameterError(
                f"scale 2^{self.scale_bits} drowns integers in the noise of {self.capacity} uploads whose coefficients "
                f"travel in {self.word_bits} bits; raise one of the two, or lower the capacity"
            )


def _choices(radix: int, capacity: int) -> Iterator[tuple[int, int, int]]:
    """List digits a component, payload bits and word bits of every set of parameters that is exact."""
    for digits in range(1, _PRIME_BITS):
        payload = max(_LEAST_PAYLOAD_BITS, (radix**digits).bit_length())
        if (scale := _PRIME_BITS - _SIGN_BITS - payload) < 1:
            return
        limit = math.ldexp(TOLERANCE, scale)
        if (word := next((bits for bits in WORD_BITS if _noise(capacity, bits) <= limit), None)) is not None:
            yield digits, payload, word


def _limit(security: int, ring_degree: int) -> int:
    try:
        return MAX_MODULUS_BITS[security][ring_degree]
    except KeyError:
        raise ParameterError(
            f"no entry for security {security} and ring degree {ring_degree}; security is one of "
            f"{sorted(MAX_MODULUS_BITS)}, ring degree one of {sorted(MAX_MODULUS_BITS[128])}",
            code="insecure",
        ) from None


def _noise(capacity: int, word_bits: int) -> float:
    """Bound the noise of a coefficient of a sum: 8.5 standard deviations, which one value in 10^16 is beyond.

    Each upload brings the error of its encryption and, uniform, what rounding to a word left; the last rounding, back to
    coefficients, is below one.
    """
    step = math.ldexp(1.0, _PRIME_BITS) / word_prime(word_bits)
    return _DEVIATIONS * math.sqrt(capacity * (FRESH_VARIANCE + step**2 / 12) + 1)
