"""`coordinator.toml` and `node.toml`: told once, kept, and rewritten only by who was told something new."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from flwr.common.config import parse_config_args

from dictpfl.common.errors import ConfigError
from dictpfl.deploy.operations import institution as institutions
from dictpfl.deploy.operations import status
from dictpfl.deploy.operations.certificates import try_out
from dictpfl.deploy.operations.places import prepare
from dictpfl.deploy.operations.proxy import write_proxy
from dictpfl.deploy.operations.settings import CoordinatorSettings, NodeSettings


def test_what_is_given_is_kept(tmp_path: Path) -> None:
    assert NodeSettings.updated(tmp_path, coordinator="a:1", port=9999).port == 9999
    again = NodeSettings.updated(tmp_path, coordinator=None, heartbeat=20.0)
    assert (again.coordinator, again.port, again.heartbeat) == ("a:1", 9999, 20.0)
    assert NodeSettings.load(tmp_path) == again
    assert (tmp_path / "node.toml").stat().st_mode & 0o777 == 0o600


def test_a_file_that_says_it_already_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    text = '# ours\ncoordinator = "a:1"\n'
    path.write_text(text)
    NodeSettings.updated(tmp_path, coordinator="a:1", port=None)
    assert path.read_text() == text
    NodeSettings.updated(tmp_path, coordinator="b:2")
    assert NodeSettings.load(tmp_path).coordinator == "b:2"


def test_a_file_may_begin_with_a_byte_order_mark_and_ends_in_no_traceback(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text('coordinator = "a:1"\n', encoding="utf-8-sig")
    assert NodeSettings.load(tmp_path).coordinator == "a:1"
    for endless in ("[" * 9999, "9" * 9999):
        path.write_text(f"port = {endless}\n")
        with pytest.raises(ConfigError, match=r"cannot use .*node\.toml"):
            NodeSettings.load(tmp_path)


def test_a_missing_value_may_be_given_to_a_file_that_lacks_it(tmp_path: Path) -> None:
    (tmp_path / "node.toml").write_text("port = 9999\n")
    with pytest.raises(ConfigError, match="coordinator"):
        NodeSettings.load(tmp_path)
    assert NodeSettings.updated(tmp_path, coordinator="a:1").port == 9999


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("port = 0", "port"),
        ("port = 70000", "port"),
        ("heartbeat = 9", "heartbeat"),
        ("prot = 9091", "prot"),
        ("port", "coordinator.toml"),
        ("\xff", "coordinator.toml"),
    ],
)
def test_what_cannot_be_used_is_refused_and_left_as_it_is(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "coordinator.toml"
    path.write_text(text, encoding="latin-1")
    for read in (CoordinatorSettings.load, CoordinatorSettings.updated):
        with pytest.raises(ConfigError, match=says):
            read(tmp_path)
    assert path.read_text(encoding="latin-1") == text


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="right folder"):
        CoordinatorSettings.updated(tmp_path / "nowhere", port=1)


def test_looking_changes_nothing(coordinator: Path) -> None:
    """Neither a file that is there nor one that is not; a bug that was there once."""
    status.of_coordinator(coordinator)
    assert not (coordinator / "coordinator.toml").exists()
    text = "# ours\nport = 19091\n"
    (coordinator / "coordinator.toml").write_text(text)
    status.of_coordinator(coordinator)
    try_out(coordinator / "tls", [])
    write_proxy(coordinator, "443")
    command = [sys.executable, "-m", "dictpfl.deploy.cli", "status", "--folder", str(coordinator), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["nodes"] is None
    assert (coordinator / "coordinator.toml").read_text() == text
    assert "19091" in (coordinator / "nginx.conf").read_text()


@pytest.mark.parametrize("name", ["Zoë \N{GRINNING FACE}", 'a "ward"', "back\\slash", "\x7f"])
def test_paths_of_any_letters_are_kept_and_told_to_flower(institution: Path, tmp_path: Path, name: str) -> None:
    """JSON's halves of a letter beyond the first 65,536 are none in TOML, and Flower ends a text at the first quotation mark."""
    folder = institution.rename(tmp_path / name)
    ca = str(folder / "ca.pem")
    settings = NodeSettings.updated(folder, coordinator="a:1", ca=ca)
    assert NodeSettings.load(folder) == settings
    node = institutions.programs(prepare(folder), settings)[0].command
    assert parse_config_args([node[node.index("--node-config") + 1]]) == {"institution": str(folder)}
