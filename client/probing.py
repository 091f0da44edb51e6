"""Tables that a model's own code passes by: found before round 1, for they would be sent and never trained."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from client.batches import forward, tensors_of
from client.data import Samples
from client.layers import TableLayer
from client.rules import Role, places, shape_of, survey
from client.twin import Twin
from common.dictionary import Dictionary
from common.errors import ModelError
from common.settings import Decomposition


def require_tables_reached(model: nn.Module, settings: Decomposition, samples: Samples) -> None:
    """Refuse a model whose forward uses a decomposed weight itself, not through its layer.

    Args:
        model: with any weights; unchanged.
        settings: what gets a table.
        samples: at least one; a forward and a backward pass are made of them.

    Raises:
        ModelError: names those weights, and how to train them dense.
    """
    hanging = places(model)
    rows = {n: shape_of(hanging[n])[0] for n, role in survey(model, settings).items() if role is Role.TABLE}
    if not rows:
        return
    twin = Twin(model, settings, {n: Dictionary(np.ones((count, 1), np.float32), False) for n, count in rows.items()})
    twin.eval()
    tables = {name: table for name, _, table in twin.trainable() if name in rows}
    bases = {name: _base(twin, table).requires_grad_(True) for name, table in tables.items()}
    features, _ = tensors_of(twin.module, samples)
    total = forward(twin.module, features).float().sum()
    found: tuple[Tensor | None, ...] = torch.autograd.grad(
        total, [*tables.values(), *bases.values()], allow_unused=True
    )
    passed = [
        name for name, table, base in zip(tables, found[: len(rows)], found[len(rows) :], strict=True)
        if table is None and base is not None
    ]  # fmt: skip
    if passed:
        patterns = ", ".join(f'"{name}"' for name in passed)
        raise ModelError(
            f"this model's code uses {', '.join(passed)} past the layer that holds it, so that a table there would never be "
            f"trained; set decomposition.dense = [{patterns}], or frozen"
        )


def _base(twin: Twin, table: nn.Parameter) -> nn.Parameter:
    layers = [m for m in twin.module.modules() if isinstance(m, TableLayer)]
    return next(m.base for m in layers if dict(m.named_parameters(recurse=False)).get("table") is table)
