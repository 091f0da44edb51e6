"""Digests that change with every bit of the state, rounds that change nothing, and the chain of what was counted."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dictpfl.common.errors import ConfigError
from dictpfl.common.law.layout import Kind, Layout
from dictpfl.common.law.pruning import History
from dictpfl.common.law.selection import Best, Course
from dictpfl.common.law.state import NOTHING_ACKNOWLEDGED, Pace, Refresh, SharedState, acknowledging
from dictpfl.common.law.stored import of_bytes, to_bytes


def state() -> SharedState:
    rng = np.random.default_rng(0)
    history = History(rng.integers(0, 4, 11).astype(np.uint8), rng.integers(0, 9, 11).astype(np.uint8))
    refresh = Refresh(np.array([True, False]), rng.normal(size=6))
    return SharedState(
        5,
        4,
        rng.normal(size=11),
        history,
        rng.random(3),
        rng.random(11) < 0.5,
        (refresh,) * 2,
        pace=Pace(rng.random(2), np.arange(2, dtype=np.uint32)),
    )


def flip(array: np.ndarray, bit: int) -> np.ndarray:
    raw = bytearray(array.tobytes())
    raw[bit // 8] ^= 1 << (bit % 8)
    return np.frombuffer(bytes(raw), dtype=array.dtype)


def test_every_bit_of_the_state_is_in_the_digest() -> None:
    base = state()
    seen = {base.digest}
    changed = [replace(base, values=flip(base.values, b)) for b in range(11 * 64)]
    changed += [replace(base, ranges=flip(base.ranges, b)) for b in range(3 * 64)]
    changed += [replace(base, history=History(flip(base.history.idle, b), base.history.exponent)) for b in range(88)]
    changed += [replace(base, history=History(base.history.idle, flip(base.history.exponent, b))) for b in range(88)]
    one, two = base.records
    for b in range(6 * 64):
        changed.append(replace(base, records=(replace(one, values=flip(one.values, b)), two)))
        changed.append(replace(base, records=(one, replace(two, values=flip(two.values, b)))))
    changed.append(replace(base, records=(replace(one, chosen=~one.chosen), two)))
    assert base.pace is not None
    changed += [replace(base, pace=replace(base.pace, largest=flip(base.pace.largest, b))) for b in range(2 * 64)]
    changed += [replace(base, pace=replace(base.pace, age=flip(base.pace.age, b))) for b in range(2 * 32)]
    changed.append(replace(base, pace=None))
    assert base.clear is not None
    for i in range(11):
        clear = base.clear.copy()
        clear[i] ^= True
        changed.append(replace(base, clear=clear))
    changed += [
        replace(base, round=6),
        replace(base, updates=3),
        replace(base, records=base.records[:1]),
        replace(base, clear=None),
        replace(base, void_scores=1),
        replace(base, void_scores=2),
        replace(base, rescored=1),
        replace(base, rescored=2),
        replace(base, scores=np.ones(3)),
    ]
    moments = (base.values / 2, base.values**2)
    changed += [
        replace(base, moments=moments),
        replace(base, moments=moments[:1]),
        replace(base, moments=moments[::-1]),
    ]
    changed += [replace(base, moments=(flip(moments[0], b), moments[1])) for b in range(704)]
    changed += [replace(base, moments=(moments[0], flip(moments[1], b))) for b in range(704)]
    changed.append(replace(base, values=base.values[:-1]))
    best = Best(0.5, 2, 1, base.values[::-1].copy())
    course = Course(best, 0.25, 1)
    changed += [
        replace(base, course=replace(course, best=replace(best, values=flip(best.values, b)))) for b in range(704)
    ]
    changed += [replace(base, course=replace(course, best=replace(best, **other)))
                for other in ({"score": 0.75}, {"updates": 3}, {"refreshes": 2})]  # fmt: skip
    changed += [replace(base, course=other)
                for other in (course, replace(course, mark=0.5), replace(course, waited=2))]  # fmt: skip
    for other in changed:
        assert other.digest not in seen
        seen.add(other.digest)
    assert state().digest == base.digest


def test_the_tag_is_keyed() -> None:
    a, b = bytes(32), b"\x01" * 32
    assert state().tag(a) == state().tag(a) != state().tag(b)
    assert state().tag(a) != state().digest
    assert replace(state(), round=9).tag(a) != state().tag(a)
    assert replace(state(), acknowledged=b"x" * 32).tag(a) != state().tag(a), "who counted other uploads is not in step"


def test_big_endian_state_has_the_same_digest() -> None:
    base = state()
    assert replace(base, values=base.values.astype(">f8")).digest == base.digest


# Rounds that are void


@pytest.mark.parametrize("score", [False, True])
def test_a_void_round_changes_nothing_but_its_number(score: bool) -> None:
    base = state()
    after = base.void(score=score)
    assert after.round == base.round + 1
    assert after.void_scores == int(score), "a score round is made up for"
    assert after.acknowledged == acknowledging(base.acknowledged, base.round, ())
    assert replace(after, round=base.round, void_scores=0).digest == base.digest
    assert after.digest != base.digest
    assert base.round == 5, "and the state before it is as it was"
    for name in ("updates", "values", "history", "ranges", "clear", "records", "course", "pace", "moments", "scores"):
        assert getattr(after, name) is getattr(base, name)
    assert after.void(score=False).digest == base.void(score=score).void(score=False).digest
    assert after.void(score=score).void_scores == 2 * score


def test_a_void_round_is_not_one_that_was_counted() -> None:
    """Who applied a sum and who found it void notice at once: tags of their states differ."""
    base = state()
    counted = replace(
        base, round=base.round + 1, acknowledged=acknowledging(base.acknowledged, base.round, [b"u" * 16])
    )
    assert base.void(score=False).digest == counted.digest, "were it only for values"
    assert base.void(score=False).tag(bytes(32)) != counted.tag(bytes(32))


# The chain of acknowledgements

UPLOADS = st.lists(st.binary(min_size=16, max_size=16), max_size=5, unique=True)


@given(st.lists(UPLOADS, max_size=5))
def test_the_chain_is_that_of_the_specification(rounds: list[list[bytes]]) -> None:
    chain = expected = NOTHING_ACKNOWLEDGED
    for number, uploads in enumerate(rounds):
        chain = acknowledging(chain, number, uploads)
        assert chain == acknowledging(expected, number, uploads[::-1]), "in whatever order they are named"
        expected = hashlib.sha256(expected + number.to_bytes(4, "little") + b"".join(sorted(uploads))).digest()
        assert chain == expected
    assert len(chain) == 32
    assert bytes(32) == NOTHING_ACKNOWLEDGED


def test_a_chain_tells_other_uploads_rounds_and_orders_apart() -> None:
    a, b = b"a" * 16, b"b" * 16
    start = NOTHING_ACKNOWLEDGED
    one = acknowledging(start, 0, [a])
    others = [
        acknowledging(start, 0, [b]), acknowledging(start, 0, [a, b]), acknowledging(start, 0, []), acknowledging(start, 1, [a]),
        acknowledging(one, 0, [a]), acknowledging(one, 1, [b]), acknowledging(acknowledging(start, 0, [b]), 1, [a]),
        acknowledging(acknowledging(start, 0, []), 1, [a]), acknowledging(one, 1, []), start,
    ]  # fmt: skip
    assert len({one, *others}) == len(others) + 1


def test_acknowledgements_are_no_part_of_the_digest_and_are_stored() -> None:
    """Ids of uploads differ between runs that agree in everything else: `ckks` and `identity` have one digest."""
    layout = Layout.of([("t", (6,), Kind.TABLE), ("u", (3,), Kind.TABLE), ("b", (2,), Kind.DENSE)])
    base = replace(state(), acknowledged=b"c" * 32, void_scores=3, rescored=2, scores=np.ones(3))
    assert replace(base, acknowledged=bytes(32)).digest == base.digest
    again = of_bytes(to_bytes(base, bytes(32)), bytes(32), layout)
    assert (again.acknowledged, again.void_scores, again.rescored) == (b"c" * 32, 3, 2)
    assert again.digest == base.digest
    assert of_bytes(to_bytes(state(), bytes(32)), bytes(32), layout).acknowledged == NOTHING_ACKNOWLEDGED


@pytest.mark.parametrize("count", [0, 1, 2])
def test_moments_are_stored_and_what_no_rule_has_is_refused(count: int) -> None:
    layout = Layout.of([("t", (6,), Kind.TABLE), ("u", (3,), Kind.TABLE), ("b", (2,), Kind.DENSE)])
    moments = (np.linspace(-1, 1, 11), np.linspace(0, 2, 11))
    base = replace(state(), moments=moments[:count])
    again = of_bytes(to_bytes(base, bytes(32)), bytes(32), layout)
    assert again.digest == base.digest
    assert [m.tolist() for m in again.moments] == [m.tolist() for m in moments[:count]]
    wrong = [(np.ones(10),), (np.full(11, np.nan),), (np.ones(11), -np.ones(11)), (np.ones(11, dtype=np.float32),)]
    for other in wrong:
        with pytest.raises(ConfigError):
            of_bytes(to_bytes(replace(base, moments=other), bytes(32)), bytes(32), layout)


def test_stored_states_with_counts_that_cannot_be_are_refused() -> None:
    layout = Layout.of([("t", (6,), Kind.TABLE), ("u", (3,), Kind.TABLE), ("b", (2,), Kind.DENSE)])
    base = replace(state(), acknowledged=b"c" * 32, void_scores=3, scores=np.ones(3))
    for wrong in ({"acknowledged": b"short"}, {"void_scores": -1}, {"void_scores": 6}, {"rescored": 6}):
        with pytest.raises(ConfigError):
            of_bytes(to_bytes(replace(base, **wrong), bytes(32)), bytes(32), layout)  # type: ignore[arg-type]
