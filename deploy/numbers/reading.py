"""A language model at the digits of answers: which digit it would write, with and without some of its neurons.

*Teacher-forced*: the true answer's digits are given one by one, and at each place the model's favourite among the ten digits is noted,
so that a weak model tells something too; where digits share tokens, the true tokens are given, and the favourite among those of digits alone is
told by its first character (`dictpfl.deploy.numbers.spelling`). Neurons are silenced at the current place alone: what earlier places left in keys and values
stays as it was.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dictpfl.client.model.hub import library
from dictpfl.deploy.numbers.parts import last_norm, layers_of
from dictpfl.deploy.numbers.spelling import BEFORE, Severally, spelling_of
from dictpfl.deploy.numbers.tasks import Question

BATCH = 16
TOGETHER = 32
"""Variants of one pass: as many tokens more, and the weights are read once for all."""
_NEW = 12  # tokens of a free answer
Silenced = Mapping[int, Tensor]
"""Neurons to silence, int64 indices by layer."""
Ints = NDArray[np.int64]
Rivals = tuple[Tensor, Tensor]
"""Tokens of which one is chosen, and their first characters."""


@dataclass(frozen=True)
class Places:
    """Every place of a digit in every answer; of a token, and its first digit, where digits share tokens.

    Attributes:
        question: number of the question, (places,).
        place: 0 for the first digit, (places,).
        truth: digit of the answer, (places,).
        chosen: digit that the model would write, by name of the variant, (places,); `plain` is the untouched model.
        fluent: True where the untouched model's favourite of all tokens is a digit, (places,).
        activations: mean of each neuron's activation over the places, float64 (layers, neurons); empty unless asked for.
    """

    question: Ints
    place: Ints
    truth: Ints
    chosen: Mapping[str, Ints]
    fluent: NDArray[np.bool_]
    activations: NDArray[np.float64]


class Reader:
    """A model and its tokenizer.

    Args:
        model: causal, of transformers, with layers `mlp.down_proj`.
        tokenizer: its own.

    Attributes:
        layers: what each holds and adds to the stream.
        norm: before the output layer.
        unembedding: of the output layer, float32 (V, width).
        spelling, digits: how the tokenizer writes digits, and their tokens, int64 (10,).

    Raises:
        ModelError: digits that are no tokens of their own, layers of another kind, or experts.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self.layers = layers_of(model)
        self.norm = last_norm(model)
        self.spelling = spelling_of(tokenizer, model.get_output_embeddings().weight.shape[0])
        self.digits = self.spelling.digits
        # The argument's name changed with transformers 5.
        self._cache = (
            "cache" if "cache" in inspect.signature(type(model.base_model).forward).parameters else "past_key_values"
        )
        self.device = next(model.parameters()).device
        output = model.get_output_embeddings()
        bias = getattr(output, "bias", None)
        self.unembedding = output.weight.detach().float()
        self._bias = None if bias is None else bias.detach().float()

    @property
    def downs(self) -> list[nn.Linear]:
        """Down-projections, by layer."""
        return [layer.down for layer in self.layers]

    def capped(self, logits: Tensor) -> Tensor:
        """Logits as the model gives them out: Gemma 2 bounds them, which leaves their order and changes chances."""
        cap = getattr(self.model.config.get_text_config(), "final_logit_softcapping", None)
        return logits if cap is None else cap * (logits / cap).tanh()

    def prompt(self, question: Question, examples: Sequence[Question] = ()) -> list[int]:
        """Token ids of a question behind some examples, up to the place of the answer's first digit."""
        told = "".join(map(told_example, examples))
        text = f"{told}Question: {question.text}\n{BEFORE}"
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if isinstance(self.spelling, Severally):
            return [*ids, *self.spelling.space]
        space: list[int] = self.tokenizer(" 1", add_special_tokens=False)["input_ids"][:-1]
        return ids + space

    @torch.no_grad()
    def read(
        self,
        asked: Sequence[Question],
        examples: Sequence[Question],
        variants: Mapping[str, Silenced] | None = None,
        *,
        activations: bool = False,
    ) -> Places:
        """Note the model's favourite digit at every place of every answer.

        Args:
            asked: questions.
            examples: questions with answers in front of each.
            variants: neurons to silence, by name; each is tried at every place. A place counts as changed where it says other than the untouched model in
                the same seat of a pass of the same size: sums of another order round otherwise, and an empty set changes nothing.
            activations: True: average the neurons' activations too.
        """
        rows: dict[str, list[Any]] = {name: [] for name in ("question", "place", "truth", "fluent")}
        chosen: dict[str, list[int]] = {name: [] for name in ("plain", *(variants or {}))}
        sums = _Sums(self.downs) if activations else None
        together = _Together.of(variants or {}, self.downs)
        # Alike in length, so that few rows wait for others.
        heads = [self.spelling.heads(question.answer) for question in asked]
        order = sorted(range(len(asked)), key=lambda number: (len(heads[number]), len(asked[number].text)))
        for start in range(0, len(asked), BATCH):
            numbers = order[start : start + BATCH]
            batch = [asked[number] for number in numbers]
            for place, going, answers, favourite in self._places(batch, examples, together, sums):
                for row in going:
                    rows["question"].append(numbers[row])
                    rows["place"].append(place)
                    rows["truth"].append(heads[numbers[row]][place])
                    rows["fluent"].append(favourite[row])
                    for name, digits in answers.items():
                        chosen[name].append(digits[row])
        found = {name: np.array(values, dtype=np.int64) for name, values in chosen.items()}
        fluent = np.array(rows["fluent"], dtype=bool)
        for name in variants or {}:  # where no digit would be written, nothing is silenced
            found[name] = np.where(fluent, found[name], found["plain"])
        whole = {name: np.array(rows[name], dtype=np.int64) for name in ("question", "place", "truth")}
        means = sums.mean() if sums else np.zeros((0, 0))
        return Places(whole["question"], whole["place"], whole["truth"], found, fluent, means)

    def _places(
        self,
        batch: Sequence[Question],
        examples: Sequence[Question],
        variants: Sequence[_Together],
        sums: _Sums | None,
    ) -> Iterator[tuple[int, list[int], dict[str, list[int]], list[bool]]]:
        past, current, mask, where = self._begun([self.prompt(question, examples) for question in batch])
        spelt = [self.spelling.answer(question.answer) for question in batch]
        for place in range(max(map(len, spelt))):
            going = [row for row, tokens in enumerate(spelt) if place < len(tokens)]
            rivals = self.spelling.rivals(place)
            seats = {len(part.names) for part in variants}
            untouched = {n: self._seated(n, {}, rivals, past, current, mask, where) for n in seats}
            silenced = [
                self._seated(len(part.names), part.gone, rivals, past, current, mask, where) for part in variants
            ]
            with self._summing(sums, going):
                hidden = self._hidden(past, current, mask, where)[:, -1]
            answers = {"plain": self._favourites(hidden, rivals)}
            for part, found in zip(variants, silenced, strict=True):
                answers |= part.changed(answers["plain"], untouched[len(part.names)], found)
            is_digit = torch.isin(self._logits(hidden).argmax(dim=1).cpu(), rivals[0]).tolist()
            yield place, going, answers, is_digit
            told = [tokens[place] if place < len(tokens) else int(self.digits[0]) for tokens in spelt]
            current = torch.tensor(told).to(self.device).unsqueeze(1)
            where = where + 1
            mask = torch.cat([mask, mask.new_ones(len(batch), 1)], dim=1)

    def _begun(self, prompts: Sequence[list[int]]) -> tuple[Any, Tensor, Tensor, Tensor]:
        """Read all but the last token of each prompt; what all of them begin with is read once.

        Returns:
            The cache, the last tokens (samples, 1), the mask of all tokens, and the last ones' positions.
        """
        alike = sum(1 for _ in takewhile(lambda ids: len(set(ids)) == 1, zip(*prompts, strict=False)))
        shared = min(alike, min(map(len, prompts)) - 1)
        past = library("transformers").DynamicCache()
        if shared:
            ids = torch.tensor([prompts[0][:shared]], device=self.device)
            self._hidden(past, ids, torch.ones_like(ids), torch.arange(shared, device=self.device).unsqueeze(0))
            past.batch_repeat_interleave(len(prompts))
        ids, mask = self._padded([prompt[shared:] for prompt in prompts])
        mask = torch.cat([mask.new_ones(len(prompts), shared), mask], dim=1)
        at = (mask.cumsum(dim=1) - 1).clamp(min=0)
        if ids.shape[1] > 1:
            self._hidden(past, ids[:, :-1], mask[:, :-1], at[:, shared:-1])
        return past, ids[:, -1:], mask, at[:, -1:]

    def _seated(
        self,
        count: int,
        gone: Mapping[int, Tensor],
        rivals: Rivals,
        past: Any,
        current: Tensor,
        mask: Tensor,
        where: Tensor,
    ) -> list[int]:
        """Favourites of a pass in which the current token stands `count` times, each seat without its neurons, and none sees another's; row by row."""
        rows = len(current)
        own = torch.eye(count, dtype=torch.bool, device=self.device).expand(rows, 1, -1, -1)
        seen = torch.cat([mask[:, None, None, :-1].bool().expand(-1, -1, count, -1), own], dim=3)
        kind = self.model.dtype
        hidden_from = torch.zeros(seen.shape, dtype=kind, device=self.device).masked_fill(~seen, torch.finfo(kind).min)
        with self._silencing(gone):
            hidden = self._hidden(past, current.expand(-1, count), hidden_from, where.expand(-1, count))
        past.crop(-count)
        return self._favourites(hidden.reshape(rows * count, -1), rivals)

    def _hidden(self, cache: Any, ids: Tensor, mask: Tensor, at: Tensor) -> Tensor:
        """Last hidden states behind the tokens, (samples, tokens, width); the cache grows by the tokens."""
        given = {"input_ids": ids, "attention_mask": mask, "position_ids": at, "use_cache": True}
        hidden: Tensor = self.model.base_model(**given, **{self._cache: cache}).last_hidden_state
        return hidden

    def _logits(self, hidden: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Logits of hidden states (n, width), of all tokens or of some; float32, since bfloat16 has ties, and a tie goes to the smaller digit."""
        weight, bias = self.unembedding, self._bias
        if tokens is not None:
            weight, bias = weight[tokens], None if bias is None else bias[tokens]
        logits = hidden.float() @ weight.t()
        found: Tensor = logits if bias is None else logits + bias
        return found

    def _favourites(self, hidden: Tensor, rivals: Rivals) -> list[int]:
        """First characters of the favourites among some tokens."""
        tokens, heads = rivals
        found: list[int] = heads[self._logits(hidden, tokens.to(hidden.device)).argmax(dim=1).cpu()].tolist()
        return found

    def _padded(self, prompts: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
        """Ids with padding on the left, and a mask."""
        longest = max(map(len, prompts))
        ids = torch.zeros(len(prompts), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        return ids.to(self.device), mask.to(self.device)

    def written(self, asked: Sequence[Question], examples: Sequence[Question]) -> list[str]:
        """Answers that the model writes by itself, greedily, up to the end of the line."""
        return self.told(self.tokens_written(asked, examples))

    def told(self, written: Sequence[list[int]]) -> list[str]:
        """Text of tokens, up to the end of the line."""
        return [text.split("\n")[0] for text in self.tokenizer.batch_decode(list(written), skip_special_tokens=True)]

    @torch.no_grad()
    def tokens_written(self, asked: Sequence[Question], examples: Sequence[Question]) -> list[list[int]]:
        """Tokens that the model writes by itself, greedily, the line's end or not."""
        found: list[list[int]] = []
        for start in range(0, len(asked), BATCH):
            ids, mask = self._padded([self.prompt(question, examples) for question in asked[start : start + BATCH]])
            out = self.model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=_NEW, do_sample=False,
                use_cache=True, num_beams=1, pad_token_id=0, temperature=None, top_p=None,
            )  # fmt: skip
            found += out[:, ids.shape[1] :].tolist()
        return found

    @contextmanager
    def _silencing(self, gone: Mapping[int, Tensor]) -> Iterator[None]:
        handles = [self.downs[layer].register_forward_pre_hook(_zeroing(where)) for layer, where in gone.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def _summing(self, sums: _Sums | None, rows: Sequence[int]) -> Iterator[None]:
        handles = (
            [] if sums is None else [d.register_forward_pre_hook(sums.of(i, rows)) for i, d in enumerate(self.downs)]
        )
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def told_example(question: Question) -> str:
    """Text of a question with its answer, in front of others."""
    return f"Question: {question.text}\n{BEFORE} {question.answer}\n\n"


class _Sums:
    """Sums of activations over places."""

    def __init__(self, downs: Sequence[nn.Linear]) -> None:
        self._sums = [np.zeros(d.in_features) for d in downs]
        self._count = 0

    def of(self, layer: int, rows: Sequence[int]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self._sums[layer] += inputs[0][list(rows), -1].double().sum(dim=0).cpu().numpy()
            self._count += len(rows) if layer == 0 else 0

        return hook

    def mean(self) -> NDArray[np.float64]:
        return np.stack(self._sums) / max(1, self._count)


@dataclass(frozen=True)
class _Together:
    """Variants that are tried in one pass.

    Attributes:
        names: of the variants.
        gone: by layer, True where a variant silences a neuron, (variants, neurons).
    """

    names: Sequence[str]
    gone: Mapping[int, Tensor]

    @classmethod
    def of(cls, variants: Mapping[str, Silenced], downs: Sequence[nn.Linear]) -> list[_Together]:
        """Divide variants into passes of about equal size."""
        passes = -(-len(variants) // TOGETHER)
        return [cls._of(list(variants)[number::passes], variants, downs) for number in range(passes)]

    @classmethod
    def _of(cls, names: Sequence[str], variants: Mapping[str, Silenced], downs: Sequence[nn.Linear]) -> _Together:
        gone: dict[int, Tensor] = {}
        for row, name in enumerate(names):
            for layer, neurons in variants[name].items():
                down = downs[layer]
                if layer not in gone:
                    gone[layer] = torch.zeros(len(names), down.in_features, dtype=torch.bool, device=down.weight.device)
                gone[layer][row, neurons.to(down.weight.device)] = True
        return cls(names, gone)

    def changed(self, plain: Sequence[int], untouched: Sequence[int], found: Sequence[int]) -> dict[str, list[int]]:
        """Answers of each variant, by row: the plain ones, but where its seat says other than the same seat of an untouched pass.

        Args:
            plain: favourites by row.
            untouched, found: by row and seat, of two passes of the same size.
        """
        count = len(self.names)
        seats = {name: (untouched[seat::count], found[seat::count]) for seat, name in enumerate(self.names)}
        return {
            name: [p if u == f else f for p, u, f in zip(plain, *both, strict=True)] for name, both in seats.items()
        }


def _zeroing(gone: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0].masked_fill(gone, 0.0), *inputs[1:])

    return hook
