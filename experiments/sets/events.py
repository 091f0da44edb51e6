"""Clips as files, made up on this machine: a digit of scikit-learn shows for three of sixteen frames."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from dictpfl.client.data.sources.short_events import drawn_clips
from sets import fetched
from sets.places import write

COUNT, FRAMES, SIDE, CLASSES = 240, 16, 8, 4
_SEED = 11
_SCENES = {"scenes": [3, 5], "distractors": 0, "contrast": 1.0, "everywhere": False, "order": False}
_LOW, _HIGH = -0.4, 1.4  # of the clips' values, but for noise


@fetched(
    "events",
    files=tuple(f"events/{number % CLASSES}/{number:03d}.tif" for number in range(COUNT - CLASSES, COUNT)),
    about=f"{COUNT} made-up clips of 64 x 64 pixels, a folder for each digit; nothing is downloaded",
)
def events(target: Path, given: Path | None) -> None:  # noqa: ARG001 -- there are no originals
    """Draw the clips, as many of each digit, and write them without loss; the last of each digit come last."""
    clips, labels, _ = drawn_clips(_SEED, 2 * COUNT, FRAMES, SIDE, CLASSES, _SCENES)
    found = [clips[labels == digit][: COUNT // CLASSES] for digit in range(CLASSES)]
    for number in range(COUNT):
        digit = number % CLASSES
        write(target / "events" / str(digit) / f"{number:03d}.tif", _tiff(found[digit][number // CLASSES][:, 0]))


def _tiff(frames: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> bytes:
    """Frames (F, H, W) as pages in 8 bits: other kinds of files leave out a frame that is like the last."""
    scaled = ((frames - _LOW) / (_HIGH - _LOW)).clip(0, 1)
    pages = [Image.fromarray((255 * frame).round().astype(np.uint8)) for frame in scaled]
    buffer = io.BytesIO()
    pages[0].save(buffer, "TIFF", save_all=True, append_images=pages[1:], compression="tiff_deflate")
    return buffer.getvalue()
