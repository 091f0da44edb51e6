"""Sums of a round at an institution: opened where they are authentic, refused the first time where they are not."""

from __future__ import annotations

from pathlib import Path

import structlog

from dictpfl.client.defences.integrity import Integrity
from dictpfl.client.defences.openings import NONSENSE, openings_of
from dictpfl.client.folder import InstitutionSettings
from dictpfl.client.keys.epochs import Keyring
from dictpfl.client.memory.diary import Diary
from dictpfl.client.memory.record import Record
from dictpfl.client.replay import Applied, apply, received, require_authentic
from dictpfl.common.errors import IntegrityError, WireError
from dictpfl.common.law.members import Roster
from dictpfl.common.messages.protocol import Aggregate, RoundKind
from dictpfl.common.messages.wire import Entry, read_header

_log = structlog.get_logger(__name__)


class Sums:
    """Judge of the sums that come; `openings` is its record of what was decrypted."""

    def __init__(
        self,
        folder: Path,
        keys: Keyring,
        settings: InstitutionSettings,
        memory: Path,
        integrity: Integrity | None,
        name: str,
        diary: Diary,
    ) -> None:
        """Keep what sums are judged by.

        Args:
            folder: of the institution, for evidence.
            keys: of all epochs.
            settings: the institution's own.
            memory: path of its record.
            integrity: manifests of uploads; None where they are not agreed on.
            name: the institution's, among the members.
            diary: where refusals are noted.
        """
        self._folder, self._keys, self._settings, self._memory = folder, keys, settings, memory
        self._integrity, self._name, self._diary = integrity, name, diary
        self.read_again()

    def read_again(self) -> None:
        """Read the record of openings anew, as after its operator moved memory away."""
        self.openings = openings_of(self._keys, self._memory, self._settings.most_refused)

    def opened(self, record: Record, aggregate: Aggregate, following: bytes) -> tuple[Applied, tuple[bytes, ...]]:
        """Open a sum that is authentic; refuse one that is not, the first time that it comes.

        What is refused comes again, since the coordinator has no other sum of the round. Then the round is void, and the
        institutions go on; and so it is at once where those of the next round did that. Either way it counts as a refusal,
        and so does an authentic sum that does not open or holds nonsense, whose round is void, too.

        Returns:
            What came of it, and the ids of this institution's own uploads in it. An id alone shows nothing: others may have read it in a
            question about masks.

        Raises:
            WireError, RoundError: refused.
        """
        genesis, opener = self._keys.at(aggregate.round)
        total = received(genesis, record.shared, aggregate)
        header = total.blob.header
        self.openings.require_unlocked()
        name = (header.round, header.kind, header.attempt, total.digest)
        refused_before = self.openings.admit(*name)
        try:
            roster = self._keys.roster_at(aggregate.round)
            words = require_authentic(genesis, total, self._settings.min_participants, roster)
        except IntegrityError as error:
            void = record.shared.void(score=header.kind is RoundKind.SCORE)
            # After a rotation the others' next uploads are tagged under the new seed.
            agreed = _is_from(following, void.tag(self._keys.at(aggregate.round + 1)[0].secret_seed))
            is_void = error.reason != "members" and (refused_before or agreed)
            if not (is_void and refused_before):
                # Counted though the others agreed: the tag that shows it lies in clear in their uploads, and the coordinator has these.
                self.openings.refused(*name, error.reason)
                self._diary.note("refused", aggregate.round, len(aggregate.blob), reason=error.reason)
                self._keep_evidence(record, aggregate, error, roster)
            if is_void:
                return Applied(total.plan, None, void, f"its sum was refused: {error}"), ()
            raise
        own = self._own(record, total.blob.entries, header.round, roster)
        self.openings.opened(*name)
        done = apply(genesis, opener, record.shared, total, words)
        if done.void:
            # Before it is told: anyone who holds the seed makes right tags, and learns from each void sum (docs/decisions/0029).
            self.openings.refused(*name, NONSENSE)
        return done, own

    def _keep_evidence(self, record: Record, aggregate: Aggregate, error: IntegrityError, roster: Roster) -> None:
        if not self._integrity:
            return
        pending = record.pending
        made = pending.manifest if pending is not None and pending.round == aggregate.round else b""
        path = self._integrity.keep_evidence(self._folder, error, aggregate, made, roster)
        _log.error(
            "evidence kept of a refused sum" if path else "no evidence kept of a refused sum",
            institution=self._settings.name,
            round=aggregate.round,
            file=str(path or ""),
        )

    def _own(self, record: Record, entries: tuple[Entry, ...], number: int, roster: Roster) -> tuple[bytes, ...]:
        """Find this institution's uploads; say loudly if one in its name is not its own: only another member can have made it.

        The sum is that of uploads of members all the same, and the others apply it: whoever did not would fall out of step.
        """
        ids = [entry.upload_id for entry in entries if roster.peers[entry.member].name == self._name]
        mark = record.mark(number)
        for upload in ids:
            if not upload.startswith(mark):
                _log.error(
                    "another member sent an upload in this institution's name; tell the authority and the coordinator's operator",
                    institution=self._settings.name, round=number, upload=upload.hex(),
                )  # fmt: skip
        return tuple(upload for upload in ids if upload.startswith(mark))


def _is_from(following: bytes, tag: bytes) -> bool:
    """Tell whether the next round's sum was made from the state of this tag; what is no sum must not keep a refusal from being recorded."""
    try:
        return read_header(following).state_tag == tag
    except WireError:
        return False
