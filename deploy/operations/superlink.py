"""Repairs of the SuperLink of Flower 1.42: a doorbell, a secret for its control interface, and nodes that may come back.

The doorbell: an institution that finds no message is held on the line until one comes.
Flower's institutions look every 3 s, so that each step of a round waits for up to 3 s, and most looks are in vain. Here a look in
vain is answered when a message has come, or after `HOLD_SECONDS`, and says that the next look may follow at once. It never brings
the message itself: one handed to a line that broke meanwhile would count as delivered, and the round wait until its deadline.

The secret: Flower's control interface has no login, so every account on the machine could strike nodes off, and start and stop
runs. Here it wants a token, made from the secret in `run/`, which the operator's account alone reads.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import importlib
import os
from collections import Counter
from typing import Any

from flwr.proto.fleet_pb2 import PullMessagesRequest, PullMessagesResponse

from dictpfl.deploy.operations.environment import POLL

HOLD_SECONDS = 20.0
"""Seconds for which a look in vain is held; Flower's client gives up after thirty."""
AGAIN = 1
"""Mark of an answer that was held, in a field that Flower's own institutions do not read: look again at once."""
_CONTROL = b"dictpfl control 1"


def control_token(secret: bytes) -> str:
    """Return what the control interface wants to see, in hexadecimal; whoever has it has not the secret of the SuperExec."""
    return hmac.new(secret, _CONTROL, hashlib.sha256).hexdigest()


class Bell:
    """Rings for nodes; may be rung by any thread, and waited for on one event loop."""

    def __init__(self) -> None:
        """Make it; nobody waits."""
        self._rings: Counter[int] = Counter()
        self._waiting: dict[int, set[asyncio.Future[None]]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._silent = False

    def rings(self, node: int) -> int:
        """Count how often it rang for a node so far."""
        return self._rings[node]

    def ring(self, node: int) -> None:
        """Say that a message has come for a node."""
        self._rings[node] += 1
        self._call(self._wake, [node])

    def silence(self) -> None:
        """Let everybody go, now and from now on: the server ends."""
        self._silent = True
        self._call(self._wake, list(self._waiting))

    async def rang(self, node: int, since: int, seconds: float) -> None:
        """Return once it has rung for a node more often than `since` times, or the time is over."""
        if self._silent:
            return
        self._loop = asyncio.get_running_loop()
        waiter = self._loop.create_future()
        self._waiting.setdefault(node, set()).add(waiter)
        try:
            # After it is listed: a ring from another thread in between is seen here, and one after this wakes it.
            if self._rings[node] == since and not self._silent:
                await asyncio.wait({waiter}, timeout=seconds)
        finally:
            waiters = self._waiting[node]
            waiters.discard(waiter)
            if not waiters:
                del self._waiting[node]

    def _call(self, what: Any, nodes: list[int]) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(what, nodes)

    def _wake(self, nodes: list[int]) -> None:
        for node in nodes:
            for waiter in self._waiting.get(node, ()):
                if not waiter.done():
                    waiter.set_result(None)


def ring_for_messages(bell: Bell) -> None:
    """Have this process's SuperLink ring once it has stored a message for a node."""
    state = importlib.import_module("flwr.server.superlink.linkstate.sql_linkstate").__dict__["SqlLinkState"]
    store = state.store_message_and_object_tree

    def store_and_ring(self: Any, message: Any, *others: Any, **named: Any) -> Any:
        stored = store(self, message, *others, **named)
        if not message.metadata.reply_to_message_id:
            bell.ring(message.metadata.dst_node_id)
        return stored

    state.store_message_and_object_tree = store_and_ring


def hold_looks_in_vain(bell: Bell) -> None:
    """Have this process's SuperLink answer a look that found nothing once the bell rings for its node."""
    middleware = importlib.import_module("flwr.superlink.routers.fleet.node_auth").__dict__["NodeAuthMiddleware"]
    dispatch = middleware.dispatch

    async def dispatch_and_hold(self: Any, request: Any, call_next: Any) -> Any:
        asked = getattr(request.state, "protobuf_request", None)
        if not isinstance(asked, PullMessagesRequest):
            return await dispatch(self, request, call_next)
        rings = bell.rings(asked.node.node_id)
        response = await dispatch(self, request, call_next)  # a node that is not admitted does not come further
        answer = getattr(request.state, "protobuf_response", None)
        if isinstance(answer, PullMessagesResponse) and not answer.messages_list:
            await bell.rang(asked.node.node_id, rings, HOLD_SECONDS)
            answer.reconnect.reconnect = AGAIN
        return response

    middleware.dispatch = dispatch_and_hold


def let_go_at_the_end(bell: Bell) -> None:
    """Have the server let go of whom it holds when it is told to end; it would wait for them otherwise."""
    server = importlib.import_module("uvicorn").Server
    handle = server.handle_exit

    def let_go(self: Any, *signal: Any) -> None:
        bell.silence()
        handle(self, *signal)

    server.handle_exit = let_go


def ask_for_the_secret() -> None:
    """Have this process's SuperLink refuse each call of its control interface that does not show the token (401)."""
    module = importlib.import_module("flwr.superlink.dependencies.account").__dict__
    access, refusal = module["AccountAccessDependency"], module["BearerAuthenticationError"]
    allow = access.__call__

    def ask_and_allow(self: Any, request: Any) -> Any:
        wanted = f"Bearer {control_token(request.app.state.superexec_auth_secret)}"
        if not hmac.compare_digest(request.headers.get("authorization", "").encode(), wanted.encode()):
            raise refusal
        return allow(self, request)

    access.__call__ = ask_and_allow


def take_back() -> None:
    """Have this process's SuperLink register a node again that was struck off: under Flower its key is refused for good."""
    module = importlib.import_module("flwr.server.superlink.linkstate.sql_linkstate").__dict__
    state, model, status = module["SqlLinkState"], module["NodeModel"], module["NodeStatus"]
    create = state.create_node

    def create_or_take_back(
        self: Any, owner_aid: str, owner_name: str, public_key: bytes, *others: Any, **named: Any
    ) -> Any:
        gone = (model.public_key == public_key, model.status == status.UNREGISTERED, model.owner_aid == owner_aid)
        back = module["update"](model).where(*gone).values(status=status.REGISTERED, unregistered_at=None)
        with self.session() as session:
            node = session.scalar(back.returning(model.node_id))
        if node is None:
            return create(self, owner_aid, owner_name, public_key, *others, **named)
        return module["int64_to_uint64"](node)

    state.create_node = create_or_take_back


def mend() -> None:
    """Make all repairs, in this process; no doorbell where a fixed pause between looks is wanted (`DICTPFL_POLL`)."""
    ask_for_the_secret()
    take_back()
    if os.environ.get(POLL):
        return
    bell = Bell()
    ring_for_messages(bell)
    hold_looks_in_vain(bell)
    let_go_at_the_end(bell)
