"""Others' samples from all sums that an institution opened: what one round hides, many rounds show together.

Every round's gradient of a first layer's table is made of the same inputs, those of the others' samples, so the rows of all
rounds lie in one span. It is found once there are as many rows as distinct inputs, whatever the rank and the batch. So the
rule is: samples are exposed where the distinct first-layer inputs over all rounds are fewer than that layer's inputs
(`dictpfl.deploy.reports.exposure`). With more of them the span is the whole space in the end; until then its strong directions
lean towards the samples, less the more there are. Values of fewer bits blur the span, so that it takes more rounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from dictpfl.client.data.samples import Samples
from dictpfl.common.config import FederationConfig
from dictpfl.deploy.attacks import cores
from dictpfl.deploy.attacks.intervals import auc_interval, auc_method, constant, shifted
from dictpfl.deploy.attacks.methods import replace_section, resized
from dictpfl.deploy.attacks.observations import in_collusion, of_the_others
from dictpfl.deploy.attacks.published.sums import first_matrix
from dictpfl.deploy.attacks.recorded import RecordedRun, play
from dictpfl.deploy.attacks.registry import ATTACKS, FederationAttack, Tools
from dictpfl.deploy.attacks.results import Finding

Array = NDArray[np.float64]


def federation(config: FederationConfig, rounds: int, limit: int = 108) -> FederationConfig:
    """Configure three institutions with few samples (108: some fifteen each), batches beyond the rank, and no pruning."""
    changes = {
        "federation": resized(config.federation, 3, rounds=rounds, sample_cap=1),
        "data": replace_section(config.data, limit=limit, test_share=0.5),
        "model": replace_section(config.model, source="mlp", options={"hidden": [64]}),
        # They change nothing of a sum, and one's own part of it is read from its upload here.
        "defences": replace_section(config.defences, masks=False),
        "decomposition": replace_section(config.decomposition, rank=4),
        "pruning": replace_section(config.pruning, enabled=False),
        "training": replace_section(config.training, steps=1, batch_size=16, optimizer="sgd"),
    }
    return config.model_copy(update=changes)


def pooled_rows(recorded: RecordedRun, numbers: Sequence[int], features: int) -> Array:
    """Stack the first table's rows of these rounds' sums, institution 0's own part subtracted, shape (rounds * r, features or r).

    Each row is in units of what rounding to the grid leaves in it: one standard deviation.
    """
    rows = []
    entry = first_matrix(recorded.genesis, features)
    for number in numbers:
        own = next(victim for victim in recorded.victims(number) if victim.index == 0)
        seen = of_the_others(recorded.auditor, number, in_collusion(recorded.collusion, own.seen).update)
        steps, others = recorded.auditor.sums[number].steps, recorded.genesis.config.federation.participants - 1
        rounding = float(steps[entry.span].max()) * np.sqrt(others / 12)
        rows.append(cores.rows(recorded.genesis.dictionaries, entry, seen.update) / max(rounding, 1e-30))
    return np.concatenate(rows)


def span_scores(rows: Array, candidates: Array) -> Array:
    """Measure how near each candidate, (n, features), is to the span of rows in units of their noise; 0 within it.

    Directions are kept that are longer than noise alone makes them: the largest singular value of as much noise is about
    sqrt(rows) + sqrt(features) (Marchenko and Pastur 1967).
    """
    _, strengths, directions = np.linalg.svd(rows, full_matrices=False)
    basis = directions[strengths > sum(np.sqrt(rows.shape))]
    lengths = np.maximum(np.linalg.norm(candidates, axis=1), 1e-12)
    scores: Array = np.linalg.norm(candidates @ basis.T, axis=1) / lengths - 1.0
    return scores


def over_rounds(recorded: RecordedRun, count: int) -> Finding:
    """Tell the others' training samples from the test split by the first `count` update rounds."""
    config, numbers = recorded.genesis.config, recorded.update_rounds[:count]
    inside = np.concatenate([_flat(recorded.samples(i)) for i in range(1, config.federation.participants)])
    outside = _flat(recorded.public)
    rows = pooled_rows(recorded, numbers, inside.shape[1])
    first = first_matrix(recorded.genesis, inside.shape[1]).name
    inner, outer = (
        span_scores(rows, cores.seen(recorded.genesis.dictionaries, first, each)) for each in (inside, outside)
    )
    area = auc_interval(inner, outer)
    return Finding(
        family="aggregate", attack="span check over rounds", source="this project's audit, after Petrov et al. 2024 (DAGER)",
        adversary="institution", method="dictpfl", encrypted=False,
        setting={
            "rounds": len(numbers), "samples": len(inside), "inputs": inside.shape[1], "batch": config.training.batch_size,
            "bits": config.grid.value_bits, "rank": config.decomposition.rank, "model": config.model.source,
        },
        metric="AUC of membership in the others' samples", found=area, blind=constant(0.5), gain=shifted(area, 0.5), success=0.9,
        trials=len(inner) + len(outer), method_of_interval=auc_method(area, len(inner), "samples"),
        more={"members caught at 5 % false alarms": float(np.mean(inner > np.quantile(outer, 0.95)))},
        note="The same samples come back every round: differential privacy, more samples or a frozen first layer are against it.",
    )  # fmt: skip


def _flat(samples: Samples) -> Array:
    return samples.features.reshape(len(samples), -1).astype(np.float64)


@ATTACKS.register("rounds")
class Rounds(FederationAttack):
    """Others' samples from the sums of one round and of several together.

    Attributes:
        cells: samples in all, half of which are the test split, and numbers of rounds that are read together.
    """

    cells: ClassVar[Sequence[tuple[int, tuple[int, ...]]]] = ((108, (1, 4, 10)), (324, (10, 24)), (700, (10, 24)))

    def run(self, config: FederationConfig, folder: Path, _tools: Tools) -> Iterator[Finding]:
        """See `FederationAttack.run`."""
        for limit, counts in self.cells:
            recorded = play(federation(config, max(counts), limit), folder / f"run-{limit}")
            for count in counts:
                yield over_rounds(recorded, count)
