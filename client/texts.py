"""Text as token ids (`data.options.text`), with the tokenizer that belongs to the model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from client.data import IGNORED, PADDING, Dataset, Samples, drawn
from client.hub import folder_of, library
from client.tables import groups_of, labels_of, require_columns
from common.errors import ConfigError
from common.settings import Data

if TYPE_CHECKING:
    import pandas as pd

OPTIONS = ("text", "tokenizer", "max_tokens", "prompt")
_MOST = 128  # tokens of a sample, where the configuration names no number


def tokens(data: Data, frame: pd.DataFrame, known_classes: tuple[str, ...] = (), *, seed: int) -> Dataset:
    """Rows as token ids, int64 (n, max_tokens): longer ones are cut, shorter ones filled with `PADDING`.

    Batches are cut to their longest row again and masked when they are used (`client.batches`). Of many texts, only those
    that `data.limit` keeps (drawn by seed) go through the tokenizer; the classes are those of all.

    `data.options`:

    - `text`: the column, or a list of two for pairs of texts.
    - `tokenizer`: a folder or a hub's name, as in `transformers:...`.
    - `max_tokens`: 128 by default; all institutions need the same.
    - `target`: `next` for a language model, whose labels are the tokens themselves (`training.task = "causal-lm"`); then
      `prompt` may name a column that stands before the text and is not learnt.

    Raises:
        ConfigError: no tokenizer, or one that cannot be had.
        DataError: columns missing.
    """
    options = data.options
    text = [options["text"]] if isinstance(options["text"], str) else list(options["text"])
    tokenizer = load_tokenizer(options.get("tokenizer", ""))
    most = int(options.get("max_tokens", _MOST))
    is_next = options.get("target") == "next"
    prompt = [str(options["prompt"])] if "prompt" in options else []
    if most < 1 or len(text) > 2 or (prompt and not is_next):  # noqa: PLR2004 -- a text or a pair
        raise ConfigError(
            'data.options: expected max_tokens of 1 or more, one column or two in `text`, and `prompt` with target = "next" only'
        )
    require_columns(data, frame, [*text, *prompt, *([] if is_next else [data.label])])
    labels, names = (np.zeros(0, np.int64), ()) if is_next else labels_of(frame[data.label], data, known_classes)
    kept = drawn(len(frame), data.limit, seed)
    if kept is not None:
        frame, labels = frame.iloc[kept], labels[kept] if len(labels) else labels
    if is_next:
        samples = _next_tokens(tokenizer, _column(frame, prompt), _column(frame, text[:1]), most)
        outputs = len(tokenizer)
    else:
        rows = tokenizer(*(frame[column].astype(str).tolist() for column in text), truncation=True, max_length=most)
        samples, outputs = Samples(_filled(rows["input_ids"], most, PADDING), labels), len(names) or 1
    return Dataset(samples, outputs, groups_of(data, frame), name=Path(data.path).name, class_names=names)


def load_tokenizer(name: str) -> Any:
    """The tokenizer of a folder or of a hub's name.

    Raises:
        ConfigError: not to be had.
    """
    if not name:
        raise ConfigError(
            "data.options.text needs data.options.tokenizer: the folder or name that model.source has after `transformers:`"
        )
    transformers = library("transformers")
    folder = folder_of(name, "data.options.tokenizer")
    try:
        return transformers.AutoTokenizer.from_pretrained(folder or name, trust_remote_code=False)
    except (OSError, ValueError, ImportError, KeyError, AttributeError) as error:
        raise ConfigError(
            f"data.options.tokenizer {name!r} cannot be loaded: {str(error).splitlines()[0] if str(error) else error!r}. Without "
            "a network, name a folder with tokenizer.json"
        ) from error


def _column(frame: pd.DataFrame, names: Sequence[str]) -> list[str]:
    return frame[names[0]].astype(str).tolist() if names else [""] * len(frame)


def _next_tokens(tokenizer: Any, prompts: list[str], bodies: list[str], most: int) -> Samples:
    end = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    before = tokenizer(prompts, add_special_tokens=True)["input_ids"] if any(prompts) else [[]] * len(prompts)
    after = tokenizer(bodies, add_special_tokens=not any(prompts))["input_ids"]
    rows = [(list(p) + list(b) + end)[:most] for p, b in zip(before, after, strict=True)]
    kept = [[IGNORED] * min(len(p), most) + row[len(p) :] for p, row in zip(before, rows, strict=True)]
    return Samples(_filled(rows, most, PADDING), _filled(kept, most, IGNORED))


def _filled(rows: Sequence[Sequence[int]], width: int, value: int) -> NDArray[np.int64]:
    array = np.full((len(rows), width), value, dtype=np.int64)
    for line, row in zip(array, rows, strict=True):
        line[: len(row)] = row
    return array
