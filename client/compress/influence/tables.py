"""Influence through lookup tables: the directions in which a federation can move a model, and no others."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from dictpfl.client.compress.influence.layers import Narrowed
from dictpfl.client.model.base import TableLayer
from dictpfl.client.model.gates import gate_of
from dictpfl.client.model.sparse.weights import Weight, covered
from dictpfl.client.model.twin import Twin
from dictpfl.common.errors import ConfigError
from dictpfl.common.law.layout import Kind


def tables_of(twin: Twin, layers: Sequence[str] = ()) -> tuple[nn.Module, dict[str, Weight], dict[str, Narrowed]]:
    """Merge a twin, and say of each of its tables which gradients count.

    With G the gradient of W: of T in W0 + D T it is D^T G, of T in W0 + (D T)^T it is (G D)^T, of a core C in D C E it is D^T G E^T.
    Where gates g stand in front, the merged weight is W diag(g), and G is taken times diag(g) first.

    Args:
        twin: left as it is.
        layers: layer types beside this project's own, as `decomposition.layers`.

    Returns:
        The plain model; its weights that have a table, by name, embeddings left out; and their directions.

    Raises:
        ConfigError: no weight has a table.
    """
    plain = twin.merge()
    found = {
        f"{path}.{layer.weight_name}" if path else layer.weight_name: layer
        for path, layer in twin.module.named_modules()
        if isinstance(layer, TableLayer) and layer.has_table and not isinstance(layer, nn.Embedding)
    }
    names = [entry.name for entry in twin.layout.entries if entry.kind is Kind.TABLE and entry.name in found]
    if not names:
        why = "this federation has none; set decomposition.enabled = true and a decomposition.rank that its weights can have, or"
        if any(entry.kind is Kind.TABLE for entry in twin.layout.entries):
            why = (
                "those of this federation belong to embeddings or recurrent layers alone, whose inputs cannot be seen;"
            )
        raise ConfigError(f'influence by layer is that of lookup tables, and {why} leave the tally "layerif" out')
    weights = covered(plain, names, (), layers)
    return plain, weights, {name: _directions(found[name]) for name in weights}


def _directions(layer: TableLayer) -> Narrowed:
    d, right = layer.dictionary.detach(), layer.right
    e: Tensor | None = None if right is None else right.detach().t()
    gate = gate_of(layer)
    return Narrowed(e, d, gate) if layer.is_transposed else Narrowed(d, e, gate)
