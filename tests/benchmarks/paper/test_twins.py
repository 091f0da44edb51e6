"""One computation under several names is measured once, and stands wherever it is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib.paper.catalogue import accuracy, every, named
from lib.paper.cells import Store
from lib.paper.measured import Measured
from lib.paper.scheduling import state, upcoming
from lib.paper.twins import measured_as, stored, twins

FACTS = {"date": "2026-11-29 06:00 UTC", "processor": "p", "cores": 2, "load": 0.1, "commit": "abc"}


def names(name: str) -> set[str]:
    return {cell.name for cell in twins(named(name))}


def test_points_with_the_defaults_are_one_computation() -> None:
    same = names("arms/rank/4/seed-2")
    assert {"arms/tau/3/seed-2", "arms/beta/0.5/seed-2", "arms/dense/all/seed-2", "arms/theta/ours/seed-2"} <= same
    assert not {"arms/rank/8/seed-2", "arms/rank/4/seed-1", "arms/alpha/0.3/seed-2", "arms/dense/head/seed-2"} & same
    assert names("arms/dense/head/seed-1") >= {"arms/defaults/tables-and-head/seed-1"}


def test_a_course_that_is_drawn_takes_no_result_of_one_that_is_not() -> None:
    table, arm = "cifar10/iid/dictpfl/seed-1", "arms/dense-cifar10/all/seed-1"
    assert named(table).drawn
    assert names(table) == {table}
    assert names(arm) == {arm, "arms/scaling-iid/ours/seed-1", table}
    assert measured_as(named(arm)).name == table


@pytest.mark.parametrize("name", ["arms/tau/3/seed-1", "arms/rank/4/seed-1", "digits_random/iid/dictpfl/seed-1"])
def test_it_is_measured_once(name: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    cells = [named(one) for one in ("arms/tau/3/seed-1", "arms/rank/4/seed-1")]
    one = measured_as(named(name))
    first = upcoming(cells, store, lambda _: (None, ()), {}, {})
    assert first is not None
    assert first.cell.name == measured_as(cells[0]).name
    assert upcoming(cells, store, lambda _: (None, ()), {first.cell.name: None}, {}) is None
    store.write(one, {"accuracy": 77.0}, None, FACTS)
    assert state(one, store).startswith(("done", "tune"))
    if name.startswith("arms"):
        assert {state(cell, store).partition(" as ")[0] for cell in cells} == {"done"}
        assert all(Measured(store).figures(cell) == {"accuracy": 77.0, "measured": FACTS} for cell in cells)
        assert upcoming(cells, store, lambda _: (None, ()), {}, {}) is None


def test_another_s_result_counts_by_the_other_s_settings(tmp_path: Path) -> None:
    store, cell = Store(tmp_path), named("arms/tau/3/seed-1")
    other = named("arms/tau/5/seed-1")
    store.write(other, {"accuracy": 1.0}, None, FACTS)
    assert stored(cell, None, store) is None
    store.write(named("arms/beta/0.5/seed-1"), {"accuracy": 2.0}, None, FACTS)
    found = stored(cell, None, store)
    assert found is not None
    assert found["cell"] == "arms/beta/0.5/seed-1"


def test_no_two_cells_of_a_table_are_one() -> None:
    """Rows of one accuracy table that came from one run would be no comparison."""
    for cell in every():
        if cell.name.startswith(("cifar10/", "gtsrb/", "heart/", "digits/")):
            group = cell.name.rsplit("/", 2)[0]
            assert all(not one.name.startswith(f"{group}/") for one in twins(cell)[1:]), cell.name
    assert accuracy("digits", "iid", "dictpfl", 1).name in {cell.name for cell in every()}
