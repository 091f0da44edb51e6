"""Attack every method on runs of its own, and write down what was found.

Two parts: attacks on data, where some of it is readable, and checks of ciphertexts, where all is encrypted.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError
from dictpfl.deploy.attacks import images
from dictpfl.deploy.attacks.active import attempts
from dictpfl.deploy.attacks.case import Case
from dictpfl.deploy.attacks.ciphertexts import checked, lengthened
from dictpfl.deploy.attacks.defaults import DEFAULT_ATTACKS, DEFAULT_PARTS
from dictpfl.deploy.attacks.gradient_model import require_attackable
from dictpfl.deploy.attacks.inversion import Effort
from dictpfl.deploy.attacks.methods import FINAL_PRIVATE, Subject, chosen, replace_section, resized
from dictpfl.deploy.attacks.observations import GRANTED
from dictpfl.deploy.attacks.recorded import RecordedRun, play
from dictpfl.deploy.attacks.registry import FederationAttack, Tools, UpdateAttack, attack_of
from dictpfl.deploy.attacks.results import (
    OVERVIEW,
    PICTURES,
    RESULTS,
    Check,
    CiphertextCheck,
    Family,
    Finding,
    PrivacyResults,
    Seen,
    best_by_method,
)
from dictpfl.deploy.runs.run import machine_facts, versions

_BEGUN = "attack.begun"
"""File in a folder that an attack works in: what a killed one leaves is the next one's to clear away."""
_RUNS = "attacked"
"""Folder of the attacked runs: not `runs`, where simulations of a folder that is `--out` too lie by default."""
DEFAULT = (
    "plaintext", "fedml-he-10", "fedml-he-30", "fedml-he-50", "fedml-he-70", "fedml-he-90", "fedhe-topk", "fedhe-full",
    "dictpfl", "dictpfl-unpruned", "dictpfl-identity", "dictpfl-collusion",
)  # fmt: skip

CHECKED: frozenset[Family] = frozenset({"inversion", "labels", "tokens", "property", "membership"})
"""Families whose attacks must succeed on plaintext, or count as broken."""


@dataclass(frozen=True)
class Settings:
    """Targets and strength of an attack.

    Attributes:
        methods: names of `dictpfl.deploy.attacks.methods`.
        batches: samples of a local step.
        attacks: names of attacks on the update of every method that leaves values readable (`dictpfl.deploy.attacks.registry`).
        victims: most institutions attacked in a run.
        effort: starts and iterations of inversion.
        seed: of the attackers' own randomness.
        keep: leave the runs in the folder.
        parts: names of attacks with federations of their own; with any of them, active attempts are made as well.
    """

    methods: Sequence[str] = DEFAULT
    batches: Sequence[int] = (1,)
    attacks: Sequence[str] = DEFAULT_ATTACKS
    victims: int = 4
    effort: Effort = field(default_factory=Effort)
    seed: int = 0
    keep: bool = False
    parts: Sequence[str] = DEFAULT_PARTS


def attack(
    path: Path | str,
    out: Path | str,
    settings: Settings | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    on_finding: Callable[[Finding], None] | None = None,
) -> PrivacyResults:
    """Run every method, attack or check it; write privacy.json and pictures into `out`.

    Args:
        path: configuration; what it protects by is changed from method to method.
        out: folder, made if missing; an earlier attack in it is replaced.
        settings: what and how hard; None: the default.
        overrides: dotted settings that win over the file.
        on_finding: called with each finding as it is made.

    Raises:
        ConfigError: unknown methods or attacks, a batch that no attack takes, a configuration that these attacks do not simulate, a folder with other things.
        DictPFLError: a run failed.
    """
    began, settings = time.monotonic(), settings or Settings()
    subjects = chosen(settings.methods)
    wanted = dict(overrides or {})
    configs = {
        (subject.name, batch): _config(subject, path, {**wanted, "training.batch_size": batch})
        for subject in subjects
        for batch in (settings.batches[:1] if subject.encrypted else settings.batches)  # encryption knows no batch
    }
    named = {name: attack_of(name) for name in [*settings.attacks, *settings.parts]}
    on_updates = {name: a for name, a in named.items() if isinstance(a, UpdateAttack)}
    on_federations = {name: a for name, a in named.items() if isinstance(a, FederationAttack)}
    _require_takers(on_updates, settings.batches)
    seen: list[Seen] = []
    findings: list[Finding] = []
    ciphertexts: list[CiphertextCheck] = []
    skipped = unasked(on_updates, settings.batches)
    played: dict[bytes, RecordedRun] = {}

    def note(some: Iterator[Finding]) -> None:
        for finding in some:
            findings.append(finding)
            if on_finding:
                on_finding(finding)

    with _place(Path(out).resolve(), keep=settings.keep) as folder:
        tools = Tools(settings.effort, folder / PICTURES, settings.seed)
        for (name, batch), config in configs.items():
            subject = next(s for s in subjects if s.name == name)
            if subject.adversary == "collusion" and config.defences.masks:
                skipped.append(
                    f"{subject.label}, samples from one update: defences.masks is on, so that it opens to noise"
                )
                continue
            recorded = _recorded(config, folder / _RUNS, played)
            if subject.encrypted:
                ciphertexts += checked(recorded.folder, subject.label)
            else:
                case = Case.of(recorded, subject, settings.victims)
                note(finding for a in on_updates.values() if a.takes(batch) for finding in a.run(case, tools))
            if name == settings.methods[-1] or name == "dictpfl":
                seen = recorded.seen()
        config = FederationConfig.load(path, wanted)
        for name, federation_attack in on_federations.items():
            note(federation_attack.run(config, folder / _RUNS / name.replace(":", "."), tools))
        picture = _overview(findings, folder / PICTURES)
        detections = attempts(detections_run(config, folder / _RUNS / "active")) if on_federations else []
    results = PrivacyResults(
        name=config.name,
        config=config.model_dump(mode="json"),
        granted=list(GRANTED),
        seen=seen,
        findings=findings,
        checks=checks_of(findings),
        ciphertexts=ciphertexts,
        overview=picture,
        detections=detections,
        skipped=skipped,
        machine=machine_facts() | {"versions": versions()},
        seconds=time.monotonic() - began,
    )
    results.save(folder)
    return results


def checks_of(findings: Sequence[Finding]) -> list[Check]:
    """Compare each attack with what it had to reach where nothing is encrypted, at its easiest setting."""
    return [
        Check(attack=f.attack, setting=f.setting, metric=f.metric, required=f.success, found=f.found.value)
        for f in findings
        if f.family in CHECKED
        and (f.method == "plaintext" or (f.family == "membership" and f.method != FINAL_PRIVATE))
        and (f.family == "property" or f.setting.get("batch", 1) == 1)
    ]


def unasked(attacks: Mapping[str, UpdateAttack], batches: Sequence[int]) -> list[str]:
    """Say what `checks_of` cannot compare: attacks on updates have to succeed on single samples alone, their easiest setting."""
    if not attacks or 1 in batches:
        return []
    return [
        "whether attacks on updates work even on plaintext, which is asked of batches of one sample (--batches 1,...): what they did not "
        "find in larger ones means nothing by itself"
    ]


def _overview(findings: Sequence[Finding], pictures: Path) -> str:
    """Draw the best reconstruction of each method at the smallest batch, in one picture; empty where there is none."""
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


def _require_takers(attacks: Mapping[str, UpdateAttack], batches: Sequence[int]) -> None:
    for batch in batches:
        if attacks and not any(a.takes(batch) for a in attacks.values()):
            limits = ", ".join(f"{name} at most {a.largest_batch}" for name, a in attacks.items())
            raise ConfigError(
                f"--batches {batch}: no attack of --attacks takes so many samples: {limits}; name another attack, such as "
                "cosine, or smaller batches"
            )


def detections_run(config: FederationConfig, folder: Path) -> RecordedRun:
    """Play an encrypted run of three rounds for `dictpfl.deploy.attacks.active`."""
    changes = {
        "federation": resized(config.federation, 3, rounds=3),
        # An attempt adds uploads up itself, and has nobody to take masks off; tags are what refuses, with masks or without.
        "defences": replace_section(config.defences, masks=False),
    }
    return play(config.model_copy(update=changes), folder / "run")


def _config(subject: Subject, path: Path | str, overrides: Mapping[str, Any]) -> FederationConfig:
    config = subject.config(path, overrides)
    require_attackable(config.training)
    return lengthened(config) if subject.encrypted else config


def _recorded(config: FederationConfig, folder: Path, played: dict[bytes, RecordedRun]) -> RecordedRun:
    """Play the run of a configuration, once, however many attack it."""
    key = config.canonical()
    if key not in played:
        torch.set_num_threads(config.training.threads)
        place = folder / f"{len(played):03d}"
        place.mkdir(parents=True)
        played[key] = play(config, place)
    return played[key]


@contextmanager
def _place(folder: Path, *, keep: bool) -> Iterator[Path]:
    """Give an empty folder to work in; take the runs out of it in the end, keys included, and after an error all that was made."""
    begun = _emptied(folder) / _BEGUN
    begun.touch()
    try:
        yield folder
    except BaseException:
        if not keep:
            shutil.rmtree(folder / PICTURES, ignore_errors=True)
        raise
    finally:
        if not keep:
            shutil.rmtree(folder / _RUNS, ignore_errors=True)
        begun.unlink(missing_ok=True)


def _emptied(folder: Path) -> Path:
    if folder.is_dir() and any(folder.iterdir()):
        if not any((folder / name).exists() for name in (RESULTS, _BEGUN)):
            raise ConfigError(f"{folder} is not empty and holds no attack; choose another --out")
        for name in (_RUNS, PICTURES):
            shutil.rmtree(folder / name, ignore_errors=True)
        (folder / RESULTS).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def harder(effort: Effort, factor: float) -> Effort:
    """Raise an effort to that many times the iterations, at least one."""
    return replace(effort, iterations=max(1, round(effort.iterations * factor)))
