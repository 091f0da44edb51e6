"""Folder and settings of an institution. Settings that protect it are read from here, never from a message."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from dictpfl.common.config import FederationConfig
from dictpfl.common.config.models import require_bitsandbytes, require_precise
from dictpfl.common.documents import explained
from dictpfl.common.errors import ConfigError
from dictpfl.common.files import read_toml, write_private
from dictpfl.common.messages.protocol import FOUND_ANEW, PROTOCOL
from dictpfl.common.settings import FEW_BITS, Section, Training

GENESIS_WEIGHTS = "weights.safetensors"
TEACHER = "teacher.safetensors"
"""File with the weights of a teacher (`[distillation]`), beside W0."""
KEY, SEALED_KEY = "federation.key", "federation.key.sealed"
PEERS, PEER_KEY, SEALED_PEER_KEY = "peers.json", "peers.key", "peers.key.sealed"
"""Files with the members of the epoch, and with this institution's own private keys, in clear and sealed."""
SETTINGS, DIARY = "institution.toml", "diary.jsonl"
FORMER_SETTINGS = "site.toml"
"""Name of the settings' file in dictpfl 0.1."""
TRAIN, VALIDATION = "train.npz", "validation.npz"
LOSS_SCALE = "loss_scale.json"
"""File with float16's loss scale (`training.autocast`) of earlier releases; since then `loss_scale-ROUND.json`."""


class InstitutionSettings(Section):
    """Settings in `institution.toml`, which the institution writes itself."""

    name: str = Field("institution", description="The institution's name, for its own logs and training seed.")
    min_participants: Annotated[int, Field(ge=1)] = Field(
        3,
        description="Fewest institutions in a sum that this one opens; where the federation agreed on more, as many as those.",
    )
    most_refused: Annotated[int, Field(ge=1)] = Field(
        3,
        description="Refused and void sums an epoch at which this institution locks, until its operator has looked and run `dictpfl "
        "institution unlock`: each tells who sent the sum a little about the key.",
    )
    most_rounds: Annotated[int, Field(ge=0)] = Field(
        0,
        description="Updates of the model after which this institution sends no more, whoever asks for them. 0: no limit.",
    )
    toy_insecure: bool = Field(False, description="Take part even where the federation protects nobody.")
    passphrase_file: str = Field(
        "",
        description="File (mode 0600 or 0400) whose first line opens the sealed key, relative to this folder. A service with "
        "the systemd credential `dictpfl-passphrase` takes that one instead.",
    )

    reply_every_seconds: Annotated[float, Field(ge=0.0, le=86400.0)] = Field(
        0.0,
        description="Answers leave at whole multiples of this many seconds after the request came, so that the time of "
        "training shows only in coarse steps; take more than a round's training needs. 0: at once. Answers that refuse "
        "leave at whole multiples of a second, or of as many of these steps as make one, in any case.",
    )

    workers: Annotated[int, Field(ge=0, le=64)] | None = Field(
        None,
        description="Processes that read and prepare batches here, in place of the federation's `training.workers`: the batches are the same, "
        "and machines are not.",
    )
    autocast: Literal["none", "auto", "bfloat16", "float16"] | None = Field(
        None,
        description="Arithmetic of this institution's own forward pass, in place of training.autocast: what its GPU is good at changes its "
        "update, and nothing that institutions share. Left out: as agreed.",
    )
    frozen: Literal["full", "8bit", "4bit"] | None = Field(
        None,
        description="Bits in which frozen weights are held here while a model trains, in place of training.frozen: what its GPU has room "
        "for. Left out: as agreed.",
    )

    allowed_code: tuple[str, ...] | None = Field(
        None,
        description="Code of `package.module:name` that a configuration may name here; any other is refused before it is "
        "imported. An empty list: none but dictpfl's own. Left out: whatever `dictpfl institution join` has shown.",
    )

    def require_allowed(self, named: Mapping[str, str], place: Path | str) -> None:
        """Refuse a configuration that names code which this institution does not allow.

        Args:
            named: configuration keys with the code that each names, as `FederationConfig.own_code` gives them.
            place: of these settings, for the message.

        Raises:
            ConfigError: it does.
        """
        if self.allowed_code is None:
            return
        if others := [f"{key} = {code!r}" for key, code in named.items() if code not in self.allowed_code]:
            raise ConfigError(
                f"this federation's configuration runs code that this institution does not allow: {', '.join(others)}. Nothing of it was "
                f"imported. Read that code, and then add its name to allowed_code in {place}; or do not take part"
            )

    def own_training(self, config: FederationConfig, place: Path) -> Training:
        """Return the settings of training, in this institution's own arithmetic, bits and number of processes where it names them.

        Args:
            config: configuration of the federation.
            place: file to name in messages.

        Raises:
            ConfigError: a narrow type where differential privacy needs the gradients of single samples; few bits there, with what needs
                frozen weights as they are, or without bitsandbytes.
        """
        training = config.training
        if self.workers is not None:
            training = training.model_copy(update={"workers": self.workers})
        if self.frozen is not None:
            training = training.model_copy(update={"frozen": self.frozen})
            require_precise(training, config.sparsity.method, str(place))
        if training.frozen in FEW_BITS and config.privacy.mechanism == "example":
            raise ConfigError(
                f"{place}: frozen is {training.frozen!r}, and this federation's privacy.mechanism takes the gradients of single samples, whose "
                "training does not use it; leave it out"
            )
        if training.frozen in FEW_BITS:
            require_bitsandbytes(training.frozen, str(place))
        if self.autocast is None:
            return training
        if self.autocast != "none" and config.privacy.mechanism == "example":
            raise ConfigError(
                f"{place}: autocast is {self.autocast!r}, and this federation's privacy.mechanism takes the gradients of single samples, which "
                "autocast hides; leave it out"
            )
        return training.model_copy(update={"autocast": self.autocast})

    @classmethod
    def load(cls, folder: Path) -> InstitutionSettings:
        """Read `folder/institution.toml`.

        Raises:
            ConfigError: missing, or not of this form.
        """
        path = folder / SETTINGS
        if not path.exists() and (folder / FORMER_SETTINGS).exists():
            raise ConfigError(
                f"{folder} has {FORMER_SETTINGS}, so it is of dictpfl 0.1 and of protocol 3, expected {PROTOCOL}: {FOUND_ANEW}"
            )
        try:
            return cls.model_validate(read_toml(path))
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot use {path}: {explained(error, cls.model_fields)}") from error

    def save(self, folder: Path) -> None:
        """Write `folder/institution.toml`."""
        write_private(folder / SETTINGS, self.to_bytes())

    def to_bytes(self) -> bytes:
        """Encode as TOML."""
        lines = [
            f"name = {quoted(self.name)}",
            f"min_participants = {self.min_participants}",
            f"most_refused = {self.most_refused}",
            f"toy_insecure = {str(self.toy_insecure).lower()}",
        ]
        if self.most_rounds:
            lines.append(f"most_rounds = {self.most_rounds}")
        if self.reply_every_seconds:
            lines.append(f"reply_every_seconds = {self.reply_every_seconds!r}")
        if self.workers is not None:
            lines.append(f"workers = {self.workers}")
        if self.passphrase_file:
            lines.append(f"passphrase_file = {quoted(self.passphrase_file)}")
        if self.autocast is not None:
            lines.append(f"autocast = {quoted(self.autocast)}")
        if self.frozen is not None:
            lines.append(f"frozen = {quoted(self.frozen)}")
        if self.allowed_code is not None:
            lines.append(f"allowed_code = [{', '.join(map(quoted, self.allowed_code))}]")
        return ("\n".join(lines) + "\n").encode()


def quoted(text: str) -> str:
    """Return the text as a TOML string, whatever letters are in it."""
    # Eight digits: of four, what is beyond the first 65,536 characters would be read as another character and a digit.
    return '"' + "".join(c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in text) + '"'
