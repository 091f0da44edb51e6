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
        ConfigError: no head, or a class that it does not have.
    """
    made = copy.deepcopy(model)
    layer = made.get_submodule(head_layer(model))
    assert isinstance(layer, nn.Linear)  # noqa: S101 -- for the type checker
    if not classes or not set(classes) <= set(range(layer.out_features)):
        raise ConfigError(f"classes {list(classes)} of a head with {layer.out_features} rows; name some of those")
    rows = torch.tensor(list(classes))
    layer.weight = nn.Parameter(layer.weight.detach().index_select(0, rows))
    if layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias.detach().index_select(0, rows))
    layer.out_features = len(classes)
    config: Any = getattr(made, "config", None)
    if hasattr(config, "id2label"):
        names = {new: config.id2label.get(old, f"LABEL_{old}") for new, old in enumerate(classes)}
        config.id2label, config.label2id = names, {name: number for number, name in names.items()}
        setattr(made, "num_labels", len(classes))  # noqa: B010 -- torch declares no such attribute
    hub.record(made, num_classes=len(classes))
    return made
