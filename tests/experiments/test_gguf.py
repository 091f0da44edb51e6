"""GGUF files written here, byte by byte, and read by experiments/sets/gguf.py."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sets.gguf import GGUFError, llama_folder, read

F32, F16, Q4_1, Q8_0 = 0, 1, 3, 8


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def value(found: Any) -> bytes:
    if isinstance(found, bool):
        return struct.pack("<I?", 7, found)
    if isinstance(found, int):
        return struct.pack("<II", 4, found)
    if isinstance(found, float):
        return struct.pack("<If", 6, found)
    if isinstance(found, str):
        return struct.pack("<I", 8) + string(found)
    if found and isinstance(found[0], str):
        return struct.pack("<IIQ", 9, 8, len(found)) + b"".join(map(string, found))
    return struct.pack(f"<IIQ{len(found)}i", 9, 5, len(found), *found)


def file(path: Path, metadata: Mapping[str, Any], tensors: Mapping[str, tuple[tuple[int, ...], int, bytes]]) -> Path:
    """Write a file; tensors are (shape as torch has it, kind, bytes)."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    head += b"".join(string(key) + value(found) for key, found in metadata.items())
    body = b""
    for name, (shape, kind, raw) in tensors.items():
        body += b"\0" * (-len(body) % 32)
        head += string(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        head += struct.pack("<IQ", kind, len(body))
        body += raw
    path.write_bytes(head + b"\0" * (-len(head) % 32) + body)
    return path


def test_metadata_and_kinds(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    plain = rng.normal(size=(3, 5)).astype(np.float32)
    half = rng.normal(size=(2, 4)).astype(np.float16)
    metadata = {"a": 7, "b": 0.5, "c": "é", "d": True, "e": ["x", "yz"], "f": [3, -1]}
    tensors = {"p": (plain.shape, F32, plain.tobytes()), "h": (half.shape, F16, half.tobytes())}
    found = read(file(tmp_path / "x.gguf", metadata, tensors))
    assert {key: list(v) if key == "f" else v for key, v in found.metadata.items()} == metadata
    np.testing.assert_array_equal(found.tensors["p"], plain)
    np.testing.assert_array_equal(found.tensors["h"], half.astype(np.float32))


def test_blocks_of_four_and_of_eight_bits(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    shape, blocks = (3, 64), 6
    four, eight, wanted4, wanted8 = b"", b"", [], []
    for _ in range(blocks):
        scale, least = (np.float16(x) for x in rng.normal(size=2))
        nibbles, codes = rng.integers(0, 16, 32), rng.integers(-128, 128, 32)
        four += scale.tobytes() + least.tobytes()
        # Byte j holds value j in its low half and value j + 16 in its high one.
        four += bytes(int(nibbles[j]) | int(nibbles[j + 16]) << 4 for j in range(16))
        wanted4 += [np.float32(scale) * np.float32(n) + np.float32(least) for n in nibbles]
        eight += scale.tobytes() + struct.pack("<32b", *codes)
        wanted8 += [np.float32(scale) * np.float32(c) for c in codes]
    found = read(file(tmp_path / "x.gguf", {}, {"four": (shape, Q4_1, four), "eight": (shape, Q8_0, eight)}))
    np.testing.assert_array_equal(found.tensors["four"], np.array(wanted4, np.float32).reshape(shape))
    np.testing.assert_array_equal(found.tensors["eight"], np.array(wanted8, np.float32).reshape(shape))


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda data: b"GGML" + data[4:], "no GGUF file"),
        (lambda data: data[:4] + b"\2\0\0\0" + data[8:], "version 2"),
        (lambda data: data[:-8], "ends before"),
        (lambda data: data[:30], "ends before"),
    ],
)
def test_damage_is_told(damage: Any, match: str, tmp_path: Path) -> None:
    path = file(tmp_path / "x.gguf", {"a": 7}, {"p": ((2, 4), F32, bytes(32))})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(GGUFError, match=match):
        read(path)


def test_unknown_kinds_are_told(tmp_path: Path) -> None:
    with pytest.raises(GGUFError, match="kind 12"):
        read(file(tmp_path / "x.gguf", {}, {"p": ((256,), 12, bytes(144))}))
    with pytest.raises(GGUFError, match="expected a llama"):
        llama_folder(file(tmp_path / "x.gguf", {"general.architecture": "gpt2"}, {}), tmp_path / "y")


WORDS = ["<end>", "<start>", *(chr(c) for c in range(33, 127)), "Ġ", "Ġb", "ĠĠ", "ab"]
MERGES = ["Ġ b", "Ġ Ġ", "a b"]
NAMES = {
    "token_embd": "model.embed_tokens", "output_norm": "model.norm", "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
BLOCKS, HEADS, KEYS, WIDTH, INNER = 2, 4, 2, 32, 48


def llama_metadata() -> dict[str, Any]:
    return {
        "general.architecture": "llama", "llama.block_count": BLOCKS, "llama.context_length": 64,
        "llama.embedding_length": WIDTH, "llama.feed_forward_length": INNER, "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KEYS, "llama.rope.freq_base": 5000.0,
        "llama.attention.layer_norm_rms_epsilon": 1e-5, "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": WORDS, "tokenizer.ggml.token_type": [3, 3] + [1] * (len(WORDS) - 2),
        "tokenizer.ggml.merges": MERGES, "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.ggml.unknown_token_id": 0, "tokenizer.ggml.padding_token_id": 0,
    }  # fmt: skip


def paired(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows as llama.cpp's convert_hf_to_gguf.py orders them."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def llama_state() -> tuple[Any, dict[str, np.ndarray]]:
    """A tiny model of transformers with random weights, and its tensors."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=len(WORDS), hidden_size=WIDTH, intermediate_size=INNER, num_hidden_layers=BLOCKS, num_attention_heads=HEADS,
        num_key_value_heads=KEYS, rms_norm_eps=1e-5, rope_theta=5000.0, tie_word_embeddings=True, initializer_range=0.3,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = transformers.LlamaForCausalLM(config).eval()
    return model, {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def converted(state: Mapping[str, np.ndarray]) -> dict[str, tuple[tuple[int, ...], int, bytes]]:
    """Tensors as llama.cpp's converter names and orders them."""
    tensors = {}
    for part, name in NAMES.items():
        for block in [None] if part in ("token_embd", "output_norm") else range(BLOCKS):
            found = state[f"model.layers.{block}.{name}.weight" if block is not None else f"{name}.weight"]
            if part in ("attn_q", "attn_k"):
                found = paired(found, HEADS if part == "attn_q" else KEYS)
            key = f"blk.{block}.{part}.weight" if block is not None else f"{part}.weight"
            tensors[key] = (found.shape, F32, np.ascontiguousarray(found).tobytes())
    return tensors


def tiny_llama(path: Path) -> Path:
    """Write a file with a whole tiny model."""
    return file(path, llama_metadata(), converted(llama_state()[1]))


def test_a_llama_goes_there_and_back(tmp_path: Path) -> None:
    """A model of transformers, written as llama.cpp's converter would, gives the same outputs when read again."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model, state = llama_state()
    tensors = converted(state)
    source = file(tmp_path / "x.gguf", llama_metadata(), tensors)
    assert llama_folder(source, tmp_path / "y") == sum(p.numel() for p in model.parameters())
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "y", dtype=torch.float32).eval()
    ids = torch.tensor([[1, 5, 9, 60, 20, 11, 7, 33]])
    with torch.no_grad():
        np.testing.assert_array_equal(again(ids).logits.numpy(), model(ids).logits.numpy())
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "y")
    text = "ab b  12  a<end>"  # spaces before a digit stay together; of those before a word, the last goes with it
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["ab", "Ġb", "ĠĠ", "1", "2", "Ġ", "Ġ", "a", "<end>"]
    assert tokenizer.decode(ids) == text
    assert (tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id) == (0, 1, 0)

    short = dict(list(tensors.items())[:-1])
    with pytest.raises(GGUFError, match="not those of the model"):
        llama_folder(file(tmp_path / "z.gguf", llama_metadata(), short), tmp_path / "z")
