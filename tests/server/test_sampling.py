"""Sampling at the coordinator: whom a round asks, that the draw can be recomputed, and who takes a failed one's place."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dictpfl.common.messages.protocol import REFUSED, Reply, Request, RoundKind, Status
from dictpfl.server.coordinator import Coordinator
from dictpfl.server.sampling import chosen, ranked
from tests.support.coordinators import (
    LIMITS,
    NAMES,
    opened,
    plain_uploads,  # noqa: F401  a fixture
)

pytestmark = pytest.mark.usefixtures("plain_uploads")
NODES = [100, 101, 102, 103, 104]


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    made = opened(tmp_path, rounds=20, sample=3)
    made._journal.name_nodes(dict(zip(NODES, NAMES, strict=True)))
    yield made
    made.close_journal()


def by_hand(names: dict[int, str], count: int, number: int) -> set[int]:
    """The draw as decision 0035 has it."""
    digests = {
        hashlib.sha256(b"dictpfl sample 1" + LIMITS.federation + number.to_bytes(8, "little") + bytes(8) + n.encode()).digest(): node
        for node, n in names.items()
    }  # fmt: skip
    return {digests[digest] for digest in sorted(digests)[:count]}


def upload(node: int, request: Request) -> Reply:
    assert request.kind is not None
    return Reply(Status.UPLOAD, request.round, request.round, bytes([node - 100, request.round]))


def answered(coordinator: Coordinator, **others: Reply) -> set[int]:
    """One exchange; who was asked. `node101=` and so on answer otherwise."""
    requests = coordinator.begin(NODES)
    for node, request in requests.items():
        coordinator.receive(node, others.get(f"node{node}") or upload(node, request))
    coordinator.close()
    return set(requests)


def test_each_round_asks_those_whom_the_hash_names(coordinator: Coordinator) -> None:
    names = dict(zip(NODES, NAMES, strict=True))
    asked = [answered(coordinator) for _ in range(12)]
    assert asked == [by_hand(names, 3, number) for number in range(12)]
    assert len(set(map(frozenset, asked))) > 1


def test_numbers_of_nodes_do_not_matter(tmp_path: Path) -> None:
    names = dict(zip(NODES, NAMES, strict=True))
    order = ranked(names, b"f" * 32, 4, 0)
    elsewhere = {2**60 - 7 * node: name for node, name in names.items()}
    assert [names[node] for node in order] == [elsewhere[node] for node in ranked(elsewhere, b"f" * 32, 4, 0)]
    others = [ranked(names, b"g" * 32, 4, 0), ranked(names, b"f" * 32, 5, 0), ranked(names, b"f" * 32, 4, 1)]
    assert all(other != order for other in others)


def test_everybody_is_asked_equally_often() -> None:
    names = {node: f"institution {node}" for node in range(20)}
    counts = Counter(node for number in range(2000) for node in ranked(names, b"f" * 32, number, 0)[:5])
    # 500 expected of 2000 draws at 1/4: a deviation of 19.4; five of them.
    assert all(abs(counts[node] - 500) < 97 for node in names)


def test_those_offline_are_not_drawn(coordinator: Coordinator) -> None:
    here = [100, 102, 103, 104]
    names = {node: name for node, name in zip(NODES, NAMES, strict=True) if node in here}
    assert set(coordinator.begin(here)) == by_hand(names, 3, 0)
    assert set(coordinator.begin([100, 104])) == {100, 104}, "fewer than the sample: all of them"


def test_excluded_ones_are_not_drawn(coordinator: Coordinator) -> None:
    first = min(coordinator.begin(NODES))
    coordinator._journal.exclude(NAMES[first - 100], "")
    asked = set(coordinator.begin(NODES))
    assert first not in asked
    assert len(asked) == 3


def test_who_does_not_answer_gives_way_to_the_next(coordinator: Coordinator) -> None:
    """Otherwise one institution with a full disk would stop a round for ever: its draw stays the same."""
    order = ranked(dict(zip(NODES, NAMES, strict=True)), LIMITS.federation, 0, 0)
    requests = coordinator.begin(NODES)
    assert set(requests) == set(order[:3])
    coordinator.failed(order[0], "deadline")
    coordinator.receive(order[1], Reply(Status.REFUSED, 0, 0, code="memory-file"))
    coordinator.receive(order[2], upload(order[2], requests[order[2]]))
    coordinator.close()
    assert coordinator._journal.next_round == 0
    assert set(coordinator.begin(NODES)) == {order[2], order[3], order[4]}
    coordinator.close()
    assert set(coordinator.begin([*order[:2], order[4]])) == {order[0], order[1], order[4]}, (
        "if there are not enough others"
    )
    coordinator.close()
    answered(coordinator)
    assert coordinator._journal.next_round == 1
    assert set(coordinator.begin(NODES)) == set(
        ranked(dict(zip(NODES, NAMES, strict=True)), LIMITS.federation, coordinator._journal.next_round, 0)[:3]
    ), "the next round forgets it"


def test_who_refuses_a_sum_is_asked_again(coordinator: Coordinator) -> None:
    """It passes over the round when it gets the sum once more; another one in its place would refuse first, too."""
    answered(coordinator)
    asked = coordinator.begin(NODES)
    for node in asked:
        coordinator.receive(node, Reply(Status.REFUSED, 1, 0, code=REFUSED))
    coordinator.close()
    assert set(coordinator.begin(NODES)) == set(asked)


def test_at_the_end_all_are_told(tmp_path: Path) -> None:
    coordinator = opened(tmp_path, rounds=1, sample=3, uploads=replace(LIMITS, max_contributors=3))
    coordinator._journal.name_nodes(dict(zip(NODES, NAMES, strict=True)))
    assert len(answered(coordinator)) == 3
    assert len(answered(coordinator)) == 3
    requests = coordinator.begin(NODES)
    assert {request.kind for request in requests.values()} == {None}
    assert set(requests) == set(NODES)
    for node in NODES:
        coordinator.receive(node, Reply(Status.SETTLED, 2, 2))
    coordinator.close()
    assert coordinator.finished
    coordinator.close_journal()


def test_without_a_sample_all_are_asked(tmp_path: Path) -> None:
    coordinator = opened(tmp_path, rounds=1)
    assert set(coordinator.begin(NODES)) == set(NODES)
    coordinator.close_journal()


def test_choosing() -> None:
    assert chosen([4, 2, 9, 1], 2, ()) == [4, 2]
    assert chosen([4, 2, 9, 1], 2, {4, 9}) == [2, 1]
    assert chosen([4, 2, 9, 1], 3, {4, 9}) == [2, 1, 4]
    assert chosen([4], 3, {4}) == [4]


def test_a_measurement_is_drawn_too(tmp_path: Path) -> None:
    coordinator = opened(tmp_path, rounds=1, sample=3)
    answered(coordinator)
    requests = coordinator.begin(NODES)
    assert {request.kind for request in requests.values()} == {RoundKind.MEASURE}
    assert len(requests) == 3
    coordinator.close_journal()
