"""Health of a party's programs: Flower's own gRPC health checks, asked on loopback.

Every program has one (`--health-server-address`), on a port that the system chose at its last start and that the
supervisor noted in `run/processes.json`. A program ends with its supervisor, so one that serves has one.
"""

from __future__ import annotations

import json
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dictpfl.common.files import is_locked
from dictpfl.deploy.operations import disk, readiness
from dictpfl.deploy.operations.places import LAST_CONTACT, LOCK, LOOPBACK, NO_CONTACT, PROCESSES, RUN

_ASK_SECONDS = 3.0
_NUMBERS = ("pid", "restarts", "health")
NOT_UP = "`up` is not running in this folder"
CUT_OFF_SECONDS = 90.0
"""Seconds without an answer of the coordinator after which a SuperNode that is alive counts as cut off; it asks every three
seconds, and waits twenty at most between two tries."""


@dataclass(frozen=True)
class Health:
    """One program: whether it serves, and what was found, in words."""

    program: str
    serves: bool
    found: str


def processes(folder: Path) -> dict[str, Any]:
    """Read what the supervisor last wrote: process ids, restarts and health ports; empty if none runs, or the file is damaged.

    Raises:
        PermissionError: the folder is another account's.
    """
    try:
        written = json.loads((folder / RUN / PROCESSES).read_text(encoding="utf-8"))
        programs = [*written.get("programs", {}).values()]
        numbers = [written.get("supervisor"), *(one.get(name) for one in programs for name in _NUMBERS)]
    except PermissionError:
        raise  # to another account than the folder's own a party in good health would look dead
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}
    return dict(written) if all(number is None or type(number) is int for number in numbers) else {}


def of(folder: Path) -> list[Health]:
    """Health of each program that a supervisor of this folder runs; empty if none is up."""
    found = _programs(folder)
    if found and (reason := readiness.trouble(folder)):
        found.append(Health("institution", serves=False, found=f"cannot take part: {reason}"))
    if found and (reason := disk.trouble(folder)):
        found.append(Health("disk", serves=False, found=reason))
    return found


def down(folder: Path) -> list[str]:
    """Say which programs of a folder do not serve, and that none is up: what an operator sees first when rounds stand still."""
    found = _programs(folder)
    return [f"{one.program}: {one.found}" for one in found if not one.serves] if found else [NOT_UP]


def _programs(folder: Path) -> list[Health]:
    written = processes(folder)
    found = [_health(name, facts) for name, facts in written.get("programs", {}).items()]
    if not all(one.serves for one in found) and not is_locked(folder / RUN / LOCK):
        found = [_orphan(one, written.get("supervisor")) for one in found]
    return [_in_touch(folder, one) if one.program == "supernode" and one.serves else one for one in found]


def last_contact(folder: Path) -> float | None:
    """Seconds since 1970 at which the coordinator last answered an institution's SuperNode; None: never, or no institution's folder."""
    try:
        return (folder / RUN / LAST_CONTACT).stat().st_mtime
    except OSError:
        return None


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
    """Return a loopback port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def _in_touch(folder: Path, alive: Health) -> Health:
    """Count a SuperNode that lives and reaches nobody as one that does not serve."""
    reached = last_contact(folder)
    ago = None if reached is None else max(0.0, time.time() - reached)
    if ago is not None and ago < CUT_OFF_SECONDS:
        return alive
    since = "has not reached the coordinator yet" if ago is None else f"has not reached the coordinator for {ago:.0f} s"
    return Health(
        alive.program,
        serves=False,
        found=f"{alive.found}, but {since}{_why_not(folder)}; it keeps trying, see logs/{alive.program}.log",
    )


def _why_not(folder: Path) -> str:
    """Say why the last try failed, as after a certificate that does not fit."""
    try:
        reason = (folder / RUN / NO_CONTACT).read_text(encoding="utf-8", errors="replace")
    except OSError:
        reason = ""
    return f" ({reason})" if reason else ""


def _orphan(one: Health, supervisor: int | None) -> Health:
    """Say of a program that ended with its supervisor that nothing starts it again."""
    if one.serves:
        return one
    found = f"`up` (process {supervisor}) was killed, and its programs with it: start `up` again; see logs/{one.program}.log"
    return Health(one.program, serves=False, found=found)


def _health(name: str, facts: dict[str, Any]) -> Health:
    pid, restarts, port = facts.get("pid"), facts.get("restarts", 0), facts.get("health")
    if pid is None:
        why = f": {facts['why']}" if facts.get("why") else ""
        found = f"down, starts again soon{why}; restarts {restarts}; see logs/{name}.log"
        return Health(name, serves=False, found=found)
    if port is None or not serves(port):
        return Health(
            name, serves=False, found=f"process {pid} does not serve; restarts {restarts}; see logs/{name}.log"
        )
    return Health(name, serves=True, found=f"process {pid} serves; restarts {restarts}")
