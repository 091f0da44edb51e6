"""The paper's missing arms: one setting varied at a time, three seeds each; ten where they decide defaults.

Most run on digits (experiments/ablation_*.toml: vit_tiny, W0 pretrained on classes 0-4 of a public split, 20 rounds of 2
epochs), where pruning has time to act and a federation takes half a minute.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lib.paper.methods import METHODS, OURS, OURS_HEAD, OURS_NONE, OURS_SCALED, PAPER

Flat = Mapping[str, Any]


@dataclass(frozen=True)
class Point:
    """One setting of an arm.

    Attributes:
        label: a word for the cell's name. `settings`: dotted.
        accuracy, gigabytes: what the paper reports for it; None: nothing.
        against: label of the point that it is compared with; empty: the arm's default.
        tuned_as: method whose tuned rate it takes; empty: the file's rate, which suits tables.
        decimals: K of AdaptiveBatchHE's encoding, under which it runs; 0: not under it.
    """

    label: str
    settings: Flat
    accuracy: float | None = None
    gigabytes: float | None = None
    against: str = ""
    tuned_as: str = ""
    decimals: int = 0


@dataclass(frozen=True)
class Arm:
    """One setting varied.

    Attributes:
        title: of its table. `source`: where the paper has it.
        points: in order. `default`: label of the point that others are compared with.
        experiment: file of experiments/. `settings`: of all points.
        question: what it decides.
        workload: whose tuned rates `Point.tuned_as` means.
        traced: keeps the size of updates, for pictures.
    """

    title: str
    source: str
    points: Sequence[Point]
    default: str
    question: str
    experiment: str = "ablation_rank"
    settings: Flat = field(default_factory=dict)
    workload: str = ""
    seeds: Sequence[int] = (1, 2, 3)
    traced: bool = False


def _points(key: str, rows: Sequence[tuple[Any, float | None, float | None]]) -> tuple[Point, ...]:
    return tuple(Point(f"{value:g}", {key: value}, accuracy, gigabytes) for value, accuracy, gigabytes in rows)


_TEN = tuple(range(1, 11))
_SKEW = {"data.partition": "dirichlet", "data.alpha": 0.3}
_ALPHAS = {"0.3": 79.62, "0.6": 80.28, "0.9": 82.06}


def _alphas(sizes: str) -> tuple[Point, ...]:
    skewed = [
        Point(alpha, {"data.partition": "dirichlet", "data.alpha": float(alpha), "data.sizes": sizes}, accuracy)
        for alpha, accuracy in _ALPHAS.items()
    ]
    return (*skewed, Point("iid", {"data.partition": "iid"}, 82.67))


def _accumulation() -> tuple[Point, ...]:
    dropped = {"0.3": 74.26, "0.6": 76.13, "0.9": 80.45}
    found = []
    for alpha, kept in _ALPHAS.items():
        skew, base = {"data.partition": "dirichlet", "data.alpha": float(alpha)}, f"{alpha}-accumulate"
        found += [
            Point(base, {**skew, "pruning.residual_decay": 1.0}, kept, against=base),
            Point(f"{alpha}-damped", {**skew, "pruning.residual_decay": 0.8}, against=base),
            Point(f"{alpha}-discard", {**skew, "pruning.pruned": "discard"}, dropped[alpha], against=base),
            Point(f"{alpha}-freeze", {**skew, "pruning.pruned": "freeze"}, against=base),
        ]
    return tuple(found)


def _dense(**rest: str) -> tuple[Point, ...]:
    """Small dense parameters: all, the head, none; those that train fewer have rates of their own, tuned alike.

    Args:
        rest: of `Point`, of the first one.
    """
    ours = METHODS[OURS].settings
    fewer = (("head", OURS_HEAD), ("none", OURS_NONE))
    return (Point("all", ours, **rest), *(Point(label, METHODS[of].settings, tuned_as=of) for label, of in fewer))


_READINGS: Mapping[str, Flat] = {
    "ours": {},
    "all-coordinates": {"pruning.threshold": "all"},
    "as-printed": {"pruning.quantile": "printed"},
    "literal-window": {"pruning.window": "literal"},
    "all-and-literal": {"pruning.threshold": "all", "pruning.window": "literal"},
}
_PAPER_SCALING = Point("paper-scaling", METHODS[OURS_SCALED].settings, tuned_as=OURS_SCALED)
"""Dictionaries D = U S, at a rate of their own."""
_DEFAULTS = (
    Point("ours", {}),
    Point("beta-0.2", {"pruning.beta": 0.2}),
    Point("undamped", {"pruning.residual_decay": 1.0}),
    _PAPER_SCALING,
    Point("tables-and-head", METHODS[OURS_HEAD].settings, tuned_as=OURS_HEAD),
    Point("8-bits", {"grid.value_bits": 8}),
    Point("6-bits", {"grid.value_bits": 6}),
    Point("not-pruned", {"pruning.enabled": False}),
)
_ON_CIFAR10: Mapping[str, Flat] = {
    "ours": {},
    "average-at-2": {"aggregation.rate": 2.0},
    "momentum": {"aggregation.rule": "momentum", "aggregation.momentum": 0.5},
    "momentum-0.5-at-2": {"aggregation.rule": "momentum", "aggregation.momentum": 0.5, "aggregation.rate": 2.0},
    "proximal-0.1": {"training.proximal": 0.1},
    "core-32": {"decomposition.form": "core", "decomposition.rank": 32},
    "core-16": {"decomposition.form": "core", "decomposition.rank": 16},
    "refresh-5": {"decomposition.refresh_every": 5},
    "rank-4": {"decomposition.form": "table", "decomposition.rank": 4},
    "rank-8": {"decomposition.form": "table", "decomposition.rank": 8},
    "core-64": {"decomposition.form": "core", "decomposition.rank": 64},
}
"""Of what is tried on digits: what was ahead there in the mean, and the forms of the tables. What was behind cannot win on two workloads."""


def _servers(*rates: float, rules: Sequence[str] = ("adagrad", "adam", "yogi")) -> Mapping[str, Flat]:
    """Server-side rules that divide by what an update has been, at several rates: at one alone, a fall might be the rate's."""
    return {
        f"{rule}-{rate:g}": {"aggregation.rule": rule, "aggregation.rate": rate} for rule in rules for rate in rates
    }


def _momentum(kept: float, *rates: float) -> Mapping[str, Flat]:
    """Momentum at smaller rates: an update counts 1 / (1 - kept) times in all, so that at rate 1 a fall might be the step's."""
    return {
        f"momentum-{kept:g}-at-{rate:g}": {
            "aggregation.rule": "momentum", "aggregation.momentum": kept, "aggregation.rate": rate,
        }
        for rate in rates
    }  # fmt: skip


_ON_DIGITS: Mapping[str, Flat] = {
    **_ON_CIFAR10,
    "proximal-0.01": {"training.proximal": 0.01},
    "proximal-1": {"training.proximal": 1.0},
    "smaller-side": {"decomposition.orientation": "smaller", "decomposition.form": "table", "decomposition.rank": 4},
    "8-bits": {"grid.value_bits": 8},
    "momentum-0.9": {"aggregation.rule": "momentum", "aggregation.momentum": 0.9},
    **{f"average-at-{rate:g}": {"aggregation.rate": rate} for rate in (0.5, 4.0)},
    "learning-rate-0.008": {"training.learning_rate": 8e-3},  # twice what IID data chose: is it only that?
    **_momentum(0.5, 0.25, 0.5, 4.0),
    **_momentum(0.9, 0.03, 0.1, 0.3),
    **_servers(0.003, 0.01, 0.03, 0.1, 0.3),
    **_servers(1.0, 3.0, rules=("adagrad",)),
    "rank-16": {"decomposition.form": "table", "decomposition.rank": 16},
    "not-pruned": {"pruning.enabled": False},
    "gradient-basis": {
        "decomposition.basis": "gradient"
    },  # of public samples, which CIFAR-10's federation does not have
}


def _each(table: Mapping[str, Flat]) -> tuple[Point, ...]:
    return tuple(Point(label, settings) for label, settings in table.items())


def _packed() -> tuple[Point, ...]:
    """The rival of table 8 and the combination, each with two numbers of decimals: 4, as in the authors' code, and enough of them."""
    full, paper = METHODS["plaintext"].settings, METHODS[PAPER].settings
    stated = {4: ((96.7, 5.41), (96.6, 0.0872))}
    alone, both = [], []
    for k in (4, 6):
        rival, combined = stated.get(k, ((None, None), (None, None)))
        alone.append(Point(f"adaptive-batch-{k}", full, *rival, tuned_as="plaintext", decimals=k))
        both.append(Point(f"paper-adaptive-batch-{k}", paper, *combined, against="paper", tuned_as=PAPER, decimals=k))
    return (Point("fedhe-full", METHODS["fedhe-full"].settings, 98.2, 60.14, tuned_as="plaintext"), *alone,
            Point("paper", paper, 98.2, 0.43, tuned_as=PAPER), *both)  # fmt: skip


_SCALED = (Point("ours", METHODS[OURS].settings, tuned_as=OURS), _PAPER_SCALING)
ARMS: Mapping[str, Arm] = {
    "rank": Arm(
        "rank r of the dictionaries", "table 1",
        _points("decomposition.rank", ((2, 74.26, 0.046), (4, 81.99, 0.088), (8, 82.67, 0.160), (16, 82.71, 0.332))), "4",
        "How many rows are enough?",
    ),
    "tau": Arm(
        "inactive rounds tau before pruning", "table 2",
        _points("pruning.tau", ((1, 80.55, 0.001), (3, 82.29, 0.003), (5, 82.67, 0.160), (10, 82.77, 0.474))), "3",
        "How long must a coordinate be quiet?",
    ),
    "beta": Arm(
        "factor beta on the reactivation probability", "table 4",
        _points("pruning.beta", ((0.2, 82.29, 0.003), (0.5, 82.37, 0.007), (0.8, 82.55, 0.031))), "0.5",
        "How soon does a pruned coordinate come back?",
    ),
    "s": Arm(
        "share s that counts as inactive", "figure 9",
        _points("pruning.s", ((0.2, None, None), (0.5, None, None), (0.7, None, None), (0.9, None, None))), "0.7",
        "Does pruning 70 % keep the accuracy of pruning 20 %?",
    ),
    "no-reactivation": Arm(
        "pruned for good", "figure 9",
        (Point("0.2-reactivated", {"pruning.s": 0.2}), Point("0.7-reactivated", {"pruning.s": 0.7}),
         Point("0.2-for-good", {"pruning.s": 0.2, "pruning.reactivation": False}, against="0.2-reactivated"),
         Point("0.7-for-good", {"pruning.s": 0.7, "pruning.reactivation": False}, against="0.7-reactivated")),
        "0.2-reactivated", "Is it reactivation that keeps accuracy?",
    ),
    "alpha": Arm(
        "skew alpha of labels, sizes as drawn", "table 6", _alphas("drawn"), "iid", "What does skew cost?",
    ),
    "alpha-equal": Arm(
        "skew alpha of labels, institutions of equal size", "table 6", _alphas("equal"), "iid",
        "What does skew cost where sizes are equal, as in the paper?",
    ),
    "accumulation": Arm(
        "what becomes of a pruned coordinate's change", "table 9", _accumulation(), "",
        "Does accumulating beat discarding, and damping plain accumulation?",
    ),
    "theta": Arm(
        "readings of the threshold and of Eq. 4's window", "Eq. 4 and its text", _each(_READINGS), "ours",
        "Which reading of the paper is it?",
    ),
    "theta-skewed": Arm(
        "the same at alpha = 0.3", "Eq. 4 and its text", _each(_READINGS), "ours", "The same where data differ.", settings=_SKEW,
    ),
    "dense": Arm(
        "small dense parameters trained: all, the head alone, none", "section 4.1", _dense(), "all",
        "What do biases, norms, positions and the class token bring, which the paper does not train?", workload="digits",
    ),
    "dense-skewed": Arm(
        "the same at alpha = 0.3", "section 4.1", _dense(), "all", "The same where data differ.", settings=_SKEW, workload="digits",
    ),
    "dense-cifar10": Arm(
        "the same on CIFAR-10 with DINOv2-S", "section 4.1", _dense(tuned_as=OURS), "all",
        "The same on a large pretrained model.", experiment="cifar10", workload="cifar10",
    ),
    "defaults": Arm(
        "each default of this project against the paper's value or another", "section 4", _DEFAULTS, "ours",
        "Which defaults?", workload="digits", seeds=_TEN,
    ),
    "defaults-skewed": Arm(
        "the same at alpha = 0.3", "section 4", _DEFAULTS, "ours", "Which defaults, where data differ?", settings=_SKEW,
        workload="digits", seeds=_TEN,
    ),
    "closing": Arm(
        "what might close the gap at alpha = 0.3", "beyond the paper", _each(_ON_DIGITS), "ours",
        "Which of these wins at equal bytes?", settings=_SKEW,
    ),
    "closing-cifar10": Arm(
        "the same on CIFAR-10 with DINOv2-S", "beyond the paper", (
            *(Point(label, {**settings, "method": OURS}, tuned_as=OURS) for label, settings in _ON_CIFAR10.items()),
            _PAPER_SCALING,
        ), "ours",
        "Does it win on a second workload? What was behind on digits is not tried again.", experiment="cifar10", workload="cifar10", settings=_SKEW,
    ),
    "scaling-skewed": Arm(
        "normalised dictionaries or D = U S, CIFAR-10 with DINOv2-S, alpha = 0.3", "section 4.1", _SCALED, "ours",
        "Three seeds leave it open. What do six say?", experiment="cifar10", workload="cifar10",
        settings=_SKEW, seeds=(1, 2, 3, 4, 5, 6),
    ),
    "scaling-iid": Arm(
        "the same, IID", "section 4.1", _SCALED, "ours",
        "Is what is better on skewed data as good on even data?", experiment="cifar10", workload="cifar10",
    ),
    "scaling-gtsrb": Arm(
        "the same on GTSRB, alpha = 0.3", "section 4.1", _SCALED, "ours", "And on other images?",
        experiment="gtsrb", workload="gtsrb", settings=_SKEW,
    ),
    "scaling-ag_news": Arm(
        "the same on AG's News with MiniLM-L6, alpha = 0.3", "section 4.1", _SCALED, "ours", "And with tables, on texts?",
        experiment="ag_news", workload="ag_news", settings=_SKEW,
    ),
    "rescoring": Arm(
        "FedML-HE re-scored every K rounds", "table 10",
        tuple(Point(f"every-{k}", {**METHODS["fedml-he-10"].settings, "encryption.rescore_every": k}, None, gigabytes, tuned_as="plaintext")
              for k, gigabytes in ((1, 61.07), (2, 54.28), (5, 30.8), (10, 14.2))), "every-1",
        "What does a fresh map of sensitivity cost?", workload="digits",
    ),
    "adaptive-batch": Arm(
        "AdaptiveBatchHE, alone and over the paper's tables, by decimal places K", "table 8", _packed(), "fedhe-full",
        "Is it the method or the packing that saves, and do they add up?", experiment="cifar10", workload="cifar10",
    ),
    "traced": Arm(
        "updates round by round", "figures 4 and 5",
        (Point("dictpfl", METHODS["dictpfl"].settings, tuned_as="dictpfl"), Point("paper", METHODS[PAPER].settings, tuned_as=PAPER)),
        "dictpfl", "Do updates shrink, and does a quiet coordinate stay quiet?", experiment="digits", workload="digits", seeds=(1,),
        traced=True,
    ),
}  # fmt: skip
