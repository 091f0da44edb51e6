"""benchmarks/results/layerif.md: arms of `layerif.py`, what the page says of them, and its picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure

from dictpfl.client.compress.sparse.spectra import BY_WEIGHTS
from dictpfl.client.compress.verdicts import compared
from dictpfl.deploy.reports.plots import COLOURS
from lib import ranks_by_map
from lib.arms import Cells, Claim, claims_table, spread
from lib.machine import Requirement, markdown_table, panels, preamble

RANKS_SAID, ZEROS_SAID = "Allocating ranks by influence", "Dividing zeros by influence"
SPARSITIES = (70, 80, 90)
WAYS = ranks_by_map.WAYS
ZERO_WAYS = (*WAYS, *BY_WEIGHTS)
LABELS: Mapping[str, Mapping[str, Any]] = {name: {"by": name} for name in ("exact", "datainf", "none", "gradient norm")}
ZEROS: Mapping[str, Mapping[str, Any]] = {way: {"way": way} for way in ZERO_WAYS}
RANKS: Mapping[str, Mapping[str, Any]] = {way: {"way": way, "rank": 3, "rounds": 20, "rate": 2e-2} for way in WAYS}
"""The rate is that of uniform ranks, of 1e-3, 4e-3, 1e-2, 2e-2 and 4e-2 on two seeds of their own."""
DRAWS = 5
SOLVERS: Mapping[str, Mapping[str, Any]] = {
    "uniform": {"way": "uniform", "solver": "exact"},
    "exact": {"way": "layerif", "solver": "exact"},
    "datainf": {"way": "layerif", "solver": "datainf"},
    "tracin": {"way": "layerif", "solver": "none"},
    **{f"random, draw {draw}": {"way": "random", "solver": "exact", "draw": draw} for draw in range(1, DRAWS + 1)},
}
"""By solver: `tracin` is the product of gradients without H. A random draw deals the exact solver's scores out to other layers."""
RANK_SOLVERS = {name: {**RANKS["uniform"], **arm} for name, arm in SOLVERS.items()}
RANDOM = f"random, mean of {DRAWS}"
TITLES: Mapping[str, str] = {
    "labels": "Wrong labels", "sparsity": "Zeros", "ranks": "Ranks", "sparsity-solvers": f"Zeros by solver, and {DRAWS} random draws",
    "ranks-solvers": f"Ranks by solver, and {DRAWS} random draws",
}  # fmt: skip
WRONG = 40
"""Mislabelled samples of 200."""


def zeros_claims(cells: Cells) -> list[Claim]:
    """Compare what the pages speak of."""
    figures = [f"{percent} % zeros" for percent in SPARSITIES]
    return [cells.claim(f, "layerif", rival) for f in figures for rival in ZERO_WAYS if rival != "layerif"]


def ranks_claims(cells: Cells) -> list[Claim]:
    """Compare what the pages speak of."""
    return [cells.claim("accuracy", "layerif", rival) for rival in WAYS if rival != "layerif"]


def labels_page(cells: Cells) -> tuple[str, list[Requirement], list[Claim]]:
    """What finds wrong labels."""
    mean = {arm: fmean(cells.of(arm, "area")) for arm in LABELS}
    needed = [
        Requirement("wrong labels: area of the exact solver", "at least", 0.75, mean["exact"]),
        Requirement("wrong labels: exact above DataInf", "at least", 0.1, mean["exact"] - mean["datainf"]),
    ]
    claims = [cells.claim("area", "exact", rival) for rival in LABELS if rival != "exact"]
    best = max(mean, key=mean.__getitem__)
    note = "" if best == "exact" else f" The {best} of a sample, which needs no validation samples, finds them best."
    rows = [[arm, _mean(cells, arm, "area", 3)] for arm in LABELS]
    text = f"""## {TITLES["labels"]}

Area under the curve, 200 digits of which {WRONG} are mislabelled, {len(cells.study.seeds)} seeds. `none`: products of gradients without H (TracIn).{note}

{markdown_table(["score", "area"], rows)}

{claims_table(claims)}

{preamble(cells.measured(), "python benchmarks/layerif.py --labels")}
"""
    return text, needed, claims


def zeros_page(cells: Cells) -> tuple[str, list[Requirement], list[Claim]]:
    """What dividing zeros by influence does."""
    figures = [f"{percent} % zeros" for percent in SPARSITIES]
    for percent in SPARSITIES:
        kept = {cells.found[cell][f"kept at {percent}"] for cell in cells.found}
        assert len(kept) == 1, f"unequal numbers of entries stayed at {percent} %: {kept}"
    claims = zeros_claims(cells)
    needed = _gains(claims, "zeros")
    rows = [[_named(way), *(_mean(cells, way, f) for f in figures)] for way in ZERO_WAYS]
    text = f"""## {TITLES["sparsity"]}

{_null(claims, ZEROS_SAID)} Accuracy in percent after Wanda, no retraining, {len(cells.study.seeds)} seeds;
{fmean(cells.of("uniform", "dense")):.1f} before. Exactly as many entries stay in every arm. In brackets: the solver of the scores.{_same(cells, figures)}

{markdown_table(["divided", *figures], rows)}

{claims_table([_with_solvers(claim) for claim in claims])}

{preamble(cells.measured(), "python benchmarks/layerif.py --sparsity")}
"""
    return text, needed, claims


def ranks_page(cells: Cells) -> tuple[str, list[Requirement], list[Claim]]:
    """What dividing ranks by influence does."""
    shared = {cells.found[cell]["values"] for cell in cells.found}
    assert len(shared) == 1, f"unequal numbers of shared values: {shared}"
    claims = ranks_claims(cells)
    seed = cells.study.seeds[0]
    rows = [
        [
            _named(way),
            _mean(cells, way, "accuracy"),
            ", ".join(str(r) for r in cells.found[way, seed]["ranks"].values()),
        ]
        for way in WAYS
    ]
    text = f"""## {TITLES["ranks"]}

{_null(claims, RANKS_SAID)} Test accuracy in percent after {RANKS["uniform"]["rounds"]} rounds, {len(cells.study.seeds)}
seeds; {shared.pop():,} shared values in every arm. In brackets: the solver of the scores.{_same(cells, ["ranks"])}

{markdown_table(["divided", "accuracy", f"ranks of the three tables (seed {seed})"], rows)}

{claims_table([_with_solvers(claim) for claim in claims])}

{preamble(cells.measured(), "python benchmarks/layerif.py --ranks")}
"""
    return text, _gains(claims, "ranks"), claims


def solvers_page(cells: Cells, part: str) -> tuple[str, list[Requirement], list[Claim]]:
    """What other solvers do, and the mean of several random draws."""
    figures = [f"{percent} % zeros" for percent in SPARSITIES] if part == "sparsity-solvers" else ["accuracy"]
    draws = [arm for arm in cells.study.arms if arm.startswith("random")]
    claims = [cells.claim(f, "exact", rival) for f in figures for rival in ("uniform", "datainf", "tracin")]
    for name in figures:
        mean = [fmean(one) for one in zip(*(cells.of(arm, name) for arm in draws), strict=True)]
        claims.append(Claim(name, "exact", RANDOM, compared(cells.of("exact", name), mean)))
    rows = [[arm, *(_mean(cells, arm, f) for f in figures)] for arm in cells.study.arms]
    text = f"""## {TITLES[part]}

As above, divided by the scores of each solver (`tracin`: products of gradients without H), and by those of the exact one dealt out at random; {len(cells.study.seeds)} seeds.

{markdown_table(["divided", *figures], rows)}

{claims_table(claims)}

{preamble(cells.measured(), f"python benchmarks/layerif.py --{part}")}
"""
    return text, [], claims


def opening(claims: Sequence[Claim]) -> str:
    """First sentences of the page: whether dividing by influence helped, with the differences that say so."""
    own = [c for c in claims if c.arm == "layerif"]
    ranks, zeros = [c for c in own if c.figure == "accuracy"], [c for c in own if c.figure != "accuracy"]
    said = []
    if ranks:
        rivals = [c for c in ranks if c.rival in ("uniform", "random", "reversed")]
        said.append(_opened(ranks, RANKS_SAID, ", ".join(f"{c.interval} against {c.rival}" for c in rivals)))
    if zeros:
        told = ", ".join(f"{c.interval} at {c.figure}" for c in zeros if c.rival == "uniform")
        said.append(_opened(zeros, ZEROS_SAID, f"{told}, against uniform"))
    return "\n\n".join(said)


def _opened(claims: Sequence[Claim], what: str, told: str) -> str:
    first, _, rest = _null(claims, what).partition(".")
    return f"{first}: in points {told}\n({claims[0].interval.count} seeds, on digits, by the exact solver).{rest}"


def _named(way: str) -> str:
    """A way with the solver of the scores that it divides by."""
    return f"{way} (exact)" if way in ("layerif", "reversed", "random") else way


def _with_solvers(claim: Claim) -> Claim:
    return Claim(claim.figure, _named(claim.arm), _named(claim.rival), claim.interval)


def _null(claims: Sequence[Claim], what: str) -> str:
    """One sentence on the claim against uniform, and on the arm that turns the scores round."""
    found = {(c.figure, c.rival): c.verdict for c in claims}
    won = [
        f
        for f, rival in found
        if rival == "uniform" and all(found[f, r] == "better" for r in ("uniform", "random", "reversed"))
    ]
    worse = [f"{rival} ({figure})" for (figure, rival), verdict in sorted(found.items()) if verdict == "worse"]
    told = f"{what} helped ({', '.join(won)})." if won else f"{what} was not shown to help."
    return told + (f" It was worse than: {', '.join(worse)}." if worse else "")


def _same(cells: Cells, figures: Sequence[str]) -> str:
    """Say in how many seeds another arm divided just as `layerif`: of few layers there are few divisions."""
    alike = {
        way: sum(
            all(cells.found[way, s][f] == cells.found["layerif", s][f] for f in figures) for s in cells.study.seeds
        )
        for way in cells.study.arms
        if way != "layerif"
    }
    told = ", ".join(f"`{way}` does in {count}" for way, count in alike.items() if count)
    seeds = len(cells.study.seeds)
    return (
        f" Few layers leave few divisions: `layerif` divides as {told} of the {seeds} seeds, where no difference can show."
        if told
        else ""
    )


def _gains(claims: Sequence[Claim], what: str) -> list[Requirement]:
    return [
        Requirement(
            f"{what}, {c.figure}: lower end of layerif against {c.rival}", "above", 0.0, c.interval.low, "points"
        )
        for c in claims
        if c.rival in ("uniform", "random", "reversed")
    ]


def _mean(cells: Cells, arm: str, name: str, places: int = 1) -> str:
    values = cells.of(arm, name)
    return spread(values, places)


def draw(parts: Mapping[str, Cells]) -> Figure:
    """Means of every arm, a panel a part."""
    figure_, plots = panels(*parts)
    for ax, (part, cells) in zip(plots, parts.items(), strict=True):
        arms = list(cells.study.arms)
        if part == "sparsity":
            for number, way in enumerate(arms):
                values = [fmean(cells.of(way, f"{percent} % zeros")) for percent in SPARSITIES]
                ax.plot(SPARSITIES, values, color=COLOURS[number], marker="o", label=_named(way))
            ax.set_xlabel("zeros, %")
            ax.set_ylabel("accuracy, %")
            ax.legend(frameon=False, fontsize=8)
            continue
        name = "area" if part == "labels" else "accuracy"
        for number, arm in enumerate(arms):
            values = cells.of(arm, name)
            ax.scatter([number] * len(values), values, color=COLOURS[number], s=14)
            ax.scatter([number], [fmean(values)], color="black", marker="_", s=200)
        ax.set_xticks(range(len(arms)), arms, fontsize=7)
        ax.set_ylabel("area under the curve" if part == "labels" else "accuracy, %")
    return figure_
