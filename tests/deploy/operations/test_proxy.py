"""The proxies' configurations, each in the real program before a recorder in place of a SuperLink."""

from __future__ import annotations

import grp
import http.client
import os
import pwd
import re
import shutil
import signal
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from dictpfl.common.errors import ConfigError
from dictpfl.deploy.operations import proxy
from dictpfl.deploy.operations.certificates import try_out
from dictpfl.deploy.operations.health import free_port
from dictpfl.deploy.operations.metrics import CoordinatorMetrics, served
from dictpfl.deploy.operations.proxy import ProxyKind, command, write_proxy
from dictpfl.deploy.operations.settings import CoordinatorSettings
from tests.support import ROOT
from tests.support.machines import until
from tools import chart

PATH = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"


def test_a_mistyped_folder_stays_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        write_proxy(tmp_path / "nowhere", "443")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match="make certificates first"):
        write_proxy(tmp_path, "443")
    assert list(tmp_path.iterdir()) == []


@dataclass
class Front:
    """A proxy that runs, and what came through."""

    port: int
    ca: Path
    seen: list[tuple[str, str, str, int]]

    def ask(self, method: str, path: str, body: bytes = b"", sni: str = "localhost") -> int:
        context = ssl.create_default_context(cafile=str(self.ca))
        connection = http.client.HTTPSConnection(sni, self.port, context=context, timeout=30)
        try:
            connection.putrequest(method, path, skip_accept_encoding=True)
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders()
            with suppress(BrokenPipeError, ConnectionResetError, ssl.SSLError):
                connection.send(body)
            return connection.getresponse().status
        finally:
            connection.close()


@pytest.fixture(scope="module", params=list(ProxyKind))
def front(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    program = shutil.which(request.param, path=PATH)
    if program is None:
        pytest.skip(f"{request.param} is not installed (apt-get install {request.param})")
    folder = tmp_path_factory.mktemp("proxy") / "coordinator"
    folder.mkdir(mode=0o700)
    try_out(folder / "tls", [])
    seen: list[tuple[str, str, str, int]] = []

    class Recorder(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            seen.append((self.command, self.path, self.headers["Host"], len(body)))
            self.send_response(299)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST = do_PUT = answer  # noqa: N815  names that the library calls

        def log_message(self, *_: object) -> None:
            pass

    upstream = ThreadingHTTPServer(("127.0.0.1", 0), Recorder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "tls" / "server.pem", folder / "tls" / "server.key")
    upstream.socket = context.wrap_socket(upstream.socket, server_side=True)
    thread = threading.Thread(target=upstream.serve_forever)
    thread.start()
    CoordinatorSettings.updated(folder, port=upstream.server_address[1])
    port = free_port()
    written = write_proxy(folder, f"127.0.0.1:{port}", request.param)
    more = ["-p", str(folder / "run"), "-c", str(written), "-g", "daemon off;"]
    if request.param is ProxyKind.CADDY:
        more = ["run", "--adapter", "caddyfile", "--config", str(written)]
    with (folder / "logs" / "output").open("wb") as output:
        process = subprocess.Popen(
            [program, *more], stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            env=os.environ | {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)},
        )  # fmt: skip
    made = Front(port, folder / "tls" / "ca.pem", seen)
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                made.ask("POST", "/")
                break
            except OSError:
                assert process.poll() is None, (folder / "logs" / "output").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.1)
        yield made
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        upstream.shutdown()
        thread.join()
        upstream.server_close()


@pytest.mark.parametrize("path", ["/v1/fleet/pull-messages", "/v1/fleet/register-node", "/v1/fleet/pull-messages?x=1"])
def test_the_fleet_interface_is_forwarded(front: Front, path: str) -> None:
    front.seen.clear()
    assert front.ask("POST", path, b"x" * 100) == 299
    ((method, came, host, size),) = front.seen
    assert (method, came, size) == ("POST", path, 100)
    assert host.startswith("127.0.0.1:")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/control/list-runs"),
        ("POST", "/v1/control/start-run"),
        ("POST", "/v1/runtime/acquire-task"),
        ("POST", "/v1/fleet/../control/list-runs"),
        ("POST", "/v1/fleet/%2e%2e/control/list-runs"),
        ("POST", "/v1/fleet/..%2fcontrol/list-runs"),
        ("POST", "/v1/fleet/x/../../control/list-runs"),
        ("POST", "//v1/control/list-runs"),
        ("POST", "/v1/fleet//pull-messages/x"),
        ("POST", "/V1/FLEET/pull-messages"),
        ("POST", "/v1/fleet/"),
        ("POST", "/v1/fleet"),
        ("POST", "/openapi.json"),
        ("POST", "/metrics"),
        ("POST", "/"),
        ("GET", "/v1/fleet/pull-messages"),
        ("PUT", "/v1/fleet/pull-messages"),
    ],
)
def test_nothing_else_is(front: Front, method: str, path: str) -> None:
    front.seen.clear()
    assert front.ask(method, path) in {400, 403, 404}
    assert front.seen == [], "the SuperLink never saw it"


def test_a_piece_of_an_upload_passes_and_a_flood_does_not(front: Front) -> None:
    front.seen.clear()
    assert front.ask("POST", "/v1/fleet/push-object", b"x" * 6_000_000) == 299
    assert front.seen[0][3] == 6_000_000
    front.seen.clear()
    with suppress(OSError, http.client.HTTPException):
        assert front.ask("POST", "/v1/fleet/push-object", b"x" * 40_000_000) in {400, 413, 502}
    assert not [size for *_, size in front.seen if size >= 40_000_000]


@pytest.fixture
def certified(coordinator: Path) -> Path:
    try_out(coordinator / "tls", [])
    return coordinator


@pytest.mark.parametrize("kind", list(ProxyKind))
@pytest.mark.parametrize("listen", ["443", "192.0.2.1:443", "[2001:db8::1]:443"])
def test_addresses(certified: Path, kind: ProxyKind, listen: str) -> None:
    text = write_proxy(certified, listen, kind).read_text()
    host, _, _ = listen.rpartition(":")
    assert (f"listen {listen} ssl;" if kind is ProxyKind.NGINX else "https://:443 {") in text
    assert host.strip("[]") in text
    assert not proxy._NAME.search(text)


def test_workers_of_a_root_are_the_folders_owner(certified: Path) -> None:
    """Started by root, nginx's workers are `nobody` otherwise, who cannot enter the folder where uploads wait."""
    found = re.search(r"(?m)^user (\S+) (\S+);$", write_proxy(certified, "443").read_text())
    assert found is not None
    assert (pwd.getpwnam(found[1]).pw_uid, grp.getgrnam(found[2]).gr_gid) == (
        certified.stat().st_uid,
        certified.stat().st_gid,
    )


@pytest.mark.parametrize(
    "listen",
    [
        "",
        "https",
        "0",
        "70000",
        "a:",
        "2001:db8::1:443",
        "443;",
        "44²",
        ":443",
        "a;b:443",
        "no host:443",
        "[::1:443",
        "\uff14\uff14\uff13",
    ],
)
def test_what_is_no_address(coordinator: Path, listen: str) -> None:
    with pytest.raises(ConfigError, match="expected PORT or HOST:PORT"):
        write_proxy(coordinator, listen)


def test_a_folder_whose_path_has_spaces(certified: Path, tmp_path: Path) -> None:
    folder = tmp_path / "two words" / "co ordinator"
    folder.parent.mkdir()
    certified.rename(folder)
    path = write_proxy(folder, "443")
    assert f"nginx -c '{path}'" in command(ProxyKind.NGINX, path)
    assert (
        f'tls "{folder}/tls/server.pem" "{folder}/tls/server.key"\n'
        in write_proxy(folder, "443", ProxyKind.CADDY).read_text()
    )
    if program := shutil.which("nginx", path=PATH):
        text = path.read_text().replace("listen 443", f"listen 127.0.0.1:{free_port()}")
        path.write_text(text)
        tried = subprocess.run([program, "-t", "-c", str(path)], capture_output=True, text=True, check=False)
        assert tried.returncode == 0, tried.stderr


@pytest.mark.parametrize("name", ["a$b", 'a"b', "a\\b", "a{b}"])
def test_a_folder_that_no_configuration_can_name(certified: Path, name: str) -> None:
    folder = certified.rename(certified.parent / name)
    with pytest.raises(ConfigError, match="which no proxy's configuration can name; move the folder"):
        write_proxy(folder, "443")


def test_without_a_certificate_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"server\.pem does not exist.*dictpfl certificates --folder coordinator/tls"):
        write_proxy(tmp_path / "coordinator", "443")
    assert not list(tmp_path.rglob("nginx.conf"))


def test_an_idle_institution_fills_no_disk(front: Front) -> None:
    """nginx writes down what is answered otherwise than it should be, and nothing of the rest; Caddy rolls its logs by itself."""
    for _ in range(5):
        assert front.ask("POST", "/v1/fleet/pull-messages") == 299
    front.ask("GET", "/secret")
    logs = front.ca.parent.parent / "logs"
    if (logs / "nginx-access.log").exists():
        # Written once the answer is out: who has it may look too early.
        text = until(lambda: "/secret" in (found := (logs / "nginx-access.log").read_text()) and found, 10, "the line")
        assert '" 404 ' in text
        assert '" 299 ' not in text
        assert "warn" not in (logs / "nginx-error.log").read_text()


@pytest.mark.parametrize("kind", list(ProxyKind))
def test_where_it_is_not_installed_that_is_said(kind: ProxyKind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy.shutil, "which", lambda *_, **__: None)
    said = command(kind, Path("/x"))
    assert f"{kind} is not installed" in said
    assert "apt-get install" in said
    monkeypatch.setattr(proxy.shutil, "which", lambda *_, **__: "/usr/sbin/it")
    assert command(kind, Path("/x")).startswith("start it with")


def mounts_of_the_chart() -> list[tuple[str, bool]]:
    """What the proxy's container sees of the coordinator's folder, each with whether it is read-only, and what is its own."""
    pod = next(one for one in documents("coordinator") if one["kind"] == "StatefulSet")["spec"]["template"]["spec"]
    (container,) = [one for one in pod["containers"] if one["name"] == "proxy"]
    for mount in container["volumeMounts"]:
        assert mount["mountPath"].removeprefix("/volume/") == mount.get(
            "subPath", mount["mountPath"][len("/volume/") :]
        )
    return [
        (mount["mountPath"].removeprefix("/volume/party/"), bool(mount.get("readOnly")))
        for mount in container["volumeMounts"]
        if mount["name"] == "party"
    ]


def mounts_of_compose() -> list[tuple[str, bool]]:
    service = yaml.safe_load((ROOT / "deploy" / "containers" / "compose.yaml").read_text())["services"]["proxy"]
    for mount in service["volumes"]:
        assert mount["target"] == f"/data/{mount['volume']['subpath']}"
    return [(mount["volume"]["subpath"], mount["read_only"]) for mount in service["volumes"]]


def documents(kind: str) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all((chart.EXAMPLES / f"{kind}.yaml").read_text()) if one]


@pytest.mark.parametrize("mounted", [mounts_of_the_chart, mounts_of_compose])
def test_a_container_of_the_proxy_sees_what_it_serves_and_changes_nothing(
    mounted: Callable[[], list[tuple[str, bool]]], certified: Path
) -> None:
    """The journal, keys of the custody log and the SuperLink's secret are not there, and a stranger in it could write nowhere."""
    assert sorted(mounted()) == [("nginx.conf", True), ("tls", True)]
    program = shutil.which("nginx", path=PATH)
    if program is None:
        pytest.skip("nginx is not installed (apt-get install nginx-light)")
    port = free_port()
    write_proxy(certified, f"127.0.0.1:{port}")
    whole = certified.rename(certified.parent / "whole")
    for name in ("run", "logs"):
        (certified / name).mkdir(parents=True)
    for name, _ in mounted():
        shutil.copytree(whole / name, certified / name) if (whole / name).is_dir() else shutil.copy(
            whole / name, certified
        )
    process = subprocess.Popen(
        [program, "-c", str(certified / "nginx.conf"), "-g", "daemon off;"], start_new_session=True
    )
    try:
        front = Front(port, certified / "tls" / "ca.pem", [])

        def answers() -> int:
            assert process.poll() is None, (certified / "logs" / "nginx-error.log").read_text()
            with suppress(OSError):
                return front.ask("GET", "/")
            return 0

        assert until(answers, 20, "an answer") == 404
        assert front.ask("POST", "/v1/fleet/pull-messages") == 502, "no SuperLink runs here"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)
    kept = {str(path.relative_to(certified)) for path in certified.rglob("*")} - {"run", "logs"}
    assert {path for path in kept if not path.startswith(("run/", "logs/"))} == {
        "nginx.conf", "tls", *(f"tls/{path.name}" for path in (whole / "tls").iterdir())
    }  # fmt: skip


def test_prometheus_elsewhere_reads_metrics_and_nothing_else(certified: Path, tmp_path: Path) -> None:
    """`metrics.conf` as the chart, compose and the page use it; ports and places alone are others here."""
    page = (ROOT / "docs" / "deploy/reference.md").read_text(encoding="utf-8")
    (named,) = re.findall(r'nginx -c "\$PWD/(\S*metrics\.conf)"', page)
    text = (ROOT / named).read_text(encoding="utf-8")
    program = shutil.which("nginx", path=PATH)
    if program is None:
        pytest.skip("nginx is not installed (apt-get install nginx-light)")
    inner, outer = free_port(), free_port()
    for old, new in (("9464", str(inner)), ("9465", str(outer)), ("/tmp/", f"{tmp_path}/")):
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "metrics.conf").write_text(text)
    process = subprocess.Popen(
        [program, "-c", str(tmp_path / "metrics.conf"), "-g", "daemon off;"], start_new_session=True
    )

    def asked(method: str, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", outer, timeout=10)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except OSError:
            return 0, b""
        finally:
            connection.close()

    try:
        with served(inner, CoordinatorMetrics(certified, CoordinatorSettings())):
            until(lambda: asked("GET", "/metrics")[0] == 200, 20, "metrics")
            assert b"dictpfl_rounds_overdue" in asked("GET", "/metrics")[1]
            for method, path in (
                ("GET", "/"),
                ("GET", "/metrics/x"),
                ("POST", "/metrics"),
                ("GET", "/v1/fleet/pull-messages"),
            ):
                assert asked(method, path)[0] in {403, 404}, (method, path)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)
