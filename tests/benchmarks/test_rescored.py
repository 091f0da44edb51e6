"""Attacks on FedML-HE by the age of its scores: every victim of every seed counts once, and the paper's claim is judged by them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dictpfl.deploy.attacks.inversion import Effort
from dictpfl.deploy.attacks.registry import Tools
from lib import rescored
from lib.paper.cells import Store
from lib.paper.measured import Measured
from lib.paper.verdicts import CLAIMS, DIFFERS, LEVEL, OPEN, REPRODUCED
from tests.support import ROOT

EXPERIMENT = ROOT / "experiments" / "privacy_digits.toml"
AGEING = next(claim.judge for claim in CLAIMS if "scores grow older" in claim.text)


def test_all_victims_of_all_seeds_count_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On plaintext all images are recovered; sealed parts by how often scores are made, and nothing else differs."""
    monkeypatch.setattr(rescored, "UPDATES", 2)
    monkeypatch.setattr(rescored, "EVERY", (1, 2))
    monkeypatch.setattr(rescored, "SHARES", (90,))
    monkeypatch.setattr(rescored, "STARTS", {"vit_tiny": {"federation.participants": 3}})
    tools = Tools(Effort(), tmp_path / "pictures")
    plain, fresh, old = rescored.rescored(EXPERIMENT, tmp_path, tools, seeds=(1, 2))
    assert [one.trials for one in (plain, fresh, old)] == [6, 6, 6]
    assert plain.verdict == "succeeds"
    assert {one.setting["model"] for one in (plain, fresh, old)} == {
        "vit_tiny, 2 updates"
    }  # no control of first rounds is theirs
    assert plain.more["recovered"] == 1.0
    assert (fresh.method, old.method) == ("FedML-HE, 90% encrypted", "FedML-HE, 90% encrypted")
    assert (fresh.setting[rescored.OLD], old.setting[rescored.OLD]) == (1, 2)
    assert fresh.more["recovered"] == old.more["recovered"] == 0.0
    assert plain.found.low > fresh.found.high


def _stored(folder: Path, *runs: tuple[int, float, float], model: str = rescored.PRETRAINED) -> Any:
    findings = [
        {"family": "inversion", "adversary": "server", "method": "FedML-HE, 10% encrypted", "setting": {rescored.OLD: every, "model": model}, "trials": 40,
         "found": {"value": (low + high) / 2, "low": low, "high": high}, "more": {"recovered": 0.5}}
        for every, low, high in runs
    ]  # fmt: skip
    (folder / "privacy.json").write_text(json.dumps({"findings": findings}), encoding="utf-8")
    return AGEING(Measured(Store(folder / "paper")))


def test_claim_of_older_scores_is_judged_by_the_interval_of_the_difference(tmp_path: Path) -> None:
    """Halves 0.1 and 0.2 are 0.22 together: a step of 0.3 is shown, one of 0.2 is not."""
    assert _stored(tmp_path, (1, 0.1, 0.3), (10, 0.2, 0.6), (40, 0.3, 0.7)).word == REPRODUCED
    assert _stored(tmp_path, (1, 0.1, 0.3), (40, 0.2, 0.6)).word == LEVEL
    assert _stored(tmp_path, (1, 0.6, 0.8), (40, 0.2, 0.6)).word == DIFFERS
    said = _stored(tmp_path, (40, 0.3, 0.7), (1, 0.1, 0.3)).ours
    assert said.startswith(
        "50 %, 50 % of 40 images each are recovered with scores 0, 39 updates old, SSIM +0.30 (+0.08 to +0.52) from"
    )


def test_claim_of_older_scores_is_not_judged_by_one_age_or_by_another_start(tmp_path: Path) -> None:
    assert _stored(tmp_path, (40, 0.4, 0.8)).word == OPEN
    assert _stored(tmp_path, (1, 0.1, 0.3), (40, 0.4, 0.8), model="vit_tiny").word == OPEN
    (tmp_path / "privacy.json").unlink()
    assert AGEING(Measured(Store(tmp_path / "paper"))).word == OPEN
