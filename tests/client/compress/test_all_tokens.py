"""What decides which weights and units go is read from all tokens, whatever reducer a model was trained with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dictpfl.client.compress.cutting.activations import squares
from dictpfl.client.compress.cutting.axes import axes_of
from dictpfl.client.compress.sparse.inputs import Squares, calibrate
from dictpfl.client.compress.sparse.sequential import in_order
from dictpfl.client.data.samples import PADDING, Samples
from dictpfl.client.model.sparse.weights import covered
from dictpfl.client.model.tokens.install import reduce_tokens, reduction_of
from dictpfl.client.training.calling import forward, tensors_of

transformers = pytest.importorskip("transformers")


def texts() -> tuple[nn.Module, Samples]:
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 12}
    model = transformers.BertForSequenceClassification(transformers.BertConfig(vocab_size=30, num_labels=3, **sizes))
    draw, ids = np.random.default_rng(1), np.full((10, 40), PADDING)
    for row, length in enumerate((40, 3, 17, 40, 9, 33, 8, 24, 5, 12)):
        ids[row, :length] = draw.integers(1, 30, length)
    return model.eval(), Samples(ids, draw.integers(0, 3, 10))


def by_activations(model: nn.Module, samples: Samples) -> list[np.ndarray]:
    return [
        part for batch in squares(model, axes_of(model).values(), samples) for parts in batch.values() for part in parts
    ]


def by_inputs(model: nn.Module, samples: Samples) -> list[np.ndarray]:
    weights, found = covered(model), Squares()
    calibrate(model, weights, samples, found.see)
    return [found.norms(name) for name in weights]


def layer_by_layer(model: nn.Module, samples: Samples) -> list[np.ndarray]:
    norms: list[np.ndarray] = []

    def decide(group: Any, gathered: Squares) -> None:
        norms.extend(gathered.norms(weight.name) for weight in group)

    in_order(model, covered(model), samples, Squares, decide, by_input=False)
    return norms


@pytest.mark.parametrize("read", [by_activations, by_inputs, layer_by_layer])
def test_a_reduced_model_is_read_as_the_plain_one(read: Callable[[nn.Module, Samples], list[np.ndarray]]) -> None:
    model, samples = texts()
    expected = read(model, samples)
    reduce_tokens(model, "autoprune", keep=0.6)
    features, _ = tensors_of(model, samples)
    before = forward(model, features)
    for one, other in zip(read(model, samples), expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert reduction_of(model) is not None
    assert torch.equal(forward(model, features), before), "the reducer is there again"
