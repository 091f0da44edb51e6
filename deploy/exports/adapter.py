"""A LoRA adapter in PEFT's format: B and A are D and T (or T and D), and the dense parameters go with them.

W0 + D T is LoRA with one factor frozen (arXiv 2510.21086, section 4.1), so that nothing is approximated. `peft` itself is not needed
to write the folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dictpfl.client.model import hub
from dictpfl.client.model.base import TableLayer
from dictpfl.client.model.covering import Layers, Place, statistics
from dictpfl.client.model.gates import SUFFIX
from dictpfl.client.model.rules import Role, survey
from dictpfl.common.errors import ConfigError
from dictpfl.common.law.layout import Kind
from dictpfl.common.law.state import Floats
from dictpfl.deploy.exports.finished import Finished
from dictpfl.deploy.runs.census import metadata_of
from dictpfl.deploy.tensors import write_tensors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_Pair = tuple[Floats, Floats]
"""`up` (n, R) and `down` (R, m) of a weight, float64."""
_TASKS = {
    "sequence-classification": ("SEQ_CLS", ("classifier", "score")),
    "causal-lm": ("CAUSAL_LM", ()),
    "sequence-to-sequence": ("SEQ_2_SEQ_LM", ()),
}
"""PEFT's word for a head, and the modules that it then saves whole without being asked."""


@dataclass(frozen=True)
class Adapter:
    """Contents of the two files.

    Attributes:
        targets: modules with a LoRA pair.
        whole: modules that are saved whole (`modules_to_save`).
        free: other tensors of the base model that the adapter's file replaces by name: biases of targets, and parameters
            of modules that hold other modules.
        tensors: of the file.
        rank: of every pair.
        fan_in_fan_out: PEFT's word for weights stored (inputs, outputs).
    """

    targets: tuple[str, ...]
    whole: tuple[str, ...]
    free: tuple[str, ...]
    tensors: Mapping[str, Tensor]
    rank: int
    fan_in_fan_out: bool

    def brings(self, name: str) -> bool:
        """True if a tensor's value comes from this adapter, not from the base."""
        return name in self.free or name.rpartition(".")[0] in self.whole


def make_adapter(finished: Finished, merged: nn.Module) -> Adapter:
    """Divide what was trained into pairs, whole modules and single tensors.

    Raises:
        ConfigError: nothing is decomposed, or a layer that PEFT can neither pair nor copy.
    """
    settings = finished.genesis.config.decomposition
    layers = Layers(settings.layers, settings.tables)
    hanging = layers.places(merged)
    roles = survey(merged, settings, finished.genesis.dictionaries)
    factors = finished.factors()
    if not factors:
        raise ConfigError("nothing of this model is decomposed, so there is no adapter; use `--format merged`")
    modules = dict(merged.named_modules())
    paired, whole = _pairs(hanging, factors, layers)
    dense = [p for n, at in hanging.items() if roles[n] in (Role.DENSE, Role.LOCAL) for p in at]
    moved = (Role.STATISTIC, Role.LOCAL_STATISTIC)
    owners = {_owner(p) for p in dense} | {_owner(p) for n, p in statistics(merged).items() if roles[n] in moved}
    leaves = {o for o in owners if o and o not in paired and not list(modules[o].children())}
    # A gate multiplies columns of W0 as well, which no pair does.
    gated = [e.name.removesuffix(SUFFIX) for e in finished.genesis.layout.entries if e.kind is Kind.GATE]
    whole |= {_owner(place) for name in gated for place in hanging[name]}
    whole = _matched(modules, leaves | whole)
    pairs = {o: f for o, f in paired.items() if o not in whole}
    for name in whole:
        if any(o.startswith(f"{name}.") for o in (*whole, *pairs)):
            raise ConfigError(f"{name} holds layers that need a pair of their own; use `--format merged`")
    free = sorted({p.name for p in dense if _owner(p) not in whole})
    state = merged.state_dict()
    rank = max((up.shape[1] for up, _ in pairs.values()), default=1)
    tensors: dict[str, Tensor] = {}
    for owner, pair in pairs.items():
        named = _lora(_type_of(modules[owner], layers), modules[owner], pair, rank) or {}
        tensors |= {f"{_PREFIX}{owner}.{k}": v for k, v in named.items()}
    for owner in whole:
        tensors |= {f"{_PREFIX}{owner}.{k}": v for k, v in modules[owner].state_dict().items()}
    for name in free:
        owner, _, attribute = name.rpartition(".")
        inner = f"{owner}.base_layer.{attribute}" if owner in pairs else name
        tensors[f"{_PREFIX}{inner}"] = state[name]
    by_input = any(_type_of(modules[owner], layers).by_input for owner in pairs)
    return Adapter(
        tuple(pairs), tuple(sorted(whole)), tuple(free),
        {k: v.detach().contiguous().clone() for k, v in tensors.items()}, rank, by_input,
    )  # fmt: skip


def write_adapter(adapter: Adapter, finished: Finished, merged: nn.Module, folder: Path, base: str) -> None:
    """Write adapter_config.json and adapter_model.safetensors.

    Args:
        adapter: contents.
        finished: the federation.
        merged: its model, plain.
        folder: to write into.
        base: value of `base_model_name_or_path`.
    """
    modules = [name for name, _ in merged.named_modules() if name]
    task, own = _TASKS.get(_head_of(finished), ("", ()))
    # PEFT would look for these in the file.
    if own and any(m not in adapter.whole for m in modules if m.endswith(own)):
        task = ""
    biased = any(name.endswith("bias") for name in adapter.free)
    config = {
        "peft_type": "LORA",
        "task_type": task or None,
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": adapter.rank,
        "lora_alpha": adapter.rank,  # so that the factor on B A is one
        "lora_dropout": 0.0,
        "use_rslora": False,
        "bias": "all" if biased else "none",
        "fan_in_fan_out": adapter.fan_in_fan_out,
        "init_lora_weights": True,
        "target_modules": _naming(adapter.targets, modules),
        "modules_to_save": list(adapter.whole) or None,
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    write_tensors(folder / WEIGHTS, adapter.tensors, {"format": "pt", **metadata_of(finished.classes)})


def _head_of(finished: Finished) -> str:
    config = finished.genesis.config.model
    if hub.split(config.source)[0] != "transformers":
        return ""
    image = len(finished.genesis.sample_shape) > 1
    return str(config.options.get("head", "" if image else "sequence-classification"))


def _pairs(
    hanging: Mapping[str, tuple[Place, ...]], factors: Mapping[str, _Pair], layers: Layers
) -> tuple[dict[str, _Pair], set[str]]:
    """Modules that get a pair, and those whose weight PEFT cannot pair."""
    paired: dict[str, _Pair] = {}
    whole: set[str] = set()
    for name, pair in factors.items():
        for place in hanging[name]:
            kind = layers.kind_at(place)
            around = None if place.outer is None else layers.type_of(place.outer)
            unadaptable = kind.unadaptable or (around.unadaptable if around is not None else "")
            if unadaptable:
                raise ConfigError(
                    f"{name} belongs to {unadaptable}, for which an adapter has no exact form; use `--format merged`"
                )
            if _lora(kind, place.module, pair, pair[0].shape[1]) is not None:
                paired[_owner(place)] = pair
            else:
                whole.add(_owner(place))
    return paired, whole


def _type_of(module: nn.Module, layers: Layers) -> type[TableLayer]:
    kind = layers.type_of(module)
    assert kind is not None  # noqa: S101 -- for the type checker: it was decomposed
    return kind


def _matched(modules: Mapping[str, nn.Module], wanted: Collection[str]) -> set[str]:
    """The modules that PEFT finds for these names: it looks at the ends of names only."""
    return {name for name in modules if name and wanted and name.endswith(tuple(wanted))}


def _naming(targets: Sequence[str], modules: Sequence[str]) -> list[str] | str:
    """`target_modules` that hit these modules and no others: last words, full names, or a pattern."""
    for names in (sorted({t.rpartition(".")[2] for t in targets}), sorted(targets)):
        if {m for m in modules if m in names or m.endswith(tuple(f".{n}" for n in names))} == set(targets):
            return names
    return "|".join(re.escape(t) for t in sorted(targets))


def _lora(kind: type[TableLayer], module: nn.Module, pair: _Pair, rank: int) -> dict[str, Tensor] | None:
    """The pair's tensors, filled up with zeros to a rank, by names behind the module's own."""
    up, down = pair
    wide = torch.from_numpy(np.pad(up, ((0, 0), (0, rank - up.shape[1])))).float()
    narrow = torch.from_numpy(np.pad(down, ((0, rank - down.shape[0]), (0, 0)))).float()
    return kind.adapter_pair(module, wide, narrow)


def _owner(place: Place) -> str:
    return place.name.rpartition(".")[0]
