"""A clock that is wrong by a day is named as that, since Flower only says that the node is refused."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from unittest import mock

import pytest
import structlog

from dictpfl.deploy.operations import institution
from dictpfl.deploy.operations.certificates import try_out
from dictpfl.deploy.operations.places import prepare
from dictpfl.deploy.operations.settings import NodeSettings

DAY = 86400.0


class _Proxy(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_response(404)
        self.end_headers()

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    certificate = try_out(tmp_path / "tls", [])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, tmp_path / "tls" / "server.key")
    server = HTTPServer(("127.0.0.1", 0), _Proxy)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"127.0.0.1:{server.server_port}", tmp_path / "tls" / "ca.pem"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(("days", "word"), [(1, "behind"), (-1, "ahead of")])
def test_a_clock_that_is_wrong_by_a_day(days: int, word: str, proxy: tuple[str, Path]) -> None:
    there = formatdate(time.time() + days * DAY, usegmt=True)
    with (
        mock.patch.object(_Proxy, "date_time_string", return_value=there),
        structlog.testing.capture_logs() as logs,
    ):
        said = institution._compare_clocks(*proxy)
    (entry,) = logs
    assert said == entry["event"], "kept for `status`, as the reason for which the SuperNode is refused"
    assert abs(abs(entry["seconds"]) - DAY) < 60
    assert f"{word} the coordinator's" in entry["event"]
    assert "timedatectl" in entry["event"]


def test_a_clock_that_is_right(proxy: tuple[str, Path]) -> None:
    with structlog.testing.capture_logs() as logs:
        institution._compare_clocks(*proxy)
    assert logs == []
    difference = institution.clock_difference(*proxy)
    assert difference is not None
    assert abs(difference) < 60


def test_a_proxy_that_does_not_say(proxy: tuple[str, Path]) -> None:
    with mock.patch.object(_Proxy, "date_time_string", return_value="soon"):
        assert institution.clock_difference(*proxy) is None
    assert institution.clock_difference("127.0.0.1:1", proxy[1]) is None


def test_what_is_wrong_with_the_clock_is_the_reason_however_the_supernode_ends(tmp_path: Path) -> None:
    """Flower's ends with code 305, or without any at its first sign of life (1.42)."""
    programs = institution.programs(
        prepare(tmp_path / "party"), NodeSettings(coordinator="a:1", bundle="0"), clock="9 s off"
    )
    assert [programs[0].advice.get(code) for code in (305, 0)] == ["9 s off", "9 s off"]
