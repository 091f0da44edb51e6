"""Record of answers about masks, on disk before anything is told, so that one sum of a round opens and no other.

Two sums of a round that differ in one upload would give that upload away. So an institution signs one sum of an attempt, tells nothing
about another, and once it has helped to open one, delivers to no other attempt at the round.

Scores are exact, and the same each time that they are made. So where a round of scores was void and they are made again, the
sum has to hold the same members as the one that an institution helped to open: the difference is nothing then.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from dictpfl.common.errors import MemoryFileError, RoundError
from dictpfl.common.files import write_private
from dictpfl.common.messages.masks import SumQuestion


@dataclass(frozen=True)
class Marks:
    """Record about the newest round that anything was told of.

    Attributes:
        round: its number; -1: none yet.
        attempt: newest attempt that was delivered to, or told of.
        agreed: digest of the sum that was signed in that attempt, or told of, in hexadecimal; "": none.
        opened: the same digest once the sum was opened; "": it was not.
        scores: which scores were opened last, in this round or an earlier one (`Reveals.tell_of_sum`); -1: none.
        scored: members in their sum, rising.
    """

    round: int = -1
    attempt: int = 0
    agreed: str = ""
    opened: str = ""
    scores: int = -1
    scored: tuple[int, ...] = ()

    def begun(self, number: int, attempt: int = 0) -> Marks:
        """Make those of another round or attempt, of which nothing was told yet."""
        return Marks(number, attempt, scores=self.scores, scored=self.scored)


class Reveals:
    """File of the record; used under the memory's lock."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def _remedy(self) -> str:
        return (
            "a second sum could give an upload away. Only if the coordinator's journal was lost meanwhile, or an institution's memory is an "
            f"old copy, and all agree on it by phone, each removes its memory/*.told.json, here {self._path}"
        )

    def require_open(self, number: int, attempt: int) -> None:
        """Refuse an upload for this round and attempt.

        Raises:
            RoundError (reveal): the round was opened in another attempt, or a later attempt was begun.
        """
        marks = self._of(number)
        if marks.opened and attempt != marks.attempt:
            raise RoundError(
                f"round {number} was opened here in attempt {marks.attempt}, and attempt {attempt} is asked for: {self._remedy}",
                code="reveal",
            )
        if attempt < marks.attempt:
            raise RoundError(
                f"round {number} is at attempt {marks.attempt} here, {attempt} is asked for", code="reveal"
            )

    def move_on(self, number: int, attempt: int) -> None:
        """Record an upload for another attempt; nothing is told of earlier ones any more."""
        marks = self._of(number)
        if attempt != marks.attempt:
            self._keep(marks.begun(number, attempt))

    def agree(self, number: int, question: SumQuestion) -> None:
        """Record that a sum is signed, or that streams of it are told.

        Raises:
            RoundError (reveal): another sum of this attempt was signed, or one was opened.
        """
        marks = self._current(number, question.attempt)
        if (agreed := self._agreed(marks, number, question)) != marks:
            self._keep(agreed)

    def tell_of_missing(self, number: int, question: SumQuestion) -> None:
        """Record that streams with those are told who are not in the sum.

        Raises:
            RoundError (reveal): another sum of this attempt was signed, or one was opened.
        """
        if self._current(number, question.attempt).opened:
            raise RoundError(f"round {number} was opened already; no pair's stream is told any more", code="reveal")
        self.agree(number, question)

    def tell_of_sum(self, number: int, question: SumQuestion, scores: int = -1) -> None:
        """Record the sum that is opened.

        Args:
            number: of the round.
            question: names what is in the sum.
            scores: which scores these are (`dictpfl.common.law.order.occasion`); -1: no scores.

        Raises:
            RoundError (reveal): another sum was opened, or signed in this attempt, or the same scores of other members were opened in a
                round that was void.
        """
        marks, members = self._current(number, question.attempt), tuple(sorted(question.uploads))
        if scores >= 0 and marks.scores == scores and marks.scored != members:
            raise RoundError(
                f"scores of members {list(marks.scored)} were opened here, in an earlier round, and a sum of {list(members)} is asked for: their "
                "difference would be what single institutions sent. Nothing was told. The same ones have to take part again; only if all "
                f"agree by phone on others, each removes its memory/*.told.json, here {self._path}",
                code="reveal",
            )
        agreed = self._agreed(marks, number, question)
        if not marks.opened:
            opened = replace(agreed, opened=agreed.agreed)
            self._keep(replace(opened, scores=scores, scored=members) if scores >= 0 else opened)

    def _agreed(self, marks: Marks, number: int, question: SumQuestion) -> Marks:
        """Return marks that have this sum as the one that was agreed on; refuse another one than they have."""
        said = _digest(question)
        if marks.opened and marks.opened != said:
            raise RoundError(
                f"round {number} was opened already, as another sum; nothing was told: {self._remedy}", code="reveal"
            )
        if marks.agreed and marks.agreed != said:
            raise RoundError(
                f"another sum of attempt {question.attempt} at round {number} was signed here; nothing was told",
                code="reveal",
            )
        return replace(marks, agreed=said)

    def _current(self, number: int, attempt: int) -> Marks:
        marks = self._of(number)
        if attempt < marks.attempt:
            raise RoundError(
                f"attempt {attempt} at round {number} was given up here; nothing was told of it", code="reveal"
            )
        return marks if attempt == marks.attempt else marks.begun(number, attempt)

    def _of(self, number: int) -> Marks:
        marks = self._load()
        if marks.round > number:
            raise RoundError(
                f"round {number} is asked for, masks of round {marks.round} were told of here: this institution's memory or the "
                f"coordinator's journal is an old copy. Restore the newest one; if there is none, remove {self._path}",
                code="reveal",
            )
        return marks if marks.round == number else marks.begun(number)

    def _load(self) -> Marks:
        try:
            document = json.loads(self._path.read_bytes())
            return Marks(
                int(document["round"]),
                int(document["attempt"]),
                # Of a record that named whose streams were told (before 29 November 2026) nothing more is told in that attempt.
                str(document.get("agreed") or ("streams were told" if document.get("missing") else "")),
                str(document["opened"]),
                int(document.get("scores", -1)),
                tuple(int(member) for member in document.get("scored", ())),
            )
        except FileNotFoundError:
            return Marks()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise MemoryFileError(
                f"{self._path} is damaged ({type(error).__name__}): it says what was told about masks; restore it from backup"
            ) from error

    def _keep(self, marks: Marks) -> None:
        try:
            write_private(self._path, (json.dumps(asdict(marks)) + "\n").encode())
        except OSError as error:
            raise MemoryFileError(f"cannot write {self._path}: {error.strerror}; nothing was told") from error


def _digest(question: SumQuestion) -> str:
    """Digest of attempt and uploads, in hexadecimal; it does not matter who is sent which shares."""
    return hashlib.sha256(question.bare).hexdigest()
