"""What accuracy is measured on, and by which methods: settings, and what the project promises of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib import lora
from lib.federations import W0, Cell
from lib.machine import Requirement

FULL, HEAD, TOPK, BOTH, FROZEN_A, OURS = "plaintext", "head-only", "fedhe-topk", "lora-both", "lora-frozen-a", "dictpfl"
METHODS: Mapping[str, str] = {
    FULL: "plaintext, full fine-tuning",
    HEAD: "head only",
    TOPK: "FedHE-TopK (last two layers)",
    BOTH: "LoRA, both factors averaged",
    FROZEN_A: "LoRA, A frozen",
    OURS: "dictpfl",
}
"""All but plaintext are encrypted under CKKS. LoRA has dictpfl's rank, and trains the same small dense parameters."""
RATES = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)


@dataclass(frozen=True)
class Promise:
    """`measure(accuracy by method, share of values sent by method)` at most, or at least, `bound`."""

    text: str
    relation: str
    bound: float
    unit: str
    measure: Callable[[Mapping[str, float], Mapping[str, float]], float]

    def judged(self, name: str, accuracy: Mapping[str, float], share: Mapping[str, float]) -> Requirement:
        """With what was measured."""
        return Requirement(f"{name}: {self.text}", self.relation, self.bound, self.measure(accuracy, share), self.unit)


def below_full(points: float) -> Promise:
    return Promise("points below full fine-tuning", "at most", points, "points", lambda a, _: a[FULL] - a[OURS])


def above_head(points: float) -> Promise:
    return Promise("points above the head alone", "at least", points, "points", lambda a, _: a[OURS] - a[HEAD])


def values(percent: float) -> Promise:
    return Promise("values sent, of full fine-tuning's", "at most", percent, "%", lambda _, share: share[OURS])


@dataclass(frozen=True)
class Workload:
    """Data, model and rounds in common to all methods.

    Attributes:
        title: of tables and plots.
        settings: dotted, of all methods. `ours`: what dictpfl and LoRA have beside them.
        promises: judged where all that they compare was measured.
        frozen: patterns that LoRA leaves alone beside W0.
        further: seeds on which the two best rates meet as well, where runs are cheap: Dirichlet draws differ a lot.
        needs: a path that must be there, and how to get it.
        methods: that are compared. `rates`: grids to begin with, where they are not `RATES`.
    """

    title: str
    settings: Mapping[str, Any]
    ours: Mapping[str, Any] = field(default_factory=dict)
    promises: Sequence[Promise] = ()
    frozen: Sequence[str] = ()
    further: Sequence[int] = ()
    needs: tuple[str, str] = ("", "")
    methods: Sequence[str] = tuple(METHODS)
    rates: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def grid(self, method: str) -> Sequence[float]:
        """Rates to try first."""
        return self.rates.get(method, RATES)

    def missing(self, root: Path) -> str:
        """What is not there of `needs`; empty: nothing."""
        path, how = self.needs
        return f"{path} is missing: {how}" if path and not (root / path).exists() else ""

    def cell(self, name: str, method: str, rate: float, seed: int, *, tunes: bool = False) -> Cell:
        """One federation by one method."""
        common = {
            "name": name,
            "seed": seed,
            "training.threads": 1,
            "training.device": "cpu",
            "training.learning_rate": rate,
            **self.settings,
        }
        label = f"{name}-{method}"
        if method not in (BOTH, FROZEN_A):
            chosen = {
                **common,
                "method": method,
                "toy_insecure": method == FULL,
                **(self.ours if method == OURS else {}),
            }
            return Cell(label, chosen, tunes=tunes)
        # W0 as dictpfl has it, pretrained or drawn; the pairs are put into that.
        start = {**common, "method": OURS, **self.ours}
        options = {"source": common["model.source"], "options": common.get("model.options", {}), "weights": W0,
                   "rank": self.ours["decomposition.rank"]}  # fmt: skip
        dropped = {k: v for k, v in common.items() if not k.startswith("model.pretrain")}
        frozen = [*lora.FROZEN, *self.frozen, *((lora.A,) if method == FROZEN_A else ())]
        paired = {"method": "fedhe-full", "model.source": "lib.lora:model", "model.options": options,
                  "decomposition.frozen": frozen}  # fmt: skip
        return Cell(label, {**dropped, **paired}, start=start, tunes=tunes)


_DIGITS = {"data.source": "digits", "training.epochs": 2}
_MLP = {**_DIGITS, "federation.rounds": 40, "model.source": "mlp", "model.options": {"hidden": [128, 128]}}
_VIT = {**_DIGITS, "federation.rounds": 30, "model.source": "vit_tiny", "model.options": {"dim": 64, "depth": 2}}
_PRETRAINED = {"data.public_share": 0.2, "model.pretrain.epochs": 30, "model.pretrain.classes": [0, 1, 2, 3, 4]}
_FURTHER = (101, 102, 103)
_FASHION = {
    "data.source": "fashion_mnist",
    "data.path": "/usr/share/datasets/fashion-mnist",
    "data.limit": 6000,
    "federation.rounds": 15,
}
_FASHION_VIT = {**_FASHION, "model.source": "vit_tiny", "model.options": {"dim": 64, "depth": 2, "patch": 4}}
_FASHION_CNN = {**_FASHION, "model.source": "cnn"}
_FASHION_NEEDS = ("/usr/share/datasets/fashion-mnist", "apt install dataset-fashion-mnist")
_R8 = {
    "data.source": "parquet",
    "data.path": "data/reuters_r8.parquet",
    "data.label": "topic",
    "data.options": {"text": "text", "tokenizer": "data/minilm", "max_tokens": 64},
    "data.limit": 1500,
    "federation.rounds": 3,
    "model.source": "transformers:data/minilm",
    "training.optimizer": "adamw",
    "training.batch_size": 16,
}


WORKLOADS: Mapping[str, Workload] = {
    "digits-mlp": Workload(
        "digits, MLP 64-128-128-10, IID, 40 rounds of 2 epochs, r = 8, default pruning",
        _MLP,
        {"decomposition.rank": 8},
        (below_full(2.0), above_head(0.0), values(4.5)),
        further=_FURTHER,
    ),
    "digits-mlp-skewed": Workload(
        "the same, Dirichlet alpha = 0.3",
        {**_MLP, "data.partition": "dirichlet", "data.alpha": 0.3},
        {"decomposition.rank": 8},
        (below_full(4.0), above_head(0.0), values(4.5)),
        further=_FURTHER,
    ),
    "digits-vit": Workload(
        "digits, vit_tiny, W0 pretrained on classes 0-4 of a public split, 30 rounds of 2 epochs, r = 4, default pruning",
        {**_VIT, **_PRETRAINED},
        {"decomposition.rank": 4},
        (below_full(4.0), above_head(10.0), values(5.0)),
    ),
    "digits-vit-random": Workload(
        "digits, vit_tiny from random weights, 30 rounds of 2 epochs, r = 4, no pruning",
        _VIT,
        {"decomposition.rank": 4, "pruning.enabled": False},
        (below_full(2.0), values(9.0)),
    ),
    "fashion-vit": Workload(
        "Fashion-MNIST (6,000 images), vit_tiny, W0 pretrained on classes 0-4 of a public split, 15 rounds, r = 4",
        {**_FASHION_VIT, **_PRETRAINED, "model.pretrain.epochs": 20},
        {"decomposition.rank": 4},
        needs=_FASHION_NEEDS,
    ),
    "fashion-vit-random": Workload(
        "Fashion-MNIST (6,000 images), vit_tiny from random weights, 15 rounds, r = 4",
        _FASHION_VIT,
        {"decomposition.rank": 4},
        needs=_FASHION_NEEDS,
    ),
    "fashion-cnn": Workload(
        "Fashion-MNIST (6,000 images), cnn, W0 pretrained on classes 0-4 of a public split, 15 rounds, r = 8",
        {**_FASHION_CNN, **_PRETRAINED, "model.pretrain.epochs": 20},
        {"decomposition.rank": 8},
        needs=_FASHION_NEEDS,
    ),
    "fashion-cnn-random": Workload(
        "Fashion-MNIST (6,000 images), cnn from random weights, 15 rounds, r = 8",
        _FASHION_CNN,
        {"decomposition.rank": 8},
        needs=_FASHION_NEEDS,
    ),
    "reuters-minilm": Workload(
        "Reuters R8 (1,500 items, 64 tokens), MiniLM-L6, 3 rounds, r = 4",
        _R8,
        {"decomposition.rank": 4},
        frozen=("bert.embeddings.*_embeddings.weight",),
        rates={FULL: (1e-4, 2e-4, 4e-4), TOPK: (5e-4, 1e-3, 2e-3), HEAD: (4e-3, 8e-3, 1.6e-2)},
        needs=("data/reuters_r8.parquet", "run python experiments/fetch.py"),
    ),
}
SMALL = ("digits-mlp",)
"""What `make bench` measures."""
