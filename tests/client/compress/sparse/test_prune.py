"""Magnitude, Wanda and SparseGPT against the slow versions of their definitions, on every kind of layer."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from torch import Tensor, nn

from dictpfl.client.compress.sparse import sparsegpt
from dictpfl.client.compress.sparse.inputs import Grams, Squares, calibrate
from dictpfl.client.compress.sparse.prune import METHODS, prune
from dictpfl.client.compress.sparse.sequential import parts_of
from dictpfl.client.data.samples import PADDING, Samples
from dictpfl.client.model.sparse.masks import Masks
from dictpfl.client.model.sparse.scores import ranks, wanda
from dictpfl.client.model.sparse.weights import covered
from dictpfl.client.training.calling import forward
from dictpfl.client.training.task import load_task
from dictpfl.common.errors import ConfigError, DataError, ModelError

pytestmark = pytest.mark.usefixtures("quiet")
CLASSES = load_task("classification")


def mlp() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 20), nn.ReLU(), nn.Linear(20, 3))


def points(count: int = 40, width: int = 12) -> Samples:
    draw = np.random.default_rng(2)
    return Samples(draw.normal(size=(count, width)).astype(np.float32), draw.integers(0, 3, count))


def pictures() -> Samples:
    draw = np.random.default_rng(3)
    return Samples(draw.normal(size=(9, 4, 6, 6)).astype(np.float32), draw.integers(0, 3, 9))


def convolutions() -> nn.Module:
    torch.manual_seed(4)
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)
    )  # fmt: skip


class Attending(nn.Module):
    """Torch's own encoder layer, whose kernels take weights past the layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.layer = nn.TransformerEncoderLayer(16, 4, 24, dropout=0.0, batch_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.layer(x).mean(dim=1))
        return out


def sequences() -> Samples:
    draw = np.random.default_rng(6)
    return Samples(draw.normal(size=(9, 5, 16)).astype(np.float32), draw.integers(0, 3, 9))


def llama() -> nn.Module:
    torch.manual_seed(7)
    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        use_cache=False, pad_token_id=0,
    )  # fmt: skip
    model: nn.Module = transformers.LlamaForCausalLM(config)
    return model


def texts() -> Samples:
    ids = np.random.default_rng(8).integers(0, 32, (11, 10))
    ids[::2, 6:] = PADDING
    return Samples(ids, np.where(ids == PADDING, -100, ids))


def gpt2() -> nn.Module:
    torch.manual_seed(9)
    config = transformers.GPT2Config(
        vocab_size=32, n_positions=16, n_embd=16, n_layer=1, n_head=2, use_cache=False, pad_token_id=0
    )
    model: nn.Module = transformers.GPT2LMHeadModel(config)
    return model


SUBJECTS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Samples], str]] = {
    "mlp": (mlp, points, "classification"),
    "convolutions": (convolutions, pictures, "classification"),
    "attention": (Attending, sequences, "classification"),
    "llama": (llama, texts, "causal-lm"),
    "gpt2": (gpt2, texts, "causal-lm"),
}
every_subject = pytest.mark.parametrize("subject", SUBJECTS)


def of(subject: str) -> tuple[nn.Module, Samples, Any]:
    model, samples, task = SUBJECTS[subject]
    return model().eval(), samples(), load_task(task)


@given(
    hnp.arrays(
        np.float64,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=7),
        elements=st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.5]),
    )
)
def test_ranks_are_those_of_the_double_loop(scores: NDArray[np.float64]) -> None:
    n, m = scores.shape
    slow = [
        [sum(scores[i, k] <= scores[i, j] for k in range(m)) * (scores[i, j] > 0) for j in range(m)] for i in range(n)
    ]
    assert np.array_equal(ranks(scores), slow)


def test_covered_weights_are_those_that_tables_would_take_and_patterns_change_it() -> None:
    model = mlp()
    assert list(covered(model)) == ["0.weight", "2.weight"]  # the head is not
    assert list(covered(model, cover=["*"])) == ["0.weight", "2.weight", "4.weight"]
    assert list(covered(model, keep=["2.*"])) == ["0.weight"]
    assert not any(
        "embed" in name or "head" in name or "norm" in name for name in covered(llama(), cover=["model.layers*"])
    )
    with pytest.raises(ConfigError, match="matches no weight"):
        covered(model, cover=["nowhere"])
    with pytest.raises(ModelError, match="no weight of this model is covered"):
        covered(model, keep=["*"])
    frozen = mlp().requires_grad_(requires_grad=False)
    with pytest.raises(ModelError, match=r"no weight of this model is covered; name some by --cover.* 0\.weight"):
        covered(frozen)
    assert list(covered(frozen, cover=["2.*"])) == ["2.weight"]


def inputs_by_hand(subject: str, model: nn.Module, samples: Samples) -> dict[str, Tensor]:
    """(groups, tokens, m) of some weights, written out."""
    x = torch.from_numpy(samples.features)
    if subject == "mlp":
        return {"0.weight": x[None], "2.weight": model[:2](x)[None]}  # type: ignore[index]
    if subject == "convolutions":
        first = F.unfold(x, 3, padding=1).transpose(1, 2).reshape(1, -1, 36)
        hidden = model[:2](x)  # type: ignore[index]
        halves = [F.unfold(half, 3, stride=2).transpose(1, 2).reshape(-1, 36) for half in hidden.chunk(2, dim=1)]
        return {"0.weight": first, "2.weight": torch.stack(halves)}
    if subject == "attention":
        layer: Any = model.layer
        attention = layer.self_attn
        q, k, v = F.linear(x, attention.in_proj_weight, attention.in_proj_bias).chunk(3, dim=-1)
        q, k, v = (t.reshape(9, 5, 4, 4).transpose(1, 2) for t in (q, k, v))
        mixed = torch.softmax(q @ k.transpose(-1, -2) / 2.0, dim=-1) @ v
        mixed = mixed.transpose(1, 2).reshape(-1, 16)
        after = layer.norm1(x + layer.self_attn.out_proj(mixed).reshape(9, 5, 16)).reshape(-1, 16)
        flat = x.reshape(-1, 16)
        return {
            "layer.self_attn.in_proj_weight": flat.expand(3, -1, -1), "layer.self_attn.out_proj.weight": mixed[None],
            "layer.linear1.weight": after[None], "layer.linear2.weight": layer.activation(layer.linear1(after))[None],
        }  # fmt: skip
    rows: list[Tensor] = []
    inner: Any = model.model.layers[0] if subject == "llama" else model.transformer.h[0]  # type: ignore[index,union-attr]
    for ids in samples.features:  # one sample at a time, so that there is no padding
        real = torch.from_numpy(ids[ids != PADDING])[None]
        if subject == "llama":
            rows.append(inner.input_layernorm(model.model.embed_tokens(real))[0])  # type: ignore[operator,union-attr]
        else:
            wide: Any = model.transformer
            rows.append(inner.ln_1(wide.wte(real) + wide.wpe(torch.arange(real.shape[1])))[0])
    name = "model.layers.0.self_attn.q_proj.weight" if subject == "llama" else "transformer.h.0.attn.c_attn.weight"
    return {name: torch.cat(rows)[None]}


def test_padding_in_front_is_not_seen_either() -> None:
    model, samples, _ = of("llama")
    weights = covered(model)
    found = []
    for before in (False, True):
        # A stable sort moves padding alone.
        order = np.argsort((samples.features[::2] == PADDING) ^ before, axis=1, kind="stable")
        rows = np.take_along_axis(samples.features[::2], order, axis=1)
        squares = Squares()
        calibrate(model, weights, Samples(rows, rows * 0), squares.see)
        found.append(squares)
    assert (rows[:, 0] == PADDING).all()
    assert found[0].tokens == found[1].tokens
    for name, sums in found[0].sums.items():
        np.testing.assert_allclose(sums, found[1].sums[name], rtol=1e-4)


@every_subject
def test_what_is_seen_are_the_inputs(subject: str) -> None:
    model, samples, _ = of(subject)
    weights = covered(model, cover=list(inputs_by_hand(subject, model, samples)))
    before = forward(model, torch.from_numpy(samples.features))
    squares, grams = Squares(), Grams()
    calibrate(model, weights, samples, squares.see)
    calibrate(model, weights, samples, grams.see)
    with torch.no_grad():
        for name, x in inputs_by_hand(subject, model, samples).items():
            wide = x.double()
            np.testing.assert_allclose(squares.sums[name], wide.square().sum(dim=1), rtol=1e-5, atol=1e-8)
            torch.testing.assert_close(grams.sums[name], wide.transpose(1, 2) @ wide, rtol=1e-4, atol=1e-5)
            assert squares.tokens[name] == x.shape[1]
    assert torch.equal(before, forward(model, torch.from_numpy(samples.features)))  # all hooks and kernels as they were


@every_subject
@pytest.mark.parametrize("method", METHODS)
def test_exactly_so_many_stay_and_the_model_is_copied(subject: str, method: str) -> None:
    model, samples, task = of(subject)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    made = prune(model, samples, task, 0.6, method, measure=samples, steps=2)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    total = sum(w.size for w in made.weights.values())
    assert made.masks.total == total
    assert made.masks.kept == total - int(Fraction(6, 10) * total)
    for name, weight in made.weights.items():
        mask = torch.from_numpy(made.masks.by_name[name])
        assert not weight.matrix[~mask].any()
        if method != "sparsegpt":
            stored = weight.as_matrix(state[name])
            assert torch.equal(weight.matrix[mask], stored[mask])
    rest = made.model.state_dict()
    assert all(torch.equal(rest[name], state[name]) for name in state.keys() - made.weights.keys())
    assert made.before is not None
    assert made.after is not None
    assert made.after.loss_sum != made.before.loss_sum
    assert type(made.model) is type(model)


@pytest.mark.parametrize("sequential", [False, True])
def test_wanda_zeroes_the_lowest_of_each_row(sequential: bool) -> None:
    model, samples, task = of("mlp")
    made = prune(model, samples, task, 0.75, "wanda", sequential=sequential)
    x = torch.from_numpy(samples.features)
    pruned: Any = made.model
    second = pruned[:2](x) if sequential else model[:2](x)  # type: ignore[index]
    for name, inputs in (("0.weight", x), ("2.weight", second)):
        weight = model.state_dict()[name].double()
        scores = weight.abs() * inputs.double().norm(dim=0)
        going = weight.shape[1] * 3 // 4
        for row, mask in zip(scores, made.masks.by_name[name], strict=True):
            assert set(np.flatnonzero(~mask)) == set(row.argsort()[:going].tolist())


def test_magnitude_zeroes_the_least_of_each_weight_or_of_all() -> None:
    model, samples, task = of("mlp")
    made = prune(model, samples, task, 0.5, "magnitude")
    for name, mask in made.masks.by_name.items():
        size = np.abs(model.state_dict()[name].numpy())
        assert size[mask].min() >= size[~mask].max()
    together = prune(model, samples, task, 0.5, "magnitude", allocate="global")
    both = [np.abs(model.state_dict()[name].numpy()) for name in together.masks.by_name]
    masks = list(together.masks.by_name.values())
    assert min(s[m].min() for s, m in zip(both, masks, strict=True)) >= max(
        s[~m].max() for s, m in zip(both, masks, strict=True)
    )
    assert together.kept != made.kept


def test_global_wanda_has_one_threshold() -> None:
    model, samples, task = of("mlp")
    made = prune(model, samples, task, 0.5, "wanda", allocate="global")
    squares = Squares()
    weights = covered(model)
    calibrate(model, weights, samples, squares.see)
    scores = {n: wanda(w, squares.norms(n)) for n, w in weights.items()}
    kept = np.concatenate([s[made.masks.by_name[n]] for n, s in scores.items()])
    gone = np.concatenate([s[~made.masks.by_name[n]] for n, s in scores.items()])
    assert kept.min() >= gone.max()


def slow_obs(matrix: Tensor, gram: Tensor, mask: NDArray[np.bool_]) -> Tensor:
    """Optimal brain surgeon, column by column, with the inverse of what is left of the Hessian computed anew each time."""
    w = matrix.double().clone()
    hessian = 2 * gram + 0.01 * (2 * gram).diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    for j in range(w.shape[1]):
        inverse = torch.linalg.inv(hessian[j:, j:])
        for i in range(w.shape[0]):
            if not mask[i, j]:
                w[i, j:] -= w[i, j] / inverse[0, 0] * inverse[0]
                w[i, j] = 0.0
    return w


@pytest.mark.parametrize("width", [9, 150])  # one block, and more than one
def test_sparsegpt_moves_what_stays_as_the_slow_form_does(width: int) -> None:
    draw = torch.Generator().manual_seed(1)
    w, x = torch.randn(3, width, generator=draw), torch.randn(4 * width, width, generator=draw).double()
    gram = x.t() @ x
    moved, mask = sparsegpt.solve(w, gram, 3 * width // 2)
    assert np.count_nonzero(~mask) == 3 * width // 2
    torch.testing.assert_close(moved.double(), slow_obs(w, gram, mask), rtol=1e-5, atol=1e-6)
    given, same = sparsegpt.solve(w, gram, 0, mask=mask)
    assert np.array_equal(mask, same)
    assert torch.equal(given, moved)
    error = ((moved.double() - w.double()) @ x.t()).norm()
    left = ((torch.from_numpy(mask) * w - w).double() @ x.t()).norm()
    assert error < left


def test_sparsegpt_takes_columns_without_input_first() -> None:
    gram = torch.diag(torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=torch.float64))
    moved, mask = sparsegpt.solve(torch.ones(2, 4), gram, 2)
    assert mask.tolist() == [[True, False, True, True]] * 2
    assert torch.equal(moved, torch.from_numpy(mask).float())


def test_sparsegpt_keeps_some_of_more_neighbours_than_a_block_has() -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(500, 400, generator=rng, dtype=torch.float64)
    moved, mask = sparsegpt.solve(torch.randn(3, 400, generator=rng), x.T @ x, 0, pattern=(50, 200))
    assert (mask.reshape(3, 2, 200).sum(axis=2) == 50).all()
    assert torch.equal(moved != 0, torch.from_numpy(mask))


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt"])
def test_two_of_four_stay(method: str) -> None:
    model, samples, task = of("llama")
    made = prune(model, samples, task, method=method, pattern=(2, 4))
    for mask in made.masks.by_name.values():
        assert (mask.reshape(len(mask), -1, 4).sum(axis=2) == 2).all()
    assert made.sparsity == 0.5
    with pytest.raises(ConfigError, match="--keep"):
        prune(model, samples, task, method=method, pattern=(2, 5))


def test_parts_follow_the_order_of_use_and_share_inputs() -> None:
    model, samples, _ = of("llama")
    weights = covered(model, cover=["model.layers*"])
    parts = parts_of(model, weights, samples)
    assert [part.block for part in parts] == ["model.layers.0", "model.layers.1"]
    named = [[w.name.split(".")[-2] for w in group] for group in parts[0].readers]
    assert named == [["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]]


class Twice(nn.Module):
    """One block that runs twice a pass."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layers = nn.ModuleList([nn.Sequential(nn.Linear(12, 12), nn.ReLU())])
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.layers[0](self.layers[0](x)))
        return out


def test_a_block_that_runs_twice_is_calibrated_on_both_runs() -> None:
    model, samples = Twice().eval(), points()
    made = prune(model, samples, CLASSES, 0.5, "wanda")
    x = torch.from_numpy(samples.features)
    both = torch.cat([x, model.layers[0](x)]).double()
    scores = model.layers[0][0].weight.double().abs() * both.norm(dim=0)  # type: ignore[index]
    for row, mask in zip(scores, made.masks.by_name["layers.0.0.weight"], strict=True):
        assert set(np.flatnonzero(~mask)) == set(row.argsort()[:6].tolist())


class Lazy(nn.Module):
    """A layer that no forward pass uses."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle, self.head = nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.used(x))
        return out


@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
def test_what_no_sample_reaches_is_refused(method: str) -> None:
    with pytest.raises(ModelError, match=r"idle\.weight.*--keep"):
        prune(Lazy(), points(), CLASSES, 0.5, method)
    prune(Lazy(), points(), CLASSES, 0.5, method, keep=["idle.weight"])
    with pytest.raises(DataError, match="no calibration samples"):
        prune(mlp(), points().take(np.arange(0)), CLASSES, 0.5, method)


def test_what_contradicts_itself_is_refused() -> None:
    for wrong in (
        {"method": "huge"},
        {"allocate": "odd"},
        {"method": "sparsegpt", "allocate": "global"},
        {"pattern": (2, 4), "allocate": "global"},
        {"pattern": (2, 4), "method": "lua"},
    ):
        with pytest.raises(ConfigError):
            prune(mlp(), points(), CLASSES, 0.5, **wrong)


def test_a_tied_weight_has_one_mask() -> None:
    model: Any = mlp()
    model.insert(2, nn.Linear(16, 16))
    model.insert(3, nn.Linear(16, 16, bias=False))
    model[3].weight = model[2].weight
    made = prune(model, points(), CLASSES, 0.5, "wanda")
    pruned: Any = made.model
    assert "2.weight" in made.masks.by_name
    assert "3.weight" not in made.masks.by_name
    assert pruned[3].weight is pruned[2].weight
    assert made.weights["2.weight"].size == 256


@settings(max_examples=30)
@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)))
def test_masks_survive_packing(mask: NDArray[np.bool_]) -> None:
    masks = Masks({"a": mask, "b": ~mask})
    shape = (mask.shape[0], mask.shape[1])
    again = Masks.unpacked(masks.packed(), {"a": shape, "b": shape})
    assert all(np.array_equal(again.by_name[n], m) for n, m in masks.by_name.items())
    assert again.digest == masks.digest
    assert Masks({"a": ~mask, "b": mask}).digest != masks.digest
    with pytest.raises(DataError, match="damaged"):
        Masks.unpacked({"a": masks.packed()["a"]}, {"a": (shape[0], shape[1] + 8)})


def test_minus_zero_is_no_zero() -> None:
    model: Any = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 2))
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].weight[1, 2] = -0.0
    mask = Masks.of_zeros(covered(model, cover=["0.weight"])).by_name["0.weight"]
    assert np.argwhere(mask).tolist() == [[1, 2]]
