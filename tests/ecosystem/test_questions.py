"""Tables of pictures, questions and answers: as `images` and `texts` read their columns, lazily or not, and a model that trains on them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dictpfl.client.data.samples import PADDING, Dataset, Samples
from dictpfl.client.data.source import load_dataset
from dictpfl.common.errors import ConfigError, DataError, DictPFLError
from dictpfl.common.settings import Data
from dictpfl.deploy.simulation.simulate import simulate
from tests.support.federations import tiny

ROWS, SIZE, LONGEST = 96, 16, 6


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grey squares, and which is asked for: "is the ice", yes where the picture is bright, "is the moon", yes where it is dark."""
    draw, rows = np.random.default_rng(1), []
    for number in range(ROWS):
        bright = number % 2
        pixels = draw.integers(150 if bright else 0, 256 if bright else 100, (SIZE, SIZE), dtype=np.uint8)
        encoded = io.BytesIO()
        Image.fromarray(pixels).save(encoded, format="PNG")
        word = ("ice", "moon")[number // 2 % 2]
        answer = "yes" if bright == (word == "ice") else "no"
        rows.append({"picture": encoded.getvalue(), "question": f"is the {word}", "answer": answer, "site": number % 3})
    path = tmp_path_factory.mktemp("asked") / "asked.parquet"
    pd.DataFrame(rows).to_parquet(path, row_group_size=16)
    return path


def section(table: Path, tokenizer: Path, **changes: Any) -> dict[str, Any]:
    options = {
        "image": "picture",
        "text": "question",
        "size": SIZE,
        "mode": "L",
        "max_tokens": LONGEST,
        "tokenizer": str(tokenizer),
    }
    return {"source": "parquet", "path": str(table), "label": "answer", "options": options} | changes


def test_a_sample_is_the_picture_and_then_the_question(table: Path, tokenizer: Path) -> None:
    said = section(table, tokenizer)
    found = load_dataset(Data(**said), 1)
    assert found.class_names == ("no", "yes")
    assert found.samples.features.shape == (ROWS, SIZE * SIZE + LONGEST)
    assert found.samples.features.dtype == np.float32
    options = said["options"]
    pictures = load_dataset(
        Data(**section(table, tokenizer, options={k: options[k] for k in ("image", "size", "mode")})), 1
    )
    words = load_dataset(
        Data(**section(table, tokenizer, options={k: options[k] for k in ("text", "max_tokens", "tokenizer")})), 1
    )
    np.testing.assert_array_equal(found.samples.features[:, : SIZE * SIZE], pictures.samples.features.reshape(ROWS, -1))
    np.testing.assert_array_equal(found.samples.features[:, SIZE * SIZE :], words.samples.features)
    np.testing.assert_array_equal(found.samples.labels, words.samples.labels)
    assert (found.samples.features[:, -1] == PADDING).all(), "the question has five tokens"


def test_by_the_batch_and_of_a_limit_they_are_the_same(table: Path, tokenizer: Path) -> None:
    whole = load_dataset(Data(**section(table, tokenizer)), 1)
    lazily = load_dataset(Data(**section(table, tokenizer, lazy=True)), 1)
    few = np.array([40, 3, 77])
    held = lazily.samples.read(few)
    np.testing.assert_array_equal(held.features, whole.samples.features[few])
    np.testing.assert_array_equal(held.labels, whole.samples.labels[few])
    some = load_dataset(Data(**section(table, tokenizer, limit=30)), 1).samples
    rows = {row.tobytes(): label for row, label in zip(whole.samples.features, whole.samples.labels, strict=True)}
    assert len(some) == 30
    assert all(rows[row.tobytes()] == label for row, label in zip(some.features, some.labels, strict=True))


@pytest.mark.slow
def test_a_federation_answers(table: Path, tokenizer: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    model = {
        "image": [1, SIZE, SIZE],
        "width": 16,
        "layers": 3,
        "heads": 2,
        "words": len(AutoTokenizer.from_pretrained(tokenizer)),
    }
    changes: dict[str, Any] = {f"data__{key}": value for key, value in section(table, tokenizer, limit=0).items()}
    changes |= {
        "model__source": "vlm",
        "decomposition__embeddings": "dense",
        "training__steps": 20,
        "training__learning_rate": 1e-2,
    }
    config = tiny(**changes, model__options=model, federation__rounds=4, data__partition="iid")
    run = simulate(config, tmp_path / "run", engine="local")
    assert run.accuracy > 0.75, "neither the picture alone nor the question alone says more than half"
    with pytest.raises(DictPFLError, match=r"model\.options\.words"):
        simulate(tiny(**changes, model__options=model | {"words": 4}), tmp_path / "few", engine="local")


def test_language_models_are_not_asked_about_pictures(table: Path, tokenizer: Path) -> None:
    said = section(table, tokenizer)
    with pytest.raises(ConfigError, match="answered by a class"):
        load_dataset(Data(**said | {"options": said["options"] | {"target": "next"}}), 1)
    with pytest.raises(ConfigError, match="prompt"):
        load_dataset(Data(**said | {"options": said["options"] | {"prompt": "question"}}), 1)


@pytest.mark.parametrize("image", [[1, SIZE - 2, SIZE], [SIZE, SIZE, 1], [3, SIZE, SIZE]])
def test_a_picture_of_another_shape_is_none(table: Path, tokenizer: Path, tmp_path: Path, image: list[int]) -> None:
    """What is left over of it was read as words, in silence."""
    said = {f"data__{key}": value for key, value in section(table, tokenizer).items()}
    for lazily in (False, True):
        config = tiny(
            **said, data__lazy=lazily, model__source="vlm", model__options={"image": image, "width": 16, "layers": 3}
        )
        with pytest.raises(ConfigError, match=rf"the picture of a sample of asked\.parquet is \[1, {SIZE}, {SIZE}\]"):
            simulate(config, tmp_path / "run", engine="local")


def own() -> Dataset:
    draw = np.random.default_rng(1)
    rows = np.concatenate([draw.random((90, 64)), draw.integers(0, 9, (90, 3))], axis=1)
    return Dataset(Samples(rows.astype(np.float32), np.arange(90) % 2), 2)


def test_words_of_ones_own_are_whole_numbers(tmp_path: Path) -> None:
    options = {"image": [1, 4, 8], "width": 16, "layers": 3, "heads": 2}
    config = tiny(data__source=f"{__name__}:own", data__partition="iid", model__source="vlm", model__options=options)
    with pytest.raises(ConfigError, match="has another shape"):
        simulate(config, tmp_path / "run", engine="local")
    fitting = config.model_copy(
        update={"model": config.model.model_copy(update={"options": options | {"image": [1, 8, 8]}})}
    )
    assert simulate(fitting, tmp_path / "fitting", engine="local").summary["rounds"] > 0


def test_a_picture_that_cannot_be_read_is_named_by_its_row(table: Path, tokenizer: Path, tmp_path: Path) -> None:
    frame = pd.read_parquet(table)
    frame.loc[5, "picture"] = b"junk"
    path = tmp_path / "junk.parquet"
    frame.to_parquet(path)
    with pytest.raises(DataError, match=r"junk\.parquet, row 6: column 'picture': .* no format that Pillow knows"):
        load_dataset(Data(**section(path, tokenizer)), 1)
    with pytest.raises(DataError, match=r"^(?!.*0x).*junk\.parquet.*column 'picture'"):
        load_dataset(Data(**section(path, tokenizer, lazy=True)), 1)
