"""Configuration file: one TOML, checked; an unknown key is an error that names the nearest known one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self, get_args

from pydantic import BaseModel, ValidationError

from dictpfl.common.config.choices import left_behind
from dictpfl.common.config.sections import Sections
from dictpfl.common.config.soundness import require_sound
from dictpfl.common.documents import explained
from dictpfl.common.errors import ConfigError
from dictpfl.common.files import is_pattern, read_toml
from dictpfl.common.presets import METHODS
from dictpfl.common.registry import CODE
from dictpfl.common.settings import ACTIVATIONS, Section

_FREE = ("options", "architecture")
_LIBRARIES, _OF_MODELS = ("timm", "transformers"), ("model.source", "distillation.teacher")
"""Words before a colon that in these keys the name of a model follows; in any other key, an attribute of that module."""


class FederationConfig(Sections):
    """Configuration that all institutions agree on, as read from the file."""

    @classmethod
    def load(cls, path: Path | str, overrides: Mapping[str, Any] | None = None) -> Self:
        """Read a TOML file, then apply dotted overrides such as `{"training.epochs": 2}`.

        Raises:
            ConfigError: unreadable file, syntax, unknown key, or value out of range.
            ParameterError (insecure): settings that need `toy_insecure = true` without it.
        """
        try:
            raw = read_toml(Path(path))
        except FileNotFoundError:
            raise ConfigError(f"no configuration file at {path}; `dictpfl init` writes one to start from") from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read {path}: {error}") from error
        except ValueError as error:
            raise ConfigError(f"{path} is not valid TOML: {error}") from error
        return cls.of(raw, overrides, origin=str(path))

    @classmethod
    def of(
        cls, raw: Mapping[str, Any], overrides: Mapping[str, Any] | None = None, *, origin: str = "configuration"
    ) -> Self:
        """Check a nested mapping, whose sections may be objects such as `dictpfl.Training(epochs=2)`; see `load`."""
        try:
            merged: dict[str, Any] = json.loads(json.dumps(raw, default=_said))
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{origin}: {error}; expected numbers of fewer digits, and tables that end") from error
        method = {**merged, **(overrides or {})}.get("method", "dictpfl")
        if not isinstance(method, str) or method not in METHODS:
            raise ConfigError(f"{origin}: unknown method {method!r}; known: {', '.join(METHODS)}")
        _take_own(merged, method, origin)
        for key, value in (overrides or {}).items():
            _assign(merged, key, value)
        for key in left_behind(merged, {**METHODS[method].overrides, **(overrides or {})}):
            section, _, name = key.partition(".")
            del merged[section][name]
        _follow_thresholds(merged)
        _follow_sites(merged)
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
            raise ConfigError(f"{origin}: {explained(error, known_keys())}") from error
        config.require_sound(origin)
        return config

    def require_sound(self, origin: str = "configuration") -> None:
        """Refuse what contradicts itself or protects nobody without saying so (`dictpfl.common.config.soundness`).

        Raises:
            ConfigError: settings that contradict each other, or that nothing would use.
            ParameterError (insecure): settings that need `toy_insecure = true` without it.
        """
        require_sound(self, origin)

    @property
    def own_code(self) -> Mapping[str, str]:
        """Configuration keys that name code by `package.module:name`, each with that name: it runs where the configuration does.

        Free-form tables (`options`, `architecture`) are data to the code that reads them, and are left out.
        """
        return dict(_named_code(self.model_dump(mode="json"), ""))

    def canonical(self) -> bytes:
        """Encode as canonical JSON, for comparisons."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":")).encode()


def _named_code(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yield every key below `key` whose value leads to an import, with the value."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name not in _FREE:
                yield from _named_code(inner, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for inner in value:
            yield from _named_code(inner, key)
    elif isinstance(value, str) and CODE.fullmatch(value) and not _is_model(key, value):
        yield key, value


def _is_model(key: str, value: str) -> bool:
    return key in _OF_MODELS and value.partition(":")[0] in _LIBRARIES


def _take_own(merged: dict[str, Any], method: str, origin: str) -> None:
    """Put what a file says for the chosen method alone (`[methods.NAME]`) over what it says for all; it is no key of a configuration."""
    every = merged.pop("methods", {})
    named = isinstance(every, dict) and all(isinstance(said, dict) for said in every.values())
    if not named or every.keys() - METHODS.keys():
        raise ConfigError(
            f"{origin}: [methods] is {every!r}; expected a table of settings for each of {', '.join(METHODS)}, such as [methods.plaintext.training]"
        )
    _lay_over(merged, every.get(method, {}))


def _lay_over(target: dict[str, Any], said: Mapping[str, Any]) -> None:
    for key, value in said.items():
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            _lay_over(target[key], value)
        else:
            target[key] = value


def _follow_thresholds(merged: dict[str, Any]) -> None:
    """Fill in what a federation of thresholds has unless the file says otherwise: its tally, and no pruning of updates."""
    said = merged.get("sparsity")
    if not isinstance(said, dict) or said.get("method", "none") == "none":
        return
    if not _has(merged, "pruning.enabled"):
        _assign(merged, "pruning.enabled", False)
    if said.get("scores", "wanda") == "wanda" and not _has(merged, "tallies.opening"):
        _assign(merged, "tallies.opening", [ACTIVATIONS])


def _follow_sites(merged: dict[str, Any]) -> None:
    """Fill in that each institution keeps what is its own, where each has a file."""
    data = merged.get("data")
    if isinstance(data, dict) and (data.get("paths") or is_pattern(str(data.get("path", "")))):
        data.setdefault("partition", "column")


def _said(section: Any) -> Any:
    """What was said of a section that is given as an object; its defaults yield to a preset's."""
    if not isinstance(section, Section):
        raise ConfigError(f"configuration: expected numbers, words, lists and sections, found {type(section).__name__}")
    return section.model_dump(mode="json", exclude_unset=True)


def _assign(target: dict[str, Any], dotted: str, value: Any) -> None:
    *sections, last = dotted.split(".")
    for section in sections:
        target = target.setdefault(section, {})
        if not isinstance(target, dict):
            raise ConfigError(f"{dotted!r}: {section!r} is not a section, but {target!r}; expected a table of settings")
    target[last] = value


def _has(target: Any, dotted: str) -> bool:
    """Tell whether a key is said; what stands in a section's place and is none says all of it, and is refused when it is checked."""
    *sections, last = dotted.split(".")
    for section in sections:
        target = target.get(section, {})
        if not isinstance(target, Mapping):
            return True
    return last in target


def known_keys(model: type[BaseModel] = FederationConfig, prefix: str = "") -> Iterator[str]:
    """List the dotted names of all keys."""
    for name, field in model.model_fields.items():
        yield prefix + name
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from known_keys(kind, f"{prefix}{name}.")


def literal_values(section: type[Section], field: str) -> tuple[str, ...]:
    """List the words that a field admits."""
    return get_args(section.model_fields[field].annotation)
