"""The first of several reasons that holds refuses a configuration."""

from __future__ import annotations

from collections.abc import Mapping

from dictpfl.common.errors import ConfigError


def refuse_first(wrong: Mapping[str, object], before: str) -> None:
    """Refuse by the first reason that holds; `before` begins the message."""
    for why, is_so in wrong.items():
        if is_so:
            raise ConfigError(f"{before}{why}")
