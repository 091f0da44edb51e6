"""Thresholds learnt together beside one place: every arm runs, in small, and the page says what was found."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import lua_federated as study
from lib.arms import Cells, Study
from tests.support.federations import as_toml

pytestmark = pytest.mark.usefixtures("quiet")
SMALL = {
    "sparsity__method": "lua", "sparsity__target": 0.6, "sparsity__calibration": 40, "model__options": {"hidden": [24, 24]}, "training__steps": 3,
    "training__optimizer": "adamw", "training__learning_rate": 0.02, "federation__rounds": 2, "training__task": "classification",
}  # fmt: skip


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Cells:
    path = tmp_path_factory.mktemp("lua") / "small.toml"
    path.write_text(as_toml(**SMALL))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "EXPERIMENT", path)
        patch.chdir(path.parent)
        found = {(name, 1): study.measure({**arm, "common": {}}, 1) for name, arm in study.ARMS.items()}
    facts = {"date": "2026-11-29 06:00 UTC", "processor": "p", "cores": 2, "load": 0.1, "commit": "abc", "platform": "Linux x86_64",
             "python": sys.version.split()[0], "versions": {}}  # fmt: skip
    for one in found.values():
        one["machine"] = facts
    return Cells(Study("lua_federated", study.measure, study.ARMS, (1,), dict.fromkeys(study.ARMS, "")), found)


def test_every_rival_takes_as_many_steps_and_has_as_many_zeros(cells: Cells) -> None:
    sealed = cells.found[study.SEALED, 1]
    for arm in (study.CLEAR, study.POOLED, *study.ALONE):
        one = cells.found[arm, 1]
        assert (one["steps"], one["zeros"]) == (3 * 2 * 3, sealed["zeros"])
    assert cells.found[study.DENSE, 1]["zeros"] == 0
    assert sealed["zeros"] == (64 * 24 + 24 * 24) * 6 // 10


def test_encryption_changes_nothing_and_the_packed_model_comes_back(cells: Cells) -> None:
    sealed, clear = cells.found[study.SEALED, 1], cells.found[study.CLEAR, 1]
    assert (sealed["state"], sealed["mask"], sealed["loss"]) == (clear["state"], clear["mask"], clear["loss"])
    assert sealed["comes back"]
    assert sealed["packed"] < sealed["dense"]


def test_places_differ(cells: Cells) -> None:
    losses = [cells.found[arm, 1]["loss"] for arm in (study.SEALED, study.POOLED, *study.ALONE)]
    assert len(set(losses)) == len(losses)


def test_the_page_says_what_was_asked(cells: Cells) -> None:
    text = study.page(cells)
    assert all(f"| {arm} |" in text for arm in study.ARMS)
    assert "one state and one mask with and without encryption" in text
    assert study.draw(cells).axes
    by_name = {one.promise: one for one in study.requirements(cells)}
    assert by_name["and read back bit for bit"].met


def test_cells_are_listed_and_nothing_is_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert study.main(["--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(study.ARMS)


def test_the_file_is_the_experiment() -> None:
    assert Path(study.ROOT, "experiments", "lua_tales.toml") == study.EXPERIMENT
