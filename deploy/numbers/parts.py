"""Parts of a language model that the audit looks at: down-projections, the last norm, and what each layer adds to the residual stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dictpfl.common.errors import ModelError

_MLP, _ATTENTION, _DOWN = ".mlp", ".self_attn", ".mlp.down_proj"
_KINDS = "the audit reads models of the llama family (Llama, SmolLM2, Qwen2, Mistral, Gemma)"


@dataclass(frozen=True)
class Layer:
    """Parts of one layer.

    Attributes:
        name: of its module.
        mlp: its feed-forward part.
        down: the down-projection; its columns are the output vectors of neurons.
        attention: module whose output is what the attention adds to the stream.
        feed_forward: the same of the feed-forward part. Where it is another module than the layer's `mlp`, such as the norm behind it that Gemma 2 has, its
            input is what `mlp` returns.
    """

    name: str
    mlp: nn.Module
    down: nn.Linear
    attention: nn.Module
    feed_forward: nn.Module

    def written(self, vectors: Tensor) -> Tensor:
        """Directions in the stream of vectors (n, width) that `mlp` returns, float32."""
        return vectors.float() if self.feed_forward is self.mlp else through(self.feed_forward, vectors)


def last_norm(model: Any) -> nn.Module:
    """Find the norm between the last layer and the output layer.

    Raises:
        ModelError: the model calls it by another name than `norm`.
    """
    found = getattr(model.base_model, "norm", None)
    if not isinstance(found, nn.Module):
        raise ModelError(f"{type(model).__name__} has no norm of that name before its output layer: {_KINDS}")
    return found


@torch.no_grad()
def through(norm: nn.Module, vectors: Tensor) -> Tensor:
    """Direction that vectors (n, width) take behind a norm, float32, whatever it multiplies by: weight, 1 + weight, or less the mean.

    Half the difference of the norms of v and of -v, so that a bias, which is no part of the vector, cancels. A norm divides by a vector's size;
    directions alone are told.
    """
    exact = deepcopy(norm).float()
    wide = vectors.float()
    found: Tensor = (exact(wide) - exact(-wide)) / 2
    return found


@torch.no_grad()
def layers_of(model: Any) -> list[Layer]:
    """Find the layers, and what each adds to the stream: the output of its attention and of its `mlp`, or of a part that takes just that.

    One pass of one token shows which part takes what.

    Raises:
        ModelError: a model of another family, or a mixture of experts.
    """
    names = _layers_with_down_projections(model)
    token = torch.zeros(1, 1, dtype=torch.long, device=next(model.parameters()).device)
    with _followed(model, names) as behind:
        model.base_model(input_ids=token, attention_mask=torch.ones_like(token), use_cache=False)
    return [
        Layer(
            name,
            model.get_submodule(name + _MLP),
            model.get_submodule(name + _DOWN),
            behind[name + _ATTENTION],
            behind[name + _MLP],
        )
        for name in names
    ]


def _layers_with_down_projections(model: Any) -> list[str]:
    found = [name for name, m in model.named_modules() if name.endswith(_DOWN) and isinstance(m, nn.Linear)]
    if not found or model.get_output_embeddings() is None:
        raise ModelError(f"{type(model).__name__} has no layers mlp.down_proj before an output layer: {_KINDS}")
    experts = next((name for name, _ in model.named_parameters() if "expert" in name.lower()), None)
    if experts is not None:
        raise ModelError(
            f"{type(model).__name__} is a mixture of experts ({experts}): which neurons write a digit depends on the router, and the audit "
            "reads dense models alone"
        )
    names = [name.removesuffix(_DOWN) for name in found]
    stack = names[0].rpartition(".")[0]
    there = {f"{stack}.{child}": part for child, part in model.get_submodule(stack).named_children()}
    if other := [n for n, part in there.items() if n not in names or not hasattr(part, _ATTENTION[1:])]:
        raise ModelError(
            f"{type(model).__name__} has no mlp.down_proj, or no self_attn, in {', '.join(other[:3])}: {_KINDS}"
        )
    return names


@contextmanager
def _followed(model: Any, layers: Sequence[str]) -> Iterator[dict[str, nn.Module]]:
    """Parts of each layer whose output is added, by the name of the part that computes it."""
    behind = {layer + part: model.get_submodule(layer + part) for layer in layers for part in (_ATTENTION, _MLP)}
    returned: dict[str, Tensor] = {}

    def noting(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            returned[name] = output[0] if isinstance(output, tuple) else output

        return hook

    def comparing(layer: str) -> Any:
        def hook(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            for name in (layer + _ATTENTION, layer + _MLP):
                if any(value is returned.get(name, module) for value in (*given, *named.values())):
                    behind[name] = module

        return hook

    handles = [model.get_submodule(name).register_forward_hook(noting(name)) for name in behind]
    handles += [
        child.register_forward_pre_hook(comparing(layer), with_kwargs=True)
        for layer in layers
        for child in model.get_submodule(layer).children()
    ]
    try:
        yield behind
    finally:
        for handle in handles:
            handle.remove()
