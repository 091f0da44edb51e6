"""Property inference: how much of a class an institution has, from single updates (Melis et al. 2019).

The head's bias gives the counts of a batch away (`deploy.privacy.labels`); over institutions whose mixtures differ, that
ranks them by their share of a class.
"""

from __future__ import annotations

import numpy as np

from client.data import Samples
from client.site import TRAIN
from common.config import FederationConfig
from deploy.privacy.game import replace_section
from deploy.privacy.intervals import constant, mean_interval
from deploy.privacy.labels import infer_counts
from deploy.privacy.reading import Case
from deploy.privacy.results import Finding


def federation(config: FederationConfig) -> FederationConfig:
    """Ten institutions with different mixtures of classes, one step on 32 samples each."""
    changes = {
        "federation": replace_section(config.federation, participants=10, rounds=1),
        "data": replace_section(config.data, partition="dirichlet", alpha=0.3),
        "training": replace_section(config.training, steps=1, batch_size=32),
    }
    return config.model_copy(update=changes)


def properties(case: Case, *, seed: int = 0) -> Finding:
    """How well the inferred mixture of each institution correlates with its true one, over classes."""
    stage, target = case.stage, case.target()
    counts = infer_counts(stage.matcher(case.number), stage.genesis.layout, target, seed)
    found = []
    for row, victim in zip(counts, case.victims, strict=True):
        labels = Samples.load(stage.site(victim.index) / TRAIN).labels
        true = np.bincount(labels, minlength=target.outputs) / len(labels)
        flat = row.std() == 0 or true.std() == 0
        found.append(0.0 if flat else float(np.corrcoef(row, true)[0, 1]))
    return Finding(
        family="property", attack="share of a class", source="Melis et al. 2019; labels as in Geng et al. 2021",
        adversary=case.subject.adversary, method=case.subject.label, encrypted=case.subject.encrypted,
        setting=case.setting | {"institutions": len(case.victims)}, metric="correlation with the true mixture",
        found=mean_interval(found), blind=constant(0.0), gain=mean_interval(found), success=0.75, trials=len(found),
        method_of_interval="Student's t over institutions",
    )  # fmt: skip
