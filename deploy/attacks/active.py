"""Active attacks on sums and ciphertexts, each tried on a real round: what is detected, and what is not.

The attacker changes one thing; what an institution does with the result is the outcome. Attacks on the wire's format
(truncated, foreign, oversized blobs) are in tests/server and tests/common; here are those that a coordinator or an
institution which follows the format can try.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dictpfl.client.replay import received, require_authentic
from dictpfl.common.ckks.sealing import CKKSSealer
from dictpfl.common.errors import DictPFLError, EngineError, PackingError
from dictpfl.common.messages.protocol import Aggregate
from dictpfl.common.messages.wire import AGGREGATE, UPLOAD, Blob, Entry, write
from dictpfl.common.words import add_modulo
from dictpfl.deploy.attacks.recorded import RecordedRun
from dictpfl.deploy.attacks.results import Adversary, Detection
from dictpfl.server.folding import Fold


@dataclass(frozen=True)
class Attempt:
    """Active attack.

    Attributes:
        name: for the table.
        adversary: who tries it.
        act: tries it; returns what noticed it ("": nothing did), or raises what refused it.
        meaning: for a reader of the table.
        test: file that holds the outcome.
    """

    name: str
    adversary: Adversary
    act: Callable[[RecordedRun], str]
    meaning: str
    test: str = "tests/attacks/test_active.py"


def attempts(recorded: RecordedRun) -> list[Detection]:
    """Try everything on a recorded, encrypted run of at least three rounds without masks; what other tests hold is named besides.

    Raises:
        EngineError: an honest sum that is made in the same way is refused, too, so that no refusal would mean anything.
    """
    number, uploads, _ = _round(recorded)
    try:
        _applied(recorded, number, _summed(recorded, number, uploads, uploads))
    except DictPFLError as error:
        raise EngineError(
            f"active attempts show nothing here: an honest sum, made as theirs are, is refused, too ({error})"
        ) from error
    detections = list(ELSEWHERE)
    for attempt in ATTEMPTS:
        try:
            by = attempt.act(recorded)
        except DictPFLError as error:
            by = f"{type(error).__name__} ({error.code})"
        detections.append(
            Detection(
                attack=attempt.name,
                adversary=attempt.adversary,
                outcome="detected" if by else "not detected",
                by=by,
                meaning=attempt.meaning,
                test=attempt.test,
            )
        )
    return detections


def _round(recorded: RecordedRun) -> tuple[int, list[bytes], Aggregate]:
    number = recorded.update_rounds[0]
    uploads = [seen.blob for seen in recorded.server.uploads_of(number).values()]
    return number, uploads, recorded.server.aggregates[number]


def _applied(recorded: RecordedRun, number: int, aggregate: Aggregate) -> str:
    """Have an institution check a sum as it does before it opens one."""
    genesis, _ = recorded.auditor.keys.at(number)
    total = received(genesis, recorded.auditor.sums[number].before, aggregate)
    require_authentic(genesis, total, 3, recorded.auditor.keys.roster_at(number))
    return ""


def _summed(recorded: RecordedRun, number: int, uploads: list[bytes], named: list[bytes]) -> Aggregate:
    """Add any uploads, and name any as those that are in the sum; without the honest coordinator's fold, which has limits of its own."""
    genesis, kind = recorded.genesis, recorded.auditor.sums[number].plan.kind
    blob = recorded.server.aggregates[number].blob
    parsed = Blob.parse(blob, genesis.limits, direction=AGGREGATE, kind=kind, round=number)
    words = np.zeros(parsed.header.words, dtype=np.uint64)
    for upload in uploads:
        one = Blob.parse(upload, genesis.limits, direction=UPLOAD, kind=kind, round=number)
        add_modulo(words, one.words(), genesis.parameters.word_prime)
    entries = [Blob.own(upload, genesis.parameters.word_bits).entries[0] for upload in named]
    return Aggregate(number, write(parsed.header, entries, words, parsed.word_bits, bytes(parsed.clear)))


def _rewritten(parsed: Blob, entries: Sequence[Entry], **changes: Any) -> bytes:
    """Write the same words under an altered header and other names, with a digest that fits."""
    header = replace(parsed.header, **changes)
    return write(header, entries, parsed.words(), parsed.word_bits, bytes(parsed.clear))


def _dropped(recorded: RecordedRun) -> str:
    number, uploads, _ = _round(recorded)
    return _applied(recorded, number, _summed(recorded, number, uploads[:-1], uploads))


def _dropped_openly(recorded: RecordedRun) -> str:
    number, uploads, _ = _round(recorded)
    return _applied(recorded, number, _summed(recorded, number, uploads[:-1], uploads[:-1]))


def _twice(recorded: RecordedRun) -> str:
    number, uploads, _ = _round(recorded)
    return _applied(recorded, number, _summed(recorded, number, [*uploads, uploads[0]], uploads))


def _twice_for_another(recorded: RecordedRun) -> str:
    number, uploads, _ = _round(recorded)
    return _applied(recorded, number, _summed(recorded, number, [*uploads[:-1], uploads[0]], uploads))


def _twice_to_the_fold(recorded: RecordedRun) -> str:
    number, uploads, _ = _round(recorded)
    fold = Fold(recorded.server.agreement, recorded.auditor.sums[number].plan.kind, number)
    fold.add(1, uploads[0])
    fold.add(2, uploads[0])
    return ""


def _replayed(recorded: RecordedRun) -> str:
    _, _, aggregate = _round(recorded)
    later = recorded.update_rounds[1]
    return _applied(recorded, later, replace(aggregate, round=later))


def _relabelled(recorded: RecordedRun) -> str:
    genesis = recorded.genesis
    old, later = recorded.update_rounds[-2:]
    aggregate, plan = recorded.server.aggregates[old], recorded.auditor.sums[old].plan
    parsed = Blob.parse(aggregate.blob, genesis.limits, direction=AGGREGATE, kind=plan.kind, round=old)
    # The coordinator reads the state's tag off any upload of that round.
    tag = recorded.auditor.sums[later].before.tag(genesis.secret_seed)
    return _applied(recorded, later, Aggregate(later, _rewritten(parsed, parsed.entries, round=later, state_tag=tag)))


def _shifted(recorded: RecordedRun) -> str:
    """Add a number of the coordinator's own to one value of the sum: arithmetic on words, without any key."""
    number, _, aggregate = _round(recorded)
    genesis, plan = recorded.genesis, recorded.auditor.sums[number].plan
    parameters = genesis.parameters
    parsed = Blob.parse(aggregate.blob, genesis.limits, direction=AGGREGATE, kind=plan.kind, round=number)
    one = np.zeros(parsed.header.words, dtype=np.uint64)
    one[genesis.law.ledger.size + 1] = 1 << max(0, parameters.word_bits - parameters.payload_bits - 1)
    add_modulo(one, parsed.words(), parameters.word_prime)
    altered = write(parsed.header, parsed.entries, one, parsed.word_bits, bytes(parsed.clear))
    return _applied(recorded, number, replace(aggregate, blob=altered))


def _out_of_range(recorded: RecordedRun) -> str:
    genesis = recorded.genesis
    key = recorded.auditor.keys.key
    assert key is not None  # noqa: S101 -- an encrypted run
    try:
        CKKSSealer(key).seal(np.array([2 ** (genesis.parameters.payload_bits - 1)]))
    except PackingError as error:
        return f"{type(error).__name__} ({error.code}) in an institution that runs this software"
    return ""


ATTEMPTS: tuple[Attempt, ...] = (
    Attempt("drop an upload, claim it was added", "server", _dropped,
            "the sum's tags are those of the uploads that are in it, not of those that are named; it is refused before it is opened"),
    Attempt("drop an upload, and say so", "server", _dropped_openly,
            "below the institution's minimum the sum is not opened; above it, a coordinator may leave anybody out, as if late"),
    Attempt("add an upload twice", "server", _twice, "the tags count it twice, the list once; refused before it is opened"),
    Attempt("add an upload twice in place of another's", "server", _twice_for_another,
            "the tags are those of another set of uploads than the one that is named; refused before it is opened"),
    Attempt("hand the same upload in for two institutions", "server", _twice_to_the_fold,
            "the honest coordinator's fold refuses the second"),
    Attempt("replay an old sum", "server", _replayed, "a sum says which round it is of, and each is applied once"),
    Attempt("replay an old sum under a new label", "server", _relabelled,
            "tags are made with a key of the round and the attempt; refused before it is opened"),
    Attempt("add a number of its own to the sum", "server", _shifted,
            "ciphertexts can be added to by anybody, their tags only by members; refused before it is opened"),
    Attempt("seal a value beyond the agreed range", "institution", _out_of_range,
            "refused before anything is encrypted; an institution that alters its software can seal what it likes"),
)  # fmt: skip
"""Attempts in the order of the table."""
_KEY_RECOVERY = "tests/attacks/test_key_recovery.py"
ELSEWHERE = (
    Detection(
        attack="compute the key from values that are not rounded", adversary="institution", outcome="succeeds by design", by="",
        meaning="Li and Micciancio's attack takes a second: why they never leave the module that opens",
        test=_KEY_RECOVERY,
    ),
    Detection(
        attack="compute the key from opened integers", adversary="institution", outcome="harmless", by="rounding",
        meaning="integers carry no noise, and without it the same arithmetic gives nothing", test=_KEY_RECOVERY,
    ),
)  # fmt: skip
"""Attacks that need other means than a recorded run."""
