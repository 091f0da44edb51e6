"""Text as token ids (`data.options.text`), with the tokenizer that belongs to the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import structlog
from numpy.typing import NDArray

from dictpfl.client.data.samples import IGNORED, PADDING, Dataset, Samples, drawn
from dictpfl.client.data.tables import groups_of, labels_of, require_columns, splits_of
from dictpfl.common.errors import ConfigError, DataError, out_of_reach
from dictpfl.common.settings import Data

if TYPE_CHECKING:
    import pandas as pd

OPTIONS = ("text", "tokenizer", "max_tokens", "prompt", "template", "long")
_log = structlog.get_logger(__name__)
_PLACE = "{prompt}"
_MOST = 128  # tokens of a sample, where the configuration names no number


def tokens(data: Data, frame: pd.DataFrame, known_classes: tuple[str, ...] = (), *, seed: int) -> Dataset:
    """Turn rows into token ids, int64 (n, max_tokens): longer ones are cut, shorter ones filled with `PADDING`.

    Batches are cut to their longest row again and masked when they are used (`dictpfl.client.training.calling`). Of
    many texts, only those that `data.limit` keeps (drawn by seed) go through the tokenizer; the classes are those of
    all.

    `data.options`:

    - `text`: the column, or a list of two for pairs of texts.
    - `tokenizer`: a folder or a hub's name, as in `transformers:...`.
    - `max_tokens`: 128 by default; all institutions need the same.
    - `target`: `next` for a language model, whose labels are the tokens themselves (`training.task = "causal-lm"`); then
      `prompt` may name a column that stands before the text and is not learnt, and `template` what stands around it, as
      the model knows it: `"Question: {prompt} Answer: "`.
    - `long`: what becomes of rows of more than `max_tokens`: `cut` (default), or, for a language model, `drop`. An answer
      that was cut has no end to learn; rows that are dropped do not count towards `data.limit`.

    Raises:
        ConfigError: no tokenizer, or one that cannot be had.
        DataError: columns missing, or no row that is short enough.
    """
    options, text = data.options, columns_of(data.options)
    most = options.get("max_tokens", _MOST)
    if type(most) is not int or most < 1:
        raise ConfigError(f"data.options.max_tokens is {most!r}; expected a whole number of 1 or more")
    tokenizer = load_tokenizer(options.get("tokenizer", ""))
    is_next = options.get("target") == "next"
    prompt = [str(options["prompt"])] if "prompt" in options else []
    if prompt and not is_next:
        raise ConfigError('data.options: expected `prompt` with target = "next" only; leave it out')
    long = options.get("long", "cut")
    if long not in ("cut", "drop") or (long == "drop" and not is_next):
        raise ConfigError(f'data.options.long is {long!r}; expected "cut", or "drop" with target = "next"')
    require_columns(data, frame, [*text, *prompt, *([] if is_next else [data.label])])
    labels, names = (np.zeros(0, np.int64), ()) if is_next else labels_of(frame, data, known_classes)
    render = template_of(options)

    def prompts(rows: pd.DataFrame) -> list[str]:
        return render(rows[prompt[0]].astype(str).tolist()) if prompt else []

    if long == "drop":
        frame = _short(data, frame, tokenizer, prompts(frame), frame[text[0]].astype(str).tolist(), most)
    kept = drawn(len(frame), data, seed, splits_of(data, frame))
    if kept is not None:
        frame, labels = frame.iloc[kept], labels[kept] if len(labels) else labels
    if is_next:
        samples = _next_tokens(tokenizer, prompts(frame), frame[text[0]].astype(str).tolist(), most)
        outputs = len(tokenizer)
    else:
        rows = tokenizer(*(frame[column].astype(str).tolist() for column in text), truncation=True, max_length=most)
        if max(map(len, rows["input_ids"]), default=0) > most:  # it cuts words, not what it puts around them
            raise ConfigError(
                f"data.options.max_tokens is {most}, fewer than the tokens that {options['tokenizer']!r} puts around a text; raise it"
            )
        samples, outputs = Samples(_filled(rows["input_ids"], most, PADDING), labels), len(names) or 1
    return Dataset(
        samples, outputs, groups_of(data, frame), splits_of(data, frame), name=Path(data.path).name, class_names=names
    )


def columns_of(options: Mapping[str, Any]) -> list[str]:
    """Return the columns that `data.options.text` names; none where it is left out.

    Raises:
        ConfigError: neither a name nor one or two of them.
    """
    if "text" not in options:
        return []
    said = options["text"]
    names = [said] if isinstance(said, str) else said
    known = isinstance(names, list | tuple) and len(names) in (1, 2)
    if not known or not all(isinstance(name, str) and name for name in names):
        raise ConfigError(
            f"data.options.text is {said!r}; expected the name of a column, or a list of two for pairs of texts"
        )
    if len(names) > 1 and options.get("target") == "next":
        raise ConfigError(
            f"data.options.text is {said!r}: a language model learns one column, so that {names[1]!r} would be left out; name one, and what "
            "stands before it by data.options.prompt"
        )
    return list(names)


def template_of(options: Mapping[str, Any]) -> Callable[[Sequence[str]], list[str]]:
    """Return what puts prompts into `options.template`, where there is one.

    Raises:
        ConfigError: a template without `prompt`, or without the place for it.
    """
    template = options.get("template")
    if template is None:
        return list
    if "prompt" not in options or not isinstance(template, str) or template.count(_PLACE) != 1:
        raise ConfigError(
            f"data.options.template is {template!r}; expected {_PLACE} in it once, and data.options.prompt"
        )
    before, after = template.split(_PLACE)
    return lambda prompts: [f"{before}{prompt}{after}" for prompt in prompts]


def load_tokenizer(name: Any) -> Any:
    """Load the tokenizer of a folder or of a hub's name.

    Raises:
        ConfigError: no name, or the tokenizer cannot be loaded.
    """
    if not isinstance(name, str):
        raise ConfigError(f"data.options.tokenizer is {name!r}; expected a text: a folder, or a hub's name")
    if not name:
        raise ConfigError(
            "data.options.text needs data.options.tokenizer: the folder or name that model.source has after `transformers:`"
        )
    from dictpfl.client.model.hub import asked_once, folder_of, library

    transformers = library("transformers")
    folder = folder_of(name, "data.options.tokenizer")
    others = (ValueError, ImportError, KeyError, AttributeError)
    try:
        with asked_once(folder or name):
            return transformers.AutoTokenizer.from_pretrained(folder or name, trust_remote_code=False)
    except out_of_reach() + others as error:
        raise ConfigError(
            f"data.options.tokenizer {name!r} cannot be loaded: {str(error).splitlines()[0] if str(error) else error!r}. Without "
            "a network, name a folder with tokenizer.json"
        ) from error


def _short(
    data: Data, frame: pd.DataFrame, tokenizer: Any, prompts: list[str], bodies: list[str], most: int
) -> pd.DataFrame:
    """Keep the rows of at most so many tokens."""
    fits = [len(before) + len(after) <= most for before, after in _sequences(tokenizer, prompts, bodies)]
    if not any(fits):
        raise DataError(f"{data.path}: no row has {most} tokens or fewer; raise data.options.max_tokens")
    _log.info("rows of more tokens than data.options.max_tokens are dropped", rows=len(fits) - sum(fits), of=len(fits))
    return frame[fits]


def _next_tokens(tokenizer: Any, prompts: list[str], bodies: list[str], most: int) -> Samples:
    pairs = _sequences(tokenizer, prompts, bodies)
    rows = [(before + after)[:most] for before, after in pairs]
    kept = [[IGNORED] * min(len(p), most) + row[len(p) :] for (p, _), row in zip(pairs, rows, strict=True)]
    # The first token is never predicted.
    if idle := sum(all(label == IGNORED for label in labels[1:]) for labels in kept):
        _log.warning(
            "rows with nothing to learn: their prompts fill data.options.max_tokens",
            rows=idle,
            of=len(kept),
            max_tokens=most,
        )
    return Samples(_filled(rows, most, PADDING), _filled(kept, most, IGNORED))


def _sequences(tokenizer: Any, prompts: list[str], bodies: list[str]) -> list[tuple[list[int], list[int]]]:
    """Tokens of the prompt, and of what follows with the end, for each row; an empty list of prompts: rows have none.

    What one row becomes must not depend on others: rows are read a few at a time, and at several institutions.
    """
    end = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    before = tokenizer(prompts, add_special_tokens=True)["input_ids"] if prompts else [[]] * len(bodies)
    after = tokenizer(bodies, add_special_tokens=not prompts)["input_ids"]
    # Some tokenizers end a text by themselves; a second end is nothing to learn.
    return [(list(p), [*b] if end and list(b[-1:]) == end else [*b, *end]) for p, b in zip(before, after, strict=True)]


def _filled(rows: Sequence[Sequence[int]], width: int, value: int) -> NDArray[np.int64]:
    array = np.full((len(rows), width), value, dtype=np.int64)
    for line, row in zip(array, rows, strict=True):
        line[: len(row)] = row
    return array
