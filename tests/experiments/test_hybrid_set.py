"""experiments/fetch.py --only hybrid: a configuration and a vocabulary, made from the tales alone, the same every time."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from sets import hybrid, load


def test_what_is_written_builds_a_model_and_reads_texts(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("tokenizers")
    rows = [{"text": "A certain father had two sons.", "split": "train"}, {"text": "zebra zebra", "split": "test"}]
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        pd.DataFrame(rows).to_parquet(tmp_path / name / "tales.parquet")
        load()["hybrid"](tmp_path / name, None)
        assert not load()["hybrid"].missing(tmp_path / name)
    one, two = ((tmp_path / name / "hybrid" / "tokenizer.json").read_bytes() for name in ("one", "two"))
    assert one == two
    assert b"zebra" not in one, "nobody's test texts make the vocabulary"
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "one" / "hybrid")
    assert tokenizer.decode(tokenizer("two sons")["input_ids"]) == "two sons"
    assert tokenizer.eos_token_id == hybrid.MODEL["eos_token_id"]
    config = transformers.AutoConfig.from_pretrained(tmp_path / "one" / "hybrid")
    assert len(tokenizer) <= config.vocab_size == hybrid.VOCABULARY
    assert transformers.AutoModelForCausalLM.from_config(config).config.mamba_num_heads == 16
