"""Clips through an encoder once: what is kept is what the encoder makes, and only what changed is made anew."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dictpfl.client.data.features import KEPT, ClipFeatures, recipe_of
from dictpfl.client.data.images import fitting
from dictpfl.client.data.lazy import LazySamples
from dictpfl.client.data.opening import opened
from dictpfl.client.data.samples import Dataset
from dictpfl.client.data.source import load_dataset
from dictpfl.client.data.videos import images_of
from dictpfl.client.model.tokens import encoder as module
from dictpfl.client.model.tokens.encoder import Encoder, load_encoder
from dictpfl.common.errors import ConfigError, DataError, KeyFileError
from dictpfl.common.settings import Data
from tests.support.clips import PATCH, SIDE, WIDTH, tiny_encoder, write_clips

KEY = "data.options.features"
PLACES = (SIDE // PATCH) ** 2


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of frames of each clip that went through an encoder."""
    seen: list[int] = []
    plain = Encoder.encode

    def counted(self: Encoder, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(len(frames))
        return plain(self, frames)

    monkeypatch.setattr(Encoder, "encode", counted)
    return seen


def section(clips: Path, encoder: str, **changes: Any) -> Data:
    lazy = changes.pop("lazy", False)
    broken = changes.pop("skip_broken", False)
    options = {"frames": 4, "features": encoder} | changes
    return Data(source="videofolder", path=str(clips), options=options, lazy=lazy, skip_broken=broken)


def loaded(clips: Path, encoder: str, **changes: Any) -> Dataset:
    return load_dataset(section(clips, encoder, **changes), 1)


def kept(clips: Path) -> list[Path]:
    return sorted((clips / KEPT).glob("*.npz"))


def slowly(source: str, clip: Path, frames: int = 4) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Tokens and attention frame by frame, the softmax as timm itself computes it."""
    found = load_encoder(source, KEY)
    model, prefix = found.model, found.model.num_prefix_tokens
    model.blocks[-1].attn.fused_attn = False
    rows: list[torch.Tensor] = []
    handle = model.blocks[-1].attn.attn_drop.register_forward_pre_hook(lambda _m, given: rows.append(given[0]))
    fit = fitting({"size": SIDE, "mean": 0.5, "std": 0.5})
    tokens, attention = [], []
    for image in images_of(clip, frames):
        out = model.forward_features(torch.tensor(fit(image))[None])[0]
        tokens.append(torch.cat([out[:1], out[prefix:]]).numpy())
        attention.append(rows[-1][0, :, 0, prefix:].mean(dim=0).numpy())
    handle.remove()
    return np.stack(tokens), np.stack(attention)


@pytest.mark.parametrize("registers", [0, 3])
def test_a_sample_is_the_encoder_s_tokens_and_its_class_token_s_attention(registers: int, tmp_path: Path) -> None:
    source = tiny_encoder(tmp_path / "encoder", registers=registers)
    found = loaded(write_clips(tmp_path / "clips"), source)
    assert found.samples.features.shape == (6, 4, 1 + PLACES, WIDTH + 1)
    assert found.samples.features.dtype == np.float32
    assert found.class_names == ("bright", "dark")
    with torch.no_grad():
        tokens, attention = slowly(source, tmp_path / "clips" / "bright" / "0.tif")
    one = found.samples.features[0]
    np.testing.assert_allclose(one[:, :, :-1], tokens, atol=2e-3)
    np.testing.assert_allclose(one[:, 1:, -1], attention, atol=2e-4)
    assert (one[:, 0, -1] == 0).all()
    assert len({round(float(a), 4) for a in one[:, 1:, -1].ravel()}) > 1, "an attention that says nothing"


def test_what_is_kept_is_read_without_the_encoder_and_bit_for_bit(
    encoder: str, encoded: list[int], tmp_path: Path
) -> None:
    clips = write_clips(tmp_path / "clips")
    first = loaded(clips, encoder)
    assert encoded == [4] * 6
    with np.load(kept(clips)[0]) as file:
        assert file["tokens"].dtype == np.float16
        assert any(np.array_equal(file["tokens"].astype(np.float32), one) for one in first.samples.features)
    again = loaded(clips, encoder)
    assert encoded == [4] * 6
    np.testing.assert_array_equal(first.samples.features, again.samples.features)
    assert first.made_by == again.made_by
    assert again.class_names == ("bright", "dark"), "the folder of what is kept is no class"


def test_a_changed_clip_and_a_changed_encoder_are_seen(encoder: str, encoded: list[int], tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips")
    first = loaded(clips, encoder)
    (clips / "dark" / "1.tif").write_bytes((clips / "bright" / "0.tif").read_bytes())
    changed = loaded(clips, encoder)
    assert len(encoded) == 6, "the same bytes under another name are the same clip"
    np.testing.assert_array_equal(changed.samples.features[4], first.samples.features[0])
    write_clips(tmp_path / "others", each=1, seed=9)
    (clips / "dark" / "1.tif").write_bytes((tmp_path / "others" / "dark" / "0.tif").read_bytes())
    loaded(clips, encoder)
    assert len(encoded) == 7
    other = loaded(clips, tiny_encoder(tmp_path / "other", seed=1))
    assert len(encoded) == 13
    assert other.made_by != first.made_by
    # The folder stays where it is, and other weights are in it.
    once = tiny_encoder(tmp_path / "replaced", seed=2)
    before = loaded(clips, once).made_by
    tiny_encoder(tmp_path / "replaced", seed=3)
    assert loaded(clips, once).made_by != before
    assert len(encoded) == 25


@pytest.mark.parametrize(
    "change", [{"frames": 3}, {"size": 2 * SIDE}, {"mean": 0.4}, {"std": [0.5, 0.5, 0.4]}], ids=lambda c: next(iter(c))
)
def test_each_option_that_changes_a_token_makes_another_digest(
    change: dict[str, Any], encoder: str, encoded: list[int], tmp_path: Path
) -> None:
    clips = write_clips(tmp_path / "clips", each=1)
    first = loaded(clips, encoder).made_by
    assert loaded(clips, encoder, mean=0.5, std=0.5, size=SIDE).made_by == first, "the encoder's own are the default"
    assert len(encoded) == 2
    assert loaded(clips, encoder, **change).made_by != first
    assert len(encoded) == 4


def test_frames_a_second_make_another_digest(encoder: str) -> None:
    whole, slow = (recipe_of({"features": encoder, "frames": 4, "fps": fps}) for fps in (0, 2))
    assert whole == recipe_of({"features": encoder, "frames": 4})
    assert slow.digest != whole.digest


def test_normalisation_is_the_encoder_s_own(tmp_path: Path) -> None:
    """timm's configuration says by which mean and deviation it was trained; ImageNet's are no default here."""
    import json

    source = tiny_encoder(tmp_path / "encoder")
    path = tmp_path / "encoder" / "config.json"
    said = json.loads(path.read_text())
    said["pretrained_cfg"] |= {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    path.write_text(json.dumps(said))
    found = load_encoder(source, KEY)
    assert (found.mean, found.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    made = ClipFeatures({"features": source, "frames": 2}, tmp_path).recipe
    assert (made.mean, made.std, made.size) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), SIDE)


def test_files_are_the_owner_s_alone(encoder: str, tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips", each=1)
    loaded(clips, encoder)
    assert stat.S_IMODE((clips / KEPT).stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (clips / KEPT).iterdir()} == {0o600}
    loaded(clips, encoder, features_folder=str(tmp_path / "elsewhere"))
    assert len(list((tmp_path / "elsewhere").glob("*.npz"))) == 2
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "open").chmod(0o755)
    with pytest.raises(KeyFileError, match="expected 0700"):
        loaded(clips, encoder, features_folder=str(tmp_path / "open"))
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"name a folder that may be written by data\.options\.features_folder"):
        loaded(clips, encoder, features_folder=str(tmp_path / "file" / "in"))


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    place = content.index(b"tokens.npy") + 200  # among the values
    with np.load(path) as file:
        tokens, form = file["tokens"], str(file["format"])
    if how == "number":
        np.savez(path, tokens=tokens + 1, format=np.array(form[:-1] + str(int(form[-1]) + 1)))
    elif how == "shape":
        np.savez(path, tokens=tokens[:-1], format=np.array(form))
    elif how == "wider":
        np.savez(path, tokens=tokens.astype(np.float32) + 1, format=np.array(form))
    else:
        flipped = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        path.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "bit": flipped}[how])


@pytest.mark.parametrize("how", ["cut", "empty", "bit", "number", "shape", "wider"])
@pytest.mark.usefixtures("quiet")
def test_a_file_that_is_damaged_is_made_anew(how: str, encoder: str, encoded: list[int], tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips", each=1)
    first, path = loaded(clips, encoder), kept(clips)[0]
    whole = path.read_bytes()
    damage(path, how)
    assert path.read_bytes() != whole
    again = loaded(clips, encoder)
    assert len(encoded) == 3
    np.testing.assert_array_equal(first.samples.features, again.samples.features)
    loaded(clips, encoder)
    assert len(encoded) == 3


def test_what_was_made_before_an_interruption_stays(
    encoder: str, encoded: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips, plain = write_clips(tmp_path / "clips"), Encoder.encode

    def interrupted(self: Encoder, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if len(encoded) == 4:
            raise KeyboardInterrupt
        return plain(self, frames)

    with monkeypatch.context() as patched:
        patched.setattr(Encoder, "encode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            loaded(clips, encoder)
    assert len(kept(clips)) == 4
    (clips / KEPT / f".{kept(clips)[0].name}.x1y2").touch()
    loaded(clips, encoder)
    assert len(encoded) == 6
    assert len(kept(clips)) == 6


def test_read_by_the_batch_they_are_the_same(encoder: str, encoded: list[int], tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips")
    whole = loaded(clips, encoder)
    lazy = loaded(clips, encoder, lazy=True)
    assert isinstance(lazy.samples, LazySamples)
    np.testing.assert_array_equal(lazy.samples.read([3, 0]).features, whole.samples.features[[3, 0]])
    assert lazy.made_by == whole.made_by
    assert len(encoded) == 6
    for path in kept(clips):
        path.unlink()
    loaded(clips, encoder, lazy=True)
    assert len(encoded) == 12, "made when the data are divided, not when a batch needs them"


def test_only_clips_that_are_kept_of_many_are_encoded(encoder: str, encoded: list[int], tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips", each=8)
    for lazily in (False, True):
        data = section(clips, encoder, lazy=lazily).model_copy(update={"limit": 3})
        assert len(load_dataset(data, 1).samples) == 3
    assert len(encoded) <= 4  # and one that tells the form of all


def test_an_encoder_that_is_replaced_meanwhile_makes_nothing(tmp_path: Path) -> None:
    source, clips = tiny_encoder(tmp_path / "encoder"), write_clips(tmp_path / "clips", each=1)
    features = ClipFeatures({"features": source}, clips)
    tiny_encoder(tmp_path / "encoder", seed=1)
    with pytest.raises(ConfigError, match="was replaced while"):
        features.read(clips / "dark" / "0.tif")
    assert kept(clips) == []


def test_an_index_opens_from_elsewhere_and_is_of_its_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_clips(tmp_path / "clips")
    tiny_encoder(tmp_path / "encoder")
    monkeypatch.chdir(tmp_path)
    data = section(Path("clips"), "timm:encoder", lazy=True, features_folder="kept")
    found = load_dataset(data, 1)
    found.samples.save("train.npz")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    again = opened(tmp_path / "train.npz", data)
    np.testing.assert_array_equal(np.asarray(again.features), np.asarray(found.samples.features))
    assert not (tmp_path / "other" / "kept").exists()
    tiny_encoder(tmp_path / "encoder", seed=1)
    with pytest.raises(DataError, match="an index of data that have changed"):
        opened(tmp_path / "train.npz", data)


@pytest.mark.usefixtures("quiet")
def test_a_clip_that_cannot_be_read_is_named_or_left_out(encoder: str, tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips")
    (clips / "dark" / "1.tif").write_bytes(b"no")
    with pytest.raises(DataError, match=r"cannot read the clip .*1\.tif"):
        loaded(clips, encoder)
    assert len(loaded(clips, encoder, skip_broken=True).samples) == 5


def resnet(folder: Path) -> str:
    timm = pytest.importorskip("timm")
    timm.models.save_for_hf(timm.create_model("resnet10t", num_classes=0), folder, safe_serialization=True)
    return f"timm:{folder}"


def without_class_token(folder: Path) -> str:
    return tiny_encoder(folder, class_token=False, global_pool="avg")


def without_weights(folder: Path) -> str:
    source = tiny_encoder(folder)
    for path in folder.glob("*.safetensors"):
        path.unlink()
    return source


def of_float64_range(folder: Path) -> str:
    """Weights of which float16 does not hold what they make."""
    from safetensors.torch import load_file, save_file

    source = tiny_encoder(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["norm.weight"] *= 1e6
    save_file(tensors, folder / "model.safetensors")
    return source


@pytest.mark.parametrize(
    ("make", "options", "error", "message"),
    [
        (lambda _: "timm:./gone", {}, ConfigError, r"data\.options\.features: no folder './gone'"),
        (lambda _: "transformers:vit", {}, ConfigError, "expected timm:FOLDER or timm:NAME, a vision transformer"),
        (lambda _: 3, {}, ConfigError, "expected timm:FOLDER"),
        (resnet, {}, ConfigError, "without a class token whose attention can be read"),
        (without_class_token, {}, ConfigError, "without a class token whose attention can be read"),
        (without_weights, {}, ConfigError, "holds no weights"),
        (of_float64_range, {}, DataError, "float16 does not hold"),
        (tiny_encoder, {"size": PATCH + 1}, ConfigError, f"expected a multiple of {PATCH}"),
        (tiny_encoder, {"size": PATCH // 2}, ConfigError, f"expected a multiple of {PATCH}"),
        (tiny_encoder, {"size": [16, 16]}, ConfigError, "one number of pixels"),
        (tiny_encoder, {"mode": "L"}, ConfigError, "reads `RGB`"),
        (tiny_encoder, {"std": 0}, ConfigError, "above zero"),
        (tiny_encoder, {"mean": [0.1, 0.2]}, ConfigError, "expected one number, or three"),
        (tiny_encoder, {"frames": 0}, ConfigError, r"data\.options\.frames is 0"),
        (tiny_encoder, {"features_sha256": "00"}, ConfigError, "all agreed on 00"),
        (tiny_encoder, {"window": [0, 1]}, ConfigError, "unknown window"),
    ],
)
def test_what_is_wrong_is_said(
    make: Any, options: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    clips = write_clips(tmp_path / "clips", each=1)
    with pytest.raises(error, match=message):
        loaded(clips, make(tmp_path / "encoder"), **options)


def test_options_of_features_without_an_encoder_are_refused(tmp_path: Path) -> None:
    data = Data(source="videofolder", path=str(write_clips(tmp_path, each=1)), options={"features_folder": "x"})
    with pytest.raises(ConfigError, match="names no encoder"):
        load_dataset(data, 1)


def test_clips_smaller_than_a_patch_are_named(encoder: str, tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips", each=1, side=PATCH - 1)
    with pytest.raises(DataError, match=r"bright/0\.tif has frames of 7 pixels, fewer than one patch"):
        loaded(clips, encoder)


def test_features_that_would_not_fit_are_refused_before_they_are_made(
    encoder: str, encoded: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = write_clips(tmp_path / "clips")
    monkeypatch.setattr("os.sysconf", lambda _name: 10)
    with pytest.raises(DataError, match=r"set data\.lazy = true"):
        loaded(clips, encoder)
    assert len(encoded) == 1  # which told the form


def test_pixels_of_few_frames_are_held_at_a_time(encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AT_ONCE", 3)
    clips = write_clips(tmp_path / "clips", each=1)
    seen: list[int] = []
    plain = load_encoder(encoder, KEY)
    forward = type(plain.model).forward_features
    monkeypatch.setattr(
        type(plain.model), "forward_features", lambda self, x: (seen.append(len(x)), forward(self, x))[1]
    )
    found = loaded(clips, encoder, frames=5)
    assert set(seen) == {3, 2}
    assert found.samples.features.shape[1] == 5


def test_how_far_it_is_and_where_they_lie_is_said(
    encoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dictpfl.client.data.features._EVERY", 0.0)
    clips = write_clips(tmp_path / "clips", each=1)
    loaded(clips, encoder)
    said = capsys.readouterr().err
    assert "2 of 2 clips through timm:" in said
    assert f"features of clips are kept in {clips / KEPT}: as private as the clips, to be deleted with them" in said
