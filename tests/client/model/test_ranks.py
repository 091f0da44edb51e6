"""Ranks are decided by who founds a federation, from shapes and spectra; everybody else has the dictionaries."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dictpfl.client.model.build import build_model
from dictpfl.client.model.rules import Role, survey
from dictpfl.client.model.twin import Twin, make_dictionaries
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError, ModelError
from dictpfl.common.law.facts import Facts
from dictpfl.common.settings import Decomposition, Model
from dictpfl.deploy.exports.adapter import make_adapter
from dictpfl.deploy.exports.finished import Finished
from dictpfl.deploy.simulation.simulate import simulate


class Energy:
    """Gives each weight the rank that holds 40 % of its energy; counts how often it is asked."""

    asked = 0
    most = 10**6

    def ranks(self, facts: Facts, rank: int) -> Mapping[str, int]:
        Energy.asked += 1
        assert Energy.asked <= Energy.most, "an institution asked for ranks"
        return {name: self._rank(facts.spectra[name]) for name in facts.shapes}

    @staticmethod
    def _rank(values: np.ndarray) -> int:
        energy = np.cumsum(values**2) / np.sum(values**2)
        return int(np.searchsorted(energy, 0.4)) + 1


class Lazy:
    """Looks at no spectrum."""

    def ranks(self, facts: Facts, rank: int) -> Mapping[str, int]:
        assert set(facts.spectra) == set(facts.shapes)
        return dict.fromkeys(facts.shapes, rank)


class Forgetful:
    """Leaves a weight out."""

    def ranks(self, facts: Facts, rank: int) -> Mapping[str, int]:
        return dict.fromkeys(list(facts.shapes)[1:], rank)


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Energy, "asked", 0)


def settings(kind: type) -> Decomposition:
    return Decomposition(rank=2, allocator=f"{__name__}:{kind.__name__}")


def model() -> nn.Module:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(12, 10), nn.Linear(10, 10), nn.Linear(10, 2))
    with torch.no_grad():
        module[0].weight.copy_(torch.outer(torch.arange(1.0, 11), torch.ones(12)))  # all its energy in one direction
    return module


def test_an_allocator_sees_spectra() -> None:
    made = make_dictionaries(model(), settings(Energy), bytes(32))
    assert Energy.asked == 1
    weight = model()[1].weight.detach().double().numpy()
    energy = np.cumsum(np.linalg.svd(weight, compute_uv=False) ** 2)
    wanted = int(np.searchsorted(energy / energy[-1], 0.4)) + 1
    assert (made["0.weight"].rank, made["1.weight"].rank) == (1, wanted)
    assert wanted > 1


def test_spectra_are_computed_only_for_who_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np.linalg, "svd", pytest.fail)
    assert survey(model(), settings(Lazy))["0.weight"] is Role.TABLE


def test_weights_without_a_spectrum_are_refused() -> None:
    module = model()
    module[1].weight.data[0, 0] = torch.nan
    with pytest.raises(ModelError, match=r"'1\.weight' has no singular values"):
        make_dictionaries(module, settings(Energy), bytes(32))


def test_every_weight_needs_a_rank() -> None:
    with pytest.raises(ConfigError, match=r"decomposition\.allocator: .*missing \['0\.weight'\]"):
        make_dictionaries(model(), settings(Forgetful), bytes(32))


def test_roles_follow_from_the_dictionaries() -> None:
    made = make_dictionaries(model(), settings(Energy), bytes(32))
    del made["1.weight"]
    twin = Twin(model(), settings(Energy), made)
    assert Energy.asked == 1
    assert (twin.roles["0.weight"], twin.roles["1.weight"]) == (Role.TABLE, Role.DENSE)


def test_with_uniform_ranks_a_lost_dictionary_is_missed() -> None:
    module, chosen = build_model(Model(), (1, 8, 8), 10, seed=0), Decomposition()
    made = make_dictionaries(module, chosen, bytes(32))
    lost = dict(list(made.items())[1:])
    with pytest.raises(ModelError, match=r"missing \['1\.weight'\]"):
        Twin(module, chosen, lost)


class Frugal:
    """Gives each weight the largest rank that costs at most 20 values."""

    def ranks(self, facts: Facts, rank: int) -> Mapping[str, int]:
        return {name: max(r for r in range(1, 20) if r == 1 or facts.values(name, r) <= 20) for name in facts.shapes}


@pytest.mark.parametrize(
    ("form", "orientation", "expected"), [("table", "paper", 1), ("table", "smaller", 2), ("core", "paper", 4)]
)
def test_an_allocator_knows_what_a_rank_costs(form: str, orientation: str, expected: int) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(20, 8), nn.Linear(8, 2))
    made = make_dictionaries(
        module,
        Decomposition(form=form, orientation=orientation, allocator=f"{__name__}:Frugal"),
        bytes(32),  # type: ignore[arg-type]
    )
    assert {name: d.rank for name, d in made.items()} == {"0.weight": expected}


@pytest.mark.parametrize(("rank", "shape"), [(4, (4, 4)), (10, (10, 10)), (32, (10, 10))])
def test_a_core_costs_its_rank_squared_whatever_the_weight(rank: int, shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(300, 10), nn.Linear(10, 2))
    twin = Twin(module, chosen := Decomposition(form="core", rank=rank), make_dictionaries(module, chosen, bytes(32)))
    assert twin.roles["0.weight"] is Role.TABLE
    assert next(e.shape for e in twin.layout.entries if e.name == "0.weight") == shape


@pytest.mark.parametrize(("rank", "role"), [(9, Role.TABLE), (10, Role.DENSE), (32, Role.DENSE)])
def test_a_core_as_large_as_its_weight_does_not_pay(rank: int, role: Role) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 2))
    assert survey(module, Decomposition(form="core", rank=rank))["0.weight"] is role


@pytest.mark.usefixtures("quiet")
def test_institutions_and_exports_never_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = FederationConfig.of(
        {
            "federation": {"rounds": 1},
            "data": {"limit": 90},
            "training": {"steps": 1},
            "decomposition": {"allocator": f"{__name__}:Energy"},
        }
    )
    simulate(
        config, tmp_path / "run", engine="local", on_founded=lambda _: monkeypatch.setattr(Energy, "most", Energy.asked)
    )
    assert 1 <= Energy.asked <= 3
    finished = Finished.load(tmp_path / "run")
    ranks = {d.rank for d in finished.genesis.dictionaries.values()}
    assert len(ranks) > 1
    make_adapter(finished, finished.merged())
