"""The configuration that a real federation's is filled in from: masks on, and the walk's own is one of its kind."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError
from dictpfl.deploy.ceremony.charter import require_deployable
from dictpfl.deploy.ceremony.cli import authority
from dictpfl.deploy.ceremony.template import template, write_template
from tests.support import ROOT


def test_real_federations_are_offered_masks_and_simulations_are_not(tmp_path: Path) -> None:
    write_template(tmp_path / "federation.toml")
    config = FederationConfig.load(tmp_path / "federation.toml")
    assert config.defences.masks
    require_deployable(config, None)
    assert not FederationConfig.of({}).defences.masks


def test_the_walk_s_configuration_sets_what_the_template_does() -> None:
    page = (ROOT / "docs/deploy/lead.md").read_text(encoding="utf-8")
    blocks = re.search(r"```toml authority federation.toml\n(.*?)```", page, re.DOTALL)
    assert blocks is not None
    shown, offered = tomllib.loads(blocks[1]), tomllib.loads(template())
    assert set(offered["federation"]) == set(shown["federation"])
    assert shown["defences"] == offered["defences"] == {"masks": True}


def test_the_command_writes_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(authority, ["template"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "federation.toml").read_text() == template()
    with pytest.raises(ConfigError, match="exists"):
        write_template(tmp_path / "federation.toml")
    with pytest.raises(ConfigError, match="cannot write"):
        write_template(tmp_path / "nowhere" / "federation.toml")
