"""Samples that are read when they are needed: the same samples as in memory, found again by their index, and broken ones named."""

from __future__ import annotations

import itertools
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from dictpfl.client.data import lazy
from dictpfl.client.data.images import preparation
from dictpfl.client.data.lazy import LazySamples
from dictpfl.client.data.opening import opened
from dictpfl.client.data.samples import Samples
from dictpfl.client.data.source import load_dataset, reader_of
from dictpfl.client.data.stored import Stored
from dictpfl.client.training.calling import tensors_of
from dictpfl.common.errors import ConfigError, DataError
from dictpfl.common.settings import Data, Preprocessing

DEEP = {"mode": "I;16", "size": 8, "window": [1000, 5000]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve images of 16 bits, in two classes."""
    draw = np.random.default_rng(0)
    for name, number in itertools.product(("ill", "well"), range(6)):
        (tmp_path / "scans" / name).mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 6000, (9, 12)).astype(np.uint16)
        Image.fromarray(pixels).save(tmp_path / "scans" / name / f"{number}.png")
    return tmp_path / "scans"


class Drawn(torch.utils.data.Dataset[Any]):
    """Nine samples with noise from all three generators; the fourth is broken if wanted."""

    targets: Any = None

    def __init__(self, broken: str = "") -> None:
        self.broken = broken

    def __len__(self) -> int:
        return 9

    def __getitem__(self, number: int) -> Any:
        if number == 3 and self.broken:
            raise OSError(self.broken)
        noise = torch.rand(2) + float(np.random.rand()) + random.random()  # noqa: NPY002 -- as transforms do
        return torch.full((2,), float(number)) + noise, number % 3


class Words(Drawn):
    """Labels are words, as of a column that nobody numbered."""

    def __init__(self, targets: Any = None) -> None:
        super().__init__()
        self.targets = targets

    def __getitem__(self, number: int) -> Any:
        return np.ones(2), np.array("ill")


@pytest.fixture
def own() -> Iterator[ModuleType]:
    module = ModuleType("own_scans")
    vars(module).update(make=Drawn)
    sys.modules["own_scans"] = module
    yield module
    del sys.modules["own_scans"]


def images(folder: Path, **changes: Any) -> Data:
    return Data(source="imagefolder", path=str(folder), **({"options": DEEP} | changes))


def test_images_of_16_bits_are_not_cut_to_8(folder: Path) -> None:
    held = load_dataset(images(folder, options=DEEP | {"mean": 0.0, "std": 1.0, "size": [9, 12]}), 1)
    raw = np.asarray(Image.open(folder / "ill" / "0.png"), np.float32)
    np.testing.assert_allclose(held.samples.features[0, 0], ((raw - 1000) / 4000).clip(0, 1), atol=1e-6)
    with pytest.raises(DataError, match=r"0\.png.*16 bits.*set data\.options\.mode = 'I;16'"):
        load_dataset(images(folder, options={"mode": "L"}), 1)
    with pytest.raises(ConfigError, match="window is of mode"):
        load_dataset(images(folder, options={"window": [0, 9]}), 1)
    with pytest.raises(ConfigError, match="the lower one first"):
        load_dataset(images(folder, options=DEEP | {"window": [9, 9]}), 1)


def test_images_of_fractions_are_not_cut_to_bytes(tmp_path: Path) -> None:
    """Pillow makes all black of values from 0 to 1, and all white of thousands."""
    (tmp_path / "ill").mkdir()
    Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)).save(tmp_path / "ill" / "0.tif")
    for mode in ("L", "RGB"):
        with pytest.raises(DataError, match=r"of fractions \(mode F\).*set data\.options\.mode = 'I;16'"):
            load_dataset(images(tmp_path, options={"mode": mode, "size": 8}), 1)
    found = load_dataset(images(tmp_path, options=DEEP | {"window": [0, 1], "mean": 0.0, "std": 1.0}), 1).samples
    np.testing.assert_allclose(found.features.ravel(), np.linspace(0, 1, 64), atol=1e-6)


def test_a_photograph_is_read_as_it_was_seen(tmp_path: Path) -> None:
    """A telephone held upright stores an image that lies on its side; two institutions' telephones would differ by that alone."""
    seen = Image.fromarray(np.arange(96, dtype=np.uint8).reshape(12, 8), "L")
    exif, plain = Image.Exif(), {"mode": "L", "size": [12, 8], "mean": 0.0, "std": 1.0}
    exif[0x0112] = 6  # to be turned by 90 degrees to the right
    seen.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "on-its-side.png", exif=exif)
    seen.save(tmp_path / "upright.png")
    seen.save(tmp_path / "damaged.png", exif=b"Exif\0\0MM\0*\0\0\xff")
    decode = preparation(plain)
    for name in ("on-its-side", "damaged"):
        np.testing.assert_array_equal(decode(tmp_path / f"{name}.png"), decode(tmp_path / "upright.png"), name)


def test_numbers_of_a_palette_are_no_greys(tmp_path: Path) -> None:
    (tmp_path / "ill").mkdir()
    Image.new("RGB", (8, 8), "white").convert("P").save(tmp_path / "ill" / "0.png")
    with pytest.raises(DataError, match=r"an image of mode P, and data\.options\.mode is 'I;16'"):
        load_dataset(images(tmp_path), 1)


def test_a_damaged_image_is_a_named_error_whatever_is_damaged(folder: Path) -> None:
    file, draw = folder / "well" / "1.png", random.Random(1)
    whole, refused = file.read_bytes(), 0
    decode = preparation(DEEP)
    for _ in range(60):
        damaged = bytearray(whole[: draw.randrange(len(whole))] if draw.random() < 0.5 else whole)
        for _ in range(3 if damaged else 0):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        file.write_bytes(damaged)
        try:
            decode(file)
        except DataError as error:
            refused += str(file) in str(error)
    assert refused > 40


@pytest.mark.parametrize("source", ["imagefolder", "parquet", "datasets", "image column"])
def test_the_same_samples_as_in_memory(source: str, folder: Path, tmp_path: Path) -> None:
    data = images(folder, limit=10)
    if source != "imagefolder":
        frame = pd.DataFrame(
            {"b": np.arange(12) / 7, "a": np.arange(12.0), "kind": ["u", "v", "w"] * 4, "site": ["n", "s"] * 6}
        )
        options: dict[str, Any] = {"scale": {"a": [3, 2]}}
        if source == "image column":
            frame["shot"] = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*.png"))]
            options = DEEP | {"image": "shot"}
        path = folder / "t.parquet"
        frame.to_parquet(path, row_group_size=5)
        if source == "datasets":
            datasets = pytest.importorskip("datasets")
            datasets.Dataset.from_pandas(frame).save_to_disk(path := tmp_path / "arrow")
        kind = "datasets" if source == "datasets" else "parquet"
        data = Data(source=kind, path=str(path), label="kind", column="site", limit=10, options=options)
    held, read = (load_dataset(data.model_copy(update={"lazy": lazily}), 1) for lazily in (False, True))
    assert isinstance(read.samples, LazySamples)
    assert read.samples.features[:].tobytes() == held.samples.features.tobytes()
    assert read.samples.labels.tolist() == held.samples.labels.tolist()
    for what in ("class_names", "feature_names", "outputs", "name", "sample_shape"):
        assert getattr(read, what) == getattr(held, what)
    assert (read.groups is None) == (held.groups is None)
    assert held.groups is None or read.groups.tolist() == held.groups.tolist()
    some = np.array([7, 2, 9, 2])
    assert read.samples.take(some).read([0, 1, 2, 3]).features.tobytes() == held.samples.features[some].tobytes()
    assert read.samples.of_classes([1]).labels.tolist() == held.samples.of_classes([1]).labels.tolist()
    assert read.samples.nbytes == 16 * 10, "numbers and labels, whatever a sample holds"


def test_an_index_opens_the_same_samples_from_another_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    samples = load_dataset(Data(source="imagefolder", path="scans", lazy=True, options=DEEP), 1).samples
    chosen = samples.take(np.array([5, 1, 8]))
    chosen.save(tmp_path / "train.npz")
    assert (tmp_path / "train.npz").stat().st_mode & 0o777 == 0o600
    monkeypatch.chdir("/")
    stored = Stored(tmp_path / "train.npz", data=Data())
    assert (len(stored), stored.nbytes) == (3, 48)
    assert stored.open().features[:].tobytes() == chosen.features[:].tobytes()
    with pytest.raises(DataError, match="index of samples that are read when they are needed"):
        Samples.load(tmp_path / "train.npz")
    (folder / "ill" / "new.png").write_bytes((folder / "ill" / "0.png").read_bytes())
    with pytest.raises(DataError, match=r"changed since.*13 samples now.*--replace"):
        Stored(tmp_path / "train.npz", data=Data())


def test_test_samples_of_their_own_are_one_data_set_with_the_others(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "test")
    (tmp_path / "test" / "ill" / "0.png").unlink()
    held, read = (
        load_dataset(images(folder, test_path=str(tmp_path / "test"), limit=7, lazy=lazily), 1)
        for lazily in (False, True)
    )
    for one in (held, read):
        assert one.splits is not None
        assert one.splits.tolist() == ["train"] * 7 + ["test"] * 11
    assert read.samples.features[:].tobytes() == held.samples.features.tobytes()
    some = np.array([17, 0, 8])
    read.samples.take(some).save(tmp_path / "train.npz")
    assert opened(tmp_path / "train.npz", Data()).features[:].tobytes() == held.samples.features[some].tobytes()


def test_a_file_of_samples_runs_no_code(own: ModuleType, tmp_path: Path) -> None:
    agreed = Data(source="own_scans:make")
    load_dataset(agreed, 1).samples.save(tmp_path / "train.npz")
    assert opened(tmp_path / "train.npz", agreed).labels.tolist() == [0, 1, 2] * 3
    vars(own)["make"] = lambda: pytest.fail("it ran")
    with pytest.raises(DataError, match="a file of samples is not run"):
        opened(tmp_path / "train.npz", Data())


def test_a_broken_file_is_named_and_left_out_only_if_asked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "ill" / "2.png").write_bytes(b"not an image")
    for lazily in (False, True):
        with pytest.raises(DataError, match=r"2\.png: .*mend or drop it, or set data\.skip_broken = true"):
            load_dataset(images(folder, lazy=lazily), 1).samples.features[:]
    read = load_dataset(images(folder, lazy=True, skip_broken=True), 1).samples
    assert isinstance(read, LazySamples)
    found = read.read(np.arange(12))
    assert (len(found.features), [number for number, _ in found.broken]) == (11, [2])
    assert found.labels.tolist() == [0] * 5 + [1] * 6
    held = load_dataset(images(folder, skip_broken=True), 1).samples
    assert held.features.tobytes() == found.features.tobytes()
    assert "left out" in capsys.readouterr().out
    for path in folder.rglob("[1-5].png"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"none of 10 samples can be read, the first because: .*1\.png"):
        read.read(np.array([1, 2, 3, 4, 5, 7, 8, 9, 10, 11]))


def test_transforms_draw_by_seed_and_sample_and_leave_generators_alone(own: ModuleType) -> None:
    read = load_dataset(Data(source="own_scans:make"), 1).samples
    assert isinstance(read, LazySamples)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    all_of = read.read(np.arange(9), seed=4).features
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(read.read([6, 2], seed=4).features, all_of[[6, 2]])
    assert not np.array_equal(read.read([6, 2], seed=5).features, all_of[[6, 2]])
    vars(own)["make"] = lambda: Drawn("no such tape")
    with pytest.raises(
        DataError, match=r"sample 3 of data.source 'own_scans:make' cannot be read: OSError: no such tape"
    ):
        load_dataset(Data(source="own_scans:make"), 1)
    skipped = load_dataset(Data(source="own_scans:make", skip_broken=True), 1)
    assert skipped.samples.labels.tolist() == [0, 1, 2, 1, 2, 0, 1, 2]


def test_labels_that_changed_are_noticed(own: ModuleType) -> None:
    samples = load_dataset(Data(source="own_scans:make"), 1).samples
    assert isinstance(samples, LazySamples)
    vars(own)["make"] = lambda: {"train": Drawn(), "test": Drawn()}
    assert load_dataset(samples.data, 1).splits.tolist() == ["train"] * 9 + ["test"] * 9  # type: ignore[union-attr]
    vars(own)["make"] = lambda: torch.utils.data.TensorDataset(torch.ones(9, 2), torch.zeros(9, dtype=torch.int64))
    changed = LazySamples(reader_of(samples.data), samples.data, np.arange(9), samples.labels)
    with pytest.raises(DataError, match="has the label 0, and had 1"):
        changed.read([1])
    vars(own)["make"] = lambda: None
    with pytest.raises(DataError, match="returned NoneType; expected a torch"):
        reader_of(samples.data)


def test_a_step_that_wants_all_is_refused_beyond_a_bound(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = load_dataset(images(folder, lazy=True), 1).samples
    assert tensors_of(torch.nn.Linear(1, 1), read)[0].shape == (12, 1, 8, 8)
    monkeypatch.setattr(lazy, "MOST_AT_ONCE", 1000)
    with pytest.raises(DataError, match="12 samples of imagefolder are wanted at once"):
        tensors_of(torch.nn.Linear(1, 1), read)
    assert len(read.features[:3]) == 3


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"source": "digits"}, "'digits' reads all its samples at the start"),
        ({"source": "csv", "path": "x.csv"}, "'csv' reads all its samples"),
        ({"source": "digits", "lazy": False, "skip_broken": True}, "skip_broken leaves out files"),
        ({"source": "parquet", "paths": ["a.parquet", "b.parquet"]}, "reads one data set of columns"),
        ({"source": "parquet", "path": "t.parquet", "preprocessing": Preprocessing(scale="standard")}, "looks at all rows"),
        ({"source": "parquet", "path": "t.parquet", "options": {"shpe": [1]}}, "unknown shpe; 'parquet' takes scale"),
        ({"source": "parquet", "path": "t.parquet", "options": {"image": "a"}, "exclude": ["b"]}, "choose columns of numbers"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_by_the_batch_is_refused(
    changes: dict[str, Any], match: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pd.DataFrame({"a": [1.0], "label": [0]}).to_parquet("t.parquet")
    with pytest.raises(ConfigError, match=match):
        load_dataset(Data(**({"lazy": True} | changes)), 1)


def test_a_parquet_file_without_rows_is_told(tmp_path: Path) -> None:
    pd.DataFrame({"a": [1.0], "label": [0]}).iloc[:0].to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match="no rows"):
        load_dataset(Data(source="parquet", path=str(tmp_path / "t.parquet"), lazy=True), 1)


def test_labels_may_name_institutions(tmp_path: Path) -> None:
    """One class a site, the hardest division: the column of labels is that of institutions, too."""
    pd.DataFrame({"a": [1.0, 2, 3], "label": [0, 1, 0]}).to_parquet(tmp_path / "t.parquet")
    data = Data(source="parquet", path=str(tmp_path / "t.parquet"), column="label")
    for found in (load_dataset(data, 1), load_dataset(data.model_copy(update={"lazy": True}), 1)):
        assert found.groups is not None
        assert (found.groups.tolist(), np.asarray(found.samples.features[np.arange(3)]).tolist()) == (
            ["0", "1", "0"],
            [[1], [2], [3]],
        )


def test_words_for_labels_are_refused_by_name(own: ModuleType) -> None:
    vars(own)["make"] = Words
    with pytest.raises(
        DataError, match=r"sample 0 of data\.source 'own_scans:make': expected a number for a label, found <U3"
    ):
        load_dataset(Data(source="own_scans:make"), 1)
    vars(own)["make"] = lambda: Words(targets=["ill"] * 9)
    with pytest.raises(DataError, match=r"`targets` of data\.source 'own_scans:make': expected a number for a label"):
        load_dataset(Data(source="own_scans:make"), 1)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"size": 0}, "size is 0; expected a number of pixels above 0"),
        ({"size": "8"}, "size is '8'"),
        ({"size": [8]}, r"size is \[8\]"),
        ({"size": [8, 0]}, r"size is \[8, 0\]"),
        ({"size": 224_224}, "size is 224224; expected .* 67,108,864 at most"),
        ({"size": [1, 2**40]}, "at most"),
        ({"size": 8.5}, "size is 8.5"),
        ({"mean": "grey"}, "mean and std are numbers"),
        ({"std": float("inf")}, "mean and std need one finite number"),
        ({"mean": float("nan")}, "mean and std need one finite number"),
        ({"window": ["a", "b"]}, "expected two values from 0 to 65535"),
    ],
)
def test_options_of_images_are_told_before_an_image_is_read(options: dict[str, Any], match: str, folder: Path) -> None:
    with pytest.raises(ConfigError, match=match):
        load_dataset(images(folder, options=DEEP | options), 1)


@pytest.mark.parametrize(
    ("label", "outputs"),
    [
        (np.arange(5) % 3, 3),  # a class for each token
        ((np.arange(25) % 3).reshape(5, 5).astype(np.float32), 3),  # a class for each pixel
        (np.zeros((2, 5, 5), np.float32), 2),  # a mask for each class
        (np.zeros(20, np.float32), 20),  # a regression of twenty targets
    ],
)
def test_as_many_outputs_as_labels_have_that_are_read_with_features(
    label: NDArray[Any], outputs: int, own: ModuleType
) -> None:
    for said in (False, True):
        made = torch.utils.data.TensorDataset(torch.zeros(9, 5, dtype=torch.int64), torch.tensor(np.stack([label] * 9)))
        made.classes = ("o", "b", "i")[: outputs if outputs <= 3 else 0]  # type: ignore[attr-defined]
        if said:
            made.targets = np.stack([label] * 9)  # type: ignore[attr-defined]
        vars(own)["make"] = lambda made=made: made
        assert load_dataset(Data(source="own_scans:make"), 1).outputs == outputs


@pytest.mark.parametrize(
    ("items", "said", "match"),
    [
        ([([[1, 2], [3]], 0)], {}, "sample 0 of data.source 'own_scans:make': .*inhomogeneous"),
        ([([1.0], [[1, 2], [3]])], {}, "sample 0 of data.source 'own_scans:make': .*inhomogeneous"),
        ([([1.0], 0)], {"targets": [[1, 2], [3]]}, "`targets` of data.source 'own_scans:make': .*inhomogeneous"),
        ([([1.0], 0), ([1.0], [1, 2])], {}, r"labels of data.source 'own_scans:make' have the shapes \(\), \(2,\)"),
        ([([1.0], 0)], {"classes": 3}, "`classes` of data.source 'own_scans:make' is 3; expected the names of classes"),
    ],
)
def test_what_is_no_array_is_told_by_its_sample(
    items: list[Any], said: dict[str, Any], match: str, own: ModuleType
) -> None:
    vars(own)["make"] = type("Odd", (), {"__len__": lambda _: len(items), "__getitem__": lambda _, n: items[n], **said})
    with pytest.raises(DataError, match=match):
        load_dataset(Data(source="own_scans:make"), 1)


def test_a_dataset_without_names_of_classes_may_say_so(own: ModuleType) -> None:
    vars(own)["make"] = type("Nameless", (Drawn,), {"classes": None})
    assert load_dataset(Data(source="own_scans:make"), 1).class_names == ()


@pytest.mark.parametrize("group", [5, 40])
def test_a_damaged_row_group_at_the_beginning_is_left_out_if_asked(tmp_path: Path, group: int) -> None:
    """What samples look like was asked of the first rows alone, whatever `skip_broken` said."""
    frame = pd.DataFrame({"a": np.arange(120) / 7, "y": ["u", "v"] * 60})
    path = tmp_path / "t.parquet"
    frame.to_parquet(path, row_group_size=group, compression="none")
    column = pyarrow.parquet.read_metadata(path).row_group(0).column(0)
    data = bytearray(path.read_bytes())
    start = min(column.data_page_offset, column.dictionary_page_offset or column.data_page_offset)
    data[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(data)
    section = Data(source="parquet", path=str(path), label="y", lazy=True)
    with pytest.raises(DataError, match="row group 0 cannot be read as parquet"):
        load_dataset(section, 1)
    read = load_dataset(section.model_copy(update={"skip_broken": True}), 1)
    assert isinstance(read.samples, LazySamples)
    found = read.samples.read(np.arange(120))
    assert [number for number, _ in found.broken] == list(range(group))
    assert found.features.ravel().tolist() == frame["a"][group:].astype(np.float32).tolist()
    assert read.feature_names == ("a",)
    inside = read.samples.read(np.arange(group))
    assert (inside.features.shape, len(inside.broken)) == ((0, 1), group), "one fault, however many samples are in it"


def test_links_are_followed_to_files_and_told_where_they_are_not(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As git-annex and DVC keep files: one that is not here, or a folder that is linked, was no sample, without a word."""
    real = (folder / "ill" / "0.png").rename(folder.parent / "real.png")
    (folder / "ill" / "0.png").symlink_to(real)
    data = Data(source="imagefolder", path=str(folder), options=DEEP)
    assert len(load_dataset(data, 1).samples) == 12
    assert not capsys.readouterr().out
    (folder / "well" / "more").symlink_to(folder / "ill")
    assert len(load_dataset(data, 1).samples) == 12
    assert "well/more" in capsys.readouterr().out
    real.unlink()
    with pytest.raises(DataError, match=r"cannot read .*ill/0\.png: .*No such file"):
        load_dataset(data, 1)
    assert len(load_dataset(data.model_copy(update={"skip_broken": True}), 1).samples) == 11
