"""Norms of several kinds between neurons and digits, and models that the audit cannot read: each held to what the model itself computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
import transformers

from dictpfl.common.errors import ModelError
from dictpfl.deploy.numbers.lens import lens
from dictpfl.deploy.numbers.parts import last_norm, through
from dictpfl.deploy.numbers.reading import Reader
from dictpfl.deploy.numbers.selectivity import ranks
from dictpfl.deploy.numbers.tasks import questions

SIZES: dict[str, Any] = {
    "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
    "initializer_range": 0.4, "max_position_embeddings": 512, "pad_token_id": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """Characters, each a token."""
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "\n": 2} | {chr(c): c - 29 for c in range(32, 127)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))  # noqa: S106 -- a token, no secret
    made.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")
    made.decoder = tokenizers.decoders.Fuse()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made)


def made(kind: str, tokenizer: Any) -> Any:
    """A tiny random model whose norms multiply by something, and whose favourite is a digit at most places."""
    torch.manual_seed(0)
    sizes = SIZES | {"vocab_size": len(tokenizer)} | ({"head_dim": 12} if kind.startswith("gemma") else {})
    if kind == "stablelm":  # it turns a quarter of each head, an even number
        sizes |= {"hidden_size": 32}
    if kind in ("gemma2", "gemma3_text"):
        sizes |= {"sliding_window": 512, "query_pre_attn_scalar": 12}
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(kind, **sizes))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(-0.9, 2.0) if kind.startswith("gemma") else parameter.uniform_(0.2, 2.0)
        model.get_output_embeddings().weight[[tokenizer.convert_tokens_to_ids(str(d)) for d in range(10)]] *= 2
    return model


KINDS = ["llama", "gemma", "gemma2", "gemma3_text", "stablelm", "olmo2"]


@pytest.mark.parametrize("kind", KINDS)
def test_ranks_are_those_that_the_model_itself_gives_a_neuron(kind: str, tokenizer: Any) -> None:
    """A neuron that writes alone, into an empty stream: the model's own parts take it from there to the logits."""
    reader = Reader(made(kind, tokenizer), tokenizer)
    model, found = reader.model, ranks(reader)
    for number, layer in enumerate(model.base_model.layers):
        columns = layer.mlp.down_proj.weight.detach().t()
        behind = getattr(layer, "post_feedforward_layernorm", lambda w: w)
        bias = getattr(model.base_model.norm, "bias", None)
        for neuron, column in enumerate(columns):
            with torch.no_grad():
                stream = behind(1e3 * column.unsqueeze(0))  # large, so that no epsilon counts
                logits = (
                    model.base_model.norm(1e3 * stream) - (0 if bias is None else bias)
                ) @ model.get_output_embeddings().weight.t()
            order = logits[0].argsort(descending=True).tolist()
            assert found[number, :, neuron].tolist() == [order.index(int(d)) + 1 for d in reader.digits], (
                number,
                neuron,
            )
    assert not torch.equal(found, ranks(reader, gain=False)), "the last norm's gain matters here"


def test_gemma_multiplies_by_one_more_than_its_weight(tokenizer: Any) -> None:
    norm = made("gemma", tokenizer).base_model.norm
    for width in (1.0, 0.01):
        vectors = width * torch.randn(5, 24, generator=torch.Generator().manual_seed(1))
        told = torch.nn.functional.normalize(through(norm, vectors), dim=1)
        torch.testing.assert_close(told, torch.nn.functional.normalize(vectors * (1 + norm.weight.detach()), dim=1))
    half = through(norm.bfloat16(), vectors.bfloat16())
    assert half.dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_s_parts_add_up_to_what_it_does_to_the_stream(kind: str, tokenizer: Any) -> None:
    model = made(kind, tokenizer)
    reader, kept = Reader(model, tokenizer), {}
    handles = [
        part.register_forward_hook(
            lambda _m, _i, out, n=number, w=what: kept.__setitem__((n, w), out[0] if isinstance(out, tuple) else out)
        )
        for number, layer in enumerate(reader.layers)
        for what, part in (("attention", layer.attention), ("feed-forward", layer.feed_forward))
    ]
    ids = torch.tensor([tokenizer("Answer: 12")["input_ids"]])
    with torch.no_grad():
        states = model(input_ids=ids, output_hidden_states=True).hidden_states
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(states[1], states[0] + kept[0, "attention"] + kept[0, "feed-forward"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_lens_ends_with_what_the_model_says(kind: str, tokenizer: Any) -> None:
    reader, asked = Reader(made(kind, tokenizer), tokenizer), questions("sums", 5, 3)
    found, told = lens(reader, [(asked[1:], asked[:1])]), []
    places = reader.read(asked[1:], asked[:1])
    for number, question in enumerate(asked[1:]):
        for place in range(len(question.answer)):
            ids = reader.prompt(question, asked[:1]) + [int(reader.digits[int(d)]) for d in question.answer[:place]]
            with torch.no_grad():
                told.append(
                    reader.model(input_ids=torch.tensor([ids])).logits[0, -1][reader.digits].softmax(dim=0).numpy()
                )
            (chosen,) = places.chosen["plain"][(places.question == number) & (places.place == place)]
            assert chosen == told[-1].argmax()
    np.testing.assert_allclose(found["shares"][-1], np.mean(told, axis=0), atol=1e-5)


def test_mixtures_of_experts_are_refused_though_some_layers_are_dense(tokenizer: Any) -> None:
    small = SIZES | {"vocab_size": len(tokenizer)}
    config = transformers.Qwen2MoeConfig(**small, mlp_only_layers=[0], num_experts=2, num_experts_per_tok=1, moe_intermediate_size=8,
                                         shared_expert_intermediate_size=8)  # fmt: skip
    with pytest.raises(ModelError, match=r"mixture of experts .*expert.*dense models alone"):
        Reader(transformers.AutoModelForCausalLM.from_config(config), tokenizer)


def test_models_of_which_only_some_layers_can_be_read_are_refused(tokenizer: Any) -> None:
    model = made("llama", tokenizer)
    model.model.layers[1].mlp.down_proj = torch.nn.Sequential(model.model.layers[1].mlp.down_proj)
    with pytest.raises(ModelError, match=r"no mlp.down_proj, or no self_attn, in model.layers.1:"):
        Reader(model, tokenizer)
    other = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=20))
    with pytest.raises(ModelError, match="no norm"):
        last_norm(other)
