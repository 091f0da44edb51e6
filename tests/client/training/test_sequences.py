"""Sequence-to-sequence and contrastive tasks: rows against transformers' own losses, pairs against the slow obvious version."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 -- torch's own convention
from torch import Tensor, nn

from dictpfl.client.data.samples import IGNORED, PADDING
from dictpfl.client.model.rows import reading_rows
from dictpfl.client.model.twin import decompose, merge
from dictpfl.client.training.calling import forward
from dictpfl.client.training.metric import require_sum
from dictpfl.client.training.metrics.retrieval import Retrieval
from dictpfl.client.training.metrics.sequence_accuracy import SequenceAccuracy
from dictpfl.client.training.task import load_task, measured_whole, require_single
from dictpfl.common.errors import ConfigError, ModelError

END = 1
SOURCES, TARGETS = [[5, 6, 7, END], [8, END], [9, 10, END]], [[11, 12, END], [13, 14, 15, END], [6, END]]


def built(kind: str) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(3)
    if kind == "t5":
        config = transformers.T5Config(
            vocab_size=20, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_decoder_layers=1, num_heads=2, dropout_rate=0.0,
            decoder_start_token_id=0, eos_token_id=END, pad_token_id=0,
        )  # fmt: skip
        return transformers.T5ForConditionalGeneration(config).eval()
    config = transformers.BartConfig(
        vocab_size=20, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=24, decoder_ffn_dim=24, max_position_embeddings=32, dropout=0.0, eos_token_id=END, bos_token_id=2, pad_token_id=0,
        decoder_start_token_id=END, forced_eos_token_id=END,
    )  # fmt: skip
    return transformers.BartForConditionalGeneration(config).eval()


def filled(rows: list[list[int]], value: int, width: int) -> Tensor:
    return torch.tensor([row + [value] * (width - len(row)) for row in rows])


@pytest.fixture(scope="module")
def rows() -> tuple[Tensor, Tensor]:
    pairs = list(zip(SOURCES, TARGETS, strict=True))
    ids = filled([source + target for source, target in pairs], PADDING, 9)
    return ids, filled([[IGNORED] * len(source) + target for source, target in pairs], IGNORED, 9)


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_a_row_is_learnt_as_transformers_learns_source_and_target(kind: str, rows: tuple[Tensor, Tensor]) -> None:
    model, (ids, labels) = built(kind), rows
    known = filled(SOURCES, 0, 4)
    own = model(
        input_ids=known,
        attention_mask=filled([[1] * len(s) for s in SOURCES], 0, 4),
        labels=filled(TARGETS, IGNORED, 4),
    ).loss
    own.backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    reading = reading_rows(model)
    assert type(reading).__name__ in ("T5ForConditionalGeneration", "BartForConditionalGeneration")
    loss = load_task("sequence-to-sequence").loss(forward(reading, ids), labels)
    assert loss.item() == pytest.approx(own.item(), rel=1e-5)
    loss.backward()
    for name, parameter in reading.named_parameters():
        if name in wanted:
            torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-4, atol=1e-6)


def test_a_twin_of_an_encoder_decoder_is_the_same_model_and_merges(rows: tuple[Tensor, Tensor]) -> None:
    model, (ids, _) = reading_rows(built("t5")), rows
    twin = decompose(model, rank=2)
    assert twin.roles["encoder.block.0.layer.0.SelfAttention.q.weight"] == "table"
    twin.eval()
    torch.testing.assert_close(forward(twin.module, ids), forward(model, ids))
    vector = np.random.default_rng(0).normal(0, 0.05, twin.layout.size)
    twin.load(vector)
    moved = forward(twin.module, ids)
    assert not torch.allclose(moved, forward(model, ids), atol=1e-3)
    torch.testing.assert_close(forward(merge(twin).eval(), ids), moved, rtol=1e-4, atol=1e-5)


def test_tokens_of_the_source_and_padding_move_nothing_they_must_not(rows: tuple[Tensor, Tensor]) -> None:
    model, (ids, _) = reading_rows(built("t5")), rows
    together = forward(model, ids)
    for row, one in zip(ids, together, strict=True):  # batches are cut to their longest row
        alone = forward(model, row.unsqueeze(0))[0]
        torch.testing.assert_close(one[: len(alone)], alone, rtol=1e-4, atol=1e-5)
    assert together[0, : len(SOURCES[0]) - 1].abs().max().item() == 0.0
    no_end = torch.tensor([[5, 6, 7, PADDING]])
    assert forward(model, no_end).abs().max().item() == 0.0


def test_other_models_do_not_read_rows() -> None:
    with pytest.raises(ModelError, match="no encoder-decoder"):
        reading_rows(nn.Linear(2, 2))


def test_a_sequence_is_right_when_all_of_its_tokens_are() -> None:
    labels = torch.tensor([[IGNORED, 1, 2, IGNORED], [IGNORED, 1, 1, 2], [IGNORED] * 4])
    outputs = F.one_hot(torch.tensor([[1, 2, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]]), 3).float()
    assert int(SequenceAccuracy().total(outputs, labels)) == 1
    require_sum(SequenceAccuracy(), outputs, labels)


def slow_info_nce(outputs: Tensor, temperature: float) -> float:
    sides, total = F.normalize(outputs.double(), dim=2).numpy(), 0.0
    for first, second in ((0, 1), (1, 0)):
        for sample in range(len(sides)):
            near = np.exp(sides[:, second] @ sides[sample, first] / temperature)
            total -= np.log(near[sample] / near.sum()) / len(sides) / 2
    return total


def test_pairs_are_told_apart_within_their_batch() -> None:
    torch.manual_seed(1)
    outputs, labels = torch.randn(40, 2, 6), torch.zeros(40, dtype=torch.int64)
    task = load_task("contrastive", {"temperature": 0.3})
    assert float(task.loss(outputs, labels)) == pytest.approx(slow_info_nce(outputs, 0.3), rel=1e-5)
    assert measured_whole(task)
    with pytest.raises(ModelError, match="belongs to samples together"):
        require_single(task, "differential privacy")
    with pytest.raises(ModelError, match="a row for each side"):
        task.loss(torch.randn(4, 6), labels[:4])
    with pytest.raises(ConfigError, match="temperature is 0"):
        load_task("contrastive", {"temperature": 0})


def test_retrieval_is_of_32_however_large_the_split() -> None:
    torch.manual_seed(2)
    outputs = torch.randn(70, 2, 3)
    outputs[:, 1] = outputs[:, 0] + 0.3 * torch.randn(70, 3)
    sides, found = F.normalize(outputs, dim=2), 0
    for sample in range(70):
        first = min(sample // 32 * 32, 70 - 32)
        found += int((sides[first : first + 32, 1] @ sides[sample, 0]).argmax()) == sample - first
    assert 0.2 < found / 70 < 0.95
    assert float(Retrieval().total(outputs, torch.zeros(70))) == found
    what, answer = load_task("contrastive").guess(torch.zeros(64), 3)  # type: ignore[attr-defined]
    assert what == "the same for everybody"
    assert float(Retrieval().total(answer.expand(64, 2, 3), torch.zeros(64))) == pytest.approx(2.0)
    few = copy.deepcopy(outputs[:5])
    few[:, 1] = few[:, 0]
    assert float(Retrieval().total(few, torch.zeros(5))) == 5.0
