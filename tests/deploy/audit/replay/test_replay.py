"""The audit's law and the product's, which share no code, on the same histories, ranges and layouts."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dictpfl.common.ckks.parameters import CKKSParameters
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError, RoundError
from dictpfl.common.law.aggregation import beginning, moved
from dictpfl.common.law.grid import step_exponents
from dictpfl.common.law.members import PairGraph
from dictpfl.common.law.noise import Noise as ProductNoise
from dictpfl.common.law.packing import Digits as ProductDigits
from dictpfl.common.law.pruning import History, advance, sent_mask
from dictpfl.common.law.pruning import judged as product_judged
from dictpfl.common.law.selection import Best, Course
from dictpfl.common.protection import Encryption, Privacy
from dictpfl.common.rounds import CLEAR_LEAST, Aggregation, Pruning, Selection
from dictpfl.deploy.audit.cipher.masks import Circle
from dictpfl.deploy.audit.cipher.ring import wire_prime
from dictpfl.deploy.audit.cipher.sealed import Parameters
from dictpfl.deploy.audit.formats.digits import Digits
from dictpfl.deploy.audit.replay.agreement import Agreement, Tensor
from dictpfl.deploy.audit.replay.noise import noise_of
from dictpfl.deploy.audit.replay.order import decides_clear, first_rounds
from dictpfl.deploy.audit.replay.plan import step_exponent
from dictpfl.deploy.audit.replay.pruning import judged, sent
from dictpfl.deploy.audit.replay.rounds import _best
from dictpfl.deploy.audit.replay.rules import first_moments
from dictpfl.deploy.audit.replay.rules import moved as ruled
from dictpfl.deploy.audit.replay.state import State

SIZE = 60


def agreement(**pruning: Any) -> Agreement:
    said = Pruning(**pruning).model_dump(mode="json")
    tensors = [Tensor("a", (20,), "table", slice(0, 20)), Tensor("b", (40,), "dense", slice(20, 60))]
    parameters = Parameters(256, 60, 11, 48, 54, 3)
    return Agreement(bytes(32), bytes(32), bytes(range(32)), 8, parameters, tensors, np.zeros(SIZE), {"pruning": said})


@settings(deadline=None, max_examples=200)
@given(
    st.integers(0, 2**32), st.integers(1, 5), st.sampled_from([0.0, 0.3, 0.7, 1.0]),
    st.sampled_from([0.001, 0.3, 0.5, 0.99]), st.sampled_from(["global", "tensor"]), st.sampled_from(["sent", "all"]),
    st.sampled_from(["smallest", "printed"]), st.sampled_from(["restart", "literal"]), st.booleans(),
)  # fmt: skip
def test_histories_go_the_same_way(
    seed: int, tau: int, s: float, beta: float, scope: str, threshold: str, quantile: str, window: str, reactivation: bool
) -> None:  # fmt: skip
    said = {
        "tau": tau, "s": s, "beta": beta, "scope": scope, "threshold": threshold, "quantile": quantile, "window": window,
        "reactivation": reactivation,
    }  # fmt: skip
    random, pruning, law = np.random.default_rng(seed), Pruning.model_validate(said), agreement(**said)
    idle = random.integers(0, tau + 1, SIZE).astype(np.uint8)
    kept = (idle == tau) | (window == "literal")  # where an active one keeps its exponent
    exponent = np.where(kept, random.integers(1, 9, SIZE), 0).astype(np.uint8)
    state = State(4, 2, np.zeros(SIZE), idle, exponent, np.ones(2))
    history, everything = History(idle, exponent), np.ones(SIZE, dtype=bool)
    mask = sent_mask(history, everything, pruning, law.seed, law.federation, 4)
    assert (sent(law, state) == mask).all()
    total = random.integers(-4, 5, SIZE) * 0.25 * mask
    after = judged(law, state, mask, total)
    index, below = product_judged(total, mask, everything, law.tensor_of.astype(np.int32), pruning)
    wanted = advance(history, index, below, pruning) if index.size else history
    assert (after.idle == wanted.idle).all()
    assert (after.exponent == wanted.exponent).all()


@settings(deadline=None, max_examples=100)
@given(
    st.integers(0, 2**32), st.sampled_from(["average", "momentum", "adagrad", "adam", "yogi"]),
    st.sampled_from([1.0, 0.1]), st.sampled_from([0.0, 0.9]), st.sampled_from([0.0, 0.99]), st.sampled_from([1e-8, 1e-3]),
)  # fmt: skip
def test_rules_move_values_alike_to_the_bit(
    seed: int, name: str, rate: float, momentum: float, second: float, floor: float
) -> None:
    random = np.random.default_rng(seed)
    rule = Aggregation(rule=name, rate=rate, momentum=momentum, second=second, floor=floor)
    law = replace(agreement(), config={"aggregation": rule.model_dump(mode="json")})
    law.tensors[0] = replace(law.tensors[0], kind="statistic")
    values, moments = random.normal(size=SIZE), beginning(rule, SIZE)
    zeros = np.zeros(SIZE, np.uint8)
    state = State(0, 0, values, zeros, zeros, np.ones(2), moments=first_moments(law))
    for _ in range(4):
        mask = random.random(SIZE) < 0.7
        mean = random.choice([0.0, -0.0, 0.5, -0.5, 1e-170, 0.1, 3e-5], SIZE) * mask
        values, moments = moved(rule, values, moments, mean, mask & ~law.of_kinds(["statistic"]))
        state = ruled(law, state, mean, mask)
        assert state.values.tobytes() == values.tobytes()
        assert [m.tobytes() for m in state.moments] == [m.tobytes() for m in moments]
    with pytest.raises(RoundError, match="not finite"):
        ruled(law, replace(state, values=np.full(SIZE, 1.7e308)), np.full(SIZE, 1.7e308), np.zeros(SIZE, dtype=bool))


def test_a_run_of_a_release_without_rules_is_one_of_averages() -> None:
    assert first_moments(agreement()) == ()
    with pytest.raises(ConfigError, match=r"aggregation.rule = 'lion'"):
        first_moments(replace(agreement(), config={"aggregation": {"rule": "lion"}}))


@given(st.floats(0, 1e6), st.integers(1, 10_000))
def test_steps_are_the_same(extent: float, largest: int) -> None:
    assert step_exponent(extent, largest) == int(step_exponents(np.array([extent]), largest)[0])


@given(st.integers(2, 16), st.integers(1, 300), st.integers(40, 55))
def test_digits_are_the_same(bits: int, capacity: int, payload: int) -> None:
    theirs = ProductDigits.fit(bits, capacity, payload)
    count = Digits.most(2 ** (bits - 1) - 1, capacity, payload).per_component
    ours = Digits.widest(count, capacity, payload)
    assert (ours.radix, ours.per_component, ours.largest) == (theirs.radix, theirs.per_component, theirs.largest)


@pytest.mark.parametrize(("members", "most"), [(3, 30), (7, 2), (40, 6)])
def test_circles_are_the_same(members: int, most: int) -> None:
    ours, theirs = Circle(members, most, bytes(32), bytes(64)), PairGraph(members, most, bytes(32), bytes(64))
    for member in range(members):
        assert tuple(ours.partners(member)) == theirs.partners(member)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("sensitivity", ["gradient", "magnitude"])
@pytest.mark.parametrize("decision", ["", "clear-least"])
def test_as_many_score_rounds_come_first(share: float, sensitivity: str, decision: str) -> None:
    changes = {
        "toy_insecure": True, "encryption.sealed_share": share, "encryption.sensitivity": sensitivity,
        "scores.decision": decision, "scores.rounds": 3,
    }  # fmt: skip
    theirs = FederationConfig.of(FederationConfig().model_dump(mode="json"), changes)
    law = replace(agreement(), config=theirs.model_dump(mode="json"))
    assert first_rounds(law) == (theirs.score_rounds, 0)
    assert decides_clear(law) == (theirs.decision == CLEAR_LEAST)


@given(st.floats(0.01, 100), st.floats(0.1, 10), st.integers(3, 30))
def test_noise_has_the_same_law(norm: float, multiplier: float, minimum: int) -> None:
    privacy = Privacy(mechanism="institution", max_update_norm=norm, noise_multiplier=multiplier)
    theirs = ProductNoise.of(privacy, minimum)
    config = {"privacy": privacy.model_dump(mode="json"), "federation": {"min_participants": minimum}}
    ours = noise_of(replace(agreement(), config=config))
    assert theirs is not None
    assert ours is not None
    assert (ours.exponent, ours.length, ours.variance) == (theirs.exponent, theirs.sensitivity, theirs.share)
    assert ours.largest == theirs.largest


def chosen(bits: int, capacity: int) -> tuple[int, int, int] | None:
    """S, V and w by section 1 of the specification."""
    choices, radix = [], 2 * capacity * (2 ** (bits - 1) - 1) + 1
    for d in range(1, 60):
        v = max(40, (radix**d).bit_length())
        s = 59 - v
        fitting = [w for w in range(40, 55) if s >= 1 and noise(capacity, w) <= 2**s / 4]
        choices += [(fitting[0] / d, v, fitting[0], s)] if fitting else []
    return min(choices)[3:] + min(choices)[1:3] if choices else None


def noise(capacity: int, bits: int) -> float:
    return 8.5 * math.sqrt(capacity * (10.5 + (2**60 / wire_prime(bits)) ** 2 / 12) + 1)


@pytest.mark.parametrize("bits", [2, 4, 8, 12, 16])
@pytest.mark.parametrize("capacity", [1, 3, 6, 8, 30, 100])
def test_parameters_are_chosen_as_the_specification_says(bits: int, capacity: int) -> None:
    made = CKKSParameters.choose(Encryption(), capacity, bits)
    assert (made.scale_bits, made.payload_bits, made.word_bits) == chosen(bits, capacity)


@given(
    st.lists(
        st.tuples(st.sampled_from(["update", "measure"]), st.sampled_from([0.0, 0.25, 0.375, 0.5]), st.booleans())
    ),
    st.integers(0, 3),
    st.sampled_from([0.0, 0.125]),
)
def test_the_course_of_figures_is_the_products(
    rounds: list[tuple[str, float, bool]], patience: int, delta: float
) -> None:
    """Of updates, and of measurements in between, which a coordinator may ask for; models may be measured twice, with other figures."""
    rules = {"by": "metric", "higher": True, "patience": patience, "min_delta": delta}
    agreed = SimpleNamespace(config={"selection": rules})
    state, course = SimpleNamespace(best=None, updates=0, taken=(), values=np.zeros(1)), Course()
    for kind, figure, further in rounds:
        ledger = SimpleNamespace(measured=8, loss=0.0, metric=8 * figure)
        state.best = _best(cast("Any", agreed), cast("Any", state), kind, cast("Any", ledger))
        now = Best(figure, state.updates, 0, state.values)
        course = course.followed(Selection(patience=patience, min_delta=delta), now, trains=kind == "update")
        assert course.best is not None
        expected = (course.best.score, course.best.updates, course.mark, course.waited)
        assert (state.best.score, state.best.updates, state.best.mark, state.best.waited) == expected
        state.updates += kind == "update" and further
