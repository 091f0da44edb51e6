"""`dictpfl tokens` as typed, in an empty folder: a clip's picture, and a table of arms for a model."""

from __future__ import annotations

import stat
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import nn

from dictpfl.client.data.features import ClipFeatures
from dictpfl.client.data.samples import Samples
from dictpfl.client.folder import VALIDATION
from dictpfl.client.model.tokens.install import take_off
from dictpfl.client.training.task import task_of
from dictpfl.client.training.train import evaluate
from dictpfl.common.errors import ConfigError
from dictpfl.deploy.compress.source import read_source
from dictpfl.deploy.compress.tokens import BEFORE, compared, look, picture
from dictpfl.deploy.exports.evaluation import evaluate_on
from dictpfl.deploy.exports.finished import Finished
from dictpfl.deploy.simulation.simulate import simulate
from tests.support.clips import tiny_encoder
from tests.support.federations import tiny
from tests.support.forking import ran


def dictpfl(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return ran(arguments, cwd, timeout=300)


def clip(path: Path) -> Path:
    """Three still scenes of 4 frames each, with a bright square in one frame of the second."""
    rng = np.random.default_rng(3)
    frames = []
    for _ in range(3):
        scene = rng.integers(0, 120, (64, 64, 3), dtype=np.uint8)
        frames += [scene.copy() for _ in range(4)]
    frames[6][16:24, 40:48] = 255
    images = [Image.fromarray(frame) for frame in frames]
    images[0].save(path, save_all=True, append_images=images[1:])
    return path


def test_a_picture_shows_cuts_and_kept_tokens(tmp_path: Path) -> None:
    source = clip(tmp_path / "clip.tif")
    seen = look(source, reducer="fastvid", keep=0.125, frames=12, side=8, encoder="", options={"c": 3, "tau": -1.0})
    assert seen.cuts == [0, 4, 8]
    assert seen.kept == 12 * 8
    assert 6 * 64 + 2 * 8 + 5 in seen.reduced.positions[0].tolist()  # the square
    sheet = np.asarray(picture(seen))
    side, gap = seen.images.shape[1], 4
    red = (sheet == (214, 48, 49)).all(axis=-1)
    for number in range(12):
        left, top = number % 8 * (side + 2 * gap) + gap, number // 8 * (side + 2 * gap) + gap
        assert bool(red[top + 5, left - 2]) == (number in (0, 4, 8))


def test_through_an_encoder_it_shows_what_a_federation_reads(tmp_path: Path) -> None:
    source, path = tiny_encoder(tmp_path / "encoder"), clip(tmp_path / "clip.tif")
    seen = look(path, reducer="salient", keep=0.5, frames=4, side=8, encoder=source, options={})
    assert seen.side == 2
    read = ClipFeatures({"features": source, "frames": 4}, tmp_path).read(path)
    most = np.sort(np.argsort(-read[:, 1:, -1], axis=1, kind="stable")[:, :2], axis=1) + 4 * np.arange(4)[:, None]
    assert seen.reduced.positions[0].tolist() == most.ravel().tolist()
    with pytest.raises(ConfigError, match="--encoder is 'mlp'; expected timm:FOLDER"):
        look(path, reducer="salient", keep=0.5, frames=4, side=8, encoder="mlp", options={})


@pytest.mark.slow
def test_command(tmp_path: Path) -> None:
    clip(tmp_path / "clip.gif")
    ran = dictpfl(
        "tokens", "clip.gif", "--keep", "0.125", "--frames", 12, "--option", "c=3", "--picture", "out.png", cwd=tmp_path
    )
    assert ran.returncode == 0, ran.stderr
    assert 'fastvid {"c": 3}: 96 of 768 tokens stay (12 frames of 8 x 8)' in ran.stdout
    assert "segments begin at frames 0" in ran.stdout
    with Image.open(tmp_path / "out.png") as image:
        assert image.size[0] > 8 * 100
    assert stat.S_IMODE((tmp_path / "out.png").stat().st_mode) == 0o600, "frames of somebody's clip"
    for number, ending in enumerate((".JPG", ".webp")):
        drawn = dictpfl(
            "tokens", "clip.gif", "--keep", "0.5", "--frames", 4, "--picture", f"{number}{ending}", cwd=tmp_path
        )
        assert drawn.returncode == 0, drawn.stderr
        with Image.open(tmp_path / f"{number}{ending}") as image:
            assert image.format == {".JPG": "JPEG", ".webp": "WEBP"}[ending]
    refused = dictpfl("tokens", "clip.gif", "--config", "x.toml", cwd=tmp_path)
    assert refused.returncode != 0
    assert "is a clip" in refused.stderr + refused.stdout
    assert "Traceback" not in refused.stderr
    refused = dictpfl("tokens", "clip.gif", "--picture", "out.txt", cwd=tmp_path)
    assert "--picture out.txt: expected a name that ends in .png, " in refused.stderr
    assert "such as out.png" in refused.stderr
    assert "Traceback" not in refused.stderr
    before = (tmp_path / "clip.gif").read_bytes()
    refused = dictpfl("tokens", "clip.gif", "--frames", 2, "--picture", "./clip.gif", cwd=tmp_path)
    assert refused.returncode != 0
    assert "is the clip itself" in refused.stderr
    assert (tmp_path / "clip.gif").read_bytes() == before
    refused = dictpfl("tokens", "clip.gif", "--option", "tau", cwd=tmp_path)
    assert "--option 'tau': expected KEY=VALUE, such as --option tau=0.9" in refused.stderr


@pytest.mark.slow
def test_frames_of_a_second_are_those_that_are_shown_then(tmp_path: Path) -> None:
    path = tmp_path / "clip.gif"
    images = [Image.fromarray(np.full((32, 32, 3), 20 * n, dtype=np.uint8)) for n in range(8)]
    images[0].save(path, save_all=True, append_images=images[1:], duration=100)  # ms: 0.8 s in all
    said: dict[str, Any] = {"reducer": "grid", "keep": 0.5, "frames": 4, "side": 2, "encoder": "", "options": {}}
    seen = look(path, fps=5, **said).images[:, 0, 0, 0]
    assert np.abs(seen.astype(int) - [0, 40, 80, 120]).max() <= 2
    assert np.abs(look(path, **said).images[-1, 0, 0, 0].astype(int) - 140) <= 2
    ran = dictpfl("tokens", "clip.gif", "--fps", 5, "--frames", 4, "--reducer", "grid", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    still = dictpfl("tokens", clip(tmp_path / "a.tif"), "--fps", 5, cwd=tmp_path)
    assert "it does not say when its frames are shown; leave fps out" in still.stderr
    assert "Traceback" not in still.stderr


@pytest.mark.slow
def test_a_model_s_table(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    (tmp_path / "c.toml").write_text(
        '[data]\nsource = "digits"\nlimit = 200\n[model]\nsource = "timm:vit_tiny_patch16_224"\n'
        "options = { pretrained = false, img_size = 8, patch_size = 1, embed_dim = 16, depth = 3, num_heads = 2 }\n"
    )
    ran = dictpfl(
        "tokens", "timm:vit_tiny_patch16_224", "--config", "c.toml", "--keep", "0.3", "--reducer", "grid", cwd=tmp_path
    )
    assert ran.returncode == 0, ran.stderr
    for arm in ("all tokens", "fixed", "flat", "pyramid", "random tokens", "grid"):
        assert arm in ran.stdout


def trained(folder: Path, **changes: Any) -> Path:
    """A run whose model reads fewer tokens."""
    settings = {"training__steps": 1, "federation__rounds": 1, "tokens__keep": 0.5} | changes
    simulate(tiny(**settings), folder, engine="local")
    return folder


@pytest.mark.slow
def test_a_run_s_own_reducer_is_taken_off_for_the_other_rows(tmp_path: Path) -> None:
    """All tokens are all that the model has, whatever it was trained with, and its own row is what `dictpfl evaluate` says."""
    run = trained(
        tmp_path / "run",
        model__source="vit_tiny",
        model__options={"dim": 16, "depth": 3, "patch": 1},
        tokens__reducer="autoprune",
    )
    home = run / "institutions" / "institution-000"
    found = compared(read_source(str(home), deciding=False), 0.3, ["grid"])
    rows = {row.arm: row for row in found.rows}
    assert [*rows][:2] == ["all tokens", "as trained"]
    assert {"fixed", "fixed, no merging", "own MI", "shuffled MI", "reversed MI", "grid"} <= rows.keys()
    finished, own = Finished.load(home), evaluate_on(home)
    plain = finished.merged()
    take_off(plain)
    whole = evaluate(plain, Samples.load(home / VALIDATION), task_of(finished.genesis.config.measuring))
    assert rows["all tokens"].loss == pytest.approx(whole.loss_sum / whole.count, abs=1e-6)
    assert rows["as trained"].loss == pytest.approx(own.loss, abs=1e-6)
    assert rows["all tokens"].loss != rows["as trained"].loss
    assert rows["fixed"].read < rows["as trained"].read < 65
    assert "trained with the token reducer `autoprune` (keep = 0.5)" in found.notes[0]
    assert "other samples" in found.notes[1]


@pytest.mark.slow
def test_a_run_without_public_samples_is_measured(tmp_path: Path) -> None:
    """Nothing but a slope is decided by samples; a clip's model reads fewer before its stack."""
    clips: dict[str, Any] = {
        "data__source": "short_events",
        "data__options": {"count": 60, "frames": 5, "side": 3, "classes": 3},
        "model__source": "video",
        "model__options": {"width": 16, "layers": 1, "heads": 2},
        "tokens__reducer": "fastvid",
    }
    ran = dictpfl("tokens", trained(tmp_path / "run", **clips), "--keep", "0.34", "--reducer", "grid", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    for arm in ("all tokens", "as trained", "fastvid", "tome", "fixed segments", "clusters", "grid"):
        assert arm in ran.stdout
    assert "was trained with the token reducer `fastvid` (keep = 0.5)" in ran.stderr
    run = trained(
        tmp_path / "images",
        model__source="vit_tiny",
        model__options={"dim": 16, "depth": 3, "patch": 1},
        tokens__reducer="autoprune",
    )
    found = compared(read_source(str(run), deciding=False), 0.3, [])
    assert "own MI" not in {row.arm for row in found.rows}
    assert "left out: the run has no public samples" in found.notes[1]


@pytest.mark.slow
def test_arms_that_a_model_cannot_have_are_left_out_in_words(tmp_path: Path) -> None:
    """One that averages over its patches cannot give samples other numbers of them; questions about pictures can."""
    pytest.importorskip("timm")
    (tmp_path / "c.toml").write_text(
        '[data]\nsource = "digits"\nlimit = 100\n[model]\nsource = "timm:vit_tiny_patch16_224"\noptions = { pretrained = false, '
        'img_size = 8, patch_size = 1, embed_dim = 16, depth = 3, num_heads = 2, global_pool = "avg" }\n'
    )
    source = read_source("timm:vit_tiny_patch16_224", config=tmp_path / "c.toml", deciding=False)
    found = compared(source, 0.3, [])
    assert {"all tokens", "fixed", "fixed, no merging"} <= {row.arm for row in found.rows}
    assert "own MI" not in {row.arm for row in found.rows}
    assert found.notes[0].startswith("own MI, shuffled MI, reversed MI are left out: tokens.options.adapt gives")
    asked = trained(
        tmp_path / "run", data__source="mosaic", data__options={"count": 60, "side": 3}, model__source="vlm",
        model__options={"image": [1, 24, 24], "width": 16, "layers": 3, "heads": 2}, tokens__reducer="autoprune", data__public_share=0.2,
    )  # fmt: skip
    rows = {row.arm for row in compared(read_source(str(asked), deciding=False), 0.5, ["grid"]).rows}
    assert {"as trained", "fixed", "own MI", "grid"} <= rows


def test_a_model_of_two_layers_is_compared_before_its_stack(tmp_path: Path) -> None:
    """No reducer was set, so none is to blame; nothing stands between two layers, and before them all rules may."""
    run, network = tmp_path / "run", {"dim": 16, "depth": 2, "patch": 1}
    simulate(
        tiny(model__source="vit_tiny", model__options=network, training__steps=1, federation__rounds=1),
        run,
        engine="local",
    )
    found = compared(read_source(str(run), deciding=False), 0.3, ["random"])
    assert [row.arm for row in found.rows] == ["all tokens", *BEFORE, "fixed segments", "clusters"]
    assert {row.read for row in found.rows[1:]} == {1 + 19}  # the class token, and floor(0.3 * 64) patches
    assert found.notes == [
        "rules between layers are left out: tokens.reducer: a model of 2 layers has no room between them; expected at least 3"
    ]
    with pytest.raises(ConfigError, match="'autoprune': Linear is of no family"):
        compared(replace(read_source(str(run), deciding=False), model=nn.Linear(2, 2)), 0.3, [])


def test_a_reducer_between_layers_has_no_picture(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has nothing to do before a stack"):
        look(clip(tmp_path / "a.tif"), reducer="autoprune", keep=0.5, frames=4, side=8, encoder="", options={})
