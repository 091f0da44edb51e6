"""The coordinator's side: SuperLink and SuperExec under supervision, behind a proxy."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import structlog

from common.errors import ProcessError
from deploy.operations.apps import install_agreed
from deploy.operations.certificates import validity
from deploy.operations.control import connected, is_up
from deploy.operations.metrics import CoordinatorMetrics, served
from deploy.operations.places import DATABASE, FLOWER, LOOPBACK, NODES, RUN, SECRET, environment, prepare
from deploy.operations.preflight import require_certificate, require_own_files
from deploy.operations.private import secret_file
from deploy.operations.processes import Program, Supervisor
from deploy.operations.settings import CoordinatorSettings
from server.agreement import Agreement
from server.app import FOLDER
from server.coordinator import AGREEMENT

_log = structlog.get_logger(__name__)
_ASK_EVERY = 0.5


def up(folder: Path, *, log_json: bool = False, **given: Any) -> None:
    """Run the coordinator's processes until SIGTERM; what is given is kept in `coordinator.toml`.

    Raises:
        DictPFLError: something in the folder cannot be used; the message says what to do.
    """
    folder = folder.resolve()
    Agreement.load(folder / AGREEMENT)
    prepare(folder)
    settings = CoordinatorSettings.updated(folder, **given)
    require_own_files(folder)
    require_certificate(folder / settings.certificate, folder / settings.key, folder / settings.ca)
    settings = CoordinatorSettings.updated(folder, bundle=install_agreed(folder / FLOWER, settings.bundle))
    found = validity(folder / settings.certificate)
    _log.info("coordinator", folder=str(folder), bundle=settings.bundle, certificate_days_left=int(found.days_left))
    supervisor = Supervisor(
        programs(folder, settings, log_json=log_json),
        folder,
        once_ready=lambda started: _once_ready(folder, settings, started),
    )
    with served(settings.metrics_port, CoordinatorMetrics(folder, settings)):
        supervisor.run()


def programs(folder: Path, settings: CoordinatorSettings, *, log_json: bool = False) -> list[Program]:
    """What runs, in the order in which it starts."""
    address, ca = f"{LOOPBACK}:{settings.port}", folder / settings.ca
    secret = secret_file(folder / RUN / SECRET)
    setting = environment(
        folder,
        heartbeat=settings.heartbeat,
        bundle=settings.bundle,
        kind="serverapp",
        log_json=log_json,
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


def _once_ready(folder: Path, settings: CoordinatorSettings, started: frozenset[str]) -> None:
    """Admit nodes, and end runs whose server app went down with an earlier SuperExec."""
    try:
        with connected(f"{LOOPBACK}:{settings.port}", folder / settings.ca) as control:
            for key in admitted(folder):
                node = control.admit(key)
                if node is not None:
                    _log.info("node admitted", institution=key.stem, node=node)
            # A SuperLink alone that starts again finds its runs in the database, and their server apps find it.
            for run in control.runs() if "superexec" in started else ():
                if not run.over:
                    _log.warning("run ended with its processes; `dictpfl run` starts another", run=run.run)
                    control.stop(run.run)
    except ProcessError as error:
        _log.warning("not yet", reason=str(error))
