"""Inversion and label inference on one recorded run: base classes that judge a guess against the truth and a blind guess."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dictpfl.common.errors import ConfigError
from dictpfl.deploy.attacks import images
from dictpfl.deploy.attacks.case import Case
from dictpfl.deploy.attacks.intervals import gain_interval, mean_interval
from dictpfl.deploy.attacks.inversion import Effort, Reconstruction
from dictpfl.deploy.attacks.labels import Counts, prior, right
from dictpfl.deploy.attacks.registry import Tools, UpdateAttack
from dictpfl.deploy.attacks.results import Family, Finding

SIMILAR, EXACT = 0.6, 0.99
"""Success: structural similarity of an image, share of the labels that are right."""
_INTERVAL = "Student's t over victims, paired with the blind guess"


class JudgedAttack(UpdateAttack):
    """Base of attacks that are judged here, beside a guess of somebody who sees nothing.

    Attributes:
        title: name in results.
        source: paper that it is taken from.
    """

    title: ClassVar[str]
    source: ClassVar[str]


class LabelAttack(JudgedAttack):
    """Base of attacks that guess the labels of a batch, judged beside the prior."""

    @abstractmethod
    def counts(self, case: Case, seed: int) -> Counts:
        """Guess how often each class was in each victim's samples, (victims, outputs); rows sum to steps * batch."""

    def run(self, case: Case, tools: Tools) -> Iterator[Finding]:
        """See `UpdateAttack.run`."""
        case = _of_numbers(case).alike()
        counts, target = self.counts(case, tools.seed), case.target()
        guess = prior(case.recorded.public.labels, target.outputs, target.steps * target.batch)
        truth = [victim.samples.labels for victim in case.victims]
        shares = [right(row, labels) for row, labels in zip(counts, truth, strict=True)]
        blind = [right(guess, labels) for labels in truth]
        yield _finding(case, "labels", self, "share of labels right", shares, blind, EXACT)


class InversionAttack(JudgedAttack):
    """Base of attacks that rebuild the images of a batch, judged beside the mean image."""

    @abstractmethod
    def reconstruct(self, case: Case, effort: Effort, seed: int) -> Reconstruction:
        """Rebuild every victim's samples."""

    def run(self, case: Case, tools: Tools) -> Iterator[Finding]:
        """See `UpdateAttack.run`."""
        case = _of_numbers(case).alike()
        target, matcher = case.target(), case.recorded.matcher(case.number)
        rebuilt = self.reconstruct(case, tools.effort, tools.seed)
        span = target.high - target.low
        mean = case.recorded.public.features.mean(axis=0, dtype=np.float64)
        similar, blind, noise, features, pairs = [], [], [], [], []
        for victim, guessed in zip(case.victims, rebuilt.images.numpy(), strict=True):
            truth = victim.samples.features.astype(np.float64)
            guess = images.matched(guessed, truth)
            pairs.append((truth, guess))
            similar.append(float(np.mean([images.ssim(a, b, span) for a, b in zip(guess, truth, strict=True)])))
            blind.append(float(np.mean([images.ssim(mean, b, span) for b in truth])))
            noise.append(float(np.mean([images.psnr(a, b, span) for a, b in zip(guess, truth, strict=True)])))
            features.append(_alike(matcher.features(guess), matcher.features(truth)))
        picture = _picture(case, self.title, pairs, mean, tools.pictures)
        more = {
            "PSNR, dB": float(np.mean(noise)),
            "feature similarity": float(np.mean(features)),
            "recovered": float(np.mean([value >= SIMILAR for value in similar])),
            "mismatch": float(rebuilt.loss.median()),
        }
        yield _finding(case, "inversion", self, "SSIM", similar, blind, SIMILAR, more=more, picture=picture)


def _of_numbers(case: Case) -> Case:
    """Return the case.

    Raises:
        ConfigError: its samples are token ids, which no gradient step moves.
    """
    if not np.issubdtype(case.recorded.public.features.dtype, np.floating):
        raise ConfigError(
            "attacks on one institution's update look for samples of numbers, such as images or rows of a table, and these are token ids: leave "
            "them out by --attacks none; `--parts tokens` reads words, in a federation of its own"
        )
    return case


def _alike(guess: NDArray[Any], truth: NDArray[Any]) -> float:
    """Mean cosine similarity of features, centred on their mean over the true images where there are several."""
    norms = np.linalg.norm(guess, axis=1) * np.linalg.norm(truth, axis=1)
    return float(((guess * truth).sum(axis=1) / np.maximum(norms, 1e-12)).mean())


def _picture(case: Case, attack: str, pairs: Sequence[Any], mean: NDArray[Any], folder: Path) -> str:
    genesis = case.recorded.genesis
    if len(genesis.sample_shape) != 3 or genesis.config.data.of_features:  # noqa: PLR2004 -- C, H, W
        return ""
    most = 8
    truth = [image for t, _ in pairs for image in t][:most]
    guess = [image for _, g in pairs for image in g][:most]
    name = f"{case.subject.name}-{attack.lower().replace(', ', '-').replace(' ', '-')}-batch{case.setting['batch']}.png"
    images.keep_values(folder / name, truth, guess)
    images.grid(
        folder / name,
        {"true": truth, "recovered": guess, "blind guess": [mean] * len(truth)},
        f"{case.subject.label}: {attack}, batch {case.setting['batch']}",
    )
    return name


def _finding(
    case: Case,
    family: Family,
    attack: JudgedAttack,
    metric: str,
    values: Sequence[float],
    blind: Sequence[float],
    success: float,
    *,
    more: dict[str, float] | None = None,
    picture: str = "",
) -> Finding:
    return Finding(
        family=family, attack=attack.title, source=attack.source, adversary=case.subject.adversary,
        method=case.subject.label, encrypted=case.subject.encrypted, setting=case.setting, metric=metric,
        found=mean_interval(values), blind=mean_interval(blind), gain=gain_interval(values, blind), success=success,
        trials=len(values), method_of_interval=_INTERVAL, more=more or {}, picture=picture,
    )  # fmt: skip
