"""What a cell keeps of its run; methods that are compared train on the same batches; counted bytes are those of the real thing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dictpfl.client.training import batches as batching
from dictpfl.client.training import train as training
from dictpfl.common.errors import EngineError
from lib.paper import running, traces
from lib.paper.catalogue import accuracy, counted
from lib.paper.cells import Cell, Store
from lib.paper.measured import composed
from lib.paper.methods import COUNTED, METHODS, ML10, ORDER
from lib.paper.running import run
from tests.support.federations import settings

pytestmark = pytest.mark.usefixtures("quiet")
TINY = {
    **settings(data__limit=120, federation__rounds=3, training__steps=2, training__batch_size=8),
    "model.pretrain.epochs": 0,
    "data.public_share": 0.0,
    "decomposition.rank": 2,
}


def tiny(cell: Cell, **changes: Any) -> Cell:
    return replace(cell, settings={**cell.settings, **TINY, **changes}, tuned=None)


def test_every_method_trains_on_the_same_batches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of each institution in each round, in the same order: what differs between two rows of a table is the method alone."""
    seen: list[str] = []

    def watched(*arguments: Any, **named: Any) -> Iterator[Any]:
        digest = hashlib.sha256()
        for x, y in batching.batches(*arguments, **named):
            digest.update(x.numpy().tobytes() + y.numpy().tobytes())
            yield x, y
        seen.append(digest.hexdigest())

    monkeypatch.setattr(training, "batches", watched)
    # A head that is trained alone is given features in place of samples; here it has to be given the samples.
    monkeypatch.setattr(training, "features_of", lambda *_: None)
    by_method = {}
    for method in ORDER:
        seen.clear()
        run(tiny(accuracy("digits", "iid", method, 1)), 1e-3, Store(tmp_path))
        # Institutions of one round train in any order; every one its batches in one.
        by_method[method] = tuple(tuple(sorted(seen[start : start + 3])) for start in range(0, len(seen), 3))
    assert [len(set(of_round)) for of_round in by_method["plaintext"]] == [3, 3, 3]
    assert len(set(by_method["plaintext"])) == 3
    assert set(by_method.values()) == {by_method["plaintext"]}


def test_what_is_kept(tmp_path: Path) -> None:
    store, cell = Store(tmp_path), tiny(accuracy("digits", "iid", "dictpfl", 1))
    figures = run(cell, 1e-3, store)
    assert store.result(cell, 1e-3) == figures
    assert len(figures["accuracy_by_round"]) == figures["rounds"] == 3
    assert figures["accuracy"] == pytest.approx(figures["accuracy_by_round"][-1], abs=1e-3)
    others = sum(one["up"] for one in figures["others"])
    assert sum(figures["up_by_round"]) + others == figures["bytes"]["up"]
    assert figures["peak_bytes"] > 1e8
    assert figures["seconds"]["train"] > 0
    assert store.lines(cell.name).path.stat().st_size < 5_000


@pytest.mark.parametrize("method", ["dictpfl", "plaintext"])
def test_a_course_that_is_not_drawn_is_measured_once(method: str, tmp_path: Path) -> None:
    """The second seed's figure is the last one of what it would be with all rounds measured."""
    cell = tiny(accuracy("digits", "iid", method, 2))
    assert not cell.drawn
    once = run(cell, 1e-3, Store(tmp_path / "once"))
    always = run(replace(cell, drawn=True), 1e-3, Store(tmp_path / "always"))
    assert once["accuracy_by_round"] == [None, None, always["accuracy_by_round"][-1]]
    same = ("accuracy", "loss", "validation", "bytes", "values", "state_digest")
    assert [once[key] for key in same] == [always[key] for key in same]
    assert None not in always["accuracy_by_round"]


def test_the_rival_of_table_8_runs_as_a_cell(tmp_path: Path) -> None:
    """As `lib.batchhe_run` is tested, from the catalogue to the store; its bytes beside plaintext's."""
    plain = run(tiny(accuracy("digits", "iid", "plaintext", 1)), 1e-3, Store(tmp_path))
    cell, store = replace(tiny(accuracy("digits", "iid", "plaintext", 1)), decimals=6), Store(tmp_path / "rival")
    found = run(cell, 1e-3, store)
    assert store.result(cell, 1e-3) == found
    assert store.result(replace(cell, decimals=5), 1e-3) is None
    assert found["values"] == plain["values"]
    assert 0 <= found["accuracy"] <= 100
    # 23 bits of plaintext a value, in whole ciphertexts of twice the plaintext's length; plaintext sends 32.
    assert 2 * 23 / 32 < found["bytes"]["up"] / plain["bytes"]["up"] < 1.2 * 2 * 23 / 32


def test_tuning_keeps_nothing_of_the_test_split(tmp_path: Path) -> None:
    figures = run(replace(tiny(accuracy("digits", "iid", "dictpfl", 1)), tunes=True), 1e-3, Store(tmp_path))
    assert 0 <= figures["validation"] <= 100
    assert not {"accuracy", "accuracy_by_round", "loss", "test_by_group", "state_digest"} & figures.keys()


def test_a_rate_that_diverges_is_kept_as_the_worst(tmp_path: Path) -> None:
    cell = tiny(accuracy("digits", "iid", "dictpfl", 1), **{"training.optimizer": "sgd", "training.steps": 30})
    figures = run(replace(cell, tunes=True), 1e30, Store(tmp_path))
    assert (figures["validation"], figures["diverged"]) == (0.0, True)


def test_an_error_of_a_cell_that_counts_bytes_is_no_divergence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes one step at a tiny rate: what stops it is a defect, or a method that cannot be had."""

    def refused(*_: object) -> None:
        raise EngineError("institutions could not go on")

    monkeypatch.setattr(running, "_simulated", refused)
    with pytest.raises(EngineError, match="could not go on"):
        run(tiny(counted("digits", COUNTED[0])), None, Store(tmp_path))
    assert not list(tmp_path.rglob("*.jsonl"))


@pytest.mark.parametrize("method", COUNTED)
def test_bytes_that_are_put_together_are_those_of_the_whole_run(tmp_path: Path, method: str) -> None:
    rounds = {"federation.rounds": 4}
    plain = run(tiny(accuracy("digits", "iid", "plaintext", 1), **rounds), 1e-3, Store(tmp_path))
    own = run(tiny(counted("digits", method), **{"federation.rounds": 2}), 1e-5, Store(tmp_path))
    found = composed(plain, own, METHODS[method].rescored_every)
    real = run(tiny(accuracy("digits", "iid", method, 1), **rounds), 1e-3, Store(tmp_path))
    scores = [one["up"] for one in real["others"] if one["kind"] == "score"]
    again = 3 * scores[0] if METHODS[method].rescored_every else 0
    assert len(scores) == 1
    assert found["bytes"]["up"] == real["bytes"]["up"] + again
    assert found["accuracy"] == plain["accuracy"]
    if method == ML10:
        assert found["bytes"] == real["bytes"]
        assert found["values"] == real["values"]


def test_a_trace_adds_up_to_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = replace(
        tiny(accuracy("digits", "iid", "dictpfl", 1), **{"federation.rounds": 6, "pruning.tau": 1}), traced=True
    )
    kept: list[Any] = []
    real = traces.changed
    monkeypatch.setattr(traces, "changed", lambda founded: kept.append(real(founded)) or kept[-1])
    figures = run(cell, 1e-3, Store(tmp_path))
    changes, masks = kept[0]
    assert [int(mask.sum()) for mask in masks] == figures["sent_by_round"]
    assert all(not change[~mask].any() for change, mask in zip(changes, masks, strict=True))
    trace = figures["trace"]
    assert len(trace["size"]) == 6
    assert all(row == sorted(row) for row in trace["size"])
    for word, one in trace["coordinates"].items():
        assert one["sent"][0]
        if word == "pruned, and never back":
            assert one["sent"] == sorted(one["sent"], reverse=True)


def test_quiet_coordinates() -> None:
    change, mask = np.array([0.3, -0.1, 0.0, 0.1]), np.array([True, True, False, True])
    assert traces.inactive(change, mask, 0.7).tolist() == [False, True, False, True]
    assert traces.inactive(change, mask, 0.4).tolist() == [False, True, False, False]
    quiet = [np.array([True, False]), np.array([True, True])]
    assert traces._again(quiet, [np.array([True, True])] * 2) == [1.0]
    quiet = [np.array([True, True, False]), np.array([True, False, True]), np.array([True, True, False])]
    sent = [np.ones(3, bool), np.array([True, True, True]), np.array([False, True, True])]
    assert traces._again(quiet, sent) == [0.5, 0.0]


def test_plaintext_in_this_process_is_what_a_plaintext_federation_does(tmp_path: Path) -> None:
    """Figures have the same names and shapes, and the model is the same but for ranges that clip an update."""
    cell = tiny(accuracy("digits", "iid", "plaintext", 1), **{"data.limit": 600, "training.steps": 10})
    alone, federation = (run(replace(cell, in_process=is_in), 1e-2, Store(tmp_path)) for is_in in (True, False))
    assert alone.keys() == federation.keys()
    assert alone["loss"] == pytest.approx(federation["loss"], rel=1e-2)
    assert alone["accuracy_by_round"] == pytest.approx(federation["accuracy_by_round"], abs=2.0)
    assert alone["validation"] == pytest.approx(federation["validation"], abs=2.0)
    assert alone["values"] == federation["values"]
    for way in ("up", "down"):
        assert 0 < federation["bytes"][way] - alone["bytes"][way] < 4_000
    tuning = [run(replace(cell, in_process=is_in, tunes=True), 1e-2, Store(tmp_path)) for is_in in (True, False)]
    assert tuning[0].keys() == tuning[1].keys()
    assert tuning[0]["validation_loss"] == pytest.approx(tuning[1]["validation_loss"], rel=1e-2)
