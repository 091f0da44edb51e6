"""`--set KEY=VALUE` of the command line."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from typing import Any

from dictpfl.common.errors import ConfigError


def overrides(pairs: Sequence[str] | None, option: str = "--set", example: str = "training.epochs=2") -> dict[str, Any]:
    """Parse pairs into dotted settings; values are read as TOML, and as text where that fails.

    Args:
        pairs: as they were typed.
        option: that they were typed behind.
        example: of a pair, for the message.

    Raises:
        ConfigError: a pair without key or equals sign.
    """
    changed: dict[str, Any] = {}
    for pair in pairs or []:
        key, equals, text = pair.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"{option} {pair!r}: expected KEY=VALUE, such as {option} {example}")
        try:
            read = tomllib.loads(f"value = {text}")
        except (ValueError, RecursionError):  # also numbers without end, and brackets
            read = {"value": text}
        changed[key.strip()] = read["value"] if len(read) == 1 else text
    return changed
