"""Words of a batch, read from the rows of an embedding's gradient, and by span checks on the first layer.

- embedding rows: only words that occur get a gradient, so that their rows stand out (Melis et al. 2019 and many since).
- span check: the gradient of the first linear layer is a sum over tokens of outer products with their inputs, so that the
  inputs of all tokens that occur lie in the span of its rows, as long as there are fewer tokens than rows: of the model's
  width for full gradients, of r for a lookup table (Petrov et al. 2024, DAGER). Word and place are found together.
- nearest words: the same distances, of which the smallest count: where r is small or values are rounded, no word lies in the span.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dictpfl.common.config import FederationConfig
from dictpfl.common.law.layout import Entry, Kind, Layout
from dictpfl.deploy.attacks import cores
from dictpfl.deploy.attacks.case import Case
from dictpfl.deploy.attacks.intervals import gain_interval, mean_interval
from dictpfl.deploy.attacks.methods import SUBJECTS, replace_section, resized
from dictpfl.deploy.attacks.recorded import play
from dictpfl.deploy.attacks.registry import ATTACKS, FederationAttack, Tools
from dictpfl.deploy.attacks.results import Finding
from dictpfl.deploy.attacks.texts import WORDS

Ints = NDArray[np.int64]
SUCCESS = 0.9
_NEAR = 1e-3
"""Relative distance from the span up to which a token counts as in it: updates are rounded to about 1e-5 of their range."""
_RANK = 1e-4


def federation(config: FederationConfig, batch: int, rank: int = 4) -> FederationConfig:
    """Configure institutions that train the small text classifier, one step of SGD a round."""
    changes = {
        "federation": resized(config.federation, 6, rounds=1),
        "data": replace_section(
            config.data, source="dictpfl.deploy.attacks.texts:passages", partition="iid", limit=0, options={}
        ),
        "model": replace_section(config.model, source="dictpfl.deploy.attacks.texts:TinyText", options={}),
        "decomposition": replace_section(config.decomposition, rank=rank),
        "training": replace_section(config.training, steps=1, batch_size=batch),
    }
    return config.model_copy(update=changes)


def read_tokens(case: Case) -> list[Finding]:
    """Try all three attacks on every victim's update."""
    layout, target = case.recorded.genesis.layout, case.target()
    matcher, steps = case.recorded.matcher(case.number), case.recorded.auditor.sums[case.number].steps
    coordinates = matcher.coordinates
    public = case.recorded.public.features
    judged: dict[str, list[tuple[float, float]]] = {"embedding rows": [], "span check": [], "nearest words": []}
    blind: list[float] = []
    for victim, observed, known in zip(case.victims, target.observed.numpy(), target.known.numpy(), strict=True):
        truth = victim.samples.features.astype(np.int64)
        gradient = np.zeros(layout.size)
        gradient[coordinates] = np.where(known, observed, 0.0)
        tokens = truth.size
        judged["embedding rows"].append(_judged(by_rows(layout, gradient, tokens), truth))
        judged["span check"].append(_judged(by_span(case, gradient, tokens), truth))
        rounding = np.zeros(layout.size)
        rounding[coordinates] = np.where(known, matcher.observed(steps, victim.weight).abs().numpy(), 0.0) / np.sqrt(12)
        judged["nearest words"].append(_judged(nearest(case, gradient, rounding, usual(public, len(truth))), truth))
        blind.append(_judged(commonest(public, tokens), truth)[0])
    return [_finding(case, name, values, blind) for name, values in judged.items()]


def by_rows(layout: Layout, gradient: NDArray[np.float64], tokens: int) -> Ints:
    """Find words whose embedding rows have a gradient, strongest first, at most as many as there are tokens."""
    entry = _named(layout, "embed.weight")
    if entry is None or entry.kind is Kind.TABLE or entry.shape[1] > entry.shape[0]:
        return np.zeros(0, dtype=np.int64)
    strengths = np.linalg.norm(gradient[entry.span].reshape(entry.shape), axis=1)
    order = np.argsort(-strengths, kind="stable")[:tokens]
    words: Ints = order[strengths[order] > _NEAR * max(float(strengths.max()), 1e-30)]
    return words


def by_span(case: Case, gradient: NDArray[np.float64], tokens: int) -> Ints:
    """Find words that lie, at some place, in the span of the first layer's rows; the nearest word of each place first."""
    apart = _apart(case, gradient)
    samples = max(1, tokens // apart.shape[1]) if apart.size else 0
    words: list[int] = []
    for place in apart.T:
        near = np.argsort(place, kind="stable")[:samples]
        words += [int(w) for w in near if place[w] < _NEAR]
    return np.array(words, dtype=np.int64)


def nearest(case: Case, gradient: NDArray[np.float64], rounding: NDArray[np.float64], count: int) -> Ints:
    """Take so many words: those nearest to the span at any place.

    Rounding and a low rank leave no word in the span, and a span check finds none; those of the text are nearer all the same.

    Args:
        case, gradient: as above.
        rounding: standard deviation of what rounding left in each value of the gradient.
        count: of words.
    """
    apart = _apart(case, gradient, rounding)
    words: Ints = np.argsort(apart.min(axis=1), kind="stable")[:count] if apart.size else np.zeros(0, dtype=np.int64)
    return words


def _apart(
    case: Case, gradient: NDArray[np.float64], rounding: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Measure how far each word at each place is from the span of the first layer's rows, (words, places); nothing if the span is all.

    Directions in which rows reach no further than rounding alone would are left out: the largest singular value of a matrix of noise.
    """
    layout, dictionaries = case.recorded.genesis.layout, case.recorded.genesis.dictionaries
    entry, nothing = _named(layout, "block.qkv.weight"), np.zeros((0, 0))
    if entry is None:
        return nothing
    rows = cores.rows(dictionaries, entry, gradient)
    noise = 0.0 if rounding is None else float(cores.rows(dictionaries, entry, rounding).max())
    _, strengths, directions = np.linalg.svd(rows, full_matrices=False)
    least = max(_RANK * max(float(strengths[0]), 1e-30), noise * float(np.sqrt(rows.shape).sum()))
    basis = directions[strengths > least]
    if len(basis) >= rows.shape[1]:
        return nothing
    inputs = cores.seen(dictionaries, entry.name, _inputs(case))
    apart: NDArray[np.float64] = 1 - np.sqrt(((inputs @ basis.T) ** 2).sum(axis=2)) / np.linalg.norm(inputs, axis=2)
    return apart


def usual(public: Ints, batch: int) -> int:
    """Count the distinct words that so many public texts have together, as a rule."""
    batches = [public[start : start + batch] for start in range(0, len(public) - batch + 1, batch)]
    return round(float(np.mean([np.unique(texts).size for texts in batches])))


def commonest(public: Ints, tokens: int) -> Ints:
    """Guess without looking: a text's usual words, as often as they usually occur."""
    shares = np.bincount(public.reshape(-1)) / public.size * tokens
    counts = np.floor(shares).astype(np.int64)
    counts[np.argsort(counts - shares, kind="stable")[: tokens - int(counts.sum())]] += 1
    return np.repeat(np.arange(counts.size), counts)


def rouge1(guess: Ints, truth: Ints) -> float:
    """Measure ROUGE-1 (F1): overlap of the two multisets of words."""
    size = 1 + max(int(guess.max(initial=0)), int(truth.max(initial=0)))
    both = np.minimum(np.bincount(guess, minlength=size), np.bincount(truth.reshape(-1), minlength=size)).sum()
    return float(2 * both / max(1, guess.size + truth.size))


def _judged(guess: Ints, truth: Ints) -> tuple[float, float]:
    """Judge a guess: F1 of the distinct words that were recovered, and ROUGE-1."""
    there, named = set(truth.reshape(-1).tolist()), set(guess.tolist())
    recovered = 2 * len(there & named) / max(1, len(there) + len(named))
    return recovered, rouge1(guess, truth)


def _inputs(case: Case) -> NDArray[np.float64]:
    """Compute the first linear layer's input for each word at each place, (words, places, width): the model is known."""
    module = case.recorded.matcher(case.number).module
    with torch.no_grad():
        words = module.get_parameter("embed.weight")[:, None, :] + module.get_parameter("pos_embed")
        inputs: NDArray[np.float64] = module.get_submodule("block.norm1")(words).numpy()
    return inputs


def _named(layout: Layout, name: str) -> Entry | None:
    return next((entry for entry in layout.entries if entry.name == name), None)


def _finding(case: Case, name: str, values: Sequence[tuple[float, float]], blind: Sequence[float]) -> Finding:
    words = [value for value, _ in values]
    return Finding(
        family="tokens", attack=name, source="Melis et al. 2019" if name == "embedding rows" else "Petrov et al. 2024 (DAGER)",
        adversary=case.subject.adversary, method=case.subject.label, encrypted=case.subject.encrypted,
        setting=case.setting | {"words": WORDS, "rank": case.recorded.genesis.config.decomposition.rank},
        metric="F1 of the words recovered", found=mean_interval(words), blind=mean_interval(blind),
        gain=gain_interval(words, blind), success=SUCCESS, trials=len(words),
        method_of_interval="Student's t over victims, paired with the commonest words",
        more={
            "exact": float(np.mean([value == 1.0 for value in words])),
            "ROUGE-1": float(np.mean([rouge for _, rouge in values])),
        },
    )  # fmt: skip


@ATTACKS.register("tokens")
class Tokens(FederationAttack):
    """Words of a batch, by method, batch and rank."""

    def run(self, config: FederationConfig, folder: Path, _tools: Tools) -> Iterator[Finding]:
        """See `FederationAttack.run`."""
        runs = (("plaintext", 1, 4), ("plaintext", 2, 4), ("plaintext", 4, 4), ("fedml-he-70", 1, 4),
                ("dictpfl-identity", 1, 4), ("dictpfl-identity", 1, 16))  # fmt: skip
        for name, batch, rank in runs:
            subject = SUBJECTS[name]
            recorded = play(subject.applied(federation(config, batch, rank)), folder / f"{name}-{batch}-{rank}")
            yield from read_tokens(Case.of(recorded, subject, most=6))
