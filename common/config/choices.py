"""Settings that only some values of another key read: refused beside the others, and left behind when another is chosen by name."""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
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
    "decomposition.refresh_when": {"decomposition.refresh_stall": frozenset({"stall", "stall-tensor"})},
    # A mechanism that is named `none` is meant: the section is switched off as a whole.
    "privacy.mechanism": {
        "privacy.max_grad_norm": frozenset({"example", "none"}),
        "privacy.accountant": frozenset({"example", "none"}),
        "privacy.max_update_norm": frozenset({"institution", "none"}),
        "privacy.curious": frozenset({"institution", "none"}),
    },
    "selection.by": {"selection.min_delta": frozenset({"metric", "loss"})},
    "sparsity.scores": {"sparsity.calibration": frozenset({"wanda"})},
}
"""Keys that belong to some values of another key, and to which, by the key that chooses."""
SWITCHED: Mapping[str, tuple[str, ...]] = {
    "defences.masks": ("defences.mask_partners", "defences.reveal_seconds"),
    "model.pretrain.epochs": (
        "model.pretrain.classes",
        "model.pretrain.learning_rate",
        "model.pretrain.batch_size",
    ),
    "privacy.mechanism": (
        "privacy.delta",
        "privacy.max_grad_norm",
        "privacy.max_update_norm",
        "privacy.curious",
        "privacy.accountant",
        "privacy.figures",
    ),
    "scores.decision": ("scores.measure", "scores.rounds"),
}
"""Keys that nothing reads unless another switches their subject on; one that is said, and be it to switch it off, is meant."""


UNREAD: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "decomposition.allocator": {
        "uniform": ("decomposition.scores", "decomposition.rank_max", "decomposition.rank_min")
    },
    "pruning.schedule": {"constant": ("pruning.budget",)},
    "tokens.reducer": {"none": ("tokens.keep", "tokens.apply", "tokens.options")},
}
"""Keys that one value of another key does not read, where that may have names of one's own; refused beside it elsewhere."""


def require_read(config: Sections, origin: str) -> None:
    """Refuse a setting that the value chosen beside it does not read. A default passes: a saved configuration holds them all.

    Raises:
        ConfigError: it names both keys.
    """
    for chooser, belonging in READ.items():
        chosen = _at(config, chooser)
        for key, readers in belonging.items():
            if chosen not in readers and _is_said(config, key):
                raise ConfigError(
                    f"{origin}: {key} is {_at(config, key)!r}, which {chooser} = {chosen!r} does not read; leave it out, or choose "
                    f"{' or '.join(sorted(readers))}"
                )
    for switch, switched in SWITCHED.items():
        section, _, name = switch.rpartition(".")
        for key in () if name in _at(config, section).model_fields_set else switched:
            if _is_said(config, key):
                raise ConfigError(
                    f"{origin}: {key} is {_at(config, key)!r}, but {switch} is not set, without which nothing reads it; set that, or leave "
                    f"{key} out"
                )


def left_behind(said: Mapping[str, Any], overrides: Mapping[str, Any]) -> list[str]:
    """List the keys of a file that belong to what the file chose, where overrides choose something else.

    `--set data.partition=iid` on a file of skewed labels means the file without its skew.

    Args:
        said: sections of the file.
        overrides: dotted keys, with values.
    """
    found: list[str] = []
    for chooser in (READ.keys() | UNREAD.keys()) & overrides.keys():
        section, _, _ = chooser.partition(".")
        here, chosen = said.get(section), str(overrides[chooser])
        idle = [key for key, readers in READ.get(chooser, {}).items() if chosen not in readers]
        belonging = (*idle, *UNREAD.get(chooser, {}).get(chosen, ()))
        there = {f"{section}.{name}" for name in here} if isinstance(here, Mapping) else set()
        found += [key for key in belonging if key in there and key not in overrides]
    return found


def _at(config: Sections, key: str) -> Any:
    return attrgetter(key)(config)


def _is_said(config: Sections, key: str) -> bool:
    """Tell whether a key has another value than its default."""
    section, _, name = key.rpartition(".")
    return bool(_at(config, key) != type(_at(config, section)).model_fields[name].default)
