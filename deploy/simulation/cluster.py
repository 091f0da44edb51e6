"""A Ray cluster that is there already: whether it can be reached, and whether its nodes can work on a run's files.

Files go by a folder that all nodes see at the same place, not by Ray's object store: an institution's memory must outlive whoever
works on it, and its data must stay in its folder.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dictpfl.common.errors import ConfigError, EngineError

_PATIENCE = 120.0
"""Seconds that a node may take to start a process and look."""
_REACH_SECONDS = 5.0


def require_address(address: str) -> None:
    """Check that an address is one of a cluster's head node, as `ray start --head` says it.

    Raises:
        ConfigError: an address of another kind.
    """
    if address == "auto":
        return
    if address.startswith("ray://"):
        raise ConfigError(
            f"--ray-address {address} goes through Ray Client, which Flower's runtime does not; start dictpfl on a node of the cluster, and give "
            "HOST:PORT of its head node (port 6379, unless it was started with another), or auto"
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:  # noqa: PLR2004 -- ports have 16 bits
        raise ConfigError(
            f"--ray-address {address!r}: expected HOST:PORT of a cluster's head node, such as 10.0.0.1:6379, or auto"
        )


def reached(address: str) -> None:
    """Try the head node's port: Ray itself would go on trying for minutes.

    Raises:
        EngineError: nobody listens there.
    """
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_SECONDS).close()
    except OSError as error:
        raise EngineError(
            f"no Ray cluster answers at {address} ({error}); start one with `ray start --head --port {port}` there, and `ray start --address "
            f"{address}` on the other nodes"
        ) from error


def require_nodes(home: str, institutions: Path) -> list[Mapping[str, float]]:
    """Have every node look at the run's files; return the resources of each.

    Args:
        home: working directory of the caller.
        institutions: folder of all institutions.

    Raises:
        EngineError: a node that does not see the files, or has other releases.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    known = ray.nodes()  # type: ignore[no-untyped-call]  # Ray says nothing of it
    alive = [node for node in known if node["Alive"] and node["Resources"].get("CPU")]
    look = ray.remote(num_cpus=0, max_retries=0)(_look)
    asked = [
        look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            home, str(institutions)
        )
        for node in alive
    ]
    wrong = []
    for node, answer in zip(alive, asked, strict=True):
        try:
            said = ray.get(answer, timeout=_PATIENCE)
        except Exception as error:  # noqa: BLE001 -- whatever a foreign node's process dies of
            said = {
                "trouble": f"dictpfl cannot be run there: {type(error).__name__}: {str(error).strip().splitlines()[-1]}"
            }
        wrong += [f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']}): {what}" for what in _troubles(said)]
    if wrong:
        raise EngineError(
            f"not every node of the Ray cluster can work on this run. {'; '.join(wrong)}. Put the run folder and the working directory on a "
            "folder that all nodes mount at the same path, and install the same release on all"
        )
    return [node["Resources"] for node in alive]


_PACKAGES = ("dictpfl", "flwr", "torch", "numpy", "tenseal")


def _look(home: str, institutions: str) -> dict[str, Any]:
    """Look from a node: which releases it has, and whether it may write where the institutions remember."""
    said: dict[str, Any] = {"releases": _releases()}
    if not Path(home).is_dir():
        said["trouble"] = f"it has no folder {home}"
        return said
    first = Path(institutions) / "institution-000"
    mark = first / f".seen-{socket.gethostname()}"
    try:
        mark.touch()
    except OSError as error:
        said["trouble"] = f"it cannot write into {first} ({error.strerror})"
    else:
        with suppress(OSError):
            mark.unlink()
    return said


def _releases() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _troubles(said: Mapping[str, Any]) -> list[str]:
    troubles = [str(said["trouble"])] if "trouble" in said else []
    own, there = _releases(), said.get("releases", {})
    differing = [
        f"{name} {there[name]}, here {own[name]}" for name in own if name in there and there[name] != own[name]
    ]
    return troubles + ([f"it has other releases: {', '.join(differing)}"] if differing else [])
