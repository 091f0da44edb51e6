"""Clips of files as arrays of frames: GIF, animated WebP and multi-page TIFF by Pillow; MP4 and the like by PyAV (`dictpfl[video]`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dictpfl.client.data.images import DEEP, fitting
from dictpfl.common.errors import ConfigError, DataError

OPTIONS = ("frames", "size", "mode", "mean", "std")
"""Options of frames: those of images, but that frames have no more than 8 bits."""
BY_PILLOW = frozenset({".gif", ".webp", ".tif", ".tiff"})
BY_AV = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm"})
_FRAMES, _MOST = 32, 1024


def spaced(count: int, frames: int) -> list[int]:
    """Number the wanted frames of a clip: evenly spaced, first and last included; a shorter clip repeats its last."""
    if count <= frames:
        return [min(n, count - 1) for n in range(frames)]
    return [round(n * (count - 1) / max(1, frames - 1)) for n in range(frames)]


def reader(options: Mapping[str, Any]) -> Callable[[Path], NDArray[np.float32]]:
    """Make the function that reads a clip as an array (F, C, H, W), float32.

    Args:
        options: `frames` (32), and `size`, `mode`, `mean`, `std` as of images.

    Raises:
        ConfigError: an option out of range.
    """
    frames = wanted_frames(options)
    if options.get("mode") == DEEP:
        raise ConfigError(f"data.options.mode is {DEEP!r}, and frames are read in 8 bits; expected `RGB` or `L`")
    fit = fitting({key: value for key, value in options.items() if key != "frames"})

    def read(path: Path) -> NDArray[np.float32]:
        return np.stack([fit(image) for image in images_of(path, frames)])

    return read


def wanted_frames(options: Mapping[str, Any]) -> int:
    """Number of frames of a clip that are read: `frames`, 32 by default.

    Raises:
        ConfigError: out of range.
    """
    frames = options.get("frames", _FRAMES)
    if not isinstance(frames, int) or not 1 <= frames <= _MOST:
        raise ConfigError(f"data.options.frames is {frames!r}; expected a number from 1 to {_MOST}")
    return frames


def images_of(path: Path, frames: int) -> Sequence[Any]:
    """Decode so many evenly spaced frames of a file, as images of Pillow.

    Raises:
        DataError: no clip, a broken one, or one without frames; names the file.
        ConfigError: a kind of file that needs PyAV, which is not installed.
    """
    ending = path.suffix.lower()
    if ending in BY_PILLOW:
        return _by_pillow(path, frames)
    if ending in BY_AV:
        return _by_av(path, frames)
    raise DataError(f"{path} is no clip: expected {', '.join(sorted(BY_PILLOW | BY_AV))}")


def _by_pillow(path: Path, frames: int) -> Sequence[Any]:
    from PIL import Image

    found = []
    try:
        with Image.open(path) as image:
            for number in spaced(getattr(image, "n_frames", 1), frames):
                image.seek(number)
                found.append(_rgb(image))
    except Exception as error:  # a damaged file can be any error in Pillow
        raise _unreadable(path, error) from error
    return found


def _rgb(image: Any) -> Any:
    if image.mode.startswith(("I", "F")):
        # Pillow's `convert` would cut off what is above 255.
        raise ValueError(f"frames of 16 bits or more (mode {image.mode}), and frames are read in 8 bits")
    return image.convert("RGB")


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"cannot read the clip {path}: {str(error) or type(error).__name__}; mend or drop it")


def _by_av(path: Path, frames: int) -> Sequence[Any]:
    """Decode once, keeping wanted frames only: their number is known from the container, or counted in a first pass."""
    try:
        import av
    except ImportError as error:
        raise ConfigError(
            f"{path.name} needs PyAV ({error}); run `pip install 'dictpfl[video]'`, or store clips as GIF, WebP or TIFF"
        ) from error
    try:
        with av.open(str(path)) as container:
            count = container.streams.video[0].frames or sum(1 for _ in container.decode(video=0))
        wanted, held = spaced(count, frames), {}
        with av.open(str(path)) as container:
            for number, frame in enumerate(container.decode(video=0)):
                if number in wanted:
                    held[number] = _upright(frame)
                if number >= wanted[-1]:
                    break
    except Exception as error:  # a damaged file can be any error in FFmpeg
        raise _unreadable(path, error) from error
    if not held:
        raise DataError(f"the clip {path} has no frames; mend or drop it")
    last = max(held)
    return [held.get(number, held[last]) for number in wanted]


def _upright(frame: Any) -> Any:
    """The image of a frame, turned as its file says that it was filmed."""
    turned = int(getattr(frame, "rotation", 0) or 0)
    image = frame.to_image()
    return image.rotate(turned, expand=True) if turned else image
