"""Coordinator and institutions in one process: the same two Flower apps, a `Grid` of plain calls in between.

For tests, demonstrations and debugging: no Ray, no sockets, no second process, and faults on demand. What one
process cannot show is the coordinator's blindness (both sides' modules are loaded) and true concurrency.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import Enum, auto
from pathlib import Path
from uuid import uuid4

from flwr.app import Context, Error, Message, RecordDict, UserConfig
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

RUN = 1
"""The one run's id; Flower's are random, and nothing of ours looks at them."""
COORDINATOR = 1
"""The coordinator's node id, the same as Flower's."""
FIRST_NODE = 1001
"""Node id of partition 0; the others follow."""

_APP_RAISED, _NODE_UNAVAILABLE = 2, 5
"""Flower's codes (`flwr.common.constant.ErrorCode`) for what faults look like from outside."""


class Fault(Enum):
    """Fault of one message."""

    NONE = auto()
    LOSE_REQUEST = auto()
    """The institution never sees the request."""
    LOSE_REPLY = auto()
    """The institution does its work, and the answer is lost."""
    DUPLICATE_REPLY = auto()
    """The answer arrives twice."""
    DELAY_REPLY = auto()
    """The answer arrives after a later message to the same institution was pushed."""
    RAISE = auto()
    """The institution's process dies before it does anything; Flower reports an error."""


Faults = Callable[[int, Message], Fault]
"""Decides, for a partition and the message to it, what goes wrong."""


class LocalGrid(Grid):
    """A grid that calls a `ClientApp` for each message, when its reply is pulled.

    An answer that is lost is reported as Flower reports a vanished node (error 5); with `silent`, nothing comes at
    all, and only the deadline ends the wait.
    """

    def __init__(
        self,
        client_app: ClientApp,
        participants: int,
        *,
        faults: Faults | None = None,
        silent: bool = False,
        on_poll: Callable[[], None] | None = None,
    ) -> None:
        self._app = client_app
        self._faults = faults or (lambda _partition, _message: Fault.NONE)
        self._silent = silent
        self._on_poll = on_poll or (lambda: None)
        self._run = Run.create_empty(RUN)
        self._contexts = {FIRST_NODE + index: _context(index, participants) for index in range(participants)}
        self._inbox: dict[str, Message] = {}
        self._outbox: deque[Message] = deque()
        self._held: dict[int, list[Message]] = {}

    def set_run(self, run: Run) -> None:
        """Set the run."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Create a message; deprecated by Flower in favour of `Message` itself."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return all nodes: in one process, all are online."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Take messages; the institutions see them when replies are pulled."""
        return [self._take(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Run the institutions that were asked, one after another, and yield each reply as it is there.

        Late and double replies are yielded as well, whoever asks: a loop has to cope with them.
        """
        for message_id in list(message_ids):
            request = self._inbox.pop(message_id, None)
            if request is not None:
                self._outbox.extend(self._deliver(request))
                self._on_poll()
            while self._outbox:
                yield self._outbox.popleft()

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Push and pull; whatever does not answer at once never will, so `timeout` is moot."""
        del timeout
        return list(self.pull_messages(self.push_messages(messages)))

    def _take(self, message: Message) -> str:
        message_id = uuid4().hex
        # Flower's grids set it the same way: a message has no public setter for its id.
        message.metadata.__dict__["_message_id"] = message_id
        self._inbox[message_id] = message
        self._outbox.extend(self._held.pop(message.metadata.dst_node_id, ()))
        return message_id

    def _deliver(self, request: Message) -> list[Message]:
        node = request.metadata.dst_node_id
        fault = self._faults(node - FIRST_NODE, request)
        if fault is Fault.LOSE_REQUEST:
            return self._lost(request)
        if fault is Fault.RAISE:
            return [_error(request, _APP_RAISED)]
        try:
            reply = self._app(request, self._contexts[node])
        except Exception as error:  # noqa: BLE001  Flower, too, turns whatever an app raises into an error reply
            return [_error(request, _APP_RAISED, f"{type(error).__name__}: {error}")]
        if fault is Fault.LOSE_REPLY:
            return self._lost(request)
        if fault is Fault.DELAY_REPLY:
            self._held.setdefault(node, []).append(reply)
            return self._lost(request)
        return [reply, reply] if fault is Fault.DUPLICATE_REPLY else [reply]

    def _lost(self, request: Message) -> list[Message]:
        return [] if self._silent else [_error(request, _NODE_UNAVAILABLE)]


def run_local(
    coordinator_folder: Path,
    institutions_folder: Path,
    participants: int,
    *,
    faults: Faults | None = None,
    silent: bool = False,
    on_poll: Callable[[], None] | None = None,
) -> None:
    """Run a federation in this process until its coordinator has finished.

    `institutions_folder` holds institution-000 and so on, as many as `participants`. Raises what the coordinator's side
    raises (`EngineError` if rounds keep failing); an institution's errors are in the log, as in a deployment.
    `on_poll`, called each time an institution has been asked and once at the end, may watch the journal grow; what it
    raises ends the run. Not for several threads at once: the apps read the process's environment.
    """
    folders = {"DICTPFL_COORDINATOR": str(coordinator_folder), "DICTPFL_INSTITUTIONS": str(institutions_folder)}
    with _environment(folders), _identity():
        # Here and not at the top: whoever imports this module does not pay for both sides.
        from dictpfl.client.app import app as client_app
        from dictpfl.deploy.simulation.naming import draws_by_name, name_nodes
        from dictpfl.server.app import app as server_app

        if draws_by_name(coordinator_folder):
            name_nodes(coordinator_folder, institutions_folder, range(FIRST_NODE, FIRST_NODE + participants))
        grid = LocalGrid(client_app, participants, faults=faults, silent=silent, on_poll=on_poll)
        server_app(grid, Context(RUN, COORDINATOR, {}, RecordDict(), {}))
        if on_poll is not None:
            on_poll()


def _context(index: int, participants: int) -> Context:
    config: UserConfig = {"partition-id": index, "num-partitions": participants}
    return Context(RUN, FIRST_NODE + index, config, RecordDict(), {})


def _error(request: Message, code: int, reason: str | None = None) -> Message:
    return Message(Error(code, reason), reply_to=request)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _identity() -> Iterator[None]:
    # Flower's processes set this when they start, and `Message` reads it; there is no public way.
    names = ("_task_id", "_run_id", "_node_id")
    before = [getattr(TaskIdentity, name) for name in names]
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, RUN, COORDINATOR
    try:
        yield
    finally:
        for name, value in zip(names, before, strict=True):
            setattr(TaskIdentity, name, value)
