"""What FLamby published of its two small tabular data sets, and the settings that it published them with.

Ogier du Terrail et al., "FLamby", NeurIPS 2022 (arXiv 2210.04620): means over seeds 42 to 46 of the result files in
https://github.com/owkin/FLamby at edacf54, 100 local updates a round; settings of its config_heart_disease.json,
config_tcga_brca.json and of each data set's common.py. A figure is the plain mean over centres.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SEEDS = (42, 43, 44, 45, 46)
STEPS = 100


@dataclass(frozen=True)
class Rates:
    """Settings of a strategy: of the optimiser at a centre (SGD), and of the rule on the mean update."""

    rule: str
    rate: float
    server: float = 1.0
    proximal: float = 0.0


@dataclass(frozen=True)
class Published:
    """A data set's published rows.

    Attributes:
        figures: mean test figure by method.
        spreads: its standard deviation over seeds.
        rates: by method.
        rounds, batch: of the federated methods.
        epochs, alone_rate: of Adam, pooled and at one centre.
    """

    figures: Mapping[str, float]
    spreads: Mapping[str, float]
    rates: Mapping[str, Rates]
    rounds: int
    batch: int
    epochs: int
    alone_rate: float


POOLED, LOCAL = "pooled", "local, best single centre"
POOLED_ALIKE = "pooled, test rows standardised as training rows"
PUBLISHED: Mapping[str, Published] = {
    "heart": Published(
        {POOLED: 0.735, LOCAL: 0.722, "FedAvg": 0.685, "FedProx": 0.685, "FedAdagrad": 0.731, "FedAdam": 0.726,
         "FedYogi": 0.731, "Scaffold": 0.684},
        {POOLED: 0.003, LOCAL: 0.021, "FedAvg": 0.028, "FedProx": 0.028, "FedAdagrad": 0.013, "FedAdam": 0.014,
         "FedYogi": 0.013, "Scaffold": 0.028},
        {"FedAvg": Rates("average", 1e-3), "FedProx": Rates("average", 1e-3, proximal=0.01),
         "FedAdam": Rates("adam", 1e-2, 1e-2), "FedYogi": Rates("yogi", 3.162e-3, 1e-2)},
        rounds=15, batch=4, epochs=50, alone_rate=1e-3,
    ),
    "tcga": Published(
        {POOLED: 0.676, LOCAL: 0.750, "FedAvg": 0.732, "FedProx": 0.729, "FedAdagrad": 0.813, "FedAdam": 0.815,
         "FedYogi": 0.815, "Scaffold": 0.687},
        {POOLED: 0.095, LOCAL: 0.037, "FedAvg": 0.181, "FedProx": 0.168, "FedAdagrad": 0.005, "FedAdam": 0.026,
         "FedYogi": 0.026, "Scaffold": 0.036},
        {"FedAvg": Rates("average", 1e-1), "FedProx": Rates("average", 1e-1, proximal=0.1),
         "FedAdam": Rates("adam", 1e-2, 1e-1), "FedYogi": Rates("yogi", 1e-2, 1e-1)},
        rounds=5, batch=8, epochs=30, alone_rate=1e-1,
    ),
}  # fmt: skip
MOMENTUM, SECOND, FLOOR = 0.9, 0.999, 1e-8
"""beta1, beta2 and tau of its FedAdam and FedYogi."""
