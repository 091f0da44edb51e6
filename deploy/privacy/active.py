"""Active attacks on sums and ciphertexts, each tried on a real round: what is detected, and what is not.

Tried without `defences.integrity`, whose tests play the same coordinator (tests/system/test_integrity.py). The attacker changes
one thing; what an institution does with the result is the outcome. Attacks on the wire's format
(truncated, foreign, oversized blobs) are in tests/server and tests/common; here are those that a coordinator or an
institution which follows the format can try.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from client.replay import apply
from common.errors import DictPFLError, PackingError
from common.ledger import ledger_size
from common.polynomials import add_modulo, data_prime, first_polynomial
from common.protocol import Aggregate
from common.sealing import CKKSSealer
from common.wire import AGGREGATE, UPLOAD, Blob, write
from deploy.privacy.results import Adversary, Detection
from deploy.privacy.stage import Stage
from server.folding import Fold


@dataclass(frozen=True)
class Attempt:
    """One attack: `act` returns what noticed it, or raises what refused it, or returns "" where nothing did."""

    name: str
    adversary: Adversary
    act: Callable[[Stage], str]
    meaning: str
    test: str = "tests/attacks/test_active.py"


def attempts(stage: Stage) -> list[Detection]:
    """Try everything on a recorded, encrypted run of at least three rounds; what other tests hold is named besides."""
    found = list(ELSEWHERE)
    for attempt in ATTEMPTS:
        try:
            by = attempt.act(stage)
        except DictPFLError as error:
            by = f"{type(error).__name__} ({error.code})"
        found.append(
            Detection(
                attack=attempt.name,
                adversary=attempt.adversary,
                outcome="detected" if by else "not detected",
                by=by,
                meaning=attempt.meaning,
                test=attempt.test,
            )
        )
    return found


def _round(stage: Stage) -> tuple[int, list[bytes], Aggregate]:
    number = stage.update_rounds[0]
    uploads = [seen.blob for seen in stage.server.uploads_of(number).values()]
    return number, uploads, stage.server.aggregates[number]


def _applied(stage: Stage, number: int, aggregate: Aggregate) -> str:
    genesis, opener = stage.auditor.keys.at(number)
    apply(genesis, opener, stage.auditor.sums[number].before, aggregate, 3)
    return ""


def _summed(stage: Stage, number: int, uploads: list[bytes], claimed: int, ids: tuple[bytes, ...]) -> Aggregate:
    """A sum of any uploads, with any claim about it: uploads under new names pass for others'."""
    genesis, kind = stage.genesis, stage.auditor.sums[number].plan.kind
    fold = Fold(stage.server.agreement, kind, number)
    for node, upload in enumerate(uploads):
        parsed = Blob.parse(upload, genesis.uploads, direction=UPLOAD, kind=kind, round=number)
        fold.add(node, _rewritten(parsed, upload_id=bytes([node + 1]) * 16))
    blob, _, _ = fold.aggregate()
    parsed = Blob.parse(blob, genesis.aggregates, direction=AGGREGATE, kind=kind, round=number)
    return Aggregate(number, _rewritten(parsed, contributors=claimed), ids)


def _rewritten(parsed: Blob, **changes: Any) -> bytes:
    """The same content under an altered header, with a digest that fits."""
    length = parsed.header.item_length
    items = [bytes(parsed.sealed[i : i + length]) for i in range(0, len(parsed.sealed), length)]
    return write(replace(parsed.header, **changes), items, bytes(parsed.clear))


def _dropped(stage: Stage) -> str:
    number, uploads, aggregate = _round(stage)
    return _applied(stage, number, _summed(stage, number, uploads[:-1], len(uploads), aggregate.counted))


def _dropped_openly(stage: Stage) -> str:
    number, uploads, aggregate = _round(stage)
    return _applied(stage, number, _summed(stage, number, uploads[:-1], len(uploads) - 1, aggregate.counted[:-1]))


def _twice(stage: Stage) -> str:
    number, uploads, aggregate = _round(stage)
    return _applied(stage, number, _summed(stage, number, [*uploads, uploads[0]], len(uploads), aggregate.counted))


def _twice_for_another(stage: Stage) -> str:
    number, uploads, aggregate = _round(stage)
    chosen = [*uploads[:-1], uploads[0]]
    return _applied(stage, number, _summed(stage, number, chosen, len(uploads), aggregate.counted))


def _twice_to_the_fold(stage: Stage) -> str:
    number, uploads, _ = _round(stage)
    fold = Fold(stage.server.agreement, stage.auditor.sums[number].plan.kind, number)
    fold.add(1, uploads[0])
    fold.add(2, uploads[0])
    return ""


def _replayed(stage: Stage) -> str:
    _, _, aggregate = _round(stage)
    later = stage.update_rounds[1]
    return _applied(stage, later, replace(aggregate, round=later))


def _relabelled(stage: Stage) -> str:
    genesis = stage.genesis
    old, later = stage.update_rounds[-2:]
    aggregate, plan = stage.server.aggregates[old], stage.auditor.sums[old].plan
    parsed = Blob.parse(aggregate.blob, genesis.aggregates, direction=AGGREGATE, kind=plan.kind, round=old)
    tag = stage.auditor.sums[later].before.tag(genesis.seed)  # the coordinator reads it off any upload of that round
    return _applied(stage, later, Aggregate(later, _rewritten(parsed, round=later, tag=tag), aggregate.counted))


def _shifted(stage: Stage) -> str:
    """Add a number of the coordinator's own to one value of the sum: arithmetic on the first polynomial, without any key."""
    number, _, aggregate = _round(stage)
    genesis, plan = stage.genesis, stage.auditor.sums[number].plan
    parameters = genesis.parameters
    parsed = Blob.parse(aggregate.blob, genesis.aggregates, direction=AGGREGATE, kind=plan.kind, round=number)
    length = parsed.header.item_length
    items = [bytearray(parsed.sealed[i : i + length]) for i in range(0, len(parsed.sealed), length)]
    one = np.zeros(parameters.ring_degree, dtype=np.uint64)
    one[ledger_size(len(genesis.layout.entries)) + 1] = 1 << parameters.scale_bits
    add_modulo(first_polynomial(items[0], parameters), one, data_prime(parameters))
    altered = write(parsed.header, [bytes(item) for item in items], bytes(parsed.clear))
    return _applied(stage, number, replace(aggregate, blob=altered))


def _out_of_range(stage: Stage) -> str:
    genesis = stage.genesis
    key = stage.auditor.keys.key
    assert key is not None  # noqa: S101 -- an encrypted run
    try:
        next(iter(CKKSSealer(key).seal(np.array([2 ** (genesis.parameters.payload_bits - 1)]))))
    except PackingError as error:
        return f"{type(error).__name__} ({error.code}) in an institution that runs this software"
    return ""


ATTEMPTS: tuple[Attempt, ...] = (
    Attempt("drop an upload, claim it was added", "server", _dropped,
            "the encrypted count of participants differs from the claim; the round is refused"),
    Attempt("drop an upload, and say so", "server", _dropped_openly,
            "below the institution's minimum the sum is not opened; above it, a coordinator may leave anybody out, as if late"),
    Attempt("add an upload twice", "server", _twice, "the encrypted count differs from the claim; the round is refused"),
    Attempt("add an upload twice in place of another's", "server", _twice_for_another,
            "the count is right: one institution counts double and another not at all. Signed manifests (`defences.integrity`) show it"),
    Attempt("hand the same upload in for two institutions", "server", _twice_to_the_fold,
            "the honest coordinator's fold refuses the second"),
    Attempt("replay an old sum", "server", _replayed, "a sum says which round it is of, and each is applied once"),
    Attempt("replay an old sum under a new label", "server", _relabelled,
            "tags are seen in uploads and can be copied, so that labels hold no coordinator that cheats; only where the two "
            "rounds' plans differ does the sum not fit"),
    Attempt("add a number of its own to the sum", "server", _shifted,
            "ciphertexts can be added to by anybody: the model moves as the coordinator likes. The tag of "
            "`defences.integrity` shows it"),
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
