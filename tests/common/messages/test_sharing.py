"""Shares of a secret: any threshold of them gives it back, and no two commitments are alike."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dictpfl.common.messages.sharing import combine, commitment, split, threshold

SEED = bytes(range(32))


# Shares
@given(st.binary(min_size=32, max_size=32), st.integers(1, 12), st.randoms())
def test_any_threshold_of_shares_gives_the_secret_back(secret: bytes, holders: int, random) -> None:  # type: ignore[no-untyped-def]
    shares = dict(enumerate(split(secret, holders)))
    chosen = random.sample(sorted(shares), threshold(holders))
    assert combine({place: shares[place] for place in chosen}) == combine(shares) == secret
    if len(chosen) > 1:
        assert combine({place: shares[place] for place in chosen[1:]}) != secret


def test_commitments_differ() -> None:
    assert commitment(SEED) != commitment(SEED[::-1])
    assert len(commitment(SEED)) == 16
