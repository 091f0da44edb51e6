"""MODEL of `dictpfl audit numbers`: a folder of transformers with its tokenizer, or a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dictpfl.client.model import hub
from dictpfl.client.training.train import resolve_device
from dictpfl.common.errors import ConfigError
from dictpfl.common.files import expanded
from dictpfl.common.settings import Model
from dictpfl.deploy.exports.finished import Finished
from dictpfl.deploy.numbers.reading import Reader


def reader_of(source: str, device: str) -> Reader:
    """Load a language model with its tokenizer, float32.

    Args:
        source: `transformers:FOLDER`, such a folder, a run's folder or an institution's; a federation's model is the merged one.
        device: to run on.

    Raises:
        ConfigError: no language model of that name, or no tokenizer beside it.
        ModelError: a model or a tokenizer that the audit cannot read.
    """
    folder = expanded(hub.split(source)[1] or source)
    if (folder / "config.json").exists() and not (folder / "summary.json").exists():
        model = hub.build(Model(source=f"transformers:{folder}", options={"head": "causal-lm"}), (1,), 1)
        return _reader(model, folder, device)
    if hub.split(source)[0]:
        raise ConfigError(
            f"{source}: no model in {folder} (config.json is missing); name a folder that transformers loads"
        )
    if not folder.is_dir():
        raise ConfigError(f"no folder {source!r}; expected a folder of transformers with its tokenizer, or a run's")
    finished = Finished.load(folder)
    name = str(finished.genesis.config.data.options.get("tokenizer", ""))
    if finished.genesis.config.training.task not in ("causal-lm", "distillation") or not name:
        raise ConfigError(
            f"{source} is no run of a language model with data.options.tokenizer, and tallied no numbers; name a language model, or a table by "
            "--data"
        )
    return _reader(finished.merged(), expanded(name), device)


def _reader(model: Any, tokenizer: Path, device: str) -> Reader:
    transformers = hub.library("transformers")
    try:
        loaded = transformers.AutoTokenizer.from_pretrained(tokenizer)
    except (OSError, ValueError) as error:
        raise ConfigError(f"no tokenizer in {tokenizer}: {error}; lay the model's own there") from error
    return Reader(model.to(resolve_device(device)), loaded)
