"""F2, F3 and F3b: sums that are not what they are said to be, shown to institutions of protocols 3 and 4."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from tests.attacks.protocol3 import (
    BODY,
    LEDGER,
    SCALE_BITS,
    TAG_PRIME,
    VALUES,
    Institution,
    Rules,
    Sum,
    added,
    federation,
)

REFUSED = "refused"


@pytest.mark.parametrize("protocol", [3, 4])
def test_f2_multiples_of_the_tags_modulus(protocol: int) -> None:
    """All values are moved by multiples of 2^31 - 1, with masks and integrity on: protocol 3's tags stay as they are."""
    members = federation(Rules(protocol, integrity=True, masks=True))
    true = added([member.upload() for member in members])
    moves = np.random.default_rng(2).choice([-3, -2, -1, 1, 2, 3], VALUES)
    moved = true.plus(BODY, moves * TAG_PRIME << SCALE_BITS)
    codes = [member.ask(moved) for member in members]
    expected = sum(member.trained[0] for member in members)
    if protocol == 3:
        assert codes == ["", "", ""], "F2: applied without notice"
        assert all((member.model == expected + moves * TAG_PRIME).all() for member in members)
    else:
        assert codes == [REFUSED] * 3
        assert not any(member.model.any() or member.opened for member in members)


def test_f2_protocol_3_sees_what_is_no_multiple() -> None:
    """The tags of the miniature do what they did: it is the modulus alone that they miss."""
    member, *others = federation(Rules(3, integrity=True))
    true = added([each.upload() for each in (member, *others)])
    assert member.ask(true.plus(LEDGER, 5 << SCALE_BITS)) == "integrity"
    assert member.ask(true) == ""


def one_with_more_participants(members: list[Institution]) -> Sum:
    """F3 with both polynomials: one upload, and four participants more added to its ledger's first coefficient."""
    spied, *others = [member.upload() for member in members]
    return replace(spied.plus(0, 4 << SCALE_BITS), contributors=5, named=added([spied, *others]).named)


def one_with_evaluations(members: list[Institution]) -> Sum:
    """F3 with seeds: one update, and evaluations of the others, which count participants and move no value."""
    evaluations = [member.upload("measure") for member in members[1:]]
    return added([members[0].upload(), *evaluations])


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("alone", [one_with_more_participants, one_with_evaluations])
def test_f3_the_minimum_held_against_honest_coordinators_only(
    protocol: int, alone: Callable[[list[Institution]], Sum]
) -> None:
    """A sum that holds one update is applied as one of five: the new model minus the old one is that update."""
    members = federation(Rules(protocol, members=5, seeded=alone is one_with_evaluations, minimum=5))
    code = members[2].ask(alone(members))
    if protocol == 3:
        assert code == ""
        assert (members[2].model == members[0].trained[0]).all()
    else:
        assert code == REFUSED
        assert not members[2].model.any()
        assert members[2].opened == 0


@pytest.mark.parametrize("protocol", [3, 4])
def test_f3_true_sums_of_too_few(protocol: int) -> None:
    """Both protocols refuse a true sum of too few; only 4 does it before it opens anything."""
    members = federation(Rules(protocol, members=5, minimum=4))
    few = added([member.upload() for member in members][:3])
    assert members[4].ask(few) == ("too-few" if protocol == 3 else REFUSED)
    assert members[4].opened == (protocol == 3)


@pytest.mark.parametrize("protocol", [3, 4])
def test_f3b_acknowledgements_were_bound_to_nothing(protocol: int) -> None:
    """Ids of the sum replaced by as many others: the institution believes itself missed and delivers twice."""
    members = federation(Rules(protocol))
    true = added([member.upload() for member in members])
    others = tuple(replace(named, upload_id=bytes(15) + bytes([at])) for at, named in enumerate(true.named))
    shown = [replace(true, named=others), true, true]
    codes = [member.ask(total) for member, total in zip(members, shown, strict=True)]
    if protocol == 4:
        assert codes == [REFUSED, "", ""]
        assert members[0].round == 0
        assert members[0].ask(replace(true, attempt=1)) == REFUSED, "nor is it applied under another number"
        return
    assert codes == ["", "", ""]
    second = added([member.upload() for member in members])
    assert [member.ask(second) for member in members] == ["", "", ""]
    twice = members[0].trained[0]
    whole = sum(update for member in members for update in member.trained)
    assert (members[0].model == whole + twice).all(), "F3b: one update is in the model twice"


def test_f3b_what_is_delivered_once_under_protocol_4() -> None:
    """Whatever lists are shown before, an institution settles by the true one, once."""
    members = federation(Rules(4))
    first = added([member.upload() for member in members])
    swapped = (first.named[1], first.named[0], first.named[2])
    forged = [
        replace(first, named=first.named[1:]),
        replace(first, named=(first.named[1], *first.named[1:])),
        replace(first, named=tuple(replace(a, member=b.member) for a, b in zip(first.named, swapped, strict=True))),
    ]
    for at, total in enumerate(forged, start=1):
        fresh = federation(Rules(4))
        assert [member.upload().round for member in fresh] == [0, 0, 0]
        assert fresh[0].ask(total) == REFUSED, at
    assert [member.ask(first) for member in members] == ["", "", ""]
    second = added([member.upload() for member in members])
    assert [member.ask(second) for member in members] == ["", "", ""]
    assert (members[0].model == sum(update for member in members for update in member.trained)).all()
