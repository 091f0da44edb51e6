"""The Flower app folder, made from wherever this project is installed: what `flwr run` and `flwr build` work on.

An installed wheel has no pyproject.toml to build a bundle from; so the three rooms that travel are copied beside a
pyproject.toml of their own. Same installation, same bytes: institutions pin the bundle's hash, so nothing here may
depend on the machine or the time.
"""

from __future__ import annotations

import tempfile
import warnings
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from dictpfl.common.errors import ConfigError

PACKAGE = "dictpfl"
ROOMS = ("client", "common", "server")
"""Rooms that travel; `deploy` stays at home."""

_PYPROJECT = """\
[project]
name = "dictpfl"
version = "{version}"
description = "Federated fine-tuning on encrypted updates"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "dictpfl"
fab-include = ["dictpfl/**/*.py"]

[tool.flwr.app.components]
serverapp = "dictpfl.server.app:app"
clientapp = "dictpfl.client.app:app"

[tool.flwr.app.config]
"""


def write_app(target: Path) -> Path:
    """Write the Flower app into a folder that is missing or empty, and return the folder.

    Raises `ConfigError` if the folder holds anything: a file left over would end up in the bundle.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"Expected a missing or empty folder for the Flower app, found {target}: choose another.")
    home = _home()
    for source in sources():
        copy = target / PACKAGE / source.relative_to(home)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(source.read_bytes())
    (target / "pyproject.toml").write_text(_PYPROJECT.format(version=app_version()), encoding="utf-8")
    return target


def sources() -> list[Path]:
    """Return the Python files that travel in a fixed order, without caches: the facade, and the rooms."""
    home = _home()
    files = [path for room in ROOMS for path in (home / room).rglob("*.py") if "__pycache__" not in path.parts]
    return [home / "__init__.py", *sorted(files)]


def _home() -> Path:
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"Expected the package {PACKAGE}, found none: install dictpfl again.")
    return Path(spec.submodule_search_locations[-1])


def app_version() -> str:
    """Return the version of this installation, for a bundle's pyproject.toml."""
    try:
        return version("dictpfl")
    except PackageNotFoundError:
        # A checkout on PYTHONPATH, without an installation.
        return "0"


def build(app: Path | None = None) -> bytes:
    """Build the bundle (FAB) of this installation, or of an app folder; the same files give the same bytes anywhere."""
    from flwr.cli.build import build_fab_from_disk

    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Flower's use of pathspec
        return bytes(build_fab_from_disk(app or write_app(Path(scratch) / "dictpfl")))
