"""Epsilon: what is printed is what the libraries' accountants say; the account survives what happens to it."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import skellam as skellam_law

pytest.importorskip("opacus", reason="the extra `dp` is not installed")
pytest.importorskip("dp_accounting", reason="the extra `dp` is not installed")

import dp_accounting
from dp_accounting.rdp import RdpAccountant
from opacus.accountants import PRVAccountant, RDPAccountant

from dictpfl.client.privacy.accounting import Release, Spending, noise_for, skellam_divergence
from dictpfl.common.errors import MemoryFileError, PrivacyError

SETTINGS = [(1.5, 0.1, 300, 1e-5), (0.9, 0.02, 900, 1e-5), (6.0, 0.5, 60, 1e-6)]
"""Noise, rate, steps, delta."""


def spend(noise: float, rate: float, steps: int, *, rounds: int = 10) -> Spending:
    spending = Spending()
    for number in range(rounds):
        spending = spending.after(Release(noise, rate, steps // rounds), number)
    return spending


@pytest.mark.parametrize(("noise", "rate", "steps", "delta"), SETTINGS)
def test_epsilon_is_the_accountant_s_own(noise: float, rate: float, steps: int, delta: float) -> None:
    own = RDPAccountant()
    for _ in range(steps):
        own.step(noise_multiplier=noise, sample_rate=rate)
    spending = spend(noise, rate, steps)
    assert spending.epsilon(delta) == own.get_epsilon(delta)
    assert spending.releases == (Release(noise, rate, steps),)
    tighter = PRVAccountant()
    tighter.history = [(noise, rate, steps)]
    assert spending.epsilon(delta, "prv") == tighter.get_epsilon(delta)
    assert spending.epsilon(delta, "prv") < spending.epsilon(delta)


@pytest.mark.parametrize(("noise", "rate", "steps", "delta"), SETTINGS)
def test_another_library_says_the_same(noise: float, rate: float, steps: int, delta: float) -> None:
    """At whole orders: at others dp-accounting gives some up."""
    other = RdpAccountant([*range(2, 64)])
    event = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise))
    other.compose(event, steps)
    assert spend(noise, rate, steps).epsilon(delta) == pytest.approx(other.get_epsilon(delta), rel=0.01)


def test_noise_for_an_epsilon() -> None:
    noise = noise_for(3.0, 1e-5, 0.1, 300, "rdp")
    assert 2.9 < spend(noise, 0.1, 300).epsilon(1e-5) <= 3.0
    with pytest.raises(PrivacyError, match="cannot be had in 300 steps"):
        noise_for(1e-9, 1e-5, 1.0, 300, "rdp")


def test_rounds_of_different_noise_are_added_up() -> None:
    both = spend(1.0, 0.1, 100).after(Release(2.0, 0.1, 50), 10)
    assert both.releases == (Release(1.0, 0.1, 100), Release(2.0, 0.1, 50))
    own = RDPAccountant()
    own.history = [(1.0, 0.1, 100), (2.0, 0.1, 50)]
    assert both.epsilon(1e-5) == own.get_epsilon(1e-5)


def exact_divergence(order: int, shift: int, variance: float) -> float:
    """Of one value, by summing up the two distributions."""
    k = np.arange(-4000, 4001)
    p, q = skellam_law.logpmf(k, variance / 2, variance / 2), skellam_law.logpmf(k - shift, variance / 2, variance / 2)
    real = np.isfinite(p) & np.isfinite(q)
    return float(logsumexp(order * q[real] + (1 - order) * p[real])) / (order - 1)


@pytest.mark.parametrize(
    ("variance", "shift", "order"), list(itertools.product([16.0, 256.0, 1000.0], [1, 8, 32], [2, 5, 20, 64]))
)
def test_the_bound_on_skellam_noise_holds_and_is_near(variance: float, shift: int, order: int) -> None:
    bound = skellam_divergence(order, variance**0.5 / shift, shift, shift)
    exact = exact_divergence(order, shift, variance)
    assert exact <= bound
    if shift * order < variance:
        assert bound < 1.2 * exact


def test_institution_level_epsilon_is_near_that_of_gaussian_noise() -> None:
    """And never below it, by dp-accounting's own accountant."""
    for noise, rounds, delta in [(1.0, 1, 1e-5), (4.0, 20, 1e-5), (10.0, 100, 1e-6)]:
        gaussian = RdpAccountant()
        gaussian.compose(dp_accounting.GaussianDpEvent(noise), rounds)
        l2 = 16.0 / noise
        spending = Spending()
        for number in range(rounds):
            spending = spending.after(Release(noise, l2=l2, l1=l2**2), number)
        expected = gaussian.get_epsilon(delta)
        assert expected <= spending.epsilon(delta) * (1 + 1e-3)
        assert spending.epsilon(delta) < 1.1 * expected


def test_the_file(tmp_path: Path) -> None:
    path = tmp_path / "account.json"
    assert Spending.load(path) == Spending()
    assert Spending().epsilon(1e-5) == 0.0
    spending = spend(1.0, 0.1, 100).after(Release(2.0), 3)
    spending.store(path)
    assert Spending.load(path) == spending
    assert spending.last == 9
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text(path.read_text()[:-20])
    with pytest.raises(MemoryFileError, match="how much privacy was spent"):
        Spending.load(path)
    path.write_text('{"format": "dictpfl-privacy-9"}')
    with pytest.raises(MemoryFileError, match="another release"):
        Spending.load(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("noise", float("nan")),
        ("noise", None),
        ("noise", 0.0),
        ("rate", 2.0),
        ("steps", -5),
        ("steps", 1.5),
        ("l2", float("nan")),
    ],
)
def test_a_file_with_what_no_release_is_does_not_count_as_little(key: str, value: object, tmp_path: Path) -> None:
    """Of a noise that is no number epsilon is none, which no limit holds."""
    path = tmp_path / "account.json"
    Spending((Release(1.0, 0.1, 10),), 3).store(path)
    document = json.loads(path.read_text())
    document["releases"][0][key] = value
    path.write_text(json.dumps(document))
    with pytest.raises(MemoryFileError, match="how much privacy was spent"):
        Spending.load(path)
