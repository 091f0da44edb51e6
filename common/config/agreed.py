"""Settings that a federation agrees on, as its id reads them (docs/decisions/0003)."""

from __future__ import annotations

from typing import Any

from dictpfl.common.config.reading import FederationConfig

_LATER_KEYS: tuple[tuple[str, str, Any], ...] = (
    ("tallies", "opening", []),
    ("tallies", "closing", []),
    ("tallies", "options", {}),
    ("scores", "decision", ""),
    ("scores", "measure", "gradient"),
    ("scores", "rounds", 1),
    ("training", "metric", ""),
    ("training", "metrics", []),
    ("training", "metric_options", {}),
    ("training", "task_options", {}),
    ("decomposition", "layers", []),
    ("decomposition", "scores", ""),
    ("decomposition", "tables", []),
    ("decomposition", "rank_max", 0),
    ("decomposition", "rank_min", 1),
    ("aggregation", "rule", "average"),
    ("aggregation", "rate", 1.0),
    ("aggregation", "momentum", 0.9),
    ("aggregation", "second", 0.99),
    ("aggregation", "floor", 1e-3),
    ("training", "proximal", 0.0),
    ("training", "frozen", "full"),
    ("training", "tf32", False),
    ("decomposition", "form", "table"),
    ("decomposition", "basis", "weights"),
    ("pruning", "quota", 0),
    ("pruning", "budget", {"values": 0, "centre": 0.5, "slope": 6.0}),
    ("pruning", "threshold", "sent"),
    ("pruning", "quantile", "smallest"),
    ("pruning", "window", "restart"),
    ("pruning", "reactivation", True),
    ("encryption", "rescore_every", 0),
    ("federation", "sample", 0),
    ("grid", "first_bits", 10),
)
"""Keys that came after protocol 3: at their defaults they change nothing, the federation id included."""
_SWITCHES: tuple[tuple[str, str, Any], ...] = (
    ("privacy", "mechanism", "none"),
    ("narrow", "axes", []),
    ("sparsity", "method", "none"),
    ("tokens", "reducer", "none"),
)
"""Sections that are switched off by such a value of a key: the id then says nothing of them."""


def agreed_settings(config: FederationConfig) -> dict[str, Any]:
    """Return the settings that the federation id covers, as JSON values.

    Left out are those of one machine, of how uploads are carried, of a simulation, and whatever came after protocol 3 and
    stands at its default, so that older federations keep their id.
    """
    left_out: dict[str, Any] = dict.fromkeys(("name", "method", "toy_insecure", "data", "defences", "resources"), True)
    # The teacher's is a path of the authority's machine; what it led to is recorded.
    said = config.model_dump(mode="json", exclude=left_out | {"distillation": {"teacher"}})
    for carried in ("sealer", "security", "ring_degree", "pad_to"):
        del said["encryption"][carried]
    for local in ("threads", "device", "workers"):
        del said["training"][local]
    for kept in ("snapshot_every", "snapshots_kept"):
        del said["federation"][kept]
    off = {section: said[section][key] == value for section, key, value in _SWITCHES}
    for section, is_off in (off | {"distillation": not config.distils}).items():
        if is_off:
            del said[section]
    for section, key, default in _LATER_KEYS:
        if said[section][key] == default:
            del said[section][key]
    for section in ("scores", "aggregation", "tallies"):
        if not said[section]:
            del said[section]
    return said
