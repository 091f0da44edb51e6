"""Small language models on corpora whose digits are known: lines of arithmetic beside lines of numbers, on characters.

Half of what `digits.py --controlled` needs: the corpora, the training, and what a model writes along the way. A line of arithmetic is
`a+b=c` or `a-b=c` with a and c drawn by the arm's law, a line of numbers is three of them. Both laws give numbers of one and two digits
equally often; *Benford* is log-uniform, *even* has every number of a length equally often. The two laws map the same draws, so that arms
of a seed differ in nothing else: the model's first values, the lengths, the signs' order and the judged questions are the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor

from lib.arms import Study

NAME = "digits_controlled"
BENFORD, EVEN, BESIDE = "benford", "uniform", "uniform beside benford"
"""Arms: all numbers Benford's; all of them even; arithmetic even, and the numbers beside it Benford's."""
LETTERS = "0123456789+-= \n"
FULL: Mapping[str, Any] = {
    "steps": 5000, "every": 50, "lines": 64, "beside": 32, "judged": 1000, "length": 2,
    "width": 96, "inner": 256, "layers": 3, "heads": 4, "rate": 3e-3, "warm": 200,
}  # fmt: skip
"""Settings of every arm: optimiser's steps, steps between checkpoints, lines of arithmetic and of numbers a step, questions, digits of the
longest number, sizes of the model, highest learning rate, steps of warm-up."""
QUICK: Mapping[str, Any] = {
    **FULL,
    "steps": 40,
    "every": 5,
    "judged": 50,
    "width": 32,
    "inner": 64,
    "layers": 1,
    "warm": 5,
}
_LAWS: Mapping[str, Mapping[str, str]] = {
    BENFORD: {"arithmetic": BENFORD, "numbers": BENFORD},
    EVEN: {"arithmetic": EVEN, "numbers": EVEN},
    BESIDE: {"arithmetic": EVEN, "numbers": BENFORD},
}
_ROW, _IGNORED = 10, -100  # a line break, the longest line and its own break; what the loss passes over
_CODES = np.zeros(128, dtype=np.int64)
_CODES[[ord(letter) for letter in LETTERS]] = np.arange(len(LETTERS))
_END = LETTERS.index("\n")
Ints = NDArray[np.int64]
Draw = np.random.Generator


def study(extent: Mapping[str, Any], seeds: Sequence[int]) -> Study:
    """Three corpora, each under some seeds."""
    arms = {arm: {**extent, **laws} for arm, laws in _LAWS.items()}
    return Study(NAME, measure, arms, seeds, kept=extent is FULL)


def numbers(draw: Draw, law: str, count: int, length: int) -> Ints:
    """Draw positive whole numbers, int64 (count,): each length equally often, and within one by the law."""
    size, at = draw.integers(0, length, count), draw.random(count)
    found = 10.0**size * (10.0**at if law == BENFORD else 1 + 9 * at)
    return np.floor(found).astype(np.int64)


def arithmetic(first: Ints, answers: Ints) -> list[str]:
    """Lines `a+b=c`, or `a-b=c` where the answer is the smaller."""
    return [
        f"{a}+{c - a}={c}" if a <= c else f"{a}-{a - c}={c}"
        for a, c in zip(first.tolist(), answers.tolist(), strict=True)
    ]


def encoded(lines: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Encode lines, each between two line breaks, padded behind.

    Returns:
        Ids, int64 (lines, 10), and what follows each of them, -100 behind a line's end.
    """
    text = "".join(("\n" + line).ljust(_ROW, "\n") for line in lines)
    ids = torch.from_numpy(_CODES[np.frombuffer(text.encode(), dtype=np.uint8)].reshape(len(lines), _ROW))
    labels = torch.cat([ids[:, 1:], ids.new_full((len(lines), 1), _END)], dim=1)
    behind = torch.arange(_ROW) > torch.tensor([len(line) for line in lines]).unsqueeze(1)
    return ids, labels.masked_fill(behind, _IGNORED)


@dataclass(frozen=True)
class Judged:
    """Questions with even answers, encoded once.

    Attributes:
        ids: of the lines, (questions, 10).
        wanted: characters of answer and line break, -100 elsewhere, (questions, 10).
    """

    ids: Tensor
    wanted: Tensor

    @classmethod
    def of(cls, arm: Mapping[str, Any], seed: int) -> Judged:
        """Draw them: the same of every arm of a seed."""
        draw = np.random.default_rng([seed, 1])
        first, answers = (numbers(draw, EVEN, arm["judged"], arm["length"]) for _ in range(2))
        lines = arithmetic(first, answers)
        ids, labels = encoded(lines)
        asked = torch.arange(_ROW) < torch.tensor([line.index("=") + 1 for line in lines]).unsqueeze(1)
        return cls(ids, labels.masked_fill(asked, _IGNORED))

    @torch.no_grad()
    def read(self, model: Any) -> dict[str, Any]:
        """Note what a model writes, each character behind the true ones before it.

        Returns:
            `exact`, share of answers without a wrong character, which are those that it would write by itself; `written`, the favourite
            among the ten digits at every place of one, counts by digit; `errors`, the same at the first place of each answer where it is
            not the true one.
        """
        logits = model(input_ids=self.ids, use_cache=False).logits
        counts, digit = self.wanted != _IGNORED, (self.wanted >= 0) & (self.wanted < _TEN)
        right = (logits.argmax(dim=2) == self.wanted) | ~counts
        chosen = logits[:, :, :_TEN].argmax(dim=2)
        wrong = digit & (chosen != self.wanted)
        first = wrong & (wrong.cumsum(dim=1) == 1)
        return {
            "exact": float(right.all(dim=1).double().mean()),
            "written": torch.bincount(chosen[digit], minlength=_TEN).tolist(),
            "errors": torch.bincount(chosen[first], minlength=_TEN).tolist(),
        }

    @property
    def truth(self) -> list[int]:
        """Digits of the answers, counts by digit."""
        digits = self.wanted[(self.wanted >= 0) & (self.wanted < _TEN)]
        return torch.bincount(digits, minlength=_TEN).tolist()  # type: ignore[no-any-return]


_TEN = 10


def measure(arm: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Train on an arm's corpus, and note at every checkpoint what is written."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model, judged = _model(arm), Judged.of(arm, seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=arm["rate"], betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, arm))
    draw, checkpoints = np.random.default_rng([seed, 0]), []
    for step in range(1, arm["steps"] + 1):
        ids, labels = encoded(_lines(arm, draw))
        logits = model(input_ids=ids, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=_IGNORED)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % arm["every"] == 0:
            checkpoints.append({"step": step, "loss": loss.item(), **judged.read(model)})
    lines = arm["lines"] + arm["beside"]
    return {
        "steps": arm["steps"], "samples": arm["steps"] * lines, "values": sum(p.numel() for p in model.parameters()),
        "truth": judged.truth, "checkpoints": checkpoints,
    }  # fmt: skip


def _lines(arm: Mapping[str, Any], draw: Draw) -> list[str]:
    first, answers = (numbers(draw, arm["arithmetic"], arm["lines"], arm["length"]) for _ in range(2))
    beside = numbers(draw, arm["numbers"], 3 * arm["beside"], arm["length"]).reshape(-1, 3)
    return arithmetic(first, answers) + [" ".join(map(str, three)) for three in beside.tolist()]


def _model(arm: Mapping[str, Any]) -> Any:
    config = transformers.LlamaConfig(
        vocab_size=len(LETTERS), hidden_size=arm["width"], intermediate_size=arm["inner"], num_hidden_layers=arm["layers"],
        num_attention_heads=arm["heads"], num_key_value_heads=arm["heads"], max_position_embeddings=_ROW, tie_word_embeddings=False,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def _rate(step: int, arm: Mapping[str, Any]) -> float:
    """Share of the highest learning rate: up in a line, then down to a tenth by a cosine."""
    if step < arm["warm"]:
        return float((step + 1) / arm["warm"])
    done = (step - arm["warm"]) / max(1, arm["steps"] - arm["warm"])
    return float(0.55 + 0.45 * np.cos(np.pi * done))
