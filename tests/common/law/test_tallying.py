"""Tallies by the law: opened sums are those of plain Python integers, whoever holds which sample."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dictpfl.client.training.counting import Counting, counting_form
from dictpfl.common.ckks.adding import WordSum
from dictpfl.common.ckks.keys import FederationKey, make_key
from dictpfl.common.ckks.opening import opener_for
from dictpfl.common.ckks.parameters import CKKSParameters
from dictpfl.common.ckks.sealing import CKKSSealer
from dictpfl.common.errors import ConfigError, RoundError, VoidError
from dictpfl.common.law.finishing import finish
from dictpfl.common.law.layout import Kind, Layout
from dictpfl.common.law.ledger import Ledger
from dictpfl.common.law.order import admits, due, has_ended, is_final, occasion
from dictpfl.common.law.round import begin
from dictpfl.common.law.selection import Best, Course
from dictpfl.common.law.state import SharedState
from dictpfl.common.law.stored import of_bytes, to_bytes
from dictpfl.common.law.tally import Tallied, Tally
from dictpfl.common.law.tallying import seal_tally
from dictpfl.common.law.terms import Law
from dictpfl.common.messages.protocol import RoundKind
from dictpfl.common.protection import Encryption
from dictpfl.common.rounds import CLEAR_LEAST, Grid, Pruning, Selection

FEDERATION, SCORE, UPDATE, MEASURE = b"\x09" * 32, RoundKind.SCORE, RoundKind.UPDATE, RoundKind.MEASURE
SHARED = Layout.of([("w", (2, 3), Kind.TABLE), ("b", (2,), Kind.DENSE)])
NOTHING = np.zeros(0, np.int64)
MOST_INSTITUTIONS = 20


def tally(size: int = 3, bound: int = 4, fraction: int = 6, **changes: Any) -> Tally:
    facts = {"name": "votes", "layout": Layout.of([("v", (size,), Kind.DENSE)]), "when": "opening", **changes}
    return Tally(bound=bound, fraction=fraction, **facts)


def law(*tallies: Tally, capacity: int = 3, payload_bits: int = 44, **changes: Any) -> Law:
    return Law(
        layout=SHARED, pruning=Pruning(), grid=Grid(), seed=b"\x07" * 32, federation=FEDERATION, capacity=capacity, payload_bits=payload_bits,
        sample_cap=16, tallies=tallies, **{"rounds": 2, **changes},
    )  # fmt: skip


def ledger(samples: int = 16) -> Ledger:
    return Ledger(1, samples, 0.0, 0, 0.0, 0.0, NOTHING)


@cache
def key(capacity: int) -> tuple[FederationKey, CKKSSealer]:
    made = make_key(CKKSParameters.choose(Encryption(), capacity))
    return made, CKKSSealer(made)


def opened(agreed: Law, state: SharedState, vectors: list[np.ndarray], samples: list[int]) -> SharedState:
    """Shared state after a round in which these integers crossed under CKKS."""
    made, sealer = key(agreed.capacity)
    plan, words, seeds = begin(agreed, state, SCORE), WordSum(sealer.parameters.word_prime), []
    for vector, count in zip(vectors, samples, strict=True):
        sealed = sealer.seal(seal_tally(agreed, plan, vector, ledger(count)).components)
        words.add(words.load(sealed.words))
        seeds.append(sealed.seed)
    size = agreed.ledger.size + plan.components()
    components = opener_for(sealer.parameters, made).open(words.total(), seeds, size)
    return finish(agreed, state, plan, components, NOTHING, contributors=len(vectors))[0]


def plain(value: float, weight: float, agreed: Tally) -> int:
    """One entry of one institution, by exact fractions; w v is rounded once, as IEEE 754 defines it."""
    q = round(Fraction(weight * value) * 2**agreed.fraction)
    return max(-agreed.largest, min(agreed.largest, q))


@settings(max_examples=60)
@given(st.data(), st.integers(3, 8), st.integers(1, 9), st.integers(-3, 12), st.integers(0, 22))
def test_opened_sums_are_those_of_plain_integers(
    data: st.DataObject, institutions: int, size: int, bound: int, fraction: int
) -> None:
    agreed_on = tally(size, max(bound, -fraction), fraction)
    agreed = law(agreed_on, capacity=8, payload_bits=key(8)[1].parameters.payload_bits)
    state = agreed.start(np.ones(SHARED.size))
    magnitude = st.floats(-(2.0**13), 2.0**13) | st.floats(-1, 1) | st.just(2.0**-fraction / 2)
    vectors, samples, expected = [], [], [0] * size
    for _ in range(institutions):
        values = data.draw(st.lists(magnitude, min_size=size, max_size=size))
        samples.append(data.draw(st.integers(1, 40)))
        vectors.append(agreed_on.quantised(np.array(values), agreed.weight(samples[-1])))
        row = [plain(value, min(samples[-1], 16) / 16, agreed_on) for value in values]
        expected = [total + one for total, one in zip(expected, row, strict=True)]
    after = opened(agreed, state, vectors, samples)
    (found,) = after.tallies
    assert found.sums.tolist() == expected
    assert (found.name, found.when, found.participants) == ("votes", "opening", institutions)
    assert found.samples == sum(samples)
    assert (after.round, after.updates, after.values.tolist()) == (1, 0, state.values.tolist())


@settings(max_examples=500)
@given(st.data(), st.integers(3, MOST_INSTITUTIONS), st.integers(1, 4), st.integers(0, 12))
def test_any_partition_of_samples_gives_the_sums_of_the_pooled_ones(
    data: st.DataObject, institutions: int, size: int, fraction: int
) -> None:
    """Rounding is by sample: the tally of n institutions is, to the last bit, that of one that has all the data."""
    agreed_on = counting_form([("v", (size,))], most=2, fraction=fraction).tally("votes", "opening")
    agreed = law(agreed_on, capacity=MOST_INSTITUTIONS, payload_bits=key(MOST_INSTITUTIONS)[1].parameters.payload_bits)
    seed, count = data.draw(st.integers(0, 2**32)), data.draw(st.integers(0, 60))
    random = np.random.default_rng(seed)
    values = random.normal(scale=2.5, size=(count, size))
    holder = random.integers(0, institutions, count)
    vectors = []
    for institution in range(institutions):
        counting, own = Counting(agreed_on), values[holder == institution]
        for part in np.array_split(own, 2):
            counting.add(part)
        vectors.append(counting.total())
    after = opened(agreed, agreed.start(np.ones(SHARED.size)), vectors, [16] * institutions)
    expected, most = [0] * size, 2 ** (2 + fraction)
    clipped = 0
    for row in values.tolist():
        exact = [round(Fraction(value) * 2**fraction) for value in row]
        expected = [total + max(-most, min(most, one)) for total, one in zip(expected, exact, strict=True)]
        clipped += any(abs(one) > most for one in exact)
    assert after.tallies[0].sums.tolist() == [*expected, count, clipped]


def test_sums_are_part_of_the_digest_and_of_what_is_stored() -> None:
    agreed = law(tally(), payload_bits=key(3)[1].parameters.payload_bits)
    before = agreed.start(np.ones(SHARED.size))
    after = opened(agreed, before, [np.array([1, -2, 3])] * 3, [4, 5, 6])
    assert after.tallied("votes").sums.tolist() == [3, -6, 9]
    one = after.tallies[0]
    others = [
        replace(after, tallies=()),
        replace(after, tallies=(one, one)),
        *(
            replace(after, tallies=(replace(one, **{name: value}),))
            for name, value in {
                "name": "x",
                "when": "closing",
                "participants": 2,
                "samples": 1,
                "sums": one.sums + 1,
            }.items()
        ),
    ]
    assert len({state.digest for state in [after, *others]}) == len(others) + 1
    again = of_bytes(to_bytes(after, FEDERATION), FEDERATION, SHARED, agreed.tallies)
    assert again.digest == after.digest
    assert again.tallies[0].sums.tolist() == [3, -6, 9]
    course = Course(Best(0.5, 0, 0, after.values))
    best = replace(after, course=course).at_best()
    assert best is not None
    assert best.tallies == after.tallies, "the best model goes with what was tallied"


@pytest.mark.parametrize(
    "lie",
    [
        {"name": "others"}, {"when": "closing"}, {"participants": 0}, {"samples": 0}, {"sums": np.zeros(4, np.int64)},
        {"sums": np.zeros(3)}, {"sums": np.array([0, 0, 3 * 2**10 + 1])}, {"sums": np.array([0, 0, -(2**63)])},
    ],
    ids=lambda lie: next(iter(lie)),
)  # fmt: skip
def test_a_stored_state_with_other_sums_than_agreed_is_refused(lie: dict[str, Any]) -> None:
    agreed = law(tally())
    good = Tallied("votes", "opening", 3, 48, np.array([0, 0, 3 * 2**10]))
    state = replace(agreed.start(np.ones(SHARED.size)), round=1, tallies=(good,))
    assert state.fits(SHARED, agreed.tallies)
    assert not state.fits(SHARED)
    wrong = replace(state, tallies=(replace(good, **lie),))
    with pytest.raises(ConfigError, match="a snapshot of shared state is damaged"):
        of_bytes(to_bytes(wrong, FEDERATION), FEDERATION, SHARED, agreed.tallies)


def test_what_is_not_there_is_named() -> None:
    state = replace(law().start(np.ones(8)), tallies=(Tallied("votes", "opening", 3, 9, np.zeros(1, np.int64)),))
    with pytest.raises(
        ConfigError, match=r"tally 'importance' in shared state, found votes \(opening\); name it under \[tallies\]"
    ):
        state.tallied("importance")
    with pytest.raises(ConfigError, match="'votes'"):
        state.tallied("votes", "closing")


def test_what_no_component_holds_is_refused() -> None:
    """bound + fraction + 1 + ceil(log2(K)) bits are needed; at a power of two, a digit more."""
    assert tally(bound=30, fraction=11).digits(3, 44).per_component == 1
    with pytest.raises(
        ConfigError, match=r"tally 'votes' needs 45 bits or more for sums of 3 institutions \(bound 30, fraction 12\)"
    ):
        tally(bound=30, fraction=12).digits(3, 44)
    with pytest.raises(ConfigError, match="has no entries"):
        Tally("votes", Layout.of([]), 1, 1, "opening")
    for bound, fraction in ((-5, 4), (40, 13)):
        with pytest.raises(ConfigError, match="expected bound \\+ fraction from 0 to 52"):
            tally(bound=bound, fraction=fraction)
    with pytest.raises(ConfigError, match="is of 'midway' and weighted by 'samples'"):
        tally(when="midway")


def test_what_the_agreement_forbids_is_not_sealed() -> None:
    agreed = law(tally())
    plan = begin(agreed, agreed.start(np.ones(8)), SCORE)
    for wrong, message in {
        "int64 of shape": np.zeros(4, np.int64), "found float64": np.zeros(3), "found 0 to 1025": np.array([0, 0, 1025]),
    }.items():  # fmt: skip
        with pytest.raises(RoundError, match=wrong):
            seal_tally(agreed, plan, message, ledger())
    measuring = begin(agreed, replace(agreed.start(np.ones(8)), round=1), MEASURE)
    with pytest.raises(RoundError, match="carries no tally"):
        seal_tally(agreed, measuring, np.zeros(3, np.int64), ledger())


def test_sums_beyond_what_institutions_may_send_are_void() -> None:
    """Digits are wider than the bound: who seals more than agreed would be believed without this."""
    agreed = law(tally())
    state = agreed.start(np.ones(8))
    plan = begin(agreed, state, SCORE)
    assert plan.sealed.digits.largest > 2**10
    liar = replace(tally(), bound=plan.sealed.digits.largest.bit_length() - 7)
    parts = [seal_tally(agreed, plan, np.array([2**10] * 3), ledger()).components for _ in range(2)]
    one_more = seal_tally(
        replace(agreed, tallies=(liar,)), replace(plan, tally=liar), np.array([2**10 + 1, 0, 0]), ledger()
    )
    with pytest.raises(VoidError, match="a sum of tally 'votes' is 3073, 3 institutions send at most 3072"):
        finish(agreed, state, plan, sum([*parts, one_more.components]), NOTHING, contributors=3)
    with pytest.raises(VoidError, match="expected 1 components and zeros behind them, found 2"):
        finish(agreed, state, plan, np.append(sum(parts), 5), NOTHING, contributors=2)


def after_updates(agreed: Law, updates: int, tallies: int = 0, *, rounds: int = 0, waited: int = 0) -> SharedState:
    one = Tallied("votes", "opening", 3, 9, np.zeros(3, np.int64))
    course = Course(Best(0.5, 0, 0, np.ones(8)), 0.5, waited)
    return replace(
        agreed.start(np.ones(8)),
        round=rounds or updates + tallies,
        updates=updates,
        tallies=(one,) * tallies,
        course=course,
    )


def test_opening_tallies_come_first_and_closing_ones_last() -> None:
    first, second, last = tally(), tally(name="more"), tally(when="closing")
    agreed = law(first, second, last)
    assert [due(agreed, after_updates(agreed, 0, n)) for n in (0, 1)] == [first, second]
    assert not admits(agreed, after_updates(agreed, 0, 1), UPDATE)
    assert not admits(agreed, after_updates(agreed, 0, 1), MEASURE)
    for updates, expected in ((0, None), (1, None), (2, last), (3, last)):
        state = after_updates(agreed, updates, 2)
        assert due(agreed, state) == expected
        assert admits(agreed, state, SCORE) == (expected is not None)
        assert admits(agreed, state, UPDATE)
        assert not is_final(agreed, state)
    done = after_updates(agreed, 2, 3)
    assert due(agreed, done) is None
    assert is_final(agreed, done), "a closing tally is of the final model"
    assert has_ended(agreed, done, UPDATE)
    assert has_ended(agreed, done, SCORE), "no tally is made twice"
    assert not has_ended(agreed, done, MEASURE)
    with pytest.raises(RoundError, match="asks for scores after 1 updates"):
        has_ended(agreed, after_updates(agreed, 1, 2), SCORE)


def test_closing_tallies_follow_an_early_stop() -> None:
    agreed = law(tally(when="closing"), rounds=9, selection=Selection(patience=2))
    going, stopped = (after_updates(agreed, 4, waited=waited) for waited in (1, 2))
    assert due(agreed, going) is None
    assert due(agreed, stopped) == agreed.tallies[0]
    assert has_ended(agreed, stopped, UPDATE)
    assert not has_ended(agreed, stopped, SCORE)


def test_void_rounds_are_made_up_for() -> None:
    agreed = law(tally(), tally(name="more"), tally(when="closing"))
    assert due(agreed, agreed.start(np.ones(8)).void(score=True)) == agreed.tallies[0]
    void = after_updates(agreed, 0, 1).void(score=True)
    assert due(agreed, void) == agreed.tallies[1]
    closing = replace(after_updates(agreed, 2, 2, rounds=6), void_scores=2)
    assert due(agreed, closing.void(score=True)) == agreed.tallies[2]


def test_scores_keep_their_number_until_they_are_opened() -> None:
    """Whatever rounds come in between: who helped to open a sum of them knows them again."""
    agreed = law(tally(), tally(name="more"), tally(when="closing"))
    first, second, closing = after_updates(agreed, 0), after_updates(agreed, 0, 1), after_updates(agreed, 2, 2)
    for state in (first, second, closing):
        assert occasion(agreed, state.void(score=True)) == occasion(agreed, state)
    void = closing.void(score=True)
    for later in (replace(void, round=9), void.void(score=False), replace(void, round=7, updates=3)):
        assert occasion(agreed, later) == occasion(agreed, closing)
    numbers = [occasion(agreed, state) for state in (first, second, closing)]
    anew = law(decision=CLEAR_LEAST, score_rounds=1, sealed_share=0.5, rescore_every=2, rounds=9)
    for updates in (2, 4):
        due_now = after_updates(anew, updates, rounds=updates + 1)
        sent = replace(due_now, round=updates + 2, rescored=updates)
        assert occasion(anew, due_now) == occasion(anew, sent), "they may be asked for again"
        numbers.append(occasion(anew, due_now))
    assert numbers[:2] == [0, 1]
    assert len(set(numbers)) == len(numbers)


def test_scores_of_a_decision_are_a_tally_over_the_shared_layout() -> None:
    agreed = law(tally(), decision=CLEAR_LEAST, score_rounds=1, sealed_share=0.5)
    start = agreed.start(np.ones(8))
    first = due(agreed, start)
    assert first is not None
    assert (first.name, first.layout, first.decides) == ("sensitivity", SHARED, CLEAR_LEAST)
    assert first.digits(3, 44) == begin(agreed, start, SCORE).sealed.digits
    step = begin(agreed, start, SCORE).sealed.steps
    np.testing.assert_array_equal(step, np.ldexp(1.0, -first.fraction))
    assert due(agreed, replace(start, round=1)) == agreed.tallies[0]
