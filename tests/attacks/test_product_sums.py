"""F2, F3 and F3b against the product: what a coordinator shows a real institution, and what that does to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest

from dictpfl.common.ckks.polynomials import data_prime
from dictpfl.common.law.tags import TAGS
from dictpfl.common.messages.protocol import Aggregate, RoundKind, Status
from dictpfl.common.messages.wire import Blob, Entry, write
from tests.attacks.protocol3 import TAG_PRIME
from tests.attacks.shown import OUTSIDE, VICTIM, Shown, summed

pytestmark = pytest.mark.usefixtures("quiet", "at_once")

# F2


@pytest.mark.parametrize("shown", ["three", "masked"], indirect=True)
def test_f2_every_value_moved_by_a_multiple(shown: Shown) -> None:
    """Multiples of protocol 3's modulus, or of 2^S alone: the tag's field is that of the words, and nothing wraps beside it."""
    before, first = shown.kept(), shown.world.genesis.law.ledger.size
    moved = shown.true.header.words - first - 6
    for factor in (TAG_PRIME, 2**32, 1):
        forged = shown.forged(shown.moved(first, [factor << shown.parameters.scale_bits] * moved))
        assert shown.show(forged, node=VICTIM).code in OUTSIDE
    assert not shown.opened
    assert shown.kept() == before


# F3


@pytest.mark.parametrize("shown", ["five"], indirect=True)
@pytest.mark.parametrize("named", ["one", "all", "three"])
def test_f3_one_upload_with_more_participants_in_its_ledger(shown: Shown, named: str) -> None:
    """The spied institution's words, 4 * 2^S added to the ledger's first coefficient, under every list that might pass."""
    before, spied, p = shown.kept(), shown.upload(0), shown.parameters.word_prime
    words = spied.words()
    step = ((4 << shown.parameters.scale_bits) * p + data_prime(shown.parameters) // 2) // data_prime(shown.parameters)
    words[0] = (int(words[0]) + step) % p
    entries = {"one": shown.true.entries[:1], "all": shown.true.entries, "three": shown.true.entries[:3]}[named]
    assert shown.show(shown.forged(words, entries)).code in OUTSIDE
    assert not shown.opened
    assert shown.kept() == before


@pytest.mark.parametrize("shown", ["five"], indirect=True)
def test_f3_one_update_among_evaluations(shown: Shown) -> None:
    """Evaluations of the others count participants and move no value; their tags are those of another kind of round."""
    before, p = shown.kept(), shown.parameters.word_prime
    total = shown.upload(0).words()
    requests = {
        node: replace(shown.requests[node], kind=RoundKind.MEASURE, round=1, aggregates=()) for node in (1, 3, 4)
    }
    for node, request in requests.items():
        reply = shown.world.institution(node).handle(request)
        assert reply.status is Status.UPLOAD
        part = Blob.own(reply.blob, shown.parameters.word_bits).words()
        padded = np.concatenate([part[:-2], np.zeros(total.size - part.size, np.uint64), part[-2:]])
        total = (total + padded) % np.uint64(p)
    listed = [entry for entry in shown.true.entries if entry.member in (0, *requests)]
    assert shown.show(shown.forged(total, listed)).code in OUTSIDE
    assert not shown.opened
    assert shown.kept() == before


# Words beyond the prime


def test_a_word_beyond_the_prime_is_refused(shown: Shown) -> None:
    """Tags count modulo the prime, so they fit: whether the sum opened would tell that this word is small.

    One is made small here, under right tags; among 2^40 or more that happens by chance, or with a member's help.
    """
    before, genesis, p = shown.kept(), shown.world.genesis, shown.parameters.word_prime
    words, tags = shown.true.words().copy(), genesis.tags(shown.true.header)
    words[0] = 1
    pads = [tags._pads(entry) for entry in shown.true.entries]
    hashes = tags._hashes(words[:-TAGS], bytes(shown.true.clear))
    words[-TAGS:] = [(one + sum(pad[at] for pad in pads)) % p for at, one in enumerate(hashes)]
    raised = words.copy()
    raised[0] += np.uint64(p)
    assert tags.fit(raised[:-TAGS], bytes(shown.true.clear), raised[-TAGS:], shown.true.entries)
    assert shown.show(shown.forged(raised)).code in OUTSIDE
    assert not shown.opened
    assert shown.kept() == before


# F3b


def test_f3b_acknowledgements_beside_a_sum_mean_nothing(shown: Shown, undisturbed: bytes) -> None:
    """What is said to be counted, outside the list that the tag covers, changes neither state nor what is owed."""
    others = tuple(bytes(15) + bytes([at]) for at in range(3))
    request = shown.requests[VICTIM]
    shown.requests[VICTIM] = replace(request, aggregates=(replace(shown.aggregate, counted=others),))
    shown.go_on()
    assert shown.world.digest() == undisturbed


def other_ids(shown: Shown) -> list[Entry]:
    return [replace(entry, upload_id=bytes(15) + bytes([entry.member])) for entry in shown.true.entries]


def ids_swapped(shown: Shown) -> list[Entry]:
    first, second, *rest = shown.true.entries
    return [replace(first, upload_id=second.upload_id), replace(second, upload_id=first.upload_id), *rest]


def members_swapped(shown: Shown) -> list[Entry]:
    first, second, *rest = shown.true.entries
    return [replace(second, member=first.member), replace(first, member=second.member), *rest]


def own_left_out(shown: Shown) -> list[Entry]:
    return [entry for entry in shown.true.entries if entry.member != VICTIM]


def somebody_else(shown: Shown) -> list[Entry]:
    return [*shown.true.entries[:-1], replace(shown.true.entries[-1], member=len(shown.world.nodes))]


@pytest.mark.parametrize("listed", [other_ids, ids_swapped, members_swapped, own_left_out, somebody_else])
@pytest.mark.parametrize("shown", ["three", "five"], indirect=True)
def test_f3b_no_other_list_passes(shown: Shown, listed: Callable[[Shown], list[Entry]]) -> None:
    before = shown.kept()
    assert shown.show(shown.forged(shown.true.words(), listed(shown))).code in OUTSIDE
    assert not shown.opened
    assert shown.kept() == before


def another_true_sum(shown: Shown, uploads: Mapping[int, bytes], number: int) -> list[bytes]:
    """A true sum of as many others: its maker believes itself to be late."""
    return [summed(shown.world, number, {node: uploads[node] for node in (1, 2, 3)})]


def one_refused_twice(shown: Shown, uploads: Mapping[int, bytes], number: int) -> list[bytes]:
    """A sum that is not true, shown until its round is taken to be void."""
    true = Blob.own(
        summed(shown.world, number, {node: uploads[node] for node in (0, 1, 2)}), shown.parameters.word_bits
    )
    words = true.words().copy()
    words[-1] ^= np.uint64(1)
    return [write(true.header, true.entries, words, true.word_bits, bytes(true.clear))] * 2


@pytest.mark.parametrize("shown", ["even"], indirect=True)
@pytest.mark.parametrize("way", [another_true_sum, one_refused_twice])
def test_f3b_a_fork_delivers_nothing_twice(
    shown: Shown, way: Callable[[Shown, Mapping[int, bytes], int], list[bytes]]
) -> None:
    """One institution is brought to believe that its upload is in no sum, the others have it; then it delivers again.

    Its state is not theirs any more. The coordinator writes their state's tag on its next upload, and adds it to theirs.
    """
    world, bits = shown.world, shown.parameters.word_bits
    uploads = {node: world.institution(node).handle(request).blob for node, request in shown.requests.items()}
    number = shown.requests[0].round
    with_it = summed(world, number, {node: uploads[node] for node in (0, 1, 2)})
    following: dict[int, bytes] = {}
    for node, request in shown.requests.items():
        for blob in [with_it] if node else way(shown, uploads, number):
            asked = replace(request, round=number + 1, aggregates=(Aggregate(number, blob),))
            reply = world.institution(node).handle(asked)
        if reply.status is Status.UPLOAD:
            following[node] = reply.blob
    if 0 not in following:
        return  # it has not let itself be forked
    forked, theirs = (Blob.own(following[node], bits) for node in (0, 1))
    header = replace(forked.header, state_tag=theirs.header.state_tag)
    assert header != forked.header
    relabelled = write(header, forked.entries, forked.words(), bits, bytes(forked.clear))
    total = summed(world, number + 1, {0: relabelled, 1: following[1], 2: following[2]})
    before = shown.world.record(3).shared.digest
    last = replace(shown.requests[3], round=number + 2, aggregates=(Aggregate(number + 1, total),))
    assert world.institution(3).handle(last).code in OUTSIDE
    assert shown.world.record(3).shared.digest == before
