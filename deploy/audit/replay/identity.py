"""Federation id: SHA-256 over what institutions agreed on, recomputed from the genesis files (section 3)."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load

_LEFT_OUT = {
    "": ("name", "method", "toy_insecure", "data", "defences", "resources"),
    "encryption": ("sealer", "security", "ring_degree", "pad_to"),
    "training": ("threads", "device", "workers"),
    "federation": ("snapshot_every", "snapshots_kept"),
}
_NOT_SAID: tuple[tuple[str, str, Any], ...] = (
    ("tallies", "opening", []),
    ("tallies", "closing", []),
    ("tallies", "options", {}),
    ("scores", "decision", ""),
    ("scores", "measure", "gradient"),
    ("scores", "rounds", 1),
    ("federation", "sample", 0),
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
    ("aggregation", "floor", 0.001),
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
    ("grid", "first_bits", 10),
)
_PROTOCOL = 4


def federation_id(folder: Path) -> bytes:
    """Compute the id of the genesis in a folder, 32 bytes."""
    document = json.loads((folder / "genesis.json").read_bytes())
    tensors = {name: np.array(tensor) for name, tensor in load((folder / "genesis.safetensors").read_bytes()).items()}
    layout = json.dumps(document["layout"], separators=(",", ":"))
    agreed = {
        "protocol": _PROTOCOL,
        "config": _agreed_config(document["config"]),
        "layout": hashlib.sha256(layout.encode()).hexdigest(),
        "values": hashlib.sha256(tensors["values"].astype("<f8").tobytes()).hexdigest(),
        "dictionaries": _dictionaries(tensors, document["transposed"]),
        "weights": document["weights_digest"],
        "payload_bits": document["parameters"]["payload_bits"],
        "capacity": document["parameters"]["capacity"],
        **_gates(tensors),
        **_preparation(document["config"].get("data", {}).get("preprocessing", {})),
        **_encoder(document["config"].get("data", {})),
        **{name: document[name] for name in ("seed", "sample_cap", "outputs", "sample_shape")},
        **{name: document[name] for name in ("tallies", "measures", "features", "classes") if document.get(name)},
    }
    return hashlib.sha256(json.dumps(agreed, sort_keys=True, separators=(",", ":")).encode()).digest()


def _agreed_config(said: Mapping[str, Any]) -> dict[str, Any]:
    config = copy.deepcopy(dict(said))
    for section, names in _LEFT_OUT.items():
        for name in names:
            (config[section] if section else config).pop(name, None)
    for section, name, off in _OFF:
        if config.get(section, {}).get(name, off) == off:
            config.pop(section, None)
    for section, name, value in _NOT_SAID:
        if section in config and config[section].get(name) == value:
            del config[section][name]
    for section in ("scores", "aggregation", "tallies"):
        if not config.get(section, True):
            del config[section]
    if config["training"].get("task") == "distillation":
        del config["distillation"]["teacher"]
    else:
        config.pop("distillation", None)
    return config


_OFF: tuple[tuple[str, str, Any], ...] = (
    ("privacy", "mechanism", "none"),
    ("narrow", "axes", []),
    ("sparsity", "method", "none"),
    ("tokens", "reducer", "none"),
)
"""Sections of which nothing is said while this value switches them off."""


def _preparation(said: Mapping[str, Any]) -> dict[str, Any]:
    """Preparation of columns, where there is any."""

    def idle(recipe: Mapping[str, Any]) -> bool:
        return (recipe["impute"], recipe["clip"], recipe["scale"]) == ("none", [], "none")

    if not said or (idle(said) and not said["categories"] and all(map(idle, said["columns"].values()))):
        return {}
    return {"preprocessing": dict(said)}


def _encoder(data: Mapping[str, Any]) -> dict[str, str]:
    """Digest of the encoder of clips, where samples are features of an agreed one."""
    options = data.get("options", {})
    of_features = data.get("source") == "videofolder" and "features" in options
    agreed = options.get("features_sha256") if of_features else None
    return {"features_sha256": str(agreed)} if agreed else {}


def _gates(tensors: Mapping[str, NDArray[Any]]) -> dict[str, str]:
    """Digest the norms behind gates, where there are any."""
    norms = {key.removeprefix("gate/"): array for key, array in tensors.items() if key.startswith("gate/")}
    return {"gates": _named(norms)} if norms else {}


def _dictionaries(tensors: Mapping[str, NDArray[Any]], transposed: list[str]) -> str:
    said = {}
    for key, matrix in tensors.items():
        part, _, name = key.partition("/")
        if part == "dictionary":
            said[f"{name} {name in transposed}"] = matrix
        elif part == "right":
            said[f"{name} right"] = matrix
    return _named(said)


def _named(said: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for text, matrix in sorted(said.items()):
        digest.update(f"{text} {matrix.dtype.str} {matrix.shape} ".encode() + matrix.tobytes())
    return digest.hexdigest()
