"""Which parameter gets which role."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from dictpfl.client.model.build import build_model
from dictpfl.client.model.rules import Role, survey
from dictpfl.client.model.twin import decompose, settings_with
from dictpfl.common.errors import ConfigError, ModelError
from dictpfl.common.settings import Decomposition, Model


def roles(model: nn.Module, **changes: Any) -> dict[str, str]:
    return {n: str(r) for n, r in survey(model, settings_with(Decomposition(), changes)).items()}


def vit() -> nn.Module:
    return build_model(Model(source="vit_tiny", options={"depth": 1, "dim": 32}), (1, 8, 8), 10, seed=0)


def cnn() -> nn.Module:
    return build_model(Model(source="cnn", options={"depth": 2}), (1, 8, 8), 10, seed=0)


class Tied(nn.Module):
    def __init__(self, padding: int | None = None) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, 16, padding_idx=padding)
        self.body = nn.Linear(16, 16)
        self.out = nn.Linear(16, 40, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.body(self.embed(x))))


class Odd(nn.Module):
    """What table layers do not cover."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(32, 32, 3, groups=32)
        self.renormed = nn.Embedding(40, 16, max_norm=1.0)
        self.cross = nn.MultiheadAttention(32, 2, kdim=16)
        self.biased = nn.MultiheadAttention(32, 2, add_bias_kv=True)
        self.lstm = nn.LSTM(32, 32)
        self.plain = nn.MultiheadAttention(32, 2)
        self.wpe = nn.Embedding(30, 32)
        self.rel_pos_table = nn.Parameter(torch.zeros(20, 20))
        self.post_proj = nn.Linear(32, 32)
        self.gamma = nn.Parameter(torch.ones(32))
        self.head = nn.Linear(32, 2)


def test_the_order_is_that_of_the_parameters_then_statistics() -> None:
    model = cnn()
    names = list(roles(model))
    assert names[: len(list(model.parameters()))] == [n for n, _ in model.named_parameters()]
    assert [n for n in names if "running" in n] == [
        "1.running_mean",
        "1.running_var",
        "5.running_mean",
        "5.running_var",
    ]
    assert names[-4:] == ["1.running_mean", "1.running_var", "5.running_mean", "5.running_var"]


def test_defaults_of_a_transformer() -> None:
    found = roles(vit())
    tables = {"blocks.0.qkv.weight", "blocks.0.proj.weight", "blocks.0.fc1.weight", "blocks.0.fc2.weight"}
    assert {n for n, r in found.items() if r == "table"} >= tables
    assert {r for n, r in found.items() if n not in tables | {"patch_embed.weight"}} == {"dense"}


@pytest.mark.parametrize(
    ("switch", "names"),
    [
        (
            "biases",
            {"patch_embed.bias", "blocks.0.qkv.bias", "blocks.0.proj.bias", "blocks.0.fc1.bias", "blocks.0.fc2.bias"},
        ),
        ("norms", {f"{m}.{a}" for m in ("blocks.0.norm1", "blocks.0.norm2", "norm") for a in ("weight", "bias")}),
        ("positions", {"pos_embed"}),
        ("tokens", {"cls_token"}),
    ],
)
def test_switches_freeze(switch: str, names: set[str]) -> None:
    assert {n for n, r in roles(vit(), **{switch: False}).items() if r == "frozen"} == names


@pytest.mark.parametrize(
    ("head", "weight", "bias"),
    [
        ("dense", "dense", "dense"),
        ("frozen", "frozen", "frozen"),
        ("decomposed", "table", "dense"),
    ],
)
def test_head(head: str, weight: str, bias: str) -> None:
    found = roles(vit(), head=head)
    assert (found["head.weight"], found["head.bias"]) == (weight, bias)


def test_what_no_table_covers_is_dense() -> None:
    found = roles(Odd(), embeddings="decomposed")
    dense = (
        "depthwise.weight",
        "renormed.weight",
        "cross.q_proj_weight",
        "cross.out_proj.weight",
        "biased.in_proj_weight",
        "biased.out_proj.weight",
        "wpe.weight",
        "rel_pos_table",
    )
    tables = (
        "plain.in_proj_weight",
        "plain.out_proj.weight",
        "post_proj.weight",
        "lstm.weight_ih_l0",
        "lstm.weight_hh_l0",
    )
    assert {found[n] for n in dense} == {"dense"}
    assert {found[n] for n in tables} == {"table"}
    off = roles(Odd(), embeddings="decomposed", positions=False, tokens=False)
    assert (off["wpe.weight"], off["rel_pos_table"], off["gamma"]) == ("frozen",) * 3
    assert off["post_proj.weight"] == "table"


def test_a_table_as_large_as_its_weight_is_not_worth_it() -> None:
    model = nn.Sequential(nn.Linear(64, 8), nn.Linear(8, 64), nn.Linear(64, 2))
    assert [roles(model, rank=8)[f"{i}.weight"] for i in (0, 1)] == ["dense", "table"]
    assert [roles(model, rank=8, orientation="smaller")[f"{i}.weight"] for i in (0, 1)] == ["table", "table"]
    assert [roles(model, rank=7)[f"{i}.weight"] for i in (0, 1)] == ["table", "table"]


def test_full_and_last_layers() -> None:
    assert set(roles(cnn(), enabled=False).values()) == {"dense", "statistic"}
    found = roles(cnn(), enabled=False, last_layers=1)
    assert {n for n, r in found.items() if r == "dense"} == {"9.weight", "9.bias"}
    assert found["1.running_mean"] == "frozen-statistic"
    found = roles(cnn(), last_layers=2)
    assert {n for n, r in found.items() if r == "dense"} == {f"{m}.{a}" for m in (4, 5, 9) for a in ("weight", "bias")}
    assert (found["1.running_var"], found["5.running_var"]) == ("frozen-statistic", "statistic")
    assert set(roles(cnn(), last_layers=50).values()) == {"dense", "statistic"}


def test_attention_counts_as_one_layer() -> None:
    layer = nn.TransformerEncoderLayer(32, 2, 32, batch_first=True)
    found = roles(layer, last_layers=3)
    assert found["self_attn.in_proj_weight"] == found["self_attn.out_proj.weight"] == "dense"


@pytest.mark.parametrize(
    ("policy", "role"),
    [
        ("shared", "statistic"),
        ("local", "local-statistic"),
        ("frozen", "frozen-statistic"),
    ],
)
def test_batch_norm_policy(policy: str, role: str) -> None:
    found = roles(cnn(), batch_norm=policy)
    assert {r for n, r in found.items() if "running" in n} == {role}
    assert not any("tracked" in n for n in found)


def test_count_of_batches_is_local_where_it_matters() -> None:
    found = roles(nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8, momentum=None)), rank=2)
    assert found["1.num_batches_tracked"] == "local-statistic"


def test_patterns_win_dense_over_local_over_frozen() -> None:
    found = roles(cnn(), frozen=["*"], dense=["9.*"], local=["5.*"])
    assert {n for n, r in found.items() if r == "dense"} == {"9.weight", "9.bias"}
    assert (found["5.weight"], found["5.running_mean"]) == ("local", "local-statistic")
    assert (found["0.weight"], found["1.running_mean"]) == ("frozen", "frozen-statistic")


def test_a_pattern_that_matches_nothing_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"decomposition\.local: pattern 'haed\.weight'.*head\.weight"):
        roles(vit(), local=["haed.weight"])


class Complex(nn.Module):
    """A layer of Fourier operators: its weight is complex."""

    def __init__(self) -> None:
        super().__init__()
        self.spectral = nn.Parameter(torch.ones(5, 5, dtype=torch.complex64))
        self.out = nn.Linear(8, 3)


def test_complex_numbers_are_refused_unless_they_stay() -> None:
    with pytest.raises(ModelError, match="spectral holds complex numbers"):
        survey(Complex(), Decomposition())
    assert roles(Complex(), frozen=["spectral"])["spectral"] == "frozen"


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as below
        return nn.Sequential(torch.jit.script(nn.Linear(8, 8)), nn.Linear(8, 3))


def weight_normed() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch would have its successor used
        return nn.Sequential(nn.utils.weight_norm(nn.Linear(8, 8)), nn.Linear(8, 3))


def pruned() -> nn.Module:
    return nn.Sequential(prune.l1_unstructured(nn.Linear(8, 8), "weight", 0.5), nn.Linear(8, 3))


@pytest.mark.parametrize(
    ("make", "reason"),
    [(scripted, "0 was compiled by torch.jit"), (weight_normed, "weight of 0"), (pruned, "weight of 0")],
)
def test_modules_that_cannot_be_looked_into_or_copied_are_refused(make: Callable[[], nn.Module], reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        decompose(make())


def test_tied_weights() -> None:
    found = roles(Tied(), embeddings="decomposed")
    assert "out.weight" not in found
    assert found["embed.weight"] == "table"
    assert found["body.weight"] == "table"
    assert roles(Tied(padding=0), embeddings="decomposed")["embed.weight"] == "dense"
    assert (roles(Tied())["embed.weight"], roles(Tied(), embeddings="dense")["embed.weight"]) == ("frozen", "dense")
    assert roles(Tied(), dense=["out.weight"])["embed.weight"] == "dense"


def test_nothing_to_share_is_refused() -> None:
    with pytest.raises(ModelError, match="nothing of this model"):
        roles(cnn(), frozen=["*"])
    with pytest.raises(ModelError, match="nothing of this model"):
        roles(nn.Sequential(nn.ReLU()))


def test_subclasses_may_compute_something_else() -> None:
    class Doubled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:  # noqa: A002 -- torch's name
            return 2 * super().forward(input)

    assert survey(nn.Sequential(Doubled(32, 32), nn.Linear(32, 2)), Decomposition())["0.weight"] is Role.DENSE


def test_a_model_without_any_layer_to_cover_works() -> None:
    assert set(roles(nn.Sequential(nn.LSTM(4, 4)), enabled=False).values()) == {"dense"}
    assert set(roles(nn.Sequential(nn.Bilinear(8, 8, 8))).values()) == {"dense"}
