"""The subject of the cutting benchmark: a small Nemotron-H, pretrained here on messages and on Python, from nothing.

No wheel with a pretrained Mamba or hybrid checkpoint is known. Text is 20 Newsgroups (`python experiments/fetch.py --only news`) and the
interpreter's own standard library, which is read and never shipped; the vocabulary is a byte-pair encoding made from it.
"""

from __future__ import annotations

import hashlib
import json
import os
import sysconfig
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from dictpfl.client.compress.distil import distil
from dictpfl.client.data.samples import Samples
from dictpfl.common.settings import Training
from lib.federations import CELLS
from lib.machine import ROOT

NEWS = ROOT / "data" / "newsgroups.parquet"
VOCABULARY, LENGTH, STEPS = 2048, 128, 600
SEQUENCES = {"train": 9600, "calibration": 32, "test": 96, "validation": 64}
"""Sequences of each of the two domains; what is chosen is chosen by those for validation."""
TOPICAL, SPARE = 12, 3000
"""Sequences of each topic of the messages, and messages that they are made of: the last ones, which no other part reaches."""
MODEL: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 128, "intermediate_size": 512, "mamba_num_heads": 16, "mamba_head_dim": 16,
    "n_groups": 4, "ssm_state_size": 16, "chunk_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
    "layers_block_type": [
        "linear_attention", "mlp", "linear_attention", "mlp", "full_attention", "mlp", "linear_attention", "mlp",
    ],
    "use_cache": False, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
TRAINING = Training(
    task="causal-lm",
    steps=STEPS,
    batch_size=16,
    learning_rate=2e-3,
    warmup_steps=50,
    clip_norm=1.0,
    autocast="bfloat16",
    device="cpu",
)
"""Of the subject; distillation takes half of its rate."""


def texts() -> dict[str, list[str]]:
    """Messages and Python files, those to be tested on last, in an order of their own."""
    import pandas as pd

    if not NEWS.exists():
        raise SystemExit(f"{NEWS.name} is missing; run `python experiments/fetch.py --only news`")
    news = [str(text) for text in pd.read_parquet(NEWS)["text"]]
    library = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(p for p in library.rglob("*.py") if not {"site-packages", "test", "tests"} & set(p.parts))
    code = [path.read_text(encoding="utf-8", errors="replace") for path in files]
    return {"messages": [news[i] for i in _order(len(news))], "Python": [code[i] for i in _order(len(code))]}


def _order(count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.random.default_rng(0).permutation(count)


@cache
def tokens() -> dict[str, dict[str, Samples]]:
    """Sequences of token ids by domain and part; texts of one part are in no other."""
    found = texts()
    tokenizer = _tokenizer(found)
    return {domain: _parts(tokenizer, each) for domain, each in found.items()}


@cache
def by_topic() -> Samples:
    """Sequences of messages, as many of every topic; labels are the topics' numbers."""
    import pandas as pd

    tokenizer, table = _tokenizer(texts()), pd.read_parquet(NEWS)
    last = table.iloc[_order(len(table))[-SPARE:]]
    rows, labels = [], []
    for number, topic in enumerate(sorted(set(table["topic"]))):
        ids: list[int] = []
        for text in last["text"][last["topic"] == topic]:
            ids += [1, *tokenizer.encode(str(text)).ids]
            if len(ids) >= TOPICAL * LENGTH:
                break
        assert len(ids) >= TOPICAL * LENGTH, f"{topic}: {len(ids)} tokens; raise SPARE"
        rows.append(np.array(ids[: TOPICAL * LENGTH], dtype=np.int64).reshape(-1, LENGTH))
        labels += [number] * TOPICAL
    return Samples(np.concatenate(rows), np.array(labels, dtype=np.int64))


def _tokenizer(found: dict[str, list[str]]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    cache_file = CELLS / f"hybrid-bpe-{_digest([VOCABULARY, {d: len(t) for d, t in found.items()}])}.json"
    if not cache_file.exists():
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=VOCABULARY, special_tokens=["<pad>", "<s>", "</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
        )  # fmt: skip
        made.train_from_iterator([t[:20000] for texts_ in found.values() for t in texts_[:600]], trainer)
        CELLS.mkdir(exist_ok=True)
        part = cache_file.with_suffix(f".{os.getpid()}.part")
        made.save(str(part))
        part.replace(cache_file)
    return Tokenizer.from_file(str(cache_file))


def _parts(tokenizer: Any, each: list[str]) -> dict[str, Samples]:
    made: dict[str, Samples] = {}
    at = 0
    for part in ("test", "calibration", "validation", "train"):
        wanted, ids = SEQUENCES[part] * LENGTH, list[int]()
        while len(ids) < wanted and at < len(each):
            ids += [1, *tokenizer.encode(each[at]).ids]
            at += 1
        rows = np.array(ids[: len(ids) // LENGTH * LENGTH][:wanted], dtype=np.int64).reshape(-1, LENGTH)
        made[part] = Samples(rows, rows)
    return made


def both(part: str) -> Samples:
    """Sequences of a part, of both domains."""
    parts = [each[part] for each in tokens().values()]
    rows = np.concatenate([p.features for p in parts])
    return Samples(rows, rows)


def fresh(seed: int, **changes: Any) -> nn.Module:
    """A hybrid with weights drawn by seed."""
    import transformers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = transformers.NemotronHForCausalLM(transformers.NemotronHConfig(**MODEL | changes))
    return model.eval()


def subject(seed: int) -> nn.Module:
    """The pretrained hybrid of a seed; trained once, on one thread, then read."""
    torch.set_num_threads(1)  # two processes of two threads each would take three times as long on two cores
    model = fresh(seed)
    return stored(
        f"hybrid-{seed}-{made_of()}",
        model,
        lambda: distil(model, None, both("train"), TRAINING, weight=0.0, seed=seed)[0],
    )


def stored(name: str, like: nn.Module, make: Callable[[], nn.Module]) -> nn.Module:
    """A model that is made once, then read.

    Args:
        name: of its file in `benchmarks/.cells`; says all that it was made from.
        like: of its class and sizes; is given the weights, and returned.
        make: trains it.
    """
    file = CELLS / f"{name}.safetensors"
    if not file.exists():
        made, part = make(), file.with_suffix(f".{os.getpid()}.part")
        CELLS.mkdir(exist_ok=True)
        save_file({n: t.contiguous() for n, t in made.state_dict().items()}, part)
        part.replace(file)
    like.load_state_dict(load_file(file))
    return like.eval()


def made_of() -> str:
    """What a subject is made from, as a digest: part of the settings of every cell that is measured on it."""
    return _digest([MODEL, TRAINING.model_dump(mode="json"), SEQUENCES, VOCABULARY, LENGTH])


def _digest(of: Any) -> str:
    return hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()[:16]
