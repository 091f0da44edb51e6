"""Devices of a simulation: what this machine has, and how much of it each institution gets (`[resources]`).

Without torch at import: the process that plays the coordinator divides a cluster's GPUs with `share`, and stays blind.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dictpfl.common.errors import ConfigError

if TYPE_CHECKING:
    from dictpfl.common.config import FederationConfig

AUTO = -1.0
"""Share of a GPU that is found once Ray says what its nodes have."""
_DRIVER = Path("/proc/driver/nvidia/version")
_UNITS = 10_000
"""Ray counts resources in ten-thousandths."""


@dataclass(frozen=True, slots=True)
class Cards:
    """GPUs that torch sees in this process.

    Attributes:
        names: name of each GPU, by number.
        reason: reason why there is none; empty where there is one.
    """

    names: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Devices:
    """Division of a machine, or of a cluster, among the institutions that train at once.

    Attributes:
        config: configuration to run with: where there are GPUs that may not be used, `training.device` is `cpu` in place of `auto`.
        gpus: GPUs that Ray may give away; None: what it finds, in a cluster.
        client_cpus: processors of an institution.
        client_gpus: GPUs of an institution; `AUTO`: a share of what the cluster has.
        line: line for the person who waits.
    """

    config: FederationConfig
    gpus: int | None
    client_cpus: float
    client_gpus: float
    line: str


def cards() -> Cards:
    """Find the GPUs of this process, or the reason why there is none."""
    import torch

    if torch.cuda.is_available():
        return Cards(tuple(torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())))
    if torch.version.cuda is None and torch.version.hip is None and _DRIVER.exists():
        return Cards(
            reason=f"a driver is here, but torch {torch.__version__} is built without CUDA: install one with it"
        )
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and _DRIVER.exists():
        return Cards(reason=f"CUDA_VISIBLE_DEVICES is {hidden!r}, and torch sees none")
    return Cards(reason="no GPU was found")


def devices(
    config: FederationConfig, *, engine: str, found: Cards | None = None, cores: int | None = None, cluster: str = ""
) -> Devices:
    """Divide processors and GPUs among institutions.

    Args:
        config: checked configuration.
        engine: `flower`, where Ray hands devices out, or `local`, where one institution trains after another.
        found: GPUs of this machine; None: looked for.
        cores: processors of this machine; None: those that this process may use.
        cluster: address of a Ray cluster, whose nodes say themselves what they have.

    Raises:
        ConfigError: no such engine, GPUs that are not there, or settings that contradict each other.
    """
    if engine not in ("flower", "local"):
        raise ConfigError(f"engine is {engine!r}; expected `flower` or `local`")
    said, device = config.resources, config.training.device
    if cluster and engine != "flower":
        raise ConfigError("a Ray cluster runs institutions of engine flower; leave --engine out, or --ray-address")
    if cluster:
        gpus = None if said.gpus == "auto" else said.gpus
        _require_cluster(said.gpus)
        _require_own_card(device)
        _allowed(config, Cards())  # for what it refuses: nobody knows the nodes' cards here
        share_of = 0.0 if device == "cpu" else AUTO if said.client_gpus == "auto" else said.client_gpus
        return Devices(config, gpus, said.client_cpus, share_of, f"devices: those of the Ray cluster at {cluster}")
    found = cards() if found is None and device != "cpu" else found or Cards()
    gpus = _allowed(config, found)
    if found.names and not gpus and device == "auto":
        config = _on_processor(config)  # or this process, which tests and plays institutions, would take one
    if engine == "local":
        return _local(config, found, gpus)
    if gpus:
        _require_own_card(device)
    cores = len(os.sched_getaffinity(0)) if cores is None else cores
    participants = config.federation.sample or config.federation.participants
    client_gpus = share(gpus, cores, participants, said.client_cpus) if said.client_gpus == "auto" else said.client_gpus
    if client_gpus > gpus:
        raise ConfigError(
            f"resources.client_gpus is {client_gpus:g}, and {gpus} GPU{'s' * (gpus != 1)} may be used ({found.reason or 'resources.gpus'}): "
            "no institution could train; lower it, or set it to auto"
        )
    at_once = concurrent(gpus, cores, participants, said.client_cpus, client_gpus)
    return Devices(config, gpus, said.client_cpus, client_gpus, _line(config, found, gpus, at_once, client_gpus))


def share(gpus: float, cores: float, institutions: int, client_cpus: float) -> float:
    """Share GPUs out evenly among the institutions that processors let train at once: whole ones, or 1/k of one.

    Args:
        gpus: number of GPUs.
        cores: number of processors.
        institutions: number of institutions that are asked in a round.
        client_cpus: processors of each.

    Returns:
        GPUs of an institution, 0 where there is none. More than one is of no use to it: training uses one.
    """
    if not gpus:
        return 0.0
    at_once = max(1, min(institutions, int(cores / client_cpus)))
    per_card = math.ceil(at_once / gpus)
    return math.floor(_UNITS / per_card) / _UNITS


def concurrent(gpus: float, cores: float, institutions: int, client_cpus: float, client_gpus: float) -> int:
    """Count the institutions that train at once on one machine."""
    most = min(institutions, max(1, int(cores / client_cpus)))
    return most if not client_gpus else min(most, max(1, int(gpus / client_gpus + 1 / _UNITS)))


def of_cluster(nodes: Sequence[Mapping[str, float]], institutions: int, client_cpus: float) -> float:
    """Share out a cluster's GPUs; of the nodes, only those with a GPU can train on one.

    Args:
        nodes: resources of each node, as Ray names them (`CPU`, `GPU`).
        institutions: number of institutions that are asked in a round.
        client_cpus: processors of each.
    """
    with_gpu = [node for node in nodes if node.get("GPU")]
    gpus, cores = (sum(node.get(name, 0.0) for node in with_gpu) for name in ("GPU", "CPU"))
    return share(gpus, cores, institutions, client_cpus)


def _require_own_card(device: str) -> None:
    if device not in ("auto", "cpu", "cuda", "cuda:0"):
        raise ConfigError(
            f"training.device is {device!r}, but Ray shows each institution its own GPU alone, as cuda:0; set it to auto, and choose cards by "
            "CUDA_VISIBLE_DEVICES"
        )


def _require_cluster(gpus: object) -> None:
    if gpus != "auto":
        raise ConfigError(
            "resources.gpus counts the GPUs of this machine, and a Ray cluster has its own: leave --gpus out, and give each node's number to "
            "`ray start --num-gpus`"
        )


def _allowed(config: FederationConfig, found: Cards) -> int:
    """GPUs that may be used."""
    said, device, there = config.resources, config.training.device, len(found.names)
    if device == "cpu":
        if said.gpus not in ("auto", 0) or said.client_gpus not in ("auto", 0):
            raise ConfigError(
                "training.device is cpu, and [resources] gives GPUs away; set training.device to auto, or leave gpus and client_gpus out"
            )
        return 0
    allowed = there if said.gpus == "auto" else said.gpus
    if allowed > there:
        raise ConfigError(
            f"{allowed} GPUs are asked for and {there} can be used here ({found.reason or ', '.join(found.names)}); lower --gpus or resources.gpus"
        )
    if 0 in (said.gpus, said.client_gpus) and device != "auto":
        raise ConfigError(
            f"resources give no GPU to anybody, but training.device is {device!r}; set it to auto or cpu, or leave gpus and client_gpus out"
        )
    return 0 if said.client_gpus == 0 else allowed


def _on_processor(config: FederationConfig) -> FederationConfig:
    training = config.training.model_copy(update={"device": "cpu"})
    return config.model_copy(update={"training": training})


def _local(config: FederationConfig, found: Cards, gpus: int) -> Devices:
    said = config.resources
    if gpus > 1 and said.gpus != "auto":
        raise ConfigError(
            f"resources.gpus is {gpus}, but engine local trains one institution after another, on one device; use --engine flower, or 1"
        )
    if said.client_gpus not in ("auto", 0) or said.client_cpus != 1:
        raise ConfigError(
            "resources.client_cpus and client_gpus divide a machine among institutions that train at once, and engine local trains one after "
            "another; use --engine flower, or leave them out"
        )
    return Devices(config, gpus, said.client_cpus, float(bool(gpus)), _line(config, found, min(gpus, 1), 1, 1.0))


def _line(config: FederationConfig, found: Cards, gpus: int, at_once: int, client_gpus: float) -> str:
    many = f"{at_once} institution{'s' * (at_once != 1)} at once"
    if not gpus:
        why = found.reason or ("training.device is cpu" if config.resources.gpus == "auto" else "none may be used")
        return f"devices: {many}, on the processor; {why}"
    names = ", ".join(dict.fromkeys(found.names[:gpus]))
    each = "one GPU each" if client_gpus == 1 else f"{client_gpus:g} of a GPU each"
    return f"devices: {many}, {each}; {gpus} x {names}"
