"""What a coordinator or institution that follows the format, and cheats, gets away with: as the results say, no more, no less."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.config import FederationConfig
from deploy.privacy.active import ATTEMPTS, attempts
from deploy.privacy.results import Detection
from deploy.privacy.stage import play

UNDETECTED = {
    "add an upload twice in place of another's",
    "replay an old sum under a new label",
    "add a number of its own to the sum",
}
"""Stated in docs/threat-model.md; `defences.integrity` shows them (tests/system/test_integrity.py)."""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Detection]:
    config = FederationConfig.of(
        {
            "federation": {"rounds": 3, "participants": 3},
            "data": {"limit": 200},
            "model": {"source": "mlp", "options": {"hidden": [16]}},
            "training": {"steps": 1, "device": "cpu"},
        }
    )
    stage = play(config, tmp_path_factory.mktemp("active"))
    return {detection.attack: detection for detection in attempts(stage)}


@pytest.mark.parametrize("name", [attempt.name for attempt in ATTEMPTS])
def test_what_is_detected_is_what_is_said(found: dict[str, Detection], name: str) -> None:
    assert (found[name].outcome == "not detected") == (name in UNDETECTED), found[name]


def test_what_detects_has_a_name(found: dict[str, Detection]) -> None:
    assert all(bool(d.by) == (d.outcome in ("detected", "harmless")) for d in found.values())


def test_the_tests_that_hold_them_exist(found: dict[str, Detection]) -> None:
    root = Path(__file__).parents[2]
    assert all((root / detection.test).exists() for detection in found.values())
