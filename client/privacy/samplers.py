"""Gradients of single samples for Opacus (the extra `dp`): of all layer types, and of free parameters.

Opacus asks by class, no subclass. A layer type computes them itself (`TableLayer.sample_gradients`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from opacus.grad_sample import GradSampleHooks, register_grad_sampler
from torch import Tensor, nn

from dictpfl.client.model.base import LAYERS, SampleGradients


@runtime_checkable
class SelfSampled(Protocol):
    """A layer that computes the gradients of single samples itself."""

    def sample_gradients(self, activations: Sequence[Tensor], backprops: Tensor) -> SampleGradients:
        """See `TableLayer.sample_gradients`."""
        ...


class Broadcast(nn.Module):
    """A free parameter (1, ...), such as a class token, given out once a sample so that its gradient comes back for each."""

    def __init__(self, parameter: nn.Parameter) -> None:
        super().__init__()
        self.parameter = parameter

    def forward(self, samples: Tensor) -> Tensor:
        """(samples, ...) for any tensor with as many rows."""
        return self.parameter.expand(len(samples), *self.parameter.shape[1:])

    def sample_gradients(self, _activations: Sequence[Tensor], backprops: Tensor) -> SampleGradients:
        """Give back what came for each sample."""
        return {self.parameter: backprops.unsqueeze(1)}


def make_known(module: nn.Module) -> None:
    """Register the layers of a module that compute their own gradients; plug-ins are among them."""
    for part in module.modules():
        if isinstance(part, SelfSampled):
            register_grad_sampler(type(part))(_sample)


def _sample(layer: SelfSampled, activations: Sequence[Tensor], backprops: Tensor) -> SampleGradients:
    return layer.sample_gradients(activations, backprops)


# So that Opacus' own wrappers take this project's table layers wherever this module is imported.
for _kind in LAYERS.own().values():
    register_grad_sampler(_kind)(_sample)
# torch's attention has its output projection in a class of its own, which Opacus would compute sample by sample.
register_grad_sampler(nn.modules.linear.NonDynamicallyQuantizableLinear)(GradSampleHooks.GRAD_SAMPLERS[nn.Linear])
