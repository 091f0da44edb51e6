"""Seeds are fresh, and the shared stream never changes."""

from __future__ import annotations

from dictpfl.common.law.seeds import SEED_BYTES, expand, new_seed, signs, small_seed, uint32s
from tests.support import oracle


def test_seeds_are_fresh() -> None:
    assert len({new_seed() for _ in range(9)}) == 9
    assert len(new_seed()) == SEED_BYTES == 32


def test_the_shared_stream_never_changes() -> None:
    """Golden draws: another library version, platform or edit that changes them splits federations in two."""
    seed = bytes(range(32))
    assert expand(seed, "a", b"b", 3, length=16) == oracle.stream(16, seed, "a", b"b", 3)
    assert expand(seed, "a", b"b", 3, length=16).hex() == "6b3073d4e43da09f6549530e60b3be34"
    assert uint32s(seed, "reactivation", b"f", 1, count=3).tolist() == [1328842637, 51832270, 3911045764]
    assert signs(seed, "d", count=9).tolist() == [1, -1, 1, -1, 1, -1, -1, -1, -1]
    assert small_seed(seed, "x") == 2090976078814979166
    assert expand(seed, "ab", "c", length=8) != expand(seed, "a", "bc", length=8)
