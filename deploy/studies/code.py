"""Code that a configuration names, by the hash of its sources: found where Python would find it, and not imported."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path

from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError


def code_of(config: FederationConfig) -> dict[str, str]:
    """SHA-256 in hexadecimal of the sources behind each callable that a configuration names, by its name.

    Of a package, all its modules: what is named may import any of them. What these import from elsewhere is not in it.

    Raises:
        ConfigError: there is no such module here.
    """
    return {name: _hash(name) for name in sorted(set(config.own_code.values()))}


def differing(named: Mapping[str, str], config: FederationConfig) -> list[str]:
    """Name the callables of a configuration whose sources here are not those that were hashed."""
    there = []
    for name in sorted(set(config.own_code.values())):
        try:
            same = _hash(name) == named.get(name)
        except ConfigError:
            same = False
        if not same:
            there.append(name)
    return there


def _hash(name: str) -> str:
    top = name.partition(":")[0].partition(".")[0]
    place = _found(top)
    if place is None:
        raise ConfigError(f"{name!r}: expected a module {top} in the working directory or installed, found none")
    files = sorted(place.rglob("*.py")) if place.is_dir() else [place]
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(place.parent)} ".encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _found(top: str) -> Path | None:
    for entry in sys.path:
        folder = Path(entry or ".")
        for place, is_it in ((folder / top, (folder / top / "__init__.py").is_file()), (folder / f"{top}.py", True)):
            if is_it and place.exists():
                return place
    return None
