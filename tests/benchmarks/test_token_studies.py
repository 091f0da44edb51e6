"""Studies of tokens and clips measure what their pages read: each once, made as small as can be."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vlm
from lib import between, events, splices
from lib.arms import SAMPLES, STEPS


@pytest.fixture(autouse=True)
def _small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(between, "CELLS", tmp_path)
    for name, value in {"CLIPS": 3, "TRAINED_ON": 32, "HEAD_STEPS": 2}.items():
        monkeypatch.setattr(events, name, value)
    monkeypatch.setattr(events, "SCENES", {**events.SCENES, "12 of 64, faint": events.SCENES["clear"]})


@pytest.mark.parametrize(
    "arm",
    [
        "all tokens",
        "fastvid",
        "fastvid, learnt attention",
        "fastvid, shuffled attention",
        "fastvid, shuffled frames",
        "dtm",
        "frames",
    ],
)
def test_short_events(arm: str) -> None:
    found = events.measure(events.ARMS[arm], 0)
    for scene in events.SCENES:
        assert 0 <= found[f"hits, {scene}"] <= 100
        assert 0 <= found[f"accuracy, {scene}"] <= 100
    if arm == "all tokens":
        assert {found[f"hits, {scene}"] for scene in events.SCENES} == {100.0}


def test_real_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips of noise, each of its own: every cut is found, and what was not drawn from them is not read."""
    monkeypatch.setattr(splices, "SPLICES", 4)
    random = np.random.default_rng(0)
    for name in ("one", "two", "three"):
        still = random.integers(0, 255, (32, 32, 3), dtype=np.uint8)
        frames = [
            Image.fromarray(np.clip(still + random.integers(0, 9, still.shape), 0, 255).astype(np.uint8))
            for _ in range(30)
        ]
        frames[0].save(tmp_path / f"{name}.tif", save_all=True, append_images=frames[1:])
    found = splices.measure({"features": splices.PIXELS, "folder": str(tmp_path)}, 0)
    assert found["recall, c = 3 alone"] == 100.0
    assert found["precision, c = 3 alone"] == 100.0
    assert found["recall, c = 8 alone"] == 100.0
    assert found["precision, c = 8 alone"] == pytest.approx(100 * 2 / 7)
    for keep in splices.KEEPS:
        assert all(0 <= found[f"coverage at {keep:g}, {reducer}"] < 1 for reducer in splices.REDUCERS)
    with pytest.raises(FileNotFoundError, match="--only clips"):
        splices.sources(tmp_path / "none")


@pytest.mark.parametrize("arm", [between.FULL, between.FIXED, between.OWN])
def test_questions_about_mosaics(arm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    load = dataclasses.replace(
        between.WORKLOADS["mosaic"],
        model={"source": "vlm", "options": {"image": [1, 24, 24], "width": 16, "layers": 3, "heads": 2}},
        data={"source": "mosaic", "options": {"count": 140, "side": 3}}, free=9, budgets=(4,), sizes=(100, 20, 20), steps=2, further=2,
        lesson=("cell", 2),
    )  # fmt: skip
    monkeypatch.setattr(between, "WORKLOADS", {"tiny": load})
    found = between.measure({**between.ARMS[arm], "workload": "tiny", "shrunk": 1}, 0)
    assert found[STEPS] == 2
    assert found[SAMPLES] == 64
    assert {"free at 4", "free at 4, cell", "free at 4, count", "free at 4, beside", "trained at 4"} <= found.keys()
    assert ("k at 4" in found) == (arm == between.FIXED)
    assert ("gamma at 4" in found) == (arm == between.OWN)


def test_a_tiny_vision_language_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vlm, "TRAINED_ON", 60)
    monkeypatch.setattr(vlm, "MEASURED", 20)
    for arm in vlm.ARMS.values():
        found = vlm.measure({**arm, "tiny": True}, 0)
        assert found[STEPS] == vlm.TINY["steps"]
        assert 0 <= found["right"] <= 100
