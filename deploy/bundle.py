"""The Flower app folder, made from wherever this project is installed: what `flwr run` and `flwr build` work on.

A Flower app bundle finds top-level packages only (FLOWER.md), and an installed wheel has no pyproject.toml to build
one from; so the three packages that travel are copied beside a pyproject.toml of their own. Same installation, same
bytes: institutions pin the bundle's hash, so nothing here may depend on the machine or the time.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from common.errors import ConfigError

PACKAGES = ("client", "common", "server")
"""What travels; `deploy` and `dictpfl` stay at home."""

_PYPROJECT = """\
[project]
name = "dictpfl"
version = "{version}"
description = "Federated fine-tuning on encrypted updates"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "dictpfl"
fab-include = ["client/**/*.py", "common/**/*.py", "server/**/*.py"]

[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "client.app:app"

[tool.flwr.app.config]
"""


def write_app(target: Path) -> Path:
    """Write the Flower app into a folder that is missing or empty, and return the folder.

    Raises `ConfigError` if the folder holds anything: a file left over would end up in the bundle.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"Expected a missing or empty folder for the Flower app, found {target}: choose another.")
    for package in PACKAGES:
        for source in sources(package):
            copy = target / package / source.relative_to(_home(package))
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(source.read_bytes())
    (target / "pyproject.toml").write_text(_PYPROJECT.format(version=_version()), encoding="utf-8")
    return target


def sources(package: str) -> list[Path]:
    """Return a package's Python files in a fixed order, without caches and tests."""
    found = _home(package).rglob("*.py")
    return sorted(path for path in found if not {"__pycache__", "tests"} & set(path.parts))


def _home(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"Expected the package {package} beside deploy, found none: install dictpfl again.")
    return Path(spec.submodule_search_locations[0])


def _version() -> str:
    try:
        return version("dictpfl")
    except PackageNotFoundError:
        # A checkout on PYTHONPATH, without an installation.
        return "0"
