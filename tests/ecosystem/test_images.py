"""Images of folders and of tables."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dictpfl.client.data.source import load_dataset
from dictpfl.common.errors import ConfigError, DataError
from dictpfl.common.settings import Data


def picture(value: int, size: tuple[int, int] = (8, 6)) -> Image.Image:
    return Image.new("RGB", size, (value, 0, 0))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, value in (("dark", 51), ("red", 255)):
        (tmp_path / name / "more").mkdir(parents=True)
        picture(value).save(tmp_path / name / "a.png")
        picture(value, (30, 30)).save(tmp_path / name / "more" / "b.png")
        (tmp_path / name / "notes.txt").write_text("no image")
    return tmp_path


def load(path: Path, source: str = "imagefolder", **options: Any) -> Any:
    return load_dataset(Data(source=source, path=str(path), options=options), seed=1)


def test_a_folder_for_each_class(folder: Path) -> None:
    found = load(folder, size=4, mean=0.0, std=1.0)
    assert found.class_names == ("dark", "red")
    assert found.samples.labels.tolist() == [0, 0, 1, 1]
    assert found.sample_shape == (3, 4, 4)
    np.testing.assert_allclose(found.samples.features[:, 0, 0, 0], [0.2, 0.2, 1.0, 1.0], atol=1e-6)
    assert not found.samples.features[:, 1:].any()
    assert load(folder, size=[4, 6], mode="L").sample_shape == (1, 4, 6)
    turned = load(folder, size=4, classes=["red", "dark"])
    assert turned.samples.labels.tolist() == [0, 0, 1, 1]
    assert turned.samples.features[0, 0, 0, 0] == pytest.approx((1 - 0.485) / 0.229)


def test_a_folder_for_each_site(tmp_path: Path) -> None:
    for site, name, value in (("south", "red", 255), ("north", "red", 204), ("north", "dark", 51)):
        (tmp_path / site / name).mkdir(parents=True)
        picture(value).save(tmp_path / site / name / "a.png")
    found = load(tmp_path, size=4, mean=0.0, std=1.0, sites=True, classes=["dark", "red"])
    assert (found.class_names, found.groups.tolist()) == (("dark", "red"), ["north", "north", "south"])
    assert found.samples.labels.tolist() == [0, 1, 1]
    np.testing.assert_allclose(found.samples.features[:, 0, 0, 0], [0.2, 0.8, 1.0], atol=1e-6)
    with pytest.raises(DataError, match="expected SITE/CLASS/NAME"):
        load(tmp_path / "north", size=4, sites=True)


def test_only_pictures_that_are_kept_are_read(folder: Path) -> None:
    (folder / "red" / "c.png").write_bytes(b"not an image")
    data = Data(source="imagefolder", path=str(folder), limit=2, options={"size": 4})
    seeds = [seed for seed in range(8) if 3 not in np.random.default_rng(seed).permutation(5)[:2]]
    assert len(load_dataset(data, seeds[0]).samples) == 2


def test_images_of_a_table(folder: Path) -> None:
    raw = io.BytesIO()
    picture(255).save(raw, "PNG")
    path = folder / "t.parquet"
    for cell in ({"bytes": raw.getvalue(), "path": None}, raw.getvalue(), "red/a.png"):
        pd.DataFrame({"shot": [cell], "label": ["red"]}).to_parquet(path)
        found = load(path, "parquet", image="shot", size=4, mean=0.0, std=1.0)
        assert found.samples.features[0, 0].tolist() == [[1.0] * 4] * 4


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"mode": "CMYK"}, "RGB"),
        ({"std": 0.0}, "above zero"),
        ({"mean": [0.1, 0.2]}, "one finite number, or 3"),
        ({"sise": 3}, "unknown sise"),
        ({"sites": "yes"}, "expected true or false"),
        ({"classes": ["blue"]}, "which are not in data.options.classes"),
    ],
)
def test_wrong_options(options: dict[str, Any], match: str, folder: Path) -> None:
    with pytest.raises((ConfigError, DataError), match=match):
        load(folder, **options)


def test_a_damaged_image_is_named(folder: Path) -> None:
    (folder / "red" / "c.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"c\.png"):
        load(folder, size=4)
