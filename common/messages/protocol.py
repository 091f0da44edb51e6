"""Requests of the coordinator and replies of institutions, whatever carries them (docs/explanation/how-it-works.md)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

PROTOCOL = 4
"""Version of messages and blobs; both sides refuse another."""
FOUND_ANEW = "found the federation anew from its last model (docs/reference/compatibility.md#move-from-protocol-3)"
"""Way on for parties of protocol 3, of whose files nothing can be gone on with."""
NEWCOMER = "new"
"""`Reply.code` of an institution that owes nothing, and needs no acknowledgements of rounds that it missed."""
REFUSED = "refused"
"""`Reply.code` of every refusal that comes after a message was parsed: whoever asks learns nothing of what was wrong."""
VOID = "void"
"""`Reply.code` beside a usual answer: the sum of the round before held nonsense, and the round is void everywhere."""
SCORES_DUE = "scores-due"
"""`Reply.code` of an institution that is asked for something else where scores come first: a coordinator that lost its journal hears so."""
LOCKED = "locked"
"""`Reply.code` of an institution that has refused as many sums as it may, until its operator has looked."""


class RoundKind(StrEnum):
    """Content of a round; the algebra is the same for all kinds."""

    UPDATE = "update"
    """The sent coordinates of the shared vector's update."""
    SCORE = "score"
    """One score for every coordinate, from whose sum every institution derives the same decision."""
    MEASURE = "measure"
    """The ledger alone: the shared model measured on each institution's validation data."""


class Status(StrEnum):
    """Outcome of a request at an institution."""

    UPLOAD = "upload"
    """A sealed upload for the requested round."""
    SETTLED = "settled"
    """Nothing to upload was asked for; all aggregates are applied."""
    FINISHED = "finished"
    """All aggregates are applied, and all institutions agreed, by shared state alone, on no further update."""
    REVEALED = "revealed"
    """An answer to a question about masks, and nothing else."""
    BEHIND = "behind"
    """Aggregates before the requested round are missing here; `position` says from which on."""
    REFUSED = "refused"
    """The institution will not take part; `code` says why, without any detail."""


class Stage(StrEnum):
    """Step of a round with masks (`dictpfl.common.messages.masks`); without masks there is only the first."""

    UPLOAD = ""
    """An upload, or what a request without masks asks for."""
    AGREE = "agree"
    """A signature on what is in the sum, where members are missing from it."""
    SEEDS = "seeds"
    """Seeds of what an institution masked with those who are missing."""
    SHARES = "shares"
    """Seeds and shares that take the own masks off the uploads in the sum."""


class Wish(StrEnum):
    """Part of a sealed snapshot (`dictpfl.common.messages.snapshots`) that the reply shall bring besides its answer."""

    NOTHING = ""
    HEADER = "header"
    """The header alone: equal states give equal headers, so all institutions confirm the snapshot that one sends."""
    WHOLE = "whole"


@dataclass(frozen=True, slots=True)
class Aggregate:
    """A closed round as every institution needs it to replay."""

    round: int
    blob: bytes
    """The sum, on the wire (`dictpfl.common.messages.wire`); empty for a round that a snapshot covers, where only `counted` matters."""
    counted: tuple[bytes, ...] = ()
    """Ids of the uploads in the sum, 16 bytes each. They are sent only where a snapshot covers the sum: a blob names its own."""
    manifests: bytes = b""
    """Signed manifests of these uploads (`dictpfl.common.messages.manifest`), where the federation wants them."""


@dataclass(frozen=True, slots=True)
class Request:
    """One message of the coordinator."""

    round: int
    """The round now open; aggregates of all earlier ones are supposed to be applied."""
    kind: RoundKind | None
    """Kind of upload wanted; None: only apply the aggregates (the last message of a run)."""
    federation: bytes
    """Federation id, 32 bytes."""
    fingerprint: bytes
    """Key fingerprint, 32 bytes."""
    aggregates: tuple[Aggregate, ...] = ()
    snapshot: bytes = b""
    """A sealed snapshot to start from where aggregates are missing; it comes before `aggregates`."""
    wish: Wish = Wish.NOTHING
    """Part wanted of a snapshot of the state before this round."""
    stage: Stage = Stage.UPLOAD
    """Step of a round with masks."""
    defence: bytes = b""
    """Bytes that the stage needs (`dictpfl.common.messages.masks`); for uploads, the attempt that masks are for."""
    protocol: int = PROTOCOL


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer of an institution; nothing in it depends on its data except the size of `blob`, and the `code` of an upload that was not made.

    That training diverged, or that samples do not fit, is told by such a code, and nothing more.
    """

    status: Status
    round: int
    """The round that was asked for."""
    position: int
    """First round whose aggregate is not yet applied here."""
    blob: bytes = b""
    """The sealed upload."""
    code: str = ""
    """`DictPFLError.code` of a refusal; `NEWCOMER` of one that is behind and has no memory yet."""
    snapshot: bytes = b""
    """The sealed snapshot, or its header, that was wished for."""
    defence: bytes = b""
    """Beside an upload: the note on its masks; in answer to another stage: what was asked for (`dictpfl.common.messages.masks`)."""
    manifest: bytes = b""
    """Beside an upload: its signed manifest (`dictpfl.common.messages.manifest`)."""
