"""FastVID held to a slow version in plain loops; counts exact for every clip, ties by index, nothing else touched."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import structlog
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls
from torch import Tensor

import dictpfl
from dictpfl.client.model.networks.video import VideoTransformer
from dictpfl.client.model.networks.vit import VitTiny
from dictpfl.client.model.tokens.install import install, reduce_tokens
from dictpfl.client.model.tokens.reducers.autoprune import drawn
from dictpfl.client.model.tokens.reducers.fastvid import FastVid, fastvid, say_without_attention
from dictpfl.client.model.tokens.seam import Before, Frames, make_reducer
from dictpfl.client.model.tokens.segments import clusters, segments
from dictpfl.common.errors import ConfigError
from dictpfl.common.settings import Tokens as Settings


def cosine(one: Tensor, other: Tensor) -> float:
    norm = float(one.norm() * other.norm())
    return float(one @ other) / norm if norm > 0 else 0.0


def cut(frames: Tensor, c: int, tau: float) -> list[int]:
    """First frames of segments."""
    alike = [cosine(frames[f], frames[f + 1]) for f in range(len(frames) - 1)]
    lowest = sorted(range(len(alike)), key=lambda f: (alike[f], f))[: c - 1]
    return [0, *(f + 1 for f in range(len(alike)) if f in lowest or alike[f] < tau)]


def peaks_of(tokens: Tensor, places: list[int], count: int, nearest: int) -> list[int]:
    width = tokens.shape[1]
    apart = {(i, j): float((tokens[i] - tokens[j]).norm()) / math.sqrt(width) for i in places for j in places}
    rho = {}
    for i in places:
        close = sorted(apart[i, j] for j in places)[:nearest]
        rho[i] = math.exp(-sum(v * v for v in close) / len(close))
    worth = {}
    for i in places:
        denser = [apart[i, j] for j in places if rho[j] > rho[i] or (rho[j] == rho[i] and j < i)]
        worth[i] = rho[i] * (min(denser) if denser else max(apart.values()))
    return sorted(places, key=lambda i: (-worth[i], i))[:count]


def slowly(
    hidden: Tensor, attention: Tensor, keep: float, *, c: int, tau: float, d: float, p: int, beta: float, nearest: int
) -> tuple[Tensor, list[int]]:
    """One clip (F, N, D), float64, one token at a time."""
    frames, places, _ = hidden.shape
    each = int(Fraction(str(keep)) * places)
    dense = int(Fraction(str(d)) * each)
    firsts = cut(hidden.mean(dim=1), c, tau)
    out: dict[int, Tensor] = {}
    salient = {
        f: sorted(range(places), key=lambda i: (-float(attention[f, i]), i))[: each - dense] for f in range(frames)
    }
    for f, chosen in salient.items():
        out |= {f * places + i: hidden[f, i] for i in chosen}
    while p > 1 and p * dense > places - (each - dense):
        p -= 1
    for first, after in zip(firsts, [*firsts[1:], frames], strict=True):
        run = list(range(first, after))
        anchors = run[::-1][::p]
        total = len(run) * dense
        for number, f in enumerate(anchors):
            quota = total // len(anchors) + (number < total % len(anchors))
            free = [i for i in range(places) if i not in salient[f]]
            chosen = peaks_of(hidden[f], free, quota, nearest) if quota else []
            joined: dict[int, list[Tensor]] = {i: [] for i in chosen}
            for g in run:
                for i in range(places):
                    if i in salient[g] or not chosen:
                        continue
                    home = i if g == f and i in chosen else max(
                        chosen, key=lambda a: (round(cosine(hidden[g, i], hidden[f, a]), 12), -chosen.index(a))
                    )  # fmt: skip
                    joined[home].append(hidden[g, i])
            for i, members in joined.items():
                weight = max(beta, 1 / (len(members) + 1))
                out[f * places + i] = weight * hidden[f, i] + (1 - weight) * torch.stack(members).mean(dim=0)
    order = sorted(out)
    return torch.stack([out[n] for n in order]), order


@pytest.mark.parametrize("seed", range(12))
def test_batched_is_that_of_loops(seed: int) -> None:
    torch.manual_seed(seed)
    frames, places = (6, 9), (12, 7)
    f, n = frames[seed % 2], places[seed // 2 % 2]
    hidden = torch.randn(3, f, n, 5, dtype=torch.float64)
    if seed % 3:  # scenes: frames much alike
        hidden = hidden[:, :1] + 0.2 * hidden
        hidden[:, f // 2 :] = hidden[:, f // 2 :] + torch.randn(3, 1, n, 5, dtype=torch.float64)
    attention = torch.rand(3, f, n, dtype=torch.float64)
    options: dict[str, Any] = {
        "c": 1 + seed % 4, "tau": (0.9, 0.2)[seed % 2], "d": (0.4, 1.0, 0.7)[seed % 3], "p": 1 + seed % 4,
        "beta": 0.6, "nearest": 4,
    }  # fmt: skip
    keep = (0.3, 0.5, 0.9)[seed % 3]
    found, positions = fastvid(hidden, None, attention, keep=keep, **options)
    for clip in range(3):
        expected, order = slowly(hidden[clip], attention[clip], keep, **options)
        assert positions[clip].tolist() == order
        torch.testing.assert_close(found[clip], expected, atol=1e-6, rtol=1e-6)
        alone, places_alone = fastvid(hidden[clip], None, attention[clip], keep=keep, **options)
        torch.testing.assert_close(alone, found[clip])
        assert places_alone.tolist() == order


@settings(max_examples=500, deadline=None)
@given(
    st.integers(1, 14), st.integers(1, 20), st.integers(1, 100), st.integers(1, 16), st.floats(-0.5, 1), st.integers(0, 10),
    st.integers(1, 6), st.integers(0, 1 << 20), st.sampled_from(["fastvid", "dtm", "salient", "random", "frames", "grid", "tome", "clusters"]),
)  # fmt: skip
def test_counts_are_exact(
    frames: int, places: int, percent: int, c: int, tau: float, tenths: int, p: int, seed: int, arm: str
) -> None:
    keep = percent / 100
    each = int(Fraction(str(keep)) * places)
    if not each:
        return
    rng = torch.Generator().manual_seed(seed)
    hidden = torch.randn(2, frames, places, 4, generator=rng)
    hidden[:, frames // 2 :] = 0.0 if seed % 3 == 0 else hidden[:, frames // 2 :]  # zero vectors, equal frames
    options: dict[str, Any] = {}
    if arm in ("fastvid", "clusters"):
        options = {"c": c, "tau": tau, "d": tenths / 10, "p": p}
        options |= {"segments": arm} if arm == "clusters" else {}
        arm = "fastvid"
    elif arm == "dtm":
        options = {"c": c, "tau": tau, "p": p}
    made = make_reducer(Settings(reducer=arm, keep=min(keep, 0.999), options=options)) if each < places else None
    if made is None:
        return
    if not int(Fraction(str(min(keep, 0.999))) * places):
        return
    found = made.once(Frames(hidden))  # type: ignore[union-attr]
    assert found.hidden.shape[1] == made.kept(frames, places)  # type: ignore[union-attr]
    assert bool((found.positions.diff(dim=1) > 0).all())
    assert bool(torch.isfinite(found.hidden).all())
    untouched = hidden.flatten(1, 2).gather(1, found.positions.unsqueeze(-1).expand(-1, -1, 4))
    assert torch.equal(found.hidden[~found.merged], untouched[~found.merged])


def test_all_tokens_are_all_tokens() -> None:
    hidden = torch.randn(2, 5, 6, 3)
    found, positions = fastvid(hidden, keep=1.0)
    assert torch.equal(found, hidden.flatten(1, 2))
    assert positions[0].tolist() == list(range(30))


@pytest.mark.parametrize(
    ("frames", "c", "tau", "expected"),
    [
        (torch.ones(1, 6, 2), 3, 0.9, [0, 1, 2]),  # a still clip: cuts by index
        (torch.ones(1, 6, 2), 1, 0.9, [0]),
        (torch.ones(1, 3, 2), 9, 0.9, [0, 1, 2]),  # more segments than frames
        (torch.ones(1, 1, 2), 8, 0.9, [0]),
        (torch.tensor([[[1.0, 0], [1, 0], [0, 1], [0, 1], [1, 0]]]), 1, 0.9, [0, 2, 4]),  # cuts below tau
        (torch.tensor([[[1.0, 0], [1, 0.1], [0, 1], [0.1, 1], [1, 0]]]), 2, -1.0, [0, 2]),  # the lowest one
        (torch.zeros(1, 4, 2), 1, 0.0, [0]),  # no direction: cosine 0, which is not below 0
    ],
)
def test_segments_of_known_clips(frames: Tensor, c: int, tau: float, expected: list[int]) -> None:
    assert torch.nonzero(segments(frames, c, tau)[0]).flatten().tolist() == expected
    assert torch.equal(segments(frames[0], c, tau), segments(frames, c, tau)[0])  # of one clip, as `fastvid` takes it


def test_merged_tokens_lie_between_those_that_they_stand_for() -> None:
    torch.manual_seed(0)
    hidden = torch.rand(2, 8, 10, 4)
    found = FastVid(0.3, d=1.0, c=2, tau=-1.0).once(Frames(hidden))
    assert bool(found.merged.all())
    low, high = hidden.amin(dim=(1, 2)), hidden.amax(dim=(1, 2))
    assert bool((found.hidden >= low.unsqueeze(1)).all())
    assert bool((found.hidden <= high.unsqueeze(1)).all())
    assert not torch.equal(
        found.hidden, hidden.flatten(1, 2).gather(1, found.positions.unsqueeze(-1).expand(-1, -1, 4))
    )


def test_a_merged_token_is_a_mixture_of_its_own_segment() -> None:
    """In the convex hull: weights from 0 up that sum to 1 make it of tokens of the segment, and of those of another they do not."""
    torch.manual_seed(1)
    hidden = torch.rand(1, 8, 6, 60, dtype=torch.float64)
    hidden[:, 4:, :, :30] = hidden[:, :4, :, 30:] = 0.0  # two scenes
    found = FastVid(0.34, d=1.0, c=2, tau=-1.0).once(Frames(hidden))
    assert found.cuts is not None
    assert torch.nonzero(found.cuts[0]).flatten().tolist() == [0, 4]
    assert int(found.merged.sum()) == 16
    for token, place in zip(found.hidden[0].numpy(), found.positions[0].tolist(), strict=True):
        for own, segment in enumerate((hidden[0, :4], hidden[0, 4:])):
            # A row of ones, weighted, holds the sum of the weights to 1.
            points = np.vstack([segment.flatten(0, 1).numpy().T, np.full(24, 100.0)])
            _, apart = nnls(points, np.append(token, 100.0))
            assert (apart < 1e-6) == (own == place // 6 // 4)


def test_gradients_flow_to_all_that_was_merged() -> None:
    hidden = torch.rand(1, 6, 8, 4, requires_grad=True)
    FastVid(0.25, d=1.0, c=1, tau=-1.0, p=6).once(Frames(hidden)).hidden.sum().backward()
    assert hidden.grad is not None
    assert bool((hidden.grad.abs().sum(dim=-1) > 0).all())  # one anchor frame takes up the whole clip


def test_the_token_that_stands_out_is_kept() -> None:
    hidden = torch.ones(1, 6, 9, 4)
    hidden[0, 3, 5] = torch.tensor([-1.0, 2, 0, 1])
    found = FastVid(0.25).once(Frames(hidden))
    assert 3 * 9 + 5 in found.positions[0].tolist()


def pairs_merged(frame: Tensor, keep: int) -> tuple[Tensor, list[int]]:
    """One frame (N, D), float64: the most alike pairs become one, step by step."""
    tokens = [(i, frame[i], 1) for i in range(len(frame))]
    while len(tokens) > keep:
        ones, others = tokens[::2], tokens[1::2]
        wishes = []
        for n, (_, value, _size) in enumerate(ones):
            alike = [round(cosine(value, other), 12) for _, other, _ in others]
            wishes.append((max(alike), n, alike.index(max(alike))))
        wishes.sort(key=lambda w: (-w[0], w[1]))
        sums = [(place, value * size, size) for place, value, size in others]
        left = dict(enumerate(ones))
        for _, n, to in wishes[: len(tokens) - keep]:
            _, value, size = left.pop(n)
            sums[to] = (sums[to][0], sums[to][1] + value * size, sums[to][2] + size)
        tokens = sorted([*left.values(), *((p, v / c, c) for p, v, c in sums)], key=lambda t: t[0])
    return torch.stack([value for _, value, _ in tokens]), [place for place, _, _ in tokens]


@pytest.mark.parametrize(("places", "keep"), [(9, 0.5), (12, 0.1), (7, 0.9), (2, 0.5)])
def test_merged_pairs_are_those_of_loops(places: int, keep: float) -> None:
    torch.manual_seed(places)
    hidden = torch.randn(2, 3, places, 5, dtype=torch.float64, requires_grad=True)
    found = make_reducer(Settings(reducer="tome", keep=keep)).once(Frames(hidden))  # type: ignore[union-attr]
    for clip in range(2):
        slow = [pairs_merged(frame, int(Fraction(str(keep)) * places)) for frame in hidden[clip].detach()]
        torch.testing.assert_close(
            found.hidden[clip].detach(), torch.cat([values for values, _ in slow]), atol=1e-6, rtol=1e-6
        )
        assert found.positions[clip].tolist() == [f * places + i for f, (_, at) in enumerate(slow) for i in at]
    found.hidden.sum().backward()
    assert bool((hidden.grad.abs().sum(dim=-1) > 0).all()), "whatever was merged is heard"  # type: ignore[union-attr]


def test_clusters_are_scenes_wherever_they_are() -> None:
    torch.manual_seed(4)
    one, other = torch.randn(2, 10, 4)
    alternating = torch.stack([one, other, one, other, one, other]) + 0.01 * torch.randn(6, 10, 4)
    features = alternating.mean(dim=1)
    found = clusters(features[None], 2)[0].tolist()
    assert found == [0, 1, 0, 1, 0, 1]
    assert clusters(features[None], 1)[0].tolist() == [0] * 6
    assert sorted(set(clusters(features[None], 9)[0].tolist())) == list(range(6)), "as many as frames at most"
    # The same as segments of the clip whose scenes stand together.
    order = torch.tensor([0, 2, 4, 1, 3, 5])
    values, positions = fastvid(alternating, keep=0.4, segments="clusters", c=2, d=0.5)
    sorted_values, there = fastvid(alternating[order], keep=0.4, c=2, tau=-2.0, d=0.5)
    back = [int(order[p // 10]) * 10 + p % 10 for p in there.tolist()]
    assert positions.tolist() == sorted(back)
    assert torch.equal(values, sorted_values[torch.tensor(np.argsort(back))])
    # One cluster is one segment.
    assert torch.equal(
        fastvid(alternating, keep=0.4, segments="clusters", c=1, d=0.5)[0],
        fastvid(alternating, keep=0.4, c=1, tau=-2.0, d=0.5)[0],
    )


def video(**changes: Any) -> VideoTransformer:
    torch.manual_seed(3)
    return VideoTransformer((6, 1, 24, 24), 4, **{"width": 16, "layers": 2, "heads": 2, "patch": 8} | changes)


@pytest.mark.parametrize("reducer", ["fastvid", "dtm", "salient", "random", "frames", "grid", "tome"])
def test_a_video_transformer_reads_fewer(reducer: str) -> None:
    model, clips = video().eval(), torch.randn(3, 6, 1, 24, 24)
    whole = model(clips)
    assert install(model, Settings(reducer=reducer, keep=1.0)) is None
    assert torch.equal(model(clips), whole)
    reduce_tokens(model, reducer, keep=0.34)
    found = model(clips)
    assert found.shape == (3, 4)
    assert not torch.allclose(found, whole)
    torch.testing.assert_close(torch.cat([model(clip[None]) for clip in clips]), found, atol=1e-5, rtol=1e-5)
    found.sum().backward()
    assert model.patch_embed.weight.grad is not None


def test_patches_of_a_picture_are_one_frame() -> None:
    torch.manual_seed(3)
    model, images = VitTiny((1, 8, 8), 3, dim=16, depth=1, patch=1).eval(), torch.randn(4, 1, 8, 8)
    whole = model(images)
    reduce_tokens(model, "grid", keep=0.25)
    seen: list[int] = []
    model.blocks[0].register_forward_hook(lambda _module, args, _out: seen.append(args[0].shape[1]))
    assert not torch.allclose(model(images), whole)
    assert seen == [17]


@pytest.mark.parametrize(
    ("reducer", "keep", "options", "message"),
    [
        ("fastvid", 0.05, {}, "tokens.keep = 0.05 leaves none of 9 tokens a frame; the least here is 0.112"),
        ("fastvid", 0.5, {"c": 0}, "c = 0, p = 4, nearest = 4; expected at least 1"),
        ("fastvid", 0.5, {"d": 1.5}, "expected 0 to 1"),
        ("fastvid", 0.5, {"size": 3}, "tokens.options of 'fastvid'"),
        ("autoprune", 0.5, {}, "works between layers"),
    ],
)
def test_options_that_leave_nothing_say_so(reducer: str, keep: float, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        reduce_tokens(video(), reducer, keep=keep, **options)


def test_shapes_of_no_clip_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected tokens \\(frames, places, width\\)"):
        dictpfl.fastvid(torch.ones(3, 4))
    with pytest.raises(ConfigError, match=r"tokens of floating point, found torch\.int64"):
        dictpfl.fastvid(torch.ones(3, 4, 5, dtype=torch.int64))
    with pytest.raises(ConfigError, match="a whole c of at least 1"):
        dictpfl.segments(torch.ones(1, 4, 5), c=2.5)  # type: ignore[arg-type]


def test_a_draw_does_not_hear_what_a_batch_changes_in_the_last_digits() -> None:
    torch.manual_seed(0)
    tokens = torch.randn(4, 50, 384)
    noisy = tokens * (1 + 1e-6 * torch.randn_like(tokens))
    here, there = drawn(tokens, 0), drawn(noisy, 0)
    assert (here != there).float().mean() < 0.01
    assert not torch.equal(drawn(tokens, 1), here)
    assert len(set(drawn(torch.ones(1, 50, 8), 0).flatten().tolist())) == 50, "equal tokens draw by their places"
    assert here.mean().item() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    ("reducer", "attention", "times"), [("fastvid", False, 1), ("fastvid", True, 0), ("dtm", False, 0)]
)
def test_a_stand_in_for_attention_is_said_once(reducer: str, attention: bool, times: int) -> None:
    """Density asks for none."""
    hidden = torch.randn(1, 4, 9, 3)
    frames = Frames(hidden, attention=torch.rand(1, 4, 9) if attention else None)
    say_without_attention.cache_clear()
    with structlog.testing.capture_logs() as logged:
        for _ in range(2):
            made = make_reducer(Settings(reducer=reducer, keep=0.5))
            assert isinstance(made, Before)
            made.once(frames)
    assert sum("come without attention" in entry["event"] for entry in logged) == times
