"""Shapes of the paper's models, without a single weight, and what each method would share of them.

timm and transformers build the models on torch's meta device: names and shapes as in the published checkpoints
(ViT-B/16 with 10 classes, BERT-base with 4, TinyLlama-1.1B as a language model), no memory, no download.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import nn

from dictpfl.client.model.covering import Layers
from dictpfl.client.model.rules import Role, survey
from dictpfl.common.law.budget import allocator
from dictpfl.common.law.dictionary import table_size
from dictpfl.common.law.facts import Facts
from dictpfl.common.settings import Decomposition


def _vit() -> nn.Module:
    import timm

    made: nn.Module = timm.create_model("vit_base_patch16_224", num_classes=10)
    return made


def _bert() -> nn.Module:
    from transformers import AutoModelForSequenceClassification, BertConfig

    made: nn.Module = AutoModelForSequenceClassification.from_config(BertConfig(num_labels=4))  # type: ignore[call-arg]  # of its base's **kwargs
    return made


def _llama() -> nn.Module:
    from transformers import AutoModelForCausalLM, LlamaConfig

    made: nn.Module = AutoModelForCausalLM.from_config(
        LlamaConfig(
            vocab_size=32_000,
            hidden_size=2048,
            intermediate_size=5632,
            num_hidden_layers=22,
            num_attention_heads=32,
            num_key_value_heads=4,
            max_position_embeddings=2048,
        )
    )
    return made


@dataclass(frozen=True)
class Architecture:
    """One of the paper's models.

    Attributes:
        build: makes it, on whatever device is current.
        embeddings: patterns of parameters that a fine-tune of tables leaves alone: lookup tables of tokens, and a
            language model's output layer, which mirrors one.
        last_two: patterns of the last two blocks and of what follows them.
    """

    build: Callable[[], nn.Module]
    embeddings: tuple[str, ...]
    last_two: tuple[str, ...]


ARCHITECTURES: Mapping[str, Architecture] = {
    "ViT-B/16": Architecture(_vit, (), ("blocks.10.*", "blocks.11.*", "norm.*", "head.*")),
    "BERT-base": Architecture(
        _bert,
        ("bert.embeddings.*_embeddings.weight",),
        ("bert.encoder.layer.10.*", "bert.encoder.layer.11.*", "bert.pooler.*", "classifier.*"),
    ),
    "TinyLlama-1.1B": Architecture(
        _llama, ("model.embed_tokens.*", "lm_head.*"), ("model.layers.20.*", "model.layers.21.*", "model.norm.*")
    ),
}
_TABLES_AND_HEAD = {"norms": False, "biases": False, "positions": False, "tokens": False}


@lru_cache(maxsize=4)
def skeleton(name: str) -> nn.Module:
    """The model by its name, on the meta device."""
    with torch.device("meta"):
        return ARCHITECTURES[name].build()


def parameters(name: str) -> dict[str, int]:
    """Number of values of every parameter, by name."""
    return {n: p.numel() for n, p in skeleton(name).named_parameters()}


def shared(model: nn.Module, settings: Decomposition) -> dict[str, int]:
    """Values that are shared of each parameter, by name; as `dictpfl.client.model.twin.Twin` would lay them out."""
    layers = Layers()
    hanging, roles = layers.places(model), survey(model, settings)
    shapes = {n: layers.matrix_shape(at) for n, at in hanging.items() if roles[n] is Role.TABLE}
    sized = partial(table_size, orientation=settings.orientation, form=settings.form)
    ranks = allocator(settings.allocator).ranks(Facts(shapes, sized=sized), settings.rank)
    found = {}
    for name, at in hanging.items():
        if roles[name] is Role.TABLE:
            found[name] = sized(shapes[name], ranks[name])
        elif roles[name] is Role.DENSE:
            found[name] = at[0].module.get_parameter(at[0].attribute).numel()
    return found


def methods(name: str, rank: int = 4) -> dict[str, dict[str, int]]:
    """Values that each method shares, by method and parameter. FedML-HE shares what FedHE-Full does."""
    architecture, model = ARCHITECTURES[name], skeleton(name)
    frozen = {"frozen": list(architecture.embeddings), "rank": rank}
    variants: Mapping[str, Mapping[str, Any]] = {
        "FedHE-Full": {"enabled": False},
        "FedHE-Top2": {"enabled": False, "frozen": ["*"], "dense": list(architecture.last_two)},
        "DictPFL": frozen,
        "DictPFL, smaller side": {**frozen, "orientation": "smaller"},
        "DictPFL, tables and head": {**frozen, **_TABLES_AND_HEAD},
        "DictPFL, tables and head, smaller side": {**frozen, **_TABLES_AND_HEAD, "orientation": "smaller"},
    }
    return {method: shared(model, Decomposition.model_validate(options)) for method, options in variants.items()}
