"""Checked CKKS parameters (HE.md): chosen from capacity and security, validated against the 2024 table."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, Self

from common.errors import InsecureParametersError, ParameterError
from common.protocol import PROTOCOL
from common.settings import Encryption

Profile = Literal["symmetric", "public_key"]

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
_PRIME_BITS = 60
_SLACK_BITS = 2
"""One for the sign, one so that up to six times the agreed uploads are refused rather than wrap unseen."""
_LEAST_PAYLOAD_BITS = 30
_DEVIATIONS = 8.5
_FRESH_DEVIATION = 3.2
TOLERANCE = 0.25
"""Distance from an integer at which opening refuses a decrypted value."""
_PRIMES = {"symmetric": 1, "public_key": 2}
_SEEDED_CAPACITY = 4
"""Most uploads whose sums are seeded where the configuration says "auto": opening takes at most about twice as long."""


@dataclass(frozen=True)
class CKKSParameters:
    """CKKS over integers: ring degree N, primes, scale 2^S and a payload of V signed bits a component.

    Construct with `choose`, or `from_json`, which checks again; there is no unchecked way in.

    `seeded_sums`: sums carry the seeds of their uploads in place of a second polynomial (`common.seeded`).
    """

    ring_degree: int
    primes: tuple[int, ...]
    scale_bits: int
    payload_bits: int
    capacity: int
    profile: Profile
    security: int
    seeded_sums: bool = False

    def __post_init__(self) -> None:
        self._require_form()
        self._require_secure()
        self._require_exact()

    @classmethod
    def choose(cls, encryption: Encryption, capacity: int) -> Self:
        """Parameters for sums of at most `capacity` uploads.

        The scale is the smallest that keeps 8.5 standard deviations of noise under one quarter, where
        opening refuses: one value in 10^16 would be beyond.

        Raises:
            InsecureParametersError: ring degree too small for the wanted security.
            ParameterError: no payload left.
        """
        count = _PRIMES[encryption.profile]
        scale = _scale_bits(encryption.ring_degree, encryption.profile, capacity)
        payload = _PRIME_BITS - _SLACK_BITS - scale
        return cls(
            encryption.ring_degree,
            (_PRIME_BITS,) * count,
            scale,
            payload,
            capacity,
            encryption.profile,
            encryption.security,
            encryption.seeded_sums == "always"
            or (
                encryption.seeded_sums == "auto" and encryption.profile == "symmetric" and capacity <= _SEEDED_CAPACITY
            ),
        )

    @property
    def components(self) -> int:
        """Payload components of a ciphertext: its N coefficients, less the guards."""
        return self.ring_degree - GUARDS

    def ciphertexts(self, components: int) -> int:
        """Ciphertexts that hold so many components."""
        return -(-components // self.components)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {**asdict(self), "primes": list(self.primes)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Inverse of `to_json`; checks as the constructor does."""
        try:
            return cls(**{**value, "primes": tuple(value["primes"])})
        except (TypeError, KeyError) as error:
            raise ParameterError(f"CKKS parameters with unknown or missing fields: {error}") from error

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 over protocol version and parameters, 32 bytes."""
        text = json.dumps([PROTOCOL, self.to_json()], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).digest()

    def _require_form(self) -> None:
        numbers = (self.ring_degree, *self.primes, self.scale_bits, self.payload_bits, self.capacity, self.security)
        if any(type(number) is not int for number in numbers) or self.capacity < 1:
            raise ParameterError(
                f"CKKS parameters {self.to_json()}: expected whole numbers, and a capacity of at least 1"
            )
        if self.ring_degree > _LARGEST_RING:
            raise ParameterError(
                f"ring degree {self.ring_degree}: expected at most {_LARGEST_RING}, whose polynomials SEAL saves in one piece"
            )
        if type(self.seeded_sums) is not bool or (self.seeded_sums and self.profile != "symmetric"):
            raise ParameterError(
                f"seeded sums with profile {self.profile!r}: only symmetric ciphertexts have seeds; "
                'set encryption.seeded_sums = "never"'
            )
        if self.primes != (_PRIME_BITS,) * _PRIMES.get(self.profile, 0):
            # Below 60 bits SEAL's compression finds something to gain, and lengths of ciphertexts vary.
            raise ParameterError(
                f"profile {self.profile!r} with primes of {list(self.primes)} bits: expected {_PRIMES.get(self.profile, 'another profile and its')} primes of "
                f"{_PRIME_BITS} bits"
            )

    def _require_secure(self) -> None:
        limit = _limit(self.security, self.ring_degree)
        if sum(self.primes) > limit:
            raise InsecureParametersError(
                f"a modulus of {sum(self.primes)} bits with ring degree {self.ring_degree} is below {self.security}-bit "
                f"security (at most {limit} bits, 2024 table); raise encryption.ring_degree"
            )

    def _require_exact(self) -> None:
        needed = _scale_bits(self.ring_degree, self.profile, self.capacity)
        if self.scale_bits < needed:
            raise ParameterError(f"scale 2^{self.scale_bits} drowns integers in noise; at least 2^{needed} is needed")
        most = self.primes[0] - _SLACK_BITS - self.scale_bits
        if not _LEAST_PAYLOAD_BITS <= self.payload_bits <= most:
            raise ParameterError(
                f"{self.payload_bits} payload bits with a {self.primes[0]}-bit prime and scale 2^{self.scale_bits}: "
                f"expected {_LEAST_PAYLOAD_BITS} to {most}; choose encryption.ring_degree = {self.ring_degree * 2}"
            )


def _limit(security: int, ring_degree: int) -> int:
    try:
        return MAX_MODULUS_BITS[security][ring_degree]
    except KeyError:
        raise InsecureParametersError(
            f"no entry for security {security} and ring degree {ring_degree}; security is one of "
            f"{sorted(MAX_MODULUS_BITS)}, ring degree one of {sorted(MAX_MODULUS_BITS[128])}"
        ) from None


def _scale_bits(ring_degree: int, profile: Profile, capacity: int) -> int:
    """Smallest S with 8.5 deviations of the noise of `capacity` fresh ciphertexts, in one coefficient, under 2^S / 4."""
    deviation = _FRESH_DEVIATION
    if profile == "public_key":
        # Dropping the special prime rounds both polynomials, and the second one's rounding meets the secret.
        deviation = math.sqrt((1 + ring_degree * 2 / 3) / 12)
    return math.ceil(math.log2(_DEVIATIONS * deviation * math.sqrt(capacity) / TOLERANCE))
