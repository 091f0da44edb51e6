"""Row thresholds: gradients against autograd on the naive form, exact masks, and what learning them is good for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dictpfl.client.compress.sparse.lua import learn_thresholds, ranks_of
from dictpfl.client.compress.sparse.prune import prune
from dictpfl.client.data.samples import Samples
from dictpfl.client.model.sparse import thresholds
from dictpfl.client.model.sparse.select import by_thresholds
from dictpfl.client.model.sparse.thresholds import MaskedLayer
from dictpfl.client.model.sparse.twin import ThresholdTwin
from dictpfl.client.model.sparse.weights import covered
from dictpfl.client.training.calling import forward
from dictpfl.client.training.task import load_task
from dictpfl.client.training.train import evaluate, train
from dictpfl.common.law.sparsity import kept_count
from dictpfl.common.settings import Training
from tests.client.compress.sparse.test_prune import every_subject, of, points

pytestmark = pytest.mark.usefixtures("quiet")


def twin_of(subject: str, sparsity: float = 0.5, dtype: torch.dtype = torch.float64, **options: Any) -> ThresholdTwin:
    model, samples, _ = of(subject)
    weights = covered(model)
    twin = ThresholdTwin(model, weights, ranks_of(model, weights, samples), sparsity, **options)
    twin.to(dtype=dtype)
    return twin


def moved(twin: ThresholdTwin, seed: int = 0) -> ThresholdTwin:
    """Thresholds of all kinds."""
    twin.load(twin.read() + np.random.default_rng(seed).normal(size=twin.layout.size) * 0.3)
    return twin


def scores_of(twin: ThresholdTwin, name: str) -> Tensor:
    layer = next(m for m in twin.module.modules() if isinstance(m, MaskedLayer) and m.threshold_of.name == name)
    return layer.ranks.double() / layer.ranks.shape[1]


@every_subject
def test_gradients_are_those_of_autograd_on_the_naive_form(subject: str) -> None:
    twin = moved(twin_of(subject, temperature=2.0))
    plain, samples, task = of(subject)
    plain.double()
    twin.train()
    for module in (*twin.module.modules(), *plain.modules()):
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    if subject == "gpt2":
        plain.train()
    x, y = torch.from_numpy(samples.features), torch.from_numpy(samples.labels)
    x = x.double() if x.is_floating_point() else x
    named = {name: t.detach().clone().requires_grad_(True) for name, _, t in twin.trainable()}
    weights = covered(plain)
    naive = {}
    for name, t in named.items():
        soft = torch.sigmoid(weights[name].shape[1] / 2.0 * (scores_of(twin, name) - t[:, None]))
        naive[name] = weights[name].as_stored(weights[name].matrix * soft).reshape(plain.get_parameter(name).shape)
    expected = task.loss(functional(plain, naive, x), y)
    found = task.loss(forward(twin.module, x), y)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    ours = torch.autograd.grad(found, [t for _, _, t in twin.trainable()])
    theirs = torch.autograd.grad(expected, list(named.values()))
    assert max(float(g.abs().max()) for g in theirs) > 1e-6
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


def functional(model: nn.Module, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
    from dictpfl.client.training.calling import arguments, logits

    positional, named = arguments(model, x)
    return logits(torch.func.functional_call(model, parameters, positional, named))


def test_the_regulariser_s_gradient_is_the_straight_through_one() -> None:
    for shift in (-0.2, 0.2):  # too many stay, too few
        twin = twin_of("mlp", sparsity=0.5, strength=3.0)
        twin.load(twin.read() + shift)
        twin.train()
        x = torch.from_numpy(points().features).double()
        forward(twin.module, x)
        twin.add_gradients()
        named = {name: t.detach().clone().requires_grad_(True) for name, _, t in twin.trainable()}
        soft = [
            torch.sigmoid(scores_of(twin, n).shape[1] * (scores_of(twin, n) - t[:, None])) for n, t in named.items()
        ]
        hard = [m + (torch.round(m) - m).detach() for m in soft]
        rho = sum(m.sum() for m in hard) / sum(m.numel() for m in hard)
        loss = 3.0 * torch.log(rho / 0.5).abs()  # type: ignore[arg-type]
        for (_, _, t), g in zip(twin.trainable(), torch.autograd.grad(loss, list(named.values())), strict=True):
            torch.testing.assert_close(t.grad, g, rtol=1e-9, atol=1e-12)
            assert bool((g > 0).any() if shift > 0 else (g < 0).any())  # back towards the share that is wanted


@every_subject
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_merged_outputs_are_those_of_evaluation_bit_for_bit(subject: str, dtype: torch.dtype) -> None:
    twin = moved(twin_of(subject, dtype=dtype))
    original, samples, _ = of(subject)
    x = torch.from_numpy(samples.features)
    x = x.to(dtype) if x.is_floating_point() else x
    twin.eval()
    merged = twin.merge().eval()
    with torch.no_grad():
        if subject == "attention":  # torch's own kernels sum in another order
            torch.testing.assert_close(forward(twin.module, x), forward(merged, x), rtol=1e-5, atol=1e-6)
        else:
            assert torch.equal(forward(twin.module, x), forward(merged, x))
    assert [type(m) for m in merged.modules()] == [type(m) for m in original.modules()]
    assert merged.state_dict().keys() == original.state_dict().keys()
    masks = twin.masks()
    for name, weight in covered(merged).items():
        assert np.array_equal(weight.matrix.numpy() != 0, masks.by_name[name])
    assert masks.kept == kept_count(masks.total, 0.5)
    twin.load(twin.read() * 0.9 + 0.01 * np.arange(twin.layout.size) / twin.layout.size)
    with torch.no_grad():
        assert torch.equal(forward(twin.module, x), forward(twin.module, x))
    assert twin.masks().digest != masks.digest


@pytest.mark.parametrize("entries", [1, 1000])
def test_rows_gone_through_at_a_time_change_no_bit(entries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for cached in (1 << 30, entries):
        monkeypatch.setattr(thresholds, "_CACHED", cached)
        twin, (_, samples, task) = moved(twin_of("gpt2", dtype=torch.float32)), of("gpt2")
        for module in twin.module.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        twin.train()
        loss = task.loss(forward(twin.module, torch.from_numpy(samples.features)), torch.from_numpy(samples.labels))
        found.append([loss, *torch.autograd.grad(loss, [t for _, _, t in twin.trainable()])])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


class Products(TorchDispatchMode):
    """Types of the matrices that are multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.types: list[torch.dtype] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
            self.types += [t.dtype for t in args if isinstance(t, Tensor) and t.ndim == 2]
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_product_is_too_small_for_full_precision(dtype: torch.dtype) -> None:
    """Processors multiply subnormal numbers several times slower: a step of SmolLM2 took 28 seconds in place of 5."""
    ranks = torch.arange(1536, dtype=torch.int32).expand(4, -1)
    soft = thresholds.soft_mask(ranks, torch.full((4,), 0.6, dtype=torch.float64), 1.0, dtype)
    weights = torch.full((4, 1536), 1e-4, dtype=dtype)
    small = (soft * weights * weights).abs()
    assert not ((small > 0) & (small < torch.finfo(dtype).tiny)).any()
    # Nothing that full precision shows is lost: sums of what stays are the same.
    exact = torch.sigmoid(ranks.double() - 0.6 * 1536)
    assert torch.allclose(soft.double().sum(dim=1), exact.sum(dim=1), rtol=64 * torch.finfo(dtype).eps)


def test_autocast_holds_in_the_backward_pass_too() -> None:
    def stepped(*, narrow: bool) -> tuple[list[Tensor], list[torch.dtype]]:
        twin, (_, samples, task) = moved(twin_of("llama", dtype=torch.float32)), of("llama")
        twin.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            outputs = forward(twin.module, torch.from_numpy(samples.features))
        loss = task.loss(outputs.float(), torch.from_numpy(samples.labels))
        products = Products()
        with products:
            gradients = torch.autograd.grad(loss, [t for _, _, t in twin.trainable()])
        return list(gradients), products.types

    whole, wide = stepped(narrow=False)
    rough, narrow = stepped(narrow=True)
    assert set(wide) == {torch.float32}
    assert set(narrow) == {torch.bfloat16}
    size = max(float(g.abs().max()) for g in whole)
    assert all(float((one - other).abs().max()) < 0.1 * size for one, other in zip(whole, rough, strict=True))


def test_masks_are_the_same_in_any_dtype_and_after_a_round_trip() -> None:
    narrow, wide = moved(twin_of("llama", dtype=torch.float32)), moved(twin_of("llama", dtype=torch.float64))
    assert narrow.masks().digest == wide.masks().digest
    assert np.array_equal(narrow.read(), wide.read())
    again = twin_of("llama", dtype=torch.float32)
    assert again.masks().digest != narrow.masks().digest
    again.load(narrow.read())
    assert again.masks().digest == narrow.masks().digest


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_exactly_so_many_stay_whatever_the_thresholds(data: st.DataObject) -> None:
    shapes = data.draw(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 6)), min_size=1, max_size=3))
    draw = np.random.default_rng(data.draw(st.integers(0, 1000)))
    every = {str(i): draw.integers(1, m + 1, (n, m)).astype(np.int32) for i, (n, m) in enumerate(shapes)}
    thresholds = {str(i): draw.normal(size=n) * draw.choice([0.1, 10.0, 1e4]) for i, (n, m) in enumerate(shapes)}
    total = sum(n * m for n, m in shapes)
    sparsity = data.draw(st.sampled_from([0.1, 0.5, 0.6, 0.9]))
    if int(sparsity * total) == 0 or total - int(sparsity * total) < len(shapes):
        return
    masks = by_thresholds(every, thresholds, sparsity)
    assert masks.kept == kept_count(total, sparsity)
    assert all(mask.any() for mask in masks.by_name.values())


@pytest.mark.parametrize("sparsity", [0.5, 0.75])
def test_the_start_is_wanda(sparsity: float) -> None:
    model, samples, task = of("mlp")
    weights = covered(model)
    twin = ThresholdTwin(model, weights, ranks_of(model, weights, samples), sparsity)
    uniform = prune(model, samples, task, sparsity, "wanda", sequential=False)
    assert twin.masks().digest == uniform.masks.digest


def test_nothing_but_thresholds_moves() -> None:
    model, samples, task = of("mlp")
    weights = covered(model)
    twin = ThresholdTwin(model, weights, ranks_of(model, weights, samples), 0.5)
    before = twin.read()
    train(twin, samples, Training(steps=3, optimizer="adamw", learning_rate=1e-2), task, seed=1)
    assert not np.array_equal(twin.read(), before)
    assert np.abs(twin.read() - before).max() < 0.05  # AdamW's steps are about its rate
    for name, weight in covered(model).items():
        assert torch.equal(weight.parameter, torch.from_numpy(twin.base(name)).float())


class Words(nn.Module):
    """A language model of 64 words and two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(64, 32)
        self.recurrent = nn.Linear(64, 64)
        self.mixing = nn.Linear(64, 64)
        self.head = nn.Linear(64, 64)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        before = F.pad(x, (0, 0, 1, 0))[:, :-1]
        hidden = torch.relu(self.recurrent(torch.cat([x, before], dim=-1)))
        out: Tensor = self.head(torch.relu(self.mixing(hidden)))
        return out


def language(seed: int) -> tuple[Samples, Samples]:
    """Texts in which a word follows from the last two, mostly."""
    draw = np.random.default_rng(seed)
    table = draw.integers(0, 64, (8, 64))
    rows = np.zeros((160, 24), np.int64)
    rows[:, :2] = draw.integers(0, 64, (160, 2))
    for i in range(2, 24):
        follows = table[rows[:, i - 2] % 8, rows[:, i - 1]]
        rows[:, i] = np.where(draw.random(160) < 0.9, follows, draw.integers(0, 64, 160))
    return Samples(rows[:120], rows[:120]), Samples(rows[120:], rows[120:])


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_learnt_thresholds_beat_uniform_and_shuffled_ones(seed: int) -> None:
    own, held = language(seed)
    task = load_task("causal-lm")
    torch.manual_seed(seed)
    model = Words()
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    x = torch.from_numpy(own.features)
    for _ in range(150):
        optimizer.zero_grad()
        torch.autograd.backward(task.loss(model(x), x))
        optimizer.step()
    weights = covered(model)
    learnt = learn_thresholds(
        model, own, task, 0.7, weights=weights, steps=60, rate=1e-2, training=Training(batch_size=32), seed=seed
    )
    draw = np.random.default_rng(seed)
    shuffled = {name: draw.permutation(t) for name, t in learnt.values.items()}
    losses = {}
    for arm, masks in (
        ("lua", learnt.masks()), ("shuffled", by_thresholds(learnt.every, shuffled, 0.7)),
        ("wanda", prune(model, own, task, 0.7, "wanda", sequential=False).masks),
    ):  # fmt: skip
        made = Words()
        made.load_state_dict(model.state_dict())
        masks.put_on(covered(made))
        losses[arm] = evaluate(made, held, task).loss_sum / len(held)
        assert masks.kept == kept_count(masks.total, 0.7)
    assert losses["lua"] < losses["wanda"]
    assert losses["lua"] < losses["shuffled"]
