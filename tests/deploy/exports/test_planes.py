"""Tensors are packed without loss: every dtype and shape comes back bit for bit, and gains are what the page says."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dictpfl.common.errors import DataError
from dictpfl.deploy.exports.planes import pack, unpack

KINDS = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)


@settings(deadline=None, max_examples=100)
@given(
    st.sampled_from(KINDS),
    st.sampled_from([(), (0,), (1,), (5000,), (64, 0), (33, 65), (3, 5, 7, 11), (2000, 3)]),
    st.sampled_from(["noise", "zeros", "few"]),
    st.integers(0, 2**32 - 1),
)
def test_bits_come_back(kind: torch.dtype, shape: tuple[int, ...], like: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    values = {
        "noise": lambda: random.integers(0, 256, (*shape, kind.itemsize), dtype=np.uint8),  # NaNs and infinities, too
        "zeros": lambda: np.zeros((*shape, kind.itemsize), dtype=np.uint8),
        "few": lambda: random.integers(0, 3, (*shape, kind.itemsize), dtype=np.uint8),
    }[like]()
    values = values % 2 if kind is torch.bool else values
    tensor = torch.from_numpy(values).reshape(-1).view(kind).reshape(shape)
    packed, listed = pack({"a": tensor, "b": torch.zeros(9)})
    back = unpack(packed, listed)
    assert back["a"].dtype == kind
    assert back["a"].shape == tensor.shape
    assert torch.equal(back["a"].reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))
    assert packed["a"].numel() * packed["a"].element_size() <= tensor.numel() * tensor.element_size()


def test_strides_do_not_matter() -> None:
    tensor = torch.randn(64, 96).T
    assert torch.equal(unpack(*pack({"a": tensor}))["a"], tensor)


@pytest.mark.parametrize(
    ("values", "times"),
    [
        (lambda: torch.randn(400_000), 1.15),
        (lambda: torch.randint(0, 16, (400_000,)) * torch.tensor(0.0123), 2.0),
    ],
    ids=["trained", "of 4 bits"],
)
def test_what_is_gained(values: object, times: float) -> None:
    torch.manual_seed(0)
    tensor = values()  # type: ignore[operator]
    packed, _ = pack({"a": tensor})
    assert tensor.numel() * 4 / packed["a"].numel() > times


def test_what_would_grow_is_left() -> None:
    noise = torch.randint(0, 256, (4096,), dtype=torch.uint8)
    packed, listed = pack({"noise": noise, "short": torch.zeros(100)})
    assert json.loads(listed) == {}
    assert packed["noise"] is noise


def test_a_stream_of_another_length_is_refused_before_it_fills_memory() -> None:
    packed, _ = pack({"a": torch.zeros(50_000_000)})
    with pytest.raises(DataError, match="101 bytes were unpacked, expected 100"):
        unpack(packed, '{"a": ["float32", [25]]}')
    with pytest.raises(DataError, match="fetch it again"):
        unpack(packed, '{"a": ["float32", [60000000]]}')
