"""The methods of every accuracy table, as settings over a workload's file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Rated = Literal["tables", "dense", "head"]


@dataclass(frozen=True)
class Method:
    """A row of a table.

    Attributes:
        title: as the tables call it.
        settings: dotted, over the workload's file.
        tuned_as: method whose learning rate this one takes; empty: it has a rate of its own. Methods that train the same
            parameters of the same model share one.
        lora: None, or patterns that stay frozen beside W0 and what the workload freezes: a LoRA federation.
        training: method whose federation gives the accuracy, where only encryption and bytes differ; empty: its own. These are
            then put together from the rounds of `bytes/WORKLOAD/METHOD`.
        in_process: `lib.fedavg` computes it, which needs no files of the whole model for each institution.
        rated: what its learning rate is of, as `lib.paper.cells.Cell.rated`.
        rescored_every: rounds between two score rounds, for counted bytes; 0: one score round at the start.
    """

    title: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    tuned_as: str = ""
    lora: tuple[str, ...] | None = None
    training: str = ""
    rescored_every: int = 0
    in_process: bool = False
    rated: Rated = "dense"


FULL, FULL8, HEAD, FEDHE, TOP2 = "plaintext", "plaintext-8bit", "head-only", "fedhe-full", "fedhe-top2"
ML10, ML30, ML10_EVERY, ML30_EVERY = "fedml-he-10", "fedml-he-30", "fedml-he-10-every-1", "fedml-he-30-every-1"
BOTH, FROZEN_A, PAPER, OURS = "lora-both", "lora-frozen-a", "dictpfl-paper", "dictpfl"
OURS_HEAD, OURS_NONE, OURS_SCALED = "dictpfl-head", "dictpfl-none", "dictpfl-scaled"
"""Arms of ours that are tuned by themselves, since their best rate may be another."""
_NO_SMALL = {f"decomposition.{part}": False for part in ("biases", "norms", "positions", "tokens")}
_ML = {"method": "fedml-he", "toy_insecure": True}
_A = "*.lora_A.default.weight"

METHODS: Mapping[str, Method] = {
    FULL: Method("plaintext, full", {"method": "plaintext", "toy_insecure": True}, in_process=True),
    FULL8: Method(
        "plaintext, full, 8-bit updates",
        {"method": "plaintext", "toy_insecure": True, "encryption.sealed_share": 1.0, "grid.value_bits": 8},
        tuned_as=FULL,
    ),
    HEAD: Method("head only", {"method": "head-only"}, rated="head"),
    FEDHE: Method("FedHE-Full", {"method": "fedhe-full"}, tuned_as=FULL),
    TOP2: Method("FedHE-Top2", {"method": "fedhe-topk"}),
    ML10: Method("FedML-HE, 10 %", _ML, training=FULL),
    ML10_EVERY: Method("FedML-HE, 10 %, re-scored every round", _ML, training=FULL, rescored_every=1),
    ML30: Method("FedML-HE, 30 %", {**_ML, "encryption.sealed_share": 0.3}, training=FULL),
    ML30_EVERY: Method(
        "FedML-HE, 30 %, re-scored every round",
        {**_ML, "encryption.sealed_share": 0.3},
        training=FULL,
        rescored_every=1,
    ),
    BOTH: Method("LoRA, both factors averaged", lora=()),
    FROZEN_A: Method("LoRA, A frozen", lora=(_A,)),
    PAPER: Method("dictpfl-paper (faithful)", {"method": "dictpfl-paper"}, rated="tables"),
    OURS: Method("**dictpfl**", {"method": "dictpfl"}, rated="tables"),
    OURS_HEAD: Method("dictpfl, tables and head", {"method": "dictpfl", **_NO_SMALL}, rated="tables"),
    OURS_NONE: Method(
        "dictpfl, tables alone", {"method": "dictpfl", "decomposition.head": "frozen", **_NO_SMALL}, rated="tables"
    ),
    OURS_SCALED: Method("dictpfl, D = U S", {"method": "dictpfl", "decomposition.scaling": "paper"}, rated="tables"),
}
"""In the order of the tables. All but plaintext are encrypted, FedML-HE in part. LoRA has dictpfl's small dense parameters and W0, and its rank
where that is of tables; beside cores it is 8. The last three stand in arms alone."""
ORDER = (OURS, FULL, PAPER, BOTH, FROZEN_A, HEAD, TOP2, FEDHE, FULL8)
"""Methods with a training of their own, in the order in which they are measured: what is compared most comes first."""
COUNTED = tuple(name for name, method in METHODS.items() if method.training)


def tuned_as(name: str) -> str:
    """The method whose grid gives this one's learning rate."""
    return METHODS[name].training or METHODS[name].tuned_as or name


def timed_as(name: str) -> str:
    """The method whose rounds take as long as this one's: the same but for how often it scores anew."""
    own = METHODS[name]
    return next(other for other, one in METHODS.items() if (one.settings, one.lora) == (own.settings, own.lora))
