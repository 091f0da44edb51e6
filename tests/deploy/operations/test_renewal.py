"""A certificate is renewed while all runs; and a folder that has not come so far is told what comes next."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
from typer.testing import CliRunner

from dictpfl.common.errors import CertificateError, ConfigError, IdentityError
from dictpfl.common.files import write_private
from dictpfl.deploy.ceremony.identity import Role, coordinator_signer, make_identity
from dictpfl.deploy.cli import app
from dictpfl.deploy.exports.finished import Finished
from dictpfl.deploy.operations import begun
from dictpfl.deploy.operations.certificates import CA, try_out
from dictpfl.deploy.operations.coordinator import up as coordinator_up
from dictpfl.deploy.operations.institution import enrol
from dictpfl.deploy.operations.institution import up as institution_up
from dictpfl.deploy.operations.places import PROCESSES, RUN
from dictpfl.deploy.operations.renewal import PROXY_ID, Renewal
from dictpfl.deploy.operations.settings import CoordinatorSettings
from dictpfl.deploy.watch.coordinator import CoordinatorWatch


@pytest.fixture
def link(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """What stands for a SuperLink of the folder, which its supervisor would start again."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    write_private(folder / RUN / PROCESSES, json.dumps({"programs": {"superlink": {"pid": process.pid}}}).encode())
    (folder / RUN / PROXY_ID).write_text(f"{process.pid}\n")  # another program has nginx's number by now: left alone
    yield process
    process.kill()
    process.wait()


def test_a_new_certificate_is_served_without_a_person(folder: Path, link: subprocess.Popen[bytes]) -> None:
    try_out(folder / "tls", [], days=10)
    renewal = Renewal(folder, CoordinatorSettings())
    assert not renewal.look()
    assert link.poll() is None
    try_out(folder / "tls", [])  # under the same authority, as the runbook has it
    with structlog.testing.capture_logs() as logs:
        assert renewal.look()
    assert link.wait(10) == -15
    assert not renewal.look()
    (said,) = (line["event"] for line in logs if line["log_level"] == "warning")
    assert "the proxy was not told" in said, "no nginx runs here, and none reads the certificate"
    assert f"nginx -c {folder / 'nginx.conf'} -s reload" in said


def test_one_that_does_not_fit_changes_nothing(folder: Path, link: subprocess.Popen[bytes], tmp_path: Path) -> None:
    try_out(folder / "tls", [])
    renewal = Renewal(folder, CoordinatorSettings())
    other = tmp_path / "other"
    try_out(other, [])
    shutil.copy(other / "server.pem", folder / "tls" / "server.pem")  # its key does not follow
    with pytest.raises(CertificateError, match="do not belong together"):
        renewal.look()
    time.sleep(0.2)
    assert link.poll() is None
    for name in ("server.key", CA):
        shutil.copy(other / name, folder / "tls" / name)
    assert renewal.look()
    assert link.wait(10) == -15


@pytest.mark.parametrize(
    ("days", "said"), [(40, "40 days left"), (10, "10 days left: renew it now"), (-3, "ENDED 3 days ago")]
)
def test_status_says_thirty_days_ahead(coordinator: Path, days: int, said: str) -> None:
    try_out(coordinator / "tls", [], days=days)
    shown = CliRunner().invoke(app, ["status", "--folder", str(coordinator)]).output
    assert f"certificate: {said}" in shown
    assert ("docs/deploy/coordinator.md#a-certificate-expires" in shown) == (days < 30)
    page = CoordinatorWatch(coordinator).view()
    assert any(text.startswith(f"certificate: {said}") for text in page.alarms) == (days < 30)
    (card,) = (card.value for card in page.cards if card.label == "Certificate")
    assert card == ("ended 3 days ago" if days < 0 else f"{days} days left")


def test_before_it_has_joined_an_institution_is_told_so(tmp_path: Path) -> None:
    folder = tmp_path / "institution"
    calls: tuple[Callable[[Path], object], ...] = (begun.role_of, coordinator_up, institution_up, Finished.load)
    for call in calls[:-1]:
        with pytest.raises(ConfigError, match="is no party's folder yet"):
            call(folder)
    make_identity(folder, "berlin", Role.INSTITUTION, b"six random words of berlin")
    before = sorted(folder.rglob("*"))
    for call in calls:
        with pytest.raises(
            ConfigError, match=r"berlin has an identity in .* and has not joined yet.*institution join BUNDLE"
        ):
            call(folder)
    assert sorted(folder.rglob("*")) == before, "nothing was made"


def test_a_coordinator_whose_installation_was_cut_short_is_told_to_install(tmp_path: Path) -> None:
    coordinator_signer(tmp_path)
    with pytest.raises(ConfigError, match=r"is a coordinator's folder without.*coordinator install HALF --folder"):
        begun.role_of(tmp_path)


def test_another_partys_folder_is_named(coordinator: Path, institution: Path) -> None:
    with pytest.raises(ConfigError, match="is a coordinator's folder, expected an institution's"):
        begun.require(coordinator, Role.INSTITUTION)
    with pytest.raises(ConfigError, match="is an institution's folder, expected a coordinator's"):
        begun.require(institution, Role.COORDINATOR)


def test_no_institution_is_made_in_a_coordinators_folder(coordinator: Path) -> None:
    """Who followed the advice about a key that was lost would have removed the coordinator's own `identity.pub`."""
    coordinator_signer(coordinator)
    before = sorted(coordinator.rglob("*"))
    with pytest.raises(IdentityError, match="is the folder of a coordinator; choose another one"):
        make_identity(coordinator, "berlin", Role.INSTITUTION, b"six random words of berlin")
    with pytest.raises(ConfigError, match="is a coordinator's folder, expected an institution's"):
        enrol(coordinator)
    assert sorted(coordinator.rglob("*")) == before, "nothing was made"
