"""What masks are made of: uniform polynomials, shares, the graph of pairs, and what is said about them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.adding import ckks_adder
from common.circle import Circle, Peer, Roster
from common.errors import ConfigError, CorruptError, GuardError, NoiseError
from common.keys import FederationKey, make_key
from common.keystream import PolynomialStream, shifted
from common.opening import CKKSOpener
from common.parameters import CKKSParameters
from common.polynomials import data_prime, first_polynomial
from common.revealing import Answer, Note, Partner, SeedsQuestion, SharesQuestion, attempt_bytes, read_attempt
from common.sealing import CKKSSealer
from common.settings import Encryption
from common.sharing import combine, commitment, split, threshold

SEED = bytes(range(32))


# Streams


def test_a_stream_is_uniform_below_a_prime_that_refuses_much() -> None:
    """Half of the words are drawn again here; a reduction instead would favour small residues two to one."""
    prime, draws = 131, 400
    stream = PolynomialStream(SEED, 512, prime)
    words = np.concatenate([stream.take() for _ in range(draws)])
    assert words.max() < prime
    counts = np.bincount(words.astype(np.int64), minlength=prime)
    expected = words.size / prime
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert chi_square < prime - 1 + 5 * np.sqrt(2 * (prime - 1))


def test_a_stream_repeats_and_seeds_differ(parameters: CKKSParameters) -> None:
    prime = data_prime(parameters)
    first, again, other = (PolynomialStream(seed, 64, prime) for seed in (SEED, SEED, SEED[::-1]))
    taken = [first.take() for _ in range(3)]
    assert all((one == two).all() for one, two in zip(taken, [again.take() for _ in range(3)], strict=True))
    assert not (taken[0] == taken[1]).any()
    assert not (taken[0] == other.take()).any()


def test_the_bias_that_is_avoided_is_as_stated(parameters: CKKSParameters) -> None:
    prime = data_prime(parameters)
    assert prime.bit_length() == 60
    assert (2**60 - prime) / 2**60 < 2**-40


def test_a_seed_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="32"):
        PolynomialStream(bytes(4), 64, 131)


# Shifts


def sealed(key: FederationKey, values: Sequence[int]) -> list[bytes]:
    return list(CKKSSealer(key).seal(np.array(values, dtype=np.int64)))


def opened(key: FederationKey, uploads: Sequence[Sequence[bytes]]) -> np.ndarray:
    adder = ckks_adder(key.parameters)
    for items in uploads:
        adder.add(adder.load(memoryview(b"".join(items)), len(items[0])))
    total = adder.total()
    return CKKSOpener(key).open(memoryview(b"".join(total)), len(total[0]))


def test_shifting_back_gives_the_same_bytes(key: FederationKey) -> None:
    items = sealed(key, range(9000))
    there = list(shifted(items, key.parameters, plus=[SEED, bytes(32)], minus=[SEED[::-1]]))
    assert [len(item) for item in there] == [len(item) for item in items]
    assert all(one != two for one, two in zip(there, items, strict=True))
    assert list(shifted(there, key.parameters, plus=[SEED[::-1]], minus=[bytes(32), SEED])) == items


@pytest.mark.parametrize("count", [2, 16, 40])
def test_many_streams_add_up_exactly(count: int, key: FederationKey) -> None:
    """More streams than fit into 64 bits before they are reduced: held to Python's own integers."""
    (item,) = sealed(key, [1, 2, 3])
    seeds = [bytes([number]) * 32 for number in range(count)]
    prime, degree = data_prime(key.parameters), key.parameters.ring_degree
    plus, minus = seeds[: count // 2], seeds[count // 2 :]
    expected = [int(word) for word in first_polynomial(item, key.parameters)]
    for seed in seeds:
        sign = 1 if seed in plus else -1
        words = PolynomialStream(seed, degree, prime).take()
        expected = [(known + sign * int(word)) % prime for known, word in zip(expected, words, strict=True)]
    (found,) = shifted([item], key.parameters, plus=plus, minus=minus)
    assert first_polynomial(found, key.parameters).tolist() == expected


@pytest.mark.parametrize(
    "encryption", [Encryption(), Encryption(profile="public_key", ring_degree=8192)], ids=lambda e: e.profile
)
def test_masks_of_a_pair_vanish_in_the_sum_and_one_upload_is_refused(encryption: Encryption) -> None:
    key = make_key(CKKSParameters.choose(encryption, 3))
    mine, yours = sealed(key, range(5000)), sealed(key, range(5000, 10000))
    masked = [list(shifted(mine, key.parameters, plus=[SEED])), list(shifted(yours, key.parameters, minus=[SEED]))]
    assert (opened(key, masked) == opened(key, [mine, yours])).all()
    for upload in masked:
        with pytest.raises((GuardError, NoiseError)):
            opened(key, [upload])


# Shares


@given(st.binary(min_size=32, max_size=32), st.integers(1, 12), st.randoms())
def test_any_threshold_of_shares_gives_the_secret_back(secret: bytes, holders: int, random) -> None:  # type: ignore[no-untyped-def]
    shares = dict(enumerate(split(secret, holders)))
    chosen = random.sample(sorted(shares), threshold(holders))
    assert combine({place: shares[place] for place in chosen}) == combine(shares) == secret
    if len(chosen) > 1:
        assert combine({place: shares[place] for place in chosen[1:]}) != secret


def test_commitments_differ() -> None:
    assert commitment(SEED) != commitment(SEED[::-1])
    assert len(commitment(SEED)) == 16


# The graph


@pytest.mark.parametrize(("members", "most"), [(3, 30), (31, 30), (32, 30), (50, 4), (101, 30)])
def test_pairs_are_mutual_and_as_many_as_agreed(members: int, most: int) -> None:
    circle = Circle(members, most, SEED, b"context")
    for one in range(members):
        partners = circle.partners(one)
        assert len(set(partners)) == len(partners) == min(most, members - 1)
        assert one not in partners
        assert list(partners) == sorted(partners)
        assert all(one in circle.partners(other) for other in partners)


def test_any_missing_members_below_the_degree_leave_the_others_connected() -> None:
    circle, random = Circle(40, 6, SEED, b"context"), np.random.default_rng(1)
    for _ in range(300):
        missing = set(random.choice(40, size=5, replace=False).tolist())
        assert circle.connected(set(range(40)) - missing)


def test_both_neighbourhoods_missing_cut_the_circle() -> None:
    circle = Circle(40, 6, SEED, b"context")
    (alone,) = (0,)
    others = set(range(40)) - set(circle.partners(alone))
    assert not circle.connected(others)
    assert circle.connected(others - {alone})
    assert circle.connected(set())


def test_the_order_is_another_one_in_another_epoch() -> None:
    first, second = Circle(40, 4, SEED, b"first"), Circle(40, 4, SEED, b"second")
    assert any(first.partners(one) != second.partners(one) for one in range(40))


def peers(count: int) -> tuple[Peer, ...]:
    return tuple(Peer(f"p{n:03d}", bytes([1, n]) * 16, bytes([2, n]) * 16) for n in range(count))


def test_a_roster_survives_its_file() -> None:
    roster = Roster(peers(4))
    assert Roster.of_bytes(roster.to_bytes(), "peers.json") == roster
    assert roster.number("p002", bytes([1, 2]) * 16) == 2


@pytest.mark.parametrize(
    "wrong",
    [peers(3)[::-1], (*peers(2), peers(2)[1]), (Peer("a", b"short", bytes(32)),), (Peer("a", bytes(32), bytes(32)),)],
    ids=["order", "twice", "short key", "one key for both"],
)
def test_a_roster_that_names_members_wrongly_is_refused(wrong: tuple[Peer, ...]) -> None:
    with pytest.raises(ConfigError, match="join again"):
        Roster(wrong)


def test_a_stranger_has_no_number() -> None:
    with pytest.raises(ConfigError, match="no member"):
        Roster(peers(3)).number("p001", bytes(32))


@pytest.mark.parametrize("text", [b"", b"{}", b'{"format": "dictpfl-peers-1", "peers": [["a", "zz", ""]]}', b"[1]"])
def test_a_damaged_roster_is_refused(text: bytes) -> None:
    with pytest.raises(ConfigError):
        Roster.of_bytes(text, "peers.json")


# What is said

NOTE = Note(7, 2, bytes(16), {0: Partner(b"c" * 16, b"s" * 48), 5: Partner(b"d" * 16, b"t" * 48)})
SAID = [
    NOTE,
    SeedsQuestion(3, (0, 4)),
    SharesQuestion(3, {0: b"a" * 16, 2: b"b" * 16}, {0: {2: b"s" * 48}, 2: {}}),
    SharesQuestion(3, {0: b"a" * 16}, {0: {}}, b"manifests"),
    Answer(1, b"o" * 32, {0: b"p" * 32}),
    Answer(1, b"", {}),
]


@pytest.mark.parametrize("said", SAID, ids=lambda said: type(said).__name__)
def test_what_is_said_comes_back(said: Note) -> None:
    assert type(said).of_bytes(said.to_bytes()) == said


@pytest.mark.parametrize("said", SAID, ids=lambda said: type(said).__name__)
def test_what_is_cut_or_continued_is_refused(said: Note) -> None:
    data = said.to_bytes()
    for wrong in (data[:-1], data + b"\x00", b""):
        with pytest.raises(CorruptError):
            type(said).of_bytes(wrong)


@given(st.binary(max_size=200), st.sampled_from([Note, SeedsQuestion, SharesQuestion, Answer]))
def test_arbitrary_bytes_are_read_or_refused(data: bytes, kind: type[Note]) -> None:
    try:
        said = kind.of_bytes(data)
    except CorruptError:
        return
    assert said.to_bytes() == data


def test_the_first_attempt_costs_nothing() -> None:
    assert attempt_bytes(0) == b""
    assert [read_attempt(attempt_bytes(number)) for number in (0, 1, 2**40)] == [0, 1, 2**40]
    with pytest.raises(CorruptError):
        read_attempt(b"\x01")
