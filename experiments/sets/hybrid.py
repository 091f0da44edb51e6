"""A small hybrid of Mamba-2, attention and feed-forward layers, without weights, and a vocabulary of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sets import fetched
from sets.places import Unreachable, note, write
from sets.tales import tales

VOCABULARY = 2048
MODEL: dict[str, Any] = {
    "model_type": "nemotron_h", "architectures": ["NemotronHForCausalLM"], "vocab_size": VOCABULARY, "hidden_size": 128,
    "intermediate_size": 512, "mamba_num_heads": 16, "mamba_head_dim": 16, "n_groups": 4, "ssm_state_size": 16, "chunk_size": 32,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "use_cache": False,
    "layers_block_type": [
        "linear_attention", "mlp", "linear_attention", "mlp", "full_attention", "mlp", "linear_attention", "mlp",
    ],
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_SPECIAL = ("<pad>", "<s>", "</s>")
_TERMS = """
config.json is this project's; tokenizer.json was made here from the training split of the brothers Grimm's tales (public domain)."""


@fetched(
    "hybrid",
    files=("hybrid/config.json", "hybrid/tokenizer.json", "hybrid/tokenizer_config.json"),
    about="a Nemotron-H of 1.5 million parameters without weights, and a vocabulary of 2,048 made from the tales",
)
def hybrid(target: Path, given: Path | None) -> None:
    """Write a configuration, and a byte-pair encoding of the tales that are trained on; nothing pretrained is known in a package.

    Raises:
        Unreachable: no package `tokenizers`.
    """
    try:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    except ImportError:
        raise Unreachable(
            "a vocabulary is made by the package tokenizers; pip install 'dictpfl[transformers]'"
        ) from None
    import pandas as pd

    if not (target / "tales.parquet").exists():
        tales(target, given)
    frame = pd.read_parquet(target / "tales.parquet")
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=list(_SPECIAL), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    made.train_from_iterator([str(text) for text in frame["text"][frame["split"] == "train"]], trainer)
    names = dict(zip(("pad_token", "bos_token", "eos_token"), _SPECIAL, strict=True))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False} | names
    note(target / "hybrid.LICENSE", _TERMS)
    write(target / "hybrid" / "tokenizer.json", made.to_str().encode())
    write(target / "hybrid" / "tokenizer_config.json", json.dumps(config, indent=1).encode() + b"\n")
    write(target / "hybrid" / "config.json", json.dumps(MODEL, indent=1).encode() + b"\n")
