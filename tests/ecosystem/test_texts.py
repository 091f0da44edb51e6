"""Text of files as token ids, and partitioners of flwr-datasets by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import structlog

from dictpfl.client.data.samples import IGNORED, PADDING
from dictpfl.client.data.source import load_dataset
from dictpfl.common.errors import ConfigError, DataError
from dictpfl.common.settings import Data
from dictpfl.deploy.simulation.partition import divide


def text_data(path: Path, words: Path, source: str = "csv", **options: Any) -> Data:
    chosen = {"text": "text", "tokenizer": str(words), "max_tokens": 12} | options
    return Data(source=source, path=str(path), label="topic", options=chosen)


def test_rows_are_cut_and_filled(texts: Path, tokenizer: Path) -> None:
    found = load_dataset(text_data(texts, tokenizer), seed=1)
    features, frame = found.samples.features, pd.read_csv(texts)
    assert (features.shape, features.dtype, found.outputs) == ((240, 12), np.int64, 3)
    assert found.class_names == ("ice", "kitchen", "space")
    lengths = frame.text.str.split().str.len().to_numpy() + 2
    assert ((features != PADDING).sum(axis=1) == np.minimum(lengths, 12)).all()
    assert lengths.max() > 12 > lengths.min()
    assert [found.class_names[n] for n in found.samples.labels] == frame.topic.tolist()


@pytest.mark.parametrize("options", [{}, {"target": "next"}])
def test_a_limit_keeps_rows_of_the_whole(options: dict[str, Any], texts: Path, tokenizer: Path) -> None:
    data = text_data(texts, tokenizer, **options)
    whole, few = load_dataset(data, seed=5), load_dataset(data.model_copy(update={"limit": 7}), seed=5)
    kept = np.sort(np.random.default_rng(5).permutation(240)[:7])
    np.testing.assert_array_equal(few.samples.features, whole.samples.features[kept])
    np.testing.assert_array_equal(few.samples.labels, whole.samples.labels[kept])
    assert (few.outputs, few.class_names) == (whole.outputs, whole.class_names)


def test_a_limit_keeps_the_institutions_of_its_rows(texts: Path, tokenizer: Path) -> None:
    named = text_data(texts, tokenizer, classes=["ice", "kitchen", "space"])
    data = named.model_copy(update={"limit": 7, "column": "topic", "label": "topic"})
    found = load_dataset(data, seed=5)
    assert found.groups is not None
    assert found.groups.tolist() == [found.class_names[n] for n in found.samples.labels]


@pytest.mark.parametrize("source", ["parquet", "jsonl", "datasets", "arrow"])
def test_every_kind_of_file_gives_the_same(source: str, texts: Path, tokenizer: Path, tmp_path: Path) -> None:
    import datasets

    frame, path = pd.read_csv(texts), tmp_path / "data"
    table = datasets.Dataset.from_pandas(frame)
    if source == "parquet":
        frame.to_parquet(path)
    elif source == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    elif source == "datasets":
        datasets.DatasetDict({"train": table, "other": table.select(range(3))}).save_to_disk(path)
    else:
        table.save_to_disk(path)
        path = next(path.glob("*.arrow"))
    source = "datasets" if source == "arrow" else source
    expected = load_dataset(text_data(texts, tokenizer), seed=1)
    found = load_dataset(text_data(path, tokenizer, source), seed=1)
    np.testing.assert_array_equal(found.samples.features, expected.samples.features)
    np.testing.assert_array_equal(found.samples.labels, expected.samples.labels)
    if source != "jsonl":
        lazy = load_dataset(text_data(path, tokenizer, source).model_copy(update={"lazy": True}), seed=1)
        np.testing.assert_array_equal(lazy.samples.features[:], expected.samples.features)
        np.testing.assert_array_equal(lazy.samples.labels, expected.samples.labels)
        learnt = [
            load_dataset(text_data(path, tokenizer, source, target="next").model_copy(update={"lazy": lazily}), seed=1)
            for lazily in (False, True)
        ]
        assert learnt[0].outputs == learnt[1].outputs
        np.testing.assert_array_equal(learnt[1].samples.labels[:], learnt[0].samples.labels)
    if path.is_dir():
        assert len(load_dataset(text_data(path, tokenizer, source, split="other"), seed=1).samples) == 3
        with pytest.raises(DataError, match=r"train, other|other, train"):
            load_dataset(text_data(path, tokenizer, source, split="gone"), seed=1)


def test_names_of_classes_that_the_file_holds(tokenizer: Path, tmp_path: Path) -> None:
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "topic": datasets.ClassLabel(names=["no", "yes"])})
    table = datasets.Dataset.from_dict({"text": ["ice team", "salt pan"], "topic": [1, 0]}, features=features)
    table.save_to_disk(tmp_path / "a")
    table.to_parquet(tmp_path / "b.parquet")
    for source, path in (("datasets", "a"), ("parquet", "b.parquet")):
        found = load_dataset(text_data(tmp_path / path, tokenizer, source), seed=1)
        assert (found.class_names, found.samples.labels.tolist()) == (("no", "yes"), [1, 0])


def test_pairs(tmp_path: Path, tokenizer: Path) -> None:
    path = tmp_path / "pairs.csv"
    pd.DataFrame({"a": ["ice"], "b": ["salt oven"], "topic": ["x"]}).to_csv(path, index=False)
    row = load_dataset(text_data(path, tokenizer, text=["a", "b"]), seed=1).samples.features[0]
    assert (row == 3).sum() == 2
    assert (row != PADDING).sum() == 6


def test_next_tokens_and_prompts(tmp_path: Path, tokenizer: Path) -> None:
    path = tmp_path / "talk.csv"
    pd.DataFrame({"ask": ["the puck", "a"], "text": ["is on ice", "rink"]}).to_csv(path, index=False)
    plain = load_dataset(text_data(path, tokenizer, target="next"), seed=1).samples
    np.testing.assert_array_equal(plain.labels[plain.features != PADDING], plain.features[plain.features != PADDING])
    assert (plain.labels[plain.features == PADDING] == IGNORED).all()
    found = load_dataset(text_data(path, tokenizer, target="next", prompt="ask"), seed=1)
    learnt = found.samples.labels != IGNORED
    assert learnt.sum(axis=1).tolist() == [4, 2]  # the text and the end
    assert found.samples.features[0, :4].tolist()[0] == 2
    assert not learnt[0, :4].any()
    assert found.outputs == 38
    assert len(divide(found, Data(test_share=0.5), 1, seed=1).institutions[0].train) == 1


def test_a_text_ends_once(tmp_path: Path, tokenizer: Path) -> None:
    """A tokenizer that ends texts by itself, or a text that is written with its end, was given a second one to learn."""
    path = tmp_path / "ends.csv"
    pd.DataFrame({"ask": ["the puck", "a"], "text": ["ice", "rink [SEP]"]}).to_csv(path, index=False)
    plain = load_dataset(text_data(path, tokenizer, target="next"), seed=1).samples.features
    assert (plain[0] == 3).sum() == 1
    asked = load_dataset(text_data(path, tokenizer, target="next", prompt="ask"), seed=1).samples
    assert (asked.labels == 3).sum(axis=1).tolist() == [1, 1]


def test_a_row_without_a_prompt_is_the_same_beside_any_others(tmp_path: Path, tokenizer: Path) -> None:
    """Rows of empty prompts alone, as a batch or an institution may have them, were marked as texts without prompts are."""
    rows = pd.DataFrame({"ask": ["", "the puck", ""], "text": ["ice", "rink", "oven"]})
    for name, some in (("all", rows), ("two", rows.iloc[[0, 2]])):
        some.to_parquet(tmp_path / name)
    made = [
        load_dataset(text_data(tmp_path / name, tokenizer, "parquet", target="next", prompt="ask"), seed=1).samples
        for name in ("all", "two")
    ]
    np.testing.assert_array_equal(made[0].features[[0, 2]], made[1].features)
    np.testing.assert_array_equal(made[0].labels[[0, 2]], made[1].labels)


@pytest.fixture
def talk(tmp_path: Path) -> Path:
    """Questions and answers of three rows: 2 + 3, 1 + 1 and 2 + 6 words."""
    path = tmp_path / "talk.csv"
    rows = [("the puck", "is on ice"), ("a", "rink"), ("the moon", "rocket to mars and to moon")]
    pd.DataFrame(rows, columns=["ask", "text"]).to_csv(path, index=False)
    return path


def test_prompts_stand_in_their_template(talk: Path, tokenizer: Path) -> None:
    """A template around the prompts is the same as prompts that were written so; none of it is learnt."""
    written = talk.with_name("written.csv")
    frame = pd.read_csv(talk)
    frame.assign(ask=[f"for {ask} of" for ask in frame.ask]).to_csv(written, index=False)
    told = text_data(talk, tokenizer, target="next", prompt="ask", template="for {prompt} of")
    by_hand = text_data(written, tokenizer, target="next", prompt="ask")
    found, expected = load_dataset(told, seed=1).samples, load_dataset(by_hand, seed=1).samples
    np.testing.assert_array_equal(found.features, expected.features)
    np.testing.assert_array_equal(found.labels, expected.labels)
    assert (found.labels != IGNORED).sum(axis=1).tolist() == [4, 2, 7 - 1]  # the last one is cut


def test_long_rows_are_dropped_whole(talk: Path, tokenizer: Path) -> None:
    """Rows of 8, 5 and 11 tokens: CLS, prompt, SEP, answer, end."""
    data = text_data(talk, tokenizer, target="next", prompt="ask", max_tokens=8)
    cut = load_dataset(data, seed=1).samples
    assert (cut.features != PADDING).sum(axis=1).tolist() == [8, 5, 8]
    dropping = data.model_copy(update={"options": data.options | {"long": "drop"}})
    dropped = load_dataset(dropping, seed=1).samples
    np.testing.assert_array_equal(dropped.features, cut.features[:2])
    np.testing.assert_array_equal(dropped.labels, cut.labels[:2])
    limited = load_dataset(dropping.model_copy(update={"limit": 2}), seed=1).samples
    assert len(limited) == 2  # those that are dropped do not count
    with pytest.raises(DataError, match="no row has 4 tokens"):
        load_dataset(dropping.model_copy(update={"options": dropping.options | {"max_tokens": 4}}), seed=1)


def test_prompts_that_leave_nothing_to_learn_are_told(talk: Path, tokenizer: Path) -> None:
    data = text_data(talk, tokenizer, target="next", prompt="ask", max_tokens=4)
    with structlog.testing.capture_logs() as logs:
        load_dataset(data, seed=1)
    (told,) = [entry for entry in logs if entry["log_level"] == "warning"]
    assert (told["rows"], told["of"]) == (2, 3)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"tokenizer": ""}, "needs data.options.tokenizer"),
        ({"tokenizer": "./nowhere"}, "no folder"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1}, "max_tokens is 1, fewer than the tokens"),
        ({"prompt": "topic"}, "prompt"),
        ({"long": "drop"}, 'target = "next"'),
        ({"long": "keep", "target": "next"}, "'keep'"),
        ({"template": "{prompt}", "target": "next"}, "data.options.prompt"),
        ({"template": "prompt", "prompt": "topic", "target": "next"}, "in it once"),
        ({"text": "body"}, "no column 'body'"),
        ({"wrong": 1}, "unknown wrong"),
    ],
)
def test_wrong_options(options: dict[str, Any], match: str, texts: Path, tokenizer: Path) -> None:
    with pytest.raises((ConfigError, DataError), match=match):
        load_dataset(text_data(texts, tokenizer, **options), seed=1)


@pytest.mark.parametrize(
    ("partition", "options"),
    [
        ("PathologicalPartitioner", {"num_classes_per_partition": 2}),
        ("LinearPartitioner", {}),
        ("ShardPartitioner", {"num_shards_per_partition": 2}),
        ("DirichletPartitioner", {"alpha": 5.0, "min_partition_size": 1}),
    ],
)
def test_partitioners_by_name(partition: str, options: dict[str, Any]) -> None:
    dataset = load_dataset(Data(limit=300), seed=1)
    data = Data(partition=partition, partition_options=options)
    institutions = divide(dataset, data, 3, seed=1).institutions
    again = divide(dataset, data, 3, seed=1).institutions
    assert [len(s.train) for s in institutions] == [len(s.train) for s in again]
    total = sum(len(s.train) + len(s.validation) for s in institutions)
    # Classes that it gives to nobody are left out.
    assert 0 < total <= 240 if partition == "PathologicalPartitioner" else total == 240
    if partition == "LinearPartitioner":
        assert len(institutions[2].train) > 2 * len(institutions[0].train)
    if partition == "PathologicalPartitioner":
        assert all(len(set(s.train.labels.tolist())) <= 2 for s in institutions)


def test_unknown_partitioner() -> None:
    dataset = load_dataset(Data(limit=60), seed=1)
    with pytest.raises(ConfigError, match="ShardPartitioner"):
        divide(dataset, Data(partition="shards"), 3, seed=1)
    with pytest.raises(ConfigError, match="partition_options"):
        divide(dataset, Data(partition="ShardPartitioner", partition_options={"shards": 1}), 3, seed=1)
