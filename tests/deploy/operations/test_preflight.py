"""What is wrong with certificates and key files is said before anything is started."""

from __future__ import annotations

import datetime as dt
import os
import re
import shutil
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from dictpfl.common.errors import CertificateError, ConfigError, DictPFLError, KeyFileError
from dictpfl.deploy.operations import coordinator as coordinators
from dictpfl.deploy.operations import institution as institutions
from dictpfl.deploy.operations.certificates import request, try_out
from dictpfl.deploy.operations.checks import deployment_checks
from dictpfl.deploy.operations.institution import enrol, require_trusted
from dictpfl.deploy.operations.preflight import require_certificate, require_own_files


@pytest.fixture(autouse=True)
def started(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Supervisors that would have run, and apps that would have been installed: both stay empty, or hold one."""
    runs: list[object] = []

    class Recorder:
        def __init__(self, *args: object, **options: object) -> None:
            self.args = args

        def run(self) -> None:
            runs.append(self)

    for module in (coordinators, institutions):
        monkeypatch.setattr(module, "Supervisor", Recorder)
    return runs


@pytest.fixture
def ready(coordinator: Path) -> Path:
    """A coordinator that could start."""
    try_out(coordinator / "tls", ["federation.example.org"])
    return coordinator


def test_a_good_coordinator_starts(ready: Path, started: list[object]) -> None:
    coordinators.up(ready)
    assert len(started) == 1


def expired(folder: Path) -> None:
    try_out(folder / "tls", [], days=-1)


def of_another_authority(folder: Path) -> None:
    try_out(folder / "other", [])
    shutil.copy(folder / "other" / "ca.pem", folder / "tls" / "ca.pem")


def of_another_key(folder: Path) -> None:
    request(folder / "other", [])
    shutil.copy(folder / "other" / "server.key", folder / "tls" / "server.key")


def for_another_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dictpfl.deploy.operations.certificates._alternative", _only_outside)
    try_out(folder / "tls", ["federation.example.org"])


def _only_outside(names: list[str]) -> object:
    from cryptography import x509

    return x509.SubjectAlternativeName([x509.DNSName(name) for name in names])


def missing(folder: Path) -> None:
    (folder / "tls" / "server.pem").unlink()


def no_pem(folder: Path) -> None:
    (folder / "tls" / "ca.pem").write_text("hello")


def not_yet(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("dictpfl.deploy.operations.certificates._CLOCKS", dt.timedelta(days=-5))
        try_out(folder / "tls", [])


def open_folder(folder: Path) -> None:
    folder.chmod(0o750)


def no_settings(folder: Path) -> None:
    (folder / "coordinator.toml").write_text("port")


def no_agreement(folder: Path) -> None:
    (folder / "federation.json").write_text("{")


def open_key(folder: Path) -> None:
    (folder / "tls" / "server.key").chmod(0o640)


def open_authority(folder: Path) -> None:
    (folder / "tls" / "ca.key").chmod(0o604)


def open_secret(folder: Path) -> None:
    (folder / "run").mkdir(mode=0o700)
    (folder / "run" / "superexec.secret").write_text("00")
    (folder / "run" / "superexec.secret").chmod(0o660)


REFUSED: list[tuple[Callable[[Path], None], type[DictPFLError], str]] = [
    (expired, CertificateError, "server.pem expired on"),
    (of_another_authority, CertificateError, "not signed by the authority in"),
    (of_another_key, CertificateError, "do not belong together"),
    (missing, CertificateError, "dictpfl certificates"),
    (no_pem, CertificateError, "no certificate in PEM form"),
    (not_yet, CertificateError, "not valid"),
    (open_folder, KeyFileError, "has mode 0750, expected 0700"),
    (no_settings, ConfigError, "coordinator.toml"),
    (no_agreement, ConfigError, "federation.json"),
    (open_key, KeyFileError, "server.key has mode 0640"),
    (open_authority, KeyFileError, "ca.key has mode 0604"),
    (open_secret, KeyFileError, "superexec.secret has mode 0660"),
]


@pytest.mark.parametrize(("break_it", "error", "says"), REFUSED, ids=[case[0].__name__ for case in REFUSED])
def test_a_coordinator_is_refused_before_anything_is_started(
    ready: Path, started: list[object], break_it: Callable[[Path], None], error: type[DictPFLError], says: str
) -> None:
    break_it(ready)
    with pytest.raises(error, match=says):
        coordinators.up(ready)
    assert started == []
    assert not (ready / "flower" / "agreed.fab").exists(), "nothing was installed either"


@pytest.mark.parametrize(
    ("break_it", "says"), [case[::2] for case in REFUSED], ids=[case[0].__name__ for case in REFUSED]
)
def test_the_doctor_names_what_up_refuses(ready: Path, break_it: Callable[[Path], None], says: str) -> None:
    assert [check for check in deployment_checks(ready) if check.ok is False] == []
    break_it(ready)
    found = [check.found for check in deployment_checks(ready) if check.ok is False]
    assert any(re.search(says, text) for text in found), found


@pytest.mark.parametrize("name", ["passphrase", "node.toml"])
def test_the_doctor_names_what_an_institutions_up_refuses(enrolled: Path, name: str) -> None:
    with (enrolled / "institution.toml").open("a") as file:
        file.write('passphrase_file = "passphrase"\n')
    for part, text in (("passphrase", "six random words\n"), ("node.toml", 'coordinator = "a:1"\n')):
        (enrolled / part).touch(mode=0o600)
        (enrolled / part).write_text(text)
    assert [check for check in deployment_checks(enrolled) if check.ok is False] == []
    (enrolled / name).chmod(0o640)
    (enrolled / "node.toml").write_text("port = 0")
    assert any(name in check.found for check in deployment_checks(enrolled) if check.ok is False)


def test_a_certificate_without_loopback(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy could not reach the SuperLink with it."""
    for_another_name(ready, monkeypatch)
    with pytest.raises(CertificateError, match="another name"):
        coordinators.up(ready)
    require_certificate(
        ready / "tls" / "server.pem", ready / "tls" / "server.key", ready / "tls" / "ca.pem", "federation.example.org"
    )


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[Callable[[Path], str]]:
    """A TLS server with the certificate in a folder; returns its address."""
    listeners: list[tuple[socket.socket, threading.Thread]] = []

    def start(folder: Path, host: str = "127.0.0.1") -> str:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "server.pem", folder / "server.key")
        listener = socket.create_server((host, 0))

        def answer() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, suppress(OSError):
                        context.wrap_socket(connection, server_side=True).close()

        thread = threading.Thread(target=answer)
        thread.start()
        listeners.append((listener, thread))
        return f"{host}:{listener.getsockname()[1]}"

    yield start
    for listener, thread in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


@pytest.fixture
def enrolled(institution: Path, tmp_path: Path) -> Path:
    """An institution that could start, and `tmp_path/tls` with its coordinator's certificate."""
    enrol(institution)
    try_out(tmp_path / "tls", [])
    shutil.copy(tmp_path / "tls" / "ca.pem", institution / "ca.pem")
    return institution


def test_a_good_institution_starts(
    enrolled: Path, tmp_path: Path, listening: Callable[[Path], str], started: list[object]
) -> None:
    institutions.up(enrolled, coordinator=listening(tmp_path / "tls"))
    assert len(started) == 1


def test_a_coordinator_that_is_away_is_waited_for(enrolled: Path, started: list[object]) -> None:
    institutions.up(enrolled, coordinator="127.0.0.1:1")
    assert len(started) == 1


def test_an_institution_refuses_an_expired_coordinator(
    enrolled: Path, tmp_path: Path, listening: Callable[[Path], str], started: list[object]
) -> None:
    try_out(tmp_path / "tls", [], days=-1)
    with pytest.raises(CertificateError, match="has expired"):
        institutions.up(enrolled, coordinator=listening(tmp_path / "tls"))
    assert started == []


def test_an_institution_refuses_another_authority(
    enrolled: Path, tmp_path: Path, listening: Callable[[Path], str], started: list[object]
) -> None:
    try_out(tmp_path / "other", [])
    with pytest.raises(CertificateError, match="not signed by the authority in"):
        institutions.up(enrolled, coordinator=listening(tmp_path / "other"))
    assert started == []


def test_an_institution_refuses_another_name(tmp_path: Path, listening: Callable[..., str]) -> None:
    folder = tmp_path / "tls"
    try_out(folder, [])
    with pytest.raises(CertificateError, match="another name"):
        require_trusted(listening(folder, "127.0.0.2"), folder / "ca.pem")


@pytest.mark.parametrize(
    "address", ["example.org", "example.org:https", ":443", "", "https://example.org:443", "a:99999", "a:4²"]
)
def test_an_address_without_port(enrolled: Path, address: str) -> None:
    with pytest.raises(ConfigError, match="HOST:PORT"):
        institutions.up(enrolled, coordinator=address)


@pytest.mark.parametrize("name", ["node.key", "federation.key", "federation.key.sealed", "passphrase"])
def test_key_files_of_an_institution_that_others_may_read(enrolled: Path, started: list[object], name: str) -> None:
    path = enrolled / name
    path.touch()
    path.chmod(0o640)
    with (enrolled / "institution.toml").open("a") as file:
        file.write('passphrase_file = "passphrase"\n')
    (enrolled / "passphrase").touch(mode=0o600)
    with pytest.raises(KeyFileError, match=f"{name} has mode 0640.*expected 0600"):
        institutions.up(enrolled, coordinator="127.0.0.1:1")
    assert started == []


def test_a_folder_that_others_may_enter(enrolled: Path, started: list[object]) -> None:
    enrolled.chmod(0o750)
    with pytest.raises(KeyFileError, match="0750"):
        institutions.up(enrolled, coordinator="127.0.0.1:1")
    assert started == []


def test_own_files_of_any_depth(folder: Path) -> None:
    (folder / "epochs" / "0002").mkdir(parents=True)
    key = folder / "epochs" / "0002" / "federation.key.sealed"
    key.touch(mode=0o600)
    require_own_files(folder)
    key.chmod(0o644)
    with pytest.raises(KeyFileError, match="expected 0600"):
        require_own_files(folder)


def test_root_in_another_user_s_folder_is_warned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files are root's afterwards, and the user's own commands fail on them."""
    if os.geteuid() == 0:
        os.chown(tmp_path, 1000, -1)
    for user, warnings in ((0, 1), (tmp_path.stat().st_uid, 0)):
        monkeypatch.setattr(os, "geteuid", lambda user=user: user)
        with capture_logs() as logs:
            require_own_files(tmp_path)
        assert len([line for line in logs if "another user's folder" in line["event"]]) == warnings
