"""Noise that nobody can predict: the keystream of ChaCha20, under a key that is never used twice."""

from __future__ import annotations

import os
from unittest import mock

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

pytest.importorskip("randomgen", reason="the extra `dp` is not installed")

from dictpfl.client.privacy.chance import unpredictable


def test_it_is_the_keystream_of_chacha20() -> None:
    key = os.urandom(32)
    with mock.patch(
        "dictpfl.client.privacy.chance.secrets.randbits", return_value=int.from_bytes(key, "little")
    ) as asked:
        found = unpredictable().bit_generator.random_raw(1000)
    asked.assert_called_once_with(256)
    stream = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(8000))
    assert np.array_equal(found, np.frombuffer(stream, "<u8"))


def test_no_two_are_alike_and_forks_do_not_repeat() -> None:
    assert unpredictable().bit_generator.random_raw() != unpredictable().bit_generator.random_raw()
    seen = []
    for _ in range(2):
        reader, writer = os.pipe()
        if not os.fork():
            os.write(writer, int(unpredictable().bit_generator.random_raw()).to_bytes(8, "little"))
            os._exit(0)
        os.wait()
        seen.append(os.read(reader, 8))
        os.close(reader)
        os.close(writer)
    assert seen[0] != seen[1]
