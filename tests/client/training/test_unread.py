"""Training and measuring by the batch: the same bits as from memory, with any number of processes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from torch import nn

from dictpfl.client.data.lazy import LazySamples
from dictpfl.client.data.samples import Dataset, Samples
from dictpfl.client.data.source import load_dataset
from dictpfl.client.model.twin import Twin, decompose
from dictpfl.client.training.tasks.classification import Classification
from dictpfl.client.training.train import Measured, evaluate, train
from dictpfl.client.training.unread import Unread
from dictpfl.common.errors import DataError
from dictpfl.common.protection import Privacy
from dictpfl.common.settings import Data, Decomposition, Training


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made, draw = tmp_path_factory.mktemp("scans"), np.random.default_rng(0)
    for number in range(26):
        (made / "ab"[number % 2]).mkdir(exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (8, 8)).astype(np.uint8)).save(made / "ab"[number % 2] / f"{number}.png")
    return made


def read(folder: Path, **changes: Any) -> Dataset:
    return load_dataset(Data(source="imagefolder", path=str(folder), options={"size": 8, "mode": "L"}, **changes), 1)


def network() -> nn.Module:
    torch.manual_seed(0)
    # Dropout draws from torch's generator, which a loader of batches must leave alone.
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 2)
    )


def trained(samples: Samples, **changes: Any) -> tuple[Twin, Measured]:
    twin = decompose(network(), rank=2)
    settings = Training(**({"device": "cpu", "batch_size": 8, "learning_rate": 1e-2, "epochs": 2} | changes))
    train(twin, samples, settings, Classification(), seed=3)
    return twin, evaluate(twin.module, samples, Classification(), batch_size=16, workers=settings.workers)


@pytest.mark.parametrize("augment", [[], ["flip"]])
def test_the_same_model_from_memory_or_not_with_any_number_of_workers(folder: Path, augment: list[str]) -> None:
    held, lazy = read(folder).samples, read(folder, lazy=True).samples
    twin, measured = trained(held, augment=augment)
    for samples, workers in ((lazy, 0), (lazy, 2), (held, 2)):
        other, found = trained(samples, augment=augment, workers=workers)
        assert np.array_equal(other.read(), twin.read()), (type(samples), workers)
        assert found == measured


def test_features_of_a_frozen_encoder_are_those_of_memory_and_files_are_read_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, lazy, read_files = read(folder).samples, read(folder, lazy=True).samples, list[int]()
    assert isinstance(lazy, LazySamples)
    whole = lazy.reader.read
    monkeypatch.setattr(
        lazy.reader, "read", lambda numbers, seed, room: (read_files.extend(numbers), whole(numbers, seed, room))[1]
    )
    found = []
    for samples in (held, lazy):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 2))
        twin = Twin(model, Decomposition(enabled=False, frozen=["1.*"]), {})
        settings = Training(device="cpu", batch_size=8, learning_rate=1e-2)
        rounds = [train(twin, samples, settings, Classification(), seed=seed) for seed in range(3)]
        found.append((twin.read().tobytes(), rounds, evaluate(twin.module, samples, Classification())))
    assert found[0] == found[1]
    assert sorted(read_files) == sorted([*range(26), *range(16), *range(26)]), (
        "once to train, once to see that it can be kept, once to measure"
    )


def test_a_sample_that_cannot_be_read_ends_the_round_in_words_or_is_left_out(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in folder.rglob("*.png"):
        (tmp_path / path.parent.name).mkdir(exist_ok=True)
        (tmp_path / path.relative_to(folder)).write_bytes(b"broken" if path.stem in ("7", "8") else path.read_bytes())
    for workers in (0, 1):
        with pytest.raises(DataError, match=r"cannot read .*/[78]\.png: ") as caught:
            trained(read(tmp_path, lazy=True).samples, workers=workers)
        assert "Traceback" not in str(caught.value)
    first = trained(read(tmp_path, lazy=True, skip_broken=True).samples)
    assert first[1].count == 24
    assert re.search(r"were left out .*samples=2\b", capsys.readouterr().out)
    second = trained(read(tmp_path, lazy=True, skip_broken=True).samples, workers=1)
    assert np.array_equal(first[0].read(), second[0].read())


def test_damaged_row_groups_are_left_out_and_what_has_nothing_else_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    frame = pd.DataFrame({f"f{i}": np.arange(48) / 7 for i in range(64)} | {"y": ["u", "v"] * 24})
    data = Data(source="parquet", path=str(path), label="y", lazy=True, skip_broken=True)
    for rows, count in ((16, 32), (48, 0)):
        frame.to_parquet(path, row_group_size=rows, compression="none")
        samples, column = load_dataset(data, 1).samples, pyarrow.parquet.read_metadata(path).row_group(0).column(0)
        written = bytearray(path.read_bytes())
        start = min(column.data_page_offset, column.dictionary_page_offset or column.data_page_offset)
        written[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
        samples.reader._table._kept.clear()  # type: ignore[attr-defined]  # the rows by which it knows the form
        with path.open("r+b") as file:
            file.write(written)
        if count:
            assert trained(samples)[1].count == count
        else:
            with pytest.raises(DataError, match="none of 48 samples can be read"):
                trained(samples)


def test_private_training_reads_what_poisson_draws(folder: Path, tmp_path: Path) -> None:
    dpsgd = pytest.importorskip("dictpfl.client.privacy.dpsgd")
    for path in folder.rglob("*.png"):
        (tmp_path / path.parent.name).mkdir(exist_ok=True)
        (tmp_path / path.relative_to(folder)).write_bytes(b"broken" if path.stem == "7" else path.read_bytes())
    twin = decompose(nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 2)), rank=2)
    before = twin.read()
    settings = Training(device="cpu", batch_size=2, steps=30)
    samples = read(tmp_path, lazy=True, skip_broken=True).samples
    found = dpsgd.train_privately(twin, samples, settings, Classification(), privacy=Privacy(), noise=1.0, seed=1)
    assert 20 < found.samples_seen < 110, "60 of 26 in 30 steps are expected, one of which is broken"
    assert not np.array_equal(twin.read(), before)


@pytest.mark.parametrize("skips", [True, False])
def test_a_worker_writes_images_where_they_cross_without_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, skips: bool
) -> None:
    draw = np.random.default_rng(0)
    for number in range(12):
        path = tmp_path / ("ill", "well")[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(draw.integers(0, 255, (9, 12), dtype=np.uint8)).save(path)
    data = Data(source="imagefolder", path=str(tmp_path), lazy=True, options={"mode": "L", "size": 8})
    samples = load_dataset(data.model_copy(update={"skip_broken": skips}), 1).samples
    unread = Unread(samples, torch.float32)  # type: ignore[arg-type]
    here = unread.read([7, 2, 5])[0]
    assert not here.is_shared()
    monkeypatch.setattr("dictpfl.client.training.unread.get_worker_info", object)
    there = unread.read([7, 2, 5])[0]
    assert there.is_shared()
    assert torch.equal(here, there)
    assert unread.read([1])[0].data_ptr() != there.data_ptr(), "each batch has memory of its own"
    assert torch.equal(here, there)
    next(iter(tmp_path.rglob("3.png"))).write_bytes(b"")
    broken = unread.read([7, 8, 5])
    if skips:
        assert len(broken[0]) == 2
        assert torch.equal(broken[0], here[[0, 2]])
    else:
        assert "3.png" in broken[3]
