"""Clips in which a digit shows for a moment, drawn as they are needed: what a reducer of tokens must not lose."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dictpfl.client.data.samples import Dataset, Samples, require_options
from dictpfl.client.data.source import SOURCES
from dictpfl.common.errors import ConfigError
from dictpfl.common.settings import Data

CELL = 8
"""Side of a digit, and of a token."""
_SHOWN = 3
_DIGITS = 10
_DEFAULTS: dict[str, Any] = {
    "count": 600,
    "frames": 16,
    "side": 4,
    "scenes": [3, 5],
    "distractors": 0,
    "contrast": 1.0,
    "everywhere": False,
    "order": False,
    "classes": 10,
}


@SOURCES.register("short_events")
def short_events(data: Data, seed: int) -> Dataset:
    """Draw clips (frames, 1, 8 side, 8 side) of still scenes, in each of which one of scikit-learn's digits shows for 3 frames at one place.

    The label is the digit. Options: `count`, `frames`, `side` (digits' widths in a frame), `scenes` ([fewest, most]), `distractors` (bright
    still patches in every scene), `contrast` (of the digit), `everywhere` (it shows in all frames), `order` (two different digits show, in two
    scenes, and the label is the first), `classes` (digits below this).

    Raises:
        ConfigError: an option out of range.
    """
    o = _DEFAULTS | require_options(data, tuple(_DEFAULTS))
    count, frames, side, classes = (int(o[key]) for key in ("count", "frames", "side", "classes"))
    if (
        count < 1
        or frames < _SHOWN
        or side < 1
        or not 1 < classes <= _DIGITS
        or not 0 <= int(o["distractors"]) < side * side
    ):
        raise ConfigError(
            f"short_events: count {count}, frames {frames}, side {side}, classes {classes}, distractors {o['distractors']}; expected at least "
            f"1, {_SHOWN} and 1, 2 to 10 classes, and fewer distractors than the {side * side} places"
        )
    if o["order"] and (o["everywhere"] or min(int(n) for n in o["scenes"]) < 2):  # noqa: PLR2004 -- one for each digit
        raise ConfigError(
            f"short_events: order shows two digits in two scenes; expected scenes of at least 2 and everywhere = false, found scenes "
            f"{list(o['scenes'])}, everywhere = {str(bool(o['everywhere'])).lower()}"
        )
    clips, labels, _ = drawn_clips(seed, count, frames, side, classes, o)
    return Dataset(Samples(clips, labels), classes, name="short events", class_names=tuple(map(str, range(classes))))


def drawn_clips(
    seed: int, count: int, frames: int, side: int, classes: int, o: Any
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.bool_]]:
    """Draw clips, their labels, and where a digit is: bool (count, frames, places)."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    random = np.random.default_rng([seed, count, frames, side])
    known = np.flatnonzero(digits.target < classes)
    chosen = random.choice(known, count)
    clips = np.empty((count, frames, 1, CELL * side, CELL * side), dtype=np.float32)
    shown = np.zeros((count, frames, side * side), dtype=bool)
    for number, which in enumerate(chosen):
        clips[number, :, 0], places, when, scene_of = _still(random, frames, side, o)
        events = [(int(which), int(random.choice(places)), when, when + _SHOWN)]
        if o["everywhere"]:
            events = [(*events[0][:2], 0, frames)]
        elif o.get("order"):
            first, second = _two_spans(random, scene_of)
            other = int(random.choice(known[digits.target[known] != digits.target[which]]))
            events = [(*events[0][:2], *first), (other, int(random.choice(places)), *second)]
        for image, place, begin, end in events:
            top, left = CELL * (place // side), CELL * (place % side)
            digit = digits.images[image] / 16.0 * float(o["contrast"])
            clips[number, begin:end, 0, top : top + CELL, left : left + CELL] += digit.astype(np.float32)
            shown[number, begin:end, place] = True
    clips += random.normal(0.0, 0.02, clips.shape).astype(np.float32)
    return clips, digits.target[chosen].astype(np.int64), shown


def _still(
    random: np.random.Generator, frames: int, side: int, o: Any
) -> tuple[NDArray[np.float32], NDArray[np.int64], int, NDArray[np.int64]]:
    """Draw still scenes, the places that no distractor takes, when the digit shows, and each frame's scene."""
    low, high = (int(n) for n in o["scenes"])
    cuts = np.sort(
        random.choice(np.arange(1, frames), min(int(random.integers(low, high + 1)), frames) - 1, replace=False)
    )
    scene_of = np.searchsorted(cuts, np.arange(frames), side="right")
    where = random.permutation(side * side)
    taken, free = where[: int(o["distractors"])], where[int(o["distractors"]) :]
    scenes = random.uniform(0.0, 0.15, (scene_of[-1] + 1, CELL * side, CELL * side)).astype(np.float32)
    scenes += random.uniform(-0.3, 0.3, (len(scenes), 1, 1)).astype(np.float32)
    for scene in scenes:
        for place in taken.tolist():
            top, left = CELL * (place // side), CELL * (place % side)
            scene[top : top + CELL, left : left + CELL] += (random.random((CELL, CELL)) < 0.5).astype(np.float32) * 1.2  # noqa: PLR2004 -- a coin
    return scenes[scene_of], free.astype(np.int64), int(random.integers(0, frames - _SHOWN + 1)), scene_of


def _two_spans(random: np.random.Generator, scene_of: NDArray[np.int64]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Draw when two digits show: the second in a later scene, when the first is gone; up to 3 frames each."""
    begin = int(random.choice(np.flatnonzero(scene_of < scene_of[-1])))
    later = np.flatnonzero(scene_of > scene_of[begin])
    after = later[later >= begin + _SHOWN]
    second = int(random.choice(after if len(after) else later))
    return (begin, min(begin + _SHOWN, second)), (second, min(second + _SHOWN, len(scene_of)))
