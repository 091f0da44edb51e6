"""Numbers that only some values of another key read: refused beside the others, and left behind when another is chosen by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dictpfl.common.config.sections import Sections
from dictpfl.common.errors import ConfigError

READ: Mapping[str, Mapping[str, frozenset[str]]] = {
    "data.partition": {"data.alpha": frozenset({"dirichlet"})},
    "training.optimizer": {"training.momentum": frozenset({"sgd"})},
    "aggregation.rule": {
        "aggregation.momentum": frozenset({"momentum", "adagrad", "adam", "yogi"}),
        "aggregation.second": frozenset({"adam", "yogi"}),
        "aggregation.floor": frozenset({"adagrad", "adam", "yogi"}),
    },
}
"""Keys that belong to some values of another key, and to which, by the key that chooses."""


def require_read(config: Sections, origin: str) -> None:
    """Refuse a number that the value chosen beside it does not read. A default passes: a saved configuration holds them all.

    Raises:
        ConfigError: it names both keys.
    """
    for chooser, belonging in READ.items():
        chosen = _at(config, chooser)
        for key, readers in belonging.items():
            section, _, name = key.partition(".")
            value, default = _at(config, key), type(getattr(config, section)).model_fields[name].default
            if chosen not in readers and value != default:
                raise ConfigError(
                    f"{origin}: {key} is {value:g}, which {chooser} = {chosen!r} does not read; leave it out, or choose "
                    f"{' or '.join(sorted(readers))}"
                )


def left_behind(said: Mapping[str, Any], overrides: Mapping[str, Any]) -> list[str]:
    """List the keys of a file that belong to what the file chose, where overrides choose something else.

    `--set data.partition=iid` on a file of skewed labels means the file without its skew.

    Args:
        said: sections of the file.
        overrides: dotted keys, with values.
    """
    found = []
    for chooser in READ.keys() & overrides.keys():
        section, _, _ = chooser.partition(".")
        here = said.get(section)
        for key, readers in READ[chooser].items():
            name = key.removeprefix(f"{section}.")
            if (
                isinstance(here, Mapping)
                and name in here
                and key not in overrides
                and str(overrides[chooser]) not in readers
            ):
                found.append(key)
    return found


def _at(config: Sections, key: str) -> Any:
    section, _, name = key.partition(".")
    return getattr(getattr(config, section), name)
