"""Methods as presets: each is a set of settings, none has a code path of its own (arXiv 2510.21086, section 5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Method:
    """Preset of a method, as dotted settings.

    Attributes:
        summary: one line for the command line's help.
        overrides: settings that win over the file.
        defaults: settings that yield to the file; the command line wins over both.
    """

    summary: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)


_FULL = {
    "decomposition.enabled": False,
    "decomposition.refresh_every": 0,
    "decomposition.refresh_when": "fixed",
    "decomposition.refresh_ranks": [],
    "pruning.enabled": False,
    "pruning.quota": 0,
}
_EVERY = {**_FULL, "decomposition.last_layers": 0}
"""Every parameter, whatever a file says of its last layers."""

METHODS: Mapping[str, Method] = {
    "dictpfl": Method("tables and small dense parameters, pruned by history, encrypted"),
    "dictpfl-paper": Method(
        "the paper as it is printed: tables of rank 4 and a head, D = U_r S_r, its pruning, nothing damped",
        {
            "decomposition.enabled": True,
            "decomposition.form": "table",
            "decomposition.basis": "weights",
            "decomposition.rank": 4,
            "decomposition.allocator": "uniform",
            "decomposition.orientation": "paper",
            "decomposition.scaling": "paper",
            "decomposition.refresh_every": 0,
            "decomposition.refresh_when": "fixed",
            "decomposition.refresh_ranks": [],
            "decomposition.biases": False,
            "decomposition.norms": False,
            "decomposition.positions": False,
            "decomposition.tokens": False,
            "decomposition.last_layers": 0,
            "pruning.enabled": True,
            "pruning.kinds": ["table", "dense"],
            "pruning.quota": 0,
            "pruning.budget": {},
            "pruning.s": 0.7,
            "pruning.tau": 3,
            "pruning.beta": 0.2,
            "pruning.pruned": "accumulate",
            "pruning.residual_decay": 1.0,
            "pruning.scope": "global",
            "pruning.schedule": "constant",
            "pruning.threshold": "sent",
            "pruning.quantile": "smallest",
            "pruning.window": "literal",
            "pruning.reactivation": True,
            "aggregation.rule": "average",
            "aggregation.rate": 1.0,
            "training.proximal": 0.0,
        },
    ),
    "plaintext": Method(
        "FedAvg of the full model in clear, four bytes a value",
        {
            **_EVERY,
            "encryption.sealer": "identity",
            "encryption.sealed_share": 0.0,
            "encryption.rescore_every": 0,
            "defences.masks": False,
            "defences.integrity": False,
        },
    ),
    "fedhe-full": Method("train and encrypt every parameter", _EVERY),
    "fedhe-topk": Method("train and encrypt the last two layers only", _FULL, {"decomposition.last_layers": 2}),
    "head-only": Method("train and encrypt the last layer only", {**_FULL, "decomposition.last_layers": 1}),
    "fedml-he": Method(
        "train every parameter, encrypt the most sensitive tenth, send the rest in clear",
        _EVERY,
        {"encryption.sealed_share": 0.1},
    ),
}
