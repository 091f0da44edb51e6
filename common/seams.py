"""Users' own code by name: `package.module:name`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from common.errors import ConfigError


def load_seam(name: str, known: Mapping[str, Any], key: str) -> Any:
    """What is registered under `name`, or the attribute that `package.module:name` points to.

    Raises:
        ConfigError: neither registered nor importable; the message names the configuration key.
    """
    if name in known:
        return known[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ConfigError(f"{key}: {name!r} is unknown; known: {', '.join(known)}, or `package.module:name`")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"{key}: cannot load {name!r}: {error}. The module must be importable from the current folder or installed"
        ) from error
