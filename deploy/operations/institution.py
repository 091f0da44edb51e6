"""An institution's side: SuperNode and SuperExec under supervision, one outgoing connection."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import structlog

from client.epochs import Keyring, home
from client.site import SiteSettings
from common.errors import CertificateError, ConfigError
from deploy.ceremony.changing import finish_change
from deploy.ceremony.nodes import NODE, node_key
from deploy.operations.apps import held_to_agreed
from deploy.operations.certificates import require_valid
from deploy.operations.handover import Handover
from deploy.operations.metrics import InstitutionMetrics, served
from deploy.operations.places import LOOPBACK, RUN, SECRET, environment, prepare
from deploy.operations.preflight import meaning, require_own_files, trusting
from deploy.operations.private import require_private, secret_file
from deploy.operations.processes import Delays, Program, Supervisor
from deploy.operations.settings import NodeSettings
from deploy.operations.task import SITE
from deploy.operations.watching import watched

_log = structlog.get_logger(__name__)
_CONNECT_SECONDS = 5.0
CLOCK_SECONDS = 300.0
"""Flower signs requests with the time, and refuses those that are further off."""
_ADVICE = {
    305: "not admitted (the coordinator runs `dictpfl coordinator admit`), a clock that is wrong by minutes, or, after a "
    "crash, the last process still counts as alive for up to two heartbeats: then this mends itself"
}


def enrol(folder: Path) -> Path:
    """The node's public key, which the coordinator needs. `dictpfl institution identity` made the pair; made here if not."""
    return node_key(prepare(folder))


def up(folder: Path, *, log_json: bool = False, **given: Any) -> None:
    """Run an institution's processes until SIGTERM; what is given is kept in `node.toml`.

    Raises:
        DictPFLError: something in the folder cannot be used, or the coordinator is not who it should be.
    """
    folder = folder.resolve()
    finish_change(folder)
    site = SiteSettings.load(folder)
    prepare(folder)
    settings = NodeSettings.updated(folder, **given)
    require_private(folder / NODE)
    require_own_files(folder)
    if site.passphrase_file:
        require_private(folder / site.passphrase_file)
    Keyring(folder, site)  # a wrong passphrase or a damaged key is said now, not in the first round
    require_trusted(settings.coordinator, folder / settings.ca)
    _compare_clocks(settings.coordinator, folder / settings.ca)
    settings = held_to_agreed(folder, home(folder), settings)
    _log.info("institution", name=site.name, coordinator=settings.coordinator, bundle=settings.bundle)
    supervisor = Supervisor(programs(folder, settings, log_json=log_json), folder)
    with (
        served(settings.metrics_port, InstitutionMetrics(folder, settings)),
        watched(Handover(folder).look, "handover"),
    ):
        supervisor.run()


def programs(folder: Path, settings: NodeSettings, *, log_json: bool = False) -> list[Program]:
    """What runs, in the order in which it starts."""
    address = f"{LOOPBACK}:{settings.port}"
    secret = secret_file(folder / RUN / SECRET)
    setting = environment(
        folder,
        heartbeat=settings.heartbeat,
        bundle=settings.bundle,
        kind="clientapp",
        log_json=log_json,
        **{SITE: str(folder)},
    )
    node = [
        "flower-supernode",
        *("--root-certificates", str(folder / settings.ca)),
        *("--superlink", settings.coordinator),
        *("--auth-supernode-private-key", str(folder / NODE)),
        *("--host", LOOPBACK, "--port", str(settings.port)),
        *("--isolation", "process", "--superexec-auth-secret-file", str(secret)),
        *("--node-config", f"site={json.dumps(str(folder))}"),
    ]
    # Within one machine and one user: plain HTTP, with the secret.
    execute = [
        "flower-superexec",
        "--insecure",
        *("--runtime-api-address", address),
        *("--superexec-auth-secret-file", str(secret)),
    ]
    # 305: the coordinator does not know the node, or still takes its last process for alive (two heartbeats).
    delays = {305: Delays(first=3.0, most=15.0), None: Delays()}
    return [
        Program("supernode", node, setting, ready=lambda: _listens(settings.port), delays=delays, advice=_ADVICE),
        Program("superexec", execute, setting, follows=True),
    ]


def require_trusted(coordinator: str, ca: Path) -> None:
    """Shake hands with the coordinator's proxy; one that cannot be reached is waited for, one that lies is not.

    Raises:
        CertificateError: the certificate is expired, of another authority or for another name.
        ConfigError: no HOST:PORT.
    """
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"coordinator {coordinator!r}: expected HOST:PORT, such as federation.example.org:443")
    require_valid(ca)
    context = trusting(ca)
    try:
        with (
            socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=host.strip("[]")),
        ):
            return
    except ssl.SSLCertVerificationError as error:
        raise CertificateError(meaning(error, coordinator, ca)) from error
    except OSError as error:
        _log.warning("coordinator not reached yet, keeps trying", coordinator=coordinator, reason=str(error))


def clock_difference(coordinator: str, ca: Path) -> float | None:
    """Seconds by which this machine's clock is ahead of the coordinator's, as its proxy states the time; None: unknown."""
    host, _, port = coordinator.rpartition(":")
    context = ssl.create_default_context(cafile=str(ca))
    connection = http.client.HTTPSConnection(host.strip("[]"), int(port), timeout=_CONNECT_SECONDS, context=context)
    try:
        connection.request("HEAD", "/")
        there = parsedate_to_datetime(connection.getresponse().getheader("Date") or "")
    except (OSError, http.client.HTTPException, ValueError, TypeError):
        return None
    finally:
        connection.close()
    return time.time() - there.timestamp()


def _compare_clocks(coordinator: str, ca: Path) -> None:
    # Said, not refused: it mends itself once the clock is set, and the certificate has been checked already.
    ahead = clock_difference(coordinator, ca)
    if ahead is not None and abs(ahead) > CLOCK_SECONDS / 2:
        _log.error(
            f"this machine's clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the coordinator's: requests "
            f"are refused (305) beyond {CLOCK_SECONDS:.0f} s. Set it (timedatectl set-ntp true); rounds go on by themselves",
            seconds=round(ahead),
        )


def _listens(port: int) -> bool:
    try:
        with socket.create_connection((LOOPBACK, port), timeout=1.0):
            return True
    except OSError:
        return False
