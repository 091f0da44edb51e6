"""A teacher in a deployment: in each bundle beside W0, and none but the one that genesis names."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save

from dictpfl.client.folder import TEACHER
from dictpfl.client.institution import Institution
from dictpfl.client.model.build import build_model
from dictpfl.common.errors import BundleError
from dictpfl.common.settings import Model
from dictpfl.deploy import teaching
from dictpfl.deploy.ceremony import authority
from dictpfl.deploy.ceremony.asking import say_issued
from dictpfl.deploy.units import human_bytes
from tests.deploy.ceremony.test_refusals import refused, resealed
from tests.support.ceremonies import NAMES, PASSPHRASES, Ceremony

MODEL = Model(source="mlp", options={"hidden": [9]})


@pytest.fixture
def ceremony(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ceremony:
    def read(_: object, shape: tuple[int, ...], outputs: int) -> tuple[torch.nn.Module, Model]:
        return build_model(MODEL, shape, outputs, seed=8).eval(), MODEL

    monkeypatch.setattr(teaching, "_read", read)
    return Ceremony.found(tmp_path / "world", training__task="distillation", distillation__teacher="somewhere")


def test_every_institution_gets_it_and_trains_by_it(ceremony: Ceremony) -> None:
    expected = build_model(MODEL, (6,), 3, seed=8).state_dict()
    for name in NAMES:
        ceremony.join(name)
        ceremony.give_data(name)
        home = Institution(ceremony.home(name))._keys.home
        held = load((home / TEACHER).read_bytes())
        assert all(torch.equal(held[key], tensor) for key, tensor in expected.items())
    ceremony.hand_over()
    ceremony.run(NAMES)
    assert len({ceremony.state(name).digest for name in NAMES}) == 1
    assert ceremony.state(NAMES[0]).updates > 0


def test_its_size_is_said_before_bundles_are_sent(ceremony: Ceremony, capsys: pytest.CaptureFixture[str]) -> None:
    kept = authority.kept(ceremony.authority, PASSPHRASES["authority"])
    issued = authority.Issued(ceremony.handout(), kept.genesis, kept.table, kept.members, kept.app, len(kept.teacher))
    say_issued(issued)
    said = capsys.readouterr().out
    whole = issued.bundle("berlin").stat().st_size
    assert 0 < len(kept.teacher) < whole
    assert f"({human_bytes(whole)}, of which the teacher {human_bytes(len(kept.teacher))})" in said.replace("\n", "")
    say_issued(dataclasses.replace(issued, teacher=0))
    assert "teacher" not in capsys.readouterr().out


def test_a_rotation_hands_it_on(ceremony: Ceremony) -> None:
    kept = authority.kept(ceremony.authority, PASSPHRASES["authority"])
    assert load(kept.teacher).keys() == build_model(MODEL, (6,), 3, seed=8).state_dict().keys()


@pytest.mark.parametrize("change", ["another", "none", "damaged"])
def test_another_or_none_is_refused(ceremony: Ceremony, change: str) -> None:
    other = save(build_model(MODEL, (6,), 3, seed=9).state_dict())
    data = {"another": other, "none": None, "damaged": other[:20]}[change]
    resealed(ceremony, {}, {TEACHER: data})
    refused(ceremony, "berlin", (BundleError, "wrong-bundle"), "teacher")


def test_one_that_genesis_does_not_name_is_refused(tmp_path: Path) -> None:
    plain = Ceremony.found(tmp_path / "plain")
    resealed(plain, {}, {TEACHER: save({"a": torch.zeros(2)})})
    refused(plain, "berlin", (BundleError, "wrong-bundle"), "holds a teacher")
