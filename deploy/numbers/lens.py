"""Logit lens: which digits the residual stream prefers behind each layer, and whether attention or the feed-forward part wrote that.

The stream behind a layer goes through the last norm and the unembedding, as if the model ended there (arXiv 2506.01734, section 4). Beside it:
Spearman's correlation, over places and digits, of the selectivity of the stream with that of what the layer's attention and its
feed-forward part add to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dictpfl.deploy.numbers.measures import correlation
from dictpfl.deploy.numbers.reading import BATCH, Reader
from dictpfl.deploy.numbers.selectivity import of_vectors
from dictpfl.deploy.numbers.spelling import Singly
from dictpfl.deploy.numbers.tasks import Question

_NAMES = ("stream", "attention", "feed-forward")


@torch.no_grad()
def lens(reader: Reader, asked: Sequence[tuple[Sequence[Question], Sequence[Question]]]) -> dict[str, Any]:
    """Look at the stream behind every layer, at the places of the answers' digits.

    Args:
        reader: the model.
        asked: questions of each kind, with the examples in front of them.

    Returns:
        JSON values: `places`; `shares`, mean probability of each digit among the ten, by layer (where digits share tokens, of each first
        character among all tokens of digits alone); `attention` and `feed-forward`, correlation
        with the stream by layer (None: no spread).
    """
    vectors: list[list[list[Tensor]]] = [[[] for _ in _NAMES] for _ in reader.layers]
    for questions, examples in asked:
        for start in range(0, len(questions), BATCH):
            _collect(reader, questions[start : start + BATCH], examples, vectors)
    whole = [[torch.cat(found) for found in layer] for layer in vectors]
    starts = torch.tensor([place == 0 for own, _ in asked for q in own for place in range(len(_spelt(reader, q)))])
    found: dict[str, Any] = {"places": len(whole[0][0]), "shares": [], **{name: [] for name in _NAMES[1:]}}
    for layer in whole:
        found["shares"].append(_chances(reader, reader.norm(layer[0]).float(), starts).mean(dim=0).tolist())
        scores = [of_vectors(reader, part).ravel() for part in layer]
        for name, score in zip(_NAMES[1:], scores[1:], strict=True):
            found[name].append(correlation(scores[0], score, ranks=True))
    return found


def _spelt(reader: Reader, question: Question) -> list[int]:
    return reader.spelling.answer(question.answer)


def _chances(reader: Reader, hidden: Tensor, starts: Tensor) -> Tensor:
    """Probability of each digit as the next character, (places, 10), if one of the tokens of digits alone comes next.

    Args:
        reader: the model.
        hidden: behind the last norm, float32 (places, width).
        starts: True where an answer begins, (places,).
    """
    weight = reader.unembedding
    if isinstance(reader.spelling, Singly):
        return reader.capped(hidden @ weight[reader.digits.to(reader.device)].t()).softmax(dim=1)
    found = hidden.new_zeros(len(hidden), 10)
    for place, chosen in enumerate((starts, ~starts)):
        tokens, heads = (part.to(reader.device) for part in reader.spelling.rivals(place))
        rows = chosen.to(reader.device)
        chances = reader.capped(hidden[rows] @ weight[tokens].t()).softmax(dim=1)
        found[rows] = hidden.new_zeros(len(chances), 10).index_add_(1, heads, chances)
    return found


def _collect(
    reader: Reader,
    questions: Sequence[Question],
    examples: Sequence[Question],
    vectors: list[list[list[Tensor]]],
) -> None:
    """Read questions with their answers, padded behind, and keep the vectors at the places before each digit."""
    prompts = [reader.prompt(question, examples) for question in questions]
    told = [_spelt(reader, question)[:-1] for question in questions]
    longest = max(len(p) + len(t) for p, t in zip(prompts, told, strict=True))
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    wanted = torch.zeros_like(ids, dtype=torch.bool)
    for row, (prompt, digits) in enumerate(zip(prompts, told, strict=True)):
        end = len(prompt) + len(digits)
        ids[row, :end] = torch.tensor(prompt + digits)
        mask[row, :end] = 1
        wanted[row, len(prompt) - 1 : end] = True
    with _keeping(reader, wanted.to(reader.device), vectors):
        reader.model.base_model(input_ids=ids.to(reader.device), attention_mask=mask.to(reader.device), use_cache=False)


@contextmanager
def _keeping(reader: Reader, wanted: Tensor, vectors: list[list[list[Tensor]]]) -> Iterator[None]:
    def into(kept: list[Tensor]) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            kept.append((output[0] if isinstance(output, tuple) else output)[wanted])

        return hook

    handles = [
        part.register_forward_hook(into(kept))
        for layer, vectors_kept in zip(reader.layers, vectors, strict=True)
        for part, kept in zip(
            (reader.model.get_submodule(layer.name), layer.attention, layer.feed_forward), vectors_kept, strict=True
        )
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def rises(found: dict[str, Any], digit: int) -> int:
    """Name the first layer (from 1) from which on a digit's share stays above a tenth; one more than there are layers: none."""
    above = np.array(found["shares"])[:, digit] > 0.1  # noqa: PLR2004 -- the even share
    last = np.flatnonzero(~above)
    return int(last[-1]) + 2 if len(last) else 1
