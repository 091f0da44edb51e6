"""FedProx (Li et al. 2020, arXiv 1812.06127): a pull back to the shared model that a round began with (`training.proximal`)."""

from __future__ import annotations

import torch

from dictpfl.client.model.twin import Twin


class Pull:
    """Gradient of mu/2 |w - w0|^2 over tables and shared dense parameters; w0 are their values when this is made.

    It reads no sample, so that with private samples it is added once their gradient has its noise.
    """

    def __init__(self, twin: Twin, mu: float) -> None:
        shared = {entry.name for entry in twin.layout.entries}
        parameters = [p for name, _, p in twin.trainable() if name in shared] if mu else []
        self._mu, self._twin = mu, twin
        self._held = [(p, p.detach().clone()) for p in parameters]

    @torch.no_grad()
    def add(self) -> None:
        """Add it to the gradients of a step, and what the twin itself adds (`Twin.add_gradients`)."""
        self._twin.add_gradients()
        for parameter, start in self._held:
            if parameter.grad is not None:
                parameter.grad.add_(parameter - start, alpha=self._mu)
            elif not torch.equal(parameter, start):
                # Reached by an earlier batch and not by this one. What never moved stays without a gradient: optimisers
                # leave such a parameter alone, weight decay included.
                parameter.grad = self._mu * (parameter - start)
