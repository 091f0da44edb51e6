"""How soon a deployment sees what is new: a doorbell at the SuperLink, and pauses that follow what happens."""

from __future__ import annotations

import asyncio
import importlib
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.proto.fleet_pb2 import PullMessagesRequest, PullMessagesResponse
from flwr.proto.message_pb2 import Message
from flwr.proto.node_pb2 import Node

from dictpfl.deploy.operations import superlink, supernode
from dictpfl.deploy.operations.environment import POLL
from dictpfl.deploy.operations.pace import FETCH_SECONDS, Pace, fetch_soon
from dictpfl.deploy.operations.superlink import AGAIN, Bell, hold_looks_in_vain, ring_for_messages

NODE, OTHER = 5, 6


def test_a_pause_is_a_small_part_of_what_was_waited() -> None:
    now = [100.0]
    pace = Pace(0.2, 3.0, clock=lambda: now[0])
    pauses = []
    for _ in range(200):
        pauses.append(pace.pause())
        now[0] += pauses[-1]
    assert pauses[:20] == [0.2] * 20
    assert pauses == sorted(pauses)
    assert pauses[-1] == 3.0
    pace.stirred()
    assert pace.pause() == 0.2


def waited(bell: Bell, ring: Callable[[], None], *, seconds: float = 5.0) -> float:
    """Seconds that a wait for `NODE` took, while another thread rings after 50 ms."""

    async def wait() -> float:
        began = time.monotonic()
        timer = threading.Timer(0.05, ring)
        timer.start()
        await bell.rang(NODE, bell.rings(NODE), seconds)
        took = time.monotonic() - began
        await asyncio.to_thread(timer.join)
        return took

    return asyncio.run(wait())


def test_who_waits_is_woken_from_another_thread_and_nobody_else_is() -> None:
    bell = Bell()
    assert 0.04 < waited(bell, lambda: bell.ring(NODE)) < 3
    assert waited(bell, lambda: bell.ring(OTHER), seconds=0.2) >= 0.2
    assert not bell._waiting  # nobody is left on the list


def test_a_message_that_came_before_the_wait_is_not_waited_for() -> None:
    bell = Bell()
    before = bell.rings(NODE)
    bell.ring(NODE)  # between the look in vain and the wait
    began = time.monotonic()
    asyncio.run(bell.rang(NODE, before, 5.0))
    assert time.monotonic() - began < 1


def test_everybody_goes_at_the_end() -> None:
    bell = Bell()
    assert waited(bell, bell.silence) < 3
    assert waited(bell, lambda: None) < 3


@pytest.fixture
def middleware(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Flower's own, put back afterwards."""
    found = importlib.import_module("flwr.superlink.routers.fleet.node_auth").NodeAuthMiddleware
    monkeypatch.setattr(found, "dispatch", found.dispatch)
    return found


def answered(
    middleware: Any, bell: Bell, found: list[Message], asked: Any = None
) -> tuple[PullMessagesResponse, float]:
    """Answer to a look for messages, and the seconds that it took."""
    request = SimpleNamespace(state=SimpleNamespace(), url=SimpleNamespace(path="/elsewhere"))
    request.state.protobuf_request = asked or PullMessagesRequest(node=Node(node_id=NODE))

    async def handle(request: Any) -> str:
        request.state.protobuf_response = PullMessagesResponse(messages_list=found)
        return "response"

    async def ask() -> float:
        began = time.monotonic()
        timer = threading.Timer(0.05, bell.ring, [NODE])
        timer.start()
        assert await middleware(lambda *_: None).dispatch(request, handle) == "response"
        took = time.monotonic() - began
        await asyncio.to_thread(timer.join)
        return took

    took = asyncio.run(ask())
    return request.state.protobuf_response, took


def test_a_look_in_vain_is_held_until_the_bell_rings_and_brings_nothing(middleware: Any) -> None:
    bell = Bell()
    hold_looks_in_vain(bell)
    answer, took = answered(middleware, bell, [])
    assert 0.04 < took < 3
    assert answer.reconnect.reconnect == AGAIN
    assert not answer.messages_list
    answer, took = answered(middleware, bell, [Message()])
    assert took < 0.04
    assert not answer.HasField("reconnect")
    assert answered(middleware, bell, [], asked=Node(node_id=NODE))[1] < 0.04  # another request than a look


def test_the_bell_rings_for_requests_after_they_are_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    state = importlib.import_module("flwr.server.superlink.linkstate.sql_linkstate").SqlLinkState
    bell = Bell()
    seen: list[int] = []

    def store(*_: object) -> tuple[bool, list[str]]:
        seen.append(bell.rings(NODE))
        return True, []

    monkeypatch.setattr(state, "store_message_and_object_tree", store)
    ring_for_messages(bell)
    for reply in ("", "of another"):
        metadata = SimpleNamespace(reply_to_message_id=reply, dst_node_id=NODE)
        assert state.store_message_and_object_tree(None, SimpleNamespace(metadata=metadata), None, "s") == (True, [])
    assert seen == [0, 1]
    assert bell.rings(NODE) == 1


@pytest.fixture
def paced(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any, list[float]]:
    """Flower's modules of a SuperNode with their loop's functions replaced, and the pauses that it makes."""
    module = importlib.import_module("flwr.supernode.start_client_internal")
    client = importlib.import_module("flwr.supernode.fleet_http_client").FleetHttpClient
    pauses: list[float] = []
    monkeypatch.setattr(module, "_pull_and_store_message", lambda **_: None)
    monkeypatch.setattr(module, "time", module.time)
    monkeypatch.setattr("time.sleep", pauses.append)
    return module, client, pauses


def test_a_supernode_that_was_held_looks_again_at_once(paced: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module, client, pauses = paced
    answer = PullMessagesResponse()
    monkeypatch.setattr(client, "PullMessages", lambda *_: answer)
    supernode.set_pace()
    client.PullMessages(None, PullMessagesRequest())
    module.time.sleep(3)
    assert pauses == [3]  # a coordinator of another release, which holds nobody
    answer.reconnect.reconnect = AGAIN
    client.PullMessages(None, PullMessagesRequest())
    module.time.sleep(3)
    assert pauses == [3]
    module.time.sleep(3)
    assert pauses == [3, 3]  # once for each answer
    module._pull_and_store_message()
    module.time.sleep(0.5)
    assert pauses[-1] < 0.1  # the app's reply, just after the message went to it


def test_a_fixed_pause_is_the_operators(paced: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module, _client, pauses = paced
    monkeypatch.setenv(POLL, "2")
    supernode.set_pace()
    module.time.sleep(3)
    module.time.sleep(0.5)
    assert pauses == [2.0, 0.5]
    before = importlib.import_module("flwr.superlink.routers.fleet.node_auth").NodeAuthMiddleware.dispatch
    superlink.mend()  # and the coordinator holds nobody then
    assert importlib.import_module("flwr.superlink.routers.fleet.node_auth").NodeAuthMiddleware.dispatch is before


def test_parts_of_a_message_are_asked_for_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    inflating = importlib.import_module("flwr.supercore.inflatable.inflatable_utils")
    asked: list[float] = []

    def pull(_id: str) -> bytes:
        asked.append(time.monotonic())
        if len(asked) == 1:
            raise inflating.ObjectUnavailableError("x")
        return b"content"

    kept = dict(inflating.pull_objects.__kwdefaults__), dict(inflating.pull_and_inflate_object_from_tree.__kwdefaults__)
    fetch_soon()
    try:
        assert inflating.pull_objects(["x"], pull) == {"x": b"content"}
        # If this fails, Flower's second is gone, and `fetch_soon` can go.
        assert kept[0]["initial_backoff"] == 1
        assert 0.7 * FETCH_SECONDS < asked[1] - asked[0] < 0.7
        assert inflating.pull_and_inflate_object_from_tree.__kwdefaults__["initial_backoff"] == FETCH_SECONDS
    finally:
        for function, defaults in zip(
            (inflating.pull_objects, inflating.pull_and_inflate_object_from_tree), kept, strict=True
        ):
            function.__kwdefaults__.update(defaults)
