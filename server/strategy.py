"""Loop of the rounds over Flower's Message API: push, fold what arrives, give up on what does not."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import structlog
from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid
from google.protobuf.message import DecodeError

from dictpfl.common.errors import EngineError, RoundError, WireError
from dictpfl.common.messages.protocol import Reply, Request, RoundKind, Stage, Status
from dictpfl.server.coordinator import Coordinator
from dictpfl.server.messages import decode_reply, encode_request

_log = structlog.get_logger(__name__)
_GARBLED = (ValueError, TypeError, LookupError, AttributeError, RecursionError, DecodeError)
"""Errors of Flower 1.42 over a reply whose parts are none of its records: it checks their heads and digests alone before."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Waiting times, in seconds, and limits of what is fetched; tests shorten them."""

    poll: float = 0.05
    """First pause between looks for replies; it grows by half up to `poll_most`."""
    poll_most: float = 1.0
    settle: float = 0.1
    """Time that the set of nodes must stay the same before the first exchange: they register one after another."""
    remind: float = 30.0
    """Time between two log lines that nodes are still missing."""
    retry: float = 1.0
    """First pause after an exchange without progress; it doubles up to `retry_most`."""
    retry_most: float = 30.0
    attempts: int = 5
    """Exchanges in a row without progress before the loop gives up."""
    keep: float = 600.0
    """Time that a message lives beyond the deadline: clocks differ, and an early death loses an upload."""
    pull: int = 16
    """Replies to fetch in one go, at most: so many uploads are in memory at once."""
    pull_bytes: int = 4_000_000
    """Bytes of replies to fetch in one go, going by the largest that came so far; before any came, one at a time."""


@dataclass(slots=True)
class _Exchange:
    """Messages that are out; a reply to anything else is late or double, and is ignored."""

    requests: Mapping[int, Request]
    """Requests by node, as they were asked at first."""
    waiting: dict[str, int] = field(default_factory=dict)
    """Nodes by message id."""
    behind: dict[int, int] = field(default_factory=dict)
    """Position from which a node last asked for aggregates, by node."""
    reasons: dict[int, str] = field(default_factory=dict)
    """Reasons why there is no usable answer, by node."""


class BlindStrategy:
    """Loop that carries the coordinator's exchanges over a `Grid`; it never looks into a blob.

    It is none of Flower's `Strategy` classes: those hand arrays and metrics from step to step, and here nothing of that
    kind can be read.

    Law: the coordinator is told about each node that `begin` named exactly once, by `receive` (with at most one
    follow-up for each position that it advances) or by `failed`, and then `close` is called.
    """

    def __init__(self, coordinator: Coordinator, patience: Patience | None = None) -> None:
        self._coordinator = coordinator
        self._patience = patience or Patience()
        self._largest = 0
        self._alone = False
        """True once somebody sent what Flower cannot put together: from then on replies are fetched one by one."""

    def start(self, grid: Grid) -> None:
        """Run exchanges until the coordinator has finished.

        Raises:
            EngineError: several exchanges in a row bring no progress.
        """
        coordinator = self._coordinator
        _log.info("coordinating", minimum=coordinator.least, deadline_seconds=coordinator.deadline_seconds)
        opened: set[tuple[int, RoundKind | None]] | None = None
        seen: Counter[Stage] = Counter()
        reasons: dict[int, str] = {}
        # At least one exchange: whoever missed the last message of an earlier run is told now.
        while opened is None or not self._coordinator.finished:
            requests = self._coordinator.begin(self._nodes(grid, settle=opened is None))
            asked = {(request.round, request.kind) for request in requests.values()}
            if asked != opened:
                opened, seen = asked, Counter()
            # A round may go through several stages; only a stage that it was in before is no progress.
            stage = next((request.stage for request in requests.values()), Stage.UPLOAD)
            self._endure(seen[stage], reasons)
            seen[stage] += 1
            reasons = self._exchange(grid, requests)

    def _nodes(self, grid: Grid, *, settle: bool) -> list[int]:
        """Wait until enough nodes are online; `settle`: and until no more come for a moment."""
        patience, minimum = self._patience, self._coordinator.least
        pause, reminded, before = patience.poll, -patience.remind, None
        while True:
            nodes = self._coordinator.welcome(grid.get_node_ids())
            if len(nodes) < minimum:
                if time.monotonic() - reminded >= patience.remind:
                    reminded = time.monotonic()
                    _log.info("waiting for institutions", online=len(nodes), minimum=minimum)
                time.sleep(pause)
                pause = min(pause * 1.5, patience.poll_most)
            elif settle and nodes != before:
                before = nodes
                time.sleep(patience.settle)
            else:
                return nodes

    def _endure(self, attempts: int, reasons: Mapping[int, str]) -> None:
        """Pause before another attempt at the same round, or give up."""
        if not attempts:
            return
        patience = self._patience
        if attempts >= patience.attempts:
            for node, reason in reasons.items():  # nobody is asked again: what stays in the journal is why
                self._coordinator.failed(node, reason)
            self._coordinator.close()
            raise EngineError(
                f"Expected progress within {patience.attempts} exchanges, found none; "
                f"last reasons: {_counted(reasons)}. See the institutions' own logs, then start again: "
                "the journal keeps what was reached."
            )
        _log.warning("repeating the round", attempt=attempts + 1, reasons=_counted(reasons))
        time.sleep(min(patience.retry * 2 ** (attempts - 1), patience.retry_most))

    def _exchange(self, grid: Grid, requests: Mapping[int, Request]) -> dict[int, str]:
        """Send requests, fold answers until all are in or the deadline is over, close; return what went wrong."""
        patience = self._patience
        deadline = time.monotonic() + self._coordinator.deadline_seconds
        exchange = _Exchange(requests)
        self._push(grid, requests, exchange)
        pause = patience.poll
        while exchange.waiting and not self._coordinator.satisfied and (left := deadline - time.monotonic()) > 0:
            if self._pull(grid, exchange):
                pause = patience.poll
            else:
                time.sleep(min(pause, left))
                pause = min(pause * 1.5, patience.poll_most)
        satisfied = self._coordinator.satisfied
        if exchange.waiting and not satisfied:
            # Fetching one that stopped in the middle of its reply may have taken all the time; others have arrived since.
            self._pull(grid, exchange)
        for node in exchange.waiting.values():
            self._fail(node, "not-needed" if satisfied else "deadline", exchange)
        self._coordinator.close()
        return exchange.reasons | dict(self._coordinator.rejected)

    def _push(self, grid: Grid, requests: Mapping[int, Request], exchange: _Exchange) -> None:
        # Most nodes get the same request: encode it once. Push one by one: a grid leaves out the ids of messages
        # that it could not take, and then nobody knows which id is whose.
        contents: dict[Request, RecordDict] = {}
        for node, request in requests.items():
            if request not in contents:
                contents[request] = encode_request(request)
            ids = list(grid.push_messages([self._message(node, contents[request])]))
            if ids and ids[0]:
                exchange.waiting[ids[0]] = node
            else:
                self._fail(node, "not-sent", exchange)

    def _pull(self, grid: Grid, exchange: _Exchange) -> bool:
        """Fetch and fold what has arrived, a few at a time; say whether anything had."""
        further: dict[int, Request] = {}
        arrived, ids = False, list(exchange.waiting)
        while ids:
            together = self._together()
            replies = self._fetched(grid, ids[:together], exchange)
            del ids[:together]
            while replies:
                reply = replies.pop()  # the last reference but one, so that its bytes go as soon as they are folded
                node = exchange.waiting.pop(reply.metadata.reply_to_message_id, None)
                if node is None:
                    _log.info("ignored a late or double reply")
                    continue
                arrived = True
                request = self._fold(node, reply, exchange)
                if request is not None:
                    further[node] = request
        self._push(grid, further, exchange)
        return arrived

    def _fetched(self, grid: Grid, ids: list[str], exchange: _Exchange) -> list[Message]:
        """Fetch replies; one that Flower cannot put together is its sender's alone: who answered beside it is asked again."""
        try:
            return list(grid.pull_messages(ids))
        except _GARBLED as error:
            # Never the text: it may repeat what is in the reply.
            _log.warning("a reply that Flower cannot put together", replies=len(ids), error=type(error).__name__)
            self._alone = True
            if len(ids) == 1:
                self._fail(exchange.waiting.pop(ids[0]), WireError.code, exchange)
                return []
            # Flower has forgotten all of them, and whoever is asked the same again answers the same.
            lost = {name: exchange.waiting[name] for name in ids if exchange.waiting[name] not in exchange.behind}
            for name in lost:
                del exchange.waiting[name]
            self._push(grid, {node: exchange.requests[node] for node in lost.values()}, exchange)
            return []

    def _together(self) -> int:
        """Count the replies to fetch in one go: memory must not grow with the number of institutions."""
        patience = self._patience
        if self._alone:
            return 1
        return max(1, min(patience.pull, patience.pull_bytes // self._largest)) if self._largest else 1

    def _fold(self, node: int, message: Message, exchange: _Exchange) -> Request | None:
        """Give one reply to the coordinator; return the follow-up that it wants."""
        if message.has_error():
            # Never the reason: it may be the text of an institution's exception.
            self._fail(node, f"flower-error-{message.error.code}", exchange)
            return None
        try:
            reply = _reply_of(node, message)
            self._largest = max(self._largest, len(reply.blob))
            request = self._coordinator.receive(node, reply)
        except (WireError, RoundError) as error:
            self._fail(node, error.code, exchange)
            return None
        if reply.status is Status.REFUSED:
            exchange.reasons[node] = reply.code or "refused"
        if request is None:
            return None
        # An institution that cannot apply what it gets would otherwise be sent the same aggregates until the deadline.
        if reply.position <= exchange.behind.get(node, -1):
            self._fail(node, "behind", exchange)
            return None
        exchange.behind[node] = reply.position
        return request

    def _fail(self, node: int, reason: str, exchange: _Exchange) -> None:
        _log.warning("no usable answer", node=node, reason=reason)
        exchange.reasons[node] = reason
        self._coordinator.failed(node, reason)

    def _message(self, node: int, content: RecordDict) -> Message:
        ttl = self._coordinator.deadline_seconds + self._patience.keep
        return Message(content, dst_node_id=node, message_type=MessageType.TRAIN, ttl=ttl)


def _reply_of(node: int, message: Message) -> Reply:
    if message.metadata.src_node_id != node:
        raise WireError("Expected the reply to come from the node that was asked.")
    return decode_reply(message.content)


def _counted(reasons: Mapping[int, str]) -> str:
    """Return reasons with how often each was given, the commonest first."""
    counts = Counter(reasons.values())
    return ", ".join(f"{reason} ({count})" for reason, count in counts.most_common()) or "none was given"
