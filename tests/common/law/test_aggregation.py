"""Server-side rules: value by value as the oracle has them, and over many rounds as Flower has them."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from flwr.common import Code, FitRes, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.common import Status as FitStatus
from flwr.server.strategy import FedAdagrad, FedAdam, FedAvg, FedAvgM, FedYogi
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__
from numpy.typing import NDArray

from dictpfl.common.errors import VoidError
from dictpfl.common.law.aggregation import Moments, anew, beginning, moved
from dictpfl.common.rounds import Aggregation
from tests.support import oracle

Floats = NDArray[np.float64]
RULES = ["average", "momentum", "adagrad", "adam", "yogi"]
KEPT = dict(zip(RULES, (0, 1, 2, 2, 2), strict=True))
SOME = [0.0, 0.5, -0.5, 0.25, 1e-3, 1e-160, -3e-9, 7.0, 0.1]
"""Few numbers, so that squares meet the moments that they are compared with."""


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(RULES),
    st.sampled_from([1.0, 0.3, 1e-4]),
    st.sampled_from([0.9, 0.0, 0.37]),
    st.sampled_from([0.99, 0.0, 0.5, 0.999]),
    st.sampled_from([1e-3, 1e-8, 0.1]),
    st.lists(st.lists(st.tuples(st.sampled_from(SOME), st.booleans()), min_size=4, max_size=4), min_size=1, max_size=5),
)
def test_every_value_and_moment_is_the_oracles(
    name: str, rate: float, beta1: float, beta2: float, floor: float, rounds: list[list[tuple[float, bool]]]
) -> None:
    rule = Aggregation(rule=name, rate=rate, momentum=beta1, second=beta2, floor=floor)
    agreed = oracle.Agreed.__new__(oracle.Agreed)
    for field, value in (("rule", name), ("rate", rate), ("beta1", beta1), ("beta2", beta2), ("tau_of_rule", floor)):
        object.__setattr__(agreed, field, value)
    x = [0.25, -1.5, 0.0, 1e-7]
    m, v = [0.0] * 4, [0.0] * 4
    values, moments = np.array(x), beginning(rule, 4)
    for sent in rounds:
        d = np.array([number for number, _ in sent])
        ruled = np.array([is_ruled for _, is_ruled in sent])
        values, moments = moved(rule, values, moments, d, ruled)
        for i, (number, is_ruled) in enumerate(sent):
            change = number
            if is_ruled:
                change, m[i], v[i] = oracle.by_rule(agreed, m[i], v[i], number)
            x[i] = oracle.plus(x[i], change)
        assert values.tolist() == x
        assert [moment.tolist() for moment in moments] == [m, v][: KEPT[name]]


def averaged(strategy: FedAvg, number: int, update: Floats, values: Floats) -> None:
    """One round of Flower's, whose only client moved the values by an update."""
    told = FitRes(FitStatus(Code.OK, ""), ndarrays_to_parameters([values + update]), 1, {})
    strategy.aggregate_fit(number, [(None, told)], [])  # type: ignore[list-item]


@pytest.mark.parametrize("tau", [1e-9, 1e-3])
@pytest.mark.parametrize("name", ["momentum", "adagrad", "adam", "yogi"])
def test_thirty_rounds_are_those_of_flower(name: str, tau: float) -> None:
    """Flower's FedAdam alone corrects for bias, by a factor on the rate; FedAvgM has neither a rate of its own nor tau."""
    first, rate, beta1, beta2 = np.linspace(-1, 1, 50), 0.1, 0.9, 0.99
    given = {"initial_parameters": ndarrays_to_parameters([first.copy()])}
    if name == "momentum":
        flower: Any = FedAvgM(server_learning_rate=rate, server_momentum=beta1, **given)
    elif name == "adagrad":
        flower = FedAdagrad(eta=rate, tau=tau, **given)
        flower.beta_1 = beta1
    else:
        flower = {"adam": FedAdam, "yogi": FedYogi}[name](eta=rate, tau=tau, beta_1=beta1, beta_2=beta2, **given)
    rule = Aggregation(rule=name, rate=rate, momentum=beta1, second=beta2, floor=tau)
    values, moments = first, beginning(rule, 50)
    for number, d in enumerate(np.random.default_rng(0).normal(scale=0.02, size=(30, 50)), 1):
        averaged(flower, number, d, values)
        if name == "adam":
            factor = np.sqrt(1 - beta2 ** (number + 1)) / (1 - beta1 ** (number + 1))
            rule = rule.model_copy(update={"rate": rate * factor})
        values, moments = moved(rule, values, moments, d, np.ones(50, dtype=bool))
        theirs = (
            parameters_to_ndarrays(flower.initial_parameters)[0] if name == "momentum" else flower.current_weights[0]
        )
        np.testing.assert_allclose(values, theirs, rtol=1e-6, atol=1e-9)
    assert np.abs(values - first).max() > 0.02


def test_momentum_is_a_damped_sum() -> None:
    """FedAvgM (Hsu et al. 2019): of a constant update d the n-th step is d (1 + beta + ... + beta^(n-1))."""
    rule = Aggregation(rule="momentum", rate=0.5, momentum=0.5)
    values, moments, seen = np.zeros(1), beginning(rule, 1), []
    for _ in range(3):
        values, moments = moved(rule, values, moments, np.ones(1), np.ones(1, dtype=bool))
        seen.append(values[0])
    assert seen == [0.5, 1.25, 2.125]


@pytest.mark.parametrize("name", RULES)
def test_nothing_given_is_altered_and_what_was_not_sent_stays(name: str) -> None:
    rule = Aggregation(rule=name, rate=0.1)
    everywhere, ruled = np.ones(4, dtype=bool), np.array([True, False, True, False])
    values, moments = moved(rule, np.zeros(4), beginning(rule, 4), np.full(4, 0.5), everywhere)
    copies: list[Any] = [values.copy(), *(moment.copy() for moment in moments)]
    after, remembered = moved(rule, values, moments, np.array([0.5, 0.0, 0.5, 0.0]), ruled)
    assert all((now == then).all() for now, then in zip((values, *moments), copies, strict=True))
    assert (after[~ruled] == values[~ruled]).all()
    assert (after[ruled] != values[ruled]).all()
    for now, then in zip(remembered, moments, strict=True):
        assert (now[~ruled] == then[~ruled]).all()
        assert (now[ruled] != then[ruled]).all()


def test_moments_begin_anew_where_told() -> None:
    moments: Moments = (np.array([1.0, 2.0]), np.array([3.0, 4.0]))
    assert [moment.tolist() for moment in anew(moments, np.array([True, False]))] == [[0.0, 2.0], [0.0, 4.0]]
    assert moments[0].tolist() == [1.0, 2.0]


@pytest.mark.parametrize("name", RULES)
def test_what_no_float_holds_makes_the_round_void(name: str) -> None:
    rule, all_of_them = Aggregation(rule=name, rate=1e10), np.ones(2, dtype=bool)
    with pytest.raises(VoidError, match=f"aggregation.rule = '{name}' would not be finite"):
        moved(rule, np.zeros(2), beginning(rule, 2), np.array([0.0, 1e300]), all_of_them)
    with pytest.raises(VoidError):
        moved(rule, np.array([0.0, 1.7e308]), beginning(rule, 2), np.array([0.0, 1.7e308]), ~all_of_them)


_ON_A_PROCESSOR = """
import hashlib, numpy as np
from dictpfl.common.law.aggregation import beginning, moved
from dictpfl.common.rounds import Aggregation
digest = hashlib.sha256()
for name in ("momentum", "adagrad", "adam", "yogi"):
    rule, random = Aggregation(rule=name, rate=0.1), np.random.default_rng(1)
    values, moments = np.zeros(40_009), beginning(rule, 40_009)
    for _ in range(8):
        update = np.ldexp(random.integers(-1 << 50, 1 << 50, 40_009) / 3.0, random.integers(-90, -45, 40_009))
        values, moments = moved(rule, values, moments, update, random.random(40_009) < 0.6)
    for array in (values, *moments):
        digest.update(array.tobytes())
print(digest.hexdigest())
"""


def test_processors_with_other_instructions_compute_the_same_bits() -> None:
    """numpy takes wide registers where a processor has them, which must not show; with powers it would."""
    wide = [name for name in __cpu_dispatch__ if __cpu_features__.get(name)]
    if not wide:
        pytest.skip("this processor has nothing beyond what numpy always uses")
    printed = set()
    for hidden in ("", " ".join(wide), wide[-1]):
        environment = os.environ | {"NPY_DISABLE_CPU_FEATURES": hidden}
        printed.add(subprocess.check_output([sys.executable, "-c", _ON_A_PROCESSOR], env=environment, text=True))
    assert len(printed) == 1
    assert len(printed.pop().strip()) == 64
