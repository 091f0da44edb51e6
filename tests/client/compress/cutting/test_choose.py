"""What stays: scores by the slow way, integers that no division of the samples moves, sizes from a budget."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dictpfl.client.compress.cutting import choose as choosing
from dictpfl.client.compress.cutting.activations import sums, taps_of, unit_scores
from dictpfl.client.compress.cutting.axes import architecture_of, axes_of
from dictpfl.client.compress.cutting.choose import Counted, choose, first, sizes_within
from dictpfl.client.compress.cutting.cut import cut, silenced
from dictpfl.client.compress.cutting.scores import HOW, digest, score
from dictpfl.client.compress.cutting.shrink import shrink, shrink_to
from dictpfl.client.data.samples import IGNORED, PADDING, Samples
from dictpfl.client.model.build import build_model
from dictpfl.client.training.calling import forward
from dictpfl.client.training.tasks.causal_lm import CausalLM
from dictpfl.client.training.tasks.classification import Classification
from dictpfl.client.training.train import evaluate
from dictpfl.common.errors import ConfigError, ModelError
from dictpfl.common.settings import Model
from tests.client.compress.cutting.subjects import KINDS, inputs_of, model_of

LANGUAGE = [k for k in KINDS if k not in ("mlp", "vit_tiny", "tabular", "timm-vit", "bert")]


def samples_of(kind: str, count: int = 6) -> Samples:
    if kind in ("mlp", "vit_tiny", "timm-vit", "tabular"):
        x = inputs_of(kind).numpy()[:count].astype(np.float32)
        return Samples(x, np.arange(len(x)) % 5)
    ids = np.random.default_rng(0).integers(3, 40, (count, 9))
    ids[0, 5:], ids[2, 3:] = PADDING, PADDING
    return Samples(ids, np.arange(count) % 3 if kind == "bert" else np.where(ids == PADDING, IGNORED, ids))


def task_of(kind: str) -> Any:
    return CausalLM() if kind in LANGUAGE else Classification()


def slow_means(model: nn.Module, module: str, is_input: bool, samples: Samples) -> np.ndarray:
    """m[b, c], one sample at a time, without padding at all."""
    rows = []
    for row in samples.features:
        ids = row[row != PADDING] if row.dtype == np.int64 else row
        seen: list[torch.Tensor] = []
        handle = model.get_submodule(module).register_forward_hook(
            lambda _, i, o, seen=seen: seen.append((i[0] if is_input else o).detach())
        )
        x = torch.from_numpy(ids[None])
        with torch.no_grad():
            forward(model, x if x.dtype == torch.int64 else x.double())
        handle.remove()
        value = seen[0].abs().double()[0]
        rows.append(value.reshape(-1, value.shape[-1]).mean(dim=0).numpy())
    return np.array(rows)


@pytest.mark.parametrize("kind", KINDS)
def test_activations_are_the_papers(kind: str) -> None:
    model, samples = model_of(kind), samples_of(kind)
    axes = axes_of(model)
    total = sums(model, [a for a in axes.values() if a.kind != "block"], samples)
    for axis in axes.values():
        if axis.kind == "block":
            continue
        taps = taps_of(axis)
        means = [slow_means(model, tap.module, tap.is_input, samples) for tap in taps]
        if axis.kind == "width":
            expected = sum(np.sqrt((m**2).sum(axis=0)) for m in means)
        else:
            each = np.sqrt((means[0] ** 2).sum(axis=0))
            expected = np.array([np.sqrt((each[index] ** 2).sum()) for index in taps[0].index])
            expected = expected**2
        np.testing.assert_allclose(unit_scores(axis, total), expected, rtol=1e-5)


def test_a_mixer_is_read_at_x_alone() -> None:
    """Rows of z are as many, and stand before it."""
    model = model_of("nemotron_h")
    axes = axes_of(model)
    tap = taps_of(axes["mamba-head:model.layers.0.mixer"])[0]
    inner = model.model.layers[0].mixer.intermediate_size
    assert sorted(tap.index.reshape(-1)) == list(range(inner, 2 * inner))
    assert tap.index[1].tolist() == [inner + 4, inner + 5, inner + 6, inner + 7]
    channel = taps_of(axes["mamba-channel:model.layers.0.mixer"])[0]
    assert channel.index[1].tolist() == [inner + 4 * h + 1 for h in range(8)]


def test_heads_are_ranked_by_the_channels_that_stay() -> None:
    model, samples = model_of("nemotron_h"), samples_of("nemotron_h")
    axes = axes_of(model)
    found = choose(model, axes, {"mamba_num_heads": 4, "mamba_head_dim": 2}, samples, CausalLM())
    total = sums(model, [a for a in axes.values() if a.kind != "block"], samples)
    for axis in axes.values():
        if axis.kind == "mamba-head":
            channels = found.kept[axis.name.replace("head", "channel")]
            expected = total[axis.name][0][:, channels].sum(axis=1)
            np.testing.assert_array_equal(found.scores[axis.name], expected)
            assert not np.array_equal(expected, unit_scores(axis, total))
            for g in range(2):
                members = np.flatnonzero(axis.group == g)
                best = sorted(members[np.argsort(-expected[members], kind="stable")[:2]])
                assert [u for u in found.kept[axis.name] if u in members] == best


def slow_outputs(model: nn.Module, samples: Samples) -> list[torch.Tensor]:
    """Of each sample by itself, without padding at all."""
    rows = [row[row != PADDING] if row.dtype == np.int64 else row for row in samples.features]
    given = [
        torch.from_numpy(row[None]) if row.dtype == np.int64 else torch.from_numpy(row[None]).double() for row in rows
    ]
    with torch.no_grad():
        return [forward(model, x).double() for x in given]


@pytest.mark.parametrize("kind", ["nemotron_h", "llama", "vit_tiny"])
def test_a_block_goes_and_the_others_are_scored_again(kind: str) -> None:
    """By the slow way: copies that are silent, one sample at a time. Padding has outputs too, which nobody reads."""
    model, samples = model_of(kind), samples_of(kind)
    axes = axes_of(model)
    axis, count = axes["block"], axes["block"].units - 2
    whole = slow_outputs(model, samples)
    scale = sum(float(said.square().sum()) for said in whole)
    gone: list[int] = []
    expected = np.zeros(axis.units)
    while axis.units - len(gone) > count:
        left = [u for u in range(axis.units) if u not in gone]
        for u in left:
            without = slow_outputs(silenced(model, axis, [*gone, u]), samples)
            expected[u] = sum(float((a - b).square().sum()) for a, b in zip(whole, without, strict=True)) / scale
        gone.append(min(left, key=lambda u: expected[u]))
    found = choose(model, axes, {axis.setting: count}, samples, task_of(kind))
    np.testing.assert_allclose(found.scores["block"], expected, rtol=1e-4, atol=1e-9)
    assert found.kept["block"].tolist() == sorted(set(range(axis.units)) - set(gone))
    first = score(model, axis, samples, task_of(kind), "activation")
    assert not np.allclose(first[found.kept["block"]], expected[found.kept["block"]], rtol=1e-3), (
        "nothing was scored again"
    )


def test_blocks_by_ablation_go_one_at_a_time_as_well() -> None:
    model, samples, task = model_of("vit_tiny", depth=4), samples_of("vit_tiny"), Classification()
    axis = axes_of(model)["block"]

    def loss(gone: list[int]) -> float:
        return evaluate(silenced(model, axis, gone), samples, task).loss_sum / len(samples)

    gone: list[int] = []
    while len(gone) < 2:
        moved = {u: abs(loss([*gone, u]) - loss(gone)) for u in range(4) if u not in gone}
        gone.append(min(moved, key=lambda u: moved[u]))
    found = choose(model, axes_of(model), {"depth": 2}, samples, task, "ablation")
    assert found.kept["block"].tolist() == sorted(set(range(4)) - set(gone))
    np.testing.assert_allclose([found.scores["block"][u] for u in moved], [*moved.values()], rtol=1e-7)


def test_of_two_blocks_that_do_the_same_one_stays() -> None:
    """Either is missed little, both are missed most: one score for each would let both go."""
    model = model_of("vit_tiny")
    draw = torch.Generator().manual_seed(3)
    twice, other = torch.randn(16, generator=draw).double() * 50, torch.randn(16, generator=draw).double() * 20
    with torch.no_grad():
        for number, block in enumerate(model.blocks):
            for part in (block.proj.weight, block.proj.bias, block.fc2.weight):
                part.zero_()
            block.fc2.bias.copy_(other if number == 1 else twice)
    axes, samples = axes_of(model), samples_of("vit_tiny")
    alone = score(model, axes["block"], samples, Classification(), "activation")
    assert alone[0] == pytest.approx(alone[2])
    assert alone[0] < alone[1]
    kept = choose(model, axes, {"depth": 1}, samples, Classification()).kept["block"]
    assert kept.tolist() in ([0], [2]), "the other one, which is missed more than either of the two by itself, stayed"


@pytest.mark.parametrize("kind", ["llama", "nemotron_h", "mamba2", "bamba", "granitemoehybrid"])
def test_padding_in_front_counts_nothing_either(kind: str) -> None:
    # A mixer with a bias behind padding reads that bias by its convolution, in transformers itself.
    model, behind = model_of(kind, **({"use_bias": False} if kind == "nemotron_h" else {})), samples_of(kind)
    rows = [np.concatenate([row[row == PADDING], row[row != PADDING]]) for row in behind.features]
    ids = np.stack(rows)[[0, 2]]  # none of full length: the batch is cut
    front, behind = Samples(ids, np.where(ids == PADDING, IGNORED, ids)), behind.take(np.array([0, 2]))
    axes = axes_of(model)
    found = [sums(model, [a for a in axes.values() if a.kind != "block"], each) for each in (behind, front)]
    for axis in axes.values():
        if axis.kind == "block":
            scores = [score(model, axis, each, task_of(kind), "activation") for each in (behind, front)]
            np.testing.assert_allclose(scores[0], scores[1], rtol=1e-4)
        else:
            np.testing.assert_allclose(unit_scores(axis, found[0]), unit_scores(axis, found[1]), rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_one_sample_decides_as_well(kind: str) -> None:
    model, one = model_of(kind), samples_of(kind).take(np.array([1]))
    if one.features.dtype == np.int64:
        one = Samples(
            one.features[:, :2], one.labels[:, :2] if one.labels.ndim > 1 else one.labels
        )  # shorter than a convolution
    axes = axes_of(model)
    for setting in dict.fromkeys(a.setting for a in axes.values()):
        axis = next(a for a in axes.values() if a.setting == setting)
        how = [h for h in HOW if h != "ablation" or axis.kind == "block"]
        for way in how:
            found = choose(
                model, axes, {setting: max(axis.units // 2 // axis.groups, 1) * axis.groups}, one, task_of(kind), way
            )
            assert all(np.isfinite(values).all() for values in found.scores.values()), (setting, way)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["mlp", "vit_tiny", "llama", "nemotron_h"])
def test_narrow_weights_are_cut_as_they_are(kind: str, dtype: torch.dtype) -> None:
    """Their scores are float64 and finite, and a cut changes no bit of what stays: it goes with rounding in either order."""
    wide, samples = model_of(kind), samples_of(kind)
    with torch.no_grad():
        for parameter in wide.parameters():
            parameter.copy_(parameter.to(dtype))
    model = copy.deepcopy(wide).to(dtype)
    axes = axes_of(model)
    for axis in axes.values():
        ways = [how for how in HOW if how != "ablation" or axis.units < 10]
        for how in ways:
            found = score(model, axis, samples, task_of(kind), how)
            assert found.dtype == np.float64, (axis.name, how)
            assert np.isfinite(found).all(), (axis.name, how)
    counts = {
        a.setting: a.units // 2 // a.groups * a.groups or 1 for a in axes.values() if a.kind in ("ffn", "mamba-head")
    }
    kept = choose(model, axes, counts, samples, task_of(kind)).kept
    small, expected = cut(model, kept).state_dict(), cut(wide, kept).state_dict()
    for name, tensor in small.items():
        assert torch.equal(tensor.double(), expected[name].double()), name
        assert tensor.dtype == model.state_dict()[name].dtype, name


@pytest.mark.parametrize("kind", ["mlp", "nemotron_h", "llama"])
@pytest.mark.parametrize("how", HOW)
def test_every_way_scores_every_axis(kind: str, how: str) -> None:
    model, samples = model_of(kind), samples_of(kind)
    state = {n: t.clone() for n, t in model.state_dict().items()}
    for axis in axes_of(model).values():
        if how == "ablation" and axis.units > 10:
            continue
        found = score(model, axis, samples, task_of(kind), how, seed=3)
        assert found.shape == (axis.units,)
        assert found.dtype == np.float64
        assert len(np.unique(found)) > 1
        assert (found == score(model, axis, samples, task_of(kind), how, seed=3)).all()
    assert all(torch.equal(state[n], t) for n, t in model.state_dict().items())
    assert not model.training
    assert all(p.grad is None for p in model.parameters())


def test_ablation_and_attribution_by_hand() -> None:
    model, samples = model_of("mlp"), samples_of("mlp")
    axis, task = axes_of(model)["ffn:1"], Classification()
    x, y = torch.from_numpy(samples.features).double(), torch.from_numpy(samples.labels)

    def loss(m: nn.Module) -> torch.Tensor:
        return task.loss(m(x), y)

    expected = [abs(float((loss(silenced(model, axis, [u])) - loss(model)).detach())) for u in range(axis.units)]
    np.testing.assert_allclose(score(model, axis, samples, task, "ablation"), expected, rtol=1e-9)
    up, bias, down = model[1].weight, model[1].bias, model[3].weight
    grads = torch.autograd.grad(loss(model), [up, bias, down])
    by_unit = (grads[0] * up).sum(1) + grads[1] * bias + (grads[2] * down).sum(0)
    np.testing.assert_allclose(score(model, axis, samples, task, "attribution"), by_unit.abs().detach(), rtol=1e-9)
    norms = (up.square().sum(1) * down.square().sum(0)).sqrt()
    np.testing.assert_allclose(score(model, axis, samples, task, "magnitude"), norms.detach(), rtol=1e-9)


def test_a_model_that_is_not_finite_is_refused_by_axis() -> None:
    model = model_of("mlp")
    with torch.no_grad():
        model[1].bias[0] = torch.nan
    with pytest.raises(ModelError, match="ffn:1"):
        choose(model, axes_of(model), {"hidden:1": 4}, samples_of("mlp"), Classification())


def test_equal_scores_go_by_index_and_are_named() -> None:
    model = model_of("mlp")
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.zero_()
    found = choose(model, axes_of(model), {"hidden:1": 4}, samples_of("mlp"), Classification())
    assert found.even == ("ffn:1",)
    assert found.kept["ffn:1"].tolist() == [0, 1, 2, 3]
    assert digest(found.scores) != digest({"ffn:1": np.ones(12)})


def test_random_draws_differ_between_layers_and_seeds() -> None:
    model = model_of("llama")
    axes = axes_of(model)
    counts = {"intermediate_size": 12}
    one = choose(model, axes, counts, samples_of("llama"), CausalLM(), "random", seed=1).kept
    two = choose(model, axes, counts, samples_of("llama"), CausalLM(), "random", seed=2).kept
    assert len({tuple(u) for u in one.values()}) == 3
    assert any(not np.array_equal(one[n], two[n]) for n in one)


@pytest.mark.parametrize("kind", ["mlp", "nemotron_h", "llama", "bamba"])
def test_the_number_of_parameters_is_known_without_a_model(kind: str) -> None:
    model = model_of(kind)
    axes = axes_of(model)
    free = list(dict.fromkeys(a.setting for a in axes.values() if a.kind != "block"))
    counted = Counted(model, axes, free)
    random = np.random.default_rng(1)
    assert counted({}) == sum(p.numel() for p in model.parameters())
    for _ in range(6):
        sizes = {}
        for setting in free:
            axis = next(a for a in axes.values() if a.setting == setting)
            sizes[setting] = int(random.integers(1, axis.units // axis.groups + 1)) * axis.groups
        if kind == "llama":
            sizes["hidden_size"] = 4 * (sizes["hidden_size"] // 4 or 1)
        if kind == "bamba":
            sizes |= {
                "hidden_size": 8,
                "mamba_n_heads": int(random.choice([2, 4, 8])),
                "mamba_d_head": 4 * int(random.choice([1, 2])),
            }
        small = cut(model, {n: first(a, sizes[a.setting]) for n, a in axes.items() if a.setting in sizes})
        assert counted(sizes) == sum(p.numel() for p in small.parameters()), sizes


def test_a_budget_finds_sizes_that_can_be_the_evenest_first() -> None:
    model = model_of("bamba")
    axes, maker = axes_of(model), architecture_of(model)
    budget = sum(p.numel() for p in model.parameters()) // 2
    found = sizes_within(model, axes, maker, budget)
    assert found
    for sizes in found:
        small = cut(model, {n: first(a, sizes[a.setting]) for n, a in axes.items() if a.setting in sizes})
        assert abs(sum(p.numel() for p in small.parameters()) - budget) <= 0.03 * budget
    spread = [choosing._unevenness(axes, sizes) for sizes in found]
    assert spread == sorted(spread)
    with pytest.raises(ConfigError, match=r"no sizes leave 10 parameters"):
        sizes_within(model, axes, maker, 10)
    with pytest.raises(ConfigError, match="layers: which blocks"):
        sizes_within(model, axes, maker, budget, fixed={"num_hidden_layers": 2})


def deep(hidden: list[int]) -> nn.Module:
    return build_model(Model(source="mlp", options={"hidden": hidden}), (1, 8, 8), 5, seed=1)


def parameters_of(hidden: Sequence[int]) -> int:
    """The closed form of a perceptron's size."""
    return sum((a + 1) * b for a, b in pairwise((64, *hidden, 5)))


def test_a_small_grid_is_tried_whole() -> None:
    """By the obvious way: every combination of eighths, the evenest first, and of those the nearest."""
    whole = [24, 16, 9, 5]
    model = deep(whole)
    axes, maker = axes_of(model), architecture_of(model)
    budget = parameters_of(whole) // 2
    options = [sorted({max(1, n * k // 8) for k in range(1, 9)}, reverse=True) for n in whole]
    expected = []
    for sizes in itertools.product(*options):
        missed = abs(parameters_of(sizes) - budget)
        if missed <= 0.03 * budget:
            shares = [math.log(a / b) for a, b in zip(sizes, whole, strict=True)]
            expected.append((max(shares) - min(shares), missed, sizes))
    expected.sort(key=lambda each: each[:2])
    found = [tuple(sizes.values()) for sizes in sizes_within(model, axes, maker, budget)]
    assert len(found) > 20
    assert found == [sizes for *_, sizes in expected][:200]
    assert found[:1] == [tuple(sizes.values()) for sizes in sizes_within(model, axes, maker, budget, most=1)]


@pytest.mark.parametrize("share", [0.98, 0.6, 0.2])
def test_many_layers_of_their_own_size_are_cut_to_a_budget(share: float) -> None:
    """All combinations of thirty sizes would never end, and so would the corners that count them."""
    whole = [32 + 4 * (n % 5) for n in range(30)]
    model = deep(whole)
    axes, maker = axes_of(model), architecture_of(model)
    free = [axis.setting for axis in axes.values()]
    points = sum(1 for _ in choosing._grid(axes, free))
    assert points <= 8**5 + 2 * 7 * 29
    budget = int(share * parameters_of(whole))
    (sizes,) = sizes_within(model, axes, maker, budget, most=1)
    assert list(sizes) == free
    assert list(sizes.values()) != whole
    small = shrink_to(model, axes, maker, sizes, samples_of("mlp"), Classification(), score="magnitude")
    assert small.after == parameters_of([*sizes.values()]) == Counted(model, axes, free)(sizes)
    assert abs(small.after - budget) <= 0.03 * budget
    shares = [a / b for a, b in zip(sizes.values(), whole, strict=True)]
    assert max(shares) / min(shares) < 2.1, "neighbouring eighths, the lowest of which are 1/8 and 2/8"


@pytest.mark.parametrize("kind", ["nemotron_h", "bert"])
def test_a_budget_below_the_whole_never_leaves_the_whole(kind: str) -> None:
    model, samples = model_of(kind), samples_of(kind)
    found = shrink(model, samples, task_of(kind), to=0.98)
    assert found.after < found.before
    assert abs(found.after - 0.98 * found.before) <= 0.03 * 0.98 * found.before
    axes, maker = axes_of(model), architecture_of(model)
    units = {axis.setting: axis.units for axis in axes.values() if axis.kind != "block"}
    assert units not in sizes_within(model, axes, maker, found.before - 1)
    assert sizes_within(model, axes, maker, found.before)[0] == units


def test_where_no_sizes_reach_a_budget_the_nearest_that_can_be_are_told() -> None:
    model, samples = model_of("vit_tiny"), samples_of("vit_tiny")
    whole = sum(p.numel() for p in model.parameters())
    for to, word in (
        (0.98, r"the nearest that can be is 6761 \(ffn 28\)"),
        (0.75, r"the nearest that can be are 5177 \(ffn 12\) and 5573 \(ffn 16\)"),
        (0.2, r"the smallest that can be is 4385 \(ffn 4\)"),
    ):
        with pytest.raises(ConfigError, match=word):
            shrink(model, samples, "classification", to=to)
    assert shrink(model, samples, "classification", to=6761).after == 6761 < whole
    mixed = model_of("mamba2")  # most of its grid cannot be: heads times channels are a multiple of the width
    with pytest.raises(ConfigError, match=r"8442 \(heads 6, channels 7, width 14\) and 10470 \(heads 6\)"):
        shrink(mixed, samples_of("mamba2"), "causal-lm", to=0.75)
    with pytest.raises(ConfigError, match=r"the nearest that can be .*hidden:1 "):
        shrink(model_of("mlp"), samples_of("mlp"), "classification", to=0.2)
    with pytest.raises(ConfigError, match=r"mamba-head.*: 3 of 8 units cannot stay"):
        shrink(mixed, samples_of("mamba2"), "causal-lm", to=0.6, heads=3)


def test_a_default_is_what_was_measured_and_activation_where_institutions_summed_it() -> None:
    model, maker = model_of("nemotron_h"), architecture_of(model_of("nemotron_h"))
    axes, samples, task = axes_of(model), samples_of("nemotron_h"), task_of("nemotron_h")
    counts = {axis.setting: axis.units // 2 for axis in axes.values() if axis.kind in ("ffn", "mamba-head")}
    total = sums(model, [axis for axis in axes.values() if axis.kind != "block"], samples)

    def kept(score: str, total: Any = None) -> dict[str, list[int]]:
        made = shrink_to(model, axes, maker, counts, samples, task, score=score, total=total)
        return {name: units.tolist() for name, units in made.chosen.kept.items()}

    ways = {how: kept(how) for how in ("default", "activation", "magnitude")}
    for name, units in ways["default"].items():
        assert units == ways["magnitude" if axes[name].kind == "ffn" else "activation"][name]
    assert any(ways["activation"][n] != ways["magnitude"][n] for n in ways["default"] if axes[n].kind == "ffn")
    assert kept("default", total) == kept("activation", total) == ways["activation"]


def test_in_one_call() -> None:
    model, samples = model_of("llama"), samples_of("llama")
    found = shrink(model, samples, "causal-lm", to=0.6)
    assert found.after == sum(p.numel() for p in found.model.parameters())
    assert abs(found.after - 0.6 * found.before) < 0.03 * 0.6 * found.before
    fewer = shrink(model, samples, "causal-lm", ffn=8, layers=2, score="magnitude")
    assert (fewer.model.config.intermediate_size, fewer.model.config.num_hidden_layers) == (8, 2)
    with pytest.raises(ConfigError, match=r"heads: this model has none that can be cut; it has ffn, width, layers"):
        shrink(model, samples, "causal-lm", heads=2)
    with pytest.raises(ConfigError, match=r"1\.5 of \d+ parameters cannot stay"):
        shrink(model, samples, "causal-lm", to=1.5)
    with pytest.raises(ConfigError, match="nothing to cut"):
        shrink(model, samples, "causal-lm", ffn=24)


@pytest.mark.parametrize("how", ["ablation", "attribution"])
def test_samples_without_a_label_do_not_move_a_score(how: str) -> None:
    model = model_of("llama")
    samples = samples_of("llama").take(np.array([1, 3, 4, 5]))  # of as many tokens each
    axis = next(a for a in axes_of(model).values() if a.kind == "block")
    idle = Samples(np.tile(samples.features[:1], (30, 1)), np.full((30, 9), IGNORED))
    both = Samples(np.concatenate([idle.features, samples.features]), np.concatenate([idle.labels, samples.labels]))
    found, wanted = (score(model, axis, one, CausalLM(), how) for one in (both, samples))
    np.testing.assert_allclose(found, wanted, rtol=1e-9)
