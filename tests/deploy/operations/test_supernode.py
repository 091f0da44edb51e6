"""What is mended in Flower's SuperNode: replies stay in step with what was asked, with Flower's own state and loop body."""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from flwr.app import Message, MessageType, RecordDict
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode import start_client_internal as flower
from flwr.supernode.nodestate import NodeStateFactory

from deploy.operations.supernode import answer_in_step

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
