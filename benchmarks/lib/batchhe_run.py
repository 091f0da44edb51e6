"""A federation under AdaptiveBatchHE's encoding, in this process: alone, or over what DictPFL leaves to be sent (the paper's table 8).

Data, split, W0, batches and seeds are those of `lib.fedavg`; in place of exact means, institutions' updates go through the
encoding (`lib.batchhe`), whose integers are summed as Paillier sums them. Method, tables and pruning are what the configuration
says: `plaintext` is the rival, `dictpfl-paper` the combination.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from dictpfl.client.training.train import Measured, evaluate
from dictpfl.common.config import FederationConfig
from dictpfl.common.law.layout import Kind, Layout
from dictpfl.common.law.pruning import Bools, History, advance, judged, sent_mask
from lib.batchhe import Encoding, Floats
from lib.fedavg import Played


def adaptive_batch(config: FederationConfig, *, decimals: int, tests: bool) -> dict[str, Any]:
    """Train for all rounds; figures as `lib.fedavg.fedavg` gives them, measured after the last round only.

    Args:
        config: checked; `training`, `data`, `model`, `decomposition` and `pruning` of it count, refreshes are not played.
        decimals: K of the encoding.
        tests: measure on the test split; else on the institutions' validation splits.

    Raises:
        ValueError: a configuration with refreshes, another server-side rule, or a schedule of pruning.
    """
    _require_playable(config)
    played, rounds = Played(config), config.federation.rounds
    twin, division, task, layout = played.twin, played.division, played.task, played.twin.layout
    institutions = [institution.train for institution in division.institutions]
    weights = np.array([len(own) for own in institutions]) / np.mean([len(own) for own in institutions])
    encoding, exchange = Encoding(len(institutions), decimals), Sums()
    shared, owed = twin.read(), list[Floats]()
    kinds = [Kind(kind) for kind in config.pruning.kinds] if config.pruning.enabled else []
    prunable, history, seconds = layout.coordinates(*kinds), History.new(layout.size), 0.0
    for number in range(rounds):
        mask = sent_mask(history, prunable, config.pruning, played.seed, number)
        updates = []
        for index, institution in enumerate(division.institutions):
            began = time.monotonic()
            update = weights[index] * played.trained(institution, shared, number)
            seconds += time.monotonic() - began
            updates.append(update + owed[index] if owed else update)
        mean = exchange.mean(encoding, layout, updates, mask)
        # Where the encoding rounds, it forgets: only what was not sent is owed. Where all is sent, that is nothing.
        owed = [config.pruning.residual_decay * left_of(update, mask) for update in updates] if kinds else []
        index_sent, below = judged(mean, mask, prunable, layout.tensor_of, config.pruning)
        history = advance(history, index_sent, below, config.pruning) if index_sent.size else history
        shared = shared + mean
    twin.load(shared)
    splits = [division.test] if tests else [institution.validation for institution in division.institutions]
    measured = [evaluate(twin.module, split, task, batch_size=config.training.evaluation_batch) for split in splits]
    accuracy = 100 * _mean(measured, "metric_sum")
    found = {
        "seed": config.seed, "rate": config.training.learning_rate, "rounds": rounds, "decimals": decimals,
        "values": {"model": played.values, "shared": layout.size, "sent": exchange.sent},
        "bytes": {"up": exchange.up, "down": exchange.down}, "ciphertexts": exchange.ciphertexts,
        "seconds": {"train": seconds / len(institutions)},
    }  # fmt: skip
    if tests:
        return found | {"accuracy": accuracy}
    return found | {"validation": accuracy, "validation_loss": _mean(measured, "loss_sum")}


class Sums:
    """Sums of encoded updates, and what they cost one institution so far.

    Attributes:
        sent: values sent. `ciphertexts`: as many of them. `up`, `down`: bytes.
    """

    def __init__(self) -> None:
        self.sent = self.ciphertexts = self.up = self.down = 0

    def mean(self, encoding: Encoding, layout: Layout, updates: Sequence[Floats], mask: Bools) -> Floats:
        """Compute the mean update as institutions decode it, 0 where nothing is sent.

        Args:
            encoding: of this federation.
            layout: of the shared vector; each tensor is a layer with a bound of its own.
            updates: weighted updates, float64, shape (size,), one an institution.
            mask: mask of what is sent.
        """
        mean, counts = np.zeros(layout.size), dict[int, int]()
        for entry in layout.entries:
            places = np.arange(entry.span.start, entry.span.stop)[mask[entry.span]]
            bound = encoding.bound(max(float(np.abs(update[places]).max(initial=0.0)) for update in updates))
            total = np.sum([encoding.encode(update[places], bound) for update in updates], axis=0)
            mean[places] = encoding.mean(total, bound)
            counts[bound] = counts.get(bound, 0) + places.size
        up, down = encoding.traffic(counts, len(layout.entries))
        self.up, self.down, self.sent = self.up + up, self.down + down, self.sent + int(mask.sum())
        self.ciphertexts += encoding.ciphertexts(counts)
        return mean


def left_of(update: Floats, mask: Bools) -> Floats:
    """Take what was sent out of an update."""
    return np.where(mask, 0.0, update)


def _require_playable(config: FederationConfig) -> None:
    asked = {
        "decomposition.refresh_every": config.decomposition.refresh_every != 0,
        "aggregation.rule": config.aggregation.rule != "average" or config.aggregation.rate != 1.0,
        "pruning.schedule": config.pruning.schedule != "constant",
        "pruning.pruned": config.pruning.pruned != "accumulate",
        "privacy.mechanism": config.privacy.mechanism != "none",
    }
    if wrong := [name for name, is_so in asked.items() if is_so]:
        raise ValueError(
            f"{', '.join(wrong)} of a federation under AdaptiveBatchHE's encoding: leave them at their defaults"
        )


def _mean(measured: Sequence[Measured], key: str) -> float:
    return float(sum(getattr(m, key) for m in measured) / max(1, sum(m.count for m in measured)))
