"""Methods as presets of one machine: each is a set of settings, none has a code path of its own (PAPER section 5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Method:
    """Dotted settings: `overrides` win over the file, `defaults` yield to it, and the command line wins over both."""

    summary: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)


_FULL = {
    "decomposition.enabled": False,
    "decomposition.refresh_every": 0,
    "decomposition.refresh_when": "fixed",
    "pruning.enabled": False,
}

METHODS: Mapping[str, Method] = {
    "dictpfl": Method("tables and small dense parameters, pruned by history, encrypted"),
    "dictpfl-paper": Method(
        "the paper's own values of beta, tau, s and residual, and D = U_r S_r",
        {
            "pruning.beta": 0.2,
            "pruning.tau": 3,
            "pruning.s": 0.7,
            "pruning.residual_decay": 1.0,
            "decomposition.scaling": "paper",
        },
    ),
    "plaintext": Method(
        "FedAvg of the full model in clear, four bytes a value",
        {
            **_FULL,
            "encryption.sealer": "identity",
            "encryption.sealed_share": 0.0,
            "defences.masks": False,
            "defences.integrity": False,
        },
    ),
    "fedhe-full": Method("train and encrypt every parameter", _FULL),
    "fedhe-topk": Method("train and encrypt the last two layers only", _FULL, {"decomposition.last_layers": 2}),
    "head-only": Method("train and encrypt the last layer only", {**_FULL, "decomposition.last_layers": 1}),
    "fedml-he": Method(
        "train every parameter, encrypt the most sensitive tenth, send the rest in clear",
        _FULL,
        {"encryption.sealed_share": 0.1},
    ),
}
