"""Small models of every architecture whose axes are known, made so that no part of them is idle."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dictpfl.client.model.build import build_model
from dictpfl.common.settings import Model

_SMALL: dict[str, Any] = {"vocab_size": 40, "hidden_size": 16, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_ATTENTION: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2}
_HYBRID: dict[str, Any] = _ATTENTION | {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 2, "mamba_d_state": 4} | {
    "mamba_chunk_size": 4, "mamba_expand": 4, "num_hidden_layers": 3,
}  # fmt: skip
TRANSFORMERS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", _ATTENTION | {"intermediate_size": 24, "num_hidden_layers": 3, "tie_word_embeddings": True}),
    "bert": ("Bert", {"num_attention_heads": 4, "intermediate_size": 24, "num_hidden_layers": 2, "num_labels": 3}),
    "nemotron_h": (
        "NemotronH",
        _ATTENTION | {"head_dim": 4, "mamba_num_heads": 8, "mamba_head_dim": 4, "n_groups": 2, "ssm_state_size": 4}
        | {"chunk_size": 4, "intermediate_size": 24, "use_bias": True, "mlp_bias": True}
        | {"layers_block_type": ["linear_attention", "mlp", "full_attention", "linear_attention", "mlp"]},
    ),
    "mamba2": (
        "Mamba2",
        {"num_heads": 8, "head_dim": 8, "expand": 4, "n_groups": 2, "state_size": 4, "num_hidden_layers": 3, "chunk_size": 4},
    ),
    "bamba": ("Bamba", _HYBRID | {"intermediate_size": 24, "attn_layer_indices": [1]}),
    "granitemoehybrid": (
        "GraniteMoeHybrid",
        _HYBRID | {"shared_intermediate_size": 24, "num_local_experts": 0}
        | {"layer_types": ["linear_attention", "full_attention", "linear_attention"]},
    ),
}  # fmt: skip
OWN = ("mlp", "vit_tiny", "tabular", "timm-vit")
KINDS = (*OWN, *TRANSFORMERS)
MAMBA = ("nemotron_h", "mamba2", "bamba", "granitemoehybrid")


def model_of(kind: str, **changes: Any) -> nn.Module:
    """A model in float64, in evaluation mode, without dropout, whose every unit and state contributes."""
    torch.manual_seed(0)
    made = awake(_plain(kind, changes)).double()
    return made.eval()


def _plain(kind: str, changes: dict[str, Any]) -> nn.Module:
    if kind == "mlp":
        return build_model(Model(source="mlp", options={"hidden": [12, 10]} | changes), (1, 8, 8), 5, seed=1)
    if kind == "vit_tiny":
        return build_model(Model(source="vit_tiny", options={"dim": 16, "depth": 3} | changes), (1, 8, 8), 5, seed=1)
    if kind == "tabular":
        return build_model(Model(source="tabular", options={"dim": 16} | changes), (6,), 5, seed=1)
    if kind == "timm-vit":
        options = {
            "pretrained": False,
            "img_size": 8,
            "patch_size": 4,
            "embed_dim": 24,
            "depth": 3,
            "num_heads": 3,
            "mlp_ratio": 2,
        }
        source = "timm:vit_tiny_patch16_224"
        return build_model(Model(source=source, options=options | changes), (1, 8, 8), 5, seed=1)
    import transformers

    name, options = TRANSFORMERS[kind]
    config = getattr(transformers, f"{name}Config")(**_SMALL | options | changes)
    config.use_cache = False
    ends = "ForSequenceClassification" if kind == "bert" else "ForCausalLM"
    built: nn.Module = getattr(transformers, name + ends)(config)
    return built


@torch.no_grad()
def awake(model: nn.Module) -> nn.Module:
    """Weights under which the state matters and no norm is all ones: fresh ones hide mistakes between groups."""
    draw = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if name.endswith("in_proj.weight") and "attn" not in name:
            parameter.mul_(8.0)
        elif name.endswith("A_log"):
            parameter.sub_(2.0)
        elif "norm" in name and name.endswith("weight"):
            parameter.copy_(torch.rand(parameter.shape, generator=draw) + 0.5)
        elif parameter.ndim > 1 or name.endswith("bias"):
            parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.3)
    return model


def inputs_of(kind: str) -> Tensor:
    """Four samples that a model of this kind takes."""
    draw = torch.Generator().manual_seed(2)
    if kind in ("mlp", "vit_tiny", "timm-vit"):
        return torch.randn(4, 1, 8, 8, generator=draw, dtype=torch.float64)
    if kind == "tabular":
        return torch.randn(4, 6, generator=draw, dtype=torch.float64)
    return torch.randint(3, 40, (4, 9), generator=draw)


@torch.no_grad()
def outputs_of(model: nn.Module, kind: str) -> Tensor:
    """What a model says of `inputs_of`, float64."""
    said = model(inputs_of(kind))
    logits: Tensor = said if isinstance(said, Tensor) else said.logits
    return logits.double()
