"""What is mended in Flower's SuperNode: replies stay in step with what was asked, and no broken line is given up."""

from __future__ import annotations

import hashlib
import importlib
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from flwr.app import Message, MessageType, RecordDict
from flwr.proto.fab_pb2 import GetFabRequest
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode import start_client_internal as flower
from flwr.supernode.nodestate import NodeStateFactory

from dictpfl.deploy.operations.certificates import try_out
from dictpfl.deploy.operations.supernode import (
    Contact,
    answer_in_step,
    give_no_line_up,
    keep_beating,
    take_known_app,
)

STALE_RUN, RUN = 1, 2


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("_run_id", "_task_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    found = importlib.import_module("flwr.supernode.start_client_internal")
    before = found._push_messages
    yield found
    found._push_messages = before


def request(run: int) -> Message:
    message = Message(RecordDict(), dst_node_id=5, message_type=MessageType.TRAIN)
    message.metadata.__dict__.update(_run_id=run, _src_node_id=1)
    return message


class Node:
    """A SuperNode's state, into which a message arrives and out of which replies go."""

    def __init__(self) -> None:
        factory = ObjectStoreFactory()
        self.store = factory.store()
        self.state = NodeStateFactory(factory).state()
        self.sent: list[int] = []

    def arrives(self, run: int) -> Message:
        message = request(run)
        flower._insert_message(message, self.state, self.store)
        self.state.record_message_processing_start(message_id=message.metadata.message_id)
        return message

    def answered(self, message: Message) -> None:
        reply = Message(RecordDict(), reply_to=message)
        self.state.record_message_processing_end(message_id=message.metadata.message_id)
        flower._insert_message(reply, self.state, self.store)

    def push(self, module: Any) -> None:
        def send(message: Message, *_: object) -> tuple[set[str], str]:
            self.sent.append(message.metadata.run_id)
            return set(), "session"

        module._push_messages(state=self.state, object_store=self.store, send=send, push_object=lambda *_: None)


def exchange(node: Node, module: Any) -> list[int]:
    """A message of a run that ended was answered all the same; then one of the next run comes, answered after a while."""
    node.answered(node.arrives(STALE_RUN))
    asked = node.arrives(RUN)
    later = threading.Timer(1.0, node.answered, [asked])
    later.start()
    began = time.monotonic()
    node.push(module)
    assert time.monotonic() - began < 20
    sent = list(node.sent)
    later.join()
    return sent


def test_flower_by_itself_sends_the_stale_reply_only(module: Any) -> None:
    # If this fails, Flower has mended it, and `answer_in_step` can go.
    assert exchange(Node(), module) == [STALE_RUN]


def test_ours_goes_on_until_the_newest_message_is_answered(module: Any) -> None:
    answer_in_step()
    assert exchange(Node(), module) == [STALE_RUN, RUN]


def test_nothing_changes_where_nothing_is_stale(module: Any) -> None:
    answer_in_step()
    node = Node()
    node.answered(node.arrives(RUN))
    node.push(module)
    assert node.sent == [RUN]


class Breaking:
    """A TLS server whose first connections break in the middle of the handshake, as when a proxy is killed in one."""

    def __init__(self, folder: Path, breaks: int) -> None:
        self.breaks, self.accepted = breaks, 0
        self._settings = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._settings.load_cert_chain(folder / "server.pem", folder / "server.key")
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"https://localhost:{self._socket.getsockname()[1]}/"
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        while True:
            try:
                line, _ = self._socket.accept()
            except OSError:
                return
            self.accepted += 1
            with line:
                if self.accepted <= self.breaks:
                    line.recv(65536)  # all of it: unread bytes would make a reset of the end
                    line.sendall(b"\x16\x03\x03")  # a record that never ends: to OpenSSL, a violation of the protocol
                else:
                    self._answer(line)

    def _answer(self, line: socket.socket) -> None:
        with self._settings.wrap_socket(line, server_side=True) as safe:
            safe.recv(4096)
            safe.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self.thread.join(10)


@pytest.fixture
def breaking(tmp_path: Path) -> Iterator[Breaking]:
    try_out(tmp_path, ["localhost"])
    server = Breaking(tmp_path, breaks=2)
    yield server
    server.close()


@pytest.fixture
def connection() -> Iterator[Any]:
    found = importlib.import_module("flwr.supernode.fleet_http_connection")
    before, sender = found.make_simple_http_retry_invoker, found.HeartbeatSender
    yield found
    found.make_simple_http_retry_invoker, found.HeartbeatSender = before, sender


def ask(connection: Any, server: Breaking, authority: Path) -> int:
    """Ask as a SuperNode does; return how often the line broke before there was an answer."""
    invoker = connection.make_simple_http_retry_invoker()
    invoker.wait_function = lambda _seconds: None
    trusted = ssl.create_default_context(cafile=str(authority))

    def once() -> httpx.Response:
        with httpx.Client(verify=trusted, trust_env=False) as client:
            return client.post(server.address)

    assert invoker.invoke(once).status_code == 200
    return server.accepted


def test_flower_by_itself_gives_a_broken_handshake_up(connection: Any, breaking: Breaking, tmp_path: Path) -> None:
    # If this fails, Flower has mended it, and `give_no_line_up` can go.
    with pytest.raises(httpx.ConnectError, match=r"(?i)ssl"):
        ask(connection, breaking, tmp_path / "ca.pem")


def test_ours_tries_again_says_why_and_notes_the_answer(
    connection: Any, breaking: Breaking, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    noted = tmp_path / "contact"
    give_no_line_up(Contact(noted))
    assert ask(connection, breaking, tmp_path / "ca.pem") > breaking.breaks
    assert noted.stat().st_mode & 0o777 == 0o600
    assert capfd.readouterr().err.count("coordinator not reached, keeps trying") >= 1


def test_a_certificate_that_does_not_fit_is_waited_out(connection: Any) -> None:
    """Nothing is sent meanwhile; once the operator has renewed it, rounds go on without a restart."""
    give_no_line_up(Contact(None))
    invoker = connection.make_simple_http_retry_invoker()
    assert not invoker.should_giveup(httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate has expired"))
    refused = httpx.HTTPStatusError("404", request=httpx.Request("POST", "https://a"), response=httpx.Response(404))
    assert invoker.should_giveup(refused)


def test_contacts_are_noted_once_a_second(tmp_path: Path) -> None:
    now = [0.0]
    contact, path = Contact(tmp_path / "contact", clock=lambda: now[0]), tmp_path / "contact"
    contact.made()
    os.utime(path, (1, 1))
    now[0] = 0.5
    contact.made()
    assert path.stat().st_mtime == 1
    now[0] = 1.5
    contact.made()
    assert path.stat().st_mtime > 1


def test_the_agreed_app_is_not_sent_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[str]()
    client = importlib.import_module("flwr.supernode.fleet_http_client").FleetHttpClient
    monkeypatch.setattr(client, "GetFab", lambda _self, request: asked.append(request.hash_str))
    kept = tmp_path / "agreed.fab"
    take_known_app(kept)
    known, other = hashlib.sha256(b"app").hexdigest(), hashlib.sha256(b"another").hexdigest()
    client.GetFab(None, GetFabRequest(hash_str=known))
    kept.write_bytes(b"app")
    answer = client.GetFab(None, GetFabRequest(hash_str=known))
    assert (answer.fab.hash_str, answer.fab.content) == (known, b"app")
    client.GetFab(None, GetFabRequest(hash_str=other))
    assert asked == [known, other], "what is not here is asked for"


class Pulse:
    """Signs of life that fail as they are told to, and the thread that gives them."""

    def __init__(self, connection: Any, monkeypatch: pytest.MonkeyPatch, *errors: Exception) -> None:
        monkeypatch.setattr("flwr.supercore.heartbeat.exponential", lambda **_: iter([0.0] * 9))
        monkeypatch.setattr("flwr.supercore.heartbeat.HEARTBEAT_DEFAULT_INTERVAL", 5.05)
        self.left, self.taken = list(errors), threading.Event()
        self.sender = connection.HeartbeatSender(self._beat)

    def _beat(self) -> bool:
        if self.left:
            raise self.left.pop(0)
        self.taken.set()
        return True

    def goes_on(self) -> bool:
        self.sender.start()
        went_on = self.taken.wait(3.0)
        self.sender._stop_event.set()
        self.sender._thread.join(10)
        return went_on


def full_disk() -> httpx.HTTPStatusError:
    return httpx.HTTPStatusError("500", request=httpx.Request("POST", "https://a"), response=httpx.Response(500))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_flower_by_itself_gives_no_more_signs_of_life_after_an_error_of_the_coordinator(
    connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # If this fails, Flower has mended it, and `keep_beating` can go.
    assert not Pulse(connection, monkeypatch, full_disk()).goes_on()


def test_ours_tries_again_and_says_so_once(
    connection: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    keep_beating()
    assert Pulse(connection, monkeypatch, full_disk(), full_disk(), full_disk()).goes_on()
    assert capfd.readouterr().err.count("a sign of life was not taken: HTTPStatusError: 500") == 1


def test_a_node_that_is_not_known_any_more_ends_so_that_it_is_started_anew(
    connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = list[int]()
    monkeypatch.setattr(os, "kill", lambda _process, number: ended.append(number))
    keep_beating()
    Pulse(connection, monkeypatch, RuntimeError("The SuperLink does not recognize this SuperNode.")).goes_on()
    assert ended == [signal.SIGINT]


ENDING = """
import os, signal, sys, threading, time
from dictpfl.deploy.operations import supernode
from flwr.supercore.telemetry import EventType
from flwr.supercore.exit import register_signal_handlers

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job has it ignored
if "mended" in sys.argv:
    supernode.end_once()
register_signal_handlers(event_type=EventType.RUN_SUPERNODE_LEAVE)
real = threading.Thread.start

def interrupted(thread):  # the moment at which it happened: Flower's exit starts a thread
    threading.Thread.start = real
    signal.raise_signal(signal.SIGINT)  # in this thread, at once; os.kill may reach another one first
    real(thread)

threading.Thread.start = interrupted
try:
    signal.raise_signal(signal.SIGINT)
    time.sleep(10)
except KeyboardInterrupt:
    print("broken into", flush=True)
"""


@pytest.mark.parametrize(("how", "said"), [("as it is", "broken into\n"), ("mended", "")])
def test_a_second_interrupt_does_not_break_into_the_end(how: str, said: str) -> None:
    # If "as it is" fails, Flower has mended it, and `end_once` can go.
    done = subprocess.run(
        [sys.executable, "-c", ENDING, how], env=os.environ | {"FLWR_TELEMETRY_ENABLED": "0"}, capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout == said, done.stderr[-1000:]
    assert done.returncode == 0
