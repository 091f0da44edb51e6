"""Noise on the integer grid: the sensitivity that accounts rest on, what is kept, and that nothing else tells of data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dictpfl.common.errors import PackingError, RoundError
from dictpfl.common.law.finishing import carried, finish
from dictpfl.common.law.grid import step_exponents
from dictpfl.common.law.layout import Kind, Layout
from dictpfl.common.law.ledger import Ledger
from dictpfl.common.law.noise import Noise, skellam
from dictpfl.common.law.packing import unpack
from dictpfl.common.law.round import Law, begin, seal_update
from dictpfl.common.law.state import SharedState
from dictpfl.common.messages.protocol import RoundKind
from dictpfl.common.protection import Privacy
from dictpfl.common.rounds import Grid, Pruning

LAYOUT = Layout.of([("a.table", (4, 30), Kind.TABLE), ("b", (20,), Kind.DENSE)])
CAP = 16
numbers = st.floats(-1e6, 1e6, allow_nan=False, allow_subnormal=False)
noises = st.builds(Noise, st.sampled_from([1e-3, 0.7, 1.0, 30.0]), st.sampled_from([0.1, 1.0, 7.3]), st.integers(1, 9))


USUAL = Noise(1.0, 2.0, 2)


def law(noise: Noise | None = USUAL, **changes: object) -> Law:
    made = Law(LAYOUT, Pruning(), Grid(), b"\x07" * 32, bytes(32), capacity=4, payload_bits=44, sample_cap=CAP)
    return replace(made, noise=noise, **changes)  # type: ignore[arg-type]


def said() -> Ledger:
    return Ledger(1, CAP, 0.0, 0, 0.0, 0.0, np.zeros(0, np.int64))


def draw_of(noise: Noise, seed: int = 0):
    rng = np.random.default_rng(seed)
    return lambda count: skellam(rng, noise.share, count)


@given(noises, st.lists(numbers, max_size=40))
def test_no_update_moves_the_sum_further_than_the_account_says(noise: Noise, values: list[float]) -> None:
    q, rest = noise.clipped(np.array(values, dtype=np.float64))
    assert sum(int(x) ** 2 for x in q) <= noise.sensitivity**2
    assert sum(abs(int(x)) for x in q) <= noise.l1(len(values)) * (1 + 1e-12)
    step = 2.0**noise.exponent
    assert (np.abs(rest) < step).all()
    clipped = q * step + rest
    assert np.linalg.norm(clipped) <= noise.norm * (1 + 1e-9)
    if np.linalg.norm(values) <= noise.norm:
        np.testing.assert_array_equal(clipped, values)
    elif values:
        np.testing.assert_allclose(clipped, np.array(values) * (noise.norm / np.linalg.norm(values)), rtol=1e-6)


@given(noises)
def test_the_grid_is_fine_enough_for_the_noise(noise: Noise) -> None:
    deviation = noise.multiplier * noise.sensitivity
    assert 16.0 <= deviation * (1 + 1e-12) < 32.0 * (1 + 1e-12)
    assert noise.share * noise.honest == pytest.approx(deviation**2)


def test_shares_add_up_to_the_whole_and_stay_in_their_digits() -> None:
    noise = Noise(1.0, 2.0, 3)
    shares = np.stack([draw_of(noise, seed)(100_000) for seed in range(3)])
    assert np.abs(shares).max() + noise.sensitivity < noise.largest
    whole = shares.sum(axis=0)
    deviation = noise.multiplier * noise.sensitivity
    assert whole.std() == pytest.approx(deviation, rel=0.01)
    assert abs(whole.mean()) < 0.2
    # As heavy as Skellam's law says: kurtosis 3 + 1 / variance.
    assert np.mean((whole / whole.std()) ** 4) == pytest.approx(3.0 + 1.0 / deviation**2, abs=0.1)


def rounds(agreed: Law, updates: list[np.ndarray], count: int) -> list[tuple[SharedState, np.ndarray]]:
    """Rounds in which every institution sends the same update, with the ledgers' sums."""
    assert agreed.noise is not None
    state, found = agreed.start(np.zeros(LAYOUT.size)), []
    draws = [draw_of(agreed.noise, seed) for seed in range(len(updates))]
    for _ in range(count):
        plan = begin(agreed, state, RoundKind.UPDATE)
        sealed = [seal_update(agreed, plan, u, said(), d) for u, d in zip(updates, draws, strict=True)]
        total = np.sum([s.components for s in sealed], axis=0)
        state, _ = finish(agreed, state, plan, total, sealed[0].clear, contributors=len(updates))
        found.append((state, total[: agreed.ledger.size]))
    return found


def test_rounds_go_on_on_one_grid_and_the_ledger_says_nothing() -> None:
    agreed = law()
    assert agreed.noise is not None
    small, large = np.full(LAYOUT.size, 1e-6), np.full(LAYOUT.size, 1e6)
    first, second = rounds(agreed, [small] * 3, 6), rounds(agreed, [large] * 3, 6)
    for (state, ledger), (_, other) in zip(first, second, strict=True):
        np.testing.assert_array_equal(ledger, other)
        plan = begin(agreed, state, RoundKind.UPDATE)
        assert (plan.sealed.steps == 2.0**agreed.noise.exponent).all()
        assert (step_exponents(state.ranges, plan.sealed.digits.largest) == agreed.noise.exponent).all()
    assert begin(agreed, first[-1][0], RoundKind.UPDATE).sent < LAYOUT.size, "pruning goes on, on what was released"


def test_institutions_count_alike() -> None:
    assert law().weight(1) == law().weight(CAP) == law().weight(10 * CAP) == 1.0
    assert law(None).weight(4) == 0.25


def test_the_residual_never_holds_noise() -> None:
    """It would be taken back in the next round."""
    agreed = law()
    assert agreed.noise is not None
    plan = begin(agreed, agreed.start(np.zeros(LAYOUT.size)), RoundKind.UPDATE)
    update = np.random.default_rng(0).normal(scale=1e-3, size=LAYOUT.size)
    quiet = seal_update(agreed, plan, update, said(), lambda count: np.zeros(count, np.int64))
    loud = seal_update(agreed, plan, update, said(), draw_of(agreed.noise))
    np.testing.assert_array_equal(quiet.residual.values, loud.residual.values)
    assert (quiet.components != loud.components).any()
    sent = carried(agreed, plan, quiet.components, quiet.clear)
    np.testing.assert_array_equal(sent + quiet.residual.values, update)


def test_what_was_not_delivered_is_clipped_with_the_next_update() -> None:
    """A residual of any size does not widen what one institution does to a sum."""
    agreed = law()
    assert agreed.noise is not None
    plan = begin(agreed, agreed.start(np.zeros(LAYOUT.size)), RoundKind.UPDATE)
    owed = np.full(LAYOUT.size, 100.0)
    sealed = seal_update(agreed, plan, owed, said(), lambda count: np.zeros(count, np.int64))
    q = unpack(sealed.components[agreed.ledger.size :], plan.sealed.index.size, plan.sealed.digits)
    assert int((q * q).sum()) <= agreed.noise.sensitivity**2
    assert np.abs(sealed.residual.values).max() < 2.0**agreed.noise.exponent, "what clipping takes away is dropped"


def test_without_a_source_of_noise_nothing_is_sealed() -> None:
    agreed = law()
    plan = begin(agreed, agreed.start(np.zeros(LAYOUT.size)), RoundKind.UPDATE)
    with pytest.raises(RoundError, match="nothing was given to draw it from"):
        seal_update(agreed, plan, np.zeros(LAYOUT.size), said())


def test_noise_that_no_digit_holds_is_refused_at_the_start() -> None:
    """Little noise for the norm means many steps in the norm."""
    with pytest.raises(PackingError, match=r"values up to \d+ from 4 participants .* a component of 44 bits"):
        law(Noise(1.0, 1e-12, 1)).start(np.zeros(LAYOUT.size))


def test_of_a_configuration() -> None:
    assert Noise.of(Privacy(), 3) is None
    assert Noise.of(Privacy(mechanism="example", noise_multiplier=1.0), 3) is None
    wanted = Privacy(mechanism="institution", noise_multiplier=4.0, max_update_norm=0.5, curious=2)
    assert Noise.of(wanted, 5) == Noise(0.5, 4.0, 3)
