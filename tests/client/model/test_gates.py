"""Gates in front of frozen weights: at 1 nothing changes, folded they are the gated twin, and their penalty is the formula."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dictpfl.client.data.samples import Samples
from dictpfl.client.model.gates import Gates, outgoing_norms
from dictpfl.client.model.networks.mlp import mlp
from dictpfl.client.model.twin import Twin, make_dictionaries
from dictpfl.client.training.task import load_task
from dictpfl.client.training.train import train
from dictpfl.common.errors import ModelError
from dictpfl.common.law.layout import Kind
from dictpfl.common.rounds import Pruning
from dictpfl.common.settings import Decomposition, Training

OUTS = ["3.weight", "5.weight"]
SETTINGS = {
    "tables": Decomposition(rank=2),
    "transposed": Decomposition(rank=2, orientation="smaller"),
    "cores": Decomposition(rank=2, form="core"),
    "dense": Decomposition(enabled=False),
    "gates alone": Decomposition(enabled=False, frozen=["*"]),
}


def model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return mlp((6,), 3, (8, 5)).double()


def gated(kind: str, plain: nn.Module, penalty: float = 0.1) -> Twin:
    settings = SETTINGS[kind]
    made = make_dictionaries(plain, settings, bytes(32)) if settings.enabled else {}
    return Twin(plain, settings, made, Gates(outgoing_norms(plain, OUTS), penalty, 0.01))


@pytest.mark.parametrize("kind", SETTINGS)
def test_at_the_start_outputs_are_those_of_the_model(kind: str) -> None:
    plain, x = model(), torch.randn(9, 6, dtype=torch.float64)
    twin = gated(kind, plain)
    assert torch.equal(twin.module(x), plain(x))


@pytest.mark.parametrize("kind", SETTINGS)
@given(seed=st.integers(0, 2**20))
def test_merged_equals_the_gated_twin(kind: str, seed: int) -> None:
    plain, random = model(), np.random.default_rng(seed)
    twin = gated(kind, plain)
    vector = twin.read() + random.normal(size=twin.layout.size)
    twin.load(vector)
    assert np.array_equal(twin.read(), vector)
    x = torch.from_numpy(random.normal(size=(9, 6)))
    merged = twin.merge()
    assert torch.allclose(merged(x), twin.module(x), rtol=1e-12, atol=1e-12)
    assert list(merged.state_dict()) == list(plain.state_dict())
    assert [type(part) for part in merged] == [type(part) for part in plain]
    assert not any(part._forward_pre_hooks for part in merged.modules())


@given(values=st.lists(st.floats(-3, 3), min_size=13, max_size=13))
def test_the_penalty_is_the_sum_in_words(values: list[float]) -> None:
    plain = model()
    twin = gated("gates alone", plain, penalty=0.25)
    twin.load(np.array(values))
    expected = 0.0
    for place, gate in enumerate(values):
        weight, unit = (plain[3].weight, place) if place < 8 else (plain[5].weight, place - 8)
        expected += abs(gate) * sum(float(w) ** 2 for w in weight[:, unit].detach()) ** 0.5
    assert twin.penalty is not None
    assert float(twin.penalty().detach()) == pytest.approx(0.25 * expected, rel=1e-6)


def test_entries_stand_last_and_are_never_pruned() -> None:
    entries = gated("tables", model()).layout.entries
    assert [e.kind for e in entries[-2:]] == [Kind.GATE, Kind.GATE]
    assert Kind.GATE not in {e.kind for e in entries[:-2]}
    assert "gate" not in Pruning.model_json_schema()["properties"]["kinds"]["items"]["enum"]


def test_the_penalty_closes_what_the_task_does_not_need() -> None:
    plain, random = model().float(), np.random.default_rng(3)
    with torch.no_grad():
        plain[3].weight[:, 4:] *= 0.5
    samples = Samples(random.normal(size=(64, 6)).astype(np.float32), random.integers(0, 3, 64))
    found = {}
    for penalty in (0.0, 0.3):
        twin = gated("gates alone", plain, penalty)
        done = train(twin, samples, Training(steps=150, device="cpu"), load_task("classification"), seed=1)
        assert done.steps == 150
        found[penalty] = np.abs(twin.read()).sum()
        assert torch.equal(twin.module[3].weight, plain[3].weight)
    assert found[0.3] < 0.6 * found[0.0]


@pytest.mark.parametrize("names", [["3.bias"], ["4.weight"], ["9.weight"]])
def test_only_linear_weights_have_gates(names: list[str]) -> None:
    with pytest.raises(ModelError, match="plain linear layer"):
        outgoing_norms(model(), names)


def test_the_layout_does_not_depend_on_the_order_of_norms() -> None:
    norms = outgoing_norms(model(), OUTS)
    turned = dict(reversed(norms.items()))
    assert list(turned) != list(norms)
    one, other = (Twin(model(), SETTINGS["gates alone"], {}, Gates(n, 0.1, 0.1)).layout for n in (norms, turned))
    assert one.digest == other.digest


def test_norms_of_another_model() -> None:
    wrong: dict[str, Any] = {"3.weight": np.ones(7, dtype=np.float32)}
    with pytest.raises(ModelError, match="another model"):
        Twin(model(), SETTINGS["gates alone"], {}, Gates(wrong, 0.1, 0.1))
