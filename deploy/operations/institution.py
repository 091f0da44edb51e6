"""An institution's side: SuperNode and SuperExec under supervision, one outgoing connection."""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from dictpfl.client.data.preparing.preparation import preparation_of
from dictpfl.client.data.stored import Stored
from dictpfl.client.folder import TRAIN, VALIDATION, InstitutionSettings, quoted
from dictpfl.client.keys.epochs import Keyring, home
from dictpfl.client.keys.vault import stored_passphrase
from dictpfl.common.errors import CertificateError
from dictpfl.common.files import require_private, secret_file
from dictpfl.deploy.ceremony.changing import finish_change
from dictpfl.deploy.ceremony.identity import PRIVATE, Role, open_identity
from dictpfl.deploy.ceremony.nodes import NODE, node_key
from dictpfl.deploy.operations import begun, readiness
from dictpfl.deploy.operations.agreed import held_to_agreed, keep
from dictpfl.deploy.operations.certificates import require_valid
from dictpfl.deploy.operations.environment import CONTACT, INSTITUTION
from dictpfl.deploy.operations.handover import Handover
from dictpfl.deploy.operations.metrics import InstitutionMetrics, served
from dictpfl.deploy.operations.places import LAST_CONTACT, LOOPBACK, RUN, SECRET, environment, prepare
from dictpfl.deploy.operations.preflight import meaning, require_own_files, trusting
from dictpfl.deploy.operations.processes import Delays, Program, Supervisor, require_alone
from dictpfl.deploy.operations.refusals import Refusals
from dictpfl.deploy.operations.settings import NodeSettings, host_and_port
from dictpfl.deploy.operations.watching import watched
from dictpfl.server.coordinator import AGREEMENT

_log = structlog.get_logger(__name__)
_CONNECT_SECONDS = 5.0
CLOCK_SECONDS = 300.0
"""Flower signs requests with the time, and refuses those that are further off."""
_ADVICE = {
    305: "not admitted (the coordinator runs `dictpfl coordinator admit`), a clock that is wrong by minutes, or, after a "
    "crash, the last process still counts as alive for up to two heartbeats: then this mends itself"
}


def enrol(folder: Path) -> Path:
    """Return the node's public key, which the coordinator needs; the pair is made if there is none yet.

    Raises:
        ConfigError: it is a coordinator's folder.
    """
    if (folder / AGREEMENT).exists():
        begun.require(folder, Role.INSTITUTION)
    return node_key(prepare(folder))


def up(folder: Path, *, log_json: bool = False, **given: Any) -> None:
    """Run an institution's processes until SIGTERM; what is given is kept in `node.toml`.

    Raises:
        DictPFLError: something in the folder cannot be used, or the coordinator is not who it should be.
    """
    folder = folder.resolve()
    with readiness.kept(folder):
        _up(folder, log_json=log_json, given=given)


def _up(folder: Path, *, log_json: bool, given: Mapping[str, Any]) -> None:
    finish_change(folder)
    begun.require(folder, Role.INSTITUTION)
    institution = InstitutionSettings.load(folder)
    prepare(folder)
    require_alone(folder / RUN)
    settings = NodeSettings.told(folder, **given)
    require_private(folder / NODE)
    require_own_files(folder)
    if institution.passphrase_file and stored_passphrase(None) is None:
        require_private(folder / institution.passphrase_file)
    # A wrong passphrase, a damaged key or identity, or samples that cannot be read are said now, not in the first round.
    config = Keyring(folder, institution).genesis.config
    _require_identity(folder, institution)
    for part in (TRAIN, VALIDATION):
        Stored(folder / part, config.narrow.classes, preparation_of(config), config.data)
    readiness.forget(folder)
    require_trusted(settings.coordinator, folder / settings.ca)
    clock = _compare_clocks(settings.coordinator, folder / settings.ca)
    settings = held_to_agreed(folder, home(folder), settings)
    _log.info("institution", name=institution.name, coordinator=settings.coordinator, bundle=settings.bundle)
    refusals = Refusals(folder)
    refusals.look()  # a lock is said before anything else happens
    supervisor = Supervisor(
        programs(folder, settings, log_json=log_json, clock=clock),
        folder,
        about_to_start=lambda: keep(folder, home(folder), settings, given),
        ports=[settings.port],
    )
    tell = partial(readiness.note_watched, folder)
    with (
        served(settings.metrics_port, InstitutionMetrics(folder, settings)),
        watched(Handover(folder).look, "handover", tell),
        watched(refusals.look, "refused sums", tell),
    ):
        supervisor.run()


def _require_identity(folder: Path, institution: InstitutionSettings) -> None:
    """Open the identity, where there is one and the passphrase is at hand: it is needed next at a rotation, months from now."""
    passphrase = stored_passphrase(folder / institution.passphrase_file if institution.passphrase_file else None)
    if passphrase is not None and (folder / PRIVATE).exists():
        open_identity(folder, passphrase)


def programs(folder: Path, settings: NodeSettings, *, log_json: bool = False, clock: str = "") -> list[Program]:
    """Return the programs to run, in the order in which they start; `clock`: what is wrong with this machine's."""
    address = f"{LOOPBACK}:{settings.port}"
    secret = secret_file(folder / RUN / SECRET)
    setting = environment(
        folder,
        heartbeat=settings.heartbeat,
        bundle=settings.bundle,
        kind="clientapp",
        log_json=log_json,
        **{INSTITUTION: str(folder), CONTACT: str(folder / RUN / LAST_CONTACT)},
    )
    node = [
        "flower-supernode",
        *("--root-certificates", str(folder / settings.ca)),
        *("--superlink", settings.coordinator),
        *("--auth-supernode-private-key", str(folder / NODE)),
        *("--host", LOOPBACK, "--port", str(settings.port)),
        *("--isolation", "process", "--superexec-auth-secret-file", str(secret)),
        *("--node-config", f"institution={quoted(str(folder))}"),
    ]
    # Within one machine and one user: plain HTTP, with the secret.
    execute = [
        "flower-superexec",
        "--insecure",
        *("--runtime-api-address", address),
        *("--superexec-auth-secret-file", str(secret)),
    ]
    # 305: the coordinator does not know the node, or still takes its last process for alive (two heartbeats).
    # Or, at the first sign of life: a SuperNode whose signature is refused there ends as if it had been asked to, without a code (0).
    advice = {305: clock, 0: clock} if clock else _ADVICE
    delays = {305: Delays(first=3.0, most=15.0), None: Delays()}
    return [
        Program("supernode", node, setting, ready=lambda: _listens(settings.port), delays=delays, advice=advice),
        Program("superexec", execute, setting, follows=True),
    ]


def require_trusted(coordinator: str, ca: Path) -> None:
    """Shake hands with the coordinator's proxy; one that cannot be reached is waited for, one that lies is not.

    Raises:
        CertificateError: the certificate is expired, of another authority or for another name.
        ConfigError: no HOST:PORT.
    """
    host, port = host_and_port(coordinator)
    require_valid(ca)
    context = trusting(ca)
    try:
        with (
            socket.create_connection((host, port), timeout=_CONNECT_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=host),
        ):
            return
    except ssl.SSLCertVerificationError as error:
        raise CertificateError(meaning(error, coordinator, ca)) from error
    except OSError as error:
        _log.warning("coordinator not reached yet, keeps trying", coordinator=coordinator, reason=str(error))


def clock_difference(coordinator: str, ca: Path) -> float | None:
    """Seconds by which this machine's clock is ahead of the coordinator's, as its proxy states the time; None: unknown."""
    host, port = host_and_port(coordinator)
    context = ssl.create_default_context(cafile=str(ca))
    connection = http.client.HTTPSConnection(host, port, timeout=_CONNECT_SECONDS, context=context)
    try:
        connection.request("HEAD", "/")
        there = parsedate_to_datetime(connection.getresponse().getheader("Date") or "")
    except (OSError, http.client.HTTPException, ValueError, TypeError):
        return None
    finally:
        connection.close()
    return time.time() - there.timestamp()


def _compare_clocks(coordinator: str, ca: Path) -> str:
    """Say that this machine's clock is wrong, if it is: not refused, since it mends itself once the clock is set."""
    ahead = clock_difference(coordinator, ca)
    if ahead is None or abs(ahead) <= CLOCK_SECONDS / 2:
        return ""
    text = (
        f"this machine's clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the coordinator's: requests "
        f"are refused (305) beyond {CLOCK_SECONDS:.0f} s. Set it (timedatectl set-ntp true); rounds go on by themselves"
    )
    _log.error(text, seconds=round(ahead))
    return text


def _listens(port: int) -> bool:
    try:
        with socket.create_connection((LOOPBACK, port), timeout=1.0):
            return True
    except OSError:
        return False
