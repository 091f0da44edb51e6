"""The workloads of the accuracy tables: a file of experiments/ each, its partitions, and what a method needs to know of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lib.paper.methods import COUNTED, FEDHE, FULL, ML10, ORDER, OURS, PAPER

PARTITIONS: Mapping[str, Mapping[str, Any]] = {
    "iid": {},
    "dirichlet-0.3": {"data.partition": "dirichlet", "data.alpha": 0.3},
    "natural": {},
}
"""Changes to a workload's file. `natural`: institutions as the data have them."""


LARGE = "cifar10"
"""Where headlines are judged and seconds compared: the paper's first data set, on the largest model here."""
TUNING_SEED = 0
"""Chooses rates, and is never reported."""
_SEVERAL = (TUNING_SEED, 6, 7, 8, 9)


def _grids(**middle: float) -> Mapping[str, Sequence[float]]:
    """Three rates around the middle of each grid; underscores for hyphens."""
    return {name.replace("_", "-"): (rate / 2, rate, 2 * rate) for name, rate in middle.items()}


_PICTURES = _grids(
    plaintext=1e-5,
    head_only=2e-3,
    fedhe_top2=5e-5,
    lora_both=2e-4,
    lora_frozen_a=4e-4,
    dictpfl_paper=5e-5,
    dictpfl=5e-5,
    dictpfl_head=5e-5,
    dictpfl_none=5e-5,
    dictpfl_scaled=8e-4,
)
_TEXTS = _grids(
    plaintext=1e-4,
    head_only=1.6e-2,
    fedhe_top2=1e-3,
    lora_both=2e-3,
    lora_frozen_a=4e-3,
    dictpfl_paper=2e-3,
    dictpfl=2e-3,
    dictpfl_scaled=2e-3,
)
_LANGUAGE = _grids(
    plaintext=5e-5,
    head_only=1e-3,
    fedhe_top2=2e-4,
    lora_both=1e-3,
    lora_frozen_a=2e-3,
    dictpfl_paper=2e-3,
    dictpfl=2e-3,
)
_CONVOLUTIONS = _grids(
    plaintext=2e-4,
    head_only=2e-3,
    fedhe_top2=1e-3,
    lora_both=1.25e-4,
    lora_frozen_a=2e-3,
    dictpfl_paper=2e-5,
    dictpfl=5e-6,
)
"""Low where tables or pairs are trained: begun at 1e-3, grids of three methods ended at a rate that beat its neighbours, and not a fiftieth of it."""
_SMALL = dict.fromkeys(_PICTURES, (2e-3, 4e-3, 8e-3))
"""Where grids begin: around what the file has for dictpfl, and what is usual for the others; each is extended until its best is inside."""

_FURTHER = (4, 5, 6)


@dataclass(frozen=True)
class Workload:
    """A data set and a model, in common to all methods.

    Attributes:
        title: of tables. `experiment`: file of experiments/, without suffix.
        paper: what the paper has instead, or beside it; empty: nothing.
        partitions: of `PARTITIONS`, the first one is tuned on.
        seeds: reported, never those that tune. `tuning_seeds`: those; several where a validation split is so small that one seed's best
            rate is chance.
        further: seeds that dictpfl and plaintext have besides: three do not tell whether a goal of one point is kept (`lib.paper.goals`). Tables
            have `seeds`, the same for all methods.
        settings: dotted, of all methods, over the file.
        frozen: patterns that LoRA leaves alone beside W0.
        rates: grids to begin with; those of DINOv2-S where nothing else is said.
        methods: that have a training of their own here, in the order of measuring. `counted`: those that have plaintext's.
        mapped: how FedML-HE scores values (`encryption.sensitivity`); empty: by gradients, as its authors do.
        without: why some are left out, and what a reader must know of the data, for the page.
        needs: a path that must be there; `python experiments/fetch.py` writes it.
    """

    title: str
    experiment: str
    paper: str = ""
    partitions: Sequence[str] = ("iid", "dirichlet-0.3")
    seeds: Sequence[int] = (1, 2, 3)
    further: Sequence[int] = ()
    tuning_seeds: Sequence[int] = (TUNING_SEED,)
    settings: Mapping[str, Any] = field(default_factory=dict)
    frozen: Sequence[str] = ()
    rates: Mapping[str, Sequence[float]] = field(default_factory=lambda: _PICTURES)
    methods: Sequence[str] = ORDER
    counted: Sequence[str] = COUNTED
    mapped: str = ""
    without: str = ""
    needs: str = ""

    def grid(self, method: str) -> Sequence[float]:
        """Rates to try first, of a method that is tuned by itself."""
        return self.rates[method]


WORKLOADS: Mapping[str, Workload] = {
    "cifar10": Workload(
        "CIFAR-10, DINOv2-S/14", "cifar10", paper="CIFAR-10, ViT-B/16", further=_FURTHER, needs="data/cifar10/train.parquet"
    ),
    "ag_news": Workload(
        "AG's News, MiniLM-L6", "ag_news", paper="AG's News, BERT", further=_FURTHER,
        needs="data/ag_news.parquet", frozen=("*_embeddings.weight",), rates=_TEXTS,
    ),
    "gtsrb": Workload("GTSRB, DINOv2-S/14", "gtsrb", paper="GTSRB, ViT-B/16", further=_FURTHER, needs="data/gtsrb.parquet"),
    "retina": Workload(
        "RetinaMNIST, DINOv2-S/14", "retina", paper="Diabetic Retinopathy, ViT-B/16", needs="data/retina/train.parquet",
        without="43.5 % is had without learning anything: 174 of the 400 test photographs are of one class.",
    ),
    "gsm8k": Workload(
        "GSM8K, SmolLM2-135M", "gsm8k", paper="MetaMathQA and GSM8K, TinyLlama", partitions=("iid",),
        needs="data/gsm8k.parquet", frozen=("*embed_tokens.weight", "lm_head.weight"), rates=_LANGUAGE,
        without="Cells are sized for 15 minutes on two cores; those whose institutions send all 134.5 million values take 23 to 33, and 18 to 21 GB of memory.",
    ),
    "heart": Workload(
        "UCI heart disease, four centres, MLP", "heart_mlp", partitions=("natural",), seeds=(1, 2, 3, 4, 5), rates=_SMALL,
        tuning_seeds=_SEVERAL, needs="data/heart.csv",
    ),
    "tcga": Workload(
        "TCGA-BRCA, six regions, tabular transformer", "tcga_transformer", partitions=("natural",), seeds=(1, 2, 3, 4, 5),
        rates=_SMALL, needs="data/tcga.csv", mapped="magnitude",
        without="FedML-HE scores values by their size here: its authors' map takes the gradient of each sample alone, and Cox's loss belongs to "
        "samples together, so that `dictpfl` refuses it.",
    ),
    "cifar10_effnet": Workload(
        "CIFAR-10, EfficientNet-Lite0", "cifar10_effnet", partitions=("iid",), needs="data/cifar10/train.parquet", rates=_CONVOLUTIONS,
        without="No difference is shown here between tables, or LoRA's pairs, and the head alone: a convolutional network with BatchNorm, whose running "
        "statistics stay as they were, in few steps.",
    ),
    "digits_random": Workload(
        "digits, vit_tiny from random weights, 40 rounds",
        "digits",
        paper="no pretraining, table 3",
        partitions=("iid",),
        rates=_SMALL,
        methods=(OURS, FULL, FEDHE),
        counted=(ML10,),
        settings={"model.pretrain.epochs": 0, "data.public_share": 0.0, "federation.rounds": 40},
    ),
    "digits": Workload(
        "digits, vit_tiny pretrained on classes 0-4 of a public split",
        "digits",
        rates=_SMALL,
        methods=(OURS, FULL, PAPER),
        counted=(),
        without="None of the paper's data: it is what most arms run on, and has three methods only.",
    ),
}  # fmt: skip
"""In the order in which they are measured."""
