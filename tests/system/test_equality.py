"""Encrypted and masked, padded or noisy: shared state and model are those of the run in clear, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

import dictpfl.client.privacy.guard
from dictpfl.common.arrays import Ints
from dictpfl.common.config import FederationConfig
from tests.support.federations import encrypted, tiny
from tests.support.harness import World

pytestmark = pytest.mark.usefixtures("quiet")
SMALL: dict[str, Any] = {"federation__rounds": 3, "pruning__tau": 1, "model__options": {"hidden": [64, 16]}}
CARRIED: dict[str, dict[str, Any]] = {
    "plain": {},
    "masks": {"defences__masks": True},
    "manifests": {"defences__integrity": True},
    "steps": {"encryption__pad_to": "steps"},
    "full": {"encryption__pad_to": "full"},
    "all": {"defences__masks": True, "defences__integrity": True, "encryption__pad_to": "steps"},
    "a larger ring": {"encryption__ring_degree": 8192, "defences__masks": True},
}
AGREED: dict[str, dict[str, Any]] = {
    "defaults": {},
    "no decomposition": {"decomposition__enabled": False},
    "refreshes": {"decomposition__refresh_every": 2},
    "cores": {"decomposition__form": "core", "decomposition__refresh_every": 2},
    "5 bits": {"grid__value_bits": 5},
    "a server-side rule": {"aggregation__rule": "yogi", "aggregation__rate": 0.1, "training__proximal": 0.1},
    "many": {"federation__max_participants": 200},
}


@pytest.fixture
def anew() -> Iterator[Callable[[], None]]:
    """Noise of a numbered source in place of the operating system's; call it, and the numbers begin anew."""
    numbers = count()

    def same(variance: float, size: int) -> Ints:
        rng = np.random.default_rng(next(numbers))
        return rng.poisson(variance / 2, size) - rng.poisson(variance / 2, size)

    def begin() -> None:
        nonlocal numbers
        numbers = count()

    with mock.patch.object(dictpfl.client.privacy.guard, "_drawn", same):
        yield begin


def run(config: FederationConfig, folder: Path, *, missing: bool = True) -> tuple[list[bytes], list[torch.Tensor]]:
    """Digests after each round, and the merged model's tensors; with `missing`, one institution misses a round."""
    world = World.found(config, folder)
    digests = []
    while not world.coordinator.finished:
        assert world.exchanges < 40
        closed = len(world.journal())
        world.exchange(offline=[1] if missing and closed == 1 else [])
        if world.record(0).shared.round == len(digests) + 1:
            digests.append(world.record(0).shared.digest)
    assert world.digest() == digests[-1]
    model = [tensor.clone() for tensor in world.merge(0).values()]
    world.close()
    return digests, model


def require_same(folder: Path, agreed: dict[str, Any], carried: dict[str, Any]) -> None:
    clear = run(tiny(**agreed), folder / "clear")
    sealed = run(encrypted(**agreed, **carried), folder / "sealed")
    assert clear[0] == sealed[0], "the state after every round"
    assert len(clear[0]) == SMALL["federation__rounds"] + 1
    assert all(torch.equal(one, other) for one, other in zip(clear[1], sealed[1], strict=True))


FOUR = SMALL | {"federation__participants": 4}


@pytest.mark.parametrize("name", CARRIED)
def test_however_it_is_carried(name: str, tmp_path: Path) -> None:
    require_same(tmp_path, FOUR, CARRIED[name])


@pytest.mark.parametrize("name", AGREED)
def test_whatever_is_agreed_on(name: str, tmp_path: Path) -> None:
    require_same(tmp_path, FOUR | AGREED[name], CARRIED["masks"])


@pytest.mark.parametrize("name", ["plain", "manifests", "full", "all"])
def test_with_noise_on_every_sum(name: str, anew: Callable[[], None], tmp_path: Path) -> None:
    pytest.importorskip("opacus", reason="the extra `dp` is not installed")
    noisy = FOUR | {"privacy__mechanism": "institution", "privacy__noise_multiplier": 2.0}
    noisy |= {"toy_insecure": True}
    clear = run(tiny(**noisy), tmp_path / "clear", missing=False)
    anew()
    sealed = run(encrypted(**noisy, **CARRIED[name]), tmp_path / "sealed", missing=False)
    assert clear[0] == sealed[0]
    assert all(torch.equal(one, other) for one, other in zip(clear[1], sealed[1], strict=True))
    anew()
    without = run(tiny(**FOUR), tmp_path / "without", missing=False)
    assert without[0] != clear[0], "there is noise"
