"""The twin: same outputs, the shared vector in and out, refresh, merge."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies
from torch import Tensor, nn

from dictpfl.client.model.build import build_model
from dictpfl.client.model.rules import Role
from dictpfl.client.model.twin import Twin, make_dictionaries, merge, settings_with, weight_matrices
from dictpfl.client.model.twin import decompose as _decompose
from dictpfl.common.errors import ConfigError, LayoutError, ModelError
from dictpfl.common.law.dictionary import Dictionary, draw
from dictpfl.common.law.layout import Kind
from dictpfl.common.settings import Decomposition, Model

decompose = partial(_decompose, embeddings="decomposed")


class Text(nn.Module):
    """Embeddings with positions and a padding row, an encoder, a head."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, 16, padding_idx=0)
        self.position = nn.Embedding(6, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True, **options)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=not options)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.embed(x) + self.position(torch.arange(x.shape[1]))
        hidden = self.encoder(hidden, src_key_padding_mask=x == 0)
        # torch's fused encoder puts zeros where the padding is, its slow one does not: leave the padding out.
        return self.head((hidden * (x != 0).unsqueeze(-1)).sum(dim=1))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(40, 16), nn.Linear(16, 40)
        self.out.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.embed(x)))


def built(source: str) -> Callable[[], nn.Module]:
    return lambda: build_model(Model(source=source), (1, 8, 8), 10, seed=3)


def images() -> Tensor:
    return torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def words() -> Tensor:
    x = torch.randint(1, 40, (5, 6), generator=torch.Generator().manual_seed(0))
    x[1, 4:] = 0
    return x


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "mlp": (built("mlp"), images),
    "cnn": (built("cnn"), images),
    "vit_tiny": (built("vit_tiny"), images),
    "text": (Text, words),
    "text-pre-norm": (lambda: Text(norm_first=True), words),
    "tied": (Tied, words),
    "gru": (
        lambda: nn.Sequential(nn.Linear(8, 8), nn.GRU(8, 5, 2, bidirectional=True, batch_first=True)),
        lambda: torch.randn(4, 5, 8),
    ),
    "lstm": (lambda: nn.Sequential(nn.Linear(8, 8), nn.LSTM(8, 3)), lambda: torch.randn(4, 5, 8)),
}
both = pytest.mark.parametrize("orientation", ["paper", "smaller"])
every = pytest.mark.parametrize("kind", MODELS)


def output(module: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        answer = module.eval()(x)
    return answer[0] if isinstance(answer, tuple) else answer


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(1)


def moved(twin: Twin, scale: float = 0.1) -> np.ndarray:
    """Give the twin random shared values (statistics kept positive)."""
    x = twin.read() + scale * np.random.default_rng(0).normal(size=twin.layout.size)
    x[twin.layout.coordinates(Kind.STATISTIC)] = np.abs(x[twin.layout.coordinates(Kind.STATISTIC)])
    twin.load(x)
    return x


# The second call of torch's encoder in evaluation mode takes nested tensors, a prototype that warns.
@pytest.mark.filterwarnings("ignore:.*nested tensors.*:UserWarning")
@both
@every
def test_same_outputs_at_the_start_and_after_merging(kind: str, orientation: str) -> None:
    build, inputs = MODELS[kind]
    model, x = build(), inputs()
    before = copy.deepcopy(model.state_dict())
    twin = decompose(model, rank=3, orientation=orientation)
    for mode in (True, False):
        # With gradients torch's encoder goes its slow path, without them its fused one.
        with torch.set_grad_enabled(mode):
            torch.testing.assert_close(twin.module.eval()(x), model.eval()(x), rtol=1e-5, atol=1e-6, check_layout=False)
    tables = twin.layout.coordinates(Kind.TABLE)
    assert not twin.read()[tables].any()
    dense = {n: t.double().numpy() for n, t in before.items()}
    for e in twin.layout.entries:
        if e.kind is not Kind.TABLE:
            np.testing.assert_array_equal(twin.read()[e.span].reshape(e.shape), dense[e.name])

    moved(twin)
    expected = output(twin.module, x)
    assert not torch.allclose(expected, output(model, x), atol=1e-3)
    plain = merge(twin)
    assert type(plain) is type(model)
    assert list(plain.state_dict()) == list(before)
    assert [n for n, _ in plain.named_parameters()] == [n for n, _ in model.named_parameters()]
    assert [type(m) for m in plain.modules()] == [type(m) for m in model.modules()]
    torch.testing.assert_close(output(plain, x), expected, rtol=1e-4, atol=1e-5)
    plain.requires_grad_(True)
    with torch.enable_grad():
        torch.testing.assert_close(output(plain, x), expected, rtol=1e-4, atol=1e-5)
    for parameter in plain.parameters():
        parameter.data.zero_()
    torch.testing.assert_close(output(twin.module, x), expected)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), "the model that was given is never changed"


@both
@every
def test_refresh_keeps_outputs_and_layout(kind: str, orientation: str) -> None:
    build, inputs = MODELS[kind]
    twin = decompose(build(), rank=3, orientation=orientation)
    x = inputs()
    moved(twin)
    expected, layout = output(twin.module, x), twin.layout
    for refresh in range(3):
        vectors = twin.layout.unflatten(twin.read())
        tables = {e.name: vectors[e.name] for e in layout.entries if e.kind is Kind.TABLE}
        shapes = {
            n: w.shape
            for n, w in weight_matrices(
                build(),
                settings_with(Decomposition(), {"rank": 3, "orientation": orientation, "embeddings": "decomposed"}),
            ).items()
        }
        new = {n: draw(shapes[n], 3, b"s", n, refresh, orientation=orientation) for n in tables}  # type: ignore[arg-type]
        twin.rebase(tables, new)
        assert not twin.read()[layout.coordinates(Kind.TABLE)].any()
        torch.testing.assert_close(output(twin.module, x), expected, rtol=1e-4, atol=1e-5)
        moved(twin)
        expected = output(twin.module, x)
    torch.testing.assert_close(output(twin.merge(), x), expected, rtol=1e-4, atol=1e-5)


def test_many_refreshes_lose_no_bits() -> None:
    twin = decompose(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2)), rank=1)
    start = twin.base("0.weight")
    small, ones = np.full((1, 8), 1e-9), Dictionary(np.ones((8, 1), np.float32), transposed=False)
    twin.rebase({"0.weight": 0 * small}, {"0.weight": ones})
    for _ in range(100):
        twin.rebase({"0.weight": small}, {"0.weight": ones})
    np.testing.assert_allclose(twin.base("0.weight") - start, 1e-7, rtol=1e-6)
    twin.to(dtype=torch.float64)
    weight = twin.module.state_dict()["0.weight"].numpy()
    np.testing.assert_array_equal(weight, twin.base("0.weight"))


def test_refresh_with_another_rank_is_refused() -> None:
    twin = decompose(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2)), rank=2)
    before = twin.read()
    with pytest.raises(ModelError, match=r"rank of the old dictionary \(2\)"):
        twin.rebase({"0.weight": np.zeros((2, 8))}, {"0.weight": draw((8, 8), 3, b"s", "0.weight", 0)})
    with pytest.raises(ModelError, match="not finite"):
        twin.rebase({"0.weight": np.full((2, 8), np.nan)}, {"0.weight": draw((8, 8), 2, b"s", "0.weight", 0)})
    np.testing.assert_array_equal(twin.read(), before)


TWIN = decompose(build_model(Model(source="cnn", options={"width": 4, "depth": 2}), (1, 8, 8), 3, seed=0), rank=2)
VALUES = strategies.floats(0, 100, width=32)


@settings(max_examples=30, deadline=None)
@given(strategies.lists(VALUES, min_size=1, max_size=20))
def test_load_then_read_is_the_identity_on_float32(values: list[float]) -> None:
    x = np.resize(np.array(values), TWIN.layout.size)
    TWIN.load(x)
    np.testing.assert_array_equal(TWIN.read(), x)


def test_load_refuses_what_no_model_should_have() -> None:
    with pytest.raises(LayoutError):
        TWIN.load(np.zeros(3))
    with pytest.raises(ModelError, match="not finite"):
        TWIN.load(np.full(TWIN.layout.size, np.nan))
    with pytest.raises(ModelError, match=r"more than torch\.float32 holds: updates run away"):
        TWIN.load(np.full(TWIN.layout.size, 1e39))
    TWIN.load(np.zeros(TWIN.layout.size))


def test_a_running_variance_never_goes_below_zero() -> None:
    TWIN.load(np.full(TWIN.layout.size, -1.0))
    variances = [TWIN.read()[e.span] for e in TWIN.layout.entries if e.name.endswith("running_var")]
    assert variances
    assert all((v == 0).all() for v in variances)


def test_entries_carry_the_models_own_names() -> None:
    twin = decompose(build_model(Model(), (1, 8, 8), 10, seed=0), rank=8)
    assert [(e.name, e.shape, e.kind) for e in twin.layout.entries] == [
        ("1.weight", (8, 64), Kind.TABLE),
        ("1.bias", (128,), Kind.DENSE),
        ("3.weight", (8, 128), Kind.TABLE),
        ("3.bias", (128,), Kind.DENSE),
        ("5.weight", (10, 128), Kind.DENSE),
        ("5.bias", (10,), Kind.DENSE),
    ]


def test_only_what_is_trained_requires_a_gradient() -> None:
    twin = decompose(build_model(Model(source="vit_tiny"), (1, 8, 8), 10, seed=0), frozen=["norm.*"], local=["head.*"])
    wanted = {id(p) for _, _, p in twin.trainable()}
    assert {id(p) for p in twin.module.parameters() if p.requires_grad} == wanted
    assert {"norm.weight", "norm.bias"}.isdisjoint(n for n, _, _ in twin.trainable())
    assert {"head.weight", "head.bias"} <= {n for n, _, _ in twin.trainable()}
    assert {"head.weight", "head.bias"}.isdisjoint(e.name for e in twin.layout.entries)


def test_local_state_goes_round() -> None:
    model = build_model(Model(source="cnn"), (1, 8, 8), 10, seed=0)
    twin = decompose(model, batch_norm="local", local=["1.*"])
    state = twin.local_state()
    assert set(state) >= {"1.weight", "1.bias", "1.running_mean", "5.running_var"}
    changed = {n: v + 1 for n, v in state.items()}
    twin.load_local_state(changed)
    for name, value in twin.local_state().items():
        np.testing.assert_array_equal(value, changed[name])
    with pytest.raises(ModelError, match="local state"):
        twin.load_local_state({})
    with pytest.raises(ModelError, match="expected shape"):
        twin.load_local_state({n: np.zeros(3) for n in state})


def test_dictionaries_must_fit() -> None:
    model, chosen = build_model(Model(), (1, 8, 8), 10, seed=0), Decomposition()
    made = make_dictionaries(model, chosen, b"")
    with pytest.raises(ModelError, match=r"missing \['3.weight'\]"):
        Twin(model, chosen, {"1.weight": made["1.weight"]})
    with pytest.raises(ModelError, match=r"1\.weight: dictionary of shape"):
        Twin(model, chosen, made | {"1.weight": Dictionary(np.zeros((3, 4), np.float32), transposed=False)})


def test_a_weight_that_is_not_finite_is_refused() -> None:
    model = build_model(Model(), (1, 8, 8), 10, seed=0)
    next(model.parameters()).data[0, 0] = torch.inf
    with pytest.raises(ModelError, match=r"1\.weight"):
        decompose(model)


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"nearest known key is 'decomposition\.rank'"):
        decompose(nn.Linear(8, 8), ranks=3)


def test_a_zero_matrix_gets_a_drawn_dictionary() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))
    nn.init.zeros_(model[0].weight)
    assert decompose(model, rank=2).layout.entries[0].shape == (2, 8)


def test_tied_weights_move_together() -> None:
    twin = decompose(Tied(), rank=3)
    assert [e.name for e in twin.layout.entries] == ["embed.weight", "out.bias"]
    assert twin.module.get_submodule("embed").table is twin.module.get_submodule("out").table
    moved(twin)
    plain = twin.merge()
    assert plain.get_submodule("embed").weight is plain.get_submodule("out").weight


def test_a_weight_that_two_layers_read_the_other_way_round_has_no_table() -> None:
    pytorch_utils = pytest.importorskip("transformers.pytorch_utils")
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), pytorch_utils.Conv1D(8, 8), nn.Linear(8, 4))
    model[2].weight = model[0].weight  # one of them multiplies with it, the other one with what it is transposed
    twin = decompose(model, rank=2)
    moved(twin)
    twin.eval()
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(twin.merge().eval()(x), twin.module(x))
    assert twin.roles["0.weight"] is Role.DENSE


def test_frozen_norms_stay_still_in_training() -> None:
    twin = decompose(build_model(Model(source="cnn"), (1, 8, 8), 10, seed=0), batch_norm="frozen")
    twin.train()
    before = twin.module.state_dict()["1.running_mean"].clone()
    twin.module(images())
    assert torch.equal(twin.module.state_dict()["1.running_mean"], before)
    assert twin.roles["1.running_mean"] is Role.FROZEN_STATISTIC


def test_full_training_has_no_tables() -> None:
    twin = decompose(build_model(Model(source="cnn"), (1, 8, 8), 10, seed=0), enabled=False)
    assert {e.kind for e in twin.layout.entries} == {Kind.DENSE, Kind.STATISTIC}


def test_bfloat16() -> None:
    twin = decompose(build_model(Model(), (1, 8, 8), 10, seed=0).to(torch.bfloat16), rank=2)
    assert twin.module(images().to(torch.bfloat16)).dtype == torch.bfloat16
    twin.load(twin.read())
