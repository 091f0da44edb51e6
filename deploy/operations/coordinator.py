"""The coordinator's side: SuperLink and SuperExec under supervision, behind a proxy."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from dictpfl.common.errors import ConfigError, ProcessError
from dictpfl.common.files import secret_file
from dictpfl.deploy.app.pinned import FAB, sha256_of
from dictpfl.deploy.ceremony.custody import record
from dictpfl.deploy.ceremony.identity import Role, coordinator_signer
from dictpfl.deploy.ceremony.installing import install as checked_and_installed
from dictpfl.deploy.ceremony.installing import require_consistent
from dictpfl.deploy.ceremony.pinning import pinned
from dictpfl.deploy.ceremony.terms import Terms
from dictpfl.deploy.operations import begun, readiness
from dictpfl.deploy.operations.agreed import held_to_agreed, keep
from dictpfl.deploy.operations.certificates import validity
from dictpfl.deploy.operations.control import Control, connected, is_up
from dictpfl.deploy.operations.metrics import CoordinatorMetrics, served
from dictpfl.deploy.operations.places import DATABASE, FLOWER, LOOPBACK, NODES, RUN, SECRET, environment, prepare
from dictpfl.deploy.operations.preflight import require_certificate, require_own_files
from dictpfl.deploy.operations.processes import Program, Supervisor, require_alone
from dictpfl.deploy.operations.renewal import Renewal
from dictpfl.deploy.operations.settings import CoordinatorSettings
from dictpfl.deploy.operations.watching import watched
from dictpfl.deploy.operations.witness import Witness
from dictpfl.server.agreement import Agreement
from dictpfl.server.app import FOLDER
from dictpfl.server.coordinator import AGREEMENT, open_journal
from dictpfl.server.journal import Journal

_log = structlog.get_logger(__name__)
_ASK_EVERY = 0.5


def up(folder: Path, *, log_json: bool = False, **given: Any) -> None:
    """Run the coordinator's processes until SIGTERM; what is given is kept in `coordinator.toml`.

    Raises:
        DictPFLError: something in the folder cannot be used; the message says what to do.
    """
    folder = folder.resolve()
    with readiness.kept(folder):
        _up(folder, log_json=log_json, given=given)


def _up(folder: Path, *, log_json: bool, given: Mapping[str, Any]) -> None:
    begun.require(folder, Role.COORDINATOR)
    agreement = Agreement.load(folder / AGREEMENT)
    prepare(folder)
    require_alone(folder / RUN)
    settings = CoordinatorSettings.told(folder, **given)
    require_own_files(folder)
    require_certificate(folder / settings.certificate, folder / settings.key, folder / settings.ca)
    if require_consistent(folder, agreement) and pinned(folder) is None:
        _log.warning("nobody compared the authority's fingerprint; `dictpfl coordinator install` asks for it")
    settings = held_to_agreed(folder, folder, settings)
    readiness.forget(folder)
    certificate = validity(folder / settings.certificate)
    _log.info(
        "coordinator", folder=str(folder), bundle=settings.bundle, certificate_days_left=int(certificate.days_left)
    )
    supervisor = Supervisor(
        programs(folder, settings, log_json=log_json),
        folder,
        about_to_start=lambda: keep(folder, folder, settings, given),
        once_ready=lambda started: _once_ready(folder, settings, started),
        ports=[settings.port],
    )
    tell = partial(readiness.note_watched, folder)
    with (
        served(settings.metrics_port, CoordinatorMetrics(folder, settings)),
        watched(Witness(folder, coordinator_signer(folder)).look, "custody log", tell),
        watched(Renewal(folder, settings).look, "certificate", tell),
    ):
        supervisor.run()


def programs(folder: Path, settings: CoordinatorSettings, *, log_json: bool = False) -> list[Program]:
    """Return the programs to run, in the order in which they start."""
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
            asked.update(at=time.monotonic(), up=is_up(address, ca, secret))
        return bool(asked["up"])

    return [Program("superlink", link, setting, ready=ready), Program("superexec", execute, setting)]


def admitted(folder: Path) -> list[Path]:
    """Public keys of the nodes that may take part."""
    return sorted((folder / NODES).glob("*.pub"))


def admit_nodes(control: Control, folder: Path) -> tuple[list[str], list[str]]:
    """Let the nodes in `nodes/` take part, and nobody else; returns who came and who went.

    A member of the epoch stays also where its file is missing: a file that was lost, or is not restored yet, is not a decision. An
    institution that shall not take part is excluded, or left out of the next epoch.
    """
    members = Agreement.load(folder / AGREEMENT).members
    missing = sorted(set(members) - {key.stem for key in admitted(folder)})
    came, went = [], control.dismiss_others(admitted(folder), spared=missing)
    if missing and admitted(folder):
        _log.error(
            f"no {NODES}/NAME.pub of {', '.join(missing)}: who was admitted before stays so; restore the files from the backup, or "
            "leave an institution out with `dictpfl coordinator exclude NAME`"
        )
    for key in admitted(folder):
        try:
            node = control.admit(key)
        except ConfigError as error:
            _log.error("node not admitted", institution=key.stem, reason=str(error))
            continue
        if node is not None:
            came.append(key.stem)
    note_names(control, folder)
    return came, went


def note_names(control: Control, folder: Path) -> None:
    """Tell the journal which node is whose: the server app that closes rounds sees numbers of nodes alone."""
    agreement = Agreement.load(folder / AGREEMENT)
    admissible = {key.stem for key in admitted(folder)} | set(agreement.members)
    journal = open_journal(folder, agreement)
    try:
        journal.name_nodes({node.node: node.name for node in control.nodes() if node.name in admissible})
    finally:
        journal.close()


def exclude(folder: Path, name: str, reason: str = "") -> Sequence[str]:
    """Have an institution neither asked nor heard, from the next exchange on, also of a run that is on.

    Returns:
        Names of those who are excluded now.

    Raises:
        ConfigError: nobody has that name. JournalError: the journal cannot be used.
    """
    with _parties(folder) as (journal, known):
        if name not in known:
            raise ConfigError(f"{name!r} is no member and no admitted node; known are {sorted(known)}")
        record(folder, coordinator_signer(folder), "institution excluded", institution=name, reason=reason)
        journal.exclude(name, reason)
        return [one.name for one in journal.excluded()]


def readmit(folder: Path, name: str) -> None:
    """Let an excluded institution take part again.

    Raises:
        ConfigError: it is not excluded. JournalError: the journal cannot be used.
    """
    with _parties(folder) as (journal, _):
        excluded = [one.name for one in journal.excluded()]
        if name not in excluded:
            raise ConfigError(f"{name!r} is not excluded; excluded are {excluded}")
        record(folder, coordinator_signer(folder), "institution readmitted", institution=name)
        journal.readmit(name)


@contextmanager
def _parties(folder: Path) -> Iterator[tuple[Journal, frozenset[str]]]:
    """Open the journal, with the names that institutions have; those of nodes are brought up to date if it can be."""
    begun.require(folder, Role.COORDINATOR)
    folder = folder.resolve()
    agreement, settings = Agreement.load(folder / AGREEMENT), CoordinatorSettings.load(folder)
    with suppress(ProcessError), connected(settings.superlink, folder / settings.ca, folder / RUN / SECRET) as control:
        note_names(control, folder)
    journal = open_journal(folder, agreement)
    try:
        names = {key.stem for key in admitted(folder)} | set(journal.node_names().values())
        yield journal, frozenset(names | set(agreement.members))
    finally:
        journal.close()


def _once_ready(folder: Path, settings: CoordinatorSettings, started: frozenset[str]) -> None:
    """Admit nodes, and end runs whose server app went down with an earlier SuperExec."""
    try:
        with connected(settings.superlink, folder / settings.ca, folder / RUN / SECRET) as control:
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
        how: as for `dictpfl.deploy.ceremony.installing.install`.

    Raises:
        ProcessError: a run of the epoch before is on. DictPFLError: refused.
    """
    folder = folder.resolve()
    settings = CoordinatorSettings.load(folder) if folder.exists() else CoordinatorSettings()
    superlink = settings.superlink, folder / settings.ca, folder / RUN / SECRET
    running = is_up(*superlink)
    if running:
        _require_no_run(*superlink)
    terms = checked_and_installed(folder, half, **how)
    if not running:
        return Installed(terms)
    with connected(*superlink) as control:
        came, went = admit_nodes(control, folder)
    return Installed(terms, sha256_of((folder / FLOWER / FAB).read_bytes()), came, went)


def _require_no_run(address: str, ca: Path, secret: Path) -> None:
    with connected(address, ca, secret) as control:
        for run in control.runs():
            if not run.over:
                raise ProcessError(
                    f"run {run.run} is on, in the epoch before: let it end, so that everybody has the last sum; "
                    "`dictpfl run --drain` ends it early"
                )
