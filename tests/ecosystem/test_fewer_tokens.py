"""Models of transformers that were trained with a reducer: their map of layers, and `dictpfl tokens`, which takes it off for other arms."""

from __future__ import annotations

from pathlib import Path

import pytest

from dictpfl.deploy.compress.layers import pooled
from dictpfl.deploy.compress.source import read_source
from dictpfl.deploy.compress.tokens import compared
from dictpfl.deploy.exports.finished import Finished
from dictpfl.deploy.simulation.simulate import simulate
from tests.ecosystem.conftest import settings
from tests.support.federations import tiny

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_a_run_with_a_reducer(kind: str, texts: Path, tokenizer: Path, tmp_path: Path) -> None:
    import transformers

    name, sizes = settings(kind)
    folder = tmp_path / kind
    getattr(transformers, name)(**sizes | {"num_hidden_layers": 3, "pad_token_id": 0}).save_pretrained(folder)
    config = tiny(
        data__source="csv", data__path=str(texts), data__label="topic", data__limit=100,
        data__options={"text": "text", "tokenizer": str(tokenizer), "max_tokens": 16},
        model__source=f"transformers:{folder}", model__options={"pretrained": False, "head": "sequence-classification"},
        federation__rounds=1, tokens__reducer="autoprune", tokens__keep=0.7,
        tallies__closing=["layerif"], tallies__options={"layerif": {"samples": 6, "validation": 4}},
    )  # fmt: skip
    simulate(config, tmp_path / "run", engine="local")
    home = tmp_path / "run" / "institutions" / "institution-000"
    (tallied,) = pooled(Finished.load(tmp_path / "run"))
    assert tallied.institutions == 3, "nobody refused, though texts are of several lengths"
    assert all(block.influence > 0 for block in tallied.blocks.values())
    rows = {row.arm: row for row in compared(read_source(str(home), deciding=False), 0.5, []).rows}
    assert {"all tokens", "as trained", "fixed", "own MI", "random tokens"} <= rows.keys()
    assert rows["all tokens"].products == 1.0
    assert rows["fixed"].read < rows["as trained"].read
