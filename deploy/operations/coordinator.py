"""The coordinator's side: SuperLink and SuperExec under supervision, behind a proxy."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import structlog

from common.errors import ConfigError, ProcessError
from deploy.ceremony.identity import coordinator_signer
from deploy.ceremony.installing import install as checked_and_installed
from deploy.ceremony.installing import require_consistent
from deploy.ceremony.pinning import pinned
from deploy.ceremony.terms import Terms
from deploy.operations.apps import held_to_agreed
from deploy.operations.certificates import require_valid
from deploy.operations.control import Control, connected, is_up
from deploy.operations.pinned import FAB, sha256_of
from deploy.operations.places import DATABASE, FLOWER, LOOPBACK, NODES, RUN, SECRET, environment, prepare
from deploy.operations.private import require_private, secret_file
from deploy.operations.processes import Program, Supervisor
from deploy.operations.settings import CoordinatorSettings
from deploy.operations.watching import watched
from deploy.operations.witness import Witness
from server.agreement import Agreement
from server.app import FOLDER
from server.coordinator import AGREEMENT

_log = structlog.get_logger(__name__)
_ASK_EVERY = 0.5


def up(folder: Path, **given: Any) -> None:
    """Run the coordinator's processes until SIGTERM; what is given is kept in `coordinator.toml`.

    Raises:
        DictPFLError: something in the folder cannot be used; the message says what to do.
    """
    folder = folder.resolve()
    agreement = Agreement.load(folder / AGREEMENT)
    prepare(folder)
    if require_consistent(folder, agreement) and pinned(folder) is None:
        _log.warning("nobody compared the authority's fingerprint; `dictpfl coordinator install` asks for it")
    settings = held_to_agreed(folder, folder, CoordinatorSettings.updated(folder, **given))
    found = require_valid(folder / settings.certificate)
    require_private(folder / settings.key)
    _log.info("coordinator", folder=str(folder), bundle=settings.bundle, certificate_days_left=int(found.days_left))
    with watched(Witness(folder, coordinator_signer(folder)).look, "custody log"):
        Supervisor(
            programs(folder, settings), folder, once_ready=lambda started: _once_ready(folder, settings, started)
        ).run()


def programs(folder: Path, settings: CoordinatorSettings) -> list[Program]:
    """What runs, in the order in which it starts."""
    address, ca = f"{LOOPBACK}:{settings.port}", folder / settings.ca
    secret = secret_file(folder / RUN / SECRET)
    setting = environment(
        folder,
        heartbeat=settings.heartbeat,
        bundle=settings.bundle,
        kind="serverapp",
        **{FOLDER: str(folder)},
    )
    link = [
        "flower-superlink",
        *("--ssl-ca-certfile", str(ca)),
        *("--ssl-certfile", str(folder / settings.certificate)),
        *("--ssl-keyfile", str(folder / settings.key)),
        *("--host", LOOPBACK, "--port", str(settings.port)),
        "--enable-supernode-auth",
        *("--database", str(folder / RUN / DATABASE)),
        *("--isolation", "process", "--superexec-auth-secret-file", str(secret)),
        "--disable-runtime-dependency-installation",
    ]
    execute = [
        "flower-superexec",
        *("--root-certificates", str(ca)),
        *("--runtime-api-address", address),
        *("--superexec-auth-secret-file", str(secret)),
    ]
    asked = {"at": 0.0, "up": False}

    def ready() -> bool:
        if time.monotonic() - asked["at"] > _ASK_EVERY and not asked["up"]:
            asked.update(at=time.monotonic(), up=is_up(address, ca))
        return bool(asked["up"])

    return [Program("superlink", link, setting, ready=ready), Program("superexec", execute, setting)]


def admitted(folder: Path) -> list[Path]:
    """Public keys of the nodes that may take part."""
    return sorted((folder / NODES).glob("*.pub"))


def admit_nodes(control: Control, folder: Path) -> None:
    """Let the nodes in `nodes/` take part, and nobody else."""
    for name in control.dismiss_others(admitted(folder)):
        _log.info("node dismissed", institution=name)
    for key in admitted(folder):
        try:
            node = control.admit(key)
        except ConfigError as error:
            _log.error("node not admitted", institution=key.stem, reason=str(error))
            continue
        if node is not None:
            _log.info("node admitted", institution=key.stem, node=node)


def _once_ready(folder: Path, settings: CoordinatorSettings, started: frozenset[str]) -> None:
    """Admit nodes, and end runs whose server app went down with an earlier SuperExec."""
    try:
        with connected(f"{LOOPBACK}:{settings.port}", folder / settings.ca) as control:
            admit_nodes(control, folder)
            # A SuperLink alone that starts again finds its runs in the database, and their server apps find it.
            for run in control.runs() if "superexec" in started else ():
                if not run.over:
                    _log.warning("run ended with its processes; `dictpfl run` starts another", run=run.run)
                    control.stop(run.run)
    except ProcessError as error:
        _log.warning("not yet", reason=str(error))


def processes(folder: Path) -> dict[str, Any]:
    """What the supervisor last wrote: process ids and restarts; empty if none runs."""
    try:
        found: dict[str, Any] = json.loads((folder / RUN / "processes.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def install(folder: Path, half: Path, **how: Any) -> tuple[Terms, str]:
    """Install the coordinator's half of an epoch, and admit its nodes if the coordinator is up.

    Args:
        how: as for `deploy.ceremony.installing.install`.

    Returns the terms, and the SHA-256 of the app of a running `up`, empty if none runs.

    Raises:
        ProcessError: a run of the epoch before is on. DictPFLError: refused.
    """
    folder = folder.resolve()
    settings = CoordinatorSettings.updated(folder) if folder.exists() else CoordinatorSettings()
    address, ca = f"{LOOPBACK}:{settings.port}", folder / settings.ca
    running = ca.exists() and is_up(address, ca)
    if running:
        _require_no_run(address, ca)
    terms = checked_and_installed(folder, half, **how)
    if not running:
        return terms, ""
    with connected(address, ca) as control:
        admit_nodes(control, folder)
    return terms, sha256_of((folder / FLOWER / FAB).read_bytes())


def _require_no_run(address: str, ca: Path) -> None:
    with connected(address, ca) as control:
        for run in control.runs():
            if not run.over:
                raise ProcessError(
                    f"run {run.run} is on, in the epoch before: let it end, so that everybody has the last sum; "
                    "`dictpfl run --rounds N` with the number of rounds that are done ends it early"
                )
