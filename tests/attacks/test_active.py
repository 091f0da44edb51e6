"""What a coordinator or institution that follows the format, and cheats, gets away with: as the results say, no more, no less."""

from __future__ import annotations

import pytest

from dictpfl.deploy.attacks.active import ATTEMPTS, attempts
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


def test_what_detects_has_a_name(found: dict[str, Detection]) -> None:
    assert all(bool(d.by) == (d.outcome in ("detected", "harmless")) for d in found.values())


def test_the_tests_that_hold_them_exist(found: dict[str, Detection]) -> None:
    assert all((ROOT / detection.test).exists() for detection in found.values())
