"""Encoders of transformers that are built as BERT: BERT, MiniLM, RoBERTa, ELECTRA."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dictpfl.client.model.tokens.families.text import additive, divided, put_between, unreduced
from dictpfl.client.model.tokens.reduction import Reduction, at_their_places
from dictpfl.client.model.tokens.seam import Tokens
from dictpfl.client.model.tokens.stack import read_whole, rows_to_columns, run

NAME = "encoders built as BERT"
_KIN = ("BertEncoder", "RobertaEncoder", "XLMRobertaEncoder", "CamembertEncoder", "ElectraEncoder")
"""Encoders that are their layers, one after the other; others with layers of these names have norms behind them, or positions between them."""


class _Reduced:
    """Encoder whose layers have a reducer between them; dropped tokens end as zeros, and [CLS] always stays.

    Texts that are too short for the budget are read as the plain encoder reads them.
    """

    reduction: Reduction

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """(B, T, D) to the same, as the encoder's own forward does."""
        if not self.reduction.acts(training=self.training):  # type: ignore[attr-defined]
            return super().forward(hidden_states, attention_mask, *args, **kwargs)  # type: ignore[misc]
        from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

        ended = []
        between, layers = self.reduction.between(NAME), list(self.layer)  # type: ignore[attr-defined]
        real = _real(attention_mask, hidden_states)
        groups, whole = divided(hidden_states, real, len(layers), between, from_the_end=False)
        if len(whole):
            read_whole(layers, hidden_states[whole], self.reduction.told)
        if not groups:
            return super().forward(hidden_states, attention_mask, *args, **kwargs)  # type: ignore[misc]
        if len(whole):
            mask = None if attention_mask is None else attention_mask[whole]
            plain = super().forward(hidden_states[whole], mask, *args, **kwargs)  # type: ignore[misc]
            ended.append((whole, unreduced(plain[0])))
        for index, tokens in groups:
            for inner, left in run(layers, _Layers(), tokens, tokens.fixed, between, self.reduction.told):
                ended.append((index[inner], left))
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=at_their_places(ended, hidden_states.shape[1])
        )


class _Layers:
    """How a layer is run, and looked into: the outputs of `query` and `key`."""

    def run(self, layer: nn.Module, tokens: Tokens) -> Tensor:
        out = layer(tokens.hidden, additive(tokens, tokens.hidden.dtype))
        hidden: Tensor = out[0] if isinstance(out, tuple) else out
        return hidden

    def watched(self, layer: nn.Module) -> Sequence[nn.Module]:
        mixer: Any = layer.attention
        return [mixer.self.query, mixer.self.key]

    def attention(self, layer: nn.Module, tokens: Tokens, seen: Sequence[Tensor]) -> Tensor:
        mixer: Any = layer.attention
        q, k = (torch.unflatten(one, -1, (mixer.self.num_attention_heads, -1)).transpose(1, 2) for one in seen)
        return rows_to_columns(q, k, tokens, q.shape[-1] ** -0.5)


def _real(mask: Tensor | None, hidden: Tensor) -> Tensor:
    """Mask of real tokens from what the encoder is handed: (B, 1, 1 or T, T), True or 0 where a token is seen."""
    if mask is None:
        return torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
    first = mask[:, 0, 0]
    return first if first.dtype == torch.bool else first == 0


def _encoder(model: nn.Module) -> nn.Module | None:
    for module in model.modules():
        layers = getattr(module, "layer", None)
        known = any(kind.__name__ in _KIN for kind in type(module).__mro__)
        if (
            known
            and isinstance(layers, nn.ModuleList)
            and all(hasattr(getattr(getattr(one, "attention", None), "self", None), "query") for one in layers)
        ):
            return module
    return None


def matches(model: nn.Module) -> bool:
    """Tell whether a model is of this family."""
    return _encoder(model) is not None


def stack(model: nn.Module) -> nn.Module:
    """The module on which a reduction hangs."""
    found = _encoder(model)
    assert found is not None  # noqa: S101 -- what `matches` said
    return found


def install(model: nn.Module, reduction: Reduction) -> None:
    """Put a reduction between an encoder's layers, in place.

    Raises:
        ConfigError: too shallow, or a head that reads every token.
    """
    encoder: Any = stack(model)
    put_between(model, encoder, len(encoder.layer), reduction, _Reduced, NAME)
