"""What is sealed opens, alone and in sums, and what was altered does not."""

from __future__ import annotations

import secrets
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dictpfl.common.errors import OpeningError
from dictpfl.deploy.audit.checks.errors import expected_variance
from dictpfl.deploy.audit.cipher.sealed import Box, Parameters, plain_components

P = Parameters(32, 60, 11, 48, 54, 3)
LIMIT = 2**47 // 3


def box(parameters: Parameters = P, seed: int = 1) -> Box:
    key = np.random.default_rng(seed).integers(-1, 2, parameters.degree)
    return Box(parameters, parameters.ring.transformed(parameters.ring.residues(key)))


def errors(count: int, random: np.random.Generator) -> list[int]:
    fair = random.integers(0, 2, (2, count, 21))
    return (fair[0].sum(1) - fair[1].sum(1)).tolist()


@settings(deadline=None)
@given(st.integers(1, 90), st.integers(0, 2**32))
def test_sums_open_exactly(count: int, seed: int) -> None:
    random, made = np.random.default_rng(seed), box()
    parts = [random.integers(-LIMIT, LIMIT + 1, count) for _ in range(3)]
    seeds = [secrets.token_bytes(32) for _ in parts]
    words = [made.sealed(c, s, errors(P.words(count), random)) for c, s in zip(parts, seeds, strict=True)]
    assert {w.size for w in words} == {count + 4 * -(-count // 28)}
    total = np.sum([w.astype(object) for w in words], axis=0) % P.p
    opened = made.opened(total.astype(np.uint64), seeds)
    assert opened.components.tolist() == np.sum(parts, axis=0).tolist()
    assert not opened.guards.any()
    assert np.abs(opened.rests).max() <= 2**9


def test_rests_have_the_variance_that_the_specification_says() -> None:
    parameters, random = replace(P, degree=4096), np.random.default_rng(7)
    made, seed, components = box(parameters), bytes(range(32)), np.zeros(200_000, np.int64)
    rests = made.opened(made.sealed(components, seed, errors(parameters.words(200_000), random)), [seed]).rests
    wanted = expected_variance(parameters)
    assert abs(np.mean(rests.astype(float) ** 2) / wanted - 1) < 0.012
    assert abs(rests.mean()) < 5 * (wanted / rests.size) ** 0.5


def test_another_key_opens_noise() -> None:
    seed = bytes(32)
    words = box().sealed(np.arange(20), seed, [0] * 24)
    assert box(seed=2).opened(words, [seed]).guards.any()


def test_words_without_a_component_are_refused() -> None:
    with pytest.raises(OpeningError):
        box().opened(np.zeros(36, np.uint64), [bytes(32)])


def test_plain_words_are_the_components() -> None:
    plain, numbers = replace(P, encrypted=False), np.array([0, 5, -5])
    assert plain_components(plain, np.mod(numbers, plain.p).astype(np.uint64)).tolist() == numbers.tolist()
    assert plain.words(3) == 3
