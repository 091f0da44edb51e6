"""Recurrent layers: LSTM, GRU, plain ones, and their cells."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from dictpfl.client.model.base import LAYERS
from dictpfl.client.model.woven import WovenWeight


@LAYERS.register("recurrent")
class TableRecurrent(WovenWeight):
    """Weights of inputs, of states and of projections, each a matrix with a table of its own; biases are dense as others are."""

    takes: ClassVar = (nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell, nn.RNNCell)

    @classmethod
    def holds(cls, attribute: str) -> bool:
        """See `TableLayer.holds`: `weight_ih_l0`, `weight_hh_l0_reverse`, `weight_hr_l0` and their like."""
        return attribute.startswith("weight_")
