"""Random fault schedules over five institutions, held to plain bookkeeping of what was trained and counted.

A schedule takes seconds: `make test` plays a third of those that `make nightly` plays.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import dictpfl.client.memory.record
from dictpfl.common.errors import JournalError
from dictpfl.common.messages.protocol import Reply
from dictpfl.server.agreement import Agreement
from dictpfl.server.coordinator import AGREEMENT
from dictpfl.server.journal import Journal
from tests.support.failing_disks import full_disk, journal_full
from tests.support.federations import encrypted, tiny
from tests.support.harness import (
    COORDINATOR_POINTS,
    INSTITUTION_POINTS,
    MASK_POINTS,
    Killed,
    Oracle,
    Point,
    World,
    statement,
)

pytestmark = [pytest.mark.usefixtures("quiet"), pytest.mark.slow]

NODES = range(5)
_THOROUGH = os.environ.get("HYPOTHESIS_PROFILE") == "explore"
LOST, OFFLINE, TWICE, LATE, FULL = "reply lost", "offline", "reply twice", "reply a round late", "disk full"
POINTS = COORDINATOR_POINTS | MASK_POINTS
COORDINATOR = [*COORDINATOR_POINTS, "amid the replies", "after closing", "disk full"]

_faults = st.one_of(
    st.none(),
    st.none(),
    st.sampled_from([LOST, OFFLINE, TWICE, LATE, FULL]),
    st.sampled_from(sorted(INSTITUTION_POINTS)),
)


@dataclass(frozen=True)
class Exchange:
    """What goes wrong in one exchange."""

    faults: Mapping[int, str | None] = field(default_factory=dict)
    coordinator: str | None = None
    restarted: tuple[int, ...] = ()


def _exchanges(points: Sequence[str]) -> st.SearchStrategy[Exchange]:
    return st.builds(
        Exchange,
        st.fixed_dictionaries(dict.fromkeys(NODES, _faults)),
        st.one_of(st.none(), st.none(), st.sampled_from(points)),
        st.lists(st.sampled_from(NODES), unique=True, max_size=3).map(tuple),
    )


_schedules = st.lists(_exchanges(COORDINATOR), min_size=3, max_size=8)


@pytest.fixture(scope="module")
def conserving(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Nothing that was trained is damped, so that it can be looked for."""
    return _founded(tmp_path_factory, pruning__residual_decay=1.0, pruning__tau=1, pruning__s=0.5)


@pytest.fixture(scope="module")
def unpruned(tmp_path_factory: pytest.TempPathFactory) -> World:
    return _founded(tmp_path_factory, pruning__enabled=False)


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Under CKKS, with masks."""
    config = encrypted(
        federation__participants=5,
        federation__rounds=4,
        data__limit=120,
        model__options={"hidden": [4]},
        pruning__residual_decay=1.0,
        pruning__tau=1,
        pruning__s=0.5,
        defences__masks=True,
    )
    return World.found(config, tmp_path_factory.mktemp("template") / "world")


def _founded(factory: pytest.TempPathFactory, **changes: object) -> World:
    config = tiny(
        federation__participants=5, federation__rounds=4, data__limit=120, model__options={"hidden": [4]}, **changes
    )
    return World.found(config, factory.mktemp("template") / "world")


def _full_memory() -> Point:
    return lambda: full_disk(dictpfl.client.memory.record, "replace_private")


def play(world: World, exchange: Exchange, late: dict[int, Reply]) -> None:
    """One exchange with its faults; replies held back come in with the next."""
    for node in exchange.restarted:
        world.kill_institution(node)
    coordinator = world.coordinator
    online = [node for node in NODES if exchange.faults[node] != OFFLINE]
    requests = coordinator.begin(online)
    for node, reply in list(late.items()):
        coordinator.receive(node, reply)
        del late[node]
    for node in [node for node in online if node in requests]:
        fault = exchange.faults[node]
        converse(world, node, fault, requests[node], late)
        if exchange.coordinator == "amid the replies" and node == max(online) // 2:
            world.kill_coordinator()
            return
    if exchange.coordinator == "disk full":
        with journal_full(world), suppress(JournalError):
            coordinator.close()
    elif exchange.coordinator in POINTS:
        world.close_exchange(statement(world, **POINTS[exchange.coordinator]))
    else:
        world.close_exchange()
    if exchange.coordinator == "after closing":
        world.kill_coordinator()


def converse(world: World, node: int, fault: str | None, request, late: dict[int, Reply]) -> None:  # type: ignore[no-untyped-def]
    point = _full_memory() if fault == FULL else INSTITUTION_POINTS.get(fault or "", nullcontext)
    with _killable() as died, point():
        reply = world.converse(node, request, lost=fault in (LOST, LATE))
    if died:
        world.kill_institution(node)
        world.coordinator.failed(node, "flower-error-5")
    elif fault == LATE:
        late[node] = reply
    elif fault == TWICE:
        world.coordinator.receive(node, reply)


@contextmanager
def _killable() -> Iterator[list[bool]]:
    died: list[bool] = []
    try:
        yield died
    except Killed:
        died.append(True)


def survive(template: World, schedule: list[Exchange]) -> None:
    oracle, late = Oracle(), {}
    with tempfile.TemporaryDirectory() as folder, oracle.watching():
        world = template.copy(Path(folder) / "world")
        world.hasty = True
        for exchange in schedule:
            if world.coordinator._state.next_kind() is None:
                break
            play(world, exchange, late)
        world.run()
        world.digest()
        oracle.check(world)
        world.close()


@pytest.fixture(scope="module")
def jumping(conserving: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A snapshot of every round."""
    world = conserving.copy(tmp_path_factory.mktemp("jumping") / "world")
    path = world.coordinator_folder / AGREEMENT
    replace(Agreement.load(path), snapshot_every=1).save(path)
    return world


common_settings = settings(
    deadline=None,
    derandomize=True,
    database=None,
    # No shrinking unless somebody asks for it.
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


@settings(common_settings, max_examples=75 if _THOROUGH else 25)
@given(schedule=_schedules)
def test_any_schedule_with_pruning(conserving: World, schedule: list[Exchange]) -> None:
    survive(conserving, schedule)


@settings(common_settings, max_examples=30 if _THOROUGH else 10)
@given(schedule=_schedules)
def test_any_schedule_without_pruning(unpruned: World, schedule: list[Exchange]) -> None:
    survive(unpruned, schedule)


@settings(common_settings, max_examples=60 if _THOROUGH else 20)
@given(schedule=_schedules)
def test_any_schedule_with_snapshots(jumping: World, schedule: list[Exchange]) -> None:
    """Whoever is behind skips what it can: what it owes is settled by acknowledgements, to the last bit."""
    with mock.patch.object(Journal, "length", lambda journal, start: 10**9 * (journal.next_round - start)):
        survive(jumping, schedule)


def faults_in(schedule: Sequence[Exchange]) -> int:
    return sum(sum(f is not None for f in e.faults.values()) + (e.coordinator is not None) for e in schedule)


def test_any_schedule_with_masks(masked: World) -> None:
    """Faults while uploads are made and while masks come off."""
    faults: list[int] = []

    @settings(common_settings, max_examples=30 if _THOROUGH else 10)
    @given(schedule=st.lists(_exchanges([*COORDINATOR, *MASK_POINTS]), min_size=4, max_size=9))
    def any_schedule(schedule: list[Exchange]) -> None:
        faults.append(faults_in(schedule))
        survive(masked, schedule)

    any_schedule()
    assert sum(faults) >= (300 if _THOROUGH else 100)
