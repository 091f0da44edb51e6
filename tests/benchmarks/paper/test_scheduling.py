"""Cells run in order, after the tuning that they wait for; rates come from grids whose best is inside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dictpfl.common.config import FederationConfig
from lib.paper import rates, scheduling
from lib.paper.catalogue import accuracy, every, named, timed, tuning
from lib.paper.cells import Cell, Store
from lib.paper.methods import METHODS, ORDER, tuned_as
from lib.paper.scheduling import Ready, matching, rate_of, state, work
from lib.paper.workloads import LARGE, WORKLOADS

FACTS = {"date": "2026-11-26 21:00 UTC", "processor": "p", "cores": 2, "load": 0.1, "commit": "abc"}


def put(store: Store, cell: Cell, rate: float | None = None, **figures: Any) -> None:
    store.write(cell, figures, rate, FACTS)


class Process:
    """A process that has measured its cell by the time that somebody looks."""

    def __init__(self, ready: Ready, log: Path, into: Path) -> None:
        RAN.append(ready.cell.name)
        at = ready.cell.settings.get("training.learning_rate", 0)
        log.write_text("trouble\nDataError: no such file\n")
        if ready.cell.name in BROKEN:
            self.returncode = 1
            return
        self.returncode = 0
        figures = (
            {"validation": 100 - abs(at - BEST), "validation_loss": 1.0} if ready.cell.tunes else {"accuracy": 90.0}
        )
        put(Store(into), ready.cell, ready.rate, **figures)

    def poll(self) -> int:
        return self.returncode


RAN: list[str] = []
BROKEN: set[str] = set()
BEST = 0.032


@pytest.fixture(autouse=True)
def _fresh() -> None:
    RAN.clear()
    BROKEN.clear()


def test_tuning_comes_before_what_waits_for_it(tmp_path: Path) -> None:
    store, cell = Store(tmp_path / "s"), accuracy("digits", "iid", "dictpfl", 1)
    assert state(cell, store) == "tune first"
    done = work([cell], store, 2, tmp_path, start=Process)
    # 2e-3, 4e-3, 8e-3 are the grid; 1.6e-2, 3.2e-2, 6.4e-2 extend it until the best is inside.
    assert len(RAN) == 7
    assert RAN[-1] == cell.name
    assert not done.failed
    assert rate_of(cell, store) == (pytest.approx(BEST), ())
    assert state(cell, store) == "done"
    work([cell], store, 2, tmp_path, start=Process)
    assert len(RAN) == 7


def test_a_cell_that_fails_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    cells = [named("arms/rank/2/seed-1"), named("arms/rank/4/seed-1")]
    BROKEN.add(cells[0].name)
    done = work(cells, store, 1, tmp_path, start=Process)
    assert done.failed == {cells[0].name: "DataError: no such file"}
    assert done.done == [cells[1].name]


def test_the_store_is_read_again_only_when_a_cell_has_ended(tmp_path: Path) -> None:
    """A free place that nothing can fill cost a tenth of a core, beside what is measured."""

    class Slow(Process):
        left = 5

        def poll(self) -> int | None:
            self.left -= 1
            if self.left > 0:
                return None
            ended.append(RAN[-1])
            return self.returncode

    looks: list[str] = []
    ended: list[str] = []
    store, cell, only = (
        Store(tmp_path / "s"),
        accuracy("digits", "iid", "dictpfl", 1),
        tuning("digits", "dictpfl", BEST),
    )

    def rates_of(one: Cell) -> tuple[float | None, tuple[Cell, ...]]:
        looks.append(one.name)
        return (BEST, ()) if only.name in ended else (None, (only,))

    done = work([cell], store, 2, tmp_path, rates=rates_of, start=Slow)
    assert done.done == [only.name, cell.name]
    assert len(looks) == 3, "what it waits for, nothing to put beside that, and once more when it has ended"


def test_a_cell_that_is_timed_runs_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits until what runs has ended, and nothing begins beside it."""
    needed = tmp_path / WORKLOADS[LARGE].needs
    needed.parent.mkdir(parents=True)
    needed.touch()
    monkeypatch.setattr(scheduling, "ROOT", tmp_path)
    running: list[str] = []
    beside: dict[str, list[str]] = {}

    class Slow(Process):
        left = 3

        def __init__(self, ready: Ready, log: Path, into: Path) -> None:
            super().__init__(ready, log, into)
            self.name = ready.cell.name
            running.append(self.name)

        def poll(self) -> int | None:
            beside.setdefault(self.name, []).extend(running)
            self.left -= 1
            if self.left > 0:
                return None
            running.remove(self.name)
            return self.returncode

    first, last = named("arms/rank/2/seed-1"), named("arms/rank/8/seed-1")
    done = work([first, timed("dictpfl"), last], Store(tmp_path / "s"), 2, tmp_path, start=Slow)
    assert len(done.done) == 3
    assert {name: set(others) for name, others in beside.items()} == {name: {name} for name in done.done}


def test_tuning_that_fails_leaves_out_what_waits_for_it(tmp_path: Path) -> None:
    store, cell = Store(tmp_path / "s"), accuracy("digits", "iid", "dictpfl", 1)
    BROKEN.add(tuning("digits", "dictpfl", 4e-3).name)
    done = work([cell, named("arms/rank/4/seed-1")], store, 1, tmp_path, start=Process)
    assert cell.name not in RAN
    assert "arms/rank/4/seed-1" in done.done


def test_a_cell_without_its_data_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduling, "ROOT", tmp_path)
    cell = Cell("x/iid/y/seed-1", "digits", {"seed": 1}, needs="data/none.csv")
    done = work([cell], Store(tmp_path / "s"), 1, tmp_path, start=Process)
    assert not RAN
    assert "fetch.py" in done.failed[cell.name]


def test_a_grid_that_never_turns_ends_at_its_edge(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for _ in range(100):
        found = rates.tuned("digits", "dictpfl", store)
        if not found.missing:
            break
        for cell in found.missing:
            rate = cell.settings["training.learning_rate"]
            put(store, cell, validation=rate, validation_loss=1.0)
    assert found.at_edge
    assert len(found.tried) == 3 + rates.EXTENSIONS
    assert found.rate == max(found.tried)


def test_the_lower_loss_decides_between_equals_and_divergence_loses() -> None:
    found = {1.0: {"validation": 90.0, "validation_loss": 0.3}, 2.0: {"validation": 90.0, "validation_loss": 0.2},
             4.0: {"validation": 0.0, "validation_loss": 1e9}}  # fmt: skip
    assert rates.ranked(found) == [2.0, 1.0, 4.0]


def test_names_are_unique_and_lead_back_to_their_cells() -> None:
    cells = list(every())
    assert len({cell.name for cell in cells}) == len(cells)
    assert named("institutions/200/few-steps/seed-2").settings["seed"] == 2
    assert named("tune/digits/dictpfl/rate-0.064").settings["training.learning_rate"] == 0.064
    with pytest.raises(KeyError):
        named("digits/iid/nothing/seed-1")


def test_globs_and_seeds() -> None:
    found = matching(every(), ["cifar10/iid/*"], [1])
    assert [cell.name for cell in found] == [f"cifar10/iid/{method}/seed-1" for method in ORDER]
    assert all(cell.tunes for cell in matching(every(), [], [99]))
    assert [cell.name for cell in matching(every(), ["bytes/heart/fedml-he-10"], [1])] == ["bytes/heart/fedml-he-10"]


def test_the_seeds_that_tune_are_never_reported() -> None:
    for cell in every():
        tuning_seeds = WORKLOADS[cell.name.split("/")[1]].tuning_seeds if cell.name.startswith("tune/") else (0,)
        assert (cell.settings["seed"] in tuning_seeds) == cell.tunes, cell.name
    for name, workload in WORKLOADS.items():
        reported = [*workload.seeds, *workload.further]
        assert len({*workload.tuning_seeds, *reported}) == len(workload.tuning_seeds) + len(reported), name


def test_a_small_validation_split_is_asked_with_several_seeds(tmp_path: Path) -> None:
    """By the first seed alone 8e-3 were best and the grid went on; by all five it is 4e-3."""
    store, seeds = Store(tmp_path), WORKLOADS["heart"].tuning_seeds
    assert len(seeds) == 5
    assert named("tune/heart/dictpfl/rate-0.004/seed-7").settings["seed"] == 7
    for rate in (2e-3, 4e-3, 8e-3):
        for seed in seeds:
            cell = tuning("heart", "dictpfl", rate, seed)
            assert len(rates.tuned("heart", "dictpfl", store).missing) > 0
            figure = {0: {2e-3: 70, 4e-3: 72, 8e-3: 79}}.get(seed, {2e-3: 71, 4e-3: 78, 8e-3: 70})[rate]
            put(store, cell, validation=figure, validation_loss=0.5)
    found = rates.tuned("heart", "dictpfl", store)
    assert (found.rate, found.missing, found.tried[4e-3]) == (4e-3, (), (76.8, 0.5))


def test_methods_that_train_the_same_have_one_rate() -> None:
    same = {method for method in METHODS if tuned_as(method) == "plaintext"}
    assert same == {"plaintext", "plaintext-8bit", "fedhe-full", *(m for m in METHODS if m.startswith("fedml-he"))}


@pytest.mark.parametrize("method", ORDER)
def test_a_method_is_encrypted_unless_its_name_says_plaintext(method: str) -> None:
    config: FederationConfig = accuracy("digits", "iid", method, 1).config()
    assert config.encryption.sealer == ("identity" if method.startswith("plaintext") else "ckks")
