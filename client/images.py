"""Images of files: a folder for each class (`data.source = "imagefolder"`), or a column of a table."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from client.data import Dataset, Samples, path_of, require_options
from client.tables import groups_of, labels_of, require_columns
from common.errors import ConfigError, DataError
from common.settings import Data

if TYPE_CHECKING:
    import pandas as pd

OPTIONS = ("size", "mode", "mean", "std")
_ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_SIZE = 224


def image_folder(data: Data) -> Dataset:
    """A folder of folders, one for each class, as torchvision's `ImageFolder` reads it.

    `data.options`:

    - `size`: 224 by default, or [height, width]: the shorter side is scaled, the middle is cut out.
    - `mode`: `RGB` or `L` (grey).
    - `mean`, `std`: of each channel, for values from 0 to 1: constants that are public. ImageNet's by default, 0.5 for grey.
    - `classes`: folder names in the order of their numbers; sorted by default. In a deployment set it.

    Raises:
        ConfigError: an option out of range.
        DataError: no images, or one that cannot be read.
    """
    options = require_options(data, (*OPTIONS, "classes"))
    folder = path_of(data)
    if not folder.is_dir():
        raise DataError(f"no folder {folder}; data.path must hold a folder of images for each class")
    classes = tuple(map(str, options.get("classes") or sorted(p.name for p in folder.iterdir() if p.is_dir())))
    found = [(path, n) for n, name in enumerate(classes) for path in sorted((folder / name).rglob("*"))
             if path.suffix.lower() in _ENDINGS and path.is_file()]  # fmt: skip
    if not found:
        raise DataError(f"no images in the folders of {folder}; expected CLASS/NAME.png or of another usual ending")
    prepare = preparation(options)
    features = np.stack([prepare(path) for path, _ in found])
    labels = np.array([n for _, n in found], dtype=np.int64)
    return Dataset(Samples(features, labels), len(classes), name=folder.name, class_names=classes)


def pixels(data: Data, frame: pd.DataFrame, known_classes: tuple[str, ...] = ()) -> Dataset:
    """Images of the column `data.options.image`: paths, encoded bytes, or what `datasets` stores (bytes and path)."""
    column = str(data.options["image"])
    require_columns(data, frame, [column, data.label])
    prepare, beside = preparation(data.options), path_of(data).parent
    features = np.stack([prepare(_encoded(cell, beside)) for cell in frame[column]])
    labels, classes = labels_of(frame[data.label], data, known_classes)
    return Dataset(
        Samples(features, labels),
        len(classes) or 1,
        groups_of(data, frame),
        name=path_of(data).name,
        class_names=classes,
    )


def _encoded(cell: Any, beside: Path) -> Path | bytes:
    if isinstance(cell, Mapping):
        cell = cell.get("bytes") or cell.get("path")
    return cell if isinstance(cell, bytes) else beside / str(cell)


def preparation(options: Mapping[str, Any]) -> Callable[[Path | bytes], NDArray[np.float32]]:
    """What makes an image file an array (C, H, W), float32, by `size`, `mode`, `mean` and `std`.

    Raises:
        ConfigError: an option out of range.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    mode = options.get("mode", "RGB")
    if mode not in ("RGB", "L"):
        raise ConfigError(f"data.options.mode is {mode!r}; expected `RGB` or `L`")
    size = options.get("size", _SIZE)
    height, width = (size, size) if isinstance(size, int) else (int(d) for d in size)
    channels = len(Image.new(mode, (1, 1)).getbands())
    usual = _IMAGENET if mode == "RGB" else ((0.5,), (0.5,))
    mean, std = (np.atleast_1d(np.asarray(options.get(key, value), np.float32)) for key, value in
                 zip(("mean", "std"), usual, strict=True))  # fmt: skip
    if mean.shape not in ((1,), (channels,)) or std.shape not in ((1,), (channels,)) or not (std > 0).all():
        raise ConfigError(f"data.options: mean and std need one number above zero, or {channels}, for mode {mode!r}")

    def prepare(source: Path | bytes) -> NDArray[np.float32]:
        try:
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
                fitted = ImageOps.fit(image.convert(mode), (width, height), Image.Resampling.BICUBIC)
        except (OSError, UnidentifiedImageError, ValueError) as error:
            name = "an image of the table" if isinstance(source, bytes) else source
            raise DataError(f"cannot read {name}: {error}; mend or drop it") from error
        values = np.asarray(fitted, dtype=np.float32).reshape(height, width, channels) / 255
        return ((values - mean) / std).transpose(2, 0, 1).astype(np.float32)

    return prepare
