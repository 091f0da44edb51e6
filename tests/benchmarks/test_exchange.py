"""What the benchmarks count is what is sent, and what they compare computes the same thing."""

from __future__ import annotations

import numpy as np
import pytest
from torch import nn

from dictpfl.client.model.build import build_model
from dictpfl.client.model.twin import Twin, make_dictionaries
from dictpfl.common.law.tags import TAGS
from dictpfl.common.messages.wire import ENTRY_BYTES, HEADER_BYTES
from dictpfl.common.settings import Decomposition, Model
from dictpfl.common.words import packed_length
from lib.exchange import Exchange, Memory
from lib.measured import PARTICIPANTS, Scheme
from lib.rivals import FLARE, CKKSVector, Clear, Ours
from lib.secagg import SecAggPlus
from lib.shapes import shared


@pytest.mark.parametrize("tensors", [0, 5])
@pytest.mark.parametrize("values", [1, 16_363, 16_369, 50_000])
def test_counted_bytes_are_those_of_real_blobs_and_sums_are_exact(values: int, tensors: int) -> None:
    exchange, fold = Exchange(3), None
    fold = exchange.fold(values, tensors)
    for institution in range(3):
        upload = exchange.upload(exchange.values(values, institution), tensors, institution)
        assert len(upload) == exchange.bytes_up(values, tensors)
        fold.add(institution, upload)
    aggregate, _, _ = fold.aggregate()
    assert len(aggregate) == exchange.bytes_down(values, tensors)
    total = sum(exchange.values(values, institution) for institution in range(3))
    assert np.array_equal(exchange.open(aggregate, values, tensors), total)


@pytest.mark.parametrize("participants", [3, 6])
@pytest.mark.parametrize("uploads", [1, 2, 3])
def test_a_sum_of_some_opens_too(participants: int, uploads: int) -> None:
    exchange = Exchange(participants)
    fold = exchange.fold(100)
    for institution in range(uploads):
        fold.add(institution, exchange.upload(exchange.values(100, institution), member=institution))
    total = sum(exchange.values(100, institution) for institution in range(uploads))
    assert np.array_equal(exchange.open(fold.aggregate()[0], 100), total)


def test_a_streamed_vector_has_the_bytes_of_the_whole() -> None:
    exchange = Exchange(3, 16)
    values = exchange.values(exchange.block_values + 1)
    blocks = (values[start : start + exchange.block_values] for start in range(0, values.size, exchange.block_values))
    packed = sum(len(part) for part in exchange.stream(blocks))
    beside = HEADER_BYTES + ENTRY_BYTES + packed_length(TAGS, exchange.parameters.word_bits)
    assert 0 <= beside + packed - exchange.bytes_up(values.size) <= 1


@pytest.mark.parametrize("orientation", ["paper", "smaller"])
def test_values_counted_by_shape_are_those_of_the_twin(orientation: str) -> None:
    model: nn.Module = build_model(Model(source="vit_tiny", options={"dim": 32, "depth": 2}), (1, 8, 8), 10, 1)
    settings = Decomposition.model_validate({"orientation": orientation, "rank": 3})
    layout = Twin(model, settings, make_dictionaries(model, settings, bytes(32))).layout
    assert shared(model, settings) == {entry.name: entry.size for entry in layout.entries}


def _vectors(count: int) -> list[np.ndarray]:
    return [np.random.default_rng(i).normal(0, 0.01, count).astype(np.float32) for i in range(PARTICIPANTS)]


@pytest.mark.parametrize(
    ("scheme", "tolerance"),
    [(Ours(8), 4e-4), (Ours(16), 2e-6), (Clear(), 1e-8), (CKKSVector("all", (60, 40, 40), 40), 1e-6),
     (CKKSVector("a part", (60, 52, 60), 52, share=0.1), 1e-6), (SecAggPlus(), 1e-5)],
    ids=lambda given: getattr(given, "name", None),
)  # fmt: skip
def test_schemes_give_back_the_mean(scheme: Scheme, tolerance: float) -> None:
    now = scheme.run(_vectors(5_000))
    assert now.error < tolerance
    assert {"encrypt", "aggregate", "decrypt"} <= now.seconds.keys()
    assert min(now.up, now.down) > 5_000


def test_flare_gives_back_the_mean_and_sends_its_context_with_each_tensor() -> None:
    pytest.importorskip("nvflare", reason="NVIDIA FLARE is not installed: pip install -e '.[peers]'")
    vectors = _vectors(8_192)
    whole, halves = FLARE().run(vectors), FLARE(tensor=4_096).run(vectors)
    assert max(whole.error, halves.error) < 1e-6
    assert halves.up - whole.up > 500_000


def test_memory_forgets_its_peak() -> None:
    memory = Memory()
    held = np.ones(8_000_000)
    assert memory.peak() > 60_000_000
    del held
    memory.restart()
    assert memory.peak() < 30_000_000
