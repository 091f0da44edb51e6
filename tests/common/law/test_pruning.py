"""TIP and HRC against the oracle, coordinate by coordinate, and their statistics."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dictpfl.common.law.pruning import (
    History,
    advance,
    forget,
    inactive,
    judged,
    reactivation_thresholds,
    sent_mask,
    smallest,
)
from dictpfl.common.rounds import Pruning
from tests.support import oracle

SEED = b"\x05" * 32


@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=40),
    st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.999, 1.0, 1e-5]),
)
def test_smallest_takes_the_floor_and_breaks_ties_by_index(ints: list[int], s: float) -> None:
    magnitudes = np.array(ints) * 0.25
    assert smallest(magnitudes, s).tolist() == oracle.least([oracle.Fraction(m) for m in magnitudes.tolist()], s)


def test_a_share_is_the_decimal_that_was_written() -> None:
    """0.7 as a double is below 7/10: floor(0.7 * 10) must be 7 all the same, and 0.29 * 100 must be 29."""
    assert smallest(np.arange(10.0), 0.7).sum() == 7
    assert smallest(np.arange(100.0), 0.29).sum() == 29


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=30), st.sampled_from([0.3, 0.5, 0.7])
)
def test_scope_tensor_takes_one_threshold_each(pairs: list[tuple[int, int]], s: float) -> None:
    pairs.sort(key=lambda pair: pair[1])
    magnitudes = np.array([m for m, _ in pairs], dtype=float)
    tensors = np.array([t for _, t in pairs], dtype=np.int32)
    found = inactive(magnitudes, tensors, Pruning(s=s, scope="tensor"))
    truth = [
        flag
        for t in sorted(set(tensors.tolist()))
        for flag in oracle.least([oracle.Fraction(m) for m, tensor in pairs if tensor == t], s)
    ]
    assert found.tolist() == truth


@pytest.mark.parametrize("beta", [0.2, 0.5, 0.8, 0.99, 0.999, 1e-3, 1e-9, 1e-12])
def test_thresholds_are_exact_and_never_zero(beta: float) -> None:
    found = reactivation_thresholds(beta)
    assert found.size == oracle.top_exponent(beta) + 1 <= 256
    assert found.tolist() == [oracle.threshold(beta, e) for e in range(found.size)]
    assert found.min() > 0
    assert found[0] == 2**32


@settings(max_examples=150)
@given(st.data(), st.sampled_from([0.2, 0.5, 0.99, 1e-3]), st.integers(1, 100))
def test_one_step_of_history(data: st.DataObject, beta: float, tau: int) -> None:
    """Every transition of TIP and HRC, written out."""
    n = data.draw(st.integers(1, 12))
    top = oracle.top_exponent(beta)
    idle = data.draw(st.lists(st.integers(0, tau), min_size=n, max_size=n))
    e = [data.draw(st.integers(1, top)) if i == tau else 0 for i in idle]
    sent = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    index = np.flatnonzero(sent)
    below = np.array(data.draw(st.lists(st.booleans(), min_size=index.size, max_size=index.size)), dtype=bool)
    before = History(np.array(idle, np.uint8), np.array(e, np.uint8))
    after = advance(before, index, below, Pruning(tau=tau, beta=beta))
    low = dict(zip(index.tolist(), below.tolist(), strict=True))
    for i in range(n):
        if i not in low:
            wanted = (idle[i], e[i])
        elif idle[i] < tau:
            count = idle[i] + 1 if low[i] else 0
            wanted = (count, int(count == tau))
        else:
            exponent = min(e[i] + 1, top) if low[i] else e[i] - 1
            wanted = (0 if exponent == 0 else tau, exponent)
        assert (after.idle[i], after.exponent[i]) == wanted
    assert before.idle.tolist() == idle
    assert before.exponent.tolist() == e


@settings(max_examples=150)
@given(st.data(), st.sampled_from([0.2, 0.5, 0.99]), st.integers(1, 5))
def test_one_step_of_the_literal_window(data: st.DataObject, beta: float, tau: int) -> None:
    """Equation 4 as printed: one round that is not under theta is enough; p then waits where it is."""
    n = data.draw(st.integers(1, 12))
    top = oracle.top_exponent(beta)
    idle = data.draw(st.lists(st.integers(0, tau), min_size=n, max_size=n))
    e = data.draw(st.lists(st.integers(0, top), min_size=n, max_size=n))
    sent = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    index = np.flatnonzero(sent)
    below = np.array(data.draw(st.lists(st.booleans(), min_size=index.size, max_size=index.size)), dtype=bool)
    pruning = Pruning(tau=tau, beta=beta, window="literal")
    after = advance(History(np.array(idle, np.uint8), np.array(e, np.uint8)), index, below, pruning)
    low = dict(zip(index.tolist(), below.tolist(), strict=True))
    for i in range(n):
        wanted = (idle[i], e[i])
        if low.get(i) is True:
            count = min(idle[i] + 1, tau)
            wanted = (count, min(e[i] + 1, top) if count == tau else e[i])
        elif i in low:
            wanted = (0, max(e[i] - 1, 0))
        assert (after.idle[i], after.exponent[i]) == wanted


def test_theta_over_all_counts_what_was_not_sent_as_nothing() -> None:
    """Of ten coordinates seven are not sent: they are the seven smallest, and none of the three is below."""
    sent = np.array([i in (2, 5, 9) for i in range(10)])
    total, tensors = np.where(sent, 0.5, 0.0), np.zeros(10, np.int32)
    everything = np.ones(10, dtype=bool)
    for threshold, wanted in (("all", [False, False, False]), ("sent", [True, True, False])):
        index, below = judged(total, sent, everything, tensors, Pruning(s=0.7, threshold=threshold))
        assert index.tolist() == [2, 5, 9]
        assert below.tolist() == wanted
    # What may not be pruned is judged by neither, and is no part of the quantile.
    index, below = judged(total, sent, np.arange(10) < 6, tensors, Pruning(s=0.9, threshold="all"))
    assert (index.tolist(), below.tolist()) == ([2, 5], [True, False])


def test_theta_as_printed_is_the_other_end() -> None:
    magnitudes, tensors = np.arange(10.0), np.zeros(10, np.int32)
    assert inactive(magnitudes, tensors, Pruning(s=0.7, quantile="printed")).tolist() == [i < 3 for i in range(10)]
    assert inactive(magnitudes, tensors, Pruning(s=0.29, quantile="printed")).sum() == 7


def test_without_reactivation_nothing_comes_back() -> None:
    """At e = 0 and beta near 1 everything would be drawn."""
    history = History(np.array([3, 2, 3], np.uint8), np.zeros(3, np.uint8))
    assert sent_mask(history, np.ones(3, bool), Pruning(), SEED).all()
    assert sent_mask(history, np.ones(3, bool), Pruning(reactivation=False), SEED).tolist() == [False, True, False]


def test_exponents_stay_in_bounds_and_the_rarest_still_comes_back() -> None:
    """A pruned coordinate that stays inactive climbs to the top and no further, and then needs as many ups."""
    pruning = Pruning(tau=1, beta=0.99)
    top = reactivation_thresholds(0.99).size - 1
    assert top == 255
    history, one = History.new(1), np.array([0])
    for _ in range(600):
        history = advance(history, one, np.array([True]), pruning)
    assert history.exponent[0] == top
    for _ in range(top):
        assert history.idle[0] == 1
        history = advance(history, one, np.array([False]), pruning)
    assert (history.idle[0], history.exponent[0]) == (0, 0)


@pytest.mark.parametrize(("beta", "e"), [(0.5, 1), (0.5, 3), (0.2, 2), (0.8, 5)])
def test_reactivation_has_its_probability(beta: float, e: int) -> None:
    n = 40_000
    history = History(np.full(n, 3, np.uint8), np.full(n, e, np.uint8))
    mask = sent_mask(history, np.ones(n, bool), Pruning(beta=beta), SEED, b"f", 1)
    p = beta**e
    assert abs(mask.mean() - p) < 5 * (p * (1 - p) / n) ** 0.5
    # No run of neighbours: coordinates are drawn independently.
    pairs = (mask[1:] & mask[:-1]).mean()
    assert abs(pairs - p * p) < 6 * (p * p / n) ** 0.5


def test_probability_one_sends_and_what_may_not_be_pruned_is_sent() -> None:
    n = 1_000
    history = History(np.full(n, 3, np.uint8), np.zeros(n, np.uint8))
    assert sent_mask(history, np.ones(n, bool), Pruning(), SEED).all()
    rare = History(np.full(n, 3, np.uint8), np.full(n, 30, np.uint8))
    prunable = np.arange(n) < 500
    mask = sent_mask(rare, prunable, Pruning(), SEED)
    assert mask[500:].all()
    assert not mask[:500].any()


def test_forgetting_makes_active() -> None:
    history = History(np.array([3, 2, 3], np.uint8), np.array([4, 0, 2], np.uint8))
    found = forget(history, np.array([True, True, False]))
    assert found.idle.tolist() == [0, 0, 3]
    assert found.exponent.tolist() == [0, 0, 2]
    assert found.idle.dtype == found.exponent.dtype == np.uint8


REPLAY = """
import numpy as np
from dictpfl.common.law.pruning import *
from dictpfl.common.rounds import Pruning
pruning, n = Pruning(s=0.6, tau=2, beta=0.5), 500
history = History.new(n)
for t in range(12):
    mask = sent_mask(history, np.arange(n) % 7 != 0, pruning, bytes(range(32)), b"federation", t)
    index = np.flatnonzero(mask & (np.arange(n) % 7 != 0))
    magnitudes = ((index * 37 + 11 * t) % 101) * 2.0**-8
    history = advance(history, index, inactive(magnitudes, np.zeros(index.size, np.int32), pruning), pruning)
print(np.packbits(mask).tobytes().hex(), history.idle.tobytes().hex(), history.exponent.tobytes().hex())
"""


def test_masks_replay_alike_in_a_fresh_process() -> None:
    command = [sys.executable, "-c", REPLAY]
    first = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    scope: dict[str, object] = {}
    printed: list[str] = []
    scope["print"] = lambda *parts: printed.append(" ".join(parts) + "\n")
    exec(REPLAY, scope)  # noqa: S102 -- the very same text as in the other process
    assert printed == [first]
    assert len(set(first.split()[1])) > 1


def test_a_draw_at_the_threshold_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "dictpfl.common.law.pruning.uint32s",
        lambda *_, count: np.array([2**31 - 1, 2**31, 2**31 + 1], np.uint32)[:count],
    )
    history = History(np.full(3, 3, np.uint8), np.ones(3, np.uint8))
    assert sent_mask(history, np.ones(3, bool), Pruning(beta=0.5), SEED).tolist() == [True, False, False]
