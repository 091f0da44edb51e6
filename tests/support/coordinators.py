"""A coordinator whose uploads are a byte or two, the member's number first: for what is not about ciphertexts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from dictpfl.common.ckks.parameters import CKKSParameters
from dictpfl.common.errors import WireError
from dictpfl.common.messages.protocol import LOCKED, REFUSED, VOID, Reply, Request, Status
from dictpfl.common.messages.wire import Limits
from dictpfl.common.protection import Encryption
from dictpfl.server.agreement import Agreement
from dictpfl.server.coordinator import AGREEMENT, Coordinator
from dictpfl.server.exchanges import round as rounds

LIMITS = Limits(b"f" * 32, b"k" * 32, 64, 5, 0, 5)
NAMES = ("berlin", "kyoto", "oslo", "quito", "turin")
DAMAGED = b"\xff"
"""What follows a member's number in an upload that the sum refuses."""
Answer = Callable[[int, Request], Reply]


class PlainFold:
    """Concatenates what a real one adds."""

    tag = b"t" * 32
    seconds = 0.5

    def __init__(
        self,
        _agreement: Agreement,
        _kind: object,
        number: int,
        attempt: int = 0,
        _owners: object = None,
    ) -> None:
        self._round, self._attempt = number, attempt
        self._uploads: dict[int, bytes] = {}

    def add(self, node: int, data: bytes, _defence: bytes = b"", _manifest: bytes = b"") -> None:
        if data[1:] == DAMAGED:
            raise WireError("damaged", code="oversized")
        if node in self._uploads or data in self._uploads.values():
            raise WireError("twice", code="duplicate")
        self._uploads[node] = data

    @property
    def count(self) -> int:
        return len(self._uploads)

    @property
    def bytes_up(self) -> int:
        return sum(map(len, self._uploads.values()))

    def nodes(self) -> list[int]:
        return list(self._uploads)

    def manifests(self) -> bytes:
        return b""

    def drifted(self) -> list[int]:
        return []

    def contradicted(self) -> list[int]:
        return []

    def aggregate(self) -> tuple[bytes, tuple[bytes, ...], int]:
        ids = tuple(bytes([self._round, *data]).ljust(16, b"-") for data in self._uploads.values())
        return b"sum %d:" % self._attempt + b"".join(self._uploads.values()), ids, 1


@pytest.fixture
def plain_uploads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uploads are bytes that name a member."""
    monkeypatch.setattr(rounds, "Fold", PlainFold)
    monkeypatch.setattr(rounds, "member_of", lambda blob: blob[0] if blob else None)


def agreement(**changes: Any) -> Agreement:
    facts: dict[str, Any] = {
        "parameters": CKKSParameters.choose(Encryption(), 5), "encrypted": True, "uploads": LIMITS, "rounds": 3, "score_rounds": 0, "min_participants": 3, "deadline_seconds": 60.0, "insecurities": (),
        "members": NAMES,
    }  # fmt: skip
    return Agreement(**(facts | changes))


def opened(folder: Path, **changes: Any) -> Coordinator:
    """A coordinator of a folder, new or not."""
    agreement(**changes).save(folder / AGREEMENT)
    return Coordinator.open(folder)


def play(coordinator: Coordinator, nodes: Sequence[int], others: Mapping[int, Answer] | None = None) -> int:
    """One exchange: nodes deliver as the members of their numbers, or answer as told; the round that was asked for."""
    requests = coordinator.begin(nodes)
    for node, request in requests.items():
        coordinator.receive(node, (others or {}).get(node, delivers)(node, request))
    coordinator.close()
    return next(request.round for request in requests.values())


def delivers(node: int, request: Request) -> Reply:
    if request.kind is None:
        return Reply(Status.SETTLED, request.round, request.round)
    return Reply(Status.UPLOAD, request.round, request.round, bytes([node]))


def refuses(_node: int, request: Request) -> Reply:
    return Reply(Status.REFUSED, request.round, request.round - 1, code=REFUSED)


def says_void(node: int, request: Request) -> Reply:
    reply = delivers(node, request)
    return Reply(reply.status, reply.round, reply.position, reply.blob, VOID)


def is_locked(_node: int, request: Request) -> Reply:
    return Reply(Status.REFUSED, request.round, request.round - 1, code=LOCKED)


def all_of(nodes: Iterable[int], answer: Answer) -> dict[int, Answer]:
    return dict.fromkeys(nodes, answer)
