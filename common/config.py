"""The configuration file: one TOML, checked; unknown keys are errors that name the nearest known key."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self, get_args

from pydantic import BaseModel, Field, ValidationError

from common.errors import ConfigError, InsecureParametersError
from common.presets import METHODS
from common.settings import (
    Data,
    Decomposition,
    Defences,
    Encryption,
    Federation,
    Grid,
    Model,
    Privacy,
    Pruning,
    Section,
    Selection,
    Training,
)


class FederationConfig(Section):
    """Everything that all institutions agree on, as read from the file."""

    name: str = Field("federation", description="A word for reports and folders.")
    seed: int = Field(
        1, ge=0, description="Of a simulation: data split, W0, training, masks. Deployments draw secrets."
    )
    method: str = Field("dictpfl", description="A preset: " + ", ".join(f"`{m}`" for m in METHODS) + ".")
    toy_insecure: bool = Field(
        False, description="Admit what protects nobody: no encryption, or fewer than 3 institutions."
    )
    federation: Federation = Field(default_factory=Federation)
    data: Data = Field(default_factory=Data)
    model: Model = Field(default_factory=Model)
    decomposition: Decomposition = Field(default_factory=Decomposition)
    pruning: Pruning = Field(default_factory=Pruning)
    grid: Grid = Field(default_factory=Grid)
    encryption: Encryption = Field(default_factory=Encryption)
    defences: Defences = Field(default_factory=Defences)
    privacy: Privacy = Field(default_factory=Privacy)
    training: Training = Field(default_factory=Training)
    selection: Selection = Field(default_factory=Selection)

    @classmethod
    def load(cls, path: Path | str, overrides: Mapping[str, Any] | None = None) -> Self:
        """Read a TOML file, then apply dotted overrides such as `{"training.epochs": 2}`.

        Raises:
            ConfigError: unreadable file, syntax, unknown key, or value out of range.
            InsecureParametersError: settings that need `toy_insecure = true` without it.
        """
        try:
            raw = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(f"no configuration file at {path}; `dictpfl init` writes one to start from") from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read {path}: {error}") from error
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{path} is not valid TOML: {error}") from error
        return cls.of(raw, overrides, origin=str(path))

    @classmethod
    def of(
        cls, raw: Mapping[str, Any], overrides: Mapping[str, Any] | None = None, *, origin: str = "configuration"
    ) -> Self:
        """Check a nested mapping; see `load`."""
        merged: dict[str, Any] = json.loads(json.dumps(raw))
        for key, value in (overrides or {}).items():
            _assign(merged, key, value)
        method = merged.get("method", "dictpfl")
        if method not in METHODS:
            raise ConfigError(f"{origin}: unknown method {method!r}; known: {', '.join(METHODS)}")
        for key, value in METHODS[method].defaults.items():
            if not _has(merged, key):
                _assign(merged, key, value)
        for key, value in METHODS[method].overrides.items():
            _assign(merged, key, value)
        for key, value in (overrides or {}).items():
            _assign(merged, key, value)  # what was asked for by name wins over a preset
        try:
            config = cls.model_validate(merged)
        except ValidationError as error:
            raise ConfigError(f"{origin}: " + "; ".join(_explain(error))) from error
        config.require_sound(origin)
        return config

    def require_sound(self, origin: str = "configuration") -> None:
        """Refuse what contradicts itself or protects nobody without saying so."""
        least, most = self.federation.min_participants, self.capacity
        if self.federation.participants > most:
            raise ConfigError(
                f"{origin}: federation.participants is {self.federation.participants} but max_participants is {most}; "
                "raise max_participants"
            )
        if least > self.federation.participants:
            raise ConfigError(
                f"{origin}: federation.min_participants is {least} but only {self.federation.participants} take part; "
                "no round could ever close"
            )
        d = self.decomposition
        if d.refresh_when != "fixed" and not d.refresh_every:
            raise ConfigError(
                f"{origin}: decomposition.refresh_when is {d.refresh_when!r}, but refresh_every is 0; set the fewest rounds "
                "between two refreshes there"
            )
        if max(d.refresh_ranks, default=0) > d.rank:
            raise ConfigError(
                f"{origin}: decomposition.refresh_ranks goes up to {max(d.refresh_ranks)}, tables have rank {d.rank}; raise "
                "decomposition.rank, which costs nothing for rows that are not in use"
            )
        if self.selection.patience and (self.selection.by == "none" or self.data.validation_share == 0.0):
            raise ConfigError(
                f"{origin}: selection.patience is {self.selection.patience}, but nothing is measured to stop by; set "
                "selection.by to `metric` or `loss` and data.validation_share above 0"
            )
        self._require_maskable(origin)
        if self.privacy.mechanism != "none":
            self._require_private(origin)
        if not self.toy_insecure and self.insecurities:
            raise InsecureParametersError(
                f"{origin}: {'; '.join(self.insecurities)}. Change it, or set toy_insecure = true to admit it"
            )

    def _require_maskable(self, origin: str) -> None:
        defences = self.defences
        if defences.masks and (self.encryption.sealer != "ckks" or self.federation.participants < 3):  # noqa: PLR2004
            raise ConfigError(
                f'{origin}: defences.masks hides an upload among the others\' ciphertexts: it needs encryption.sealer = "ckks" '
                f"and 3 participants, found {self.encryption.sealer!r} and {self.federation.participants}"
            )
        if defences.masks and defences.mask_partners % 2:
            raise ConfigError(f"{origin}: defences.mask_partners is {defences.mask_partners}, expected an even number")

    def _require_private(self, origin: str) -> None:
        privacy, training = self.privacy, self.training
        is_example = privacy.mechanism == "example"
        wrong = {
            "neither privacy.noise_multiplier nor privacy.epsilon says how much noise there is; set one of them": not (
                privacy.noise_multiplier or privacy.epsilon
            ),
            "encryption.sealed_share picks by gradients, which cross exactly in a round of their own; set encryption."
            'sensitivity = "magnitude", or sealed_share = 1': 0.0 < self.encryption.sealed_share < 1.0
            and self.encryption.sensitivity == "gradient",
            "selection.patience stops by validation figures, which are not sent; set privacy.figures = true to send them "
            "outside of epsilon, or patience = 0": self.selection.patience and not privacy.figures,
            "training.clip_norm clips a step's gradient once it has its noise; leave it at 0, privacy.max_grad_norm clips "
            "each sample's": is_example and training.clip_norm,
            "training.autocast, compile and gradient_checkpointing hide the gradients of single samples; leave them off": (
                is_example and (training.autocast != "none" or training.compile or training.gradient_checkpointing)
            ),
            f"privacy.curious is {privacy.curious}: of federation.min_participants = {self.federation.min_participants} in a sum, "
            "at least one must add noise that counts; lower curious or raise min_participants": not is_example
            and privacy.curious >= self.federation.min_participants,
            "encryption.sealed_share below 1 shows single uploads, which hold a share of the noise only; set it to 1": (
                not is_example and self.encryption.sealed_share < 1.0
            ),
            "defences.integrity adds tags whose sum tells a little more than the sum of uploads (docs/decisions/0023); set it "
            "to false": not is_example and self.defences.integrity,
        }
        for why, is_so in wrong.items():
            if is_so:
                raise ConfigError(f"{origin}: privacy.mechanism is {privacy.mechanism!r}, but {why}")

    @property
    def capacity(self) -> int:
        """Most participants that one sum can hold."""
        return self.federation.max_participants or max(3, self.federation.participants)

    @property
    def insecurities(self) -> tuple[str, ...]:
        """Why this federation protects less than it should; empty when it does not."""
        found = []
        if self.encryption.sealer != "ckks":
            found.append(
                f"encryption.sealer is {self.encryption.sealer!r}: nothing is encrypted and the server reads every update"
            )
        if self.encryption.sealed_share < 1.0:
            found.append(
                f"encryption.sealed_share is {self.encryption.sealed_share:g}: the rest of each update crosses in clear"
            )
        if self.federation.min_participants < 3:  # noqa: PLR2004 -- the floor that SECURITY.md states
            found.append(
                f"federation.min_participants is {self.federation.min_participants}: "
                "with fewer than 3 an institution can subtract its own update from the sum"
            )
        return tuple(found)

    def canonical(self) -> bytes:
        """Canonical JSON, for digests."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":")).encode()


def _assign(target: dict[str, Any], dotted: str, value: Any) -> None:
    *sections, last = dotted.split(".")
    for section in sections:
        target = target.setdefault(section, {})
        if not isinstance(target, dict):
            raise ConfigError(f"{dotted!r}: {section!r} is not a section")
    target[last] = value


def _has(target: Mapping[str, Any], dotted: str) -> bool:
    *sections, last = dotted.split(".")
    for section in sections:
        target = target.get(section, {})
    return last in target


def known_keys(model: type[BaseModel] = FederationConfig, prefix: str = "") -> Iterator[str]:
    """Dotted names of all keys."""
    for name, field in model.model_fields.items():
        yield prefix + name
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from known_keys(kind, f"{prefix}{name}.")


def _explain(error: ValidationError) -> Iterator[str]:
    for issue in error.errors():
        key = ".".join(str(part) for part in issue["loc"])
        if issue["type"] == "extra_forbidden":
            near = difflib.get_close_matches(key, list(known_keys()), n=1, cutoff=0.0)
            yield f"unknown key {key!r}; the nearest known key is {near[0]!r}"
        else:
            yield f"{key}: {issue['msg']}, found {issue['input']!r}"


def literal_values(section: type[Section], field: str) -> tuple[str, ...]:
    """The words that a field admits."""
    return get_args(section.model_fields[field].annotation)
