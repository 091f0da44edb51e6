"""Update that a batch would cause, as a differentiable function of that batch; inversion matches it with the observed one.

One function for every method: shared coordinates are tables or dense parameters of the twin, and the gradient is taken
with respect to exactly what crosses the wire.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 -- torch's own convention
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call, grad, vmap

from dictpfl.client.model.twin import Twin
from dictpfl.client.training.calling import logits
from dictpfl.common.errors import ConfigError
from dictpfl.common.law.layout import Kind
from dictpfl.common.law.pruning import Bools
from dictpfl.common.settings import Training


class Matcher:
    """Updates of several victims at once, for a twin that holds shared state before the round.

    Attributes:
        coordinates: which of the shared vector are parameters (running statistics have no gradient), shape (size,).
        module: the twin's, a copy in double precision and evaluation mode.
    """

    def __init__(self, twin: Twin, training: Training) -> None:
        """Take a copy of the twin, in double precision and evaluation mode.

        Raises:
            ConfigError: a task, an optimiser or something else that these attacks do not simulate.
        """
        require_attackable(training)
        names = {id(p): name for name, p in twin.module.named_parameters()}
        self._order = [
            names[id(p)] for entry, _, p in twin.trainable() if entry in {e.name for e in twin.layout.entries}
        ]
        self.coordinates: Bools = twin.layout.coordinates(Kind.TABLE, Kind.DENSE)
        module = copy.deepcopy(twin.module).double().cpu().eval()
        self.module = module
        values = {name: p.detach() for name, p in module.named_parameters()}
        self._start = {name: values[name] for name in self._order}
        self._others = {name: p for name, p in values.items() if name not in self._start}
        self._others |= {name: b.detach() for name, b in module.named_buffers()}
        self._rate = training.learning_rate
        self._each = vmap(self.one)

    def _loss(self, parameters: Mapping[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        answer = functional_call(self.module, {**self._others, **parameters}, (x,))
        return F.cross_entropy(logits(answer), y)

    def one(self, x: Tensor, y: Tensor) -> Tensor:
        """Map one victim's (steps, batch, ...) to (x - local) / rate after so many steps of SGD; one step: its gradient."""
        parameters = dict(self._start)
        for batch, labels in zip(x, y, strict=True):
            gradient = grad(self._loss)(parameters, batch, labels)
            parameters = {name: p - self._rate * gradient[name] for name, p in parameters.items()}
        moved = [((self._start[n] - parameters[n]) / self._rate).reshape(-1) for n in self._order]
        return torch.cat(moved)

    def updates(self, x: Tensor, y: Tensor) -> Tensor:
        """Summed gradients of each victim, (victims, parameters), differentiable.

        Args:
            x: features, (victims, steps, batch, ...), float64.
            y: labels as probabilities, (victims, steps, batch, classes).
        """
        summed: Tensor = self._each(x, y)
        return summed

    def observed(self, update: NDArray[Any], weight: float) -> Tensor:
        """Convert an observed w * (local - x), (size,), to the same units: summed gradients, (parameters,)."""
        return torch.from_numpy(-update[self.coordinates] / (weight * self._rate))

    @torch.no_grad()
    def probabilities(self, x: Tensor) -> Tensor:
        """Compute the model's answer, (batch, classes)."""
        answer: Tensor = torch.softmax(logits(self.module(x)), dim=-1)
        return answer

    @torch.no_grad()
    def features(self, x: NDArray[Any]) -> NDArray[np.float64]:
        """Compute the last linear layer's input, (batch, features): similar images are near each other there."""
        caught: list[Tensor] = []
        last = [m for m in self.module.modules() if isinstance(m, torch.nn.Linear)][-1]
        handle = last.register_forward_pre_hook(lambda _module, inputs: caught.append(inputs[0]))
        try:
            self.module(torch.from_numpy(np.ascontiguousarray(x, dtype=np.float64)))
        finally:
            handle.remove()
        return caught[0].reshape(len(x), -1).numpy()


def require_attackable(training: Training) -> None:
    """Refuse what inversion here does not simulate, rather than fail at it and call that privacy.

    Raises:
        ConfigError: see the message.
    """
    if training.task != "classification":
        raise ConfigError(f"gradient inversion is here for classification; training.task is {training.task!r}")
    odd = {
        "training.optimizer": (training.optimizer, "sgd"),
        "training.momentum": (training.momentum, 0.0),
        "training.weight_decay": (training.weight_decay, 0.0),
        "training.clip_norm": (training.clip_norm, 0.0),
        # In its first step the pull towards where it begins is nothing.
        "training.proximal": (training.proximal if training.steps != 1 else 0.0, 0.0),
        "training.warmup_steps": (training.warmup_steps, 0),
        "training.task_options": (training.task_options, {}),
        "training.accumulate": (training.accumulate, 1),
        "training.augment": (tuple(training.augment), ()),
        "training.dense_learning_rate": (training.dense_learning_rate, 0.0),
        "training.head_learning_rate": (training.head_learning_rate, 0.0),
    }
    wrong = [f"{key} is {value!r}, expected {wanted!r}" for key, (value, wanted) in odd.items() if value != wanted]
    if wrong:
        raise ConfigError(
            f"gradient inversion is run at its strongest, on plain steps of SGD: {'; '.join(wrong)}. Change it, for "
            "instance with --set; experiments/privacy_digits.toml is a place to start"
        )
