"""The parts of an attack beyond inversion, each on runs of its own: what `dictpfl attack` and the benchmark are made of.

A part gets the configuration under attack, an empty folder for its runs, the effort, and a folder for pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from client.site import GENESIS_WEIGHTS
from client.workbench import Workbench
from common.config import FederationConfig
from deploy.privacy import aggregate, game, membership, properties, tokens
from deploy.privacy.collusion import collusion_finding
from deploy.privacy.inversion import Effort
from deploy.privacy.reading import Case
from deploy.privacy.results import Finding
from deploy.privacy.stage import Stage, play
from deploy.privacy.subjects import SUBJECTS

Part = Callable[[FederationConfig, Path, Effort, Path], Iterator[Finding]]
CELLS = ((2, 1), (2, 4), (3, 1), (3, 4), (5, 1), (10, 1))
"""Institutions and batch of the institution's view, unless more is asked for."""
ALL_CELLS = tuple((institutions, batch) for institutions in (2, 3, 5, 10) for batch in (1, 4, 16))
MOST_SAMPLES, ALL_SAMPLES = 9, 36
"""Strange samples that are solved for together, in the default and the whole table: 36 images of 64 pixels are 2,304 unknowns."""
RUNS, TIMED_RUNS = 200, 60


def collusion(config: FederationConfig, folder: Path, _effort: Effort, _pictures: Path) -> Iterator[Finding]:
    """One institution and the coordinator open another's upload."""
    yield collusion_finding(play(config, folder / "run"), "dictpfl")


def members(config: FederationConfig, folder: Path, _effort: Effort, _pictures: Path) -> Iterator[Finding]:
    """Membership in the final model, which is the same with and without encryption."""
    stage = play(membership.federation(config), folder / "run")
    bench = Workbench(stage.genesis, stage.site(0) / GENESIS_WEIGHTS)
    yield from membership.membership(stage, bench.merged(stage.auditor.state), "any method's final model")


def shares(config: FederationConfig, folder: Path, _effort: Effort, _pictures: Path) -> Iterator[Finding]:
    """How much of a class an institution has."""
    for name in ("plaintext", "fedml-he-90", "fedhe-full", "dictpfl-unpruned"):
        stage = play(_as(name, properties.federation(config)), folder / name)
        yield properties.properties(Case.of(stage, SUBJECTS[name], most=10))


def words(config: FederationConfig, folder: Path, _effort: Effort, _pictures: Path) -> Iterator[Finding]:
    """Which words were in a batch."""
    runs = (("plaintext", 1, 4), ("plaintext", 2, 4), ("plaintext", 4, 4), ("fedml-he-70", 1, 4), ("fedhe-full", 1, 4),
            ("dictpfl-unpruned", 1, 4), ("dictpfl-identity", 1, 4), ("dictpfl-identity", 1, 16))  # fmt: skip
    for name, batch, rank in runs:
        stage = play(_as(name, tokens.federation(config, batch, rank)), folder / f"{name}-{batch}-{rank}")
        yield from tokens.read_tokens(Case.of(stage, SUBJECTS[name], most=6))


def sums(
    config: FederationConfig, folder: Path, effort: Effort, pictures: Path, cells: Sequence[tuple[int, int]] = CELLS,
    most: int = MOST_SAMPLES,
) -> Iterator[Finding]:  # fmt: skip
    """What an institution reads of the others' sum, by number of institutions and batch."""
    for institutions, batch in cells:
        stage = play(aggregate.federation(config, institutions, batch), folder / f"{institutions}-{batch}")
        yield from aggregate.read_the_sum(stage, effort, most=most, pictures=pictures)


def all_sums(config: FederationConfig, folder: Path, effort: Effort, pictures: Path) -> Iterator[Finding]:
    """The same for the whole table."""
    yield from sums(config, folder, effort, pictures, ALL_CELLS, ALL_SAMPLES)


def worlds(config: FederationConfig, folder: Path, _effort: Effort, _pictures: Path) -> Iterator[Finding]:
    """Which classes an institution has, from everything that the coordinator sees of 200 runs; with and without padding."""
    small = game.small(config)
    for label, one in (("dictpfl", small), ("dictpfl, pad_uploads", game.with_padding(small))):
        runs = RUNS if one is small else TIMED_RUNS
        stacked, truth = game.played(one, folder / label.replace(", ", "-"), game.CLASSES, runs)
        setting: dict[str, Any] = {
            "runs": runs, "worlds": "classes 0-4 or 5-9 at institution 0", "institutions": 3, "rounds": small.federation.rounds,
            "bytes up a run": float(stacked["sizes"][:, 1 : 4 * small.federation.rounds : 4].sum(axis=1).mean()),
        }  # fmt: skip
        for groups in (game.GROUPS, ("sizes",), ("bytes",), ("timing",)):
            yield game.judge(stacked, truth, groups, label, setting)


def times(config: FederationConfig, folder: Path, _effort: Effort, _pictures: Path) -> Iterator[Finding]:
    """How many samples an institution has, from the time that it takes; with and without answers held back."""
    small = game.small(config)
    for label, every in (("dictpfl", 0.0), ("dictpfl, reply_every_seconds = 0.5", 0.5)):
        place = folder / f"every-{every}"
        stacked, truth = game.played(small, place, game.COUNTS, TIMED_RUNS, reply_every=every)
        setting: dict[str, Any] = {
            "runs": TIMED_RUNS, "worlds": "10 or 200 samples at institution 0", "institutions": 3, "rounds": small.federation.rounds,
            "seconds a run": float(stacked["timing"].sum(axis=1).mean()),
        }  # fmt: skip
        for groups in (("timing",), ("sizes", "bytes")):
            yield game.judge(stacked, truth, groups, label, setting)


PARTS: Mapping[str, Part] = {
    "collusion": collusion,
    "membership": members,
    "property": shares,
    "tokens": words,
    "sums": sums,
}
"""Those that `dictpfl attack` tries after inversion."""
LONG_PARTS: Mapping[str, Part] = {"all-sums": all_sums, "worlds": worlds, "times": times}
"""Those that take longer: `dictpfl attack --parts`, and the benchmark."""


def _as(name: str, config: FederationConfig) -> FederationConfig:
    """A configuration with a subject's method."""
    subject = SUBJECTS[name]
    insecure = {"toy_insecure": True} if not subject.encrypted else {}
    return FederationConfig.of(config.model_dump(mode="json"), {**subject.settings, **insecure})


def detections_stage(config: FederationConfig, folder: Path) -> Stage:
    """An encrypted run of three rounds for `deploy.privacy.active`."""
    federation = game.replace_section(config.federation, participants=3, rounds=3)
    return play(config.model_copy(update={"federation": federation}), folder / "run")
