"""Folders, private files and the environment of a party's processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from dictpfl.common.errors import ConfigError, KeyFileError, ProcessError
from dictpfl.common.files import private_files, require_private, secret_file
from dictpfl.deploy.operations.certificates import try_out
from dictpfl.deploy.operations.control import Control, connected, is_up
from dictpfl.deploy.operations.health import free_port
from dictpfl.deploy.operations.institution import enrol
from dictpfl.deploy.operations.places import environment, prepare


def test_folders_are_private(tmp_path: Path) -> None:
    folder = prepare(tmp_path / "party")
    assert {path.stat().st_mode & 0o777 for path in [folder, *folder.iterdir()]} == {0o700}
    assert {path.name for path in folder.iterdir()} == {"run", "logs", "flower"}
    prepare(folder)
    (folder / "run").chmod(0o710)
    with pytest.raises(KeyFileError, match="0710"):
        prepare(folder)


def test_the_environment_of_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "intranet")
    made = environment(tmp_path, heartbeat=10.0, bundle="ab", kind="clientapp", DICTPFL_COORDINATOR="x")
    assert made["FLWR_HOME"] == str(tmp_path / "flower")
    assert made["FLWR_TELEMETRY_ENABLED"] == "0"
    assert made["FLWR_DISABLE_UPDATE_CHECK"] == made["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
    assert made["PYTHONSAFEPATH"] == "1"
    assert made["NO_PROXY"] == "intranet,127.0.0.1,localhost"
    assert made["DICTPFL_COORDINATOR"] == "x"


def test_a_secret_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "x.secret"
    first = secret_file(path).read_bytes()
    assert len(bytes.fromhex(first.decode())) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert secret_file(path).read_bytes() == first
    path.chmod(0o640)
    with pytest.raises(KeyFileError, match="expected 0600"):
        secret_file(path)


@pytest.mark.parametrize(
    ("mode", "good"), [(0o600, True), (0o400, True), (0o640, False), (0o604, False), (0o660, False)]
)
def test_modes(tmp_path: Path, mode: int, good: bool) -> None:
    path = tmp_path / "k.key"
    path.touch()
    path.chmod(mode)
    if good:
        assert require_private(path) == path
    else:
        with pytest.raises(KeyFileError, match=f"mode {mode:04o}.*chmod 600"):
            require_private(path)


def test_a_key_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="No such file"):
        require_private(tmp_path / "k.key")


def test_which_files_are_private(tmp_path: Path) -> None:
    wanted = {"node.key", "epochs/1/federation.key.sealed", "tls/server.key", "run/superexec.secret"}
    for name in wanted | {"node.pub", "ca.pem", "institution.toml"}:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert {str(path.relative_to(tmp_path)) for path in private_files(tmp_path)} == wanted


def test_enrolling_twice_keeps_the_key(institution: Path) -> None:
    public = enrol(institution).read_bytes()
    assert public.startswith(b"ecdsa-sha2-nistp384 ")
    assert enrol(institution).read_bytes() == public
    assert (institution / "node.key").stat().st_mode & 0o777 == 0o600


# the control interface


def test_no_superlink(tmp_path: Path) -> None:
    try_out(tmp_path / "tls", [])
    address, ca = f"127.0.0.1:{free_port()}", tmp_path / "tls" / "ca.pem"
    secret = secret_file(tmp_path / "secret")
    assert not is_up(address, ca, secret)
    with pytest.raises(ProcessError, match="coordinator up"), connected(address, ca, secret) as control:
        control.nodes()
    for keys in ((tmp_path / "none.pem", secret), (ca, tmp_path / "none")):
        with pytest.raises(ProcessError, match="no SuperLink answers"), connected(address, *keys) as control:
            control.nodes()


@pytest.mark.parametrize(
    "text", ["", "hello", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHQvMUl3eWw0d3JqbGdqbGdqbGdqbGdqbGdqbGdqbGdq x"]
)
def test_what_is_no_nodes_key(tmp_path: Path, text: str) -> None:
    path = tmp_path / "clinic.pub"
    path.write_text(text)
    with pytest.raises(ConfigError, match="clinic"):
        Control(None).admit(path)  # type: ignore[arg-type]  # refused before anybody is asked
