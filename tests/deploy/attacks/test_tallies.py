"""Parts of a tally: nobody gets one from a sum of strangers; the stated limits are limits, and masks hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dictpfl.common.config import FederationConfig
from dictpfl.deploy.attacks.published.tallies import counts_of, federation, guesses, likeness, tally_findings
from dictpfl.deploy.attacks.recorded import play

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.mark.parametrize("masks", [False, True])
def test_what_each_adversary_gets(masks: bool, tiny: Callable[..., FederationConfig], tmp_path: Path) -> None:
    recorded = play(federation(tiny(), 4, masks=masks), tmp_path / "run")
    opening = recorded.auditor.state.tallied("classes")
    np.testing.assert_array_equal(opening.sums[:10], counts_of(recorded).sum(axis=0))
    made = guesses(recorded)
    assert made["sum"].found.max() < 0.999, "three strangers hide each other"
    assert made["all but one"].found.min() == 1.0, "the limit that the threat model states: n - 1 know the last"
    if masks:
        np.testing.assert_array_equal(made["upload"].found, 0.0)
    else:
        assert made["upload"].found.min() == 1.0, "who has the key and an upload has what is in it"
    findings = {finding.attack: finding for finding in tally_findings(recorded)}
    opened = findings["open another's tally with the shared key"]
    assert opened.verdict == ("no better than blind" if masks else "succeeds")
    assert len(findings) == (1 if masks else 3)


def test_likeness_is_the_share_that_need_not_move() -> None:
    assert likeness(np.array([2.0, 2.0]), np.array([5.0, 5.0])) == 1.0
    assert likeness(np.array([1.0, 0.0]), np.array([0.0, 3.0])) == 0.0
    assert likeness(np.array([3.0, 1.0]), np.array([1.0, 1.0])) == 0.75
    assert likeness(np.array([-3.0, 0.0]), np.array([1.0, 1.0])) == 0.0
