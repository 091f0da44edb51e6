"""Classes behind thresholds: a mixture is found where there is one, single uploads give it away, and masks hold them back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dictpfl.common.config import FederationConfig
from dictpfl.deploy.attacks.published.thresholds import (
    INPUTS,
    THRESHOLDS,
    federation,
    guesses,
    mixture,
    threshold_findings,
)
from dictpfl.deploy.attacks.recorded import play

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.mark.parametrize("masks", [False, True])
def test_what_each_adversary_gets(masks: bool, tiny: Callable[..., FederationConfig], tmp_path: Path) -> None:
    recorded = play(federation(tiny(data__limit=600), 4, masks=masks), tmp_path / "run")
    made = guesses(recorded)
    findings = list(threshold_findings(recorded))
    assert {f.setting["institutions"] for f in findings} == {4}
    if masks:
        assert made.keys() == {(INPUTS, "upload"), (THRESHOLDS, "upload")}
        assert all(not guess.found.any() for guess in made.values()), "no single upload opens"
        assert {f.verdict for f in findings} == {"no better than blind"}
        return
    assert len(findings) == 4
    for what in (INPUTS, THRESHOLDS):
        alone, together = made[what, "upload"], made[what, "sum"]
        assert alone.found.mean() > alone.blind.mean() + 0.1, "who has the key and an upload learns what it is of"
        assert alone.found.mean() > together.found.mean() + 0.05, "the others hide in their sum"


def test_a_mixture_is_found() -> None:
    classes = np.random.default_rng(0).normal(size=(4, 30))
    shares = np.array([0.5, 0.0, 0.2, 0.3])
    np.testing.assert_allclose(mixture(shares @ classes, classes), shares, atol=1e-4)
    assert not mixture(np.zeros(30), classes).any()
    assert mixture(-classes[0], classes).min() >= 0.0
