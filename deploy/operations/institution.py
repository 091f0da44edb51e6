"""An institution's side: SuperNode and SuperExec under supervision, one outgoing connection."""

from __future__ import annotations

import json
import socket
import ssl
from pathlib import Path
from typing import Any

import structlog

from client.epochs import Keyring, home
from client.site import KEY, SEALED_KEY, SiteSettings
from common.errors import CertificateError, ConfigError
from deploy.ceremony.changing import finish_change
from deploy.ceremony.identity import PRIVATE
from deploy.ceremony.nodes import NODE, node_key
from deploy.operations.apps import held_to_agreed
from deploy.operations.handover import Handover
from deploy.operations.places import LOOPBACK, RUN, SECRET, environment, prepare
from deploy.operations.private import require_private, secret_file
from deploy.operations.processes import Delays, Program, Supervisor
from deploy.operations.settings import NodeSettings
from deploy.operations.task import SITE
from deploy.operations.watching import watched

_log = structlog.get_logger(__name__)
_CONNECT_SECONDS = 5.0
_UNKNOWN_ISSUER, _EXPIRED, _OTHER_NAME = {18, 19, 20, 21}, {10}, {62, 64}
"""OpenSSL's verification codes."""
_ADVICE = {
    305: "not admitted (the coordinator runs `dictpfl coordinator admit`), a clock that is wrong by minutes, or, after a "
    "crash, the last process still counts as alive for up to two heartbeats: then this mends itself"
}


def enrol(folder: Path) -> Path:
    """The node's public key, which the coordinator needs. `dictpfl institution identity` made the pair; made here if not."""
    return node_key(prepare(folder))


def up(folder: Path, **given: Any) -> None:
    """Run an institution's processes until SIGTERM; what is given is kept in `node.toml`.

    Raises:
        DictPFLError: something in the folder cannot be used, or the coordinator is not who it should be.
    """
    folder = folder.resolve()
    finish_change(folder)
    site = SiteSettings.load(folder)
    prepare(folder)
    settings = held_to_agreed(folder, home(folder), NodeSettings.updated(folder, **given))
    require_private(folder / NODE)
    for key in (folder / KEY, home(folder) / SEALED_KEY, folder / PRIVATE):
        if key.exists():
            require_private(key)
    Keyring(folder, site)  # a wrong passphrase or a damaged key is said now, not in the first round
    require_trusted(settings.coordinator, folder / settings.ca)
    _log.info("institution", name=site.name, coordinator=settings.coordinator, bundle=settings.bundle)
    with watched(Handover(folder).look, "handover"):
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
