"""Next-token prediction."""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812 -- torch's own convention
from torch import Tensor

from dictpfl.client.data.samples import IGNORED
from dictpfl.client.training.guesses import most_frequent
from dictpfl.client.training.losses import no_class, require_share
from dictpfl.client.training.metrics.token_accuracy import TokenAccuracy
from dictpfl.client.training.shapes import shifted
from dictpfl.client.training.task import TASKS, Measured


@TASKS.register("causal-lm")
class CausalLM(Measured):
    """Cross-entropy of the next token: outputs (batch, tokens, vocabulary), targets the token ids, `IGNORED` where not learnt.

    A batch may be cut to its longest row: targets are cut to the outputs' length.

    Args:
        label_smoothing: share of a label that is spread over the vocabulary, 0 to 1.

    Raises:
        ConfigError: no share.
    """

    by_units = True

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__(TokenAccuracy())
        require_share("label_smoothing", label_smoothing)
        self._smoothing = label_smoothing

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy over the batch's tokens; zero when none is to be learnt."""
        outputs, targets = shifted(outputs, targets)
        try:
            total = F.cross_entropy(
                outputs.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum", label_smoothing=self._smoothing
            )  # fmt: skip
        except IndexError as error:
            raise no_class(outputs) from error
        return total / (targets != IGNORED).sum().clamp(min=1)

    def units(self, targets: Tensor) -> Tensor:
        """See `dictpfl.client.training.task.Task`: tokens that are foretold; of the first one nothing is."""
        return (targets[:, 1:] != IGNORED).sum(dim=1)

    def guess(self, targets: Tensor, outputs: int) -> tuple[str, Tensor]:
        """See `dictpfl.client.training.task.Task`: always the most frequent token, (tokens, outputs)."""
        return "always the most frequent token", most_frequent(targets[:, 1:], outputs).expand(
            targets.shape[1], outputs
        )
