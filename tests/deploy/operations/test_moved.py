"""A folder made by the manual, moved to where a service finds it: its passphrase comes as the service's credential."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import dictpfl.client.keys.vault
from dictpfl.client.folder import InstitutionSettings
from dictpfl.deploy.ceremony.asking import app_here
from dictpfl.deploy.operations import health, readiness
from dictpfl.deploy.operations.certificates import try_out
from dictpfl.deploy.operations.checks import deployment_checks
from dictpfl.deploy.operations.institution import enrol
from dictpfl.deploy.operations.status import of_institution
from tests.support import ROOT, ceremonies
from tests.support.ceremonies import PASSPHRASES, Ceremony
from tests.support.machines import free_port, until


def test_up_starts_from_a_moved_folder_with_a_credential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceremonies, "APP", app_here())
    # The true cost, which a process of its own asks for, whatever other tests of this process have.
    monkeypatch.setattr(dictpfl.client.keys.vault, "_COST", {"iterations": 3, "lanes": 4, "memory_kib": 65536})
    ceremony = Ceremony.found(tmp_path / "home")
    passphrase = ceremony.root / "passphrase"
    passphrase.write_bytes(PASSPHRASES["berlin"] + b"\n")
    passphrase.chmod(0o600)
    ceremony.join("berlin", passphrase_file=passphrase)
    ceremony.give_data("berlin")
    enrol(ceremony.home("berlin"))
    try_out(tmp_path / "tls", [])

    folder, credentials = tmp_path / "var" / "berlin", tmp_path / "credentials"
    folder.parent.mkdir()
    ceremony.home("berlin").rename(folder)
    shutil.copy(tmp_path / "tls" / "ca.pem", folder / "ca.pem")
    credentials.mkdir()
    passphrase.rename(credentials / "dictpfl-passphrase").chmod(0o440)  # as Kubernetes and systemd show it
    assert InstitutionSettings.load(folder).passphrase_file == "../passphrase"  # noqa: S105 -- a file name
    assert not (folder.parent / "passphrase").exists()

    command = [sys.executable, "-m", "dictpfl.deploy.cli", "institution", "up", "--folder", str(folder)]
    command += ["--coordinator", f"localhost:{free_port()}", "--ca", str(folder / "ca.pem"), "--port", str(free_port())]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CREDENTIALS_DIRECTORY": str(credentials)}
    with (tmp_path / "output").open("wb") as output:
        up = subprocess.Popen(command, stdout=output, stderr=output, env=environment)

    def runs() -> bool:
        assert up.poll() is None, (tmp_path / "output").read_text()
        return [one.program for one in health.of(folder) if "serves" in one.found] == ["supernode", "superexec"]

    try:
        until(runs, 90, "both programs run")
        assert readiness.trouble(folder) == of_institution(folder)["not_ready"] == ""
        assert [check.name for check in deployment_checks(folder) if check.ok is False] == ["process"], (
            "the coordinator, which nobody runs here, and no passphrase file that is missing"
        )
    finally:
        up.send_signal(signal.SIGTERM)
        assert up.wait(30) == 0
