"""Shared state is the same, bit for bit, with data in memory or read by the batch, by however many processes."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
from PIL import Image

from tests.support.federations import tiny
from tests.support.harness import World


def test_digests_do_not_depend_on_where_samples_are_or_who_reads_them(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for label, number in itertools.product("ab", range(24)):
        (tmp_path / "scans" / label).mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 40000, (8, 8)) + 20000 * (label == "b")
        Image.fromarray(pixels.astype(np.uint16)).save(tmp_path / "scans" / label / f"{number}.png")
    digests = {}
    for lazy, workers in ((False, 0), (True, 0), (True, 2)):
        config = tiny(
            data__source="imagefolder", data__path=str(tmp_path / "scans"), data__options={"size": 8, "mode": "I;16"},
            data__lazy=lazy, training__workers=workers, training__batch_size=4, federation__rounds=2,
        )  # fmt: skip
        world = World.found(config, tmp_path / f"{lazy}-{workers}")
        started = world.genesis.start().digest
        for _ in range(2):
            world.exchange()
        digests[lazy, workers] = world.digest()
        assert world.digest() != started
        with np.load(world.home(0) / "train.npz") as file:
            assert ("features" in file, "numbers" in file) == (not lazy, lazy)
        world.close()
    assert len(set(digests.values())) == 1, digests
