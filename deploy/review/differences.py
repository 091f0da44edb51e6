"""Differences between the attacked federation and the one that the report is about: findings hold for the former."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from dictpfl.common.config import FederationConfig

_ATTACKED = frozenset(
    {"method", "toy_insecure", "encryption.sealer", "encryption.sealed_share", "encryption.sensitivity"}
)
"""Keys that the attack varies itself, from method to method."""


def differences(config: FederationConfig, attacked: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Settings of either that are not the same: name, here, attacked."""
    here, there = dict(_flat(config.model_dump(mode="json"))), dict(_flat(attacked))
    return [
        (key, _shown(here.get(key)), _shown(there.get(key)))
        for key in {**here, **there}
        if here.get(key) != there.get(key) and key not in _ATTACKED and key != "name"
    ]


def _flat(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _shown(value: Any) -> str:
    return "not set" if value in (None, "", {}, []) else json.dumps(value).strip('"')
