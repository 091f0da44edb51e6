"""Was this very sample in somebody's training data? From the final model, which everybody gets.

Two attacks: the loss (Yeom et al. 2018), and an offline likelihood ratio against models of the attacker's own, trained on
public data that the sample was not in (Carlini et al. 2022, LiRA). The final model is bit for bit the same whether uploads
were encrypted or not, so that encryption changes nothing here; only differential privacy would.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from client.batches import forward
from client.data import Samples
from client.models import build_model
from client.pretraining import pretrain
from common.config import FederationConfig
from common.settings import Pretrain
from deploy.privacy.game import replace_section
from deploy.privacy.intervals import auc_interval, constant, shifted
from deploy.privacy.results import Finding
from deploy.privacy.stage import Stage

Array = NDArray[np.float64]


def federation(config: FederationConfig) -> FederationConfig:
    """A federation that learns its samples by heart: few of them, many passes. The easiest case for this attack."""
    changes = {
        "federation": replace_section(config.federation, participants=3, rounds=30),
        "data": replace_section(config.data, limit=300, test_share=0.5),
        "model": replace_section(config.model, source="mlp", options={"hidden": [128, 128]}),
        "decomposition": replace_section(config.decomposition, rank=8),
        "training": replace_section(
            config.training, steps=0, epochs=8, batch_size=16, optimizer="adam", learning_rate=4e-3
        ),
    }
    return config.model_copy(update=changes)


@torch.no_grad()
def confidences(model: nn.Module, samples: Samples) -> Array:
    """Log odds of the true label, (n,): what LiRA compares, for it is nearly normal; higher is more certain."""
    logits = forward(model.eval(), torch.from_numpy(samples.features)).double()
    chosen = logits.gather(1, torch.from_numpy(samples.labels)[:, None])[:, 0]
    rest = logits.scatter(1, torch.from_numpy(samples.labels)[:, None], -torch.inf).logsumexp(dim=1)
    return (chosen - rest).numpy()


def shadows(config: FederationConfig, stage: Stage, pool: Samples, count: int, seed: int) -> list[nn.Module]:
    """Models of the attacker's own: the same architecture, each trained on a random half of its public samples."""
    random = np.random.default_rng(seed)
    genesis, made = stage.genesis, []
    for number in range(count):
        model = build_model(config.model, genesis.sample_shape, genesis.outputs, config.seed)
        half = pool.take(random.permutation(len(pool))[: len(pool) // 2])
        training = config.training.model_copy(update={"learning_rate": 1e-3})
        passes = Pretrain(epochs=config.federation.rounds * config.training.epochs // 2, batch_size=16)
        pretrain(model, half, passes, training, seed + number)
        made.append(copy.deepcopy(model).cpu())
    return made


def membership(stage: Stage, final: nn.Module, label: str, *, models: int = 8, seed: int = 0) -> list[Finding]:
    """Both attacks on the final model of a run: its institutions' training samples against half of the test split.

    The other half of the test split is the attacker's own.
    """
    config = stage.genesis.config
    order = np.random.default_rng(seed).permutation(len(stage.public))
    pool, outside = stage.public.take(order[::2]), stage.public.take(order[1::2])
    inside = _joined([Samples.load(stage.site(i) / "train.npz") for i in range(config.federation.participants)])
    inner, outer = confidences(final, inside), confidences(final, outside)
    setting: dict[str, int | float | str] = {
        "members": len(inside), "others": len(outside), "rounds": config.federation.rounds, "model": config.model.source,
    }  # fmt: skip
    found = [_finding("loss", "Yeom et al. 2018", label, setting, inner, outer)]
    made = shadows(config, stage, pool, models, seed)
    ratios = []
    for mine, samples in ((inner, inside), (outer, outside)):
        theirs = np.stack([confidences(model, samples) for model in made])
        # One deviation for all samples, as LiRA does where shadow models are few.
        ratios.append((mine - theirs.mean(axis=0)) / max(float(theirs.std(axis=0).mean()), 1e-9))
    found.append(_finding("likelihood ratio", "Carlini et al. 2022 (LiRA, offline)", label, setting | {"shadow models": models}, *ratios))  # fmt: skip
    return found


def _joined(parts: Sequence[Samples]) -> Samples:
    return Samples(np.concatenate([p.features for p in parts]), np.concatenate([p.labels for p in parts]))


def _finding(attack: str, source: str, label: str, setting: Any, inner: Array, outer: Array) -> Finding:
    area = auc_interval(inner, outer)
    caught = float(np.mean(inner > np.quantile(outer, 0.95)))
    return Finding(
        family="membership", attack=attack, source=source, adversary="outsider", method=label, encrypted=False,
        setting=setting, metric="AUC", found=area, blind=constant(0.5), gain=shifted(area, 0.5), success=0.6,
        trials=inner.size + outer.size, method_of_interval="DeLong over samples",
        more={"members caught at 5 % false alarms": caught},
        note="The final model is the same with and without encryption: only differential privacy changes this.",
    )  # fmt: skip
