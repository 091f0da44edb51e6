"""An institution's own folder and settings. What protects it is read from here, never from a message."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from common.errors import ConfigError
from common.files import write_private
from common.settings import Section

GENESIS_WEIGHTS = "weights.safetensors"
KEY, SEALED_KEY = "federation.key", "federation.key.sealed"
PEERS, PEER_KEY, SEALED_PEER_KEY = "peers.json", "peers.key", "peers.key.sealed"
"""Members of the epoch, and this institution's own private keys among them."""
SITE, DIARY = "site.toml", "diary.jsonl"
TRAIN, VALIDATION = "train.npz", "validation.npz"


class SiteSettings(Section):
    """`site.toml`, written by the institution."""

    name: str = Field("institution", description="The institution's name, for its own logs and training seed.")
    min_participants: Annotated[int, Field(ge=1)] = Field(
        3, description="Fewest institutions in a sum that this one opens, whatever genesis says."
    )
    toy_insecure: bool = Field(False, description="Take part even where the federation protects nobody.")
    passphrase_file: str = Field(
        "",
        description="File (mode 0600 or 0400) whose first line opens the sealed key, relative to this folder; empty: the "
        "systemd credential `dictpfl-passphrase`.",
    )

    reply_every_seconds: Annotated[float, Field(ge=0.0, le=86400.0)] = Field(
        0.0,
        description="Answers leave at whole multiples of this many seconds after the request came, so that the time of "
        "training shows only in coarse steps; take more than a round's training needs. 0: at once.",
    )

    @classmethod
    def load(cls, folder: Path) -> SiteSettings:
        """Read `folder/site.toml`.

        Raises:
            ConfigError: missing, or not of this form.
        """
        path = folder / SITE
        try:
            return cls.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, ValidationError) as error:
            raise ConfigError(f"cannot use {path}: {error}") from error

    def save(self, folder: Path) -> None:
        """Write `folder/site.toml`."""
        write_private(folder / SITE, self.to_bytes())

    def to_bytes(self) -> bytes:
        """As TOML."""
        lines = [
            f"name = {_quoted(self.name)}",
            f"min_participants = {self.min_participants}",
            f"toy_insecure = {str(self.toy_insecure).lower()}",
        ]
        if self.reply_every_seconds:
            lines.append(f"reply_every_seconds = {self.reply_every_seconds!r}")
        if self.passphrase_file:
            lines.append(f"passphrase_file = {_quoted(self.passphrase_file)}")
        return ("\n".join(lines) + "\n").encode()


def _quoted(text: str) -> str:
    return '"' + "".join(c if c.isprintable() and c not in '"\\' else f"\\u{ord(c):04x}" for c in text) + '"'
