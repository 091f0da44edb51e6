"""benchmarks/loading.py: a run's exports in an environment that has torch, transformers and peft, and not dictpfl."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import loading
from dictpfl.common.config import FederationConfig
from dictpfl.deploy.exports.formats.peft import export_adapter
from dictpfl.deploy.simulation.simulate import simulate

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture
def run(texts: Path, tokenizer: Path, checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    raw: dict[str, Any] = {
        "federation": {"rounds": 2},
        "data": {"source": "csv", "path": str(texts), "label": "topic", "limit": 120,
                 "options": {"text": "text", "tokenizer": str(tokenizer), "max_tokens": 12}},
        "model": {"source": f"transformers:{checkpoint('bert')}"},
        "training": {"steps": 4, "learning_rate": 1e-2, "device": "cpu"},
    }  # fmt: skip
    simulate(FederationConfig.of(raw), tmp_path / "run", engine="local")
    return tmp_path / "run"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return loading.fresh_environment(tmp_path_factory.mktemp("fresh") / "venv", str(Path(torch.__file__).parents[1]))


@pytest.mark.slow
def test_both_exports_predict_the_same(run: Path, python: Path) -> None:
    found = loading.loaded(run, python)
    assert found["samples"] == 24
    assert {form: row["other_predictions"] for form, row in found["forms"].items()} == {"merged": 0, "peft": 0}
    assert max(row["largest_difference"] for row in found["forms"].values()) < 2e-5
    assert not loading.failures(found)


@pytest.mark.nightly
def test_an_adapter_that_says_something_else_is_a_failure(
    run: Path, python: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoilt(finished: Any, folder: Path) -> None:
        export_adapter(finished, folder)
        path = folder / "adapter_model.safetensors"
        tensors = load_file(path)
        head = next(name for name in tensors if name.endswith("classifier.bias"))
        tensors[head] += torch.tensor([0.0, 0.01, 0.0])
        save_file(tensors, path, metadata={"format": "pt"})

    monkeypatch.setattr(loading, "export_adapter", spoilt)
    found = loading.loaded(run, python, limit=4)
    assert found["samples"] == 4
    (line,) = loading.failures(found)
    assert line.startswith("peft: largest difference of a logit 0.01")


@pytest.mark.nightly
def test_an_environment_with_this_project_is_refused(run: Path, python: Path, tmp_path: Path) -> None:
    (institution,) = (python.parents[1] / "lib").glob("python3*/site-packages")
    path = institution / "dictpfl.py"
    path.write_text("")
    try:
        with pytest.raises(RuntimeError, match="dictpfl can be imported"):
            loading.loaded(run, python, limit=1)
    finally:
        path.unlink()
