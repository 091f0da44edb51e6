"""Preparation of columns said by scikit-learn: a Pipeline or ColumnTransformer that is not fitted, read as recipes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError
from dictpfl.common.registry import imported
from dictpfl.common.settings import Preprocessing, Recipe

_IDLE = ("passthrough",)


def with_pipeline(config: FederationConfig) -> FederationConfig:
    """The configuration with what `data.preprocessing.pipeline` means written out; unchanged without one.

    Raises:
        ConfigError: it cannot be made, or has a step that pooled statistics cannot fit.
    """
    name = config.data.preprocessing.pipeline
    if not name:
        return config
    said = recipes_of(imported(name, "data.preprocessing.pipeline")())
    found = config.model_copy(update={"data": config.data.model_copy(update={"preprocessing": said})})
    found.require_sound("data.preprocessing.pipeline")
    return found


def recipes_of(made: Any) -> Preprocessing:
    """Recipes that a scikit-learn object means.

    Known are Pipeline, ColumnTransformer (columns by name), SimpleImputer (mean, median), StandardScaler, MinMaxScaler (0 to 1),
    RobustScaler (median and quartiles) and OneHotEncoder (with `categories`; `min_frequency` is `least`); in a pipeline an imputer stands before
    the scaler.

    Raises:
        ConfigError: anything else; the message names it.
    """
    if type(made).__name__ != "ColumnTransformer":
        return Preprocessing.model_validate(_recipe(made).model_dump())
    columns: dict[str, Recipe] = {}
    categories: dict[str, list[str]] = {}
    least: list[int] = []
    for name, part, chosen in made.transformers:
        if isinstance(chosen, str):
            chosen = [chosen]  # noqa: PLW2901 -- one column is a list of one
        if not isinstance(chosen, list) or not all(isinstance(column, str) for column in chosen):
            raise ConfigError(f"{name}: columns {chosen!r}; expected a list of names, by which institutions find them")
        encoder = _encoder(part)
        if encoder is None:
            columns |= dict.fromkeys(chosen, _recipe(part))
            continue
        least.append(_least(encoder))
        categories |= dict(zip(chosen, _categories(encoder, chosen), strict=True))
    if made.remainder not in (*_IDLE, "drop") or len(set(least)) > 1:
        raise ConfigError(
            f"ColumnTransformer: remainder is {made.remainder!r} and min_frequency {least}; expected `passthrough` and one frequency"
        )
    if made.remainder == "drop":
        raise ConfigError(
            "ColumnTransformer drops the columns that it does not name; name them in data.exclude, and set remainder='passthrough'"
        )
    return Preprocessing(columns=columns, categories=dict(categories), least=least[0] if least else 0)


def _steps(made: Any) -> Iterator[Any]:
    for _, step in getattr(made, "steps", [("", made)]):
        if step not in (None, *_IDLE):
            yield from _steps(step) if hasattr(step, "steps") else [step]


def _recipe(made: Any) -> Recipe:
    found: dict[str, str] = {}
    for step in _steps(made) if not isinstance(made, str) else []:
        said = step.get_params(deep=False)
        kind = type(step).__name__
        key, value = {
            "SimpleImputer": ("impute", said.get("strategy")),
            "StandardScaler": ("scale", "standard"),
            "MinMaxScaler": ("scale", "minmax"),
            "RobustScaler": ("scale", "robust"),
        }.get(kind, ("", ""))
        if not key or value in ("most_frequent", "constant") or not callable(getattr(step, "fit", None)):
            raise ConfigError(
                f"{step!r} cannot be fitted by pooled statistics; known are SimpleImputer (mean, median), StandardScaler, MinMaxScaler, "
                "RobustScaler, OneHotEncoder with categories, Pipeline and ColumnTransformer"
            )
        _require_usual(step, said)
        if key in found or (key == "impute" and "scale" in found):
            raise ConfigError(
                f"{step!r} comes after another step of its kind, or a scaler; expected an imputer, then a scaler, at most"
            )
        found[key] = str(value)
    return Recipe.model_validate(found)


_FREE = frozenset(
    {
        "copy",
        "strategy",
        "categories",
        "min_frequency",
        "sparse_output",
        "handle_unknown",
        "dtype",
        "feature_name_combiner",
    }
)
"""Parameters whose value is looked at elsewhere, or changes no number."""


def _require_usual(step: Any, said: dict[str, Any]) -> None:
    """Refuse a parameter that would be ignored."""
    usual = type(step)().get_params(deep=False)
    for name, value in said.items():
        # NaN, the usual mark of a missing value, is not equal to itself.
        if name not in _FREE and value != usual[name] and not (value != value and usual[name] != usual[name]):  # noqa: PLR0124
            raise ConfigError(f"{step!r}: {name} would be ignored; leave it at {usual[name]!r}")


def _encoder(part: Any) -> Any:
    steps = [] if isinstance(part, str) else list(_steps(part))
    encoders = [step for step in steps if type(step).__name__ == "OneHotEncoder"]
    if encoders and len(steps) > 1:
        raise ConfigError(f"{part!r}: expected OneHotEncoder alone; a missing category is `other`")
    return encoders[0] if encoders else None


def _categories(encoder: Any, chosen: list[str]) -> list[list[str]]:
    _require_usual(encoder, encoder.get_params(deep=False))
    if isinstance(encoder.categories, str) or len(encoder.categories) != len(chosen):
        raise ConfigError(
            f"{encoder!r}: expected categories=[[...]], a list for each of {', '.join(chosen)}: an institution sees its own alone. Of an unknown "
            "vocabulary, data.preprocessing.categories takes a number of buckets"
        )
    return [[str(value) for value in values] for values in encoder.categories]


def _least(encoder: Any) -> int:
    least = encoder.min_frequency
    if least is not None and not isinstance(least, int):
        raise ConfigError(f"{encoder!r}: min_frequency is {least!r}, expected a count, or None")
    return least or 0
