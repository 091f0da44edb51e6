"""Whether the programs of a party serve: Flower's own gRPC health checks, asked on loopback.

Every program has one (`--health-server-address`), on a port that the system chose at its last start and that the
supervisor noted in `run/processes.json`. A program ends with its supervisor, so one that serves has one.
"""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.operations.places import LOOPBACK, PROCESSES, RUN

_ASK_SECONDS = 3.0


@dataclass(frozen=True)
class Health:
    """One program: whether it serves, and what was found, in words."""

    program: str
    serves: bool
    found: str


def processes(folder: Path) -> dict[str, Any]:
    """What the supervisor last wrote: process ids, restarts and health ports; empty if none runs."""
    try:
        found: dict[str, Any] = json.loads((folder / RUN / PROCESSES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def of(folder: Path) -> list[Health]:
    """Health of each program that a supervisor of this folder runs; empty if none is up."""
    return [_health(name, facts) for name, facts in processes(folder).get("programs", {}).items()]


def serves(port: int, seconds: float = _ASK_SECONDS) -> bool:
    """Ask a health server on this machine; one that does not answer in time does not serve."""
    import grpc
    from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
    from grpc_health.v1.health_pb2_grpc import HealthStub

    # A proxy for the web in the operator's environment is none for loopback.
    with grpc.insecure_channel(f"{LOOPBACK}:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            answer = HealthStub(channel).Check(HealthCheckRequest(), timeout=seconds)
        except grpc.RpcError:
            return False
        return bool(answer.status == HealthCheckResponse.SERVING)


def free_port() -> int:
    """A loopback port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def _health(name: str, facts: dict[str, Any]) -> Health:
    pid, restarts, port = facts.get("pid"), facts.get("restarts", 0), facts.get("health")
    if pid is None:
        return Health(name, serves=False, found=f"down, starts again soon; restarts {restarts}; see logs/{name}.log")
    if port is None or not serves(port):
        return Health(
            name, serves=False, found=f"process {pid} does not serve; restarts {restarts}; see logs/{name}.log"
        )
    return Health(name, serves=True, found=f"process {pid} serves; restarts {restarts}")
