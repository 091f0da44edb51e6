"""The distinguishing game: can the coordinator tell, from all that it sees, which of two data sets an institution has?

Two worlds differ in the data of institution 0 and in nothing else. Runs of both are recorded; a classifier is trained on
everything in the coordinator's view of some of them and judged on the others. 0.5 is what a coin reaches.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split

from client.data import Samples
from client.institution import forget_institutions
from client.site import TRAIN, SiteSettings
from common.config import FederationConfig
from common.keys import owner_only
from deploy.engines.local import run_local
from deploy.founding import COORDINATOR, Founded, found
from deploy.privacy.intervals import auc_interval, constant, shifted
from deploy.privacy.results import Finding
from deploy.privacy.views import ServerView
from server.recording import RECORDING

_BINS = 16
GROUPS = ("sizes", "bytes", "timing")
"""What the coordinator sees, in three groups: counts and lengths; the bytes of uploads and sums; times."""


@dataclass(frozen=True)
class World:
    """How institution 0's samples are made from its own: `keep` picks indices by label and generator."""

    name: str
    keep: Callable[[NDArray[np.int64], np.random.Generator], NDArray[np.int64]]


def low_digits(labels: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.int64]:
    """Thirty samples, repeated where there are fewer, of the lower half of the classes."""
    return random.choice(np.flatnonzero(labels < 5), 30)  # noqa: PLR2004 -- half of ten


def high_digits(labels: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.int64]:
    """Thirty samples of the upper half."""
    return random.choice(np.flatnonzero(labels >= 5), 30)  # noqa: PLR2004 -- half of ten


def few(labels: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.int64]:
    """Ten samples of any class."""
    return random.choice(labels.size, 10)


def many(labels: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.int64]:
    """Two hundred samples of any class."""
    return random.choice(labels.size, 200)


CLASSES = (World("low digits", low_digits), World("high digits", high_digits))
COUNTS = (World("10 samples", few), World("200 samples", many))


def play_once(founded: Founded, folder: Path, world: World, run: int, reply_every: float = 0.0) -> ServerView:
    """One run in a world, from a copy of a founded federation; the folder is gone afterwards."""
    shutil.copytree(founded.folder, folder)
    site = folder / "sites" / "institution-000"
    random = np.random.default_rng((run, len(world.name)))
    samples = Samples.load(site / TRAIN)
    samples.take(world.keep(samples.labels, random)).save(site / TRAIN)
    if reply_every:
        for every in sorted((folder / "sites").iterdir()):
            SiteSettings.load(every).model_copy(update={"reply_every_seconds": reply_every}).save(every)
    owner_only(folder / COORDINATOR / RECORDING)
    try:
        run_local(folder / COORDINATOR, folder / "sites", founded.genesis.config.federation.participants)
        return ServerView.read(folder / COORDINATOR)
    finally:
        forget_institutions()
        shutil.rmtree(folder)


def features(view: ServerView) -> Mapping[str, NDArray[np.float64]]:
    """Everything that a coordinator sees, as numbers, by group; of the same length for runs of the same rounds."""
    sizes: list[float] = []
    shapes: list[float] = []
    times: list[float] = []
    for known in view.rounds:
        sizes += [known.ciphertexts, known.bytes_up, len(known.rejected), len(view.aggregates[known.round].blob)]
        shapes += _bytes(view.aggregates[known.round].blob)
        times += [known.ended - known.started, known.fold_seconds]
    for seen in view.uploads:
        sizes.append(len(seen.blob))
        shapes += _bytes(seen.blob)
    events = list(view.events)
    sizes += [len(events), *(float(event.get("bytes", 0)) for event in events)]
    times += [later["at"] - earlier["at"] for earlier, later in pairwise(events)]
    arrays = (np.array(sizes), np.array(shapes), np.array(times))
    return dict(zip(GROUPS, arrays, strict=True))


def _bytes(blob: bytes) -> list[float]:
    """How bytes are distributed, header included, and how each follows from the last."""
    data = np.frombuffer(blob, dtype=np.uint8)
    counts = np.bincount(data >> 4, minlength=_BINS) / data.size
    steps = np.abs(np.diff(data.astype(np.int16)))
    return [*counts, float(data.mean()), float(data.std()), float(steps.mean())]


def played(
    config: FederationConfig, folder: Path, worlds: Sequence[World], runs: int, *, reply_every: float = 0.0
) -> tuple[Mapping[str, NDArray[np.float64]], NDArray[np.int64]]:
    """Features of so many runs, half of them in each world in random order, by group (runs, features), and the worlds.

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
    """AUC of a random forest on some groups of features, trained on a random half of the runs and judged on the others.

    Not by cross-validation, whose scores depend on each other: DeLong's interval would be too short.
    """
    data = np.concatenate([stacked[group] for group in groups], axis=1)
    forest = RandomForestClassifier(n_estimators=200, min_samples_leaf=2, random_state=seed)
    train, test = train_test_split(np.arange(worlds.size), test_size=0.5, stratify=worlds, random_state=seed)
    scores = forest.fit(data[train], worlds[train]).predict_proba(data[test])[:, 1]
    found_auc = auc_interval(scores[worlds[test] == 1], scores[worlds[test] == 0])
    return Finding(
        family="distinguishing", attack=f"forest on {', '.join(groups)}", source="this project's distinguishing game",
        adversary="server", method=label, encrypted=True, setting=dict(setting), metric="AUC", found=found_auc,
        blind=constant(0.5), gain=shifted(found_auc, 0.5), success=0.75, trials=int(test.size),
        method_of_interval="DeLong over the half of the runs that was held out",
    )  # fmt: skip


def small(config: FederationConfig) -> FederationConfig:
    """The federation of the game: three institutions, a model of several ciphertexts, pruned from the third round on."""
    changes = {
        "federation": replace_section(config.federation, participants=3, rounds=4, snapshot_every=0),
        "data": replace_section(config.data, limit=700),
        "model": replace_section(config.model, source="mlp", options={"hidden": [256, 64]}),
        "decomposition": replace_section(config.decomposition, enabled=False),
        "pruning": replace_section(config.pruning, tau=2, s=0.7),
        "training": replace_section(config.training, steps=0, epochs=1, batch_size=16),
    }
    return config.model_copy(update=changes)


def replace_section(section: Any, **changes: Any) -> Any:
    """A section of the configuration with some fields changed."""
    return section.model_copy(update=changes)


def with_padding(config: FederationConfig) -> FederationConfig:
    """The same with uploads of constant size."""
    return config.model_copy(update={"encryption": replace_section(config.encryption, pad_uploads=True)})
