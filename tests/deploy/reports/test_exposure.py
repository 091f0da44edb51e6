"""The rule on samples over all rounds: what it counts, and where pages warn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dictpfl.client.folder import TRAIN
from dictpfl.common.errors import DataError
from dictpfl.common.genesis import Genesis
from dictpfl.deploy.ceremony.charter import draw_up
from dictpfl.deploy.reports.exposure import exposure
from dictpfl.deploy.review.page import write_review
from dictpfl.deploy.simulation.simulate import simulate
from tests.support.ceremonies import config
from tests.support.federations import encrypted


@pytest.fixture(scope="module")
def genesis() -> Genesis:
    """An MLP of 6 inputs; one step of a round takes 32 samples, in 3 rounds."""
    return draw_up(config(), (6,), 3).genesis


def homes(folder: Path, *counts: int) -> list[Path]:
    made = []
    for number, count in enumerate(counts):
        made.append(folder / str(number))
        made[-1].mkdir()
        np.savez(made[-1] / TRAIN, features=np.zeros((count, 6), np.float32), labels=np.zeros(count, np.int64))
    return made


def test_others_samples_are_counted_as_who_has_most_sees_them(genesis: Genesis, tmp_path: Path) -> None:
    judged = exposure(genesis, homes(tmp_path, 2, 9, 3))
    assert judged is not None
    assert (judged.inputs, judged.distinct, judged.counted) == (6, 5, True)
    assert judged.is_exposed
    assert "at most 5 distinct inputs" in judged.sentence


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"{}"])
def test_damaged_samples_are_named(genesis: Genesis, tmp_path: Path, content: bytes) -> None:
    """`report` ended with BadZipFile, with numpy's word on pickles, or with "Aborted."."""
    first, *others = homes(tmp_path, 2, 9, 3)
    (first / TRAIN).write_bytes(content)
    with pytest.raises(DataError, match=rf"cannot read samples from {first / TRAIN}"):
        exposure(genesis, [first, *others])


def test_the_cap_stands_for_who_is_not_here(genesis: Genesis, tmp_path: Path) -> None:
    judged = exposure(genesis, homes(tmp_path, 2))
    assert judged is not None
    assert not judged.counted
    assert not judged.is_exposed
    assert not judged.is_near
    assert judged.distinct == 2 + 64
    assert "sample_cap" in judged.sentence


def test_hardly_more_than_the_layer_s_inputs_is_no_all_clear(genesis: Genesis, tmp_path: Path) -> None:
    judged = exposure(genesis, homes(tmp_path, 5, 5, 5))
    assert judged is not None
    assert (judged.is_exposed, judged.is_near) == (False, True)
    assert "better than by chance" in judged.verdict


@pytest.mark.parametrize("orientation", ["paper", "smaller"])
def test_a_core_shows_as_many_values_as_its_rank(tmp_path: Path, orientation: str) -> None:
    agreed = config(decomposition__form="core", decomposition__rank=5, decomposition__orientation=orientation)
    judged = exposure(draw_up(agreed, (6,), 3).genesis, homes(tmp_path, 2, 2, 2))
    assert judged is not None
    assert judged.inputs == 5
    assert judged.is_exposed
    assert "whose core shows 5 values of each" in judged.sentence


@pytest.mark.parametrize("accumulate", [1, 4])
def test_no_more_samples_than_are_ever_drawn(genesis: Genesis, tmp_path: Path, accumulate: int) -> None:
    drawn = {"batch_size": 1, "steps": 1, "accumulate": accumulate}
    few = genesis.config.model_copy(update={"training": genesis.config.training.model_copy(update=drawn)})
    judged = exposure(replace(genesis, config=few), homes(tmp_path, 500, 600, 700))
    assert judged is not None
    assert judged.distinct == 2 * few.federation.rounds * accumulate


def test_a_frozen_first_layer_leaves_the_question_to_the_next(tmp_path: Path) -> None:
    name = next(iter(draw_up(config(), (6,), 3).genesis.dictionaries))
    judged = exposure(draw_up(config(decomposition__frozen=[name]), (6,), 3).genesis, homes(tmp_path, 9, 9, 9))
    assert judged is not None
    assert judged.layer != name
    assert judged.inputs == 16


@pytest.mark.parametrize(("limit", "warns"), [(60, True), (1200, False)])
@pytest.mark.usefixtures("quiet")
def test_pages_warn_where_settings_fall_under_the_rule(tmp_path: Path, limit: int, warns: bool) -> None:
    run = simulate(
        encrypted(federation__rounds=1, data__limit=limit, training__steps=20), tmp_path / "run", engine="local"
    )
    report = (run.folder / "report.html").read_text(encoding="utf-8")
    assert ("Samples can be told by other institutions" in report) == warns
    page = write_review(run.folder).read_text(encoding="utf-8")
    assert "The same samples, round after round" in page
    assert ("fewer, so samples can be told" in page) == warns
    assert ("many more, so that little shows" in page) == (not warns)
    assert "freezing the first layer" in page
