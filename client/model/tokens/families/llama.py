"""Decoders of transformers that are built as Llama: Llama, SmolLM2, Mistral and Qwen2 without windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from dictpfl.client.model.tokens.families.text import additive, divided, put_between, unreduced
from dictpfl.client.model.tokens.reduction import Reduction, at_their_places
from dictpfl.client.model.tokens.seam import Tokens
from dictpfl.client.model.tokens.stack import read_whole, rows_to_columns, run
from dictpfl.common.errors import ConfigError

NAME = "decoders built as Llama"
_KIN = ("LlamaModel", "MistralModel", "MixtralModel", "Qwen2Model", "GemmaModel", "Starcoder2Model", "ArceeModel")
"""Decoders whose attention is what `Layers.attention` says: others have norms of queries and keys, or turn a part of them."""


class _Reduced:
    """Decoder whose layers have a reducer between them; positions stay, dropped tokens end as zeros, and the last one always stays.

    Texts that are too short for the budget are read as the plain decoder reads them.
    """

    reduction: Reduction

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Compute what the decoder's own forward does; there is no cache."""
        me: Any = self
        if not self.reduction.acts(training=me.training):
            return super().forward(  # type: ignore[misc]
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                inputs_embeds=inputs_embeds,
                **kwargs,
            )
        from transformers.modeling_outputs import BaseModelOutputWithPast

        if position_ids is not None or kwargs.get("use_cache") or kwargs.get("cache") is not None:
            raise ConfigError(
                "tokens.reducer: a reduced decoder takes neither position_ids nor a cache; measure or train it, or set tokens.apply to "
                '"evaluate" and generate in training mode'
            )
        hidden: Tensor = me.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        real = torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
        if attention_mask is not None:
            real = attention_mask.bool()
        ended = []
        between, how, layers = self.reduction.between(NAME), Layers(me.rotary_emb), list(me.layers)
        groups, whole = divided(hidden, real, len(layers), between, from_the_end=True)
        if len(whole):
            read_whole(layers, hidden[whole], self.reduction.told)
            mask = None if attention_mask is None else attention_mask[whole]
            plain = super().forward(attention_mask=mask, inputs_embeds=hidden[whole], **kwargs)  # type: ignore[misc]
            if not groups:
                return plain
            ended.append((whole, unreduced(plain[0])))  # its own norm is behind it
        for index, tokens in groups:
            for inner, left in run(layers, how, tokens, tokens.fixed, between, self.reduction.told):
                ended.append((index[inner], replace(left, hidden=me.norm(left.hidden))))
        return BaseModelOutputWithPast(last_hidden_state=at_their_places(ended, hidden.shape[1]))


@dataclass
class Layers:
    """Way to run a layer of this family, and to look into it: the outputs of `q_proj` and `k_proj`, turned to their positions."""

    rotary: nn.Module

    def run(self, layer: nn.Module, tokens: Tokens) -> Tensor:
        """See `dictpfl.client.model.tokens.stack.Layer.run`."""
        places = tokens.positions.clamp(min=0)
        out = layer(
            tokens.hidden,
            attention_mask=additive(tokens, tokens.hidden.dtype, causal=True),
            position_embeddings=self.rotary(tokens.hidden, position_ids=places),
            position_ids=places,
            use_cache=False,
        )
        hidden: Tensor = out[0] if isinstance(out, tuple) else out
        return hidden

    def watched(self, layer: nn.Module) -> Sequence[nn.Module]:
        """See `dictpfl.client.model.tokens.stack.Layer.watched`."""
        mixer: Any = layer.self_attn
        return [mixer.q_proj, mixer.k_proj]

    def attention(self, layer: nn.Module, tokens: Tokens, seen: Sequence[Tensor]) -> Tensor:
        """See `dictpfl.client.model.tokens.stack.Layer.attention`."""
        from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

        mixer: Any = layer.self_attn
        q, k = (torch.unflatten(one, -1, (-1, mixer.head_dim)).transpose(1, 2) for one in seen)
        cos, sin = self.rotary(tokens.hidden, position_ids=tokens.positions.clamp(min=0))
        q, k = apply_rotary_pos_emb(q, k, cos, sin)
        k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
        return rows_to_columns(q, k, tokens, float(mixer.scaling), causal=True)


def _decoder(model: nn.Module) -> nn.Module | None:
    for module in model.modules():
        layers = getattr(module, "layers", None)
        has = all(hasattr(module, name) for name in ("embed_tokens", "rotary_emb", "norm"))
        if (
            has
            and isinstance(layers, nn.ModuleList)
            and all(hasattr(getattr(one, "self_attn", None), "q_proj") for one in layers)
        ):
            return module
    return None


def matches(model: nn.Module) -> bool:
    """Tell whether a model is of this family."""
    found: Any = _decoder(model)
    return found is not None and not any(getattr(one.self_attn, "sliding_window", None) for one in found.layers)


def stack(model: nn.Module) -> nn.Module:
    """The module on which a reduction hangs."""
    found = _decoder(model)
    assert found is not None  # noqa: S101 -- what `matches` said
    return found


def install(model: nn.Module, reduction: Reduction) -> None:
    """Put a reduction between a decoder's layers, in place.

    Raises:
        ConfigError: attention of another kind, too shallow, or a head that reads every token.
    """
    decoder: Any = stack(model)
    if not any(kind.__name__ in _KIN for kind in type(decoder).__mro__):
        raise ConfigError(
            f"tokens.reducer: attention of a {type(decoder).__name__} is none of {NAME}, so that nothing says which tokens it attends to; expected "
            f"one of {', '.join(_KIN)}"
        )
    put_between(model, decoder, len(decoder.layers), reduction, _Reduced, NAME)
