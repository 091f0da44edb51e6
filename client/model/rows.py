"""Encoder-decoders of transformers that read a sample as one row: the source, its end, and the target behind it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dictpfl.common.errors import ModelError


class _ReadsRows(nn.Module):
    """Forward of a row; the class that it stands before is the model's own, so that names and exports stay what they are."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token ids (batch, tokens) with their mask to outputs (batch, tokens, vocabulary), each for the token that follows.

        What stands up to the first end of a sequence, the end included, goes into the encoder; the decoder is taught with what stands
        behind it. Outputs at other places than the target's are zero: nothing is learnt there. A row without an end is all source.
        """
        config: Any = self.config
        real = attention_mask.bool()
        ends = (input_ids == int(config.eos_token_id)) & real
        length = real.sum(dim=1)
        source = torch.where(ends.any(dim=1), ends.int().argmax(dim=1) + 1, length)
        width, most = input_ids.shape[1], max(1, int((length - source).max()))
        places = torch.arange(width, device=input_ids.device)
        before = (
            source.unsqueeze(1) + torch.arange(most, device=input_ids.device) - 1
        )  # where each target token is foretold
        taught = input_ids.gather(1, before.clamp(0, width - 1))
        taught[:, 0] = int(config.decoder_start_token_id)
        longest = max(1, int(source.max()))
        answer = super().forward(
            input_ids=input_ids[:, :longest], attention_mask=(places[:longest] < source.unsqueeze(1)).long(),
            decoder_input_ids=taught, use_cache=False,
        )  # fmt: skip
        known = before < length.unsqueeze(1) - 1
        rows = torch.arange(len(input_ids), device=input_ids.device).unsqueeze(1).expand_as(before)
        outputs: Tensor = answer.logits.new_zeros(*input_ids.shape, answer.logits.shape[-1])
        return outputs.index_put((rows[known], before[known]), answer.logits[known])


def reading_rows(module: nn.Module) -> nn.Module:
    """Let an encoder-decoder of transformers read rows, in place: `[source, end, target, end]`, as `prompt` and `text` of a table make them.

    Args:
        module: such as T5ForConditionalGeneration; its configuration names the end and what a decoder begins with.

    Raises:
        ModelError: another model.
    """
    config = getattr(module, "config", None)
    if not getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"{type(module).__name__} is no encoder-decoder of transformers (config.is_encoder_decoder); a decoder alone learns rows with "
            'training.task = "causal-lm"'
        )
    missing = [n for n in ("eos_token_id", "decoder_start_token_id") if not isinstance(getattr(config, n, None), int)]
    if missing:
        raise ModelError(f"the configuration of {type(module).__name__} does not say {', '.join(missing)}; set it")
    plain = type(module)
    if not issubclass(plain, _ReadsRows):
        # Under the model's own name, which exports write down.
        made: Any = type(plain.__name__, (_ReadsRows, plain), {"__module__": plain.__module__})
        module.__class__ = made
    return module
