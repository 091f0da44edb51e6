"""AdaptiveBatchHE as re-built: real Paillier ciphertexts add up, and a federation under it is FedAvg but for its decimals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dictpfl.common.config import FederationConfig
from dictpfl.common.law.layout import Kind, Layout
from lib.batchhe import Encoding, Paillier
from lib.batchhe_run import Sums, adaptive_batch, left_of
from lib.fedavg import fedavg

DIGITS = {"data.limit": 300, "model.source": "mlp", "model.options": {"hidden": [24]}, "federation.rounds": 4,
          "training.learning_rate": 0.01}  # fmt: skip


def config(method: str, **changes: Any) -> FederationConfig:
    dotted = {name.replace("__", "."): value for name, value in changes.items()}
    return FederationConfig.of({}, {**DIGITS, "method": method, "toy_insecure": True, **dotted})


def test_widths_are_those_of_the_authors_code() -> None:
    """Three institutions, four decimals, updates below a half: one bit before the point, 15 behind (9,999 * 3 < 2^15)."""
    encoding = Encoding(3, 4, 2048)
    assert encoding.widths(encoding.bound(0.07)) == (1, 15)
    assert encoding.widths(encoding.bound(0.5)) == (2, 15), (
        "2 * 0.5 has an integer part of 1, three of them take two bits"
    )
    assert encoding.per_plaintext(700) == 2047 // 16
    assert encoding.traffic({700: 127 * 3 + 1}, layers=2) == (4 * 512 + 8, 4 * 512 + 8)
    assert encoding.traffic({700: 127, 650: 254, 5000: 1}, layers=3)[0] == (3 + 1) * 512 + 12, "equal widths share"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 7), st.integers(1, 6), st.sampled_from([0.0, 1e-4, 0.03, 0.5, 3.0]))
def test_sums_of_plaintexts_are_plaintexts_of_sums(seed: int, institutions: int, decimals: int, scale: float) -> None:
    random, encoding = np.random.default_rng(seed), Encoding(institutions, decimals, 256)
    updates = [random.normal(0, scale, 50) for _ in range(institutions)]
    bound = encoding.bound(max(np.abs(update).max() for update in updates))
    numbers = [encoding.encode(update, bound) for update in updates]
    plain = [encoding.packed(one, bound) for one in numbers]
    assert max(sum(column) for column in zip(*plain, strict=True)) < 1 << 255
    sums = encoding.unpacked([sum(column) for column in zip(*plain, strict=True)], 50, bound)
    assert sums.tolist() == np.sum(numbers, axis=0).tolist()
    error = np.abs(encoding.mean(sums, bound) - np.mean(updates, axis=0)).max()
    assert error <= 0.5000001 * 10.0**-decimals


def test_no_change_is_sent_as_none() -> None:
    encoding = Encoding(3, 4)
    bound = encoding.bound(0.0123456)
    zeros = sum(encoding.encode(np.zeros(5), bound) for _ in range(3))
    assert encoding.mean(zeros, bound).tolist() == [0.0] * 5


def test_paillier_adds() -> None:
    scheme, encoding = Paillier(1024), Encoding(3, 4, 1024)
    random = np.random.default_rng(1)
    updates = [random.normal(0, 0.02, 70) for _ in range(3)]
    bound = encoding.bound(max(np.abs(update).max() for update in updates))
    uploads = [[scheme.encrypt(one) for one in encoding.packed(encoding.encode(u, bound), bound)] for u in updates]
    assert len(uploads[0]) == encoding.ciphertexts({bound: 70}) == 2
    assert scheme.encrypt(5) != scheme.encrypt(5)
    totals = uploads[0]
    for upload in uploads[1:]:
        totals = [scheme.add(one, other) for one, other in zip(totals, upload, strict=True)]
    assert max(totals).bit_length() > 8 * (2 * 1024 // 8 - 2), "as long as is counted"
    sums = encoding.unpacked([scheme.decrypt(total) for total in totals], 70, bound)
    assert sums.tolist() == sum(encoding.encode(update, bound) for update in updates).tolist()


def test_the_rival_is_fedavg_but_for_its_decimals() -> None:
    plain = fedavg(config("plaintext"), tests=False)
    fine, coarse = (adaptive_batch(config("plaintext"), decimals=k, tests=False) for k in (9, 1))
    assert fine["validation_loss"] == pytest.approx(plain["validation_loss"], abs=1e-5)
    assert abs(coarse["validation_loss"] - plain["validation_loss"]) > 1e-2
    assert fine["values"]["sent"] == 4 * fine["values"]["shared"]
    assert coarse["bytes"]["up"] < fine["bytes"]["up"]
    assert "accuracy" not in fine, "a rate is not tuned on the test split"
    assert "accuracy" in adaptive_batch(config("plaintext", federation__rounds=1), decimals=4, tests=True)


def test_the_combination_prunes_and_owes() -> None:
    said: dict[str, Any] = {"pruning__tau": 1, "pruning__beta": 0.5, "federation__rounds": 6}
    pruned = adaptive_batch(config("dictpfl-paper", **said), decimals=6, tests=False)
    whole = adaptive_batch(config("dictpfl-paper", **said, pruning__enabled=False), decimals=6, tests=False)
    assert whole["values"]["sent"] == 6 * whole["values"]["shared"]
    # Round 0 sends all; of the others at least half of what the one before sent is left out, and some of it drawn again.
    assert pruned["values"]["sent"] < 0.75 * whole["values"]["sent"]
    assert pruned["bytes"]["up"] < whole["bytes"]["up"]


def test_what_is_not_sent_is_owed_and_nothing_else() -> None:
    layout, sums = Layout.of([("t", (4,), Kind.TABLE), ("b", (2,), Kind.DENSE)]), Sums()
    updates = [np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]), np.array([0.3, 0.2, 0.1, 0.0, -0.5, 0.2])]
    mask = np.array([True, False, True, True, False, True])
    mean, owed = sums.mean(Encoding(2, 4), layout, updates, mask), [left_of(update, mask) for update in updates]
    np.testing.assert_allclose(mean, [0.2, 0.0, 0.2, 0.2, 0.0, 0.4])
    assert [one.tolist() for one in owed] == [[0, 0.2, 0, 0, 0.5, 0], [0, 0.2, 0, 0, -0.5, 0]]
    assert sums.sent == 4


@pytest.mark.parametrize("setting", [{"decomposition__refresh_every": 2}, {"aggregation__rule": "adam"}])
def test_what_is_not_played_is_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="leave them at their defaults"):
        adaptive_batch(config("dictpfl", **setting), decimals=4, tests=False)
