"""A cell's result counts for as long as the settings are what they were when it was measured, defaults included."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lib.paper import cells
from lib.paper.catalogue import accuracy, every, tuning
from lib.paper.cells import Cell, Store

FACTS = {"date": "2026-11-26 21:00 UTC", "processor": "p", "cores": 2, "load": 0.1, "commit": "abc"}
CELL = Cell("digits/iid/some/seed-1", "digits", {"seed": 1, "federation.rounds": 2})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = Store(tmp_path / "store")
    found.write(CELL, {"accuracy": 90.0}, 1e-3, FACTS)
    return found


def test_a_result_is_kept_with_where_it_comes_from(store: Store) -> None:
    found = store.read(CELL.name)
    assert found["measured"] == FACTS
    assert found["settings"]["training.learning_rate"] == 1e-3
    assert found["settings"]["federation.rounds"] == 2
    assert found["command"] == f"python benchmarks/paper.py --only {CELL.name}"
    assert store.result(CELL, 1e-3) == {"accuracy": 90.0}


@pytest.mark.parametrize(
    "other",
    [
        replace(CELL, settings={**CELL.settings, "pruning.beta": 0.3}),
        replace(CELL, settings={**CELL.settings, "federation.rounds": 3}),
        replace(CELL, tunes=True),
        replace(CELL, lora=()),
        replace(CELL, traced=True),
        replace(CELL, decimals=4),
        replace(CELL, experiment="ablation_rank"),
    ],
)
def test_other_settings_are_measured_anew(store: Store, other: Cell) -> None:
    assert store.result(other, 1e-3) is None


def test_another_rate_is_measured_anew(store: Store) -> None:
    assert store.result(CELL, 2e-3) is None


def test_a_default_that_has_changed_is_measured_anew(store: Store) -> None:
    """The cell names no `pruning.beta`: what it was measured with is the default of that day."""
    found = store.read(CELL.name)
    lines = store.lines("defaults")
    lines.put(found["defaults"], {**lines.get(found["defaults"]), "pruning.beta": 0.25})
    assert store.result(CELL, 1e-3) is None


def test_a_setting_that_is_new_and_not_used_changes_nothing(store: Store) -> None:
    found = store.read(CELL.name)
    defaults = store.lines("defaults").get(found["defaults"])
    del defaults["pruning.schedule"]
    store.lines("defaults").put(found["defaults"], defaults)
    assert store.result(CELL, 1e-3) is not None
    used = replace(CELL, settings={**CELL.settings, "pruning.schedule": "other"})
    assert store.result(used, 1e-3) is None


def test_how_tables_would_be_counts_only_where_there_are_tables(store: Store) -> None:
    other = {"decomposition.form": "core", "decomposition.rank": 7}
    assert store.result(replace(CELL, settings={**CELL.settings, **other}), 1e-3) is None
    whole = replace(CELL, settings={**CELL.settings, "method": "fedhe-full"})
    store.write(whole, {"accuracy": 1.0}, 1e-3, {})
    assert store.result(replace(whole, settings={**whole.settings, **other}), 1e-3) is not None
    assert store.result(replace(whole, settings={**whole.settings, "decomposition.biases": False}), 1e-3) is None


def test_a_setting_that_is_gone_is_measured_anew(store: Store) -> None:
    found = store.read(CELL.name)
    lines = store.lines("defaults")
    lines.put(found["defaults"], {**lines.get(found["defaults"]), "pruning.gone": 1})
    assert store.result(CELL, 1e-3) is None


def test_a_result_moves_to_another_store(store: Store, tmp_path: Path) -> None:
    other = Store(tmp_path / "other")
    other.take(CELL.name, store)
    assert other.result(CELL, 1e-3) == {"accuracy": 90.0}


def test_lora_puts_pairs_into_the_file_s_own_model() -> None:
    found = replace(CELL, lora=("x.*",)).config()
    assert found.model.source == "lib.lora:model"
    assert found.model.options["source"] == cells.loaded("digits", {}).model.source
    assert found.model.options["rank"] == cells.loaded("digits", {}).decomposition.rank
    assert found.model.pretrain.epochs == 0  # its W0 is pretrained already
    assert found.decomposition.frozen == ["*.base_layer.weight", "x.*"]


def test_every_cell_is_a_configuration() -> None:
    """Of its file, with settings that exist, at any rate."""
    for cell in every():
        config = cell.config(**cell.at(1e-3 if cell.tuned else None))
        assert config.seed == cell.settings["seed"], cell.name


@pytest.mark.parametrize("method", ["dictpfl", "plaintext", "lora-both", "head-only"])
def test_a_rate_is_given_to_what_a_method_trains(method: str) -> None:
    """The file has rates for tables, for dense parameters, and for a head that begins at random; 0 is the first of them."""
    file = cells.loaded("cifar10", {}).training
    ratio = file.dense_learning_rate / file.learning_rate
    assert 0 < ratio < 1
    assert file.head_learning_rate > file.learning_rate
    cell = accuracy("cifar10", "iid", method, 1)
    training = cell.config(**cell.at(1e-3)).training
    assert training.learning_rate == 1e-3
    assert training.dense_learning_rate == pytest.approx(ratio * 1e-3 if method == "dictpfl" else 0.0)
    assert training.head_learning_rate == (0.0 if method == "head-only" else file.head_learning_rate)
    assert tuning("cifar10", method, 1e-3).config().training == training
