"""Notes, questions and answers about masks: read as they were written, or refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dictpfl.common.errors import CorruptError
from dictpfl.common.messages.masks import (
    SEALED_SHARE,
    SIGNATURE_BYTES,
    Answer,
    Note,
    Partner,
    SumQuestion,
    attempt_bytes,
    read_attempt,
)

# What is said
NOTE = Note(7, 2, bytes(16), {0: Partner(b"c" * 16, b"s" * SEALED_SHARE), 5: Partner(b"d" * 16, b"t" * SEALED_SHARE)})
SAID = [
    NOTE,
    SumQuestion(3, {0: b"a" * 16, 2: b"b" * 16}),
    SumQuestion(3, {0: b"a" * 16, 2: b"b" * 16}, {2: b"s" * SIGNATURE_BYTES}, {0: {2: b"s" * SEALED_SHARE}}),
    SumQuestion(3, {0: b"a" * 16}, manifests=b"manifests"),
    Answer(1, b"o" * 32, {0: b"p" * 32}),
    Answer(1, b"o" * 32, {0: b"p" * 32}, b"s" * SIGNATURE_BYTES),
    Answer(1, signature=b"s" * SIGNATURE_BYTES),
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


def test_a_sealed_share_is_a_nonce_a_share_and_a_tag() -> None:
    assert SEALED_SHARE == 12 + 32 + 16
    assert len(NOTE.to_bytes()) == 28 + 2 * (2 + 16 + SEALED_SHARE)


@given(st.binary(max_size=200), st.sampled_from([Note, SumQuestion, Answer]))
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
