"""BERT and kin (MiniLM)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from dictpfl.client.compress.cutting.architectures import parts
from dictpfl.client.compress.cutting.axes import ARCHITECTURES, Axes, Axis, Sizes


@ARCHITECTURES.register("bert")
class Bert:
    """Neurons. Not the width, on which the size of heads hangs; nor blocks, whose norms stand behind the residual sum."""

    def takes(self, model: nn.Module) -> bool:
        """See `Architecture.takes`."""
        return parts.of_class(model, "BertFor", "BertModel", "BertLMHead")

    def axes(self, model: nn.Module) -> Sequence[Axis]:
        """See `Architecture.axes`."""
        axes, at = Axes(model), parts.list_of_blocks(model, "layer")
        for number in range(len(model.get_submodule(at))):  # type: ignore[arg-type]
            block = f"{at}.{number}"
            axes.found.append(
                parts.feed_forward(axes, block, ["intermediate.dense"], "output.dense", "intermediate_size")
            )
        return axes.found

    def resized(self, model: nn.Module, sizes: Sizes) -> nn.Module:
        """See `Architecture.resized`."""
        changes: dict[str, Any] = dict(sizes)
        return parts.of_configuration(model, changes)
