"""Pictures: CIFAR-10, German traffic signs, RetinaMNIST, as parquet files in the layout of the Hugging Face hub.

A picture is a cell {bytes, path} of encoded bytes; names of classes stand in the metadata, as `datasets` writes them.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from sets import fetched
from sets.places import Unreachable, hub, note, original, web, write

_CIFAR10 = {
    "train": (50_000, "fb02dbea9e62813ab1a8c0e91d82debb1c514cad0407f933b0b9f4f0faf46569"),
    "test": (10_000, "92383172ef19b0b902cd1ecddf3776b7422cc4f2a0362b185db1178d74871eb2"),
}
_CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_GTSRB = "1d6b0a8850f5d74b6f8b2183367b1a5f170913d60df6fa3d57a1f89a057102f0"
_GTSRB_WEB = "https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370/GTSRB_Final_Training_Images.zip"
_GTSRB_ROWS, _GTSRB_CLASSES = 39_209, 43
_GTSRB_SIZE, _GTSRB_QUALITY = 32, 92
_GTSRB_TEST = 5  # of each class, every fifth track

_RETINA = "254915f5f0a2074665c4676356824cf4ef4a3bcab233894b4bafcaf48962bd69"
_RETINA_WEB = "https://zenodo.org/records/10519652/files/retinamnist.npz?download=1"
_RETINA_PARTS = {"train": "train", "validation": "val", "test": "test"}
_RETINA_CLASSES = ("0", "1", "2", "3", "4")


@fetched(
    "cifar10",
    files=("cifar10/train.parquet", "cifar10/test.parquet"),
    about="CIFAR-10, 50,000 and 10,000 pictures of 32 x 32, 10 classes",
)
def cifar10(target: Path, given: Path | None) -> None:
    """Copy the originals, or take the hub's files (uoft-cs/cifar10) and name the column of pictures `image`."""
    for split, (rows, sha256) in _CIFAR10.items():
        data = original(given, f"cifar10-{split}.parquet", sha256)
        if data is None:
            raw = hub("uoft-cs/cifar10", f"plain_text/{split}-00000-of-00001.parquet")
            table = pq.read_table(io.BytesIO(raw)).rename_columns({"img": "image"})
            if table.num_rows != rows or set(table["label"].unique().to_pylist()) != set(range(len(_CIFAR10_CLASSES))):
                raise Unreachable(
                    f"uoft-cs/cifar10, {split}: expected {rows:,} rows of 10 classes, found {table.num_rows:,}; the hub "
                    "holds another data set by now, give the folder of originals by --from"
                )
            data = _parquet(table["image"].to_pylist(), table["label"].to_pylist(), _CIFAR10_CLASSES)
        write(target / "cifar10" / f"{split}.parquet", data)
    note(
        target / "cifar10.LICENSE",
        """
CIFAR-10, Alex Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
https://www.cs.toronto.edu/~kriz/cifar.html. Its authors state no licence; they ask to be cited.""",
    )


@fetched(
    "gtsrb",
    files=("gtsrb.parquet",),
    about="German traffic signs, 39,209 pictures of 32 x 32, 43 classes, column `split`",
)
def gtsrb(target: Path, given: Path | None) -> None:
    """Divide the official training pictures by track, since the pictures of a track show one sign on one drive.

    The column `split` is `test` for every fifth track of each class and `train` for the others.
    """
    data = original(given, "gtsrb-train.parquet", _GTSRB)
    if data is None:
        cells, labels = _gtsrb_pictures(web(_GTSRB_WEB))
    else:
        table = pq.read_table(io.BytesIO(data))
        cells, labels = table["image"].to_pylist(), table["label"].to_pylist()
    if len(cells) != _GTSRB_ROWS or set(labels) != set(range(_GTSRB_CLASSES)):
        raise Unreachable(
            f"GTSRB: expected {_GTSRB_ROWS:,} pictures of {_GTSRB_CLASSES} classes, found {len(cells):,} of "
            f"{len(set(labels))}; the address holds another data set by now, give the folder of originals by --from"
        )
    tracks = [track_of(cell["path"]) for cell in cells]
    names = tuple(str(number) for number in range(_GTSRB_CLASSES))
    write(target / "gtsrb.parquet", _parquet(cells, labels, names, by_track(tracks, labels)))
    note(
        target / "gtsrb.LICENSE",
        """
German Traffic Sign Recognition Benchmark, J. Stallkamp, M. Schlipsing, J. Salmen, C. Igel, Man vs. computer: benchmarking
machine learning algorithms for traffic sign recognition, Neural Networks 32, 2012.
https://benchmark.ini.rub.de/. Published for research; its authors ask to be cited.""",
    )


def track_of(path: str) -> int:
    """Read the track out of a name like `.../CLASS_TRACK_FRAME.png`, or the original `TRACK_FRAME.ppm`.

    Raises:
        ValueError: another name.
    """
    found = re.fullmatch(r"(?:\d+_)?(\d+)_\d+", Path(path).stem)
    if not found:
        raise ValueError(f"{path!r}: expected a name like 00000_00012_00003.png, whose middle is the track")
    return int(found[1])


def by_track(tracks: Sequence[int], labels: Sequence[int]) -> list[str]:
    """Say `test` for every fifth track of each class, in the order of their numbers, and `train` for the others."""
    known: dict[int, list[int]] = {}
    for label in set(labels):
        known[label] = sorted({track for track, other in zip(tracks, labels, strict=True) if other == label})
    return [
        "test" if known[label].index(track) % _GTSRB_TEST == _GTSRB_TEST - 1 else "train"
        for track, label in zip(tracks, labels, strict=True)
    ]


def _gtsrb_pictures(archive: bytes) -> tuple[list[dict[str, Any]], list[int]]:
    """Read the official archive: GTSRB/Final_Training/Images/CLASS/TRACK_FRAME.ppm, resized and encoded as JPEG."""
    cells: list[dict[str, Any]] = []
    labels: list[int] = []
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        for name in sorted(n for n in file.namelist() if n.endswith(".ppm")):
            with Image.open(io.BytesIO(file.read(name))) as picture:
                small = picture.convert("RGB").resize((_GTSRB_SIZE, _GTSRB_SIZE), Image.Resampling.BICUBIC)
            labels.append(int(Path(name).parent.name))
            cells.append({"bytes": _encoded(small, "JPEG", quality=_GTSRB_QUALITY), "path": name})
    return cells, labels


@fetched(
    "retina",
    files=tuple(f"retina/{split}.parquet" for split in _RETINA_PARTS),
    about="RetinaMNIST, 1,600 fundus photographs of 28 x 28, 5 grades of diabetic retinopathy, official split",
)
def retina(target: Path, given: Path | None) -> None:
    """Write the three official parts; pictures as PNG, pixel for pixel."""
    data = original(given, "retinamnist.npz", _RETINA) or web(_RETINA_WEB, _RETINA)
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        for split, stem in _RETINA_PARTS.items():
            pictures, grades = arrays[f"{stem}_images"], arrays[f"{stem}_labels"].reshape(-1)
            cells = [
                {"bytes": _encoded(Image.fromarray(pixels), "PNG"), "path": f"{split}/{number:04d}.png"}
                for number, pixels in enumerate(pictures)
            ]
            write(target / "retina" / f"{split}.parquet", _parquet(cells, grades.tolist(), _RETINA_CLASSES))
    note(
        target / "retina.LICENSE",
        """
RetinaMNIST of MedMNIST v2, J. Yang and others, Scientific Data 10, 41, 2023, https://medmnist.com/; from the DeepDRiD
challenge, R. Liu and others, Patterns 3, 2022. Creative Commons Attribution 4.0 International (CC BY 4.0).""",
    )


def _encoded(picture: Image.Image, form: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def _parquet(
    cells: Iterable[object], labels: Sequence[int], names: Sequence[str], splits: Sequence[str] | None = None
) -> bytes:
    """Make a parquet file in the hub's layout, with the column `split` if it is given."""
    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {"image": pa.array(cells, picture), "label": pa.array(labels, pa.int64())}
    features: dict[str, object] = {"image": {"_type": "Image"}, "label": {"names": list(names), "_type": "ClassLabel"}}
    if splits is not None:
        columns["split"] = pa.array(splits, pa.string())
        features["split"] = {"dtype": "string", "_type": "Value"}
    table = pa.table(columns).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()
