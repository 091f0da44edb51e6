"""The best model and early stopping: agreed by all, learnt by nobody else, through kills, lost journals and latecomers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import structlog

import dictpfl.client.institution
import dictpfl.client.uploading
from dictpfl.client.folder import DIARY
from dictpfl.client.training.train import Measured
from dictpfl.common.errors import RoundError
from dictpfl.common.law.order import stopped
from dictpfl.common.messages.protocol import Reply, RoundKind, Status
from dictpfl.deploy.exports.finished import Finished
from dictpfl.deploy.operations.handover import settled
from dictpfl.deploy.operations.status import of_institution
from dictpfl.deploy.simulation.local import run_local
from dictpfl.deploy.simulation.simulate import simulate
from dictpfl.server.coordinator import AGREEMENT, JOURNAL, Coordinator
from dictpfl.server.exchanges.exchange import CoordinatorState
from dictpfl.server.journal import Journal
from tests.support.federations import encrypted, tiny
from tests.support.harness import World, dies_before

pytestmark = pytest.mark.usefixtures("quiet")
FIGURES = [0.2, 0.5, 0.8, 0.7, 0.75, 0.6, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9]
"""What the model before each round is taken to reach; with patience 2, nobody trains after the fifth measurement."""
BEST, STOP = 2, 5


@pytest.fixture(autouse=True)
def measured_as_said() -> Iterator[None]:
    """Validation figures that are known beforehand, in place of those of a model."""

    now, real = {"round": 0}, dictpfl.client.institution.Institution._upload

    def said(*_arguments: Any, **_options: Any) -> Measured:
        return Measured(100, 1.0, 100 * FIGURES[now["round"]])

    def upload(self: Any, record: Any, kind: RoundKind, attempt: int) -> Reply:
        now["round"] = record.shared.round
        return real(self, record, kind, attempt)

    with (
        mock.patch.object(dictpfl.client.uploading, "evaluate", said),
        mock.patch.object(dictpfl.client.institution.Institution, "_upload", upload),
    ):
        yield


def patient(make: Any = tiny, **changes: Any) -> Any:
    return make(federation__rounds=9, selection__patience=2, federation__snapshot_every=2, **changes)


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.found(patient(), tmp_path_factory.mktemp("founded") / "world")


@pytest.fixture
def world(founded: World, tmp_path: Path) -> Iterator[World]:
    made = founded.copy(tmp_path / "world")
    yield made
    made.close()


@pytest.mark.parametrize("figure", [math.nan, -math.inf])
def test_a_figure_that_is_no_number_makes_no_best_model(figure: float, world: World) -> None:
    """One that an institution cannot compute, as of a single class in its split, once counted as 10^8 right answers."""
    world.exchange()
    with mock.patch.dict(globals(), {"FIGURES": [figure] * 2}):
        world.exchange()
    world.exchange()
    (best,) = {
        (course.best.score, course.best.updates) for course in (state.course for state in world.states()) if course.best
    }
    assert best == (FIGURES[0], 0)


def test_a_figure_that_the_ledger_does_not_hold_is_said_in_the_institutions_log(world: World) -> None:
    with mock.patch.dict(globals(), {"FIGURES": [1e12]}), structlog.testing.capture_logs() as logs:
        world.exchange()
    said = [
        line["figures"] for line in logs if line["event"].startswith("figures beyond what the ledger holds are cut")
    ]
    assert said == [["metric"]] * 3


def require_ended_well(world: World) -> None:
    assert world.coordinator.finished
    kinds = list(world.coordinator._journal.kinds())
    assert kinds == [RoundKind.UPDATE] * STOP + [RoundKind.MEASURE]
    assert world.coordinator._journal.stopped == STOP
    (state,) = {state.digest: state for state in world.states()}.values()
    assert stopped(world.genesis.law, state)
    assert state.updates == STOP
    assert state.course.best is not None
    assert (state.course.best.score, state.course.best.updates) == (FIGURES[BEST], BEST)


def masked(**changes: Any) -> Any:
    return encrypted(**({"defences__masks": True} | changes))


@pytest.mark.parametrize("make", [tiny, encrypted, masked])
def test_all_stop_in_the_same_round_and_keep_the_best(make: Any, tmp_path: Path) -> None:
    world = World.found(patient(make), tmp_path / "world")
    values = {}
    while not world.coordinator.finished:
        world.exchange()
        values[world.record(0).shared.updates] = world.record(0).shared.values
    require_ended_well(world)
    best = world.record(0).shared.at_best()
    assert best is not None
    np.testing.assert_array_equal(best.values, values[BEST])
    own = of_institution(world.home(0))
    assert (own["best_after_updates"], own["stopped"]) == (BEST, True)
    _, number, early = settled(world.home(0) / DIARY) or (0, 0, False)
    assert number == world.record(0).shared.updates
    assert (number < 9, early) == (True, True), "a study that stopped early would be said to wait for its start"
    world.close()


def test_a_measurement_after_the_stop_may_still_be_the_best(world: World) -> None:
    with mock.patch.dict(globals(), FIGURES=[*FIGURES[:STOP], 0.99]):
        world.run()
    state = world.record(0).shared
    assert state.course.best is not None
    assert (state.course.best.score, state.course.best.updates) == (0.99, STOP)
    assert stopped(world.genesis.law, state)


def test_killed_while_it_notes_the_stop(world: World) -> None:
    for _ in range(STOP):
        world.exchange()
    world.exchange(closing=lambda: dies_before(Journal, "stop"))
    world.run()
    require_ended_well(world)


def test_a_new_process_knows_of_the_stop(world: World) -> None:
    for _ in range(STOP + 1):
        world.exchange()
        world.kill_coordinator()
    world.run()
    world.kill_coordinator()
    require_ended_well(world)


def test_a_lost_journal_is_told_again(world: World) -> None:
    for _ in range(STOP + 1):
        world.exchange()
    world.close()
    for path in world.coordinator_folder.glob(f"{JOURNAL}*"):
        path.unlink()
    world.run()
    assert world.coordinator.finished
    assert world.record(0).shared.updates == STOP
    assert world.coordinator._journal.stopped == STOP


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.found(patient(federation__participants=4), tmp_path_factory.mktemp("four") / "world")


@pytest.mark.parametrize("joins", [STOP - 1, STOP, STOP + 1])
def test_a_latecomer_agrees(four: World, joins: int, tmp_path: Path) -> None:
    world = four.copy(tmp_path / "world")
    for _ in range(joins):
        world.exchange(offline=[3])
    world.run()
    require_ended_well(world)
    world.close()


def test_a_latecomer_starts_from_a_snapshot_with_the_best_in_it(four: World, tmp_path: Path) -> None:
    world = four.copy(tmp_path / "world")
    for _ in range(STOP):
        world.exchange(offline=[3])
    assert world.coordinator._journal.snapshots()
    journal = world.coordinator._journal
    newest = max(journal.snapshots())
    with journal._transaction():
        for row in list(journal._rows("rounds")):
            if row[0] < newest:
                journal._empty(row)
    world.run()
    require_ended_well(world)
    diary = (world.home(3) / "diary.jsonl").read_text()
    assert '"jumped"' in diary
    world.close()


def test_one_that_says_so_alone_changes_nothing(world: World) -> None:
    requests = world.coordinator.begin(list(world.nodes))
    for node, request in requests.items():
        if node == 0:
            world.coordinator.receive(node, Reply(Status.FINISHED, 0, 0))
        else:
            world.converse(node, request)
    world.coordinator.close()
    assert world.coordinator._journal.stopped is None
    assert world.coordinator.rejected == {}
    world.run()
    require_ended_well(world)


def test_asking_again_and_again_for_a_measurement_stops_nobody(world: World) -> None:
    """A coordinator could end the training of all for good, as if the model had not become better."""
    due, extra = CoordinatorState.next_kind, 4

    def between(state: CoordinatorState) -> RoundKind | None:
        return RoundKind.MEASURE if 1 <= len(list(state.journal.kinds())) <= extra else due(state)

    same = [FIGURES[0], *[FIGURES[1]] * extra, *FIGURES[1:]]
    with mock.patch.dict(globals(), FIGURES=same), mock.patch.object(CoordinatorState, "next_kind", between):
        for _ in range(extra + 1):
            world.exchange()
        world.run()
    kinds = list(world.coordinator._journal.kinds())
    assert kinds == [
        RoundKind.UPDATE,
        *[RoundKind.MEASURE] * extra,
        *[RoundKind.UPDATE] * (STOP - 1),
        RoundKind.MEASURE,
    ]
    (state,) = {state.digest: state for state in world.states()}.values()
    assert stopped(world.genesis.law, state)
    assert state.course.best is not None
    assert (state.course.best.score, state.course.best.updates) == (FIGURES[BEST], BEST)


def test_a_run_that_goes_on_does_not_wait_for_its_last_model_twice(tmp_path: Path) -> None:
    """It was measured when the run ended: with a patience of one it ended again at once."""
    world = World.found(tiny(federation__rounds=4, selection__patience=1), tmp_path / "world")
    agreed = world.coordinator._agreement
    world.close()
    replace(agreed, rounds=1).save(world.coordinator_folder / AGREEMENT)
    with mock.patch.dict(globals(), FIGURES=[0.2, 0.5, 0.5, 0.6, 0.7, 0.8]):
        world.run()
        world.close()
        agreed.save(world.coordinator_folder / AGREEMENT)
        world.run()
    kinds = list(world.coordinator._journal.kinds())
    assert kinds == [RoundKind.UPDATE, RoundKind.MEASURE, *[RoundKind.UPDATE] * 3, RoundKind.MEASURE]
    assert not any(state.course.waited for state in world.states())
    world.close()


def test_an_update_after_the_stop_is_refused(world: World) -> None:
    """A coordinator cannot have institutions apply one that somebody was brought to make all the same."""
    for _ in range(STOP):
        world.exchange()
    with mock.patch.object(dictpfl.client.institution, "has_ended", return_value=False):
        world.exchange()
    (_, aggregate) = world.journal()[-1]
    world.kill_institution(0)
    record = world.record(0)
    with pytest.raises(RoundError, match="after all institutions agreed to stop"):
        world.institution(0)._applied(record, aggregate, b"")


def test_over_flowers_messages(world: World) -> None:
    """The strategy's own loop ends, and a coordinator that is started again has nothing to do."""
    world.close()
    run_local(world.coordinator_folder, world.folder / "institutions", 3)
    require_ended_well(world)
    assert Coordinator.open(world.coordinator_folder).finished


def test_a_simulation_says_so_and_exports_both(tmp_path: Path) -> None:
    run = simulate(patient(), tmp_path / "run", engine="local")
    assert run.summary["stopped"] is True
    assert run.summary["rounds"] == STOP
    assert run.summary["best"] == {
        "by": "metric", "figure": FIGURES[BEST], "updates": BEST, "test": run.summary["test_history"][BEST - 1],
            "test_mean_of_groups": None,
    }  # fmt: skip
    last, best = Finished.load(run.folder), Finished.load(run.folder, "best")
    assert (last.state.updates, best.state.updates) == (STOP, BEST)
    assert not np.array_equal(last.state.values, best.state.values)
    again = simulate(patient(), tmp_path / "run", engine="local", resume=True)
    assert again.summary["state_digest"] == run.summary["state_digest"]
