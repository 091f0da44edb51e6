"""The federation of experiments/videos_digits.toml, which reads an eighth of its tokens, and the same that reads all (`fastvid.py --federation`)."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure

from dictpfl.client.compress.verdicts import LEVEL, compared
from dictpfl.deploy.reports.plots import COLOURS
from lib.arms import Claim, claims_table, spread
from lib.federations import Cell, measure_all
from lib.machine import Requirement, markdown_table, panels, preamble, requirement_lines, write_results

EXPERIMENT, FULL, LONG = "videos_digits", "all tokens", "all tokens, longer"
READERS: dict[str, dict[str, Any]] = {
    FULL: {"tokens.reducer": "none", "tokens.keep": 0.25, "tokens.options": {}},
    LONG: {
        "tokens.reducer": "none",
        "tokens.keep": 0.25,
        "tokens.options": {},
        "federation.rounds": 36,
        "training.learning_rate": 1e-3,
    },
    "fastvid": {},
    "dtm": {"tokens.reducer": "dtm"},
    "frames": {"tokens.reducer": "frames", "tokens.options": {}},
    "grid": {"tokens.reducer": "grid", "tokens.options": {}},
}
"""What the federations read. In 12 rounds the one that reads all learns nothing: there is one with three times the rounds, at a third of the rate."""
QUICK = (FULL, "fastvid")
Found = dict[str, list[dict[str, Any]]]
_LEFT, _SHARE = 3.0, 0.25


def cell(reader: str, seed: int, *, quick: bool) -> Cell:
    """One federation, without encryption, which changes no figure (tests/system/test_tokens.py holds the digests equal)."""
    said = {"seed": seed, "encryption.sealer": "identity", "toy_insecure": True, "training.threads": 1} | READERS[
        reader
    ]
    if quick:
        said |= {"federation.rounds": 1, "training.steps": 2, "data.limit": 90}
    return Cell(f"videos-{reader.replace(' ', '-')}-{seed}", said, EXPERIMENT)


def claims(found: Found) -> list[Claim]:
    """Every reader against both that read all."""
    return [
        Claim("accuracy", reader, whole, compared(_accuracies(found, reader), _accuracies(found, whole)))
        for whole in (FULL, LONG)
        for reader in found
        if whole in found and reader not in (FULL, LONG)
    ]


def best(found: Found) -> str:
    """The better of both that read all."""
    return max((reader for reader in (FULL, LONG) if reader in found), key=lambda r: fmean(_accuracies(found, r)))


def requirements(found: Found) -> list[Requirement]:
    """Promises of the plan: within three points of the better that reads all, in a quarter of the seconds of as many rounds; equal bytes."""
    mean = {reader: fmean(_accuracies(found, reader)) for reader in found}
    share = fmean(_seconds(found, "fastvid")) / fmean(_seconds(found, FULL))
    other = sum(one["bytes"] != whole["bytes"] for one, whole in zip(found["fastvid"], found[FULL], strict=True))
    return [
        Requirement(
            "federation: FastVID below all tokens", "at most", _LEFT, mean[best(found)] - mean["fastvid"], "points"
        ),
        Requirement("federation: seconds of training, of those of all tokens", "at most", _SHARE, share),
        Requirement("federation: runs with other bytes", "at most", 0.0, float(other)),
    ]


def page(found: Found, seeds: Sequence[int]) -> str:
    """benchmarks/results/fastvid_federation.md."""
    rows = [
        [
            reader,
            _told(_accuracies(found, reader)),
            _told(_seconds(found, reader)),
            f"{found[reader][0]['bytes']['up']:,}",
        ]
        for reader in found
    ]
    newest = max((one["machine"] for cells in found.values() for one in cells), key=lambda facts: facts["date"])
    whole, chance = fmean(_accuracies(found, best(found))), 25.0
    weak = (
        f" This says little: with all tokens the model is right about {whole:.0f} % of clips, and chance is {chance:.0f} %."
        if whole < chance + 25
        else ""
    )
    gained = next(c for c in claims(found) if (c.arm, c.rival) == ("fastvid", best(found)))
    by = f"{abs(gained.interval.mean):.1f} points {'below' if gained.interval.mean < 0 else 'above'} it in the mean"
    first = (
        f"With an eighth of the tokens no difference is shown to the federation that reads all: {by}, with an interval that has 0 in it."
        if gained.verdict == LEVEL
        else f"With an eighth of the tokens the federation is {gained.verdict} than the one that reads all: {by}."
    )
    first += " The one that reads all was given three times the rounds." if best(found) == LONG else ""
    alone = ", ".join(f"{value:.0f}" for value in _accuracies(found, best(found)))
    return f"""# A federation of clips, with fewer tokens

{first}{weak}

`experiments/videos_digits.toml`: three institutions, 12 rounds, without encryption, {len(seeds)} seeds; accuracy in percent, the mean of the last three rounds, mean ±
standard deviation ({best(found)}, seed by seed: {alone}). *Longer*: 36 rounds at a third of the rate. Seconds are those of training at all institutions, wall time.

{markdown_table(["reads", "accuracy, %", "s of training", "bytes up, first seed"], rows)}

{claims_table(claims(found))}

{preamble(newest, "python benchmarks/fastvid.py --federation")}

## Requirements

{requirement_lines(requirements(found))}

![accuracy by reader](fastvid_federation.svg)
"""


def _accuracies(found: Found, reader: str) -> list[float]:
    return [float(one["accuracy"]) for one in found[reader]]


def _seconds(found: Found, reader: str) -> list[float]:
    return [float(one["seconds"]["train"]) for one in found[reader]]


def _told(values: Sequence[float]) -> str:
    return spread(values)


def draw(found: Found) -> Figure:
    """Accuracy over rounds, the mean of seeds."""
    figure, (axis,) = panels("clips, % right")
    for number, reader in enumerate(found):
        history = [fmean(values) for values in zip(*(one["history"] for one in found[reader]), strict=True)]
        axis.plot(range(1, len(history) + 1), history, color=COLOURS[number], label=reader)
    axis.set_xlabel("round")
    axis.legend(frameon=False, fontsize=8)
    return figure


def run(seeds: Sequence[int], jobs: int, *, quick: bool) -> None:
    """Measure, print, and write unless it was a look."""
    readers = QUICK if quick else tuple(READERS)
    cells = [(reader, cell(reader, seed, quick=quick)) for seed in seeds for reader in readers]
    found: Found = {}
    for (reader, _), one in zip(cells, measure_all([c for _, c in cells], jobs), strict=True):
        found.setdefault(reader, []).append(one)
    text = page(found, seeds)
    print(text)
    if not quick:
        figures = {
            "cells": found,
            "claims": [c.to_json() for c in claims(found)],
            "requirements": [r.to_json() for r in requirements(found)],
        }
        write_results("fastvid_federation", figures, text, draw(found))
