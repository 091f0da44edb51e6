"""Fused kernels that take W0 itself and pass by the tables: torch's of encoders, and those of state-space mixers."""

from __future__ import annotations

from torch import nn

from dictpfl.client.model.base import TableLayer


def bar(module: nn.Module) -> None:
    """Keep encoder layers with tables or masks in them off the kernels that they use in evaluation mode; in place."""
    for part in module.modules():
        if not any(map(_is_passed_by, part.modules())):
            continue
        if isinstance(part, nn.TransformerEncoderLayer):
            part.__dict__["fused_activation"] = part.activation_relu_or_gelu
            part.__dict__["activation_relu_or_gelu"] = 0
        elif isinstance(part, nn.TransformerEncoder):
            part.__dict__["fused_nested_tensor"] = part.use_nested_tensor
            part.__dict__["use_nested_tensor"] = False


def restore(module: nn.Module) -> None:
    """Undo `bar`; in place."""
    for part in module.modules():
        if "fused_activation" in part.__dict__:
            part.__dict__["activation_relu_or_gelu"] = part.__dict__.pop("fused_activation")
        if "fused_nested_tensor" in part.__dict__:
            part.__dict__["use_nested_tensor"] = part.__dict__.pop("fused_nested_tensor")


def mixers(module: nn.Module) -> list[nn.Module]:
    """State-space mixers (Mamba and kin) that hold a table layer, and must not be in training mode themselves.

    In training mode, and in no other, those of transformers hand weights of their projections to a fused kernel where
    `mamba_ssm` is installed: the table gets no gradient then. Out of it they call their projections as layers, whose
    children may train: a mixer's own mode decides nothing else. Found by what all of them have, a parameter `A_log`.
    """
    return [
        part
        for part in module.modules()
        if isinstance(getattr(part, "A_log", None), nn.Parameter) and any(map(_is_passed_by, part.children()))
    ]


def _is_passed_by(module: nn.Module) -> bool:
    """True of a layer whose weight is not all that it computes with: one with a table, or with a mask."""
    return isinstance(module, TableLayer) or getattr(module, "bars_fused_kernels", False)
