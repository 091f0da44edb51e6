"""F9: the time that an institution takes besides training and evaluating does not follow the update that it seals.

Training may take as long as the data want, and `reply_every_seconds` hides that. Here it is replaced by a random update
and evaluation by random figures, so that all that is left of `handle` is law, sealing, tags, masks and storing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import rankdata

import dictpfl.client.uploading
from dictpfl.client.training.train import Measured, Trained
from dictpfl.client.uploading import Uploads
from dictpfl.common.ckks.sealing import CKKSSealer
from dictpfl.common.messages.protocol import Status
from dictpfl.deploy.audit.checks.bounds import deviations
from tests.support.federations import encrypted
from tests.support.harness import World
from tests.support.timing import Bring, measure

pytestmark = pytest.mark.usefixtures("quiet")
Ints = NDArray[np.int64]
UPLOADS, LOW_BITS = 300, 4
DELAY = 0.01
"""Seconds. Much shorter delays drown in what a shared machine does besides: a millisecond is not told."""


class Busy:
    """Institution that makes its first upload again and again, each time of another update of the same shape."""

    def __init__(self, world: World) -> None:
        self.request = world.coordinator.begin(world.nodes)[0]
        self.institution = world.institution(0)
        self.memory = world.memory(0).path
        self.random = np.random.default_rng(0)
        self.sealed: list[Ints] = []

    def train(self, twin: Any, samples: Any, *_arguments: Any, **_options: Any) -> Trained:
        before = twin.read()
        twin.load(before + self.random.normal(scale=0.01, size=before.shape))
        return Trained(len(samples), float(self.random.uniform(1, 50)))

    def evaluate(self, *_arguments: Any, **_options: Any) -> Measured:
        return Measured(20, float(self.random.uniform(1, 40)), float(self.random.integers(21)))

    def seal(self, sealer: CKKSSealer, components: Ints) -> Any:
        self.sealed.append(np.array(components))
        return SEAL(sealer, components)

    def prepared(self) -> Bring:
        """Forget the last upload; what comes is timed."""
        self.memory.unlink(missing_ok=True)
        self.institution._record = None
        return self.upload

    def upload(self) -> bytes:
        reply = self.institution.handle(self.request)
        assert reply.status is Status.UPLOAD, reply
        return reply.blob


SEAL = CKKSSealer.seal


@pytest.fixture(params=[{}, {"defences__masks": True}], ids=["plain", "masks"])
def busy(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Busy]:
    world = World.found(encrypted(**request.param), tmp_path)
    institution = Busy(world)
    with (
        mock.patch.object(dictpfl.client.uploading, "train", institution.train),
        mock.patch.object(dictpfl.client.uploading, "evaluate", institution.evaluate),
        mock.patch.object(CKKSSealer, "seal", lambda sealer, components: institution.seal(sealer, components)),  # noqa: PLW0108 -- a bound method would not be given the sealer
        mock.patch.object(os, "fsync", return_value=None),  # a disk takes what time it likes
    ):
        yield institution
    world.close()


def bits(contents: Ints) -> Ints:
    """Signs and low bits of all components, (uploads, bits); those that are the same in all uploads are left out."""
    flags = np.concatenate([contents < 0, *((contents >> place) & 1 for place in range(LOW_BITS))], axis=1)
    varying: Ints = flags[:, flags.std(axis=0) > 0].astype(np.int64)
    return varying


def told_by_times(busy: Busy) -> tuple[float, float]:
    """Correlate the ranks of the times with every bit of the content: most deviations of a bit, and what chance allows."""
    times = measure({"upload": busy.prepared}, UPLOADS).seconds["upload"]
    assert len(busy.sealed) == UPLOADS
    flags = bits(np.stack(busy.sealed))
    ranks = rankdata(times)
    assert flags.shape[1] > 500
    scores = (flags - flags.mean(axis=0)) / flags.std(axis=0)
    each = np.abs(scores.T @ ((ranks - ranks.mean()) / ranks.std())) / np.sqrt(UPLOADS)
    return float(each.max()), deviations(flags.shape[1])


def test_f9_times_do_not_follow_what_is_sealed(busy: Busy) -> None:
    worst, allowed = told_by_times(busy)
    assert worst < allowed


def by_a_sign(components: Ints) -> bool:
    return bool(components[len(components) // 2] < 0)


def by_a_low_bit(components: Ints) -> bool:
    return bool(components[len(components) // 2] & 1)


@pytest.mark.parametrize("busy", [{}], ids=["plain"], indirect=True)
@pytest.mark.parametrize("bit", [by_a_sign, by_a_low_bit])
def test_f9_planted_delay_after_sealing_fails_the_test_above(
    busy: Busy, bit: Callable[[Ints], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Uploads._covered

    def covered(self: Uploads, *parts: Any) -> Any:
        time.sleep(DELAY * bit(busy.sealed[-1]))
        return real(self, *parts)

    monkeypatch.setattr(Uploads, "_covered", covered)
    worst, allowed = told_by_times(busy)
    assert worst > allowed
