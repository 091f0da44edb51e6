"""A reducer is put into a model in place, whatever family it is of (`[tokens]`)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from dictpfl.client.model.tokens.calibrate import Listening
from dictpfl.client.model.tokens.families import bert, llama, vit
from dictpfl.client.model.tokens.reducers.autoprune import MEASURED, AutoPrune
from dictpfl.client.model.tokens.reduction import Reduction
from dictpfl.client.model.tokens.seam import Before, Between, make_reducer
from dictpfl.common.documents import explained
from dictpfl.common.errors import ConfigError
from dictpfl.common.settings import Tokens

_FAMILIES: tuple[Any, ...] = (vit, bert, llama)


def install(model: nn.Module, settings: Tokens) -> Reduction | None:
    """Make a model read fewer tokens, in place; None where the settings reduce nothing, and the model is as it was.

    A reduction that hangs on the model already is taken off for the new one.

    Raises:
        ConfigError: a model of no family that is known, or settings that do not fit it.
    """
    reducer = make_reducer(settings)
    return None if reducer is None else _put(model, reducer, settings)


def _put(model: nn.Module, reducer: Before | Between, settings: Tokens) -> Reduction:
    reduction = Reduction(reducer, settings.apply == "evaluate")
    former = take_off(model)  # one stands between the layers, never two
    try:
        _hang(model, reduction, settings.reducer)
    except ConfigError:
        if former is not None:
            _hang(model, former, settings.reducer)
        raise
    return reduction


def _hang(model: nn.Module, reduction: Reduction, name: str) -> None:
    if getattr(model, "take_reduction", None) is not None:
        model.take_reduction(reduction)  # type: ignore[operator] # a model that has a place of its own for reducers
        return
    for family in _FAMILIES:
        if family.matches(model):
            family.install(model, reduction)
            return
    known = "; ".join(family.NAME for family in _FAMILIES)
    raise ConfigError(
        f"tokens.reducer {name!r}: {type(model).__name__} is of no family whose tokens can be reduced; known: {known}; or a "
        "model with `take_reduction`"
    )


def is_unmeasured(settings: Tokens) -> bool:
    """Tell whether settings leave a number to `with_gamma`."""
    return settings.reducer == "autoprune" and settings.options.get("gamma") == MEASURED


def with_gamma(model: nn.Module, settings: Tokens, read: Callable[[nn.Module], object]) -> Tokens:
    """Measure gamma on samples, where the settings say so: k0 over the 90th percentile of mutual information.

    Args:
        model: with a reducer or without; it stays so.
        settings: checked. Others than those with gamma = "measured" are returned as they are.
        read: calls a model on samples.

    Returns:
        The settings with a number for gamma, from 0 to 5.

    Raises:
        ConfigError: a fixed curve (adapt = "none"), which has no use for gamma; a model of no family that is known.
    """
    if not is_unmeasured(settings):
        return settings
    if settings.options.get("adapt", "none") == "none":
        raise ConfigError(
            f'tokens.options: gamma = "{MEASURED}" with adapt = "none", where every sample is on one curve; leave gamma out, or set adapt '
            'to "own"'
        )
    number = settings.model_copy(update={"options": settings.options | {"gamma": 0.0}})
    reducer = make_reducer(number)
    if not isinstance(reducer, AutoPrune):  # keep is 1: nothing is reduced
        return number
    listening, copied = Listening(reducer), copy.deepcopy(model).eval()
    _put(copied, listening, settings)
    with torch.no_grad():
        read(copied)
    return settings.model_copy(update={"options": settings.options | {"gamma": listening.gamma()}})


def reduce_tokens(
    model: nn.Module,
    reducer: str,
    *,
    keep: float,
    apply: str = "always",
    calibration: Tensor | None = None,
    **options: Any,
) -> nn.Module:
    """Make a model of timm or transformers read fewer tokens, in place, for training and use: `reduce_tokens(model, "autoprune", keep=0.25)`.

    Called again, the later reducer takes the place of the earlier one; "none", or keep = 1, takes it off.

    Args:
        model: a vision transformer, an encoder built as BERT, or a decoder built as Llama with a classifier of sequences.
        reducer: name of a reducer (`tokens.reducer`).
        keep: share of the tokens that is kept, the mean over the layers for one that works between them.
        apply: "always", or "evaluate": not while it is trained.
        calibration: a batch of samples, on which gamma = "measured" of `autoprune` is measured.
        options: of the reducer.

    Returns:
        The same model. What it read since then: `dictpfl.reduction_of(model).report()`.

    Raises:
        ConfigError: unknown names, values out of range, or a model of another family.
    """
    try:
        settings = Tokens.model_validate({"reducer": reducer, "keep": keep, "apply": apply, "options": options})
    except ValidationError as error:
        raise ConfigError(f"reduce_tokens: {explained(error)}") from error
    if calibration is not None:
        settings = with_gamma(model, settings, lambda plain: plain(calibration))
    if install(model, settings) is None:
        take_off(model)
    return model


def take_off(model: nn.Module) -> Reduction | None:
    """Make a model read all tokens again, in place; returns the reduction that hung on it, None where there was none."""
    module, found = _place_of(model)
    if found is not None:
        found.take_down(module)
    return found


@contextmanager
def reading_all(model: nn.Module) -> Iterator[None]:
    """Have a model read all tokens inside: what its layers read is then as many tokens of every sample, in their order."""
    former = take_off(model)
    try:
        yield
    finally:
        if former is not None:
            _hang(model, former, type(former.reducer).__name__)


def reduction_of(model: nn.Module) -> Reduction | None:
    """Find the reduction that hangs on a model; None where there is none."""
    return _place_of(model)[1]


def _place_of(model: nn.Module) -> tuple[nn.Module, Reduction | None]:
    """The module that a reduction hangs on, and the reduction; the model itself and None where there is none."""
    for module in model.modules():
        found = getattr(module, "reduction", None)
        if isinstance(found, Reduction):
            return module, found
    return model, None
