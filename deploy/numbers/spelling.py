"""Spelling of an answer's digits by a tokenizer: one to a token, or several ("2019" as one token, or as "201" and "9").

Where they come singly, every place of an answer is a digit. Where they do not, a place is a token, told by its first character, and the rivals at
a place are all tokens of digits alone: at an answer's beginning those that begin a number, behind it those that carry one on. Many tokenizers
write the former with the space before them in the same token. All of it is found by encoding.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dictpfl.common.errors import ModelError

BEFORE = "Answer:"
_THOUSAND = [f"{number:03}" for number in range(1000)]
_LONG = "31415926535897932384626433832795028841971693993751058209749445923078164062862089986280348253421170679"
"""A number of many tokens, so that some carry it on."""
_TAIL = re.compile(r"[0-9]+$")


@dataclass(frozen=True)
class Singly:
    """Digits, each a token of its own.

    Attributes:
        digits: tokens of 0 to 9, int64 (10,).
    """

    digits: Tensor
    several: bool = field(default=False, init=False)

    def answer(self, word: str) -> list[int]:
        """Tokens of an answer, of which `word` has the digits."""
        return [int(self.digits[int(letter)]) for letter in word]

    def heads(self, word: str) -> list[int]:
        """First character of each of its tokens."""
        return [int(letter) for letter in word]

    def rivals(self, place: int) -> tuple[Tensor, Tensor]:
        """Tokens of which one is chosen at a place, int64 (n,), and their first characters, (n,)."""
        del place  # the same everywhere
        return self.digits, torch.arange(10)


@dataclass(frozen=True)
class Severally:
    """Digits that share tokens, or the first of which shares its token with the space before it.

    Attributes:
        tokenizer: that writes them.
        space: tokens between `Answer:` and the first one of digits; none where that one holds the space itself.
        begins: tokens of digits alone that begin a number, and their digits.
        goes_on: those that carry one on.
    """

    tokenizer: Any
    space: tuple[int, ...]
    begins: Mapping[int, str]
    goes_on: Mapping[int, str]

    @property
    def several(self) -> bool:
        """True where some token holds more than one digit."""
        return self.longest > 1

    @property
    def longest(self) -> int:
        """Digits of the longest token of them."""
        return max(map(len, [*self.begins.values(), *self.goes_on.values()]))

    @property
    def digits(self) -> Tensor:
        """Tokens of 0 to 9 alone at the beginning of an answer, int64 (10,)."""
        alone = {word: token for token, word in self.begins.items()}
        return torch.tensor([alone[str(digit)] for digit in range(10)])

    def answer(self, word: str) -> list[int]:
        """Tokens of an answer behind the space, as the tokenizer divides it.

        Raises:
            ModelError: the tokenizer writes something else than digits there.
        """
        before, whole = _encoded(self.tokenizer, BEFORE), _encoded(self.tokenizer, f"{BEFORE} {word}")
        lead, tokens = [*before, *self.space], whole[len(before) + len(self.space) :]
        told = [self._at(place).get(token, "?") for place, token in enumerate(tokens)]
        if whole[: len(lead)] != lead or "".join(told) != word:
            raise _refused(self.tokenizer, [f"{BEFORE} {word}"])
        return tokens

    def heads(self, word: str) -> list[int]:
        """First character of each token of an answer."""
        return [int(self._at(place)[token][0]) for place, token in enumerate(self.answer(word))]

    def rivals(self, place: int) -> tuple[Tensor, Tensor]:
        """Tokens of which one is chosen at a place, int64 (n,), and their first characters, (n,)."""
        found = self._at(place)
        return torch.tensor(list(found)), torch.tensor([int(word[0]) for word in found.values()])

    def begun(self, tokens: Sequence[int]) -> list[int]:
        """First character of each token of the number that some tokens begin with."""
        found = []
        for place, token in enumerate(tokens):
            if token not in self._at(place):
                break
            found.append(int(self._at(place)[token][0]))
        return found

    def to_json(self) -> dict[str, Any]:
        """Encode for a report: how digits are written, and what is therefore measured otherwise or not at all."""
        return {
            "tokens": len({*self.begins, *self.goes_on}),
            "longest": self.longest,
            "space": "a token of its own" if self.space else "part of the first token",
            "left_out": ["first errors"],
        }

    def _at(self, place: int) -> Mapping[int, str]:
        return self.goes_on if place else self.begins


Spelling = Singly | Severally


def spelling_of(tokenizer: Any, vocabulary: int) -> Spelling:
    """Find out how a tokenizer writes digits.

    Args:
        tokenizer: of transformers.
        vocabulary: tokens that the model can write.

    Raises:
        ModelError: a digit is no token of its own, or numbers are written in a way that is not understood; it names the tokens found.
    """
    return _singly(tokenizer) or _severally(tokenizer, vocabulary)


def _singly(tokenizer: Any) -> Singly | None:
    """Digits as they stand behind a space and another digit; None where some number is written otherwise."""
    twice = [_encoded(tokenizer, f" {digit}{digit}") for digit in range(10)]
    if any(len(ids) < 2 or ids[-1] != ids[-2] for ids in twice) or len({ids[-1] for ids in twice}) < 10:  # noqa: PLR2004 -- two digits, ten of them
        return None
    found = Singly(torch.tensor([ids[-1] for ids in twice]))
    # A tokenizer that learnt pairs may hold "10" and not "11".
    for word in _THOUSAND:
        if _encoded(tokenizer, f" {word}")[-3:] != found.answer(word):
            return None
    return found


def _severally(tokenizer: Any, vocabulary: int) -> Severally:
    before = _encoded(tokenizer, BEFORE)
    alone = [_encoded(tokenizer, f"{BEFORE} {digit}") for digit in range(10)]
    space = alone[0][len(before) : -1]
    names = {token: name for name, token in tokenizer.get_vocab().items() if token < vocabulary}
    begins = _tokens(names, str(names.get((alone[0] or [-1])[-1], "")).removesuffix("0"))
    lost = [
        digit for digit, ids in enumerate(alone) if ids[:-1] != [*before, *space] or begins.get(ids[-1]) != str(digit)
    ]
    if lost:
        raise _refused(tokenizer, [f"{BEFORE} {digit}" for digit in lost[:3]])
    behind = _encoded(tokenizer, f"{BEFORE} {_LONG}")[len(before) + len(space) + 1 :]
    marks = {_TAIL.sub("", str(names.get(token, "?"))) for token in behind}
    goes_on = _tokens(names, marks.pop()) if len(marks) == 1 else {}
    if not set("0123456789") <= set(goes_on.values()):
        raise _refused(tokenizer, [f" {_LONG[:12]}"])
    found = Severally(tokenizer, tuple(space), begins, goes_on)
    for word in _THOUSAND[100:]:
        found.answer(word)
    return found


def _tokens(names: Mapping[int, str], mark: str) -> dict[int, str]:
    """Tokens that are a mark and digits, and the digits, by number of the token."""
    whole = re.compile(re.escape(mark) + "[0-9]+")
    return {
        token: name.removeprefix(mark)
        for token, name in sorted(names.items())
        if isinstance(name, str) and whole.fullmatch(name)
    }


def _encoded(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _refused(tokenizer: Any, texts: Sequence[str]) -> ModelError:
    seen = "; ".join(f"{tokenizer.convert_ids_to_tokens(_encoded(tokenizer, text))} of {text!r}" for text in texts)
    return ModelError(
        "the audit reads models whose digits are tokens of their own, alone or beside tokens of several digits; this tokenizer makes "
        f"{seen}"
    )
