"""Packages that not every party needs, by the extra that brings them: `pip install 'dictpfl[institution]'`.

A coordinator holds no model, so it runs without any of them. A command that needs one says so before it begins.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

from dictpfl.common.errors import ConfigError

_TRAINING = ("torch", "sklearn", "pandas", "pyarrow", "scipy")
EXTRAS: Mapping[str, tuple[str, ...]] = {
    "institution": _TRAINING,
    "simulation": (*_TRAINING, "flwr_datasets", "matplotlib"),
}
"""Modules that must be there for an extra's commands; what only an option needs (Ray, TensorBoard) is asked for there."""
_BROUGHT_BY: Mapping[str, str] = {
    **dict.fromkeys(EXTRAS["simulation"], "simulation"),
    **dict.fromkeys(_TRAINING, "institution"),
    **dict.fromkeys(("ray", "tensorboard"), "simulation"),
    **dict.fromkeys(("opacus", "randomgen", "dp_accounting"), "dp"),
    "transformers": "transformers",
    "timm": "timm",
    "peft": "hub",
    "av": "video",
    "bitsandbytes": "quantised",
}
"""The extra to install for a module."""


def require(extra: str, command: str) -> None:
    """Refuse to begin a command without its packages.

    Raises:
        ConfigError: a package is not installed; the message says which, and what to install.
    """
    absent = [module for module in EXTRAS[extra] if find_spec(module) is None]
    if absent:
        raise _absent(f"dictpfl {command}", extra, absent)


def explained(error: ModuleNotFoundError, command: str) -> ConfigError | None:
    """Return the error that says which extra brings an absent module; None if no extra does."""
    module = (error.name or "").partition(".")[0]
    extra = _BROUGHT_BY.get(module)
    return None if extra is None else _absent(command, extra, [module])


def _absent(command: str, extra: str, modules: list[str]) -> ConfigError:
    return ConfigError(
        f"`{command}`: expected the packages of dictpfl[{extra}], found no {', '.join(modules)}. Run "
        f"`pip install 'dictpfl[{extra}]'`"
    )
