"""Fingerprints that two people can compare by phone."""

from __future__ import annotations

import re

from dictpfl.common.errors import IdentityError

_CONSONANTS, _VOWELS = "bdfghjklmnprstvz", "aiou"
_SPOKEN_BYTES = 16
"""128 bits: nobody finds a second identity with the same words."""
_WORD = re.compile(r"[a-z]{5}")


def spoken(fingerprint: bytes) -> str:
    """Eight words of five letters for the first 128 bits: proquints (Wilkerson 2009, arXiv:0901.4016)."""
    head = fingerprint[:_SPOKEN_BYTES]
    return "-".join(_word(int.from_bytes(head[i : i + 2])) for i in range(0, _SPOKEN_BYTES, 2))


def _word(pair: int) -> str:
    return "".join(
        letters[pair >> shift & len(letters) - 1]
        for letters, shift in ((_CONSONANTS, 12), (_VOWELS, 10), (_CONSONANTS, 6), (_VOWELS, 4), (_CONSONANTS, 0))
    )


def matches(fingerprint: bytes, said: str) -> bool:
    """Tell whether what somebody read out is this fingerprint: all eight words, or all hexadecimal digits.

    Raises:
        IdentityError: neither the one nor the other; a part of a fingerprint proves nothing.
    """
    text = said.strip().lower()
    if re.fullmatch(r"[0-9a-f]{64}", re.sub(r"[\s:-]", "", text)):
        return bytes.fromhex(re.sub(r"[\s:-]", "", text)) == fingerprint
    words = _WORD.findall(text)
    if len(words) == _SPOKEN_BYTES // 2 and re.fullmatch(r"[a-z\s-]+", text):
        return "-".join(words) == spoken(fingerprint)
    raise IdentityError(
        f"{said!r} is no fingerprint: expected eight words of five letters, or 64 hexadecimal digits, in full"
    )
