"""`--set KEY=VALUE` of the command line."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from typing import Any

from common.errors import ConfigError


def overrides(pairs: Sequence[str] | None) -> dict[str, Any]:
    """Dotted overrides; values are read as TOML, and as text where that fails.

    Raises:
        ConfigError: a pair without key or equals sign.
    """
    found: dict[str, Any] = {}
    for pair in pairs or []:
        key, equals, text = pair.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {pair!r}: expected KEY=VALUE, such as --set training.epochs=2")
        try:
            found[key.strip()] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            found[key.strip()] = text
    return found
