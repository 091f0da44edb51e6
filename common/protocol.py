"""What coordinator and institution say to each other, apart from how it is carried (DESIGN.md, a round as messages)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

PROTOCOL = 3
"""Version of messages and blobs; both sides refuse another."""
NEWCOMER = "new"
"""`Reply.code` of an institution that owes nothing, and needs no acknowledgements of rounds that it missed."""


class RoundKind(StrEnum):
    """What a round carries; the algebra is the same for all of them."""

    UPDATE = "update"
    """The sent coordinates of the shared vector's update."""
    SCORE = "score"
    """One score for every coordinate, from which everybody derives the same decision."""
    MEASURE = "measure"
    """Only the ledger: the shared model measured on each institution's validation data."""


class Status(StrEnum):
    """How an institution answered."""

    UPLOAD = "upload"
    """A sealed upload for the requested round."""
    SETTLED = "settled"
    """Nothing to upload was asked for; all aggregates are applied."""
    FINISHED = "finished"
    """All aggregates are applied, and all institutions agreed, by shared state alone, on no further update."""
    REVEALED = "revealed"
    """What was asked for about masks, and nothing else."""
    BEHIND = "behind"
    """Aggregates before the requested round are missing here; `position` says from which on."""
    REFUSED = "refused"
    """The institution will not take part; `code` says why, without any detail."""


class Stage(StrEnum):
    """What of a round with masks (`common.revealing`) a request asks for; without masks there is but the first."""

    UPLOAD = ""
    """An upload, or what a request without masks asks for."""
    SEEDS = "seeds"
    """Seeds of what an institution masked with those who are missing."""
    SHARES = "shares"
    """What takes the own masks off the uploads in the sum."""


class Wish(StrEnum):
    """What of a sealed snapshot (`common.snapshots`) a request asks for, beside what it asks for anyway."""

    NOTHING = ""
    HEADER = "header"
    """Its header only: whoever holds the same state makes the same, so that all can agree on what one sends."""
    WHOLE = "whole"


@dataclass(frozen=True, slots=True)
class Aggregate:
    """A closed round as every institution needs it to replay."""

    round: int
    blob: bytes
    """The sum, on the wire (`common.wire`); empty for a round that a snapshot covers, where only `counted` matters."""
    counted: tuple[bytes, ...]
    """Upload ids (16 bytes each) that are in the sum."""
    manifests: bytes = b""
    """Signed manifests of these uploads (`common.manifest`), where the federation wants them."""


@dataclass(frozen=True, slots=True)
class Request:
    """One message of the coordinator."""

    round: int
    """The round now open; aggregates of all earlier ones are supposed to be applied."""
    kind: RoundKind | None
    """What to upload; None: only apply the aggregates (the last message of a run)."""
    federation: bytes
    """Federation id, 32 bytes."""
    fingerprint: bytes
    """Key fingerprint, 32 bytes."""
    aggregates: tuple[Aggregate, ...] = ()
    snapshot: bytes = b""
    """A sealed snapshot to start from where aggregates are missing; it comes before `aggregates`."""
    wish: Wish = Wish.NOTHING
    """What to send of a snapshot of the state before this round."""
    stage: Stage = Stage.UPLOAD
    """What of a round with masks is asked for."""
    defence: bytes = b""
    """What the stage needs (`common.revealing`); for uploads, the attempt that masks are for."""
    protocol: int = PROTOCOL


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer of an institution; nothing in it depends on data, but the size of `blob`."""

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
    """Beside an upload: the note on its masks; in answer to another stage: what was asked for (`common.revealing`)."""
    manifest: bytes = b""
    """Beside an upload: its signed manifest (`common.manifest`)."""
