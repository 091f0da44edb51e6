"""The loop of the rounds against a fake coordinator and a grid that misbehaves."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from google.protobuf.message import DecodeError

from dictpfl.client.messages import decode_request, encode_reply
from dictpfl.common.errors import CorruptError, EngineError
from dictpfl.common.messages.protocol import Aggregate, Reply, Request, RoundKind, Status
from dictpfl.server.strategy import BlindStrategy, Patience
from tests.support import ROOT

QUICK = Patience(poll=0.001, poll_most=0.005, settle=0, remind=0.02, retry=0.001, retry_most=0.002)


@pytest.fixture(autouse=True)
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message can only be made in a process that Flower has named."""
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


def a_request(number: int = 0, kind: RoundKind | None = RoundKind.UPDATE, *aggregates: Aggregate) -> Request:
    return Request(number, kind, b"f" * 32, b"k" * 32, aggregates)


class FakeCoordinator:
    """Runs `rounds` exchanges; one counts if at least `min_participants` uploads came."""

    def __init__(self, rounds: int = 1, minimum: int = 2, deadline: float = 5.0) -> None:
        self.rounds, self.least, self.deadline_seconds = rounds, minimum, deadline
        self.satisfied = False
        self.round = 0
        self.uploads: dict[int, bytes] = {}
        self.told: list[tuple[str, int, str]] = []
        self.closed: list[dict[int, bytes]] = []

    @property
    def finished(self) -> bool:
        return self.round >= self.rounds

    @property
    def rejected(self) -> dict[int, str]:
        return {node: what for kind, node, what in self.told if kind == "failed"}

    def welcome(self, nodes: Iterable[int]) -> list[int]:
        return sorted(nodes)

    def begin(self, nodes: Sequence[int]) -> dict[int, Request]:
        self.uploads = {}
        return dict.fromkeys(nodes, a_request(self.round))

    def receive(self, node: int, reply: Reply) -> Request | None:
        self.told.append(("receive", node, reply.status))
        if reply.status is Status.BEHIND:
            return a_request(self.round, RoundKind.UPDATE, Aggregate(0, b"sum", (b"u" * 16,)))
        if reply.blob == b"broken":
            raise CorruptError("a digest that does not match")
        if reply.status is Status.UPLOAD:
            self.uploads[node] = reply.blob
        return None

    def failed(self, node: int, reason: str) -> None:
        self.told.append(("failed", node, reason))

    def close(self) -> None:
        self.closed.append(self.uploads)
        if len(self.uploads) >= self.least:
            self.round += 1


Answer = Callable[[Message, Request], Iterable[Message]]


class FakeGrid(Grid):
    """Answers each message as its node's function says, when it is asked for replies."""

    def __init__(self, **answers: Answer) -> None:
        self.answers = {int(name[1:]): answer for name, answer in answers.items()}
        self.pushed: dict[str, Message] = {}
        self.ready: list[Message] = []
        self.hidden = 0
        self.unsendable: set[int] = set()

    def set_run(self, run: Run) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Run:
        raise NotImplementedError

    def create_message(self, *_args: Any, **_options: Any) -> Message:
        raise NotImplementedError

    def send_and_receive(self, *_args: Any, **_options: Any) -> Iterable[Message]:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        self.hidden -= 1
        return list(self.answers)[: 1 if self.hidden >= 0 else None]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            node = message.metadata.dst_node_id
            if node in self.unsendable:
                continue
            name = f"{node}-{len(self.pushed)}"
            message.metadata.__dict__["_message_id"] = name
            self.pushed[name] = message
            self.ready += self.answers[node](message, decode_request(message.content))
            ids.append(name)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        assert len(list(message_ids)) <= QUICK.pull
        ready, self.ready = self.ready, []
        return ready


def replied(message: Message, status: Status = Status.UPLOAD, blob: bytes = b"x", position: int = 0) -> Message:
    return Message(encode_reply(Reply(status, 0, position, blob)), reply_to=message)


def upload(message: Message, _request: Request) -> list[Message]:
    return [replied(message)]


def silent(_message: Message, _request: Request) -> list[Message]:
    return []


def run(coordinator: FakeCoordinator, grid: Grid) -> None:
    BlindStrategy(coordinator, QUICK).start(grid)


def test_all_rounds_are_run_and_all_uploads_folded() -> None:
    coordinator = FakeCoordinator(rounds=3)
    run(coordinator, FakeGrid(n1=upload, n2=upload, n3=upload))
    assert coordinator.closed == [dict.fromkeys((1, 2, 3), b"x")] * 3


def test_more_nodes_than_are_pulled_at_once() -> None:
    coordinator = FakeCoordinator()
    run(coordinator, FakeGrid(**{f"n{node}": upload for node in range(1, 12)}))
    assert len(coordinator.closed[0]) == 11


def test_waits_until_enough_nodes_are_online() -> None:
    grid = FakeGrid(n1=upload, n2=upload)
    grid.hidden = 20
    coordinator = FakeCoordinator()
    run(coordinator, grid)
    assert coordinator.closed == [{1: b"x", 2: b"x"}]


def test_excluded_nodes_do_not_stand_in_for_those_that_are_missing() -> None:
    """It waits for institutions that may take part, and gives up no round for lack of them."""

    class Excluding(FakeCoordinator):
        looks = 0

        def welcome(self, nodes: Iterable[int]) -> list[int]:
            self.looks += 1
            return sorted(node for node in nodes if node != 3 and (node != 2 or self.looks > 20))

    coordinator = Excluding()
    run(coordinator, FakeGrid(n1=upload, n2=upload, n3=upload))
    assert coordinator.closed == [{1: b"x", 2: b"x"}]


def test_a_silent_node_holds_nobody_beyond_the_deadline() -> None:
    coordinator = FakeCoordinator(deadline=0.2)
    start = time.monotonic()
    run(coordinator, FakeGrid(n1=upload, n2=silent, n3=upload))
    assert 0.2 <= time.monotonic() - start < 1
    assert ("failed", 2, "deadline") in coordinator.told
    assert coordinator.closed == [{1: b"x", 3: b"x"}]


def test_what_arrives_while_one_is_fetched_beyond_the_deadline_counts() -> None:
    """Flower waits for the rest of a reply whose sender died in the middle; the others have sent theirs meanwhile."""

    class Stalling(FakeGrid):
        stalled = False

        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            if self.stalled:
                return super().pull_messages(message_ids)
            self.stalled = True
            time.sleep(0.3)
            return []

    coordinator = FakeCoordinator(deadline=0.2)
    run(coordinator, Stalling(n1=upload, n2=silent, n3=upload))
    assert coordinator.closed == [{1: b"x", 3: b"x"}]
    assert [told for told in coordinator.told if told[0] == "failed"] == [("failed", 2, "deadline")]


class Garbled(FakeGrid):
    """Fails at node 2's replies as Flower 1.42 does, which checks the heads of what a reply is made of and not the rest.

    It has forgotten by then all that was to be fetched with them.
    """

    error: type[Exception] = ValueError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        wanted = set(message_ids)
        ready = [reply for reply in self.ready if reply.metadata.reply_to_message_id in wanted]
        self.ready = [reply for reply in self.ready if reply not in ready]
        if any(reply.metadata.reply_to_message_id.startswith("2-") for reply in ready):
            raise self.error("Patient Doe")
        return ready


@pytest.mark.parametrize("error", [ValueError, TypeError, KeyError, AttributeError, RecursionError, DecodeError])
def test_a_reply_that_cannot_be_put_together_stops_nobody_else(
    error: type[Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    coordinator, grid = FakeCoordinator(rounds=3), Garbled(n1=upload, n2=upload, n3=upload)
    grid.error = error
    BlindStrategy(coordinator, replace(QUICK, pull=1)).start(grid)
    assert coordinator.closed == [{1: b"x", 3: b"x"}] * 3
    assert [told for told in coordinator.told if told[0] == "failed"] == [("failed", 2, "wire")] * 3
    assert "Doe" not in "".join(capsys.readouterr())


def test_who_answered_beside_one_that_cannot_be_put_together_is_asked_again() -> None:
    coordinator = FakeCoordinator(rounds=2, minimum=6, deadline=0.2)
    grid = Garbled(**{f"n{node}": upload for node in range(1, 13)})
    run(coordinator, grid)
    assert [len(uploads) for uploads in coordinator.closed] == [11, 11]
    assert len(grid.pushed) == 12 + 11 + 12, "once, whoever goes on sending such replies"
    assert coordinator.rejected[2] == "wire"


def test_a_superlink_that_is_gone_is_no_reply() -> None:
    class Gone(FakeGrid):
        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            raise ConnectionError(list(message_ids))

    with pytest.raises(ConnectionError):
        run(FakeCoordinator(), Gone(n1=upload, n2=upload))


def test_double_replies_are_folded_once() -> None:
    coordinator = FakeCoordinator()
    run(coordinator, FakeGrid(n1=lambda m, _: [replied(m), replied(m)], n2=upload))
    assert [told for told in coordinator.told if told[1] == 1] == [("receive", 1, "upload")]


def test_late_replies_do_not_count_for_the_next_exchange() -> None:
    late: list[Message] = []

    def slow(message: Message, _request: Request) -> list[Message]:
        if not late:
            late.append(replied(message, blob=b"late"))
            return []
        return [late[0], replied(message, blob=b"in time")]

    coordinator = FakeCoordinator(rounds=2, deadline=0.1)
    run(coordinator, FakeGrid(n1=slow, n2=upload, n3=upload))
    assert coordinator.closed[1][1] == b"in time"


def test_a_node_that_is_behind_gets_what_it_lacks() -> None:
    def behind(message: Message, request: Request) -> list[Message]:
        return [replied(message) if request.aggregates else replied(message, Status.BEHIND, b"")]

    coordinator = FakeCoordinator()
    run(coordinator, FakeGrid(n1=behind, n2=upload))
    assert coordinator.closed == [{1: b"x", 2: b"x"}]


def test_a_node_that_stays_behind_is_given_up() -> None:
    coordinator = FakeCoordinator(minimum=1)
    run(coordinator, FakeGrid(n1=lambda m, _: [replied(m, Status.BEHIND, b"")], n2=upload))
    assert coordinator.told.count(("receive", 1, "behind")) == 2
    assert ("failed", 1, "behind") in coordinator.told


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda m, _: [Message(Error(2, "Patient Doe has no label"), reply_to=m)], "flower-error-2"),
        (lambda m, _: [replied(m, blob=b"broken")], "corrupt"),
        (lambda m, _: [Message(RecordDict({"reply": ConfigRecord()}), reply_to=m)], "wire"),
    ],
    ids=["error reply", "refused blob", "no reply at all"],
)
def test_unusable_answers_leave_the_others_alone(
    answer: Answer, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    coordinator = FakeCoordinator()
    run(coordinator, FakeGrid(n1=answer, n2=upload, n3=upload))
    assert ("failed", 1, reason) in coordinator.told
    assert coordinator.closed == [{2: b"x", 3: b"x"}]
    assert "Doe" not in "".join(capsys.readouterr())


def test_a_reply_from_another_node_than_asked_is_refused() -> None:
    def forged(message: Message, _request: Request) -> list[Message]:
        reply = replied(message)
        reply.metadata.__dict__["_src_node_id"] = 2
        return [reply]

    coordinator = FakeCoordinator()
    run(coordinator, FakeGrid(n1=forged, n2=upload, n3=upload))
    assert ("failed", 1, "wire") in coordinator.told


def test_a_message_that_cannot_be_sent_is_not_waited_for() -> None:
    grid = FakeGrid(n1=upload, n2=upload, n3=upload)
    grid.unsendable = {2}
    coordinator = FakeCoordinator()
    run(coordinator, grid)
    assert ("failed", 2, "not-sent") in coordinator.told


def test_gives_up_when_no_exchange_brings_progress() -> None:
    def refuse(message: Message, _request: Request) -> list[Message]:
        return [Message(encode_reply(Reply(Status.REFUSED, 0, 0, code="drift")), reply_to=message)]

    coordinator = FakeCoordinator()
    with pytest.raises(EngineError, match=r"drift \(2\), deadline \(1\)|drift \(2\), flower-error-2 \(1\)"):
        run(coordinator, FakeGrid(n1=refuse, n2=refuse, n3=lambda m, _: [Message(Error(2), reply_to=m)]))
    assert len([told for told in coordinator.told if told[:2] == ("receive", 1)]) == QUICK.attempts
    # What is closed last is what `status` shows of the round: it has to say why, too.
    assert {(what, node) for what, node, _ in coordinator.told[-3:]} == {("failed", node) for node in (1, 2, 3)}


def test_a_lost_round_is_repeated() -> None:
    seen: list[int] = []

    def flaky(message: Message, request: Request) -> list[Message]:
        seen.append(request.round)
        return [Message(Error(5), reply_to=message)] if len(seen) < 4 else [replied(message)]

    coordinator = FakeCoordinator(rounds=2)
    run(coordinator, FakeGrid(n1=flaky, n2=upload))
    assert seen == [0, 0, 0, 0, 1]


BLIND = """
import sys
import dictpfl.server.app
found = [name for name in sys.modules if name.split(".")[0] in ("torch", "ray", "tenseal") or name.startswith("dictpfl.client")]
found += [name for name in sys.modules if name in ("dictpfl.common.ckks.opening", "dictpfl.common.ckks.keys")]
sys.exit(", ".join(found) or None)
"""


def test_the_server_app_loads_nothing_that_opens() -> None:
    """Law 2, in a fresh interpreter: neither torch, nor SEAL, nor `dictpfl.common.ckks.opening` comes with the coordinator or with flwr."""
    done = subprocess.run([sys.executable, "-c", BLIND], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
