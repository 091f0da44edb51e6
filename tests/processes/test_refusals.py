"""What is refused, by the commands and processes that refuse it, and what they say."""

from __future__ import annotations

import shutil
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from dictpfl.common.errors import ProcessError
from dictpfl.deploy.operations.certificates import try_out
from dictpfl.deploy.operations.control import connected
from tests.support.ceremonial import Ceremonial
from tests.support.machines import NGINX, Command, free_port

pytestmark = pytest.mark.deployment


def refused(command: Command, *words: str) -> None:
    """It ends with 1, says these words, and shows no traceback."""
    assert command.wait(60) == 1, command.text
    for word in words:
        assert word in command.text, command.text
    assert "Traceback" not in command.text


def copy_of(world: Ceremonial, name: str, folder: Path) -> Path:
    shutil.copytree(world.home(name), folder, ignore=shutil.ignore_patterns("run", "logs", "flower", "memory"))
    shutil.copy(world.passphrase(name), folder.parent)  # where its institution.toml says
    return folder


def up(folder: Path, tmp_path: Path, coordinator: str) -> Command:
    return Command(
        ["institution", "up", "--folder", folder, "--coordinator", coordinator, "--port", free_port(), "--log-json"],
        tmp_path / "up.log",
    )


# the certificate


def test_another_authority(world: Ceremonial, tmp_path: Path) -> None:
    """An institution that was given another ca.pem does not go on with this coordinator."""
    institution = copy_of(world, "berlin", tmp_path / "institution")
    try_out(tmp_path / "tls", [])
    shutil.copy(tmp_path / "tls" / "ca.pem", institution / "ca.pem")
    refused(up(institution, tmp_path, world.address), "not signed by the authority", "compare it by phone")
    assert not (institution / "run" / "processes.json").exists()


@contextmanager
def presenting(certificate: Path, key: Path, host: str = "127.0.0.1") -> Iterator[str]:
    """A TLS server on this machine; its address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with socket.create_server((host, 0)) as listener:

        def answer() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, suppress(OSError):
                        context.wrap_socket(connection, server_side=True).close()

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield f"{host}:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)


def test_an_expired_certificate_at_the_coordinator_itself(world: Ceremonial, tmp_path: Path) -> None:
    folder = tmp_path / "coordinator"
    folder.mkdir(mode=0o700)
    shutil.copy(world.coordinator / "federation.json", folder)
    try_out(folder / "tls", [], days=-1)
    command = Command(["coordinator", "up", "--folder", folder, "--port", free_port()], tmp_path / "up.log")
    refused(command, "expired on", "dictpfl certificates")


def test_an_expired_certificate_seen_by_an_institution(world: Ceremonial, tmp_path: Path) -> None:
    institution = copy_of(world, "berlin", tmp_path / "institution")
    certificate = try_out(tmp_path / "tls", [], days=-1)
    shutil.copy(tmp_path / "tls" / "ca.pem", institution / "ca.pem")
    with presenting(certificate, tmp_path / "tls" / "server.key") as address:
        refused(up(institution, tmp_path, address), "has expired", "renew it")


def test_a_certificate_for_another_name(world: Ceremonial, tmp_path: Path) -> None:
    institution = copy_of(world, "berlin", tmp_path / "institution")
    tls = world.coordinator / "tls"
    with presenting(tls / "server.pem", tls / "server.key", "127.0.0.2") as address:
        refused(up(institution, tmp_path, address), "is for another name")


# bundles and passphrases


def test_a_bundle_for_somebody_else(world: Ceremonial) -> None:
    before = sorted(world.home("quito").rglob("*"))
    refused(world.join("quito", bundle=world.bundle("berlin")), "sealed for another party", "this one is quito")
    assert sorted(world.home("quito").rglob("*")) == before, "nothing was installed"


@pytest.mark.parametrize("place", [0.2, 0.6, 0.999])
def test_a_tampered_bundle(world: Ceremonial, tmp_path: Path, place: float) -> None:
    data = bytearray(world.bundle("berlin").read_bytes())
    data[int(place * len(data))] ^= 1
    altered = tmp_path / "berlin.bundle"
    altered.write_bytes(data)
    refused(world.join("berlin", bundle=altered), "altered")


def test_a_bundle_that_was_cut_off(world: Ceremonial, tmp_path: Path) -> None:
    half = tmp_path / "berlin.bundle"
    half.write_bytes(world.bundle("berlin").read_bytes()[:-1000])
    refused(world.join("berlin", bundle=half), "cut off")


def test_the_same_bundle_again_changes_nothing(world: Ceremonial) -> None:
    again = world.join("berlin")
    assert again.wait(60) == 0, again.text
    assert "is in epoch 1 already, by this bundle: nothing was changed" in again.text


@pytest.mark.parametrize("command", ["export-state", "join"])
def test_a_wrong_passphrase(world: Ceremonial, tmp_path: Path, command: str) -> None:
    if command == "join":
        institution = copy_of(world, "berlin", tmp_path / "institution")
        shutil.rmtree(institution / "epochs")
        (institution / "institution.toml").unlink()
        arguments: list[object] = [world.bundle("berlin"), "--folder", institution]
    else:
        arguments = [tmp_path / "state", "--folder", world.home("berlin")]
    wrong = world.said("institution", command, *arguments, "--passphrase-file", world.passphrase("oslo"))
    refused(wrong, "passphrase is wrong")
    assert not (tmp_path / "state").exists()
    assert not (tmp_path / "institution" / "epochs").exists()


def test_a_wrong_passphrase_at_the_start(world: Ceremonial, tmp_path: Path) -> None:
    institution = copy_of(world, "berlin", tmp_path / "institution")
    (tmp_path / "berlin.passphrase").write_text("six random words of somebody\n")
    refused(up(institution, tmp_path, world.address), "passphrase is wrong")


# key files


@pytest.mark.parametrize("name", ["node.key", "epochs/0001/federation.key.sealed", "identity.key"])
def test_a_key_file_that_the_group_may_read(world: Ceremonial, tmp_path: Path, name: str) -> None:
    institution = copy_of(world, "berlin", tmp_path / "institution")
    (institution / name).chmod(0o640)
    if name == "node.key":
        refused(up(institution, tmp_path, world.address), "expected 0600", name)
        return
    out = tmp_path / "state"
    command = world.said("institution", "export-state", out, "--folder", institution, "--passphrase-file",
                         world.passphrase("berlin"))  # fmt: skip
    refused(command, "0600", Path(name).name)
    assert not out.exists()


def test_a_passphrase_file_that_the_group_may_read(world: Ceremonial, tmp_path: Path) -> None:
    loose = tmp_path / "passphrase"
    shutil.copy(world.passphrase("berlin"), loose)
    loose.chmod(0o640)
    out = tmp_path / "state"
    command = world.said(
        "institution", "export-state", out, "--folder", world.home("berlin"), "--passphrase-file", loose
    )
    refused(command, "0600 or 0400")


def test_a_certificate_key_that_the_group_may_read(world: Ceremonial, tmp_path: Path) -> None:
    folder = tmp_path / "coordinator"
    folder.mkdir(mode=0o700)
    shutil.copy(world.coordinator / "federation.json", folder)
    try_out(folder / "tls", [])
    (folder / "tls" / "server.key").chmod(0o640)
    command = Command(["coordinator", "up", "--folder", folder, "--port", free_port()], tmp_path / "up.log")
    refused(command, "expected 0600", "server.key")


def test_a_folder_that_the_group_may_enter(world: Ceremonial, tmp_path: Path) -> None:
    institution = copy_of(world, "berlin", tmp_path / "institution")
    institution.chmod(0o750)
    refused(up(institution, tmp_path, world.address), "expected 0700")


# the control interface


@pytest.mark.skipif(NGINX is None, reason="NO PROXY TESTED: nginx is not installed (apt-get install nginx-light)")
def test_the_control_interface_through_the_proxy(world: Ceremonial) -> None:
    """Flower's own client for it: answered on loopback, refused from outside."""
    _, *keys = world.superlink
    with connected(*world.superlink) as control:
        assert {node.name for node in control.nodes()} >= {"berlin", "kyoto"}
    with pytest.raises(ProcessError, match="refuses: HTTP 404"), connected(world.address, *keys) as control:
        control.nodes()
    bundle = (world.coordinator / "flower" / "agreed.fab").read_bytes()
    with pytest.raises(ProcessError, match="refuses: HTTP"), connected(world.address, *keys) as control:
        control.start(bundle)


def test_only_loopback_is_listened_on(world: Ceremonial) -> None:
    """But for the proxy, whose address here is loopback too: nothing of ours is on another interface."""
    pids = [*world.proxy_processes()]
    for folder in (world.coordinator, *(world.home(name) for name in world.nodes)):
        for program in world.processes(folder):
            pids += world.children(folder, program)
    inodes = set()
    for pid in pids:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                inodes.add(str(entry.readlink()).removeprefix("socket:[").rstrip("]"))
    listening = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                listening.append(fields[1].split(":")[0])
    assert len(listening) >= 2, "the SuperLink and the proxy, at least"
    assert set(listening) <= {"0100007F", "0000000000000000FFFF00000100007F"}, "127.0.0.1, once as IPv6 writes it"
