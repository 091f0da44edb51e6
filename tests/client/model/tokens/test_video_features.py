"""A video transformer on features: tokens are the encoder's, and a reducer goes by what its class token attends to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dictpfl.client.model.networks.video import VideoTransformer
from dictpfl.client.model.tokens.install import reduce_tokens, reduction_of
from dictpfl.client.model.tokens.seam import Frames, Reduced
from dictpfl.common.errors import ConfigError

FRAMES, PLACES, WIDTH = 6, 9, 12


def video(**changes: Any) -> VideoTransformer:
    torch.manual_seed(3)
    return VideoTransformer((FRAMES, 1 + PLACES, WIDTH + 1), 4, **{"width": 16, "layers": 2, "heads": 2} | changes)


def features(clips: int = 2) -> Tensor:
    """Features of clips, no attention yet."""
    torch.manual_seed(5)
    found = torch.randn(clips, FRAMES, 1 + PLACES, WIDTH + 1)
    found[..., -1] = 0
    return found


def watched(model: VideoTransformer, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Frames, Reduced]]:
    """What the model's reducer is given, and what it gives back."""
    reduction = reduction_of(model)
    assert reduction is not None
    plain, seen = reduction.reducer.once, []  # type: ignore[union-attr]

    def once(frames: Frames) -> Reduced:
        seen.append((frames, plain(frames)))
        return seen[-1][1]

    monkeypatch.setattr(reduction.reducer, "once", once)
    return seen


@pytest.mark.parametrize("reducer", ["salient", "fastvid"])
def test_the_most_attended_tokens_stay(reducer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, clips = video().eval(), features()
    attended = torch.tensor([[[(f + c) % PLACES, (f + 2 * c + 4) % PLACES] for f in range(FRAMES)] for c in range(2)])
    clips[:, :, 1:, -1] = 0.01
    clips[:, :, 1:, -1] = clips[:, :, 1:, -1].scatter(2, attended, 0.3)
    clips[:, :, 1 + 8, :-1] *= 50  # by contrast this place would stay in every frame
    reduce_tokens(model, reducer, keep=2 / PLACES + 0.001)
    seen = watched(model, monkeypatch)
    model(clips)
    (given, found), places = seen[0], torch.arange(FRAMES).unsqueeze(1) * PLACES
    assert torch.equal(given.attention, clips[:, :, 1:, -1])  # type: ignore[arg-type]
    expected = (attended + places).flatten(1).sort(dim=1).values
    assert torch.equal(found.positions, expected)
    assert not torch.equal(found.positions, model_without_attention(reducer, clips, monkeypatch))


def model_without_attention(reducer: str, clips: Tensor, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """Positions that stay where nobody tells a reducer of attention: the planted fault."""
    model = video().eval()
    reduce_tokens(model, reducer, keep=2 / PLACES + 0.001)
    monkeypatch.setattr(model, "_frames", lambda clips: Frames(model.tokens(clips), clips[:, :, 0, :-1]))
    seen = watched(model, monkeypatch)
    model(clips)
    return seen[0][1].positions


def test_scenes_begin_where_class_tokens_change(monkeypatch: pytest.MonkeyPatch) -> None:
    model, clips = video().eval(), features(1)
    scene = torch.randn(2, WIDTH)
    clips[0, :4, 0, :-1], clips[0, 4:, 0, :-1] = scene[0], -scene[0] + 0.1 * scene[1]
    clips[:, :, 1:, -1] = torch.rand(1, FRAMES, PLACES)
    reduce_tokens(model, "fastvid", keep=0.5, c=1, tau=0.5)
    seen = watched(model, monkeypatch)
    model(clips)
    assert seen[0][1].cuts is not None
    assert seen[0][1].cuts[0].tolist() == [True, False, False, False, True, False]


def test_the_model_reads_patches_and_neither_class_tokens_nor_attention() -> None:
    model, clips = video().eval(), features()
    whole = model(clips)
    assert whole.shape == (2, 4)
    other = clips.clone()
    other[:, :, 0], other[..., -1] = 7.0, 0.5
    assert torch.equal(model(other), whole)
    other[0, 0, 1, 0] += 1
    assert not torch.allclose(model(other), whole)


@pytest.mark.parametrize("reducer", ["fastvid", "dtm", "salient", "random", "frames", "grid", "tome"])
def test_each_reducer_reads_features(reducer: str) -> None:
    model, clips = video(), features(3)
    clips[:, :, 1:, -1] = torch.rand(3, FRAMES, PLACES)
    reduce_tokens(model, reducer, keep=0.34)
    found = model(clips)
    torch.testing.assert_close(torch.cat([model(clip[None]) for clip in clips]), found, atol=1e-5, rtol=1e-5)
    found.sum().backward()
    assert model.projector.weight.grad is not None


def test_weights_of_pixels_keep_their_names_and_first_values() -> None:
    torch.manual_seed(3)
    conv = torch.nn.Conv2d(1, 16, 8, stride=8)
    torch.manual_seed(3)
    pixels = VideoTransformer((FRAMES, 1, 24, 24), 4, width=16, layers=2, heads=2)
    assert torch.equal(pixels.patch_embed.weight, conv.weight)
    names = {name.partition(".")[0] for name, _ in pixels.named_parameters()}
    shared = {"cls_token", "frame_pos_embed", "place_pos_embed", "layers", "norm", "head"}
    assert names == {"patch_embed"} | shared
    assert {name.partition(".")[0] for name, _ in video().named_parameters()} == {"projector"} | shared


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((6, 10, 13), {"patch": 8}, r"model\.options\.patch is 8, and these samples \(6, 10, 13\) are features"),
        ((6, 1, 13), {}, "have no patch, or no value"),
        ((6, 10, 1), {}, "have no patch, or no value"),
        ((64,), {}, "needs clips"),
        ((6, 10, 13), {"heads": 3}, "heads 3 must divide the width 16"),
        ((6, 10, 13), {"heads": 0}, "heads 0 must divide the width 16, both at least 1"),
        ((6, 10, 13), {"layers": 0}, "layers is 0: at least 1"),
        ((6, 1, 24, 24), {"patch": 0}, "patch 0 must divide frames of 24 x 24, and be at least 1"),
        ((6, 1, 24, 24), {"patch": -8}, "patch -8 must divide"),
        ((6, 1, 20, 24), {}, "patch 8 must divide frames of 20 x 24"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shape: tuple[int, ...], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        VideoTransformer(shape, 4, **{"width": 16, "layers": 1, "heads": 2} | options)
