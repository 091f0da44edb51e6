"""Tiny models of transformers, built from configurations, and a tokenizer and texts made here: no network, no files."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

# What transformers, datasets and their like touch at import is theirs to mend.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

WORDS = {
    "ice": ["puck", "rink", "goalie", "skate", "stick", "ice", "team", "goal"],
    "space": ["orbit", "moon", "launch", "rocket", "nasa", "shuttle", "probe", "mars"],
    "kitchen": ["salt", "oven", "bread", "knife", "onion", "soup", "butter", "pan"],
}
COMMON = ["the", "a", "of", "and", "to", "in", "is", "was", "for", "on"]


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    missing = [name for name in ("transformers", "timm", "peft") if importlib.util.find_spec(name) is None]
    if missing and collection_path.suffix == ".py" and collection_path.name.startswith("test_"):
        pytest.skip(f"{', '.join(missing)} not installed: pip install -e '.[hub]'", allow_module_level=True)
    return None


def sentences(count: int, seed: int = 0) -> pd.DataFrame:
    """Sentences about one of three topics, of 3 to 14 words."""
    rng = np.random.default_rng(seed)
    rows = []
    for topic in rng.choice(sorted(WORDS), count):
        length = int(rng.integers(3, 15))
        words = [str(rng.choice(WORDS[topic] if rng.random() < 0.5 else COMMON)) for _ in range(length)]
        rows.append({"text": " ".join([str(rng.choice(WORDS[topic])), *words]), "topic": topic})
    return pd.DataFrame(rows)


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A csv file with the columns text and topic."""
    path = tmp_path_factory.mktemp("texts") / "texts.csv"
    sentences(240).to_csv(path, index=False)
    return path


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer of whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *COMMON, *(w for topic in WORDS.values() for w in topic)]
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(dict.fromkeys(words))}, unk_token=words[1]))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    folder = tmp_path_factory.mktemp("tokenizer")
    names = {
        "unk_token": "[UNK]",
        "pad_token": "[PAD]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "eos_token": "[SEP]",
    }
    PreTrainedTokenizerFast(tokenizer_object=made, **names).save_pretrained(folder)
    return folder


def settings(kind: str) -> tuple[str, dict[str, Any]]:
    """The configuration class of a model family, and what makes it tiny."""
    size = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 32, "vocab_size": 64}
    size["initializer_range"] = 0.2  # at this width 0.02 would leave nothing to tell inputs apart by
    return {
        "bert": ("BertConfig", size | {"intermediate_size": 48, "max_position_embeddings": 32}),
        "roberta": ("RobertaConfig", size | {"intermediate_size": 48, "max_position_embeddings": 40, "pad_token_id": 0,
                                             "bos_token_id": 2, "eos_token_id": 3}),
        "llama": ("LlamaConfig", size | {"intermediate_size": 48, "num_key_value_heads": 1, "bos_token_id": 2,
                                         "eos_token_id": 3}),
        "gpt2": ("GPT2Config", {"n_layer": 2, "n_head": 2, "n_embd": 32, "vocab_size": 64, "n_positions": 32, "initializer_range": 0.2,
                                "bos_token_id": 2, "eos_token_id": 3}),
        "nemotron_h": ("NemotronHConfig", {"hidden_size": 32, "vocab_size": 64, "intermediate_size": 48, "num_attention_heads": 2,
                       "num_key_value_heads": 1, "head_dim": 16, "mamba_num_heads": 8, "mamba_head_dim": 8, "n_groups": 2,
                       "ssm_state_size": 4, "chunk_size": 4, "layers_block_type": ["linear_attention", "mlp", "full_attention", "mlp"],
                       "initializer_range": 0.2, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}),
        "bamba": ("BambaConfig", size | {"intermediate_size": 48, "num_key_value_heads": 1, "attn_layer_indices": [1], "mamba_n_heads": 8,
                  "mamba_d_head": 8, "mamba_n_groups": 2, "mamba_d_state": 4, "mamba_expand": 2, "mamba_chunk_size": 4,
                  "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}),
        "vit": ("ViTConfig", {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 32, "image_size": 8,
                              "patch_size": 2, "intermediate_size": 48, "num_channels": 1, "initializer_range": 0.2}),
    }[kind]  # fmt: skip


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory, tokenizer: Path) -> Callable[[str], Path]:
    """Folders with config.json of a tiny model, and no weights."""
    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            import transformers

            name, small = settings(kind)
            made[kind] = tmp_path_factory.mktemp(kind)
            getattr(transformers, name)(**small).save_pretrained(made[kind])
        return made[kind]

    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, folders: Callable[[str], Path]) -> Callable[[str], Path]:
    """Folders with config.json and weights of the model without a head."""
    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            import torch
            from transformers import AutoConfig, AutoModel

            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(7)
                model = AutoModel.from_config(AutoConfig.from_pretrained(folders(kind)))
            made[kind] = tmp_path_factory.mktemp(f"{kind}-weights")
            model.save_pretrained(made[kind])
        return made[kind]

    return folder
