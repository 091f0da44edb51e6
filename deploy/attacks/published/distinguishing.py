"""Distinguishing game: tell from sizes and times that the coordinator sees which of two data sets an institution has.

Two worlds differ in the data of institution 0 and in nothing else. Runs of both are recorded; a classifier is trained on
the numbers in the coordinator's view of some of them and judged on the others. 0.5 is what a coin reaches. The bytes of
ciphertexts are left to the checks that can fail (`dictpfl.deploy.attacks.ciphertexts`).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split

from dictpfl.client.folder import TRAIN, InstitutionSettings
from dictpfl.client.institution import forget_institutions
from dictpfl.common.config import FederationConfig
from dictpfl.common.files import owner_only
from dictpfl.deploy.attacks.intervals import auc_interval, auc_method, constant, shifted
from dictpfl.deploy.attacks.methods import PADDED, replace_section, resized
from dictpfl.deploy.attacks.registry import ATTACKS, FederationAttack, Tools
from dictpfl.deploy.attacks.results import Finding
from dictpfl.deploy.attacks.views import ServerView
from dictpfl.deploy.simulation.founding import COORDINATOR, Founded, found, read_samples
from dictpfl.deploy.simulation.local import run_local
from dictpfl.server.recording import RECORDING

GROUPS = ("sizes", "timing")
"""Groups of what the coordinator sees: counts and lengths; times."""
RUNS, TIMED_RUNS = 400, 60
"""Runs of a game, and of one in which times matter, whose runs with answers held back take long."""
EVERY = 0.5
"""Seconds to whose multiples answers are held back (`reply_every_seconds`)."""


@dataclass(frozen=True)
class World:
    """Way in which institution 0's samples are made from its own.

    Attributes:
        name: for tables.
        keep: picks indices by labels and generator.
    """

    name: str
    keep: Callable[[NDArray[np.int64], np.random.Generator], NDArray[np.int64]]


def low_digits(labels: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.int64]:
    """Pick thirty samples, repeated where there are fewer, of the lower half of the classes."""
    return random.choice(np.flatnonzero(labels < 5), 30)  # noqa: PLR2004 -- half of ten


def high_digits(labels: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.int64]:
    """Pick thirty samples of the upper half."""
    return random.choice(np.flatnonzero(labels >= 5), 30)  # noqa: PLR2004 -- half of ten


def few(labels: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.int64]:
    """Pick ten samples of any class."""
    return random.choice(labels.size, 10)


def many(labels: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.int64]:
    """Pick two hundred samples of any class."""
    return random.choice(labels.size, 200)


CLASSES = (World("low digits", low_digits), World("high digits", high_digits))
COUNTS = (World("10 samples", few), World("200 samples", many))


def play_once(founded: Founded, folder: Path, world: World, run: int, reply_every: float = 0.0) -> ServerView:
    """Play one run in a world, from a copy of a founded federation; the folder is gone afterwards."""
    shutil.copytree(founded.folder, folder)
    institution = folder / "institutions" / "institution-000"
    random = np.random.default_rng((run, len(world.name)))
    samples = read_samples(institution / TRAIN, founded.genesis.config)
    samples.take(world.keep(samples.labels, random)).save(institution / TRAIN)
    if reply_every:
        for every in sorted((folder / "institutions").iterdir()):
            InstitutionSettings.load(every).model_copy(update={"reply_every_seconds": reply_every}).save(every)
    owner_only(folder / COORDINATOR / RECORDING)
    try:
        run_local(folder / COORDINATOR, folder / "institutions", founded.genesis.config.federation.participants)
        return ServerView.read(folder / COORDINATOR)
    finally:
        forget_institutions()
        shutil.rmtree(folder)


def features(view: ServerView) -> Mapping[str, NDArray[np.float64]]:
    """Turn the sizes and times that a coordinator sees into numbers, by group; of the same length for runs of the same rounds."""
    sizes: list[float] = []
    times: list[float] = []
    for known in view.rounds:
        sizes += [known.ciphertexts, known.bytes_up, len(known.rejected), len(view.aggregates[known.round].blob)]
        times += [known.ended - known.started, known.fold_seconds]
    sizes += [float(len(seen.blob)) for seen in view.uploads]
    events = list(view.events)
    sizes += [len(events), *(float(event.get("bytes", 0)) for event in events)]
    times += [later["at"] - earlier["at"] for earlier, later in pairwise(events)]
    arrays = (np.array(sizes), np.array(times))
    return dict(zip(GROUPS, arrays, strict=True))


def played(
    config: FederationConfig, folder: Path, worlds: Sequence[World], runs: int, *, reply_every: float = 0.0
) -> tuple[Mapping[str, NDArray[np.float64]], NDArray[np.int64]]:
    """Play so many runs, half of them in each world in random order: features by group (runs, features), and the worlds.

    One federation is founded; each run starts from a copy of it, with institution 0's samples and all encryption drawn
    anew. Worlds are shuffled, so that the machine's load says nothing of them.
    """
    founded = found(config, folder / "founded")
    order = np.random.default_rng(7).permutation(np.arange(runs) % 2)
    rows = [
        features(play_once(founded, folder / "run", worlds[world], run, reply_every)) for run, world in enumerate(order)
    ]
    forget_institutions()
    width = {group: max(row[group].size for row in rows) for group in GROUPS}
    stacked = {
        group: np.stack([np.pad(row[group], (0, width[group] - row[group].size)) for row in rows]) for group in GROUPS
    }
    return stacked, order.astype(np.int64)


def judge(
    stacked: Mapping[str, NDArray[np.float64]],
    worlds: NDArray[np.int64],
    groups: Sequence[str],
    label: str,
    setting: Mapping[str, Any],
    *,
    seed: int = 0,
) -> Finding:
    """Judge a random forest on some groups of features by its AUC, trained on a random half of the runs, tested on the others.

    Not by cross-validation, whose scores depend on each other: DeLong's interval would be too short.
    """
    data = np.concatenate([stacked[group] for group in groups], axis=1)
    forest = RandomForestClassifier(n_estimators=200, min_samples_leaf=2, random_state=seed)
    train, test = train_test_split(np.arange(worlds.size), test_size=0.5, stratify=worlds, random_state=seed)
    scores = forest.fit(data[train], worlds[train]).predict_proba(data[test])[:, 1]
    area = auc_interval(scores[worlds[test] == 1], scores[worlds[test] == 0])
    return Finding(
        family="distinguishing", attack=f"forest on {', '.join(groups)}", source="this project's distinguishing game",
        adversary="server", method=label, encrypted=True, setting=dict(setting), metric="AUC", found=area,
        blind=constant(0.5), gain=shifted(area, 0.5), success=0.75, trials=int(test.size),
        method_of_interval=auc_method(area, int(worlds[test].sum()), "the half of the runs that was held out"),
    )  # fmt: skip


def small(config: FederationConfig) -> FederationConfig:
    """Configure the game: three institutions, a model of several ciphertexts, pruned from the third round on."""
    changes = {
        "federation": resized(config.federation, 3, rounds=4, snapshot_every=0),
        "data": replace_section(config.data, limit=700),
        "model": replace_section(config.model, source="mlp", options={"hidden": [256, 64]}),
        "decomposition": replace_section(config.decomposition, enabled=False),
        "pruning": replace_section(config.pruning, tau=2, s=0.7),
        "training": replace_section(config.training, steps=0, epochs=1, batch_size=16),
    }
    return config.model_copy(update=changes)


def with_padding(config: FederationConfig, pad_to: str) -> FederationConfig:
    """Configure the lengths of uploads: see `encryption.pad_to`."""
    return config.model_copy(update={"encryption": replace_section(config.encryption, pad_to=pad_to)})


@ATTACKS.register("worlds")
class Worlds(FederationAttack):
    """Classes that an institution has, from sizes and times of 400 runs; with and without padding."""

    def run(self, config: FederationConfig, folder: Path, _tools: Tools) -> Iterator[Finding]:
        """See `FederationAttack.run`."""
        for pad_to, label in PADDED.items():
            game = with_padding(small(config), pad_to)
            stacked, truth = played(game, folder / pad_to, CLASSES, RUNS)
            setting: dict[str, Any] = {
                "runs": RUNS, "worlds": "classes 0-4 or 5-9 at institution 0", "institutions": 3, "rounds": game.federation.rounds,
                "bytes up a run": float(stacked["sizes"][:, 1 : 4 * game.federation.rounds : 4].sum(axis=1).mean()),
            }  # fmt: skip
            for groups in (GROUPS, ("sizes",), ("timing",)):
                yield judge(stacked, truth, groups, label, setting)


@ATTACKS.register("times")
class Times(FederationAttack):
    """Number of samples of an institution, from the time that it takes; with and without padding and answers held back."""

    def run(self, config: FederationConfig, folder: Path, _tools: Tools) -> Iterator[Finding]:
        """See `FederationAttack.run`."""
        for pad_to, every in product(("none", "steps"), (0.0, EVERY)):
            game = with_padding(small(config), pad_to)
            label = PADDED[pad_to] + (f", reply_every_seconds = {every}" if every else "")
            stacked, truth = played(game, folder / f"{pad_to}-{every}", COUNTS, TIMED_RUNS, reply_every=every)
            setting: dict[str, Any] = {
                "runs": TIMED_RUNS, "worlds": "10 or 200 samples at institution 0", "institutions": 3, "rounds": game.federation.rounds,
                "seconds a run": float(stacked["timing"].sum(axis=1).mean()),
            }  # fmt: skip
            for groups in (("timing",), ("sizes",)):
                yield judge(stacked, truth, groups, label, setting)
