"""A sequence from a sequence."""

from __future__ import annotations

from dictpfl.client.training.task import TASKS
from dictpfl.client.training.tasks.causal_lm import CausalLM


@TASKS.register("sequence-to-sequence")
class SequenceToSequence(CausalLM):
    """Cross-entropy of the target's tokens: outputs (batch, tokens, vocabulary), labels the tokens of the row, `IGNORED` in the source.

    A row is the source, its end, and the target (`dictpfl.client.model.rows`), so that an encoder-decoder and a decoder alone
    learn the same samples, and loss and metrics are those of `causal-lm`: each output foretells the token behind its place.

    Args:
        label_smoothing: share of a label that is spread over the vocabulary, 0 to 1.
    """
