"""F1 against the product: the attackers that take protocol 3's key, at a real institution."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from itertools import count

import numpy as np
import pytest

from dictpfl.common.messages.protocol import Status
from tests.attacks import protocol3
from tests.attacks.attackers import UNKNOWN, Interrogation, key_by_noise, key_by_shift, noise_of
from tests.attacks.ring import DEGREE, Ints
from tests.attacks.shown import Shown

pytestmark = pytest.mark.usefixtures("quiet", "at_once")
MOST_REFUSED = 3


def by_shift(shown: Shown, ask: Interrogation) -> Ints:
    return key_by_shift(ask)


def by_noise(shown: Shown, ask: Interrogation) -> Ints:
    noise = noise_of(ask, uploads=3)
    return key_by_noise(shown.true.words().astype(np.int64), [entry.seed for entry in shown.true.entries], noise)


@pytest.mark.slow
@pytest.mark.parametrize(("shown", "attack"), [("five", by_shift), ("three", by_noise)], indirect=["shown"])
def test_f1_no_more_bits_than_refusals_are_allowed(
    shown: Shown, attack: Callable[[Shown, Interrogation], Ints], capsys: pytest.CaptureFixture[str]
) -> None:
    """The attackers that take protocol 3's key within 20,000 messages (test_oracle.py), at an institution of the product."""
    attempts, before = count(1), shown.kept()
    used = shown.true.header.words
    finer = 2 ** (shown.parameters.scale_bits - protocol3.SCALE_BITS)

    def ask(shift: int, at: int, amount: int) -> str:
        entries = list(shown.true.entries)
        if shift:  # no second polynomial travels that could be shifted: another seed is all that can be asked for
            entries[0] = replace(entries[0], seed=sha256(entries[0].seed + bytes([shift])).digest())
        words = shown.moved(at % used, [amount * finer])
        reply = shown.show(shown.forged(words, entries, next(attempts)))
        assert reply.status is Status.REFUSED
        return reply.code

    interrogation = Interrogation(ask)
    learned = attack(shown, interrogation)
    recovered = int((learned != UNKNOWN).sum())
    with capsys.disabled():
        sys.stdout.write(
            f"\nF1, the product, {attack.__name__}: {interrogation.messages:,} messages, {interrogation.refused:,} refused "
            f"({interrogation.codes}), {len(shown.opened):,} sums opened, {recovered:,} of {DEGREE:,} coefficients of the "
            "key recovered\n"
        )
    assert interrogation.messages == 20_000
    assert interrogation.codes == {"refused": MOST_REFUSED, "locked": 20_000 - MOST_REFUSED}
    assert (len(shown.opened), recovered) == (0, 0)
    assert shown.kept() == before
