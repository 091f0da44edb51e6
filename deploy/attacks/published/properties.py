"""Property inference: an institution's share of a class, from single updates (Melis et al. 2019).

The head's bias gives the counts of a batch away (`dictpfl.deploy.attacks.labels`); over institutions whose mixtures differ, that
ranks them by their share of a class.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dictpfl.common.config import FederationConfig
from dictpfl.deploy.attacks.case import Case
from dictpfl.deploy.attacks.intervals import constant, mean_interval
from dictpfl.deploy.attacks.labels import infer_counts
from dictpfl.deploy.attacks.methods import SUBJECTS, replace_section, resized
from dictpfl.deploy.attacks.recorded import play
from dictpfl.deploy.attacks.registry import ATTACKS, FederationAttack, Tools
from dictpfl.deploy.attacks.results import Finding


def federation(config: FederationConfig) -> FederationConfig:
    """Configure ten institutions with different mixtures of classes, one step on 32 samples each."""
    changes = {
        "federation": resized(config.federation, 10, rounds=1),
        "data": replace_section(config.data, partition="dirichlet", alpha=0.3),
        "training": replace_section(config.training, steps=1, batch_size=32),
    }
    return config.model_copy(update=changes)


def properties(case: Case, *, seed: int = 0) -> Finding:
    """Correlate the inferred mixture of each institution with its true one, over classes."""
    recorded, target = case.recorded, case.target()
    counts = infer_counts(recorded.matcher(case.number), recorded.genesis.layout, target, seed)
    correlations = []
    for row, victim in zip(counts, case.victims, strict=True):
        labels = recorded.samples(victim.index).labels
        true = np.bincount(labels, minlength=target.outputs) / len(labels)
        flat = row.std() == 0 or true.std() == 0
        correlations.append(0.0 if flat else float(np.corrcoef(row, true)[0, 1]))
    return Finding(
        family="property", attack="share of a class", source="Melis et al. 2019; labels as in Geng et al. 2021",
        adversary=case.subject.adversary, method=case.subject.label, encrypted=case.subject.encrypted,
        setting=case.setting | {"institutions": len(case.victims)}, metric="correlation with the true mixture",
        found=mean_interval(correlations), blind=constant(0.0), gain=mean_interval(correlations), success=0.75, trials=len(correlations),
        method_of_interval="Student's t over institutions",
    )  # fmt: skip


@ATTACKS.register("property")
class Property(FederationAttack):
    """Share of a class, inferred for methods of which something crosses in clear."""

    def run(self, config: FederationConfig, folder: Path, _tools: Tools) -> Iterator[Finding]:
        """See `FederationAttack.run`."""
        for name in ("plaintext", "fedml-he-90", "dictpfl-identity"):
            subject = SUBJECTS[name]
            recorded = play(subject.applied(federation(config)), folder / name)
            yield properties(Case.of(recorded, subject, most=10))
