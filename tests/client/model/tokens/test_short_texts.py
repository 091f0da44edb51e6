"""Texts that are too short for a budget are read whole, as the plain model reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import structlog
import torch
from torch import Tensor, nn

from dictpfl.client.model.tokens.families.text import divided
from dictpfl.client.model.tokens.install import reduce_tokens, reduction_of, take_off
from dictpfl.client.model.tokens.reducers.autoprune import AutoPrune
from dictpfl.client.model.tokens.stack import say_whole
from dictpfl.common.errors import ConfigError

Batch = Mapping[str, Tensor]


def bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(1)
    config = BertConfig(hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=64, vocab_size=90)
    return BertForSequenceClassification(config).eval()


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(1)
    config = LlamaConfig(
        hidden_size=32, num_hidden_layers=5, num_attention_heads=4, num_key_value_heads=2, intermediate_size=64, vocab_size=90,
        pad_token_id=0, use_cache=False,
    )  # fmt: skip
    return LlamaForSequenceClassification(config).eval()


every_family = pytest.mark.parametrize("make", [bert, llama])


def texts(*lengths: int, width: int = 0) -> Batch:
    torch.manual_seed(2)
    longest = width or max(lengths)
    ids, mask = torch.randint(1, 90, (len(lengths), longest)), torch.ones(len(lengths), longest, dtype=torch.int64)
    for row, length in enumerate(lengths):
        mask[row, length:] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


def of(batch: Batch, rows: list[int]) -> Batch:
    return {name: value[rows] for name, value in batch.items()}


def logits(model: nn.Module, batch: Batch) -> Tensor:
    found: Tensor = model(**batch).logits
    return found


@every_family
@pytest.mark.parametrize(
    ("keep", "lengths"), [(0.2, (2,)), (0.2, (2, 8, 1)), (0.127, (2, 40, 60)), (0.249, (3,))]
)  # of one eighth and more
@pytest.mark.parametrize("options", [{}, {"adapt": "own", "gamma": 5.0}])
def test_short_texts_are_read_by_the_plain_model(
    make: Any, keep: float, lengths: tuple[int, ...], options: dict[str, Any]
) -> None:
    """Bit for bit, with padding behind them and without, in evaluation and in training."""
    model = make()
    for batch in (texts(*lengths), texts(*lengths, width=70)):
        plain = logits(model, batch)
        reduce_tokens(model, "autoprune", keep=keep, **options)
        assert torch.equal(logits(model, batch), plain)
        logits(model.train(), batch).sum().backward()
        model.eval()
        take_off(model)


@every_family
def test_longer_texts_beside_them_are_reduced_as_ever(make: Any) -> None:
    model, batch = make(), texts(2, 40, 8, 33, 9)
    plain = logits(model, batch)
    reduce_tokens(model, "autoprune", keep=0.2)
    mixed = logits(model, batch)
    long = logits(model, of(batch, [1, 3, 4]))
    torch.testing.assert_close(mixed[[0, 2]], plain[[0, 2]], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(mixed[[1, 3, 4]], long, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(mixed[[1, 3]], plain[[1, 3]], atol=1e-5)


@every_family
def test_their_hidden_states_are_those_of_the_plain_model_in_a_mixed_batch(make: Any) -> None:
    """Bit for bit those of the short texts alone, padded alike; the head alone multiplies all samples at once."""
    model, batch = make(), texts(2, 40, 8, 33, 9)
    base = model.base_model
    plain = base(**of(batch, [0, 2])).last_hidden_state
    reduce_tokens(model, "autoprune", keep=0.2)
    assert torch.equal(base(**batch).last_hidden_state[[0, 2]], plain)


@every_family
@pytest.mark.parametrize("options", [{}, {"adapt": "own", "gamma": 5.0}])
def test_reports_count_them(make: Any, options: dict[str, Any]) -> None:
    model = make()
    reduce_tokens(model, "autoprune", keep=0.2, **options)
    reduction = reduction_of(model)
    assert reduction is not None
    logits(model, texts(2, 5))
    report = reduction.report()
    assert (report.samples, set(report.tokens), sum(report.levels), report.products) == (2, {5.0}, 0, 1.0)
    logits(model, texts(64, 64))
    report = reduction.report()
    assert (report.samples, sum(report.levels)) == (4, 2)
    assert report.tokens[0] == (5 + 64) / 2
    assert report.products < 1


def test_it_is_said_once_that_there_are_such_texts() -> None:
    model = bert()
    reduce_tokens(model, "autoprune", keep=0.2)
    say_whole.cache_clear()
    with structlog.testing.capture_logs() as logged:
        logits(model, texts(64))
        assert not logged
        logits(model, texts(2))
        logits(model, texts(2))
    assert len([entry for entry in logged if "too short for tokens.keep" in entry["event"]]) == 1


@pytest.mark.parametrize(("keep", "longest"), [(0.25, 0), (0.2, 8), (0.127, 496)])
def test_what_is_too_short(keep: float, longest: int) -> None:
    """As long as no more than `longest` tokens are read whole."""
    lengths = [length for length in (1, 8, 9, 496, 497, 512) if length]
    real = torch.arange(512) < torch.tensor(lengths).unsqueeze(1)
    _, whole = divided(torch.zeros(len(lengths), 512, 1), real, 4, AutoPrune(keep), from_the_end=False)
    assert [lengths[i] for i in whole.tolist()] == [length for length in lengths if length <= longest]


def test_budgets_that_leave_nothing_of_a_long_text_are_still_refused() -> None:
    with pytest.raises(ConfigError, match="leaves less than one of 448 free tokens"):
        reduce_tokens(bert(), "autoprune", keep=0.126)


@pytest.mark.parametrize(
    "name", ["MegatronBert", "XLMRobertaXL", "RoFormer", "Esm", "Nystromformer", "RemBert", "Qwen3", "StableLm"]
)
def test_models_that_do_more_than_their_layers_are_refused_by_name(name: str) -> None:
    """With layers named as BERT's or Llama's, but norms behind them, positions between them, or attention of another kind."""
    import transformers

    sizes = {
        "hidden_size": 8,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 8,
        "vocab_size": 320,
    }
    config = getattr(transformers, f"{name}Config")(pad_token_id=0, **sizes)
    made: nn.Module = getattr(transformers, f"{name}ForSequenceClassification")(config)
    with pytest.raises(ConfigError, match=name):
        reduce_tokens(made, "autoprune", keep=0.5)
    assert reduction_of(made) is None
