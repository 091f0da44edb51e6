"""F1: a coordinator without a key asks one institution for the key that all share, by sums that it refuses."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count

import numpy as np
import pytest

from dictpfl.common.ckks.parameters import CKKSParameters
from dictpfl.common.ckks.polynomials import data_prime
from tests.attacks.attackers import UNKNOWN, Ask, Interrogation, key_by_noise, key_by_shift, noise_of
from tests.attacks.protocol3 import BODY, SCALE_BITS, Institution, Rules, Sum, added, federation
from tests.attacks.ring import DEGREE, PRIME, Ints, centred, drawn, times

MOST_REFUSED = 3


@dataclass
class Scene:
    """What an attacker works with, and what the test knows besides.

    Attributes:
        victim: institution that is asked.
        honest: the round's true sum, which it is shown in the end.
        spied: upload that the attacker wants to read.
        trained: values in it, shape (VALUES,).
        basis: sum that the attacker alters.
    """

    victim: Institution
    honest: Sum
    spied: Sum
    trained: Ints
    basis: Sum

    def asker(self) -> Ask:
        """The way to the victim; every message is another attempt, so that no rule about one attempt is in the way."""
        attempts: Iterator[int] = count(1)

        def ask(shift: int, at: int, amount: int) -> str:
            total = replace(self.basis.plus(at, amount), attempt=next(attempts))
            if shift and total.second is not None:
                second = total.second.copy()
                second[0] = (second[0] + shift) % PRIME
                total = replace(total, second=second)
            return self.victim.ask(total)

        return ask

    def read(self, key: Ints) -> Ints:
        """The spied upload's values, by the attacker's key."""
        (named,) = self.spied.named
        second = drawn(named.seed) if self.spied.second is None else self.spied.second
        return np.rint(centred((self.spied.first + times(second, key)) % PRIME) / 2**SCALE_BITS).astype(np.int64)[BODY]

    def right(self, learned: Ints) -> int:
        """Coefficients of the key that were learned and are right."""
        return int(((learned != UNKNOWN) & (learned == self.victim.keys.secret)).sum())


def both_polynomials(protocol: int) -> Scene:
    """Five institutions; one upload is shown as if it were the sum of five; in protocol 4, the true sum, altered."""
    members = federation(Rules(protocol, members=5, seeded=False))
    uploads = [member.upload() for member in members]
    honest, one = added(uploads), replace(uploads[0], contributors=5)
    return Scene(members[4], honest, uploads[0], members[0].trained[0], one if protocol == 3 else honest)


def seeded(protocol: int) -> Scene:
    """Three institutions; two are asked for an evaluation first, whose sum the third is shown as if three were in it.

    In protocol 4, the evaluations of all three, altered.
    """
    members = federation(Rules(protocol))
    measured = [member.upload("measure") for member in members]
    uploads = [member.upload() for member in members]
    two, three = replace(added(measured[:2]), contributors=3), added(measured)
    return Scene(members[2], added(uploads), uploads[0], members[0].trained[0], two if protocol == 3 else three)


def by_shift(scene: Scene, ask: Interrogation) -> Ints:
    return key_by_shift(ask)


def by_noise(scene: Scene, ask: Interrogation) -> Ints:
    noise = noise_of(ask, uploads=2)
    return key_by_noise(scene.basis.first, [named.seed for named in scene.basis.named], noise)


FORMS = {"both polynomials": (both_polynomials, by_shift), "seeded": (seeded, by_noise)}


Say = Callable[[str], None]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Prints even where pytest captures: the counts are what these tests are about."""

    def write(text: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\nF1, {text}\n")

    return write


def counts(ask: Interrogation, opened: int, recovered: int) -> str:
    return (
        f"{ask.messages:,} messages, {ask.refused:,} refused ({ask.codes}), {opened:,} sums opened, {recovered:,} of "
        f"{DEGREE:,} coefficients of the key recovered"
    )


def test_the_numbers_are_the_products(parameters: CKKSParameters) -> None:
    assert (parameters.ring_degree, data_prime(parameters)) == (DEGREE, PRIME)


@pytest.mark.parametrize("form", FORMS)
def test_f1_protocol_3_gives_the_key_away(form: str, say: Say) -> None:
    scene_of, attack = FORMS[form]
    scene = scene_of(3)
    ask = Interrogation(scene.asker())
    learned = attack(scene, ask)
    say(f"{form}, protocol 3: {counts(ask, scene.victim.opened, scene.right(learned))}")
    assert ask.refused == ask.messages <= 20_000
    assert scene.right(learned) == DEGREE
    assert (scene.read(learned) == scene.trained).all(), "it reads another institution's update"
    assert scene.victim.ask(scene.honest) == "", "the victim notices nothing"


@pytest.mark.parametrize("form", FORMS)
def test_f1_protocol_4_tells_no_more_bits_than_refusals_are_allowed(form: str, say: Say) -> None:
    scene_of, attack = FORMS[form]
    scene = scene_of(4)
    ask = Interrogation(scene.asker())
    learned = attack(scene, ask)
    say(f"{form}, protocol 4: {counts(ask, scene.victim.opened, scene.right(learned))}")
    assert ask.messages == 20_000
    assert ask.codes == {"refused": MOST_REFUSED, "locked": 20_000 - MOST_REFUSED}
    assert scene.victim.opened == 0, "nothing that is not authentic is ever decrypted"
    assert (learned == UNKNOWN).all()


@pytest.mark.parametrize("form", FORMS)
def test_f1_protocol_4_one_attempt_is_tried_once(form: str) -> None:
    """The honest sum was applied or is next: another one of the same attempt is refused unopened, however often."""
    scene = FORMS[form][0](4)
    altered = [scene.honest.plus(at, 1) for at in range(1, 500)]
    first = altered[0]
    assert [scene.victim.ask(total) for total in (first, *altered)] == ["refused"] * 500
    assert (scene.victim.refused, scene.victim.opened) == (2, 0)
