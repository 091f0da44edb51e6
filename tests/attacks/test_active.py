"""What a coordinator or institution that follows the format, and cheats, gets away with: as the results say, no more, no less."""

from __future__ import annotations

from pathlib import Path

import pytest

from dictpfl.common.errors import EngineError
from dictpfl.deploy.attacks.active import ATTEMPTS, attempts
from dictpfl.deploy.attacks.attack import detections_run
from dictpfl.deploy.attacks.recorded import play
from dictpfl.deploy.attacks.results import Detection
from tests.support import ROOT
from tests.support.federations import encrypted

UNDETECTED: set[str] = set()
"""Of what a coordinator can do to a sum, all is refused before the sum is opened (docs/threat-model.md)."""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Detection]:
    config = encrypted(federation__rounds=3, training__device="cpu")
    recorded = play(config, tmp_path_factory.mktemp("active"))
    return {detection.attack: detection for detection in attempts(recorded)}


@pytest.mark.parametrize("name", [attempt.name for attempt in ATTEMPTS])
def test_what_is_detected_is_what_is_said(found: dict[str, Detection], name: str) -> None:
    assert (found[name].outcome == "not detected") == (name in UNDETECTED), found[name]


def test_no_attempt_counts_where_an_honest_sum_is_refused_too(tmp_path: Path) -> None:
    """With masks, uploads cannot be added up as attempts do: each was refused, for that alone, and counted as detected."""
    masked = play(encrypted(federation__rounds=3, training__device="cpu", defences__masks=True), tmp_path)
    with pytest.raises(EngineError, match="an honest sum, made as theirs are, is refused"):
        attempts(masked)


def test_attempts_on_a_federation_with_masks_are_refused_by_tags(tmp_path: Path) -> None:
    config = encrypted(training__device="cpu", defences__masks=True)
    by = {one.attack: one.by for one in attempts(detections_run(config, tmp_path / "active"))}
    assert by["add an upload twice"] == "IntegrityError (integrity)"
    assert by["drop an upload, claim it was added"] == "IntegrityError (integrity)"


def test_what_detects_has_a_name(found: dict[str, Detection]) -> None:
    assert all(bool(d.by) == (d.outcome in ("detected", "harmless")) for d in found.values())


def test_the_tests_that_hold_them_exist(found: dict[str, Detection]) -> None:
    assert all((ROOT / detection.test).exists() for detection in found.values())
