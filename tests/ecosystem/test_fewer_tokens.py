"""`dictpfl tokens` on models of transformers that were trained with a reducer, which is taken off for all arms but its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from dictpfl.deploy.compress.source import read_source
from dictpfl.deploy.compress.tokens import compared
from dictpfl.deploy.simulation.simulate import simulate
from tests.ecosystem.conftest import settings
from tests.support.federations import tiny

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_every_arm_of_a_run_with_a_reducer(kind: str, texts: Path, tokenizer: Path, tmp_path: Path) -> None:
    import transformers

    name, sizes = settings(kind)
    folder = tmp_path / kind
    getattr(transformers, name)(**sizes | {"num_hidden_layers": 3, "pad_token_id": 0}).save_pretrained(folder)
    config = tiny(
        data__source="csv", data__path=str(texts), data__label="topic", data__limit=100,
        data__options={"text": "text", "tokenizer": str(tokenizer), "max_tokens": 16},
        model__source=f"transformers:{folder}", model__options={"pretrained": False, "head": "sequence-classification"},
        federation__rounds=1, tokens__reducer="autoprune", tokens__keep=0.7,
    )  # fmt: skip
    simulate(config, tmp_path / "run", engine="local")
    home = tmp_path / "run" / "institutions" / "institution-000"
    rows = {row.arm: row for row in compared(read_source(str(home), deciding=False), 0.5, []).rows}
    assert {"all tokens", "as trained", "fixed", "own MI", "random tokens"} <= rows.keys()
    assert rows["all tokens"].products == 1.0
    assert rows["fixed"].read < rows["as trained"].read
