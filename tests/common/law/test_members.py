"""Members and their pairs: mutual, connected while few are missing, and read from a roster or refused."""

from __future__ import annotations

import numpy as np
import pytest

from dictpfl.common.errors import ConfigError
from dictpfl.common.law.members import PairGraph, Peer, Roster

SEED = bytes(range(32))


# The graph
@pytest.mark.parametrize(("members", "most"), [(3, 30), (31, 30), (32, 30), (50, 4), (101, 30)])
def test_pairs_are_mutual_and_as_many_as_agreed(members: int, most: int) -> None:
    graph = PairGraph(members, most, SEED, b"context")
    for one in range(members):
        partners = graph.partners(one)
        assert len(set(partners)) == len(partners) == min(most, members - 1)
        assert one not in partners
        assert list(partners) == sorted(partners)
        assert all(one in graph.partners(other) for other in partners)


def test_any_missing_members_below_the_degree_leave_the_others_connected() -> None:
    graph, random = PairGraph(40, 6, SEED, b"context"), np.random.default_rng(1)
    for _ in range(300):
        missing = set(random.choice(40, size=5, replace=False).tolist())
        assert graph.connected(set(range(40)) - missing)


def test_both_neighbourhoods_missing_cut_the_circle() -> None:
    graph = PairGraph(40, 6, SEED, b"context")
    (alone,) = (0,)
    others = set(range(40)) - set(graph.partners(alone))
    assert not graph.connected(others)
    assert graph.connected(others - {alone})
    assert graph.connected(set())


def test_the_order_is_another_one_in_another_epoch() -> None:
    first, second = PairGraph(40, 4, SEED, b"first"), PairGraph(40, 4, SEED, b"second")
    assert any(first.partners(one) != second.partners(one) for one in range(40))


def peers(count: int) -> tuple[Peer, ...]:
    return tuple(Peer(f"p{n:03d}", bytes([1, n]) * 16, bytes([2, n]) * 16) for n in range(count))


def test_a_roster_survives_its_file() -> None:
    roster = Roster(peers(4))
    assert Roster.of_bytes(roster.to_bytes(), "peers.json") == roster
    assert roster.number("p002", bytes([1, 2]) * 16) == 2


@pytest.mark.parametrize(
    "wrong",
    [peers(3)[::-1], (*peers(2), peers(2)[1]), (Peer("a", b"short", bytes(32)),), (Peer("a", bytes(32), bytes(32)),)],
    ids=["order", "twice", "short key", "one key for both"],
)
def test_a_roster_that_names_members_wrongly_is_refused(wrong: tuple[Peer, ...]) -> None:
    with pytest.raises(ConfigError, match="join again"):
        Roster(wrong)


def test_a_stranger_has_no_number() -> None:
    with pytest.raises(ConfigError, match="no member"):
        Roster(peers(3)).number("p001", bytes(32))


@pytest.mark.parametrize("text", [b"", b"{}", b'{"format": "dictpfl-peers-1", "peers": [["a", "zz", ""]]}', b"[1]"])
def test_a_damaged_roster_is_refused(text: bytes) -> None:
    with pytest.raises(ConfigError):
        Roster.of_bytes(text, "peers.json")


def test_no_single_flipped_bit_of_a_roster_makes_another_one() -> None:
    data = Roster(peers(3)).to_bytes()
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ConfigError):
            Roster.of_bytes(bytes(flipped), "peers.json")
