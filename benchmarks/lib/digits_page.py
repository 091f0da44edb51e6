"""benchmarks/results/digits.{json,md,svg}: page, picture and requirements of `digits.py`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from dictpfl.deploy.numbers.fit import FIRST
from dictpfl.deploy.numbers.lens import rises
from dictpfl.deploy.numbers.measures import effect, only_fluent
from dictpfl.deploy.numbers.reading import Places
from dictpfl.deploy.reports.plots import COLOURS
from lib.digits_figures import (
    DIGIT,
    MAIN,
    NONE,
    NORM,
    SHARES,
    SHOTS,
    TOLD,
    Silencing,
    random_name,
    restricted,
    sentences,
    silenced_name,
)
from lib.digits_found import Found
from lib.machine import Requirement, markdown_table, panels, preamble, requirement_lines

_FIGURES = {"own share": f"share of {DIGIT}", "accuracy": "digits right", "distance": "distance to even"}
_LATE, _EARLY = 2 / 3, 1 / 3
EARLIER = """An earlier probe, cruder (neurons of both signs, silenced at all positions, chosen against a sixth of the vocabulary, no examples in
the prompt), was mixed: the share of ones in three kinds of questions went from 50.0, 18.0 and 22.0 to 57.7, 13.0 and 16.3 % (random
neurons 50.3, 18.3 and 22.3), and it mended and broke 7 and 3, 12 and 22, 11 and 15 digits. Here the sign is that of each neuron's mean
activation, digits are ranked in the whole vocabulary, and neurons are silenced at the current position alone, where a digit is written."""
"""The one text with figures: of a probe that is no longer run, as the contract (4.5, 4.6.5) asks."""


def needed(found: Found) -> list[Requirement]:
    """Judge what was asked beforehand (clauses 4.6.1 and 4.6.4)."""
    outcome, facts = found.command["outcome"], found.facts
    reading, errors = outcome["reading"], outcome["first_errors"]
    truth = [100 * share for share in reading["truth"]]
    return [
        Requirement("`dictpfl audit numbers`", "at most", 600, found.command["seconds"], "seconds"),
        Requirement("rarest digit of the truth", "at least", 9.7, min(truth), "%"),
        Requirement("commonest digit of the truth", "at most", 10.3, max(truth), "%"),
        Requirement("share of 1 among written digits", "at least", 15, 100 * reading["shares"][DIGIT], "%"),
        Requirement("lower end of its interval", "at least", 10, 100 * reading["low"][DIGIT], "%"),
        Requirement("share of 1 among first errors", "at least", 15, 100 * errors["shares"][DIGIT], "%"),
        Requirement("lower end of its interval", "at least", 10, 100 * errors["low"][DIGIT], "%"),
        Requirement("mean change of the own digit, below the 5th percentile of random draws", "at most", 100 * facts.low,
                    100 * facts.diagonal, "points"),
    ]  # fmt: skip


def page(found: Found, machine: Mapping[str, Any]) -> str:
    """benchmarks/results/digits.md."""
    said = "\n".join(f"- {sentence}" for sentence in sentences(found.facts))
    parts = [
        _command(found),
        _kinds(found),
        _selectivity(found),
        _lens(found),
        _table(found),
        _effects(found),
        _verdicts(found),
    ]
    return f"""# Digits of a language model

SmolLM2-135M-Instruct (a 4-bit checkpoint, widened), {len(found.kinds)} kinds of questions whose answers hold every digit equally often. It is an audit of
one model: it points to a preference, and it proves nothing about where that comes from.

{said}

{EARLIER}

{preamble(machine, "python benchmarks/digits.py")} All cells took {found.minutes:.0f} minutes of a processor.

{"".join(parts)}## Requirements

{requirement_lines(needed(found))}

![digits written, selectivity, and what silencing does](digits.svg)
"""


def _percent(value: float, places: int = 1) -> str:
    return f"{100 * value:.{places}f}"


def _command(found: Found) -> str:
    outcome = found.command["outcome"]
    reading, errors = outcome["reading"], outcome["first_errors"]
    rows = [
        [d, _percent(reading["truth"][d]), _percent(reading["shares"][d]), _ends(reading, d), _percent(errors["shares"][d]), _ends(errors, d)]
        for d in range(10)
    ]  # fmt: skip
    heads = ["digit", "truth, %", "written, %", "95 % interval", "first errors, %", "95 % interval"]
    return f"""## What the command says

`dictpfl audit numbers data/smollm2 --samples {outcome["asked"]["samples"]}`, float32: {reading["places"]:,} digits, {_percent(reading["accuracy"])} % right (chance is 10),
{errors["count"]:,} answers with an error; {found.command["seconds"]:.0f} seconds. Intervals by resampling questions.

{markdown_table(heads, rows)}

"""


def _ends(of: Mapping[str, Any], digit: int) -> str:
    return f"{_percent(of['low'][digit])} to {_percent(of['high'][digit])}"


def _kinds(found: Found) -> str:
    by_shots = {shots: found.shares(shots) for shots in SHOTS}
    overall = [
        [shots, *map(_percent, one["shares"]), _percent(one["accuracy"]), _percent(one["distance"])]
        for shots, one in by_shots.items()
    ]
    rows = []
    for kind in found.kinds:
        own = {shots: found.shares(shots, [kind]) for shots in SHOTS}
        rows.append([kind, *(f"{_percent(one['shares'][DIGIT])} ({_ends(one, DIGIT)})" for one in own.values()),
                     *(_percent(one["accuracy"]) for one in own.values())])  # fmt: skip
    heads = ["kind", *(f"share of {DIGIT}, {s} examples" for s in SHOTS), *(f"right, {s} examples" for s in SHOTS)]
    return f"""## Examples and kinds

Digits written with 0, 2 and 5 examples in the prompt, percent, bfloat16 with logits in float32.

{markdown_table(["examples", *map(str, range(10)), "right", "distance to even"], overall)}

{markdown_table(heads, rows)}

"""


def _selectivity(found: Found) -> str:
    profile, corpus = found.chosen["profile"], found.chosen["corpus"]
    first, every = (np.array(corpus[name]) / sum(corpus[name]) for name in ("first", "all"))
    rows = [
        [d, *(f"{values[d]:.1f}" for values in profile.values()), f"{found.chosen['top'][d]:,.0f}",
         *((_percent(FIRST[d - 1]), _percent(first[d - 1])) if d else ("-", "-")), _percent(every[d])]
        for d in range(10)
    ]  # fmt: skip
    heads = ["digit", *profile, "top 1,000, +w", "Benford, %", "corpus, first, %", "corpus, all, %"]
    held = [
        [form, law, _number(one["pearson"]), _number(one["spearman"]), _number(one["shuffled"], 4)]
        for form, laws in found.correlations.items()
        for law, one in laws.items()
    ]
    widest = found.chosen["sets"][f"{SHARES[-1]:g}"]
    where = [[d, *map(_percent, _thirds(widest[silenced_name(d)], found.chosen))] for d in range(10)]
    return f"""## Selectivity

Mean selectivity of all {found.chosen["of"]:,} neurons by digit: of the output vector w, of -w, and of whichever the sign of the mean activation says. +w is the
published form, and the one to quote. The corpus at hand is the training split of GSM8K, on which this project tunes language models; what
SmolLM2 learnt from is not at hand. *Shuffled*: share of {10_000:,} random orders of the digits whose rank correlation is as high.

{markdown_table(heads, rows)}

{markdown_table(["profile", "against", "Pearson", "Spearman", "shuffled"], held)}

Where the {SHARES[-1]:.0%} most selective neurons sit, percent of them: in the first, second and last third of the layers.

{markdown_table(["digit", "first third", "second", "last"], where)}

"""


def _number(value: float | None, places: int = 2) -> str:
    return "-" if value is None else f"{value:.{places}f}"


def _thirds(flat: Sequence[int], chosen: Mapping[str, Any]) -> tuple[float, float, float]:
    depth = np.array(flat) // chosen["width"] / chosen["layers"]
    early, late = float((depth < _EARLY).mean()), float((depth >= _LATE).mean())
    return early, 1 - early - late, late


def _lens(found: Found) -> str:
    lens = found.command["outcome"]["lens"]
    layers = len(lens["shares"])
    shown = sorted({*range(0, layers, 3), layers - 1})
    rows = [
        [n + 1, *map(_percent, lens["shares"][n]), _number(lens["attention"][n]), _number(lens["feed-forward"][n])]
        for n in shown
    ]
    begin, count = rises(lens, DIGIT), sum(row[DIGIT] > 0.1 for row in lens["shares"])
    told = f"from layer {begin} to the last" if begin <= layers else "at no layer to the end"
    return f"""## Logit lens

The stream behind a layer through the last norm and the unembedding: probability of each digit among the ten, percent, mean of {lens["places"]:,} places;
and rank correlation of the stream's selectivity with that of what attention and the feed-forward part add. The share of {DIGIT} is above a tenth
{told}, and behind {count} of the {layers} layers in all.

{markdown_table(["behind layer", *map(str, range(10)), "attention", "feed-forward"], rows)}

"""


def _rounded(moved: int) -> str:
    """Why an empty set moved places, in cells that were measured before that could not be."""
    return (
        ""
        if not moved
        else " (rounding: passes of many sets are of another size; cells that are measured now hold each set against an untouched pass of its own size)"
    )


def _table(found: Found) -> str:
    one, facts = found.silenced[MAIN], found.facts
    rows = [
        [f"of {d}", *(f"**{100 * v:+.1f}**" if e == d else f"{100 * v:+.1f}" for e, v in enumerate(row))]
        for d, row in enumerate(one.table)
    ]
    own = [
        [d, _percent(one.plain["shares"][d]), f"{100 * one.table[d][d]:+.2f}", f"{100 * _low(one, d):+.2f}", one.net([d]),
         f"{np.quantile(one.random_nets([d]), 0.95):+.0f}", str(one.interval("distance", silenced_name(d), [NONE]))]
        for d in range(10)
    ]  # fmt: skip
    heads = [
        "digit",
        "its share before, %",
        "change",
        "random, 5th percentile",
        "mended less broken",
        "random, 95th percentile",
        "nearer to even",
    ]
    return f"""## Own-digit effects

Change of each digit's share (columns), points, without the {facts.count} neurons ({_percent(float(MAIN))} %) most selective for each (rows), on {one.plain["places"]:,} digits of the second
half of the questions. Mean of the diagonal {100 * facts.diagonal:+.2f}; of {one.draws} random draws, each with as many neurons of the same layers beside every
digit, {100 * min(one.random_diagonals()):+.2f} to {100 * max(one.random_diagonals()):+.2f}. Silencing nothing, in the same passes, says other than the plain pass at {one.moved()} places{_rounded(one.moved())}.

{markdown_table(["neurons", *map(str, range(10))], rows)}

{markdown_table(heads, own)}

"""


def _low(one: Silencing, digit: int) -> float:
    return float(np.quantile([one.effects[random_name(n, digit)]["change"][digit] for n in range(one.draws)], 0.05))


def _effects(found: Found) -> str:
    text = f"""## By kind, with digit {DIGIT}'s neurons silenced

*Corrected* and *broken*: digits made right and made wrong; of random neurons the mean of {found.silenced[MAIN].draws} draws. Distance: points of all shares above a tenth.

"""
    for share, one in found.silenced.items():
        rows = [_row(kind, own, one.draws) for kind, own in zip(found.kinds, one.whole, strict=True)]
        rows.append(_row("all", *_together(one), one.draws))
        heads = [
            "kind",
            "share of 1",
            "after",
            "random",
            "corrected",
            "broken",
            "net",
            "random net",
            "distance",
            "after",
            "random",
        ]
        text += f"{float(share):.2%}, {found.count(share)} neurons:\n\n{markdown_table(heads, rows)}\n\n"
    lines = []
    for kind, own in zip(found.kinds, found.silenced[MAIN].whole, strict=True):
        mended, other = restricted(own)
        lines.append([kind, len(own.truth), other, mended, 0, mended])
    return (
        text
        + f"""The restriction to digits alone, nothing silenced: it acts only where the model would write something else than a digit.

{markdown_table(["kind", "digits", "something else", "corrected", "broken", "net"], lines)}

"""
    )


def _together(one: Silencing) -> tuple[Places]:
    names = one.whole[0].chosen
    question = np.concatenate([p.question for p in one.whole])
    joined = {name: np.concatenate([p.chosen[name] for p in one.whole]) for name in names}
    place, truth, fluent = (np.concatenate([getattr(p, n) for p in one.whole]) for n in ("place", "truth", "fluent"))
    return (Places(question, place, truth, joined, fluent, one.whole[0].activations),)


def _row(kind: str, own: Places, draws: int) -> list[Any]:
    if not own.fluent.any():
        return [kind, *["-"] * 10]
    (places,) = only_fluent([own])
    based = [
        Places(
            places.question,
            places.place,
            places.truth,
            {**places.chosen, "plain": places.chosen[NONE]},
            places.fluent,
            places.activations,
        )
    ]
    plain = effect(based, NONE, {"shares": [0.0] * 10})
    target = effect(based, silenced_name(DIGIT), plain)
    random = [effect(based, random_name(n, DIGIT), plain) for n in range(draws)]
    mean = {k: float(np.mean([_figure(r, k) for r in random])) for k in ("share", "net", "distance")}
    return [kind, _percent(plain["shares"][DIGIT]), _percent(target["shares"][DIGIT]), _percent(mean["share"]), target["mended"], target["broken"],
            f"{_figure(target, 'net'):+d}", f"{mean['net']:+.1f}", _percent(plain["distance"]), _percent(target["distance"]), _percent(mean["distance"])]  # fmt: skip


def _figure(of: Mapping[str, Any], name: str) -> Any:
    if name == "share":
        return of["shares"][DIGIT]
    return of["mended"] - of["broken"] if name == "net" else of[name]


def verdicts(found: Found) -> Iterator[dict[str, Any]]:
    """Every comparison of digit 1's set and of the longest output vectors, with its interval and word."""
    for share, one in found.silenced.items():
        random = [random_name(n, DIGIT) for n in range(one.draws)]
        for arm, rival, names in (
            (f"neurons of {DIGIT}", "random", random),
            (f"neurons of {DIGIT}", "restriction alone", [NONE]),
            (NORM, "random", random),
        ):
            for figure, told in _FIGURES.items():
                name = NORM if arm == NORM else silenced_name(DIGIT)
                i = one.interval(figure, name, names)
                yield {"share": share, "arm": arm, "rival": rival, "figure": told, "mean": i.mean, "low": i.low, "high": i.high,
                       "verdict": i.verdict}  # fmt: skip


def _verdicts(found: Found) -> str:
    rows = [
        [f"{float(v['share']):.2%}", v["arm"], v["rival"], v["figure"], f"{v['mean']:+.2f} ({v['low']:+.2f} to {v['high']:+.2f})", v["verdict"]]
        for v in verdicts(found)
    ]  # fmt: skip
    heads = ["silenced", "arm", "against", "figure", "difference in points, 95 % interval", "verdict"]
    return f"""## Verdicts

Differences over the same questions, resampled {1000:,} times; "better" of a share is less of it, of the distance nearer to even.

{markdown_table(heads, rows)}

"""


def document(found: Found) -> dict[str, Any]:
    """Everything measured, as JSON values."""
    return {
        "command": {key: found.command[key] for key in ("seconds", "child", "page", "outcome")},
        "examples": {str(shots): {"all": found.shares(shots)} | {k: found.shares(shots, [k]) for k in found.kinds} for shots in SHOTS},
        "profile": {key: found.chosen[key] for key in ("of", "layers", "profile", "top", "corpus")} | {"correlations": found.correlations},
        "silenced": {
            share: {"neurons": found.count(share), "places": one.plain["places"], "plain": one.plain, "effects": one.effects, "moved": one.moved()}
            for share, one in found.silenced.items()
        },
        "table": found.silenced[MAIN].table,
        "random": found.silenced[MAIN].random_diagonals(),
        "sentences": sentences(found.facts),
        "verdicts": list(verdicts(found)),
        "requirements": [r.to_json() for r in needed(found)],
        "minutes": found.minutes,
    }  # fmt: skip


def draw(found: Found) -> Figure:
    """Written digits beside even and Benford, selectivity beside Benford, own-digit effects, and digits behind each layer."""
    figure, (bars, profile, heat, lens) = panels(
        "Digits written, %", "Mean selectivity of neurons", "Change of shares, points", "Digits behind each layer, %", across=2
    )  # fmt: skip
    digits, leading = np.arange(10), np.arange(1, 10)
    reading = found.command["outcome"]["reading"]
    written = 100 * np.array(reading["shares"])
    ends = np.abs(np.array([reading["low"], reading["high"]]) * 100 - written)
    bars.bar(digits, written, yerr=ends, color=COLOURS[0], label=f"written, {TOLD} examples", capsize=2)
    bars.axhline(10, color="#475569", linestyle="--", linewidth=0.9, label="truth: even")
    bars.plot(leading, 100 * FIRST, color=COLOURS[1], marker="o", label="Benford, first digits")
    profile.bar(digits, found.chosen["profile"]["+w"], color=COLOURS[2], label="+w")
    beside = profile.twinx()
    beside.plot(leading, 100 * FIRST, color=COLOURS[1], marker="o", label="Benford, first digits, %")
    beside.legend(frameon=False, fontsize=8)
    table = 100 * np.array(found.silenced[MAIN].table)
    most = max(1.0, float(np.abs(table).max()))
    image = heat.imshow(table, cmap="PuOr", vmin=-most, vmax=most)
    heat.grid(visible=False)
    heat.set_xlabel("share of digit")
    heat.set_ylabel("without neurons of")
    figure.colorbar(image, ax=heat, shrink=0.8)
    shares_of = 100 * np.array(found.command["outcome"]["lens"]["shares"])
    for number, d in enumerate((1, 2, 5, 9)):
        lens.plot(range(1, len(shares_of) + 1), shares_of[:, d], color=COLOURS[number], label=str(d))
    lens.set_xlabel("layer")
    for ax in (bars, profile, heat):
        ax.set_xticks(digits)
    heat.set_yticks(digits)
    for ax in (bars, lens):
        ax.legend(frameon=False, fontsize=8)
    return figure
