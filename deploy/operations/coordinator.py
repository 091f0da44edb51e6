"""The coordinator's side: SuperLink and SuperExec under supervision, behind a proxy."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
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
from deploy.operations.certificates import validity
from deploy.operations.control import Control, connected, is_up
from deploy.operations.metrics import CoordinatorMetrics, served
from deploy.operations.pinned import FAB, sha256_of
from deploy.operations.places import DATABASE, FLOWER, LOOPBACK, NODES, RUN, SECRET, environment, prepare
from deploy.operations.preflight import require_certificate, require_own_files
from deploy.operations.private import secret_file
from deploy.operations.processes import Program, Supervisor
from deploy.operations.settings import CoordinatorSettings
from deploy.operations.watching import watched
from deploy.operations.witness import Witness
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
    agreement = Agreement.load(folder / AGREEMENT)
    prepare(folder)
    settings = CoordinatorSettings.updated(folder, **given)
    require_own_files(folder)
    require_certificate(folder / settings.certificate, folder / settings.key, folder / settings.ca)
    if require_consistent(folder, agreement) and pinned(folder) is None:
        _log.warning("nobody compared the authority's fingerprint; `dictpfl coordinator install` asks for it")
    settings = held_to_agreed(folder, folder, settings)
    found = validity(folder / settings.certificate)
    _log.info("coordinator", folder=str(folder), bundle=settings.bundle, certificate_days_left=int(found.days_left))
    supervisor = Supervisor(
        programs(folder, settings, log_json=log_json),
        folder,
        once_ready=lambda started: _once_ready(folder, settings, started),
    )
    with (
        served(settings.metrics_port, CoordinatorMetrics(folder, settings)),
        watched(Witness(folder, coordinator_signer(folder)).look, "custody log"),
    ):
        supervisor.run()


def programs(folder: Path, settings: CoordinatorSettings, *, log_json: bool = False) -> list[Program]:
    """What runs, in the order in which it starts."""
    address, ca = settings.superlink, folder / settings.ca
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


def admit_nodes(control: Control, folder: Path) -> tuple[list[str], list[str]]:
    """Let the nodes in `nodes/` take part, and nobody else; returns who came and who went."""
    came, went = [], control.dismiss_others(admitted(folder))
    for key in admitted(folder):
        try:
            node = control.admit(key)
        except ConfigError as error:
            _log.error("node not admitted", institution=key.stem, reason=str(error))
            continue
        if node is not None:
            came.append(key.stem)
    return came, went


def _once_ready(folder: Path, settings: CoordinatorSettings, started: frozenset[str]) -> None:
    """Admit nodes, and end runs whose server app went down with an earlier SuperExec."""
    try:
        with connected(settings.superlink, folder / settings.ca) as control:
            came, went = admit_nodes(control, folder)
            if came or went:
                _log.info("nodes", admitted=came, dismissed=went)
            # A SuperLink alone that starts again finds its runs in the database, and their server apps find it.
            for run in control.runs() if "superexec" in started else ():
                if not run.over:
                    _log.warning("run ended with its processes; `dictpfl run` starts another", run=run.run)
                    control.stop(run.run)
    except ProcessError as error:
        _log.warning("not yet", reason=str(error))


@dataclass(frozen=True)
class Installed:
    """The terms of an epoch that was installed; of a running `up` the app's SHA-256, and whose nodes came and went."""

    terms: Terms
    running: str = ""
    came: Sequence[str] = ()
    went: Sequence[str] = ()


def install(folder: Path, half: Path, **how: Any) -> Installed:
    """Install the coordinator's half of an epoch, and admit its nodes if the coordinator is up.

    Args:
        how: as for `deploy.ceremony.installing.install`.

    Raises:
        ProcessError: a run of the epoch before is on. DictPFLError: refused.
    """
    folder = folder.resolve()
    settings = CoordinatorSettings.load(folder) if folder.exists() else CoordinatorSettings()
    address, ca = settings.superlink, folder / settings.ca
    running = ca.exists() and is_up(address, ca)
    if running:
        _require_no_run(address, ca)
    terms = checked_and_installed(folder, half, **how)
    if not running:
        return Installed(terms)
    with connected(address, ca) as control:
        came, went = admit_nodes(control, folder)
    return Installed(terms, sha256_of((folder / FLOWER / FAB).read_bytes()), came, went)


def _require_no_run(address: str, ca: Path) -> None:
    with connected(address, ca) as control:
        for run in control.runs():
            if not run.over:
                raise ProcessError(
                    f"run {run.run} is on, in the epoch before: let it end, so that everybody has the last sum; "
                    "`dictpfl run --drain` ends it early"
                )
