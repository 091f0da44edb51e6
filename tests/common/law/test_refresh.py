"""When dictionaries change, which, and at what rank; whole rounds are held to the oracle in test_round.py."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError
from dictpfl.common.law.dictionary import draw
from dictpfl.common.law.layout import Kind, Layout
from dictpfl.common.law.refresh import Refreshing, coordinates, forgotten, live, moved_on, refreshes
from dictpfl.common.law.round import Law
from dictpfl.common.law.state import Refresh, Residual, SharedState
from dictpfl.common.rounds import Grid, Pruning

LAYOUT = Layout.of([("a", (4, 2), Kind.TABLE), ("bias", (3,), Kind.DENSE), ("b", (2, 3), Kind.TABLE)])
ALL = np.ones(LAYOUT.size, dtype=bool)


def state(law: Refreshing) -> SharedState:
    agreed = Law(LAYOUT, Pruning(), Grid(), bytes(32), bytes(32), 3, 44, 10, refresh=law)
    start = agreed.start(np.arange(1.0, LAYOUT.size + 1))
    return replace(start, history=replace(start.history, idle=np.full(LAYOUT.size, 3, dtype=np.uint8)))


def played(law: Refreshing, sizes: list[tuple[float, float]]) -> tuple[SharedState, list[list[bool]]]:
    """Rounds in which the tables a and b move by so much; which of them were refreshed in each."""
    now, chosen = state(law), []
    for a, b in sizes:
        update = np.concatenate([np.full(8, a), np.ones(3), np.full(6, -b)])
        after = moved_on(law, LAYOUT, replace(now, updates=now.updates + 1, values=now.values + update), update, ALL)
        fresh = after.records[len(now.records) :]
        chosen.append(fresh[0].chosen.tolist() if fresh else [False, False])
        now = after
    return now, chosen


def test_every_so_many_rounds() -> None:
    _, chosen = played(Refreshing(every=2), [(1.0, 1.0)] * 5)
    assert chosen == [[False] * 2, [True] * 2, [False] * 2, [True] * 2, [False] * 2]


FALLING = [(1.0, 1.0), (0.9, 0.4), (0.8, 0.4), (0.3, 0.4), (0.3, 0.4), (0.1, 0.1)]


def test_each_table_when_it_stalls_and_not_before_its_time() -> None:
    now, chosen = played(Refreshing(every=3, when="stall-tensor", stall=0.5), FALLING)
    assert chosen == [[False] * 2, [False] * 2, [False, True], [True, False], [False] * 2, [False, True]]
    assert refreshes(LAYOUT, now.records).tolist() == [1, 2]
    assert now.pace is not None
    assert now.pace.age.tolist() == [2, 0]


def test_all_tables_when_they_stall_together() -> None:
    """Means over both tables, of 8 and 6 values: 1, 0.686, 0.629, 0.343 and so on."""
    now, chosen = played(Refreshing(every=2, when="stall", stall=0.5), FALLING)
    assert chosen == [[False] * 2] * 3 + [[True] * 2, [False] * 2, [True] * 2]
    assert len(now.records) == 2


def test_a_table_of_which_nothing_is_sent_has_not_stalled() -> None:
    law = Refreshing(every=1, when="stall-tensor", stall=0.5)
    now, update = state(law), np.zeros(LAYOUT.size)
    sent = ~coordinates(LAYOUT, np.array([True, False]))
    for size in (1.0, 0.1):
        now = moved_on(law, LAYOUT, replace(now, updates=now.updates + 1), np.where(sent, size, update), sent)
    (record,) = now.records
    assert record.chosen.tolist() == [False, True]


@pytest.mark.parametrize("history", ["forget", "keep"])
def test_what_a_refresh_takes_and_leaves(history: str) -> None:
    law = Refreshing(every=1, when="stall-tensor", stall=0.5, history=history)
    now, chosen = played(law, [(1.0, 1.0), (1.0, 0.1)])
    assert chosen[-1] == [False, True]
    (record,) = now.records
    taken = record.tables(LAYOUT)
    assert set(taken) == {"b"}
    np.testing.assert_allclose(taken["b"], np.arange(12.0, 18).reshape(2, 3) - 1.1)
    gone = coordinates(LAYOUT, record.chosen)
    assert not now.values[gone].any()
    assert now.values[~gone].all()
    assert (now.history.idle[gone] == (0 if history == "forget" else 3)).all()
    assert (now.history.idle[~gone] == 3).all()
    owed = forgotten(LAYOUT, Residual(np.ones(LAYOUT.size)), now.records)
    assert owed.values.tolist() == (~gone).astype(float).tolist()


def test_rows_beyond_the_rank_rest() -> None:
    law = Refreshing(every=1, ranks=(1, 3))
    once = Refresh(np.array([True, False]), np.zeros(8))
    assert live(law, LAYOUT, ()).tolist() == [True] * 2 + [False] * 6 + [True] * 3 + [True] * 3 + [False] * 3
    assert live(law, LAYOUT, [once]).tolist() == [True] * 6 + [False] * 2 + [True] * 3 + [True] * 3 + [False] * 3
    assert live(law, LAYOUT, [once] * 5).tolist() == live(law, LAYOUT, [once]).tolist()
    assert live(Refreshing(every=1), LAYOUT, ()).all()


def test_columns_of_a_core_rest_too() -> None:
    layout = Layout.of([("a", (3, 3), Kind.TABLE), ("c", (2,), Kind.DENSE)])
    law = Refreshing(every=1, ranks=(1, 2), form="core")
    once = Refresh(np.array([True]), np.zeros(9))
    assert live(law, layout, ()).reshape(-1)[:9].tolist() == [True] + [False] * 8
    assert live(law, layout, [once]).tolist() == [True, True, False] * 2 + [False] * 3 + [True] * 2


def test_a_padded_dictionary_stands_for_the_same_change() -> None:
    small = draw((5, 4), 2, b"seed", "w", 1)
    wide = small.padded(4)
    assert wide.matrix.shape == (5, 4)
    table = np.random.default_rng(0).normal(size=(4, 4))
    np.testing.assert_array_equal(wide.change(table), small.change(table[:2]))
    assert small.padded(1).matrix.shape == (5, 2)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"decomposition.refresh_when": "stall"}, "fewest rounds"),
        ({"decomposition.refresh_every": 2, "decomposition.refresh_ranks": [2, 8]}, "raise decomposition.rank"),
        ({"decomposition.refresh_ranks": [0]}, "greater than or equal to 1"),
    ],
)
def test_settings_that_contradict_themselves(changes: dict[str, object], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        FederationConfig.of({}, changes)


def test_full_methods_refresh_nothing() -> None:
    raw = {"decomposition": {"refresh_every": 2, "refresh_when": "stall"}}
    assert FederationConfig.of(raw, {"method": "fedhe-full"}).decomposition.refresh_when == "fixed"
