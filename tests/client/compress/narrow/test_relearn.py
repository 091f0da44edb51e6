"""What is left of a dropped skill is placed between a model that has it and one that never had it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from dictpfl.client.compress.narrow.heads import with_fresh_head
from dictpfl.client.compress.narrow.relearn import (
    NEVER,
    THERE,
    UNCLEAR,
    _inside,
    probed,
    relearnt,
    residual,
    verdicts,
)
from dictpfl.client.data.samples import PADDING, Samples
from dictpfl.client.model.networks.mlp import mlp
from dictpfl.client.training.calling import forward, tensors_of
from dictpfl.client.training.task import load_task
from dictpfl.common.errors import ConfigError, DataError
from dictpfl.common.settings import Training

TASK = load_task("classification")
CEILING, FLOOR = [90.0, 92.0, 91.0], [50.0, 48.0, 52.0]


def test_the_ends_of_the_scale() -> None:
    assert residual(CEILING, CEILING, FLOOR).verdict == THERE
    assert residual(FLOOR, CEILING, FLOOR).verdict == NEVER
    found = residual([one + 20.5 for one in FLOOR], CEILING, FLOOR)
    assert found.interval is not None
    assert found.interval.mean == pytest.approx(0.5)
    assert found.verdict == UNCLEAR
    below = residual([one - 40 for one in FLOOR], CEILING, FLOOR)
    assert below.interval is not None
    assert below.interval.mean < -0.9


def test_an_interval_that_is_wide_is_unclear() -> None:
    assert residual([50.0, 91.0, 60.0], CEILING, FLOOR).verdict == UNCLEAR


def test_no_figure_where_nothing_can_be_told() -> None:
    found = residual([52.0] * 3, [54.9] * 3, [50.0] * 3)
    assert found.interval is None
    assert "no figure" in found.verdict
    assert residual([52.0] * 3, [55.0] * 3, [50.0] * 3).interval is not None
    with pytest.raises(ConfigError, match="same seeds"):
        residual([1.0], CEILING, FLOOR)


def test_verdicts_of_all_arms() -> None:
    curve = [{30: 50.0, 100: 60.0}, {30: 51.0, 100: 61.0}]
    high = [{30: 90.0, 100: 91.0}, {30: 90.0, 100: 91.0}]
    found = verdicts({"full": high, "scratch": curve, "arm": curve}, "full", "scratch")
    assert list(found) == ["arm"]
    assert found["arm"][30].interval is not None
    assert found["arm"][30].interval.mean == 0.0


def blobs(seed: int = 0) -> tuple[nn.Module, Samples, Samples]:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, 300)
    features = (random.normal(size=(300, 6)) + 3 * np.eye(6)[labels]).astype(np.float32)
    torch.manual_seed(seed)
    return mlp((6,), 3, (8, 5)), Samples(features[:200], labels[:200]), Samples(features[200:], labels[200:])


def test_more_steps_bring_more_back_and_the_model_stays() -> None:
    model, train, test = blobs()
    before = model[1].weight.clone()
    found = relearnt(model, train, test, TASK, Training(learning_rate=1e-2, device="cpu"), (1, 100), seed=1)
    assert found[100] > 90 > found[1]
    assert torch.equal(model[1].weight, before)


def test_a_fresh_head_is_the_same_for_one_seed() -> None:
    model, _, _ = blobs()
    one, same, other = (with_fresh_head(model, seed) for seed in (1, 1, 2))
    assert torch.equal(one[5].weight, same[5].weight)
    assert not torch.equal(one[5].weight, other[5].weight)
    assert torch.equal(one[3].weight, model[3].weight)


def test_the_probe_reads_the_body_alone() -> None:
    model, train, test = blobs()
    with torch.no_grad():
        model[5].weight.zero_()
    assert probed(model, train, test) > 70
    with torch.no_grad():
        model[3].weight.zero_()
    assert probed(model, train, test) < 50


def test_the_probe_of_a_decoder_reads_the_token_that_answers() -> None:
    """Its head reads every token, as many as the longest text of a batch has."""
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = transformers.LlamaConfig(vocab_size=30, num_labels=2, pad_token_id=0, num_key_value_heads=2, **sizes)
    model, random = transformers.LlamaForSequenceClassification(config).eval(), np.random.default_rng(0)
    ids = np.full((70, 12), PADDING)
    for row in range(70):
        length = 12 if row < 3 else int(random.integers(2, 9))
        ids[row, :length] = random.integers(1, 30, length)
    texts = Samples(ids, np.arange(70) % 2)
    head = model.score.weight.detach().double().numpy()
    said = [forward(model, tensors_of(model, texts.take(np.array([row])))[0]) for row in range(70)]
    np.testing.assert_allclose(_inside(model, texts) @ head.T, torch.cat(said).detach().numpy(), atol=1e-5)
    assert 0.0 <= probed(model, texts.take(np.arange(64)), texts.take(np.arange(64, 70))) <= 100.0


def test_a_probe_of_one_class_is_refused() -> None:
    model, train, test = blobs()
    with pytest.raises(DataError, match=r"the \d+ samples to learn from are of class 1 alone"):
        probed(model, train.of_classes((1,)), test)
