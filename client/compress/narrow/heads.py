"""Heads of narrowed classifiers: rows of classes that were dropped go."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from dictpfl.client.model import hub
from dictpfl.client.model.rules import head_of
from dictpfl.common.errors import ConfigError


def head_layer(model: nn.Module) -> str:
    """Name the last linear layer of the head.

    Raises:
        ConfigError: there is none: the output layer mirrors the embeddings, say.
    """
    head = head_of(model)
    linear: list[str] = [
        name
        for name, part in model.named_modules()
        if isinstance(part, nn.Linear) and (f"{name}.weight" if name else "weight") in head
    ]
    if not linear:
        raise ConfigError(
            f"{type(model).__name__} has no head of its own, only an output layer that mirrors its embeddings, or none"
        )
    return linear[-1]


def with_fresh_head(model: nn.Module, seed: int) -> nn.Module:
    """Copy a model, its last linear layer drawn anew.

    Raises:
        ConfigError: no such layer.
    """
    made = copy.deepcopy(model)
    layer = made.get_submodule(head_layer(model))
    assert isinstance(layer, nn.Linear)  # noqa: S101 -- for the type checker
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer.reset_parameters()
    return made


def trimmed(model: nn.Module, classes: Sequence[int]) -> nn.Module:
    """Copy a classifier whose head answers these classes alone, in their order; of transformers and timm, its configuration says so.

    Raises:
        ConfigError: no head, one whose last linear layer does not give the outputs, or a class that it does not have.
    """
    made, name = copy.deepcopy(model), head_layer(model)
    layer = made.get_submodule(name)
    assert isinstance(layer, nn.Linear)  # noqa: S101 -- for the type checker
    _require_whole(model, name, layer.out_features)
    if not classes or not set(classes) <= set(range(layer.out_features)):
        raise ConfigError(f"classes {list(classes)} of a head with {layer.out_features} rows; name some of those")
    rows = torch.tensor(list(classes))
    layer.weight = nn.Parameter(layer.weight.detach().index_select(0, rows))
    if layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias.detach().index_select(0, rows))
    layer.out_features = len(classes)
    _name_rows_of_timm(made, classes)
    config: Any = getattr(made, "config", None)
    if hasattr(config, "id2label"):
        names = {new: config.id2label.get(old, f"LABEL_{old}") for new, old in enumerate(classes)}
        config.id2label, config.label2id = names, {name: number for number, name in names.items()}
        setattr(made, "num_labels", len(classes))  # noqa: B010 -- torch declares no such attribute
    hub.record(made, num_classes=len(classes))
    return made


def trimmed_if_can(model: nn.Module, classes: Sequence[int]) -> tuple[nn.Module, tuple[int, ...], str]:
    """Trim a head, or leave it whole where it cannot be trimmed.

    Args:
        model: plain classifier.
        classes: whose rows stay, in this order; none: nothing is trimmed.

    Returns:
        The model, the classes of its rows (none: all rows are there), and why the head is whole although classes were named.
    """
    if not classes:
        return model, (), ""
    try:
        return trimmed(model, classes), tuple(classes), ""
    except ConfigError as error:
        return model, (), f"The head has all its rows: {error}."


def _require_whole(model: nn.Module, name: str, rows: int) -> None:
    """Refuse a model whose outputs are more than the rows of one linear layer."""
    outputs, kind = _outputs_said(model), type(model).__name__
    if outputs not in (None, rows):
        raise ConfigError(f"{name} of {kind} has {rows} rows, and the model {outputs} outputs; expected a row for each")
    named: Any = getattr(model, "get_classifier", None)
    if named is not None and named() is not model.get_submodule(name):
        raise ConfigError(f"{kind} has a head of other parts than the linear layer {name}; expected that alone")


def _outputs_said(model: nn.Module) -> int | None:
    """Number of outputs that a model of transformers or timm says it has; None where it says nothing."""
    config: Any = getattr(model, "config", None)
    said = config.num_labels if hasattr(config, "id2label") else getattr(model, "num_classes", None)
    return said if isinstance(said, int) else None


def _name_rows_of_timm(model: nn.Module, classes: Sequence[int]) -> None:
    """Have timm's names of labels, where it knows some for the rows that there were, follow the rows that stay; changes the model."""
    known: Any = getattr(model, "pretrained_cfg", None)
    names = known.get("label_names") if isinstance(known, dict) else None
    if not names or known.get("num_classes") != _outputs_said(model):
        return
    # A list, or names by number, which JSON writes as words.
    each = {int(row): str(name) for row, name in (names.items() if isinstance(names, dict) else enumerate(names))}
    stay = [each[row] for row in classes if row in each]
    if len(stay) < len(classes):
        return  # timm leaves out the names of a head that has another number of rows
    known |= {"label_names": stay, "num_classes": len(classes)}
    if described := known.get("label_descriptions"):
        known["label_descriptions"] = {name: described[name] for name in stay if name in described}
