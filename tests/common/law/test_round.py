"""Whole rounds, begin to finish, held against the plain-Python oracle over layouts and settings."""

from __future__ import annotations

import random
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dictpfl.common.arrays import Ints
from dictpfl.common.ckks.adding import ClearSum
from dictpfl.common.errors import DictPFLError, LayoutError, VoidError
from dictpfl.common.law.finishing import finish
from dictpfl.common.law.layout import Kind, Layout
from dictpfl.common.law.ledger import Ledger
from dictpfl.common.law.packing import Digits
from dictpfl.common.law.refresh import Refreshing, forgotten
from dictpfl.common.law.round import Law, Sealable, begin, seal_update
from dictpfl.common.law.state import Residual, SharedState
from dictpfl.common.messages.protocol import RoundKind
from dictpfl.common.rounds import CLEAR_LEAST, Aggregation, Grid, Pruning
from tests.support import oracle

SEED, FEDERATION = b"\x07" * 32, b"\x09" * 32


@st.composite
def agreements(draw: st.DrawFn) -> tuple[Law, oracle.Agreed]:
    """A law, and the same law in plain words."""
    tensors = draw(
        st.lists(st.tuples(st.sampled_from(["table", "dense", "statistic"]), st.integers(1, 9)), min_size=1, max_size=4)
    )
    share = draw(st.sampled_from([1.0, 1.0, 1.0, 0.1, 0.5, 0.0]))
    capacity = draw(st.sampled_from([1, 3, 5, 40, 1000]))
    payload = draw(st.integers(34, 44))
    a = oracle.Agreed(
        tensors=tensors,
        enabled=draw(st.sampled_from([True, True, True, False])),
        s=draw(st.sampled_from([0.0, 0.3, 0.5, 0.7, 0.9, 1.0])),
        tau=draw(st.integers(1, 3)),
        beta=draw(st.sampled_from([0.2, 0.5, 0.8, 0.99, 1e-3])),
        pruned=draw(st.sampled_from(["accumulate", "freeze", "discard"])),
        decay=draw(st.sampled_from([0.0, 0.5, 0.8, 1.0])),
        scope=draw(st.sampled_from(["global", "tensor"])),
        kinds=draw(st.sampled_from([("table", "dense"), ("table",), ("dense",)])),
        value_bits=draw(st.integers(2, 16)),
        headroom=draw(st.sampled_from([1.0, 2.0, 3.7])),
        first_range=draw(st.sampled_from([4.0, 0.3, 1.0])),
        seed=SEED,
        federation=FEDERATION,
        capacity=capacity,
        payload=payload,
        cap=draw(st.sampled_from([64, 100, 1])),
        sealed_share=share,
        sensitivity=draw(st.sampled_from(["gradient", "magnitude"])),
        refresh_every=draw(st.sampled_from([0, 1, 2, 3])),
        refresh_when=draw(st.sampled_from(["fixed", "stall", "stall-tensor"])),
        refresh_stall=draw(st.sampled_from([0.3, 0.6, 0.95])),
        refresh_history=draw(st.sampled_from(["forget", "keep"])),
        refresh_ranks=draw(st.sampled_from([(), (), (2,), (1, 3), (5, 2, 4)])),
        rule=draw(st.sampled_from(["average", "average", "momentum", "adagrad", "adam", "yogi"])),
        rate=draw(st.sampled_from([1.0, 1.0, 0.3, 0.01])),
        beta1=draw(st.sampled_from([0.9, 0.0, 0.37])),
        beta2=draw(st.sampled_from([0.99, 0.0, 0.9, 0.999])),
        tau_of_rule=draw(st.sampled_from([1e-3, 1e-8, 0.1])),
        threshold=draw(st.sampled_from(["sent", "all"])),
        quantile=draw(st.sampled_from(["smallest", "printed"])),
        window=draw(st.sampled_from(["restart", "literal"])),
        reactivation=draw(st.sampled_from([True, True, False])),
        first_bits=draw(st.sampled_from([10, 10, 2, 7, 16])),
    )
    selective = 0.0 < share < 1.0 and a.sensitivity == "gradient"
    law = Law(
        layout=Layout.of((f"t{i}", (n,), Kind(kind)) for i, (kind, n) in enumerate(tensors)),
        pruning=Pruning(
            enabled=a.enabled, s=a.s, tau=a.tau, beta=a.beta, pruned=a.pruned, residual_decay=a.decay, scope=a.scope,
            kinds=list(a.kinds), threshold=a.threshold, quantile=a.quantile, window=a.window, reactivation=a.reactivation,
        ),
        grid=Grid(value_bits=a.value_bits, headroom=a.headroom, first_range=a.first_range, first_bits=a.first_bits),
        seed=SEED, federation=FEDERATION, capacity=capacity, payload_bits=payload, sample_cap=a.cap,
        sealed_share=share, decision=CLEAR_LEAST if selective else "", score_rounds=int(selective),
        aggregation=Aggregation(rule=a.rule, rate=a.rate, momentum=a.beta1, second=a.beta2, floor=a.tau_of_rule),
        refresh=Refreshing(a.refresh_every, a.refresh_when, a.refresh_stall, a.refresh_history, a.refresh_ranks),
    )  # fmt: skip
    return law, a


def summed(parts: list[Ints]) -> Ints:
    return np.sum(parts, axis=0)


def summed_in_clear(parts: list[Ints]) -> Ints:
    """As the coordinator adds."""
    adder = ClearSum()
    for part in parts:
        adder.add(adder.load(part.astype("<i4").tobytes()))
    return np.frombuffer(adder.total(), dtype="<i4").astype(np.int64)


def kinds_of(law: Law, rounds: int) -> list[RoundKind]:
    """Scores first as today, and once more between updates as a later seam may."""
    scores = [RoundKind.SCORE] * law.score_rounds
    return [*scores, *[RoundKind.UPDATE] * rounds, *scores, RoundKind.UPDATE, RoundKind.MEASURE]


def require_same(state: SharedState, truth: oracle.Federation) -> None:
    assert state.round == truth.round
    assert state.updates == truth.updates
    assert state.values.tolist() == truth.x
    assert state.history.idle.tolist() == truth.idle
    assert state.history.exponent.tolist() == truth.e
    assert state.ranges.tolist() == truth.ranges
    assert [moment.tolist() for moment in state.moments] == [truth.m, truth.v][: len(state.moments)]
    assert len(state.moments) == {"average": 0, "momentum": 1}.get(truth.a.rule, 2)
    assert state.rescored == truth.rescored
    assert (None if state.clear is None else state.clear.tolist()) == truth.clear
    assert [r.values.tolist() for r in state.records] == [[v for t in row.values() for v in t] for row in truth.records]
    assert [r.chosen.tolist() for r in state.records] == [[t in row for t in truth.tables] for row in truth.records]
    if state.pace is not None:
        assert dict(zip(truth.tables, state.pace.largest.tolist(), strict=True)) == truth.largest
        assert dict(zip(truth.tables, state.pace.age.tolist(), strict=True)) == truth.age


def require_best(state: SharedState, sheet: list[tuple[Fraction, SharedState]]) -> None:
    """The first of the models with the highest share of correct answers, of which the ledger told one round later."""
    best = state.at_best()
    if not sheet:
        assert best is None
        return
    wanted = max(sheet, key=lambda row: row[0])[1]
    assert best is not None
    assert best.values.tolist() == wanted.values.tolist()
    assert (best.updates, len(best.records)) == (wanted.updates, len(wanted.records))


@settings(max_examples=120)
@given(agreements(), st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**32))
def test_rounds_equal_the_oracle(agreed: tuple[Law, oracle.Agreed], rounds: int, institutions: int, seed: int) -> None:
    law, a = agreed
    rng = random.Random(seed)
    k = min(institutions, law.capacity)
    start = [rng.choice([0.0, rng.gauss(0, 1)]) for _ in range(law.layout.size)]
    state, truth = law.start(np.array(start)), oracle.Federation(a, list(start))
    residuals = [[0.0] * law.layout.size for _ in range(k)]
    sheet: list[tuple[Fraction, SharedState]] = []
    for kind in kinds_of(law, rounds):
        plan = begin(law, state, kind)
        truth.begin(str(kind))
        assert plan.mask.tolist() == truth.mask
        assert plan.sent == sum(truth.mask)
        samples = [rng.randint(1, a.cap) for _ in range(k)]
        right = [rng.randint(0, 3) for _ in range(k)]
        if kind is not RoundKind.SCORE:
            sheet.append((Fraction(sum(right), 3 * k), state))
        sealed: list[Sealable] = []
        plain: list[oracle.Sent] = []
        for n in range(k):
            trained = [rng.choice([0.0, rng.gauss(0, 1) * 10.0 ** rng.randint(-6, 2)]) for _ in start]
            u = [w * samples[n] / a.cap + r for w, r in zip(trained, residuals[n], strict=True)]
            ledger = Ledger(1, samples[n], 0.5 * n, 3, 1.25, right[n], np.zeros(0, np.int64))
            sealed.append(seal_update(law, plan, np.array(u), ledger))
            plain.append(truth.seal(u))
            assert sealed[n].residual.values.tolist() == plain[n].residual
        components = np.concatenate([summed([one.components for one in sealed]), np.zeros(5, np.int64)])
        after, ledger = finish(
            law, state, plan, components, summed_in_clear([one.clear for one in sealed]), contributors=k
        )
        truth.finish(plain, sum(samples))
        assert (ledger.participants, ledger.samples, ledger.measured) == (k, sum(samples), 3 * k)
        assert (ledger.train_loss, ledger.loss, ledger.metric) == (0.5 * sum(range(k)), 1.25 * k, sum(right))
        require_same(after, truth)
        require_best(after, sheet)
        if kind is RoundKind.UPDATE:
            refreshes = len(state.records)
            residuals = [truth.owed(one.residual, refreshes) for one in plain]
            fresh = after.records[refreshes:]
            assert [forgotten(law.layout, one.residual, fresh).values.tolist() for one in sealed] == residuals
        state = after


@settings(max_examples=60)
@given(agreements(), st.integers(1, 6), st.integers(1, 3), st.integers(0, 2**32))
def test_error_feedback_loses_nothing(
    agreed: tuple[Law, oracle.Agreed], rounds: int, institutions: int, seed: int
) -> None:
    """With residual_decay = 1: delivered + owed = trained, exactly, through pruning, clipping and rounding."""
    law, _ = agreed
    pruning = law.pruning.model_copy(update={"residual_decay": 1.0, "pruned": "accumulate"})
    law = replace(law, pruning=pruning, refresh=Refreshing(), aggregation=Aggregation())
    rng = random.Random(seed)
    k = min(institutions, law.capacity)
    size = law.layout.size
    state = law.start(np.zeros(size))
    trained = [Fraction(0)] * size
    delivered = [Fraction(0)] * size
    residuals = [Residual.none(size)] * k
    for _ in range(rounds):
        plan = begin(law, state, RoundKind.UPDATE)
        sealed = []
        for n in range(k):
            # A dyadic grid: up to 2^4, in units of 2^-20, so that 53 bits hold every residual down to any step used.
            delta = np.array([rng.randint(-(2**20), 2**20) * 2.0 ** -rng.choice([16, 20]) for _ in range(size)])
            trained = [t + Fraction(d) for t, d in zip(trained, delta.tolist(), strict=True)]
            ledger = Ledger(1, law.sample_cap, 0.0, 0, 0.0, 0.0, np.zeros(0, np.int64))
            sealed.append(seal_update(law, plan, delta + residuals[n].values, ledger))
            residuals[n] = sealed[n].residual
        before = state.values
        state, _ = finish(
            law, replace(state, values=np.zeros(size)), plan, summed([one.components for one in sealed]),
            summed_in_clear([one.clear for one in sealed]), contributors=k,
        )  # fmt: skip
        # All samples are at the cap, so that sum(w) = K: times K is what was delivered, exactly.
        for i, value in enumerate(state.values.tolist()):
            step = {**dict(zip(plan.wide.index.tolist(), plan.wide.steps.tolist(), strict=True)),
                    **dict(zip(plan.sealed.index.tolist(), plan.sealed.steps.tolist(), strict=True)),
                    **dict(zip(plan.clear.index.tolist(), plan.clear.steps.tolist(), strict=True))}.get(i)  # fmt: skip
            if step is not None:
                delivered[i] += round(Fraction(value) * k / Fraction(step)) * Fraction(step)
        state = replace(state, values=before + state.values)
    owed = [sum((Fraction(float(r.values[i])) for r in residuals), Fraction(0)) for i in range(size)]
    # A statistic is measured anew in each round, so that nothing of it is owed.
    measured = law.layout.coordinates(Kind.STATISTIC).tolist()
    assert not any(o for o, anew in zip(owed, measured, strict=True) if anew)
    kept = zip(delivered, owed, trained, measured, strict=True)
    assert all(d + o == t for d, o, t, anew in kept if not anew)


def tiny_law(**changes: object) -> Law:
    layout = Layout.of([("t", (6,), Kind.TABLE), ("s", (2,), Kind.STATISTIC)])
    law = Law(layout, Pruning(), Grid(), SEED, FEDERATION, capacity=3, payload_bits=44, sample_cap=10)
    return replace(law, **changes)  # type: ignore[arg-type]


def one_round(law: Law, **ledger_changes: object) -> tuple[SharedState, object, Ints, Ints]:
    state = law.start(np.zeros(law.layout.size))
    plan = begin(law, state, RoundKind.UPDATE)
    ledger = replace(Ledger(1, 10, 0.0, 0, 0.0, 0.0, np.zeros(0, np.int64)), **ledger_changes)  # type: ignore[arg-type]
    sealed = seal_update(law, plan, np.arange(8.0) / 8, ledger)
    return state, plan, sealed.components, sealed.clear


@pytest.mark.parametrize("sealed_share", [1.0, 0.0])
def test_a_statistic_that_every_institution_measures_alike_is_reached_and_never_passed(sealed_share: float) -> None:
    """A running variance of 30, from 1 on: what the first range cuts off must not be sent on top of what is measured anew."""
    law = tiny_law(sealed_share=sealed_share)
    state, residuals, course = law.start(np.ones(8)), [np.zeros(8)] * 3, []
    for _ in range(8):
        plan = begin(law, state, RoundKind.UPDATE)
        local = np.concatenate([state.values[:6], [30.0, 30.0]])
        ledger = Ledger(1, 10, 0.0, 0, 0.0, 0.0, np.zeros(0, np.int64))
        sealed = [seal_update(law, plan, local - state.values + r, ledger) for r in residuals]
        residuals = [one.residual.values for one in sealed]
        components, clear = summed([one.components for one in sealed]), summed_in_clear([one.clear for one in sealed])
        state, _ = finish(law, state, plan, components, clear, contributors=3)
        course.append(float(state.values[6]))
    assert course[0] < 10, "the first range cuts it"
    assert course[-1] == pytest.approx(30, abs=0.02)
    assert max(course) < 30.02


def test_statistics_are_never_pruned() -> None:
    law = tiny_law(pruning=Pruning(s=1.0, tau=1, beta=0.2))
    state = law.start(np.zeros(8))
    for _ in range(12):
        plan = begin(law, state, RoundKind.UPDATE)
        assert plan.mask[6:].all()
        sealed = seal_update(law, plan, np.zeros(8), Ledger(1, 10, 0.0, 0, 0.0, 0.0, np.zeros(0, np.int64)))
        state, _ = finish(law, state, plan, sealed.components, sealed.clear, contributors=1)
    assert (state.history.idle[:6] == 1).all()
    assert not state.history.idle[6:].any()


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_statistics_stay_sealed_when_a_share_crosses_in_clear(share: float) -> None:
    law = tiny_law(sealed_share=share)
    assert not law.start(np.zeros(8)).clear[6:].any()  # type: ignore[index]


def test_finish_refuses_and_changes_nothing() -> None:
    law = tiny_law()
    state, plan, components, clear = one_round(law)
    digest = state.digest
    with pytest.raises(VoidError, match="2 uploads are in the sum, their ledgers count 1"):
        finish(law, state, plan, components, clear, contributors=2)
    with pytest.raises(VoidError, match="zeros behind"):
        finish(law, state, plan, np.append(components, 1), clear, contributors=1)
    with pytest.raises(VoidError, match="zeros behind"):
        finish(law, state, plan, components[:-1], clear, contributors=1)
    with pytest.raises(VoidError, match="zeros behind"):
        finish(law, state, plan, components, np.ones(1, np.int64), contributors=1)
    assert state.digest == digest
    assert finish(law, state, plan, np.append(components, [0, 0]), clear, contributors=1)[0].round == 1, "padding"


def test_finish_refuses_a_sum_without_samples() -> None:
    law = tiny_law()
    state, plan, components, clear = one_round(law, samples=0)
    with pytest.raises(VoidError, match="no training samples"):
        finish(law, state, plan, components, clear, contributors=1)


@pytest.mark.parametrize("rule", ["average", "momentum", "adagrad", "adam", "yogi"])
def test_finish_refuses_values_that_no_float_holds(rule: str) -> None:
    """Ranges that one institution drove up for hundreds of rounds: the last step is void and leaves no infinity behind."""
    law = tiny_law(aggregation=Aggregation(rule=rule), pruning=Pruning(enabled=False))
    state = replace(law.start(np.zeros(8)), values=np.full(8, 1.7e308), ranges=np.full(2, 1e307))
    plan = begin(law, state, RoundKind.UPDATE)
    ledger = Ledger(1, 1, 0.0, 0, 0.0, 0.0, np.zeros(0, np.int64))
    sealed = seal_update(law, plan, np.full(8, 9e306), ledger)
    with pytest.raises(VoidError, match="would not be finite"):
        finish(law, state, plan, sealed.components, sealed.clear, contributors=1)
    assert (state.values == 1.7e308).all()
    assert not any(moment.any() for moment in state.moments)


def test_weights_and_genesis_values() -> None:
    law = tiny_law()
    assert [law.weight(n) for n in (1, 5, 10, 11, 10**9)] == [0.1, 0.5, 1.0, 1.0, 1.0]
    with pytest.raises(LayoutError):
        law.start(np.zeros(7))


@pytest.mark.parametrize("capacity", [3, 100])
def test_round_0_measures_ranges_up_to_first_range(capacity: int) -> None:
    law = tiny_law(capacity=capacity, payload_bits=42, grid=Grid(headroom=2.0, first_range=4.0))
    state = law.start(np.zeros(8))
    plan = begin(law, state, RoundKind.UPDATE)
    sealed = seal_update(law, plan, np.full(8, 1.5), Ledger(1, 10, 0.0, 0, 0.0, 0.0, np.zeros(0, np.int64)))
    after, _ = finish(law, state, plan, sealed.components, sealed.clear, contributors=1)
    assert after.ranges.tolist() == pytest.approx([3.0, 3.0], rel=1e-3)


def test_a_ledger_of_nobody_is_refused() -> None:
    law = tiny_law()
    state, plan, components, clear = one_round(law)
    with pytest.raises(VoidError, match="does not follow"):
        finish(law, state, plan, np.zeros_like(components), clear, contributors=0)


def test_begin_is_pure_and_round_and_federation_change_the_draw() -> None:
    law = tiny_law(pruning=Pruning(tau=1, beta=0.5))
    size = 4_000
    law = replace(law, layout=Layout.of([("t", (size,), Kind.TABLE)]))
    state = law.start(np.zeros(size))
    state = replace(
        state, history=replace(state.history, idle=np.ones(size, np.uint8), exponent=np.ones(size, np.uint8))
    )
    first, again = begin(law, state, RoundKind.UPDATE), begin(law, state, RoundKind.UPDATE)
    assert (first.mask == again.mask).all()
    later = begin(law, replace(state, round=1), RoundKind.UPDATE)
    other = begin(replace(law, federation=b"\x01" * 32), state, RoundKind.UPDATE)
    assert 1_600 < (first.mask != later.mask).sum() < 2_400
    assert 1_600 < (first.mask != other.mask).sum() < 2_400
    assert 1_800 < first.mask.sum() < 2_200


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_update_that_is_not_finite_is_refused(bad: float) -> None:
    law = tiny_law()
    plan = begin(law, law.start(np.zeros(8)), RoundKind.UPDATE)
    update = np.zeros(8)
    update[2] = bad
    with pytest.raises(DictPFLError):
        seal_update(law, plan, update, Ledger(1, 10, 0.0, 0, 0.0, 0.0, np.zeros(0, np.int64)))


def test_statistics_travel_apart_in_at_least_twelve_bits() -> None:
    """Few bits would spoil running means and variances; updates of everything else take as few as the grid says."""
    law = tiny_law(grid=Grid(value_bits=2), pruning=Pruning(enabled=False))
    state = law.start(np.zeros(8))
    assert state.ranges.tolist() == [law.grid.first_range, 4.0]
    for updates, bits in ((0, 10), (5, 2)):
        plan = begin(law, replace(state, updates=updates), RoundKind.UPDATE)
        assert (plan.sealed.index.tolist(), plan.wide.index.tolist()) == ([0, 1, 2, 3, 4, 5], [6, 7])
        assert plan.wide.digits.largest >= 2**11 - 1
        assert plan.sealed.digits == Digits.fit(bits, law.capacity, law.payload_bits)
        assert plan.components() == plan.wide.digits.components(2) + plan.sealed.digits.components(6)
        assert plan.sent == 8
    for kind in (RoundKind.SCORE, RoundKind.MEASURE):
        assert not begin(replace(law, decision=CLEAR_LEAST), state, kind).wide.index.size
