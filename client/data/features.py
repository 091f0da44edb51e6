"""Clips through a frozen public encoder, once: what it makes of them is kept in files, and read in place of pixels (`data.options.features`)."""

from __future__ import annotations

import hashlib
import io
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import structlog
from numpy.typing import NDArray

from dictpfl.client.data.images import fitting
from dictpfl.client.data.samples import UNREADABLE, arrays_in
from dictpfl.client.data.videos import images_of, wanted_fps, wanted_frames
from dictpfl.common.errors import ConfigError, DataError
from dictpfl.common.files import expanded, locked, owner_only, remove_leftovers, write_private
from dictpfl.common.settings import MADE_BY

if TYPE_CHECKING:
    from dictpfl.client.model.tokens.encoder import Encoder

OPTIONS = ("features", "features_folder", MADE_BY)
"""Options of `videofolder` beside those of frames."""
KEPT = ".features"
"""Folder in that of the clips, so that who deletes the clips' folder deletes it."""
FORMAT = "dictpfl-features-1"
_KEY = "data.options.features"
_EVERY = 10.0
"""Seconds between two lines of progress."""
_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Recipe:
    """Recipe by which tokens are made of a clip.

    Attributes:
        source: `timm:FOLDER`, by its whole path, or `timm:NAME`.
        weights: digest of the encoder.
        frames: number of frames, F.
        fps: of them a second; 0: over the whole clip.
        size: side of a frame in pixels.
        patch: side of the encoder's patches.
        mean, std: of each channel.
        shape: of a clip's tokens, (F, 1 + N, D + 1).
        digest: SHA-256 over the encoder's architecture and weights and over the other values here, hexadecimal.
    """

    source: str
    weights: str
    frames: int
    fps: float
    size: int
    patch: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    shape: tuple[int, int, int]
    digest: str


class ClipFeatures:
    """Tokens of clips: read from files, and made where there is none yet.

    A clip's tokens are one array (F, 1 + N, D + 1): first the class token, then the patches, row by row. The last column is no value of a
    token, but the attention that the class token pays to it in the encoder's last block, 0 at the class token itself. Files are float16,
    mode 0600, named by a digest of the recipe and of the clip's bytes.
    """

    def __init__(self, options: Mapping[str, Any], clips: Path) -> None:
        """Look at the encoder.

        Args:
            options: of `videofolder`.
            clips: their folder.

        Raises:
            ConfigError: an option out of range, no encoder, or one that is not of `features_sha256`.
        """
        self.recipe = recipe_of(options)
        agreed = options.get(MADE_BY) or self.recipe.digest
        if agreed != self.recipe.digest:
            raise ConfigError(
                f"data.options.features: tokens by {self.recipe.source!r} are of {self.recipe.digest}, and all agreed on {agreed} "
                f"(data.options.{MADE_BY}); use the same weights, frames, fps, size, mean and std as the others"
            )
        named = options.get("features_folder", "")
        self.folder = (expanded(str(named)) if named else clips / KEPT).resolve()
        self._fit = fitting({"size": self.recipe.size, "mean": self.recipe.mean, "std": self.recipe.std})
        self._encoder: Encoder | None = None

    def read(self, clip: Path) -> NDArray[np.float32]:
        """Read a clip's tokens, float32, (F, 1 + N, D + 1); they are made if they are not there, or cannot be read.

        Raises:
            DataError: the clip cannot be read, or its frames are too small.
            ConfigError: the folder cannot be written.
        """
        path = self._place(clip)
        found = self._kept(path)
        return (self._made(clip, path) if found is None else found).astype(np.float32)

    def fill(self, clips: Sequence[Path], *, skip_broken: bool) -> None:
        """Make the tokens of all clips that have none, one clip at a time; what is on disk stays there if this is interrupted.

        Args:
            clips: files.
            skip_broken: leave out clips that cannot be read; whoever reads them next says so.

        Raises:
            DataError, ConfigError: as `read`.
        """
        began = last = time.monotonic()
        for number, clip in enumerate(clips):
            try:
                if not self._place(clip).exists():
                    self.read(clip)
            except DataError:
                if not skip_broken:
                    raise
            if time.monotonic() - last >= _EVERY:
                last = time.monotonic()
                _tell(f"{number + 1} of {len(clips)} clips through {self.recipe.source} in {last - began:.0f} s")
        if self._encoder is not None:
            _tell(f"features of clips are kept in {self.folder}: as private as the clips, to be deleted with them")
            self._encoder = None  # a process that trains has other use for its memory

    def _place(self, clip: Path) -> Path:
        try:
            with clip.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise DataError(f"cannot read the clip {clip}: {error}; mend or drop it") from error
        name = hashlib.sha256(f"{FORMAT} {self.recipe.digest} {content}".encode()).hexdigest()
        return self.folder / f"{name}.npz"

    def _kept(self, path: Path) -> NDArray[np.float16] | None:
        """Tokens of a file; None: it is not there, or is not what was written, which its checksum tells."""
        if not path.exists():
            return None
        try:
            with arrays_in(path) as file:
                tokens, said = file["tokens"], str(file["format"])
        except UNREADABLE as error:
            _log.warning("features that cannot be read are made anew", file=str(path), reason=str(error))
            path.unlink(missing_ok=True)
            return None
        if said != FORMAT or tokens.dtype != np.float16 or tokens.shape != self.recipe.shape:
            _log.warning("features of another form are made anew", file=str(path), form=said, shape=tokens.shape)
            path.unlink(missing_ok=True)
            return None
        return tokens

    def _made(self, clip: Path, path: Path) -> NDArray[np.float16]:
        try:
            with locked(owner_only(self.folder), "features"):
                found = self._kept(path)  # another process may have made them in the meantime
                if found is not None:
                    return found
                remove_leftovers(path)
                found = self._encoded(clip)
                buffer = io.BytesIO()
                np.savez(buffer, tokens=found, format=np.array(FORMAT))
                write_private(path, buffer.getvalue())
        except OSError as error:
            raise ConfigError(
                f"cannot keep features of clips in {self.folder}: {error}; name a folder that may be written by data.options.features_folder"
            ) from error
        return found

    def _encoded(self, clip: Path) -> NDArray[np.float16]:
        import torch

        from dictpfl.client.model.tokens.encoder import load_encoder

        recipe, images = self.recipe, images_of(clip, self.recipe.frames, self.recipe.fps)
        if (least := min(min(image.size) for image in images)) < recipe.patch:
            raise DataError(
                f"the clip {clip} has frames of {least} pixels, fewer than one patch of {recipe.source!r} ({recipe.patch}); expected larger frames"
            )
        if self._encoder is None:
            found = load_encoder(recipe.source, _KEY, recipe.size)
            if found.digest != recipe.weights:
                raise ConfigError(
                    f"{recipe.source!r} was replaced while its tokens were read; begin again with one encoder"
                )
            self._encoder = found
        tokens, attention = self._encoder.encode(torch.tensor(np.stack([self._fit(image) for image in images])))
        last = torch.nn.functional.pad(attention, (1, 0)).unsqueeze(-1)
        with np.errstate(over="ignore"):  # said below
            values = torch.cat([tokens, last], dim=-1).numpy().astype(np.float16)
        if not np.isfinite(values).all():
            raise DataError(
                f"{recipe.source!r} makes values of the clip {clip} that float16 does not hold (NaN, or above 65504); use another encoder"
            )
        return values


def recipe_of(options: Mapping[str, Any]) -> Recipe:
    """Find out what makes tokens of clips; the encoder is loaded for it, once a process.

    Raises:
        ConfigError: an option out of range, or no encoder.
    """
    source, size = options.get("features"), options.get("size", 0)
    if not isinstance(source, str) or not isinstance(size, int) or isinstance(size, bool) or size < ("size" in options):
        raise ConfigError(
            f"data.options.features is {source!r} and size {size!r}; expected timm:FOLDER or timm:NAME, and one number of pixels above 0, or none"
        )
    if options.get("mode", "RGB") != "RGB":
        raise ConfigError(
            f"data.options.mode is {options['mode']!r}, and the encoder of data.options.features reads `RGB`; leave mode out"
        )
    frames, fps = wanted_frames(options), wanted_fps(options)
    given = [None if options.get(key) is None else _three(options[key], key) for key in ("mean", "std")]
    library, colon, name = source.partition(":")
    folder = expanded(name)
    source = f"{library}:{folder.resolve()}" if colon and name and folder.is_dir() else source
    return _recipe(source, _stamp(folder), frames, fps, size, *given)


@lru_cache(maxsize=4)
def _recipe(
    source: str,
    _stamp: tuple[Any, ...],  # so that an encoder that was replaced is looked at again
    frames: int,
    fps: float,
    size: int,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
) -> Recipe:
    from dictpfl.client.model.tokens.encoder import load_encoder

    encoder = load_encoder(source, _KEY, size)
    mean, std = mean or encoder.mean, std or encoder.std
    weights = encoder.digest
    said = json.dumps([weights, frames, encoder.size, mean, std, *([fps] if fps else [])])
    shape = (frames, 1 + encoder.places, encoder.width + 1)
    return Recipe(
        source,
        weights,
        frames,
        fps,
        encoder.size,
        encoder.patch,
        mean,
        std,
        shape,
        hashlib.sha256(said.encode()).hexdigest(),
    )


def _stamp(folder: Path) -> tuple[Any, ...]:
    """Names, sizes and times of the files of an encoder's folder; empty of a hub's."""
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return tuple((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files)


def _three(value: Any, key: str) -> tuple[float, ...]:
    try:
        found = tuple(float(one) for one in np.broadcast_to(np.asarray(value, np.float64), (3,)))
    except (TypeError, ValueError):
        found = ()
    if not found or not np.isfinite(found).all() or (key == "std" and min(found) <= 0):
        raise ConfigError(
            f"data.options.{key} is {value!r}; expected one number, or three" + (", above zero" if key == "std" else "")
        )
    return found


def _tell(text: str) -> None:
    """Say on standard error how far it is: above a bar of progress, if there is one."""
    sys.stderr.write(f"{text}\n")
