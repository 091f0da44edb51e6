"""Built-in models, users' models, and starting weights from a file."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from dictpfl.client.model.build import build_model, load_weights
from dictpfl.common.errors import ConfigError, ModelError
from dictpfl.common.settings import Model


def build(source: str, shape: tuple[int, ...] = (1, 8, 8), seed: int = 1, **options: Any) -> nn.Module:
    return build_model(Model(source=source, options=options), shape, 10, seed)


@pytest.mark.parametrize(
    ("source", "shape"),
    [
        ("mlp", (1, 8, 8)),
        ("mlp", (30,)),
        ("cnn", (1, 8, 8)),
        ("cnn", (3, 1, 1)),
        ("cnn", (3, 28, 28)),
        ("vit_tiny", (1, 8, 8)),
        ("vit_tiny", (3, 28, 28)),
        ("vit_tiny", (1, 7, 7)),
        ("tabular", (30,)),
        ("tabular", (2, 5)),
    ],
)
def test_outputs_and_seeds(source: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(9)
    state = torch.random.get_rng_state()
    one, same, other = build(source, shape), build(source, shape), build(source, shape, seed=2)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert one.eval()(torch.randn(2, *shape)).shape == (2, 10)
    for (name, p), q, r in zip(one.named_parameters(), same.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)
        assert torch.equal(p, r) == (not p.any() or bool((p == 1).all())), name


def test_the_mlp_of_the_measurements() -> None:
    shapes = [tuple(p.shape) for p in build("mlp").parameters()]
    assert shapes == [(128, 64), (128,), (128, 128), (128,), (10, 128), (10,)]


def test_a_feature_of_a_table_is_a_token() -> None:
    model = build("tabular", (3,), dim=8, depth=1).eval()
    row = torch.tensor([[0.5, -2.0, 3.0]])
    seen: list[torch.Tensor] = []
    model.get_submodule("blocks").register_forward_pre_hook(lambda _module, given: seen.append(given[0]))
    model(row)
    scale, shift, first = (model.get_parameter(n)[0] for n in ("feature_scale", "feature_shift", "cls_token"))
    wanted = [first[0], *(float(row[0, j]) * scale[j] + shift[j] for j in range(3))]
    assert torch.allclose(seen[0][0], torch.stack(wanted))
    assert not torch.allclose(model(row), model(row.flip(1))), "which feature has which value does not matter to it"


def test_patches() -> None:
    assert build("vit_tiny").get_parameter("pos_embed").shape == (1, 17, 64)
    assert build("vit_tiny", (1, 28, 28)).get_parameter("pos_embed").shape == (1, 50, 64)
    assert build("vit_tiny", patch=4).get_parameter("pos_embed").shape == (1, 5, 64)


@pytest.mark.parametrize(
    ("source", "shape", "options", "match"),
    [
        ("cnn", (30,), {}, "needs images"),
        ("vit_tiny", (30,), {}, "needs images"),
        ("vit_tiny", (1, 8, 8), {"patch": 3}, "must divide"),
        ("vit_tiny", (1, 8, 8), {"heads": 5}, "must divide"),
        ("tabular", (8,), {"heads": 5}, "must divide"),
        ("tabular", (8,), {"heads": 0}, "of 'tabular'"),
        ("tabular", (8,), {"dim": "wide"}, "dim = 'wide'; expected a whole number"),
        ("mlp", (8,), {"hidden": 16}, "hidden = 16; expected a list of whole numbers"),
        ("mlp", (8,), {"hidden": [16, 8.5]}, r"hidden = \[16, 8.5\]; expected a list of whole numbers"),
        ("mlp", (8,), {"hiden": [3]}, "hiden"),
        ("resnet", (8,), {}, "unknown; known: cnn, mlp"),
        ("no_such_module:f", (8,), {}, "cannot load"),
    ],
)
def test_what_cannot_be_built(source: str, shape: tuple[int, ...], options: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        build(source, shape, **options)


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("a_users_models")
    monkeypatch.setitem(sys.modules, "a_users_models", module)
    return module


def test_a_users_model(own: types.ModuleType) -> None:
    def make(sample_shape: tuple[int, ...], outputs: int, bias: bool = True) -> nn.Module:
        return nn.Linear(sample_shape[0], outputs, bias=bias)

    own.make = make  # type: ignore[attr-defined]
    assert build("a_users_models:make", (7,), bias=False).weight.shape == (10, 7)
    with pytest.raises(ConfigError, match="bias = 'no'; expected true or false"):
        build("a_users_models:make", (7,), bias="no")

    def one(sample_shape: int, outputs: float, bias: object = True) -> nn.Module:  # what nobody wrote is not held
        return nn.Linear(sample_shape[0], outputs, bias=bias)  # type: ignore[index, arg-type]

    own.make = one  # type: ignore[attr-defined]
    assert build("a_users_models:make", (7,), bias=0).weight.shape == (10, 7)
    own.make = lambda **_: "no module"  # type: ignore[attr-defined]
    with pytest.raises(ModelError, match=r"returned str; expected a torch\.nn\.Module"):
        build("a_users_models:make")

    def broken(**_: Any) -> nn.Module:
        layer = nn.Linear(2, 2)
        nn.init.constant_(layer.bias, float("nan"))
        return layer

    own.make = broken  # type: ignore[attr-defined]
    with pytest.raises(ModelError, match="not finite in bias"):
        build("a_users_models:make")


def test_weights_from_a_file(tmp_path: Path) -> None:
    path, model = tmp_path / "w.safetensors", build("cnn", seed=5)
    save_file(model.state_dict(), path)
    loaded = build_model(Model(source="cnn", weights=str(path)), (1, 8, 8), 10, seed=6)
    for a, b in zip(model.state_dict().values(), loaded.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    save_file({n: t for n, t in model.state_dict().items() if "tracked" not in n}, path)
    load_weights(build("cnn"), path)


def test_tied_weights_from_a_file(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False))
    model[1].weight = model[0].weight
    save_file({"1.weight": torch.ones(5, 3)}, tmp_path / "w")
    load_weights(model, tmp_path / "w")
    assert bool((model[0].weight == 1).all())


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        ({"weight": torch.zeros(2, 3)}, r"missing \['bias'\]"),
        ({"weight": torch.zeros(2, 3), "bias": torch.zeros(2), "b": torch.zeros(1)}, r"unexpected \['b'\]"),
        ({"weight": torch.zeros(2, 4), "bias": torch.zeros(2)}, r"shape \(2, 4\), the model \(2, 3\)"),
        ({"weight": torch.full((2, 3), torch.inf), "bias": torch.zeros(2)}, "not finite in weight"),
    ],
)
def test_weights_that_do_not_fit(tmp_path: Path, tensors: dict[str, torch.Tensor], match: str) -> None:
    save_file(tensors, tmp_path / "w")
    model = nn.Linear(3, 2)
    before = model.weight.detach().clone()
    with pytest.raises(ModelError, match=match):
        load_weights(model, tmp_path / "w")
    assert torch.equal(model.weight, before)


def test_unreadable_weights(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"nothing of the kind")
    for name in ("w", "absent"):
        with pytest.raises(ModelError, match="cannot read weights"):
            load_weights(nn.Linear(3, 2), tmp_path / name)
