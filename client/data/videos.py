"""Clips of files as arrays of frames: GIF, animated WebP and multi-page TIFF by Pillow; MP4 and the like by PyAV (`dictpfl[video]`)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dictpfl.client.data.films import Deadline, Times, frames_of
from dictpfl.client.data.images import DEEP, fitting
from dictpfl.common.errors import ConfigError, DataError, DictPFLError

OPTIONS = ("frames", "fps", "size", "mode", "mean", "std")
"""Options of frames: those of images, but that frames have no more than 8 bits."""
BY_PILLOW = frozenset({".gif", ".webp", ".tif", ".tiff"})
_OF_PILLOW = ("GIF", "WEBP", "TIFF")
BY_AV = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"})
_FRAMES, _MOST, _FASTEST = 32, 1024, 1000


def spaced(count: int, frames: int) -> list[int]:
    """Number the wanted frames of a clip: evenly spaced, first and last included; a shorter clip repeats its last."""
    if count <= frames:
        return [min(n, count - 1) for n in range(frames)]
    return [round(n * (count - 1) / max(1, frames - 1)) for n in range(frames)]


def chosen(times: Times, frames: int, fps: float = 0.0) -> list[int]:
    """Number the wanted frames of a clip.

    Args:
        times: of its frames.
        frames: how many are wanted.
        fps: so many a second, each the one that is shown then, from the first on; 0: evenly spaced over the whole clip, by their
            times where these are not even.

    Raises:
        ValueError: fps of a clip that does not say when its frames are shown.
    """
    ticks, count = times.ticks, len(times.ticks)
    if fps:
        if times.tick is None:
            raise ValueError("it does not say when its frames are shown; leave fps out")
        step = 1 / (Fraction(str(fps)) * times.tick)
        return [bisect_right(ticks, ticks[0] + n * step) - 1 for n in range(frames)]
    if frames == 1 or count <= frames or times.is_even:
        return spaced(count, frames)
    return [_nearest(ticks, ticks[0] + Fraction(n * (ticks[-1] - ticks[0]), frames - 1)) for n in range(frames)]


def _nearest(ticks: Sequence[int], at: Fraction) -> int:
    before = bisect_right(ticks, at) - 1
    later = min(before + 1, len(ticks) - 1)
    return before if at - ticks[before] <= ticks[later] - at else later


def reader(options: Mapping[str, Any]) -> Callable[[Path], NDArray[np.float32]]:
    """Make the function that reads a clip as an array (F, C, H, W), float32.

    Args:
        options: `frames` (32), `fps` (0: over the whole clip), and `size`, `mode`, `mean`, `std` as of images.

    Raises:
        ConfigError: an option out of range.
    """
    frames, fps = wanted_frames(options), wanted_fps(options)
    if options.get("mode") == DEEP:
        raise ConfigError(f"data.options.mode is {DEEP!r}, and frames are read in 8 bits; expected `RGB` or `L`")
    fit = fitting({key: value for key, value in options.items() if key not in ("frames", "fps")})

    def read(path: Path) -> NDArray[np.float32]:
        return np.stack([fit(image) for image in images_of(path, frames, fps)])

    return read


def wanted_frames(options: Mapping[str, Any]) -> int:
    """Number of frames of a clip that are read: `frames`, 32 by default.

    Raises:
        ConfigError: out of range.
    """
    frames = options.get("frames", _FRAMES)
    if isinstance(frames, bool) or not isinstance(frames, int) or not 1 <= frames <= _MOST:
        raise ConfigError(f"data.options.frames is {frames!r}; expected a number from 1 to {_MOST}")
    return frames


def wanted_fps(options: Mapping[str, Any]) -> float:
    """Frames of a second of a clip that are read: `fps`, 0 by default, which means evenly spaced ones of the whole clip.

    Raises:
        ConfigError: out of range.
    """
    fps = options.get("fps", 0)
    if isinstance(fps, bool) or not isinstance(fps, (int, float)) or not 0 <= fps <= _FASTEST:
        raise ConfigError(
            f"data.options.fps is {fps!r}; expected a number of frames a second up to {_FASTEST}, or 0 for the whole clip"
        )
    return float(fps)


def images_of(path: Path, frames: int, fps: float = 0.0) -> Sequence[Any]:
    """Decode so many frames of a file, as images of Pillow; a shorter clip repeats its last.

    Args:
        path: of the file.
        frames: number of frames.
        fps: see `chosen`.

    Raises:
        DataError: no clip, a broken one, or one without frames; names the file.
        ConfigError: a kind of file that needs PyAV, which is not installed.
    """
    ending = path.suffix.lower()
    if ending not in BY_PILLOW | BY_AV:
        raise DataError(f"{path} is no clip: expected {', '.join(sorted(BY_PILLOW | BY_AV))}")
    if not path.is_file():
        raise DataError(f"no clip {path}, seen from {Path.cwd()}; expected a file")
    try:
        if ending in BY_PILLOW:
            return _by_pillow(path, frames, fps)
        return frames_of(path, partial(chosen, frames=frames, fps=fps))
    except DictPFLError:
        raise
    except Exception as error:  # a damaged file can be any error in Pillow and in FFmpeg
        reason = str(error) or type(error).__name__
        raise DataError(f"cannot read the clip {path}: {reason}; mend or drop it") from error


def _by_pillow(path: Path, frames: int, fps: float) -> Sequence[Any]:
    from PIL import Image

    found, deadline = [], Deadline(path)
    with Image.open(path) as image:
        if image.format not in _OF_PILLOW:
            raise ValueError(f"it is an image of format {image.format}, whatever its name ends in")
        count = getattr(image, "n_frames", 1)
        numbers = chosen(_shown(image, deadline.over(range(count))), frames, fps) if fps else spaced(count, frames)
        for number in deadline.over(numbers):
            image.seek(number)
            found.append(_rgb(image))
    return found


def _shown(image: Any, numbers: Iterable[int]) -> Times:
    """Times at which a file of Pillow shows its frames, in milliseconds."""
    ticks, now = [], 0
    for number in numbers:
        image.seek(number)
        image.load()  # an animated WebP says it no earlier
        ticks.append(now)
        spent = image.info.get("duration", 0)
        if spent <= 0:
            return Times(range(image.n_frames), None)
        now += round(spent)
    return Times(ticks, Fraction(1, 1000))


def _rgb(image: Any) -> Any:
    if image.mode.startswith(("I", "F")):
        # Pillow's `convert` would cut off what is above 255.
        raise ValueError(f"frames of 16 bits or more (mode {image.mode}), and frames are read in 8 bits")
    return image.convert("RGB")
