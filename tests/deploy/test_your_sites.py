"""docs/how-to/your-data.md: each block for several sites runs as typed in an empty folder, and the model learns."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dictpfl.client.data.samples import Samples
from tests.support import ROOT, forking

PAGE = (ROOT / "docs" / "how-to" / "your-data.md").read_text(encoding="utf-8")
BLOCKS = {
    re.search(r"dictpfl simulate (\w+)\.toml", block)[1]: block
    for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
}


def typed(block: str, folder: Path, **environment: str) -> None:
    programs = os.pathsep.join([forking.programs(), str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-eu"], input=block, cwd=folder, text=True, capture_output=True, check=False,
        env=os.environ | {"PATH": programs} | environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def reached(folder: Path, name: str) -> tuple[dict[str, Any], list[str]]:
    run = folder / "runs" / f"{name}-dictpfl"
    assert (run / "report.html").exists()
    return json.loads((run / "summary.json").read_text()), sorted(
        json.loads((run / "classes.json").read_text())["institutions"]
    )


def test_the_page_has_a_block_for_each_kind() -> None:
    assert set(BLOCKS) == {"pictures", "notes", "patients"}


@pytest.mark.slow
def test_images(tmp_path: Path) -> None:
    typed(BLOCKS["pictures"], tmp_path)
    summary, sites = reached(tmp_path, "pictures")
    assert summary["encrypted"]
    assert sites == ["north", "south", "west"]
    assert summary["test"] > 0.5
    (prepare,) = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
    typed(prepare, tmp_path)
    train, validation = (Samples.load(tmp_path / "institution" / f"{part}.npz") for part in ("train", "validation"))
    assert len(train) + len(validation) == 599
    assert len(validation) == round(0.15 * 599)
    assert train.features.shape[1:] == (1, 8, 8)
    assert np.unique(train.labels).tolist() == list(range(10))


@pytest.mark.slow
def test_tables(tmp_path: Path) -> None:
    typed(BLOCKS["patients"], tmp_path)
    summary, sites = reached(tmp_path, "patients")
    assert summary["encrypted"]
    assert sites == ["north", "south", "west"]
    assert summary["test"] > 0.85
    counts = json.loads((tmp_path / "runs" / "patients-dictpfl" / "classes.json").read_text())
    assert sum(counts["test"]) == 113, "rows that the column marks, and no others"


@pytest.mark.slow
def test_texts(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    plain = "patient has since yesterday pulse valve rhythm wrist fracture cast rash itch mole"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *plain.split()]
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    numbers = {word: number for number, word in enumerate(words)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(numbers, unk_token=special["unk_token"]))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    model = tmp_path / "model"
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, **special).save_pretrained(model)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=32, initializer_range=0.2,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(model)
    typed(BLOCKS["notes"], tmp_path, MODEL=str(model))
    summary, sites = reached(tmp_path, "notes")
    assert summary["encrypted"]
    assert sites == ["north", "south", "west"]
    assert summary["test"] > 0.6
