"""Membership of a sample in somebody's training data, told from the final model, which everybody gets.

Two attacks: the loss (Yeom et al. 2018), and an offline likelihood ratio against models of the attacker's own, trained on
public data that the sample was not in (Carlini et al. 2022, LiRA). The final model is bit for bit the same whether uploads
were encrypted or not, so that encryption changes nothing here; only differential privacy would.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dictpfl.client.data.samples import Samples
from dictpfl.client.folder import GENESIS_WEIGHTS
from dictpfl.client.model.build import build_model
from dictpfl.client.training.calling import forward
from dictpfl.client.training.workbench import Workbench
from dictpfl.common.config import FederationConfig
from dictpfl.common.protection import Privacy
from dictpfl.common.settings import Pretrain
from dictpfl.deploy.attacks.intervals import auc_interval, auc_method, constant, shifted
from dictpfl.deploy.attacks.methods import FINAL, FINAL_PRIVATE, replace_section, resized
from dictpfl.deploy.attacks.recorded import RecordedRun, play
from dictpfl.deploy.attacks.registry import ATTACKS, FederationAttack, Tools
from dictpfl.deploy.attacks.results import Finding
from dictpfl.deploy.simulation.pretraining import pretrain

Array = NDArray[np.float64]


def federation(config: FederationConfig) -> FederationConfig:
    """Configure a federation that learns few samples by heart in many passes: the easiest case for this attack."""
    changes = {
        "federation": resized(config.federation, 3, rounds=30),
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


def shadows(config: FederationConfig, recorded: RecordedRun, pool: Samples, count: int, seed: int) -> list[nn.Module]:
    """Train models of the attacker's own: the same architecture, each on a random half of its public samples."""
    random = np.random.default_rng(seed)
    genesis, made = recorded.genesis, []
    for number in range(count):
        model = build_model(config.model, genesis.sample_shape, genesis.outputs, config.seed)
        half = pool.take(random.permutation(len(pool))[: len(pool) // 2])
        training = config.training.model_copy(update={"learning_rate": 1e-3})
        passes = Pretrain(epochs=config.federation.rounds * config.training.epochs // 2, batch_size=16)
        pretrain(model, half, passes, training, seed + number)
        made.append(copy.deepcopy(model).cpu())
    return made


def membership(recorded: RecordedRun, final: nn.Module, label: str, *, models: int = 8, seed: int = 0) -> list[Finding]:
    """Try both attacks on the final model of a run: its institutions' training samples against half of the test split.

    The other half of the test split is the attacker's own.
    """
    config = recorded.genesis.config
    order = np.random.default_rng(seed).permutation(len(recorded.public))
    pool, outside = recorded.public.take(order[::2]), recorded.public.take(order[1::2])
    inside = _joined([recorded.samples(i) for i in range(config.federation.participants)])
    inner, outer = confidences(final, inside), confidences(final, outside)
    setting: dict[str, int | float | str] = {
        "members": len(inside), "others": len(outside), "rounds": config.federation.rounds, "model": config.model.source,
    }  # fmt: skip
    findings = [_finding("loss", "Yeom et al. 2018", label, setting, inner, outer)]
    made = shadows(config, recorded, pool, models, seed)
    ratios = []
    for mine, samples in ((inner, inside), (outer, outside)):
        theirs = np.stack([confidences(model, samples) for model in made])
        # One deviation for all samples, as LiRA does where shadow models are few.
        ratios.append((mine - theirs.mean(axis=0)) / max(float(theirs.std(axis=0).mean()), 1e-9))
    findings.append(_finding("likelihood ratio", "Carlini et al. 2022 (LiRA, offline)", label, setting | {"shadow models": models}, *ratios))  # fmt: skip
    return findings


def _joined(parts: Sequence[Samples]) -> Samples:
    return Samples(np.concatenate([p.features for p in parts]), np.concatenate([p.labels for p in parts]))


def _finding(attack: str, source: str, label: str, setting: Any, inner: Array, outer: Array) -> Finding:
    area = auc_interval(inner, outer)
    caught = float(np.mean(inner > np.quantile(outer, 0.95)))
    return Finding(
        family="membership", attack=attack, source=source, adversary="outsider", method=label, encrypted=False,
        setting=setting, metric="AUC", found=area, blind=constant(0.5), gain=shifted(area, 0.5), success=0.6,
        trials=inner.size + outer.size, method_of_interval=auc_method(area, inner.size, "samples"),
        more={"members caught at 5 % false alarms": caught},
        note="The final model is the same with and without encryption: only differential privacy changes this.",
    )  # fmt: skip


@ATTACKS.register("membership")
class Membership(FederationAttack):
    """Membership in the final model, which is the same with and without encryption; beside noise of one's own, without noise, too."""

    def run(self, config: FederationConfig, folder: Path, _tools: Tools) -> Iterator[Finding]:
        """See `FederationAttack.run`."""
        # Only where nothing protects do the attacks have to succeed: that noise stops them does not show that they are broken.
        runs = {FINAL: federation(config.model_copy(update={"privacy": Privacy()}))}
        if config.privacy.mechanism != "none":
            runs[FINAL_PRIVATE] = federation(config)
        for number, (label, one) in enumerate(runs.items()):
            recorded = play(one, folder / f"run-{number}")
            bench = Workbench(recorded.genesis, recorded.home(0) / GENESIS_WEIGHTS)
            yield from membership(recorded, bench.merged(recorded.auditor.state), label)
