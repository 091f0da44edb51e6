"""Influence by layer against what the formulas say, in float64 and with every gradient formed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from dictpfl.client.compress.influence import gathering
from dictpfl.client.compress.influence import layers as measuring
from dictpfl.client.compress.influence.gathering import gather
from dictpfl.client.compress.influence.layers import Measure, layer_influence
from dictpfl.client.compress.influence.solvers import influence, score
from dictpfl.client.compress.influence.tables import tables_of
from dictpfl.client.data.samples import IGNORED, PADDING, Samples
from dictpfl.client.model.gates import Gates, outgoing_norms
from dictpfl.client.model.networks.mlp import mlp
from dictpfl.client.model.networks.vit import VitTiny
from dictpfl.client.model.sparse.weights import covered
from dictpfl.client.model.tokens.install import reduce_tokens, reduction_of
from dictpfl.client.model.twin import Twin, decompose, make_dictionaries
from dictpfl.client.training.calling import forward, tensors_of
from dictpfl.client.training.task import Task, load_task
from dictpfl.common.errors import ConfigError, DataError, ModelError
from dictpfl.common.settings import Decomposition

TASK = load_task("classification")
RNG = np.random.default_rng(0)


class Attending(nn.Module):
    """torch's own attention, whose packed weight no hook sees."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.norm, self.head = nn.LayerNorm(6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mixed, _ = self.attention(x, x, x, need_weights=False)
        out: torch.Tensor = self.head(self.norm(x + mixed).mean(dim=1))
        return out


def grouped() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1, groups=2),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 6, 3, stride=2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(24, 3),
    )


MODELS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "mlp": (
        lambda: nn.Sequential(nn.Linear(5, 7), nn.ReLU(inplace=True), nn.Linear(7, 7), nn.Tanh(), nn.Linear(7, 3)),
        (5,),
    ),
    "convolutions": (grouped, (4, 6, 6)),
    "attention": (Attending, (4, 6)),
}


def made(name: str) -> tuple[nn.Module, Samples, Samples]:
    torch.manual_seed(0)
    build, shape = MODELS[name]
    parts = [Samples(RNG.normal(size=(n, *shape)), RNG.integers(0, 3, n)) for n in (11, 5)]
    return build().double(), parts[0], parts[1]


def gradients(
    model: nn.Module, samples: Samples, parameters: Sequence[nn.Parameter], task: Task = TASK
) -> list[np.ndarray]:
    """Gradients of single samples by autograd, one at a time: (samples, entries) of each parameter."""
    model.eval()
    rows: list[list[np.ndarray]] = []
    for i in range(len(samples)):
        x, y = tensors_of(model, samples.take(np.array([i])))
        loss = task.loss(forward(model, x), y)
        rows.append([g.detach().numpy().reshape(-1) for g in torch.autograd.grad(loss, list(parameters))])
    return [np.array(each) for each in zip(*rows, strict=True)]


def direct(g: np.ndarray, v: np.ndarray, solver: str, damping: float = 0.1) -> np.ndarray:
    """I with H formed, or DataInf's sum of single inverses, vector by vector."""
    n, p = g.shape
    strength = damping * np.mean([np.mean(row**2) for row in g])
    if solver == "exact":
        hessian = sum(np.outer(row, row) for row in g) / n + strength * np.eye(p)
        return np.array([-row @ np.linalg.solve(hessian, v) for row in g])
    moved = sum((v - (row @ v) / (strength + row @ row) * row) / strength for row in g) / n
    return np.array([-row @ moved for row in g])


@pytest.mark.parametrize("solver", ["exact", "datainf"])
@pytest.mark.parametrize("name", list(MODELS))
def test_influence_is_that_of_gradients_formed_one_by_one(name: str, solver: str) -> None:
    model, training, validation = made(name)
    weights = covered(model, ["*weight"])
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = layer_influence(model, training, validation, TASK, weights=weights, measure=Measure(solver))
    parameters = [w.parameter for w in weights.values()]
    own, held = gradients(model, training, parameters), gradients(model, validation, parameters)
    expected: dict[str, np.ndarray] = {}
    squares: dict[str, np.ndarray] = {}
    for weight, g, v in zip(weights.values(), own, held, strict=True):
        expected[weight.block] = expected.get(weight.block, 0.0) + direct(g, v.sum(axis=0), solver)
        squares[weight.block] = squares.get(weight.block, 0.0) + (g**2).sum(axis=1)
    assert list(found.blocks) == list(expected)
    for block, values in expected.items():
        np.testing.assert_allclose(found.blocks[block].influence, values, rtol=1e-8, atol=1e-8 * np.abs(values).max())
        assert found.blocks[block].gradient == pytest.approx(np.sqrt(squares[block]).mean())
    np.testing.assert_allclose(found.samples, sum(expected.values()), rtol=1e-7, atol=1e-7)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("name", list(MODELS))
def test_inner_products_without_gradients_are_the_same(name: str) -> None:
    model, training, validation = made(name)
    formed = layer_influence(model, training, validation, TASK)
    with mock.patch.object(measuring, "_FORMED", 0), mock.patch.object(measuring, "_room", return_value=1):
        unformed = layer_influence(model, training, validation, TASK)
    for block, one in formed.blocks.items():
        np.testing.assert_allclose(unformed.blocks[block].influence, one.influence, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("form", ["table", "core"])
@pytest.mark.parametrize("orientation", ["paper", "smaller"])
@pytest.mark.parametrize("name", list(MODELS))
def test_influence_through_tables_is_that_of_the_tables_gradients(name: str, orientation: str, form: str) -> None:
    model, training, validation = made(name)
    settings = Decomposition(orientation=orientation, form=form, head="decomposed")  # type: ignore[arg-type]
    twin = decompose(model, rank=2, orientation=orientation, form=form, head="decomposed")
    plain, weights, narrowed = tables_of(twin)
    found = layer_influence(plain, training, validation, TASK, weights=weights, narrowed=narrowed)
    tables = {entry: p for entry, _, p in twin.trainable() if entry in weights}
    assert list(tables) == list(weights)
    assert settings.form == form
    own, held = (gradients(twin.module, some, list(tables.values())) for some in (training, validation))
    expected: dict[str, np.ndarray] = {}
    for weight, g, v in zip(weights.values(), own, held, strict=True):
        expected[weight.block] = expected.get(weight.block, 0.0) + direct(g, v.sum(axis=0), "exact")
    for block, values in expected.items():
        # Dictionaries are float32, and so is what they multiply.
        np.testing.assert_allclose(found.blocks[block].influence, values, rtol=1e-4, atol=1e-4 * np.abs(values).max())


@pytest.mark.parametrize("form", ["table", "core"])
@pytest.mark.parametrize("orientation", ["paper", "smaller"])
def test_influence_through_tables_behind_gates_is_that_of_the_tables_gradients(orientation: str, form: str) -> None:
    """A merged weight holds its gates; its table does not, and moves the less the further its gates have closed."""
    torch.manual_seed(0)
    model = mlp((6,), 3, (8, 5)).double()
    settings = Decomposition(orientation=orientation, form=form, rank=2)  # type: ignore[arg-type]
    gates = Gates(outgoing_norms(model, ["3.weight", "5.weight"]), 0.0, 0.01)
    twin = Twin(model, settings, make_dictionaries(model, settings, bytes(32)), gates)
    twin.load(twin.read() + np.random.default_rng(1).normal(size=twin.layout.size))
    training, validation = (Samples(RNG.normal(size=(n, 6)), RNG.integers(0, 3, n)) for n in (9, 4))
    plain, weights, narrowed = tables_of(twin)
    found = layer_influence(plain, training, validation, TASK, weights=weights, narrowed=narrowed)
    tables = {entry: p for entry, _, p in twin.trainable() if entry in weights}
    assert "3.weight" in tables
    own, held = (gradients(twin.module, some, list(tables.values())) for some in (training, validation))
    for weight, g, v in zip(weights.values(), own, held, strict=True):
        expected = direct(g, v.sum(axis=0), "exact")
        np.testing.assert_allclose(
            found.blocks[weight.block].influence, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max()
        )


def language() -> nn.Module:
    config = transformers.LlamaConfig(
        vocab_size=12,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(config).double().eval()


def test_padding_changes_nothing() -> None:
    model, task = language(), load_task("causal-lm")
    ids = RNG.integers(0, 12, (9, 7))
    short, labels = ids.copy(), ids.copy()
    short[::2, 4:], labels[::2, 4:] = PADDING, IGNORED
    wide = [
        np.pad(part, ((0, 0), (0, 5)), constant_values=fill) for part, fill in ((short, PADDING), (labels, IGNORED))
    ]
    one = layer_influence(model, Samples(short, labels), Samples(ids[:3], ids[:3]), task)
    other = layer_influence(model, Samples(wide[0], wide[1]), Samples(ids[:3], ids[:3]), task)
    parameters = [w.parameter for w in covered(model).values()]
    own, held = (
        gradients(model, Samples(short, labels), parameters, task),
        gradients(model, Samples(ids[:3], ids[:3]), parameters, task),
    )
    expected = sum(direct(g, v.sum(axis=0), "exact") for g, v in zip(own, held, strict=True))
    np.testing.assert_allclose(one.samples, other.samples, rtol=1e-9)
    np.testing.assert_allclose(one.samples, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_wrong_labels_have_the_largest_influence() -> None:
    """The instrument's sign: more weight on a wrong label raises the validation loss."""
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(3, 8)) * 3
    labels = rng.integers(0, 3, 90)
    features = centres[labels] + rng.normal(size=(90, 8))
    wrong = np.zeros(60, dtype=bool)
    wrong[:10] = True
    told = labels.copy()
    told[:10] = (told[:10] + 1) % 3
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3)).double()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(40):
        optimiser.zero_grad()
        TASK.loss(model(torch.tensor(features[:60])), torch.tensor(told[:60])).backward()
        optimiser.step()
    found = layer_influence(model, Samples(features[:60], told[:60]), Samples(features[60:], labels[60:]), TASK).samples
    above = np.mean([found[i] > found[j] for i in np.flatnonzero(wrong) for j in np.flatnonzero(~wrong)])
    assert above > 0.7, "area under the curve"


def test_scores_take_the_part_and_the_share_that_are_asked_for() -> None:
    values = np.array([4.0, -1.0, 3.0, -9.0, 2.0, 1.0, 0.0])
    assert score(values, top=1.0) == 10.0
    assert score(values, top=0.25) == 4.0
    assert score(values, top=0.5) == 7.0
    assert score(values, part="negative", top=0.5) == 9.0
    assert score(values, part="absolute", top=1.0) == 20.0
    assert score(-np.abs(values)) == 0.0
    for top, count, most in ((0.07, 100, 7), (0.14, 50, 7), (0.28, 25, 7), (0.55, 100, 55)):
        assert score(np.ones(count), top=top) == most, "a share is the decimal that is written"


@pytest.mark.parametrize("solver", ["exact", "datainf", "none"])
def test_a_solver_can_be_named_alone(solver: str) -> None:
    model, training, validation = made("mlp")
    named = layer_influence(model, training, validation, TASK, solver=solver)
    measured = layer_influence(model, training, validation, TASK, measure=Measure(solver))
    assert named.scores == measured.scores
    assert (
        layer_influence(model, training, validation, TASK, measure=Measure(solver), solver=solver).scores
        == named.scores
    )
    with pytest.raises(ConfigError, match="solver is 'datainf', and that of measure 'exact'; name one"):
        layer_influence(model, training, validation, TASK, measure=Measure("exact"), solver="datainf")
    with pytest.raises(ConfigError, match="solver is 'newton'; expected one of exact"):
        layer_influence(model, training, validation, TASK, solver="newton")


def test_dead_blocks_score_nothing_and_no_nan() -> None:
    assert influence(np.zeros((3, 3)), np.zeros(3), 5).tolist() == [0.0, 0.0, 0.0]
    model, training, validation = made("mlp")
    with torch.no_grad():
        model.get_parameter("4.weight").zero_()
    found = layer_influence(model, training, validation, TASK, cover=["*.weight"])
    assert found.scores["0"] == 0.0
    assert found.scores["4"] > 0.0


def test_what_it_cannot_measure_is_refused() -> None:
    model, training, validation = made("mlp")
    for own, held, words in (
        (training, validation.take(np.arange(0)), "found 11 and 0"),
        (training.take(np.zeros(1001, dtype=int)), validation, "1,000"),
    ):
        with pytest.raises(DataError, match=words):
            layer_influence(model, own, held, TASK)
    for options, words in (
        ({"solver": "newton"}, "exact, datainf"),
        ({"damping": 0.0}, "above 0"),
        ({"part": "all"}, "positive"),
        ({"top": 0.0}, "share"),
    ):
        with pytest.raises(ConfigError, match=words):
            Measure(**options)
    with pytest.raises(ModelError, match="additive"):
        layer_influence(model, training, validation, load_task("cox"))
    with pytest.raises(ModelError, match=r"no sample reaches 2\.weight"):
        gather(skipping := Skipping().double(), covered(skipping, ["*weight"]), training, TASK)


class Skipping(nn.Sequential):
    """Never calls its last layer."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(5, 4), nn.Linear(4, 3), nn.Linear(3, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self[1](self[0](x))
        return out


class Framed(nn.Module):
    """Reads its samples in parts: frames behind each other, those of one sample together or all first ones before all second ones."""

    def __init__(self, *, frames_first: bool) -> None:
        super().__init__()
        self.patch, self.mix, self.last = nn.Conv2d(1, 4, 2, stride=2), nn.Linear(4, 4), nn.Linear(4, 3)
        self.frames_first = frames_first

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = (x.transpose(0, 1) if self.frames_first else x).flatten(0, 1)
        read = torch.tanh(self.mix(self.patch(parts).flatten(2).transpose(1, 2))).mean(dim=1)
        frames = x.shape[1]
        mean = read.unflatten(0, (frames, -1) if self.frames_first else (-1, frames)).mean(
            dim=0 if self.frames_first else 1
        )
        out: torch.Tensor = self.last(mean)
        return out


@pytest.mark.parametrize("frames_first", [False, True])
def test_samples_that_a_model_reads_in_parts_have_gradients_of_their_own(frames_first: bool) -> None:
    """As clips are, frame by frame, in either order."""
    torch.manual_seed(0)
    model = Framed(frames_first=frames_first).double()
    training, validation = (Samples(RNG.normal(size=(n, 5, 1, 4, 4)), RNG.integers(0, 3, n)) for n in (11, 5))
    weights = covered(model, ["*weight"])
    found = layer_influence(model, training, validation, TASK, weights=weights)
    parameters = [w.parameter for w in weights.values()]
    own, held = gradients(model, training, parameters), gradients(model, validation, parameters)
    assert len(weights) == 3
    for weight, g, v in zip(weights.values(), own, held, strict=True):
        expected = direct(g, v.sum(axis=0), "exact")
        influenced = found.blocks[weight.block].influence
        np.testing.assert_allclose(influenced, expected, rtol=1e-7, atol=1e-8 * np.abs(expected).max())


class Stepped(nn.Module):
    """Reads steps before samples, as torch's own layers do where nothing else is said."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.last = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.last(self.mix(x.transpose(0, 1)).mean(dim=0))
        return out


@pytest.mark.parametrize("count", [16, 6])
def test_steps_before_samples_are_not_taken_for_samples_where_there_are_as_many(count: int) -> None:
    torch.manual_seed(0)
    model, steps = Stepped().double(), min(count, gathering.BATCH)
    training, validation = (Samples(RNG.normal(size=(n, steps, 4)), RNG.integers(0, 3, n)) for n in (count, 5))
    weights = covered(model, ["mix.linear1.weight"])
    (found,) = layer_influence(model, training, validation, TASK, weights=weights).blocks.values()
    parameters = [w.parameter for w in weights.values()]
    (own,), (held,) = gradients(model, training, parameters), gradients(model, validation, parameters)
    expected = direct(own, held.sum(axis=0), "exact")
    np.testing.assert_allclose(found.influence, expected, rtol=1e-7, atol=1e-8 * np.abs(expected).max())


def test_gradients_of_a_bfloat16_model_are_formed_in_float32() -> None:
    """Its inputs and output gradients have 8 bits; their products are not rounded to that again."""
    model, training, validation = made("mlp")
    model = model.bfloat16()
    training, validation = (Samples(s.features.astype(np.float32), s.labels) for s in (training, validation))
    wide = []

    def widened(pairs: Any, of: Any) -> Any:
        wide.append(inner([(x.float(), d.float()) for x, d in pairs], [(x.float(), d.float()) for x, d in of]))
        return inner(pairs, of)

    inner = measuring._inner
    with mock.patch.object(measuring, "_inner", widened):
        found = [*measuring._products(model, covered(model), training, validation, TASK, {})]
    assert len(found) == 2
    for (_, gram, products, _), (k, a, _) in zip(found, wide, strict=True):
        np.testing.assert_array_equal(gram, k)
        np.testing.assert_array_equal(products, a)


@pytest.mark.parametrize("kind", ["texts of several lengths", "curves of several samples"])
def test_samples_that_a_model_reads_in_groups_are_passed_one_by_one(kind: str) -> None:
    """With a reducer of tokens: a text is read with those of its length, an image with those of its curve."""
    torch.manual_seed(0)
    model: nn.Module
    if kind.startswith("texts"):
        sizes = {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 8}
        config = transformers.BertConfig(vocab_size=30, num_labels=3, **sizes)
        model = transformers.BertForSequenceClassification(config).double()
        reduce_tokens(model, "autoprune", keep=0.6)
        ids = np.full((10, 40), PADDING)
        for row, length in enumerate((40, 3, 17, 40, 9, 33, 8, 24, 5, 12)):
            ids[row, :length] = RNG.integers(1, 30, length)
        features, name = ids, "*attention.output.dense.weight"
    else:
        model = VitTiny((1, 8, 8), 3, dim=8, depth=3, patch=1).double()
        features, name = RNG.normal(size=(10, 1, 8, 8)), "*fc1.weight"
        known = torch.tensor(features)
        reduce_tokens(model, "autoprune", keep=0.5, adapt="own", levels=16, gamma="measured", calibration=known)
    parts = Samples(features[:6], RNG.integers(0, 3, 6)), Samples(features[6:], RNG.integers(0, 3, 4))
    weights = covered(model, [name])
    assert len(weights) == 3
    found = layer_influence(model, *parts, TASK, weights=weights)
    own, held = (gradients(model, part, [w.parameter for w in weights.values()]) for part in parts)
    levels = reduction_of(model).told.levels  # type: ignore[union-attr]
    assert kind.startswith("texts") or sum(count > 0 for count in levels) > 1
    for weight, g, v in zip(weights.values(), own, held, strict=True):
        expected = direct(g, v.sum(axis=0), "exact")
        influenced = found.blocks[weight.block].influence
        np.testing.assert_allclose(influenced, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())
