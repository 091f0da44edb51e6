"""Settings that `up` is told once and keeps: a small TOML file in the folder of a coordinator or an institution."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, ValidationError

from dictpfl.client.folder import quoted
from dictpfl.common.documents import explained
from dictpfl.common.errors import ConfigError
from dictpfl.common.files import read_toml, write_private
from dictpfl.common.settings import Section
from dictpfl.deploy.operations.places import LOOPBACK

Port = Annotated[int, Field(ge=1, le=65_535)]
_ADDRESS = re.compile(r"([^\s/:@\[\]]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})")
_PORTS = range(1, 1 << 16)


def host_and_port(address: str) -> tuple[str, int]:
    """Split HOST:PORT, such as federation.example.org:443 or [2001:db8::1]:443; the host comes without brackets.

    Raises:
        ConfigError: it is none.
    """
    found = _ADDRESS.fullmatch(address)
    if not found or int(found[2]) not in _PORTS:
        raise ConfigError(
            f"{address!r} is no HOST:PORT, such as federation.example.org:443; give what institutions connect to"
        )
    return found[1].strip("[]"), int(found[2])


class _Kept(Section):
    """A settings file; paths in it are relative to its folder. What both sides keep stands here."""

    FILE: ClassVar[str]
    heartbeat: Annotated[float, Field(ge=10.0)] = Field(
        30.0,
        description="Seconds between signs of life; after twice as long without one, a node counts as gone. Flower takes no less than 10.",
    )
    bundle: str = Field(
        "", description="SHA-256 of the app bundle that all agreed on; empty: that of this installation."
    )

    metrics_port: Annotated[int, Field(ge=0, le=65_535)] = Field(
        0, description="Port for Prometheus on 127.0.0.1, path /metrics; 0: none."
    )

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the file; it stays as it is.

        Raises:
            ConfigError: a value is missing or cannot be used.
        """
        return cls._checked(folder, cls._kept(folder))

    @classmethod
    def told(cls, folder: Path, **given: Any) -> Self:
        """Read the file, and put what was given (not None) in its place; the file stays as it is.

        Raises:
            ConfigError: a value is missing or cannot be used.
        """
        return cls._checked(folder, _over(cls._kept(folder), given))

    @classmethod
    def updated(cls, folder: Path, **given: Any) -> Self:
        """Read the file, put what was given (not None) in its place, and keep that in the file.

        A file that says it already is not touched.

        Raises:
            ConfigError: a value is missing or cannot be used, or the file cannot be written.
        """
        path, kept = folder / cls.FILE, cls._kept(folder)
        wanted = _over(kept, given)
        settings = cls._checked(folder, wanted)
        if wanted == kept and path.exists():
            return settings
        lines = [
            f"{name} = {quoted(value) if isinstance(value, str) else json.dumps(value)}"
            for name, value in settings.model_dump().items()
        ]
        try:
            write_private(path, ("\n".join(lines) + "\n").encode())
        except OSError as error:
            raise ConfigError(f"cannot write {path}: {error.strerror}; is {folder} the right folder?") from error
        return settings

    @classmethod
    def _kept(cls, folder: Path) -> dict[str, Any]:
        path = folder / cls.FILE
        try:
            return read_toml(path) if path.exists() else {}
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot use {path}: {error}") from error

    @classmethod
    def _checked(cls, folder: Path, values: dict[str, Any]) -> Self:
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(f"cannot use {folder / cls.FILE}: {explained(error, cls.model_fields)}") from error


def _over(kept: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Values of the file, with those that were given (not None) in their place."""
    return kept | {name: value for name, value in given.items() if value is not None}


class CoordinatorSettings(_Kept):
    """`coordinator.toml`."""

    FILE = "coordinator.toml"
    port: Port = Field(9091, description="Port of Flower's SuperLink, on 127.0.0.1 only; the proxy forwards to it.")
    certificate: str = Field("tls/server.pem", description="The coordinator's certificate.")
    key: str = Field("tls/server.key", description="Its key, mode 0600.")
    ca: str = Field("tls/ca.pem", description="The authority that signed it.")

    @property
    def superlink(self) -> str:
        """HOST:PORT of the SuperLink on this machine."""
        return f"{LOOPBACK}:{self.port}"


class NodeSettings(_Kept):
    """`node.toml`, beside the institution's `institution.toml`."""

    FILE = "node.toml"
    coordinator: str = Field(description="HOST:PORT of the coordinator's proxy.")
    port: Port = Field(9094, description="Port between SuperNode and SuperExec, on 127.0.0.1 only.")
    ca: str = Field("ca.pem", description="The authority that signed the coordinator's certificate.")
