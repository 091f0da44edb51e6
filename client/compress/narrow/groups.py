"""Everything of a model that goes with a unit, its group: norms of groups, and the group lasso over them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from dictpfl.client.compress.cutting.axes import Axis

_LEAST = 1e-12
"""Added under the root, so that a group of zeros has a gradient: zero."""


def tensors_by_name(module: nn.Module) -> dict[str, nn.Parameter]:
    """List parameters by every name that leads to them, tied ones under each."""
    return dict(module.named_parameters(remove_duplicate=False))


def by_unit(tensor: Tensor, dim: int, index: Tensor) -> Tensor:
    """Arrange what belongs to each unit in a row, shape (units, values).

    Args:
        tensor: parameter, or one value for each of its values.
        dim: dimension along which the units lie.
        index: positions of this dimension of each unit, int64, shape (units, k).
    """
    picked = tensor.index_select(dim, index.reshape(-1).to(tensor.device)).movedim(dim, 0)
    return picked.reshape(index.shape[0], -1)


def group_sums(axis: Axis, values: Mapping[str, Tensor]) -> Tensor:
    """Sum one value for each parameter's value over every unit's group, shape (units,).

    Args:
        axis: units and their slices.
        values: tensors of the parameters' shapes, by name.
    """
    parts = [by_unit(values[one.tensor], one.dim, torch.from_numpy(one.index)).sum(dim=1) for one in axis.slices]
    return torch.stack(parts).sum(dim=0)


def group_norms(axis: Axis, parameters: Mapping[str, Tensor]) -> Tensor:
    """Compute the Euclidean norm of every unit's group, shape (units,)."""
    squares = {one.tensor: parameters[one.tensor].square() for one in axis.slices}
    return (group_sums(axis, squares) + _LEAST).sqrt()


class Lasso:
    """Group lasso: `penalty * sum_g ||theta_g||_2` over the units of axes, a term of the loss.

    Args:
        module: module whose parameters are penalised.
        axes: their units.
        penalty: factor.
    """

    def __init__(self, module: nn.Module, axes: Iterable[Axis], penalty: float) -> None:
        self._parameters, self._axes, self._penalty = tensors_by_name(module), tuple(axes), penalty

    def __call__(self) -> Tensor:
        """Compute the term, a scalar."""
        terms = [group_norms(axis, self._parameters).sum() for axis in self._axes]
        return self._penalty * torch.stack(terms).sum()
