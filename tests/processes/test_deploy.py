"""A federation of real processes over TLS: it agrees with the simulation, and survives what kills its processes.

One deployment serves most tests, in order: each adds a round to it and breaks something meanwhile.
"""

from __future__ import annotations

import base64
import http.client
import os
import shutil
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from dictpfl.client.data.samples import Samples
from dictpfl.client.folder import KEY, TRAIN
from dictpfl.client.memory.record import Memory
from dictpfl.common.ckks.keys import load_key
from dictpfl.common.errors import AppBundleError, CertificateError, KeyFileError
from dictpfl.common.files import require_private
from dictpfl.deploy.app.bundle import build, write_app
from dictpfl.deploy.operations import agreed as apps
from dictpfl.deploy.operations import health
from dictpfl.deploy.operations.certificates import require_valid, try_out
from dictpfl.deploy.operations.control import connected
from dictpfl.deploy.operations.institution import require_trusted
from dictpfl.deploy.operations.places import RUN, SECRET
from dictpfl.deploy.operations.status import of_institution
from dictpfl.deploy.operations.superlink import control_token
from dictpfl.deploy.simulation.flower import session
from dictpfl.deploy.simulation.founding import Founded, found
from dictpfl.deploy.simulation.local import run_local
from dictpfl.deploy.simulation.simulate import simulate
from dictpfl.server.agreement import Agreement
from tests.support import ROOT
from tests.support.machines import NGINX, Command, Deployment, config, deployed, free_port, until

pytestmark = pytest.mark.deployment

ROUNDS = 6
VERSION = {"flwr-package-name": "flwr", "flwr-package-version": "1.42.0", "flwr-component-name": "test"}
MADE = config(training__steps=400)  # at work for long enough to be seen at it, several tenths of a second
needs_nginx = pytest.mark.skipif(
    NGINX is None, reason="NO PROXY TESTED: nginx is not installed (apt-get install nginx-light)"
)


class Twin:
    """The same federation played by the local engine, round goal by round goal: the digest to be reached."""

    def __init__(self, folder: Path) -> None:
        self.founded: Founded = found(MADE, folder)
        self.rounds = 0

    def digest(self, rounds: int) -> str:
        self.rounds = rounds
        path = self.founded.coordinator / "federation.json"
        replace(Agreement.load(path), rounds=rounds).save(path)
        run_local(self.founded.coordinator, self.founded.institutions, 3)
        record = Memory(self.founded.home(0) / "memory", self.founded.genesis.federation).recall()
        assert record is not None
        return record.shared.digest.hex()


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Twin:
    return Twin(tmp_path_factory.mktemp("twin") / "federation")


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory, twin: Twin) -> Iterator[Deployment]:
    """Three institutions that have finished six rounds."""
    with deployed(tmp_path_factory.mktemp("deployment"), MADE) as made:
        made.start()
        run = made.run("--rounds", ROUNDS)
        assert run.wait(240) == 0, run.text
        assert set(made.digests()) == {twin.digest(ROUNDS)}
        assert run.text.count('"event": "round"') == ROUNDS + 1
        yield made


def test_six_rounds_equal_the_simulation(deployment: Deployment, twin: Twin, tmp_path: Path) -> None:
    simulated = simulate(MADE, tmp_path / "run", engine="local").summary["state_digest"]
    if twin.rounds == ROUNDS:
        assert set(deployment.digests()) == {simulated}
    sums = deployment.sums()
    assert [sums[number] for number in range(ROUNDS + 1)] == [3] * (ROUNDS + 1)


def killed(deployment: Deployment, twin: Twin, fault: Callable[[], None], seconds: float = 200) -> None:
    """Another round, with something killed while an institution is at work."""
    before, rounds = deployment.rounds(), twin.rounds + 1
    run = deployment.run("--rounds", rounds)
    until(lambda: deployment.busy() is not None, 90, "an institution at work")
    fault()
    assert run.wait(seconds) == 0, run.text
    assert deployment.rounds() == before + 2, "the update and the measurement, each closed once"
    assert set(deployment.digests()) == {twin.digest(rounds)}


def kill(*pids: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_superlink_is_killed(deployment: Deployment, twin: Twin) -> None:
    killed(deployment, twin, lambda: kill(deployment.processes(deployment.coordinator)["superlink"]))


@pytest.mark.nightly
def test_superexec_of_the_coordinator_is_killed(deployment: Deployment, twin: Twin) -> None:
    killed(deployment, twin, lambda: kill(deployment.processes(deployment.coordinator)["superexec"]))


def test_client_app_is_killed_in_the_middle_of_training(deployment: Deployment, twin: Twin) -> None:
    def fault() -> None:
        kill(*deployment.tasks(deployment.home(deployment.busy() or 0)))

    killed(deployment, twin, fault)


@pytest.mark.nightly
def test_supernode_is_killed(deployment: Deployment, twin: Twin) -> None:
    killed(deployment, twin, lambda: kill(deployment.processes(deployment.home(1))["supernode"]))


@pytest.mark.nightly
def test_the_coordinators_machine_goes_down(deployment: Deployment, twin: Twin) -> None:
    def fault() -> None:
        assert deployment.up is not None
        programs = [p for name in ("superlink", "superexec") for p in deployment.children(deployment.coordinator, name)]
        kill(deployment.up.process.pid, *programs)
        deployment.up.process.wait()
        deployment.start_coordinator()

    killed(deployment, twin, fault)


def test_nothing_that_the_coordinator_holds_tells(deployment: Deployment, twin: Twin) -> None:
    institution = deployment.home(0)
    key = load_key(institution / KEY)
    memory = Memory(institution / "memory", deployment.founded.genesis.federation)
    record = memory.recall()
    assert record is not None
    row = np.ascontiguousarray(Samples.load(institution / TRAIN).features[0])
    needles = {
        "secret key": key.secret[200:232],
        "secret key, base64": base64.b64encode(key.secret[198:234])[:32],
        "institution's secret": record.secret,
        "a sample": row.tobytes()[:128],
        "a sample as doubles": row.astype("<f8").tobytes()[:128],
        "model values": record.shared.values[:8].tobytes(),
        "model values, single": record.shared.values[:16].astype("<f4").tobytes(),
        "residual": record.residual.values[record.residual.values != 0][:8].tobytes(),
    }
    assert all(len(set(needle)) > 4 for needle in needles.values()), "too plain to mean anything"
    assert (
        set(needles)
        >= set(search([memory.path, institution / KEY], [], needles))
        >= {"model values", "secret key, base64"}
    )
    assert "a sample" in search([], [os.getpid()], needles), "the search of memory finds what is there"

    run = deployment.run("--rounds", twin.rounds + 1)
    until(lambda: deployment.busy() is not None, 90, "an institution at work")
    assert deployment.up is not None
    pids = [deployment.up.process.pid, *(session(run.process.pid))]
    for program in ("superlink", "superexec"):
        pids += deployment.children(deployment.coordinator, program)
    pids += deployment.proxy_processes()
    assert len(deployment.tasks(deployment.coordinator)) >= 1, "the server app is among them"
    files = [path for path in deployment.coordinator.rglob("*") if path.is_file()]
    files += [deployment.logs / "coordinator.log", deployment.logs / "run.log"]
    assert search(files, pids, needles) == {}
    assert run.wait(200) == 0, run.text
    assert set(deployment.digests()) == {twin.digest(twin.rounds + 1)}
    files = [path for path in deployment.coordinator.rglob("*") if path.is_file()]
    assert search(files, pids[:1], needles) == {}


def search(files: list[Path], pids: list[int], needles: dict[str, bytes]) -> dict[str, str]:
    """Where each needle is found, in files and in the memory of processes."""
    found_in: dict[str, str] = {}
    for path in files:
        data = path.read_bytes()
        found_in |= {name: str(path) for name, needle in needles.items() if needle in data}
    for pid in pids:
        for data in memory_of(pid):
            found_in |= {name: f"memory of {pid}" for name, needle in needles.items() if needle in data}
    return found_in


def memory_of(pid: int) -> Iterator[bytes]:
    """What a process may write to: heap, stacks and anonymous maps."""
    with suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, rights = line.split()[:2]
            start, end = (int(number, 16) for number in span.split("-"))
            if rights.startswith("rw") and "[v" not in line:
                with suppress(OSError, OverflowError), Path(f"/proc/{pid}/mem").open("rb") as memory:
                    memory.seek(start)
                    yield memory.read(end - start)


# what is refused


def test_a_node_that_was_not_admitted(deployment: Deployment, tmp_path: Path) -> None:
    institution = tmp_path / "stranger"
    shutil.copytree(deployment.home(0), institution, ignore=shutil.ignore_patterns("node.*", "run", "logs", "flower"))
    (institution / "node.toml").unlink(missing_ok=True)
    stranger = Command(["institution", "enrol", "--folder", institution], tmp_path / "enrol.log")
    assert stranger.wait(60) == 0, stranger.text
    up = Command(
        [
            "institution",
            "up",
            "--folder",
            institution,
            "--coordinator",
            deployment.address,
            "--port",
            free_port(),
            "--log-json",
        ],
        tmp_path / "stranger.log",
    )
    try:
        until(lambda: "coordinator admit" in up.text, 60, "the refusal")
        assert '"flower_code": 305' in up.text
    finally:
        up.stop()
    assert len(deployment.node_states()) == 3


def test_another_authority(deployment: Deployment, tmp_path: Path) -> None:
    try_out(tmp_path / "tls", [])
    with pytest.raises(CertificateError, match="not signed by the authority"):
        require_trusted(deployment.address, tmp_path / "tls" / "ca.pem")
    require_trusted(deployment.address, deployment.coordinator / "tls" / "ca.pem")


def test_an_expired_certificate(tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    certificate = try_out(folder, [], days=-1)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, folder / "server.key")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection, suppress(OSError):
                context.wrap_socket(connection, server_side=True).close()

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(CertificateError, match="has expired"):
            require_trusted(f"127.0.0.1:{listener.getsockname()[1]}", folder / "ca.pem")
        thread.join()
    with pytest.raises(CertificateError, match="expired on"):
        require_valid(certificate)


@needs_nginx
@pytest.mark.parametrize(
    "path",
    [
        "/v1/control/list-runs",
        "/v1/control/start-run",
        "/v1/runtime/acquire-task",
        "/v1/fleet/../control/list-runs",
        "/v1/fleet/%2e%2e/control/list-runs",
        "/v1/fleet/..%2fcontrol/list-runs",
        "//v1/control/list-runs",
        "/v1/fleet",
        "/openapi.json",
        "/",
    ],
)
def test_only_the_fleet_interface_is_forwarded(deployment: Deployment, path: str) -> None:
    ca = deployment.coordinator / "tls" / "ca.pem"
    assert post(deployment.listen, f"{path}?probe", ca) in {400, 404}
    log = (deployment.coordinator / "logs" / "superlink.log").read_text()
    assert "?probe" not in log, "the SuperLink never saw it"
    assert post(deployment.listen, "/v1/fleet/pull-messages", ca) == 401, "forwarded, and refused without a signature"
    token = control_token((deployment.coordinator / RUN / SECRET).read_bytes())
    assert post(deployment.port, "/v1/control/list-runs", ca) == 401, (
        "on loopback it is there, and wants the run's secret"
    )
    assert post(deployment.port, "/v1/control/list-runs", ca, {"authorization": f"Bearer {token}"}) == 200


def post(port: int, path: str, ca: Path, headers: Mapping[str, str] = MappingProxyType({})) -> int:
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=ssl.create_default_context(cafile=str(ca)))
    connection.putrequest("POST", path, skip_host=False)
    for header, value in {"Content-Type": "application/protobuf", "Content-Length": "0", **VERSION, **headers}.items():
        connection.putheader(header, value)
    connection.endheaders()
    try:
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.parametrize("name", ["node.key", "federation.key"])
def test_a_key_file_that_others_may_read(deployment: Deployment, tmp_path: Path, name: str) -> None:
    institution = tmp_path / "institution"
    shutil.copytree(deployment.home(0), institution, ignore=shutil.ignore_patterns("run", "logs", "flower"))
    (institution / name).chmod(0o640)
    up = Command(["institution", "up", "--folder", institution, "--port", free_port()], tmp_path / "up.log")
    assert up.wait(60) == 1
    assert "expected 0600" in up.text
    assert name in up.text


def test_a_certificate_key_that_others_may_read(tmp_path: Path) -> None:
    try_out(tmp_path / "tls", [])
    (tmp_path / "tls" / "server.key").chmod(0o640)
    with pytest.raises(KeyFileError, match="expected 0600"):
        require_private(tmp_path / "tls" / "server.key")


def test_another_app_bundle(deployment: Deployment, tmp_path: Path) -> None:
    """A coordinator of another release: its institutions answer with the bare code, and say why in their own logs."""
    app = write_app(tmp_path / "dictpfl")
    with (app / "dictpfl" / "server" / "app.py").open("a") as file:
        file.write("# another release\n")
    other = build(app)
    with connected(*deployment.superlink) as control:
        started = control.start(other)  # whoever reaches the control interface may try
        refused = until(
            lambda: next((r for r in control.runs() if r.run == started and r.over), None),
            60,
            "the coordinator's refusal",
        )
    assert "app bundle refused" in refused.details
    with pytest.raises(AppBundleError, match="agreed on was"):
        apps.install_agreed(tmp_path / "home", "00" * 32)

    source = tmp_path / "release"
    shutil.copytree(
        ROOT / "dictpfl", source / "dictpfl", ignore=shutil.ignore_patterns("__pycache__")
    )  # follows the links
    shutil.copy(app / "dictpfl" / "server" / "app.py", source / "dictpfl" / "server" / "app.py")
    assert deployment.up is not None
    deployment.up.stop()
    settings = deployment.coordinator / "coordinator.toml"
    kept = settings.read_bytes()
    settings.write_text("".join(line for line in kept.decode().splitlines(True) if not line.startswith("bundle")))
    changed = Path(deployment.coordinator / "federation.json")
    agreed = changed.read_bytes()
    deployment.start_coordinator(PYTHONPATH=str(source))
    until(deployment.ready, 60, "the other coordinator")
    run = Command(
        ["run", "--folder", deployment.coordinator, "--log-json", "--rounds", 99], tmp_path / "run.log",
        {"PYTHONPATH": str(source)},
    )  # fmt: skip
    try:
        log = deployment.coordinator / "logs" / "superexec.log"
        until(lambda: '"reason": "bundle"' in log.read_text(), 120, "the refusal at the coordinator")
        logs = [deployment.home(index) / "logs" / "superexec.log" for index in range(3)]
        until(
            lambda: all("REFUSED app bundle refused" in log.read_text() for log in logs), 60, "the institutions' words"
        )
        homes = [deployment.home(index) for index in range(3)]
        reason = "bundle: app bundle refused: the one that the coordinator sends is"
        until(lambda: all(of_institution(home)["not_ready"].startswith(reason) for home in homes), 30, "their status")
        assert not all(program.serves for program in health.of(homes[0]))
    finally:
        run.kill()
        deployment.up.stop()
        settings.write_bytes(kept)
        changed.write_bytes(agreed)


@pytest.mark.nightly
def test_an_institution_that_arrives_at_round_four(tmp_path: Path) -> None:
    made = config(federation__participants=4, federation__min_participants=3, federation__rounds=200)
    with deployed(tmp_path, made) as four:
        four.start([0, 1, 2])
        run = four.run()
        until(lambda: four.rounds() >= 4, 180, "rounds 0 to 3 closed")
        four.start_institution(3)
        until(lambda: 4 in four.sums().values(), 300, "a sum of all four")
        drain = four.run("--drain", log="drain.log")
        assert drain.wait(200) == 0, drain.text
        assert run.wait(200) == 0, run.text
        assert four.sums()[0] == 3, "it began without"
        assert len(set(four.digests())) == 1
