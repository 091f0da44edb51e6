"""Encrypted federations of the clinical tables: FLamby's linear models, a small network, a small transformer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dictpfl.common.config.choices import READ
from lib.clinical.published import FLOOR, MOMENTUM, PUBLISHED, SECOND, Rates
from lib.federations import Cell

LINEAR = ("heart", "tcga")
NETWORKS = ("heart_mlp", "tcga_transformer")
FULL, OURS = "plaintext", "dictpfl"
GRIDS: Mapping[tuple[str, str], Sequence[float]] = {
    ("heart_mlp", FULL): (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3),
    ("heart_mlp", OURS): (5e-4, 1e-3, 2e-3, 4e-3, 8e-3),
    ("tcga_transformer", FULL): (5e-4, 1e-3, 2e-3),
    ("tcga_transformer", OURS): (1e-3, 2e-3, 4e-3),
}
"""Rates of Adam at the institutions, tried on validation rows; extended where the best is at an end."""
TUNING_SEEDS: Mapping[str, Sequence[int]] = {"heart_mlp": (0, 1), "tcga_transformer": (0,)}
TUNING: Mapping[str, Any] = {"data.validation_share": 0.3}
REPORTED: Mapping[str, Any] = {"data.validation_share": 0.0}
"""As FLamby: all training rows train."""
_OUTPUTS = {"heart": 2, "tcga": 1}


def linear(name: str, rates: Rates, seed: int) -> Cell:
    """One encrypted federation of a linear model.

    Heart disease has two outputs here and one in FLamby: their difference is the log odds, and moves twice as far at the same
    rates. So rates are those of one output over two, and the proximal factor is twice its own.
    """
    outputs = _OUTPUTS[name]
    adaptive = rates.rule != "average"
    settings = {
        "seed": seed, "method": "fedhe-full", **REPORTED,
        "training.learning_rate": rates.rate / outputs,
        "training.proximal": rates.proximal * outputs,
        "training.threads": 1, "training.device": "cpu",
        "aggregation.rule": rates.rule,
        "aggregation.rate": rates.server / outputs if adaptive else rates.server,
        "federation.rounds": PUBLISHED[name].rounds,
    }  # fmt: skip
    numbers = {"aggregation.momentum": MOMENTUM, "aggregation.second": SECOND, "aggregation.floor": FLOOR}
    settings |= {key: value for key, value in numbers.items() if rates.rule in READ["aggregation.rule"][key]}
    return Cell(f"clinical-{name}-{rates.rule}", settings, name)


def network(name: str, method: str, rate: float, seed: int, *, tunes: bool = False) -> Cell:
    """One federation of a network, encrypted if it is dictpfl's."""
    settings = {"seed": seed, "method": method, "training.learning_rate": rate, "training.threads": 1,
                "training.device": "cpu", **(TUNING if tunes else REPORTED)}  # fmt: skip
    if method == FULL:
        settings["toy_insecure"] = True
    return Cell(f"clinical-{name}-{method}", settings, name, tunes=tunes)
