"""A reply that is announced and never comes does not take the SuperNode out of the federation."""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

import pytest

from dictpfl.deploy.operations import supernode
from dictpfl.deploy.operations.supernode import Impatient

MODULE = importlib.import_module("flwr.supernode.start_client_internal")


class Store:
    def __init__(self, *contents: bytes | None) -> None:
        self.contents = list(contents)
        self.deleted: list[str] = []

    def get(self, _object_id: str) -> bytes | None:
        return self.contents.pop(0) if len(self.contents) > 1 else self.contents[0]

    def get_object_tree(self, object_id: str) -> Any:
        return SimpleNamespace(object_id=object_id, children=[])

    def delete(self, object_id: str) -> None:
        self.deleted.append(object_id)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def test_what_comes_in_pieces_is_waited_for() -> None:
    store = Impatient(Store(b"", b"", b"one", b"", b"", b"two"), 2.5, Clock())
    assert [store.get("a") for _ in range(6)] == [b"", b"", b"one", b"", b"", b"two"]


def test_what_does_not_come_is_given_up() -> None:
    store = Impatient(Store(b""), 2.5, Clock())
    for _ in range(3):
        assert store.get("a") == b""
    with pytest.raises(TimeoutError, match="is dropped"):
        store.get("a")


def test_an_object_that_is_unknown_is_none_of_its_business() -> None:
    store = Impatient(Store(None), 2.5, Clock())
    assert [store.get("a") for _ in range(10)] == [None] * 10


class State:
    """Of a SuperNode that has one reply to send."""

    def __init__(self) -> None:
        metadata = SimpleNamespace(
            group_id="", run_id=1, message_id="reply", message_type="train", reply_to_message_id="request"
        )
        self.replies = [SimpleNamespace(metadata=metadata)]
        self.deleted: list[str] = []

    def get_messages_legacy(self, *, is_reply: bool) -> list[Any]:
        return self.replies

    def get_message_processing_duration(self, *, message_id: str) -> float:
        return 0.0

    def delete_messages(self, *, message_ids: list[str]) -> None:
        self.deleted += message_ids


def test_flowers_supernode_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own function, as the pinned release has it: the reply is dropped, and it returns to look for messages."""
    monkeypatch.setitem(MODULE.__dict__, "_push_messages", MODULE.__dict__["_push_messages"])
    monkeypatch.setenv("DICTPFL_HEARTBEAT", "0.2")
    supernode.drop_what_never_comes()
    state, store, pushed = State(), Store(b""), []
    MODULE.__dict__["_push_messages"](
        state=state,
        object_store=store,
        send=lambda *_: ({"reply"}, "session"),
        push_object=lambda *_: pushed.append(_),
    )
    assert pushed == []
    assert state.deleted == ["reply", "request"]
    assert store.deleted == ["reply"]
