"""The same attack, by the same code, on a run with masks and on one without: coordinator and one institution together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dictpfl.common.config import FederationConfig
from dictpfl.deploy.attacks.published.collusion import collusion_attack
from dictpfl.deploy.attacks.recorded import play


@pytest.mark.parametrize("masks", [True, False])
def test_with_masks_collusion_gets_noise(masks: bool, tiny: Callable[..., FederationConfig], tmp_path: Path) -> None:
    config = tiny(
        model__options={"hidden": [256]}, decomposition__enabled=False, federation__participants=5, defences__masks=masks,
        defences__integrity=True, training__steps=4,
    )  # fmt: skip
    pried = collusion_attack(play(config, tmp_path / "run"))
    assert len(pried) == 4
    found = np.abs([one.correlation for one in pried])
    if masks:
        assert not any(one.passes for one in pried)
        assert found.mean() < 0.02
    else:
        assert found.min() > 0.99
        assert all(one.largest <= 0.5 + 1e-6 for one in pried)
