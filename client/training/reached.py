"""Check, before round 1, that a model's code reaches every table: an unused one would be sent and never trained."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from dictpfl.client.data.samples import Samples
from dictpfl.client.model.base import TableLayer
from dictpfl.client.model.covering import Layers
from dictpfl.client.model.rules import Role, survey
from dictpfl.client.model.twin import Twin
from dictpfl.client.training.calling import forward, tensors_of
from dictpfl.client.training.train import seeded
from dictpfl.common.errors import ModelError
from dictpfl.common.law.dictionary import Dictionary
from dictpfl.common.settings import Decomposition


def require_tables_reached(model: nn.Module, settings: Decomposition, samples: Samples) -> None:
    """Refuse a model whose forward uses a decomposed weight itself, not through its layer.

    Looked at as the twin trains and as it is measured: fused kernels may serve one of the two alone.

    Args:
        model: model with any weights; unchanged.
        settings: settings that say which weights get a table.
        samples: at least one; two forward and backward passes are run on them.

    Raises:
        ModelError: the message names those weights, and how to train them dense.
    """
    layers = Layers(settings.layers, settings.tables)
    hanging = layers.places(model)
    rows = {
        n: layers.matrix_shape(hanging[n])[0]
        for n, role in survey(model, settings, gated=True).items()
        if role is Role.TABLE
    }
    if not rows:
        return
    twin = Twin(model, settings, {n: Dictionary(np.ones((count, 1), np.float32), False) for n, count in rows.items()})
    tables = {name: table for name, _, table in twin.trainable() if name in rows}
    bases = {name: _base(twin, table).requires_grad_(True) for name, table in tables.items()}
    features, _ = tensors_of(twin.module, samples)
    missed: set[str] = set()
    for mode in (twin.eval, twin.train):
        mode()
        for norm in twin.module.modules():
            if isinstance(norm, _NormBase):
                norm.eval()  # few samples have no statistics of their own
        with seeded(0, features.device):
            total = forward(twin.module, features).float().sum()
        gradients: tuple[Tensor | None, ...] = torch.autograd.grad(
            total, [*tables.values(), *bases.values()], allow_unused=True
        )
        pairs = zip(tables, gradients[: len(rows)], gradients[len(rows) :], strict=True)
        missed |= {name for name, table, base in pairs if table is None and base is not None}
    passed = [name for name in tables if name in missed]
    if passed:
        patterns = ", ".join(f'"{name}"' for name in passed)
        raise ModelError(
            f"this model's code uses {', '.join(passed)} past the layer that holds it, so that a table there would never be "
            f"trained; set decomposition.dense = [{patterns}], or frozen"
        )


def _base(twin: Twin, table: nn.Parameter) -> nn.Parameter:
    layers = [m for m in twin.module.modules() if isinstance(m, TableLayer)]
    return next(m.base for m in layers if dict(m.named_parameters(recurse=False)).get("table") is table)
