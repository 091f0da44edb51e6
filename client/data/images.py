"""Images of files: a folder for each class (`data.source = "imagefolder"`), or a column of a table."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dictpfl.client.data.samples import Dataset, Samples, drawn, path_of
from dictpfl.client.data.tables import groups_of, labels_of, place_of, require_columns, splits_of
from dictpfl.common.errors import ConfigError, DataError
from dictpfl.common.settings import Data

if TYPE_CHECKING:
    import pandas as pd

OPTIONS = ("size", "mode", "mean", "std", "window")
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_SIZE = 224
_MOST_PIXELS = 1 << 26
"""Pixels of a sample: 8,192 by 8,192, whose values take 800 MB. More is a slip, and ends in no memory."""
DEEP = "I;16"
"""Mode of grey images in 16 bits, in Pillow's word."""
_DEEPEST = 65535


def pixels(data: Data, frame: pd.DataFrame, known_classes: tuple[str, ...] = (), *, seed: int) -> Dataset:
    """Read images from the column `data.options.image`: paths, encoded bytes, or cells as `datasets` stores them.

    Of many, only those that `data.limit` keeps (drawn by seed) are decoded; the classes are those of all.
    """
    column = str(data.options["image"])
    require_columns(data, frame, [column, data.label])
    prepare, beside = preparation(data.options), path_of(data).parent
    labels, classes = labels_of(frame, data, known_classes)
    whole, kept = frame, drawn(len(frame), data, seed, splits_of(data, frame))
    if kept is not None:
        frame, labels = frame.iloc[kept], labels[kept]
    found = []
    for row, cell in enumerate(frame[column]):
        try:
            found.append(prepare(_encoded(cell, beside)))
        except DataError as error:
            bad = np.arange(len(whole)) == (row if kept is None else kept[row])
            where = "" if data.lazy else f"{place_of(data, whole, bad)}: "  # a reader names the row itself
            raise DataError(f"{where}column {column!r}: {error}") from error
    features = np.stack(found)
    return Dataset(
        Samples(features, labels),
        len(classes) or 1,
        groups_of(data, frame),
        splits_of(data, frame),
        name=path_of(data).name,
        class_names=classes,
    )


def _encoded(cell: Any, beside: Path) -> Path | bytes:
    if isinstance(cell, Mapping):
        cell = cell.get("bytes") or cell.get("path")
    return cell if isinstance(cell, bytes) else beside / str(cell)


def preparation(options: Mapping[str, Any]) -> Callable[[Path | bytes], NDArray[np.float32]]:
    """Make the function that reads an image file as an array (C, H, W), float32, by `size`, `mode`, `mean` and `std`.

    Raises:
        ConfigError: an option out of range.
    """
    from PIL import Image, UnidentifiedImageError

    fit = fitting(options)

    def prepare(source: Path | bytes) -> NDArray[np.float32]:
        try:
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
                return fit(_upright(image))
        except Exception as error:  # a damaged file can be any error in Pillow
            name = f"an image of {len(source):,} bytes" if isinstance(source, bytes) else str(source)
            # Pillow would name the place in memory.
            why = "no format that Pillow knows" if isinstance(error, UnidentifiedImageError) else str(error)
            raise DataError(f"cannot read {name}: {why}; mend or drop it, or set data.skip_broken = true") from error

    return prepare


def _upright(image: Any) -> Any:
    """The image as it was seen: cameras store it as their sensor stood, and say in EXIF how to turn it."""
    from PIL import ExifTags, ImageOps

    image.load()  # here: what is wrong with the pixels is told, and below nothing is
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        return ImageOps.exif_transpose(image) if turned else image
    except Exception:  # noqa: BLE001 -- EXIF can be damaged in any way, which says nothing against the pixels
        return image


Normalisation = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Mean and deviation of pixels from 0 to 1, float32, one number or one for each channel."""


def normalisation_of(data: Data) -> Normalisation | None:
    """Mean and deviation by which pictures of a section are normalised; None where it does not read any from files."""
    return _normalisation(data.options) if data.source == "imagefolder" or "image" in data.options else None


def _normalisation(options: Mapping[str, Any]) -> Normalisation:
    usual = _IMAGENET if options.get("mode", "RGB") == "RGB" else ((0.5,), (0.5,))
    mean, std = (
        np.atleast_1d(np.asarray(options.get(key, value), np.float32))
        for key, value in zip(("mean", "std"), usual, strict=True)
    )
    return mean, std


def fitting(options: Mapping[str, Any]) -> Callable[[Any], NDArray[np.float32]]:
    """Make the function that makes an array (C, H, W), float32, of an opened image of Pillow; see `preparation`.

    Raises:
        ConfigError: an option out of range.
    """
    from PIL import Image, ImageOps

    mode = options.get("mode", "RGB")
    if mode not in ("RGB", "L", DEEP):
        raise ConfigError(f"data.options.mode is {mode!r}; expected `RGB`, `L` or `{DEEP}`")
    if mode != DEEP and "window" in options:
        raise ConfigError(
            f"data.options.window is of mode `{DEEP}`, and data.options.mode is {mode!r}: it would be ignored"
        )
    height, width = _height_and_width(options.get("size", _SIZE))
    channels = 3 if mode == "RGB" else 1
    try:
        mean, std = _normalisation(options)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"data.options: mean and std are numbers, one or one for each channel: {error}") from error
    fits = {mean.shape, std.shape} <= {(1,), (channels,)} and np.isfinite([*mean, *std]).all() and (std > 0).all()
    if not fits:
        raise ConfigError(
            f"data.options: mean and std need one finite number, or {channels}, for mode {mode!r}, and std one above zero"
        )
    low, high = _window(options)

    def fit(image: Any) -> NDArray[np.float32]:
        if mode == DEEP:
            # As float32 before it is resized: Pillow's `convert` would cut 16 bits off at 255.
            deep = (np.asarray(image, dtype=np.float32) - low) / (high - low)
            if deep.ndim != 2 or image.mode == "P":  # noqa: PLR2004 -- rows and columns; numbers of a palette are no greys
                raise ValueError(f"an image of mode {image.mode}, and data.options.mode is {DEEP!r}")
            whole, scale = Image.fromarray(deep.clip(0, 1)), 1.0
        elif image.mode.startswith(("I", "F")):
            # Pillow would cut at 0 and 255: of fractions up to 1 all would be black.
            what = "fractions" if image.mode == "F" else "16 bits or more"
            raise ValueError(
                f"an image of {what} (mode {image.mode}); set data.options.mode = {DEEP!r}, and data.options.window to the values that become 0 and 1"
            )
        else:
            whole, scale = image.convert(mode), 255.0
        fitted = ImageOps.fit(whole, (width, height), Image.Resampling.BICUBIC)
        values = np.array(fitted, dtype=np.float32).reshape(height, width, channels)
        values /= np.float32(scale)  # in place: each array of an image is as large as the image
        values -= mean
        values /= std
        return values.transpose(2, 0, 1)

    return fit


def _height_and_width(size: Any) -> tuple[int, int]:
    """Pixels of an image as `size` has them."""
    sizes = size if isinstance(size, list | tuple) else [size, size]
    if len(sizes) != 2 or not all(type(one) is int and one > 0 for one in sizes):  # noqa: PLR2004 -- height and width
        raise ConfigError(f"data.options.size is {size!r}; expected a number of pixels above 0, or [height, width]")
    if sizes[0] * sizes[1] > _MOST_PIXELS:
        raise ConfigError(f"data.options.size is {size!r}; expected height times width of {_MOST_PIXELS:,} at most")
    return sizes[0], sizes[1]


def _window(options: Mapping[str, Any]) -> tuple[float, float]:
    """Values of an image in 16 bits that become 0 and 1."""
    window = options.get("window", [0, _DEEPEST])
    pair = isinstance(window, list) and len(window) == 2 and all(type(one) in (int, float) for one in window)  # noqa: PLR2004
    if not pair or not 0 <= window[0] < window[1] <= _DEEPEST:
        raise ConfigError(
            f"data.options.window is {window!r}; expected two values from 0 to {_DEEPEST}, the lower one first"
        )
    return float(window[0]), float(window[1])
