"""The configuration of the TLS proxy in front of a coordinator, from the templates in deploy/proxy."""

from __future__ import annotations

import re
from enum import StrEnum
from importlib.resources import files
from pathlib import Path

from common.files import write_private
from deploy.operations.places import LOGS, LOOPBACK, RUN, prepare
from deploy.operations.settings import CoordinatorSettings

_TEMPLATES = {"nginx": ("nginx.conf.in", "nginx.conf"), "caddy": ("Caddyfile.in", "Caddyfile")}
_NAME = re.compile(r"\$(\$|listen|certificate|key|ca|upstream|run|logs)(?![a-z_])")


class ProxyKind(StrEnum):
    """What stands in front."""

    NGINX = "nginx"
    CADDY = "caddy"


def write_proxy(folder: Path, listen: str, kind: ProxyKind = ProxyKind.NGINX) -> Path:
    """Write a proxy's configuration into the coordinator's folder; `listen`: HOST:PORT or PORT, for everybody.

    Raises:
        DictPFLError: the folder cannot be used.
    """
    folder = prepare(folder.resolve())
    settings = CoordinatorSettings.load(folder)
    template, name = _TEMPLATES[kind]
    facts = {
        "listen": listen,
        "certificate": str(folder / settings.certificate),
        "key": str(folder / settings.key),
        "ca": str(folder / settings.ca),
        "upstream": f"{LOOPBACK}:{settings.port}",
        "run": str(folder / RUN),
        "logs": str(folder / LOGS),
        "$": "$",
    }
    text = (files("deploy") / "proxy" / template).read_text(encoding="utf-8")
    write_private(folder / name, _NAME.sub(lambda match: facts[match[1]], text).encode())
    return folder / name
