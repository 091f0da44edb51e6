"""Attacking every method on runs of its own, and writing down what was found."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from common.config import FederationConfig
from common.errors import ConfigError
from deploy.privacy import images
from deploy.privacy.active import attempts
from deploy.privacy.inversion import Effort
from deploy.privacy.matching import require_attackable
from deploy.privacy.observations import GRANTED
from deploy.privacy.parts import LONG_PARTS, PARTS, Part, detections_stage
from deploy.privacy.reading import EXACT, SIMILAR, Case, invert, read_labels
from deploy.privacy.results import OVERVIEW, PICTURES, RESULTS, Check, Finding, PrivacyResults, Seen, best_by_method
from deploy.privacy.stage import Stage, play
from deploy.privacy.subjects import Subject, chosen
from deploy.privacy.tokens import SUCCESS
from deploy.run import machine_facts, versions

SINGLE = ("closed form", "iDLG", "cosine")
"""Inversion attacks on a batch of one; larger batches get `cosine`."""
DEFAULT = (
    "plaintext", "fedml-he-10", "fedml-he-30", "fedml-he-50", "fedml-he-70", "fedml-he-90", "fedhe-topk", "fedhe-full",
    "dictpfl", "dictpfl-unpruned", "dictpfl-identity", "dictpfl-collusion",
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """What to attack and how hard.

    Attributes:
        methods: names of `deploy.privacy.subjects`. `batches`: samples of a local step.
        attacks: of a batch of one; None: all of them.
        victims: most institutions attacked in a run. `seed`: of the attackers' own randomness.
        keep: leave the runs in the folder.
        parts: what to try besides inversion and labels (`deploy.privacy.parts`), and `active`.
    """

    methods: Sequence[str] = DEFAULT
    batches: Sequence[int] = (1,)
    attacks: Sequence[str] | None = None
    victims: int = 4
    effort: Effort = field(default_factory=Effort)
    seed: int = 0
    keep: bool = False
    parts: Sequence[str] = tuple(PARTS)

    def attacks_on(self, batch: int) -> Sequence[str]:
        """Inversion attacks for a batch of this size."""
        if batch > 1:
            return ("cosine",)
        return SINGLE if self.attacks is None else self.attacks


def attack(
    path: Path | str,
    out: Path | str,
    settings: Settings | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    on_finding: Callable[[Finding], None] | None = None,
) -> PrivacyResults:
    """Run and attack every method; write privacy.json and pictures into `out`.

    Args:
        path: configuration; what it protects by is changed from method to method.
        out: folder, made if missing; an earlier attack in it is replaced.
        settings: what and how hard; None: the default.
        overrides: dotted settings that win over the file.
        on_finding: called with each finding as it is made.

    Raises:
        ConfigError: unknown methods, a configuration that these attacks do not simulate, a folder with other things.
        DictPFLError: a run failed.
    """
    began, settings = time.monotonic(), settings or Settings()
    subjects = chosen(settings.methods)
    wanted = dict(overrides or {})
    configs = {
        (subject.name, batch): _config(subject, path, {**wanted, "training.batch_size": batch})
        for subject in subjects
        for batch in settings.batches
    }
    for part in settings.parts:
        _part(part)
    folder = _emptied(Path(out).resolve())
    seen: list[Seen] = []
    findings: list[Finding] = []
    stages: dict[bytes, Stage] = {}
    for (name, batch), config in configs.items():
        subject = next(s for s in subjects if s.name == name)
        case = Case.of(_stage(config, folder / "runs", stages), subject, settings.victims)
        for finding in _findings(case, batch, settings, folder / PICTURES):
            findings.append(finding)
            if on_finding:
                on_finding(finding)
        if name == settings.methods[-1] or name == "dictpfl":
            seen = case.stage.seen()
    config = FederationConfig.load(path, wanted)
    for part in settings.parts:
        for finding in _part(part)(config, folder / "runs" / part, settings.effort, folder / PICTURES):
            findings.append(finding)
            if on_finding:
                on_finding(finding)
    picture = _overview(findings, folder / PICTURES)
    detections = attempts(detections_stage(config, folder / "runs" / "active")) if settings.parts else []
    if not settings.keep:
        shutil.rmtree(folder / "runs", ignore_errors=True)
    results = PrivacyResults(
        name=config.name,
        config=config.model_dump(mode="json"),
        granted=list(GRANTED),
        seen=seen,
        findings=findings,
        checks=checks_of(findings),
        overview=picture,
        detections=detections,
        machine=machine_facts() | {"versions": versions()},
        seconds=time.monotonic() - began,
    )
    results.save(folder)
    return results


def checks_of(findings: Sequence[Finding]) -> list[Check]:
    """What each attack had to reach where nothing is encrypted, at its easiest setting."""
    required = {"inversion": SIMILAR, "labels": EXACT, "tokens": SUCCESS, "property": 0.75, "membership": 0.6}
    return [
        Check(attack=f.attack, setting=f.setting, metric=f.metric, required=required[f.family], found=f.found.value)
        for f in findings
        if f.family in required
        and (f.method == "plaintext" or f.family == "membership")
        and (f.family == "property" or f.setting.get("batch", 1) == 1)
    ]


def _overview(findings: Sequence[Finding], pictures: Path) -> str:
    """The best reconstruction of each method at the smallest batch, in one picture; empty where there is none."""
    seen = [f for f in findings if f.family == "inversion" and f.picture]
    smallest = min((int(f.setting["batch"]) for f in seen), default=0)
    best = best_by_method(f for f in seen if f.setting["batch"] == smallest)
    if best:
        images.overview(
            pictures / OVERVIEW,
            {f"{f.method}\n{f.attack}, SSIM {f.found.value:.2f}": pictures / f.picture for f in best.values()},
            f"Images from one institution's update, batch {smallest}: the best attack on each method",
        )
    return OVERVIEW if best else ""


def _part(name: str) -> Part:
    known = {**PARTS, **LONG_PARTS}
    if name not in known:
        raise ConfigError(f"part {name!r}: expected some of {', '.join(known)}")
    return known[name]


def _findings(case: Case, batch: int, settings: Settings, pictures: Path) -> Any:
    yield read_labels(case, seed=settings.seed)
    for name in settings.attacks_on(batch):
        yield invert(case, name, settings.effort, pictures, seed=settings.seed)


def _config(subject: Subject, path: Path | str, overrides: Mapping[str, Any]) -> FederationConfig:
    config = subject.config(path, overrides)
    require_attackable(config.training)
    return config


def _stage(config: FederationConfig, folder: Path, stages: dict[bytes, Stage]) -> Stage:
    """The run of a configuration; played once, however many attack it."""
    key = config.canonical()
    if key not in stages:
        torch.set_num_threads(config.training.threads)
        place = folder / f"{len(stages):03d}"
        place.mkdir(parents=True)
        stages[key] = play(config, place)
    return stages[key]


def _emptied(folder: Path) -> Path:
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / RESULTS).exists():
            raise ConfigError(f"{folder} is not empty and holds no attack; choose another --out")
        for name in ("runs", PICTURES):
            shutil.rmtree(folder / name, ignore_errors=True)
        (folder / RESULTS).unlink()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def harder(effort: Effort, factor: float) -> Effort:
    """The same effort with that many times the iterations, at least one."""
    return replace(effort, iterations=max(1, round(effort.iterations * factor)))
