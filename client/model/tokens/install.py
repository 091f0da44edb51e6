"""A reducer is put into a model in place, whatever family it is of (`[tokens]`)."""

from __future__ import annotations

from typing import Any

from torch import nn

from dictpfl.client.model.tokens.families import bert, llama, vit
from dictpfl.client.model.tokens.reduction import Reduction
from dictpfl.client.model.tokens.seam import make_reducer
from dictpfl.common.errors import ConfigError
from dictpfl.common.settings import Tokens

_FAMILIES: tuple[Any, ...] = (vit, bert, llama)


def install(model: nn.Module, settings: Tokens) -> Reduction | None:
    """Make a model read fewer tokens, in place; None where the settings reduce nothing, and the model is as it was.

    Raises:
        ConfigError: a model of no family that is known, or settings that do not fit it.
    """
    reducer = make_reducer(settings)
    if reducer is None:
        return None
    if getattr(model, "take_reduction", None) is not None:
        reduction = Reduction(reducer, settings.apply == "evaluate")
        model.take_reduction(reduction)  # type: ignore[operator] # a model that has a place of its own for reducers
        return reduction
    for family in _FAMILIES:
        if family.matches(model):
            reduction = Reduction(reducer, settings.apply == "evaluate")
            family.install(model, reduction)
            return reduction
    known = "; ".join(family.NAME for family in _FAMILIES)
    raise ConfigError(
        f"tokens.reducer {settings.reducer!r}: {type(model).__name__} is of no family whose tokens can be reduced; known: {known}; or a "
        "model with `take_reduction`"
    )


def reduce_tokens(model: nn.Module, reducer: str, *, keep: float, apply: str = "always", **options: Any) -> nn.Module:
    """Make a model of timm or transformers read fewer tokens, in place, for training and use: `reduce_tokens(model, "autoprune", keep=0.25)`.

    Args:
        model: a vision transformer, an encoder built as BERT, or a decoder built as Llama with a classifier of sequences.
        reducer: name of a reducer (`tokens.reducer`).
        keep: share of the tokens that is kept, the mean over the layers for one that works between them.
        apply: "always", or "evaluate": not while it is trained.
        options: of the reducer.

    Returns:
        The same model.

    Raises:
        ConfigError: unknown names, or a model of another family.
    """
    install(model, Tokens.model_validate({"reducer": reducer, "keep": keep, "apply": apply, "options": options}))
    return model


def reduction_of(model: nn.Module) -> Reduction | None:
    """Find the reduction that hangs on a model; None where there is none."""
    for module in model.modules():
        found = getattr(module, "reduction", None)
        if isinstance(found, Reduction):
            return found
    return None
