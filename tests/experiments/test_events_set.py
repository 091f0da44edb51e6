"""experiments/fetch.py --only events: clips as files, the same every time, as many of each digit."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dictpfl.client.data.source import load_dataset
from dictpfl.common.settings import Data
from sets import events, load


def test_clips_are_read_as_they_were_drawn(tmp_path: Path) -> None:
    for name in ("one", "two"):
        load()["events"](tmp_path / name, None)
        assert not load()["events"].missing(tmp_path / name)
    options = {"frames": events.FRAMES, "size": 8 * events.SIDE, "mode": "L", "mean": 0, "std": 1}
    one, two = (
        load_dataset(Data(source="videofolder", path=str(tmp_path / name / "events"), options=options), 1)
        for name in ("one", "two")
    )
    np.testing.assert_array_equal(one.samples.features, two.samples.features)
    assert np.bincount(one.samples.labels).tolist() == [events.COUNT // events.CLASSES] * events.CLASSES
    assert one.samples.features.shape[1:] == (events.FRAMES, 1, 64, 64)
    # Scenes stand still but for a little noise, and change at once.
    moved = np.abs(np.diff(one.samples.features, axis=1)).mean(axis=(2, 3, 4))
    assert np.median(moved) < 0.02
    assert (moved.max(axis=1) > 0.03).all()
