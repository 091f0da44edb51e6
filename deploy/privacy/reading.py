"""Inversion and label inference on one recorded run, judged against the truth and a blind guess."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from common.masking import Bools
from deploy.privacy import images
from deploy.privacy.closed import closed_form
from deploy.privacy.intervals import gain_interval, mean_interval
from deploy.privacy.inversion import Effort, Reconstruction, Target, search
from deploy.privacy.labels import as_labels, certain, infer_counts, prior, right
from deploy.privacy.matching import Matcher
from deploy.privacy.observations import Observation, in_collusion, on_the_wire
from deploy.privacy.results import Finding
from deploy.privacy.solving import MATCHED, MOST_UNKNOWNS, solve
from deploy.privacy.stage import Stage, Victim
from deploy.privacy.subjects import Subject

SIMILAR, EXACT = 0.6, 0.99
"""What counts as success: structural similarity of an image, share of the labels that are right."""
_SOURCES = {
    "closed form": "Phong et al. 2017; Lu et al. 2022",
    "DLG": "Zhu, Liu, Han 2019",
    "iDLG": "Zhao, Mopuri, Bilen 2020",
    "cosine": "Geiping et al. 2020",
    "cosine, labels known": "Geiping et al. 2020",
    "labels": "Zhao et al. 2020; Geng et al. 2021",
}
_BOOTSTRAP = "Student's t over victims, paired with the blind guess"


@dataclass(frozen=True)
class Case:
    """A recorded run and the round of it that is attacked."""

    stage: Stage
    subject: Subject
    number: int
    victims: Sequence[Victim]

    @classmethod
    def of(cls, stage: Stage, subject: Subject, most: int) -> Case:
        """The first or last update round of a run, at most so many victims; a colluding institution is none."""
        number = stage.update_rounds[-1 if subject.last else 0]
        victims = [v for v in stage.victims(number) if subject.adversary != "collusion" or v.index != 0]
        return cls(stage, subject, number, victims[:most])

    def observation(self, victim: Victim) -> Observation:
        """What the adversary has of a victim's update."""
        if self.subject.adversary == "collusion":
            return in_collusion(self.stage.collusion, victim.seen)
        return on_the_wire(self.stage.genesis, self.stage.auditor.sums[self.number].plan, victim.seen)

    def target(self) -> Target:
        """All victims' updates as the attacks take them."""
        matcher, training = self.stage.matcher(self.number), self.stage.genesis.config.training
        observations = [self.observation(victim) for victim in self.victims]
        observed = [matcher.observed(o.update, v.weight) for o, v in zip(observations, self.victims, strict=True)]
        known = [torch.from_numpy(o.known[matcher.coordinates]) for o in observations]
        public = self.stage.public.features
        return Target(
            torch.stack(observed), torch.stack(known), self._tensors(matcher.coordinates), len(self.victims[0].batches),
            min(training.batch_size, len(self.victims[0].batches[0])), tuple(self.stage.genesis.sample_shape),
            float(public.min()), float(public.max()), self.stage.genesis.outputs,
        )  # fmt: skip

    def _tensors(self, coordinates: Bools) -> torch.Tensor:
        return torch.from_numpy(self.stage.genesis.layout.tensor_of[coordinates].astype(np.int64))

    @property
    def setting(self) -> dict[str, int | float | str]:
        """What a reader must know of it."""
        config = self.stage.genesis.config
        return {
            "batch": config.training.batch_size,
            "steps": len(self.victims[0].batches),
            "round": self.number,
            "model": config.model.source + (", pretrained" if config.model.pretrain.epochs else ""),
        }


def read_labels(case: Case, *, seed: int = 0) -> Finding:
    """Label and count inference, beside the prior."""
    target, matcher = case.target(), case.stage.matcher(case.number)
    counts = infer_counts(matcher, case.stage.genesis.layout, target, seed)
    guess = prior(case.stage.public.labels, target.outputs, target.steps * target.batch)
    truth = [victim.samples.labels for victim in case.victims]
    found = [right(row, labels) for row, labels in zip(counts, truth, strict=True)]
    blind = [right(guess, labels) for labels in truth]
    return _finding(case, "labels", "labels", "share of labels right", found, blind, EXACT)


def invert(case: Case, attack: str, effort: Effort, pictures: Path, *, seed: int = 0) -> Finding:
    """One inversion attack on all victims; `attack`: closed form, DLG, iDLG, cosine, or `cosine, labels known`."""
    target, matcher = case.target(), case.stage.matcher(case.number)
    made = _attacked(case, attack, effort, seed)
    span = target.high - target.low
    mean = case.stage.public.features.mean(axis=0, dtype=np.float64)
    found, blind, noise, features, pairs = [], [], [], [], []
    for victim, recovered in zip(case.victims, made.images.numpy(), strict=True):
        truth = victim.samples.features.astype(np.float64)
        guess = images.matched(recovered, truth)
        pairs.append((truth, guess))
        found.append(float(np.mean([images.ssim(a, b, span) for a, b in zip(guess, truth, strict=True)])))
        blind.append(float(np.mean([images.ssim(mean, b, span) for b in truth])))
        noise.append(float(np.mean([images.psnr(a, b, span) for a, b in zip(guess, truth, strict=True)])))
        features.append(_alike(matcher.features(guess), matcher.features(truth)))
    picture = _picture(case, attack, pairs, mean, pictures)
    more = {
        "PSNR, dB": float(np.mean(noise)),
        "feature similarity": float(np.mean(features)),
        "recovered": float(np.mean([f >= SIMILAR for f in found])),
        "mismatch": float(made.loss.median()),
    }
    return _finding(case, "inversion", attack, "SSIM", found, blind, SIMILAR, more=more, picture=picture)


def _attacked(case: Case, attack: str, effort: Effort, seed: int) -> Reconstruction:
    target, matcher = case.target(), case.stage.matcher(case.number)
    if attack == "closed form":
        return _solved(case, target)
    squared = attack in ("DLG", "iDLG")
    if attack == "cosine, labels known":
        labels = torch.stack([torch.stack([torch.from_numpy(b.labels) for b in v.batches]) for v in case.victims])
    elif attack == "DLG":
        labels = None
    else:
        counts = infer_counts(matcher, case.stage.genesis.layout, target, seed)
        labels = as_labels(counts, target.steps, target.batch)
    if target.steps * target.batch * int(np.prod(target.shape)) > MOST_UNKNOWNS:
        return search(matcher, target, effort, labels, seed, squared=squared)
    public = torch.from_numpy(case.stage.public.features)
    sure = certain(case.stage.genesis.layout, target, matcher.coordinates)
    if labels is None or attack == "cosine, labels known" or target.steps * target.batch > 1 or sure.all():
        return solve(matcher, target, effort, labels, public, seed, squared=squared)
    return _every_label(matcher, target, effort, labels, public, seed, squared=squared)


def _every_label(
    matcher: Matcher,
    target: Target,
    effort: Effort,
    guess: torch.Tensor,
    public: torch.Tensor,
    seed: int,
    *,
    squared: bool,
) -> Reconstruction:
    """A batch of one whose label cannot be read off: every label is tried once, the guess first, until one matches."""
    once, best = replace(effort, restarts=1), []
    for victim in range(len(target)):
        one, first = target.one(victim), int(guess[victim].flatten()[0])
        order = [first, *(label for label in range(target.outputs) if label != first)]
        made: Reconstruction | None = None
        for turn, label in enumerate(order):
            tried = solve(
                matcher, one, once, torch.full((1, 1, 1), label), public, seed + 31 * victim + turn, squared=squared
            )
            if made is None or float(tried.loss[0]) < float(made.loss[0]):
                made = tried
            if float(made.loss[0]) < MATCHED:
                break
        assert made is not None  # noqa: S101 -- there is at least one label
        best.append(made)
    return Reconstruction(*(torch.cat([getattr(made, part) for made in best]) for part in ("images", "labels", "loss")))


def _solved(case: Case, target: Target) -> Reconstruction:
    genesis, matcher = case.stage.genesis, case.stage.matcher(case.number)
    middle = (target.low + target.high) / 2
    samples = target.steps * target.batch
    found = []
    for observed, known in zip(target.observed.numpy(), target.known.numpy(), strict=True):
        gradient, have = np.zeros(genesis.layout.size), np.zeros(genesis.layout.size, dtype=bool)
        gradient[matcher.coordinates], have[matcher.coordinates] = observed, known
        image = closed_form(genesis.layout, genesis.dictionaries, gradient, have, target.shape, middle)
        if image is None:
            image = np.full(target.shape, middle)
        found.append(np.repeat(image[None].clip(target.low, target.high), samples, axis=0))
    none = torch.zeros(len(target), samples, dtype=torch.int64)
    return Reconstruction(torch.from_numpy(np.stack(found)), none, torch.zeros(len(target)))


def _alike(found: NDArray[Any], truth: NDArray[Any]) -> float:
    """Mean cosine similarity of features, centred on their mean over the true images where there are several."""
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(truth, axis=1)
    return float(((found * truth).sum(axis=1) / np.maximum(norms, 1e-12)).mean())


def _picture(case: Case, attack: str, pairs: Sequence[Any], mean: NDArray[Any], folder: Path) -> str:
    if len(case.stage.genesis.sample_shape) != 3:  # noqa: PLR2004 -- C, H, W
        return ""
    most = 8
    truth = [image for t, _ in pairs for image in t][:most]
    guess = [image for _, g in pairs for image in g][:most]
    name = f"{case.subject.name}-{attack.lower().replace(', ', '-').replace(' ', '-')}-batch{case.setting['batch']}.png"
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        folder / Path(name).with_suffix(images.VALUES), truth=np.stack(truth), recovered=np.stack(guess)
    )
    images.grid(
        folder / name,
        {"true": truth, "recovered": guess, "blind guess": [mean] * len(truth)},
        f"{case.subject.label}: {attack}, batch {case.setting['batch']}",
    )
    return name


def _finding(
    case: Case,
    family: Any,
    attack: str,
    metric: str,
    found: Sequence[float],
    blind: Sequence[float],
    success: float,
    *,
    more: dict[str, float] | None = None,
    picture: str = "",
) -> Finding:
    note = "" if not case.subject.encrypted else "ciphertexts were read as if they were values: there is nothing else"
    return Finding(
        family=family, attack=attack, source=_SOURCES[attack], adversary=case.subject.adversary,
        method=case.subject.label, encrypted=case.subject.encrypted, setting=case.setting, metric=metric,
        found=mean_interval(found), blind=mean_interval(blind), gain=gain_interval(found, blind), success=success,
        trials=len(found), method_of_interval=_BOOTSTRAP, more=more or {}, picture=picture, note=note,
    )  # fmt: skip
