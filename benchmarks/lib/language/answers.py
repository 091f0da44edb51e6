"""What a language model makes of held-out questions: the loss of the written answers, and whether its own end in the right number."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 -- torch's own convention
from torch import Tensor, nn

from dictpfl.client.data.samples import IGNORED, PADDING, Samples
from dictpfl.client.training.calling import forward

_MARKED = re.compile(r"####\s*\$?\s*(-?[\d,]*\.?\d+)")
_NUMBER = re.compile(r"-?\d[\d,]*\.?\d*")
_AT_ONCE = 16  # questions that are answered together


@dataclass(frozen=True)
class Loss:
    """Cross-entropy of held-out answers.

    Attributes:
        mean: nats a token, over all tokens of all answers. `tokens`: their number. `accuracy`: share guessed right.
    """

    mean: float
    tokens: int
    accuracy: float


@torch.no_grad()
def loss_of(model: nn.Module, samples: Samples, batch: int = 8) -> Loss:
    """Measure answers as they are written; every token counts the same, whatever batch it is in.

    Args:
        model: in evaluation mode. `samples`: token ids, with `IGNORED` as label of what is no answer.
        batch: rows at a time; rows of like length together.
    """
    total, tokens, right = 0.0, 0, 0
    order = np.argsort((samples.features != PADDING).sum(axis=1), kind="stable")
    for rows in np.array_split(order, max(1, -(-len(order) // batch))):
        outputs = forward(model, torch.from_numpy(samples.features[rows])).float()
        labels = torch.from_numpy(samples.labels[rows])[:, 1 : outputs.shape[1]]
        learnt = labels != IGNORED
        found, wanted = outputs[:, :-1][learnt], labels[learnt]
        total += float(F.cross_entropy(found, wanted, reduction="sum"))
        right += int((found.argmax(dim=-1) == wanted).sum())
        tokens += len(wanted)
    return Loss(total / tokens, tokens, right / tokens)


@torch.no_grad()
def answers_of(model: nn.Module, tokenizer: Any, samples: Samples, most: int) -> list[str]:
    """What the model writes after each question: the likeliest token every time, until the end or `most` tokens."""
    prompts = [
        row[(row != PADDING) & (label == IGNORED)] for row, label in zip(samples.features, samples.labels, strict=True)
    ]
    written = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(order), _AT_ONCE):
        rows = order[start : start + _AT_ONCE]
        ids, mask = _before([prompts[i] for i in rows], tokenizer.pad_token_id)
        found = model.generate(  # type: ignore[operator]
            input_ids=ids, attention_mask=mask, max_new_tokens=most, do_sample=False, use_cache=True,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
        for i, text in zip(
            rows, tokenizer.batch_decode(found[:, ids.shape[1] :], skip_special_tokens=True), strict=True
        ):
            written[i] = text
    return written


def wanted_of(tokenizer: Any, samples: Samples) -> list[str]:
    """The answers as they are written in the data."""
    return tokenizer.batch_decode([row[row != IGNORED] for row in samples.labels], skip_special_tokens=True)  # type: ignore[no-any-return]


def exact(written: Sequence[str], wanted: Sequence[str]) -> int:
    """Count the answers that end in the number that is wanted.

    Raises:
        ValueError: a wanted answer without a number.
    """
    numbers = [number_of(text) for text in wanted]
    if None in numbers:
        raise ValueError(f"no number after #### in {wanted[numbers.index(None)]!r}")
    return sum(number_of(text) == number for text, number in zip(written, numbers, strict=True))


def number_of(text: str) -> float | None:
    """The number after the first ####, else the last one of the text; None: there is none."""
    marked = _MARKED.search(text)
    found = [marked.group(1)] if marked else _NUMBER.findall(text)
    return float(found[-1].replace(",", "").rstrip(".")) if found else None


def _before(prompts: Sequence[np.ndarray[Any, Any]], padding: int) -> tuple[Tensor, Tensor]:
    """Prompts of different lengths, filled up in front, and their mask."""
    longest = max(map(len, prompts))
    ids = np.full((len(prompts), longest), padding, dtype=np.int64)
    mask = np.zeros_like(ids)
    for line, marks, prompt in zip(ids, mask, prompts, strict=True):
        line[longest - len(prompt) :], marks[longest - len(prompt) :] = prompt, 1
    return torch.from_numpy(ids), torch.from_numpy(mask)
