"""Images and clips in folders, one for each class: decoded when they are asked for."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from dictpfl.client.data import features, images, videos
from dictpfl.client.data.classes import require_shared
from dictpfl.client.data.lazy import Known, LazySamples, Numbers, Room
from dictpfl.client.data.samples import Dataset, Samples, classes_said, drawn, path_of, require_options, sites_of
from dictpfl.common.errors import ConfigError, DataError
from dictpfl.common.settings import Data

_log = structlog.get_logger(__name__)
_IMAGES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})


class FileReader:
    """A sample a file; of each, its name and its class are in memory."""

    steady = True

    def __init__(
        self, name: str, found: Sequence[tuple[Path, int, str]], classes: Sequence[str], decode: Callable[[Path], NDArray[np.float32]],
        *, has_sites: bool, through: features.ClipFeatures | None = None,
    ) -> None:  # fmt: skip
        """Take files.

        Args:
            name: of the data set.
            found: each file, by its whole path, the number of its class, and its institution.
            classes: names of the classes.
            decode: reads a file.
            has_sites: whether institutions are known.
            through: what `decode` reads in place of pixels.
        """
        paths = [str(path) for path, _, _ in found]
        self._root = os.path.commonpath(paths) if len(paths) > 1 else str(Path(paths[0]).parent)
        # One array of bytes: a list of paths would be copied, page by page, into each worker that looks at it.
        self._names = np.array([os.fsencode(os.path.relpath(path, self._root)) for path in paths])
        self._labels = np.array([number for _, number, _ in found], dtype=np.int64)
        self._sites = np.array([site for _, _, site in found]) if has_sites else None
        self._name, self._classes, self._decode, self._through = name, tuple(classes), decode, through

    def __len__(self) -> int:
        """Number of files."""
        return len(self._names)

    @property
    def digest(self) -> str:
        """Digest of names and classes, and of what makes features."""
        said = hashlib.sha256(b"\0".join(self._names.tolist()) + self._labels.tobytes() + self._made_by.encode())
        return said.hexdigest()

    @property
    def _made_by(self) -> str:
        return "" if self._through is None else self._through.recipe.digest

    def make_ready(self, numbers: Numbers, *, skip_broken: bool) -> None:
        """Do once what reading these files takes: clips go through their encoder. Of pixels there is nothing to do.

        Raises:
            DataError, ConfigError: as `dictpfl.client.data.features.ClipFeatures.fill`.
        """
        if self._through is not None:
            self._through.fill([self.path(int(number)) for number in numbers], skip_broken=skip_broken)

    def path(self, number: int) -> Path:
        """File of a sample."""
        return Path(self._root) / os.fsdecode(bytes(self._names[number]))

    def read(self, numbers: Numbers, seed: int = 0, room: Room | None = None) -> tuple[NDArray[Any], None]:  # noqa: ARG002 -- nothing is drawn
        """See `dictpfl.client.data.lazy.Reader`."""
        found = (self._decode(self.path(int(number))) for number in numbers)
        if room is None:
            return np.stack([*found]), None
        out = room(len(numbers))
        for row, one in zip(out, found, strict=True):
            if one.shape != row.shape:
                raise DataError(f"an image or clip of shape {one.shape}; expected {row.shape}, as the others")
            row[...] = one
        return out, None

    def known(self) -> Known:
        """See `dictpfl.client.data.lazy.Reader`."""
        return Known(
            len(self._classes),
            self._labels,
            self._sites,
            name=self._name,
            class_names=self._classes,
            made_by=self._made_by,
        )


def image_files(data: Data) -> FileReader:
    """Images of a section whose source is `imagefolder`; see there.

    Raises:
        ConfigError: an option out of range.
        DataError: no such folder, or nothing in it.
    """
    options = require_options(data, (*images.OPTIONS, "classes", "sites"))
    named = sites_of(data)
    sites = options.get("sites", False)
    if not isinstance(sites, bool) or (sites and named):
        raise ConfigError(
            f"data.options.sites is {sites!r}; expected true or false, and false where data.paths names a folder for each institution"
        )
    folder = next(iter(named.values())).parent if named else path_of(data)
    for root in named.values() or [folder]:
        if not root.is_dir():
            raise DataError(f"no folder {root}; expected one that holds a folder of images for each class")
    roots = list(named.values()) if named else _folders(folder) if sites else [folder]
    classes = classes_said(data) or tuple(sorted({p.name for root in roots for p in _folders(root)}))
    names = list(named) or [root.name for root in roots]
    found = [
        (path, number, site)
        for site, root in zip(names, roots, strict=True)
        for path, number in _listed(root, classes, _IMAGES)
    ]
    if not classes_said(data):
        _require_shared(found, classes, has_sites=bool(sites or named))
    if not found:
        expected = "SITE/CLASS/NAME.png" if sites else "CLASS/NAME.png"
        raise DataError(f"no images in the folders of {folder}; expected {expected} or of another usual ending")
    return FileReader(folder.name, found, classes, images.preparation(options), has_sites=bool(sites or named))


def clip_files(data: Data) -> FileReader:
    """Clips of a section whose source is `videofolder`; see there.

    Raises:
        ConfigError: an option out of range.
        DataError: no such folder, or nothing in it.
    """
    options = require_options(data, (*videos.OPTIONS, *features.OPTIONS, "classes"))
    folder = path_of(data)
    if not folder.is_dir():
        raise DataError(f"no folder {folder}; data.path must hold a folder of clips for each class")
    classes = classes_said(data) or tuple(path.name for path in _folders(folder))
    found = [(path, number, "") for path, number in _listed(folder, classes, videos.BY_PILLOW | videos.BY_AV)]
    if not found:
        raise DataError(f"no clips in the folders of {folder}; expected CLASS/NAME.gif, .webp, .tif, .mp4 or the like")
    if not classes_said(data):
        _require_shared(found, classes, has_sites=False)
    if "features" in options:
        through = features.ClipFeatures(options, folder)
        return FileReader(folder.name, found, classes, through.read, has_sites=False, through=through)
    if idle := sorted(options.keys() & set(features.OPTIONS)):
        raise ConfigError(
            f"data.options.{idle[0]} is of features, and data.options.features names no encoder; name one, or leave it out"
        )
    decode = videos.reader({key: value for key, value in options.items() if key != "classes"})
    return FileReader(folder.name, found, classes, decode, has_sites=False)


def in_memory(reader: FileReader, data: Data, seed: int) -> Dataset:
    """Read all files that `data.limit` keeps, into one array.

    Raises:
        DataError: one that cannot be read (without `data.skip_broken`), or more of them than half of the machine's memory holds.
    """
    kept, known = drawn(len(reader), data, seed), reader.known()
    numbers = np.arange(len(reader)) if kept is None else kept
    assert known.labels is not None  # noqa: S101 -- a file's label is its folder
    lazy = LazySamples(reader, data, numbers, known.labels[numbers])
    _require_room(lazy.features.nbytes, known.name)
    reader.make_ready(numbers, skip_broken=data.skip_broken)
    values = np.empty(lazy.features.shape, dtype=np.float32)
    read: list[int] = []
    for place in range(len(numbers)):
        found = lazy.read(np.array([place]))
        if len(found.features):
            values[len(read)] = found.features[0]
            read.append(place)
    if len(read) < len(numbers):
        _log.warning(
            "files that cannot be read are left out", folder=known.name, files=len(numbers) - len(read), of=len(numbers)
        )
    labels, groups = lazy.labels[read], None if known.groups is None else known.groups[numbers[read]]
    return Dataset(
        Samples(values[: len(read)], labels), known.outputs, groups, name=known.name, class_names=known.class_names,
        made_by=known.made_by,
    )  # fmt: skip


def _require_room(wanted: int, name: str) -> None:
    """Refuse files that would not fit, before the memory is taken."""
    held = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if wanted > held / 2:
        raise DataError(
            f"the files of {name} take {wanted / 1e9:.1f} GB as float32, this machine has {held / 1e9:.1f}; set data.lazy = true, which reads "
            "them when a batch needs them, or use fewer frames, a smaller size, or data.limit"
        )


def _listed(root: Path, classes: Sequence[str], endings: Collection[str]) -> list[tuple[Path, int]]:
    """Files of each class in the order of their names, by their whole paths, with the number of the class; what is left out is said."""
    root = root.resolve()  # whatever folder is the current one when they are read
    if unknown := sorted({path.name for path in _folders(root)} - set(classes)):
        raise DataError(
            f"{root} has folders {', '.join(unknown[:10])}, which are not in data.options.classes ({', '.join(classes[:10])}): name them there, or move them away"
        )
    if missing := [name for name in classes if not (root / name).is_dir()]:
        _log.warning("classes without a folder", folder=str(root), classes=missing)
    found: list[tuple[Path, int]] = []
    others = [path for path in sorted(root.iterdir()) if path.is_file()]
    for number, name in enumerate(classes):
        for path in sorted((root / name).rglob("*")):
            # What a link leads to may be away (then reading says so), or a folder, which is not gone into.
            if path.suffix.lower() in endings and not path.is_dir():
                found.append((path, number))
            elif not path.is_dir() or path.is_symlink():
                others.append(path)
    left = [
        path for path in (p.relative_to(root) for p in others) if not any(part.startswith(".") for part in path.parts)
    ]
    if left:
        _log.warning(
            "files that are none of these samples are left out", folder=str(root), files=len(left), first=str(left[0]),
            expected=f"CLASS/NAME with one of {', '.join(sorted(endings))}",
        )  # fmt: skip
    return found


def _require_shared(found: Sequence[tuple[Path, int, str]], classes: Sequence[str], *, has_sites: bool) -> None:
    """Refuse folders that are no agreed classes, by their files; see `dictpfl.client.data.classes`."""
    sites = np.array([site for _, _, site in found]) if has_sites and found else None
    require_shared([classes[number] for _, number, _ in found], sites, lambda bad: str(found[int(bad.argmax())][0]))


def _folders(folder: Path) -> list[Path]:
    """Folders in a folder; hidden ones, such as an editor's or `.features`, are none."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
