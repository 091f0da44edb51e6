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

from client.site import KEY, SiteSettings
from common.errors import CertificateError, ConfigError
from deploy.operations.apps import install_agreed
from deploy.operations.places import FLOWER, LOOPBACK, NODE_KEY, NODE_PUBLIC, RUN, SECRET, environment, prepare
from deploy.operations.private import node_key, require_private, secret_file
from deploy.operations.processes import Delays, Program, Supervisor
from deploy.operations.settings import NodeSettings
from deploy.operations.task import SITE

_log = structlog.get_logger(__name__)
_CONNECT_SECONDS = 5.0
CLOCK_SECONDS = 300.0
"""Flower signs requests with the time, and refuses those that are further off."""
_UNKNOWN_ISSUER, _EXPIRED, _OTHER_NAME = {18, 19, 20, 21}, {10}, {62, 64}
"""OpenSSL's verification codes."""
_ADVICE = {
    305: "not admitted (the coordinator runs `dictpfl coordinator admit`), a clock that is wrong by minutes, or, after a "
    "crash, the last process still counts as alive for up to two heartbeats: then this mends itself"
}


def enrol(folder: Path) -> Path:
    """Make the node's key pair if missing; returns the public half, which the coordinator needs."""
    prepare(folder)
    node_key(folder / NODE_KEY, folder / NODE_PUBLIC)
    return folder / NODE_PUBLIC


def up(folder: Path, **given: Any) -> None:
    """Run an institution's processes until SIGTERM; what is given is kept in `node.toml`.

    Raises:
        DictPFLError: something in the folder cannot be used, or the coordinator is not who it should be.
    """
    folder = folder.resolve()
    site = SiteSettings.load(folder)
    prepare(folder)
    settings = NodeSettings.updated(folder, **given)
    settings = NodeSettings.updated(folder, bundle=install_agreed(folder / FLOWER, settings.bundle))
    require_private(folder / NODE_KEY)
    if (folder / KEY).exists():
        require_private(folder / KEY)
    require_trusted(settings.coordinator, folder / settings.ca)
    _compare_clocks(settings.coordinator, folder / settings.ca)
    _log.info("institution", name=site.name, coordinator=settings.coordinator, bundle=settings.bundle)
    Supervisor(programs(folder, settings), folder).run()


def programs(folder: Path, settings: NodeSettings) -> list[Program]:
    """What runs, in the order in which it starts."""
    address = f"{LOOPBACK}:{settings.port}"
    secret = secret_file(folder / RUN / SECRET)
    setting = environment(
        folder, heartbeat=settings.heartbeat, bundle=settings.bundle, kind="clientapp", **{SITE: str(folder)}
    )
    node = [
        "flower-supernode",
        *("--root-certificates", str(folder / settings.ca)),
        *("--superlink", settings.coordinator),
        *("--auth-supernode-private-key", str(folder / NODE_KEY)),
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
    try:
        context = ssl.create_default_context(cafile=str(ca))
    except (OSError, ssl.SSLError) as error:
        raise CertificateError(
            f"cannot use {ca} ({error}); ask the coordinator for its authority's certificate"
        ) from error
    try:
        with (
            socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=host.strip("[]")),
        ):
            return
    except ssl.SSLCertVerificationError as error:
        raise CertificateError(_meaning(error, coordinator, ca)) from error
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


def _meaning(error: ssl.SSLCertVerificationError, coordinator: str, ca: Path) -> str:
    if error.verify_code in _EXPIRED:
        return f"the certificate of {coordinator} has expired; its operator must renew it (or this machine's clock is wrong)"
    if error.verify_code in _UNKNOWN_ISSUER:
        return (
            f"the certificate of {coordinator} is not signed by the authority in {ca}: wrong authority, or somebody in "
            "between. Do not go on; ask the coordinator for the right ca.pem and compare it by phone"
        )
    if error.verify_code in _OTHER_NAME:
        return f"the certificate of {coordinator} is for another name; use the name that is in it, or have it renewed"
    return f"the certificate of {coordinator} is refused: {error.verify_message}"


def _listens(port: int) -> bool:
    try:
        with socket.create_connection((LOOPBACK, port), timeout=1.0):
            return True
    except OSError:
        return False
