"""The configuration of the TLS proxy in front of a coordinator, from the templates in deploy/proxy."""

from __future__ import annotations

import grp
import os
import pwd
import re
import shutil
from enum import StrEnum
from importlib.resources import files
from pathlib import Path

from dictpfl.common.errors import ConfigError
from dictpfl.common.files import in_shell, write_private
from dictpfl.deploy.operations.places import LOGS, RUN, prepare
from dictpfl.deploy.operations.settings import CoordinatorSettings

_TEMPLATES = {"nginx": ("nginx.conf.in", "nginx.conf"), "caddy": ("Caddyfile.in", "Caddyfile")}
_SYSTEM = ("/usr/sbin", "/usr/local/sbin")
"""Folders with programs that an unprivileged account's PATH leaves out."""
_NAME = re.compile(r"\$(\$|listen|port|bind|certificate|key|ca|upstream|run|logs|user)(?![a-z_])")
_UNQUOTABLE = set('"\\${}`\n')
"""Letters that mean something to nginx or Caddy also inside of quotes."""
_LISTEN = re.compile(r"((?P<host>[A-Za-z0-9*._-]+|\[[0-9A-Fa-f:.]+\]):)?(?P<port>[0-9]{1,5})")
_PORTS = 65_536


class ProxyKind(StrEnum):
    """Program that stands in front of the coordinator."""

    NGINX = "nginx"
    CADDY = "caddy"


def command(kind: ProxyKind, path: Path) -> str:
    """Say what starts the proxy with this configuration; or, where it is not installed, what to do."""
    program, start, package = {
        ProxyKind.NGINX: ("nginx", f"nginx -c {in_shell(path)}", "nginx-light"),
        ProxyKind.CADDY: ("caddy", f"caddy run --adapter caddyfile --config {in_shell(path)}", "caddy"),
    }[kind]
    if shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", ""), *_SYSTEM])):
        return f"start it with: {start}"
    other = next(each for each in ProxyKind if each is not kind)
    return (
        f"{program} is not installed on this machine: apt-get install {package} (or --kind {other}), then {start}. Without "
        "a proxy no institution can connect: the SuperLink listens on loopback only, and must not be opened"
    )


def write_proxy(folder: Path, listen: str, kind: ProxyKind = ProxyKind.NGINX) -> Path:
    """Write a proxy's configuration into the coordinator's folder; `listen`: HOST:PORT or PORT, for everybody.

    Raises:
        ConfigError: no such address. DictPFLError: the folder cannot be used.
    """
    found = _LISTEN.fullmatch(listen)
    if not found or not 0 < int(found["port"]) < _PORTS:
        raise ConfigError(f"--listen {listen!r}: expected PORT or HOST:PORT, such as 443 or 192.0.2.1:443")
    host, port = found["host"] or "", found["port"]
    folder = folder.resolve()
    settings = CoordinatorSettings.load(folder)
    for path in (folder / settings.certificate, folder / settings.key, folder / settings.ca):
        if strange := sorted(_UNQUOTABLE & set(str(path))):
            raise ConfigError(
                f"{path} has {strange} in it, which no proxy's configuration can name; move the folder to a path without"
            )
        if not path.exists():
            raise ConfigError(
                f"{path} does not exist, and no proxy starts without it: make certificates first (`dictpfl certificates --folder "
                f"{folder.name}/tls --name NAME`), or put those there that your authority made"
            )
    prepare(folder)
    template, name = _TEMPLATES[kind]
    facts = {
        "listen": listen,
        "port": port,
        "bind": host.strip("[]") or "0.0.0.0 [::]",
        "certificate": str(folder / settings.certificate),
        "key": str(folder / settings.key),
        "ca": str(folder / settings.ca),
        "upstream": settings.superlink,
        "run": str(folder / RUN),
        "logs": str(folder / LOGS),
        "user": _workers(folder),
        "$": "$",
    }
    text = (files("dictpfl.deploy") / "proxy" / template).read_text(encoding="utf-8")
    write_private(folder / name, _NAME.sub(lambda match: facts[match[1]], text).encode())
    return folder / name


def _workers(folder: Path) -> str:
    """Return the directive that runs nginx's workers as the folder's owner, who alone may enter it, when root starts nginx."""
    facts = folder.stat()
    try:
        return f"user {pwd.getpwuid(facts.st_uid).pw_name} {grp.getgrgid(facts.st_gid).gr_name};"
    except KeyError:
        return ""  # an account without a name, as in a container, where no root starts it
