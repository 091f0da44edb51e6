"""Who is behind a node: excluded institutions are neither asked nor heard, and nobody uploads as another member."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dictpfl.common.messages.protocol import Reply, Request, Status
from dictpfl.server.coordinator import AGREEMENT, Coordinator, open_journal
from dictpfl.server.journal import Journal
from tests.support.coordinators import (
    DAMAGED,
    LIMITS,
    NAMES,
    agreement,
    opened,
    plain_uploads,  # noqa: F401  a fixture
    play,
)

pytestmark = pytest.mark.usefixtures("plain_uploads")
NODES = [100, 101, 102, 103, 104]


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    made = opened(tmp_path, rounds=20)
    yield made
    made.close_journal()


@pytest.fixture
def operator(coordinator: Coordinator, tmp_path: Path) -> Iterator[Journal]:
    """Another process, which opens the journal while the run goes on."""
    journal = open_journal(tmp_path, agreement())
    yield journal
    journal.close()


def as_member(member: int, nonce: int = 0) -> object:
    return lambda _node, request: Reply(Status.UPLOAD, request.round, request.round, bytes([member, nonce]))


def own(nodes: list[int]) -> dict[int, object]:
    return {node: as_member(node - 100) for node in nodes}


def exchange(coordinator: Coordinator, nodes: list[int], **others: object) -> dict[int, str]:
    """One exchange, in which each uploads under its number; `node101=` and so on answer otherwise. Who was rejected."""
    answers = own(nodes) | {int(name.removeprefix("node")): answer for name, answer in others.items()}
    play(coordinator, nodes, answers)  # type: ignore[arg-type]
    return dict(coordinator.rejected)


def test_an_excluded_institution_is_not_asked_from_the_next_exchange_on(
    coordinator: Coordinator, operator: Journal
) -> None:
    """By its upload's number alone: nobody told the coordinator names of nodes."""
    assert exchange(coordinator, NODES) == {}
    asked = coordinator.begin(NODES)
    operator.exclude("oslo", "sends nonsense")
    assert sorted(asked) == NODES, "the exchange that is open goes on"
    assert sorted(coordinator.begin(NODES)) == [100, 101, 103, 104]
    operator.readmit("oslo")
    assert sorted(coordinator.begin(NODES)) == NODES


def test_it_is_not_heard_either(coordinator: Coordinator, operator: Journal) -> None:
    exchange(coordinator, NODES)
    coordinator.begin(NODES)
    operator.exclude("oslo", "")
    request = Request(1, None, LIMITS.federation, LIMITS.fingerprint)
    for node in NODES:
        coordinator.receive(node, as_member(node - 100)(node, request))  # type: ignore[operator]
    coordinator.close()
    assert dict(coordinator.rejected) == {102: "excluded"}
    assert journal_rounds(coordinator)[-1].senders == ("berlin", "kyoto", "quito", "turin")


def journal_rounds(coordinator: Coordinator) -> list[object]:
    return list(coordinator._journal.rounds())


def test_under_another_node_it_is_not_heard_either(coordinator: Coordinator, operator: Journal) -> None:
    """A node that nothing is known of is asked; its first upload tells whose it is."""
    operator.exclude("oslo", "")
    assert exchange(coordinator, NODES) == {102: "excluded"}
    assert exchange(coordinator, [100, 101, 103, 104, 999], node999=as_member(2)) == {999: "excluded"}


def test_an_exclusion_survives_the_process(tmp_path: Path) -> None:
    first = opened(tmp_path)
    exchange(first, NODES)
    first._journal.exclude("oslo", "sends nonsense")
    first.close_journal()
    second = opened(tmp_path)
    assert 102 not in second.begin(NODES)
    (excluded,) = second._journal.excluded()
    assert (excluded.name, excluded.reason) == ("oslo", "sends nonsense")
    second.close_journal()


def test_names_that_the_deployment_gave(coordinator: Coordinator, operator: Journal) -> None:
    """No upload is needed to know an excluded one, and none may name another member."""
    operator.name_nodes(dict(zip(NODES, NAMES, strict=True)))
    operator.exclude("oslo", "")
    assert sorted(coordinator.begin(NODES)) == [100, 101, 103, 104]
    operator.readmit("oslo")
    assert exchange(coordinator, NODES, node104=as_member(3, 9)) == {104: "wrong-member"}


def test_a_name_that_is_no_members_says_nothing(coordinator: Coordinator, operator: Journal) -> None:
    """Where no authority founded the federation, operators admit nodes under names of their own."""
    operator.name_nodes({100: "first floor", 101: "second floor"})
    assert exchange(coordinator, NODES) == {}
    operator.exclude("second floor", "")
    assert sorted(coordinator.begin(NODES)) == [100, 102, 103, 104]


def test_a_node_keeps_its_number(coordinator: Coordinator) -> None:
    exchange(coordinator, NODES[:4])
    assert exchange(coordinator, NODES[:4], node103=as_member(4)) == {103: "wrong-member"}


def test_a_number_keeps_its_node(coordinator: Coordinator) -> None:
    exchange(coordinator, NODES)
    assert exchange(coordinator, [*NODES[1:], 99], node99=as_member(4, 9)) == {99: "wrong-member"}


def test_within_one_exchange_too(coordinator: Coordinator) -> None:
    assert exchange(coordinator, NODES, node104=as_member(0, 9)) == {104: "wrong-member"}


@pytest.mark.parametrize("named", [True, False], ids=["admitted under a name", "known by its first upload"])
def test_who_takes_anothers_number_displaces_nobody(
    coordinator: Coordinator, operator: Journal, *, named: bool
) -> None:
    """An insider that is earlier: its upload is refused, and that of the member it names counts."""
    if named:
        operator.name_nodes(dict(zip(NODES, NAMES, strict=True)))
    else:
        exchange(coordinator, NODES)
    assert exchange(coordinator, NODES, node101=as_member(2, 9)) == {101: "wrong-member"}
    assert journal_rounds(coordinator)[-1].senders == ("berlin", "oslo", "quito", "turin")  # type: ignore[attr-defined]


@pytest.mark.parametrize("number", [5, 200])
def test_a_number_of_nobody(coordinator: Coordinator, number: int) -> None:
    assert exchange(coordinator, NODES, node104=as_member(number)) == {104: "wrong-member"}


def test_a_node_that_came_back_under_another_id(tmp_path: Path) -> None:
    """A simulation that goes on has other nodes for the same institutions."""
    first = opened(tmp_path, rounds=20)
    exchange(first, NODES)
    first.close_journal()
    second = opened(tmp_path, rounds=20)
    moved = [node + 50 for node in NODES]
    answers = {node: as_member(node - 150) for node in moved}
    play(second, moved, answers)  # type: ignore[arg-type]
    assert dict(second.rejected) == {}
    assert dict(second._journal.bound(1)) == {node: node - 150 for node in moved}, "the older ones have it no more"
    second.close_journal()


def test_a_refused_upload_binds_nothing(coordinator: Coordinator) -> None:
    assert exchange(coordinator, NODES, node104=as_member(3, DAMAGED[0])) == {104: "wrong-member"}
    assert exchange(coordinator, [*NODES[:4], 99], node99=as_member(4, DAMAGED[0])) == {99: "oversized"}
    assert set(coordinator._journal.bound(1)) == set(NODES[:4])


def test_another_epoch_has_other_numbers(tmp_path: Path) -> None:
    first = opened(tmp_path, rounds=20)
    exchange(first, NODES)
    first.close_journal()
    changed = {"epoch": 2, "first_round": 1, "members": NAMES[1:], "uploads": replace(LIMITS, fingerprint=b"n" * 32)}
    second = opened(tmp_path, rounds=20, **changed)
    moved = {node: as_member(node - 101) for node in NODES[1:]}
    play(second, NODES[1:], moved)  # type: ignore[arg-type]
    assert dict(second.rejected) == {}
    second._journal.exclude("kyoto", "")
    assert sorted(second.begin(NODES[1:])) == [102, 103, 104]
    second.close_journal()


def test_agreements_without_names(tmp_path: Path) -> None:
    coordinator = opened(tmp_path, members=())
    assert exchange(coordinator, NODES) == {}
    assert exchange(coordinator, NODES, node104=as_member(3, 9)) == {104: "wrong-member"}
    assert journal_rounds(coordinator)[0].senders == tuple(f"node {node}" for node in NODES)  # type: ignore[attr-defined]
    coordinator.close_journal()
    assert (tmp_path / AGREEMENT).exists()
