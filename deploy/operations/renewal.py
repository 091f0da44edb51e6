"""Renewal of a coordinator's certificate while all goes on: who holds the old one is told that there is a new one."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import structlog

from dictpfl.common.files import in_shell
from dictpfl.deploy.operations.certificates import validity
from dictpfl.deploy.operations.health import processes
from dictpfl.deploy.operations.places import RUN
from dictpfl.deploy.operations.preflight import require_certificate
from dictpfl.deploy.operations.settings import CoordinatorSettings

_log = structlog.get_logger(__name__)
PROXY_ID = "nginx.pid"


class Renewal:
    """Look at certificate and key, for `up`: once both are new and fit, the SuperLink starts anew, and nginx reads them again.

    Institutions notice nothing: a SuperNode tries again, and the round that is open goes on.
    """

    def __init__(self, folder: Path, settings: CoordinatorSettings) -> None:
        """Begin with what lies there."""
        self._folder = folder
        self._certificate, self._key, self._ca = (
            folder / name for name in (settings.certificate, settings.key, settings.ca)
        )
        self._served = self._there()

    def look(self) -> bool:
        """Tell the programs of a new certificate; returns whether there was one.

        Raises:
            CertificateError: the new one cannot be used, or its key is not there yet; the old one is served on.
        """
        there = self._there()
        if there == self._served:
            return False
        require_certificate(self._certificate, self._key, self._ca)
        self._served = there
        link = processes(self._folder).get("programs", {}).get("superlink", {}).get("pid")
        _told(link, signal.SIGTERM)
        days = int(validity(self._certificate).days_left)
        if _told(self._proxy(), signal.SIGHUP):
            _log.info("certificate renewed: the SuperLink starts anew, nginx reads it again", days_left=days)
        else:
            # Caddy, or an nginx that root started: it goes on with the old certificate, until institutions refuse that.
            _log.warning(
                "certificate renewed: the SuperLink starts anew, and the proxy was not told: have it read the certificate, as by "
                f"`nginx -c {in_shell(self._folder / 'nginx.conf')} -s reload` of the account that started it",
                days_left=days,
            )
        return True

    def _there(self) -> tuple[bytes, ...]:
        parts = []
        for path in (self._certificate, self._key, self._ca):
            try:
                parts.append(path.read_bytes())
            except OSError:
                parts.append(b"")
        return tuple(parts)

    def _proxy(self) -> int | None:
        """Process id of an nginx that runs in this folder; whatever else has that number by now is left alone."""
        try:
            pid = int((self._folder / RUN / PROXY_ID).read_text())
            name = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            return None
        return pid if name == "nginx" else None


def _told(pid: int | None, number: int) -> bool:
    """Send a signal; tell whether there was a process that takes it from this account."""
    try:
        if pid:
            os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return bool(pid)
