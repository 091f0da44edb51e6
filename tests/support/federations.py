"""The smallest federation that trains, spelled out once: a test names what its own federation has otherwise."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from dictpfl.common.config import FederationConfig

SMALLEST: Mapping[str, Any] = {
    "data.limit": 200,
    "model.source": "mlp",
    "model.options": {"hidden": [16]},
    "training.steps": 1,
    "federation.rounds": 4,
    "federation.participants": 3,
}
"""An MLP on 200 digits at three institutions, encrypted; one federation takes about a second."""


def settings(**changes: Any) -> dict[str, Any]:
    """`SMALLEST` with changes; dots in names are written as two underscores."""
    return dict(SMALLEST) | {name.replace("__", "."): value for name, value in changes.items()}


def encrypted(**changes: Any) -> FederationConfig:
    """The smallest federation under CKKS, as the configuration's defaults have it."""
    return FederationConfig.of({}, settings(**changes))


def tiny(**changes: Any) -> FederationConfig:
    """The same without encryption, which takes a tenth of the time."""
    return encrypted(**({"encryption__sealer": "identity", "toy_insecure": True} | changes))


def as_toml(**changes: Any) -> str:
    """The text of a configuration file; numbers, words and lists read alike in TOML and JSON."""
    lines = []
    for name, value in settings(**changes).items():
        values = {f"{name}.{key}": v for key, v in value.items()} if isinstance(value, dict) else {name: value}
        lines += [f"{key} = {json.dumps(v)}\n" for key, v in values.items()]
    return "".join(lines)
