"""GGUF files in numpy: metadata, tensors as float32, and a Llama model of them as the folder that transformers loads.

The package `gguf` reads more kinds and asks for three packages more; these are the kinds that the checkpoints fetched here hold. Format:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, version 3, little-endian.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MAGIC, _VERSION, _BLOCK = b"GGUF", 3, 32
_SCALARS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "<?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
_STRING, _ARRAY = 8, 9
_CONTROL = 3
"""`tokenizer.ggml.token_type` of tokens that no text makes, such as the end of a turn."""


class GGUFError(ValueError):
    """A file that this reader does not know."""


@dataclass(frozen=True)
class GGUF:
    """Contents of a file.

    Attributes:
        metadata: values by key; arrays of numbers are numpy's, arrays of strings lists.
        tensors: float32 by the file's own names, shapes as torch has them (outputs first).
    """

    metadata: Mapping[str, Any]
    tensors: Mapping[str, NDArray[np.float32]]


def read(path: Path) -> GGUF:
    """Read a file whole.

    Raises:
        GGUFError: no GGUF file, another version, cut short, or tensors of a kind that is not known here.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return _parsed(_Cursor(data))
        except (struct.error, IndexError, UnicodeDecodeError) as error:
            raise GGUFError(f"{path} ends before its contents do, or is damaged: {error}") from error
        except GGUFError as error:
            raise GGUFError(f"{path}: {error}") from error


def llama_folder(source: Path, folder: Path) -> int:
    """Write a Llama of a GGUF file as config.json, model.safetensors (float32) and tokenizer; returns its parameters.

    Raises:
        GGUFError: another architecture, or tensors that are not those of it.
    """
    import torch
    from transformers import GenerationConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    found = read(source)
    if (kind := found.metadata.get("general.architecture")) != "llama":
        raise GGUFError(f"{source} holds a {kind}; expected a llama")
    config = llama_config(found)
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    tensors = {name: torch.from_numpy(values) for name, values in llama_tensors(found).items()}
    if config.tie_word_embeddings:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    if {name: tuple(value.shape) for name, value in tensors.items()} != wanted:
        odd = sorted(wanted.keys() ^ tensors.keys()) or [n for n, t in tensors.items() if tuple(t.shape) != wanted[n]]
        raise GGUFError(
            f"{source}: tensors are not those of the model that its metadata describe: {', '.join(odd[:5])}"
        )
    model.load_state_dict(tensors, strict=True, assign=True)
    model.tie_weights()
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )
    model.save_pretrained(folder)
    tokenizer(found).save_pretrained(folder)
    return sum(p.numel() for p in model.parameters())


def llama_config(found: GGUF) -> Any:
    """Transformers' configuration of a llama's metadata."""
    from transformers import LlamaConfig

    meta = found.metadata
    width, heads = int(meta["llama.embedding_length"]), int(meta["llama.attention.head_count"])
    return LlamaConfig(
        vocab_size=len(meta["tokenizer.ggml.tokens"]),
        hidden_size=width,
        intermediate_size=int(meta["llama.feed_forward_length"]),
        num_hidden_layers=int(meta["llama.block_count"]),
        num_attention_heads=heads,
        num_key_value_heads=int(meta.get("llama.attention.head_count_kv", heads)),
        max_position_embeddings=int(meta["llama.context_length"]),
        rms_norm_eps=float(meta["llama.attention.layer_norm_rms_epsilon"]),
        rope_theta=float(meta.get("llama.rope.freq_base", 10_000.0)),
        tie_word_embeddings="output.weight" not in found.tensors,
        bos_token_id=int(meta["tokenizer.ggml.bos_token_id"]),
        eos_token_id=int(meta["tokenizer.ggml.eos_token_id"]),
        pad_token_id=int(meta.get("tokenizer.ggml.padding_token_id", meta["tokenizer.ggml.eos_token_id"])),
    )


_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def llama_tensors(found: GGUF) -> dict[str, NDArray[np.float32]]:
    """A llama's tensors under transformers' names.

    llama.cpp turns neighbouring pairs of a head by an angle, transformers its first half against its second: rows of the query and key
    projections are brought back into the order of the latter.

    Raises:
        GGUFError: a tensor that a llama does not have.
    """
    heads = int(found.metadata["llama.attention.head_count"])
    turned = {"attn_q": heads, "attn_k": int(found.metadata.get("llama.attention.head_count_kv", heads))}
    tensors: dict[str, NDArray[np.float32]] = {}
    for name, values in found.tensors.items():
        *block, part, suffix = name.split(".")
        if part not in _NAMES or suffix != "weight":
            raise GGUFError(f"tensor {name!r} is none of a llama's")
        if part in turned:
            values = values.reshape(turned[part], -1, 2, values.shape[1]).swapaxes(1, 2).reshape(values.shape)  # noqa: PLW2901
        prefix = f"model.layers.{block[1]}." if block else ""
        tensors[f"{prefix}{_NAMES[part]}.{suffix}"] = np.ascontiguousarray(values)
    return tensors


def tokenizer(found: GGUF) -> Any:
    """Transformers' fast tokenizer of the byte-pair encoding in a file's metadata.

    Raises:
        GGUFError: another kind of tokenizer than SmolLM's.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    meta = found.metadata
    kind = meta["tokenizer.ggml.model"], meta.get("tokenizer.ggml.pre")
    if kind != ("gpt2", "smollm"):
        raise GGUFError(f"a tokenizer {kind}; expected ('gpt2', 'smollm'), byte pairs with every digit by itself")
    words: list[str] = meta["tokenizer.ggml.tokens"]
    merges = [tuple(pair.split(" ")) for pair in meta["tokenizer.ggml.merges"]]
    made = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, merges))  # type: ignore[arg-type]
    made.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    control = [word for word, kind in zip(words, meta["tokenizer.ggml.token_type"], strict=True) if kind == _CONTROL]
    made.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in control])
    named = {
        word: words[int(meta[f"tokenizer.ggml.{key}_token_id"])]
        for word, key in (
            ("bos_token", "bos"),
            ("eos_token", "eos"),
            ("unk_token", "unknown"),
            ("pad_token", "padding"),
        )
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        model_max_length=int(meta["llama.context_length"]),
        clean_up_tokenization_spaces=False,
        chat_template=meta.get("tokenizer.chat_template"),
        additional_special_tokens=[word for word in control if word not in named.values()],
        **named,
    )


def _f32(raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    return raw.view("<f4").astype(np.float32)


def _f16(raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    return raw.view("<f2").astype(np.float32)


def _q8_0(raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Blocks of 32 values: a float16 scale, 32 bytes with sign."""
    blocks = raw.reshape(-1, 2 + _BLOCK)
    return _f16(blocks[:, :2].copy()) * blocks[:, 2:].view(np.int8).astype(np.float32)


def _q4_1(raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Blocks of 32 values: a float16 scale and minimum, then 16 bytes, whose low halves are the first 16 values."""
    blocks = raw.reshape(-1, 4 + _BLOCK // 2)
    scale, least = _f16(blocks[:, :2].copy()), _f16(blocks[:, 2:4].copy())
    halves = np.concatenate([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], axis=1)
    return scale * halves.astype(np.float32) + least


_KINDS: Mapping[int, tuple[int, int, Callable[[NDArray[np.uint8]], NDArray[np.float32]]]] = {
    0: (1, 4, _f32),
    1: (1, 2, _f16),
    3: (_BLOCK, 20, _q4_1),
    8: (_BLOCK, 34, _q8_0),
}
"""By ggml's number of a kind: values of a block, bytes of one, and what reads them."""


class _Cursor:
    """Reads a buffer from the front."""

    def __init__(self, data: mmap.mmap | bytes) -> None:
        self.data, self.at = data, 0

    def scalar(self, kind: str) -> Any:
        dtype = np.dtype(kind)
        (value,) = struct.unpack_from(f"<{dtype.char}", self.take(dtype.itemsize))
        return value

    def string(self) -> str:
        return self.take(self.scalar("<u8")).decode()

    def take(self, count: int) -> bytes:
        found = self.data[self.at : self.at + count]
        if len(found) != count:
            raise IndexError(f"{count} bytes expected at {self.at}, {len(found)} found")
        self.at += count
        return found

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            inner, count = self.scalar("<u4"), self.scalar("<u8")
            if inner in _SCALARS:
                dtype = np.dtype(_SCALARS[inner])
                return np.frombuffer(self.take(count * dtype.itemsize), dtype)
            return [self.value(inner) for _ in range(count)]
        if kind not in _SCALARS:
            raise GGUFError(f"a value of kind {kind}, which GGUF does not have")
        return self.scalar(_SCALARS[kind])


def _parsed(cursor: _Cursor) -> GGUF:
    if cursor.take(4) != _MAGIC:
        raise GGUFError("no GGUF file: its first four bytes are others")
    if (version := cursor.scalar("<u4")) != _VERSION:
        raise GGUFError(f"GGUF version {version}; expected {_VERSION}")
    tensors, pairs = cursor.scalar("<u8"), cursor.scalar("<u8")
    metadata = {}
    for _ in range(pairs):
        key = cursor.string()
        metadata[key] = cursor.value(cursor.scalar("<u4"))
    told = []
    for _ in range(tensors):
        name, shape = cursor.string(), [cursor.scalar("<u8") for _ in range(cursor.scalar("<u4"))]
        told.append((name, tuple(reversed(shape)), cursor.scalar("<u4"), cursor.scalar("<u8")))
    step = int(metadata.get("general.alignment", 32))
    start = -(-cursor.at // step) * step
    found = {}
    for name, shape, kind, offset in told:
        if kind not in _KINDS:
            raise GGUFError(f"tensor {name!r} of kind {kind}; this reader knows F32, F16, Q4_1 and Q8_0")
        values, size, reader = _KINDS[kind]
        if prod(shape) % values or (values > 1 and shape[-1] % values):
            raise GGUFError(f"tensor {name!r} of shape {shape} in blocks of {values}")
        cursor.at = start + offset
        raw = np.frombuffer(cursor.take(prod(shape) // values * size), np.uint8)
        found[name] = reader(raw).reshape(shape)
    return GGUF(metadata, found)
