"""Code that a configuration names: said before it runs, refused where the institution says so."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dictpfl.client.folder import InstitutionSettings
from dictpfl.client.institution import Institution, forget_institutions
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError
from dictpfl.deploy.cli import app
from dictpfl.deploy.review.settings import meanings
from tests.support.ceremonies import Ceremony

MODULE = """
import pathlib, torch
(pathlib.Path(__file__).parent / "imported").touch()
def build(sample_shape, outputs):
    return torch.nn.Sequential(torch.nn.Linear(sample_shape[0], 16), torch.nn.ReLU(), torch.nn.Linear(16, outputs))
"""


@pytest.fixture
def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ceremony:
    """A founded federation whose model is code of the consortium's own, in a module that tells when it is imported."""
    place = tmp_path / "code"
    place.mkdir()
    (place / "consortiums_model.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(place))
    monkeypatch.delitem(sys.modules, "consortiums_model", raising=False)
    made = Ceremony.found(tmp_path / "ceremony", model__source="consortiums_model:build", model__options={})
    sys.modules.pop("consortiums_model")
    (place / "imported").unlink()
    return made


def imported(made: Ceremony) -> bool:
    return (made.root.parent / "code" / "imported").exists()


def test_what_is_named_is_told_before_it_is_imported(named: Ceremony) -> None:
    told = []

    def on_code(code: dict[str, str]) -> None:
        told.append((dict(code), imported(named)))

    named.join("berlin", on_code=on_code)
    assert told == [({"model.source": "consortiums_model:build"}, False)]
    assert imported(named)


def test_an_institution_that_wants_none_installs_nothing_and_imports_nothing(named: Ceremony) -> None:
    before = named.files("berlin")
    with pytest.raises(ConfigError, match=r"model\.source = 'consortiums_model:build'.*Nothing of it was imported"):
        named.join("berlin", own_code=False)
    assert not imported(named)
    assert {path: data for path, data in named.files("berlin").items() if "lock" not in path} == before


def test_its_own_file_has_the_last_word_in_every_round(named: Ceremony) -> None:
    named.join("oslo")
    named.give_data("oslo")
    home = named.home("oslo")
    allowed = InstitutionSettings.load(home)
    assert allowed.allowed_code is None
    for codes, refused in ((("consortiums_model:build",), False), (("other:build",), True), ((), True)):
        allowed.model_copy(update={"allowed_code": codes}).save(home)
        assert InstitutionSettings.load(home).allowed_code == codes
        forget_institutions()
        if refused:
            with pytest.raises(ConfigError, match="does not allow"):
                Institution(home)
        else:
            Institution(home)


def test_the_command_says_it_and_takes_no_for_an_answer(named: Ceremony, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["institution", "join", str(named.bundle("kyoto")), "--folder", str(named.home("kyoto"))]
    words += [
        "--authority-fingerprint",
        named.fingerprint,
        "--passphrase-file",
        str(named.home("kyoto") / "passphrase"),
    ]
    monkeypatch.chdir(named.root.parent / "code")
    refused = CliRunner().invoke(app, [*words, "--no-own-code"])
    assert isinstance(refused.exception, ConfigError)
    assert "consortiums_model:build" in str(refused.exception)
    assert not imported(named)
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    before, _, after = done.stdout.partition("model.source = 'consortiums_model:build'")
    assert "not dictpfl's" in before
    assert "joined epoch 1" in after


def test_only_what_is_imported_counts() -> None:
    quiet = FederationConfig.of({"model": {"source": "timm:resnet18", "options": {"a": "b:c"}}}, {})
    assert quiet.own_code == {}
    loud = FederationConfig.of(
        {
            "model": {"source": "torch.hub:load"},
            "training": {"task": "a.b:C"},
            "tallies": {"opening": ["classes", "t:f"]},
        },
        {},
    )
    assert loud.own_code == {"model.source": "torch.hub:load", "training.task": "a.b:C", "tallies.opening": "t:f"}


@pytest.mark.parametrize("name", ["transformers:pipeline", "timm:create_model", "modèle:Tâche", "ω:Task"])
def test_code_of_a_library_is_code_where_no_model_is_named(name: str) -> None:
    """`transformers:pipeline` as a task, with the name of a repository in its options, runs whatever lies there."""
    config = FederationConfig.of({"training": {"task": name}, "model": {"source": "transformers:bert"}}, {})
    assert config.own_code == {"training.task": name}


def test_the_review_page_has_a_line_for_each() -> None:
    config = FederationConfig.of({"training": {"task": "hospital.tasks:Sepsis"}}, {})
    (line,) = [each for each in meanings(config, None) if each.value == "hospital.tasks:Sepsis"]
    assert (line.name, line.mark) == ("training.task", "caution")
    assert "with the rights of the account" in line.meaning
