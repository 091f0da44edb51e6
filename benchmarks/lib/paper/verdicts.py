"""Verdicts: a claim of the paper beside ours, each judged by a rule that is written down here and applied to what was measured."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import hypot
from statistics import fmean
from typing import Any

from dictpfl.client.compress.verdicts import LEVEL, Interval, compared
from dictpfl.deploy.attacks.methods import SUBJECTS
from lib.paper.measured import Measured, Row
from lib.paper.methods import FEDHE, FULL, HEAD, ML10, OURS
from lib.paper.network import LAN, Network, phases
from lib.paper.workloads import LARGE
from lib.rescored import OLD, PRETRAINED

REPRODUCED, DIFFERS, CANNOT, OPEN = "reproduced", "differs", "cannot be had", "not measured yet"
ONE = "one seed, no verdict"
UNDECIDED = "not decided"
"""A difference is shown, and its interval lies on both sides of what was claimed."""
_NEAR = 0.8
"""Share of a ratio that the paper states of its own encoding which counts as the same in this one."""
_ABOVE_CHANCE = 0.02
"""How far above chance the share of coordinates that stay quiet must lie: nearer to it, it foretells nothing."""
_THEIRS = "paper"
"""The traced run with the paper's settings."""


@dataclass(frozen=True)
class Verdict:
    """What came of a claim: a word of those above or `no difference shown`, and ours in a sentence."""

    word: str
    ours: str = ""


@dataclass(frozen=True)
class Claim:
    """Something that the paper states: where, what, and how ours is judged."""

    source: str
    text: str
    judge: Callable[[Measured], Verdict]


def told(verdict: Verdict) -> str:
    """For a cell of a table."""
    return f"**{verdict.word}**" + (f": {verdict.ours}" if verdict.ours else "")


def rows_of(
    found: Measured, *methods: str, workload: str = LARGE, partition: str = "iid", further: bool = False
) -> list[Row] | None:
    """Rows of several methods, with `further` seeds or those of the tables; None: one of them was not measured."""
    rows = [found.row(workload, partition, method, further=further) for method in methods]
    return None if any(row is None for row in rows) else [row for row in rows if row is not None]


def _within(ratio: float, least: float, ours: str) -> Verdict:
    return Verdict(REPRODUCED if ratio >= least else DIFFERS, ours)


def _bytes_against(method: str, least: float) -> Callable[[Measured], Verdict]:
    def judge(found: Measured) -> Verdict:
        rows = rows_of(found, method, OURS)
        if rows is None:
            return Verdict(OPEN)
        ratio = rows[0].bytes / rows[1].bytes
        clear = ", FedML-HE's values in clear included" if method == ML10 else ""
        return _within(ratio, least, f"{ratio:,.0f} times on {LARGE}, both in this project's encoding{clear}")

    return judge


def seconds_a_round(figures: Mapping[str, Any], network: Network) -> float:
    """Of a run's median round, on a network, without a deployment's latency and polling: the paper has neither."""
    return sum(
        seconds for part, seconds in phases(figures, network).items() if part not in ("latency, polling", "evaluate")
    )


def _ratio(found: Measured, method: str, other: str, network: Network) -> float | None:
    """Time of a round beside another method's; None: not both were timed on one processor, alone on the machine."""
    runs = found.timed((method, other))
    if len(runs) < 2:
        return None
    return seconds_a_round(runs[method], network) / seconds_a_round(runs[other], network)


def _seconds_against(method: str, least: float, network: Network) -> Callable[[Measured], Verdict]:
    def judge(found: Measured) -> Verdict:
        ratio = _ratio(found, method, OURS, network)
        if ratio is None:
            return Verdict(OPEN)
        return _within(ratio, least, f"{ratio:,.1f} times on {LARGE}, a round at {network.name.partition(',')[0]}")

    return judge


def _beside_plaintext(found: Measured) -> Verdict:
    ratio = _ratio(found, OURS, FULL, LAN)
    if ratio is None:
        return Verdict(OPEN)
    return Verdict(REPRODUCED if ratio <= 2 else DIFFERS, f"{ratio:.2f} times plaintext's on {LARGE}, 1 Gbps")


def paired(row: Row, base: Row) -> Interval | None:
    """Points by which one setting is above another, seed by seed; None: no seed has both."""
    ours, its = alike(row, base)
    if not ours.runs:
        return None
    return compared([run["accuracy"] for run in ours.runs.values()], [run["accuracy"] for run in its.runs.values()])


def alike(row: Row, base: Row) -> tuple[Row, Row]:
    """Return both with the seeds that both have, in one order: a seed of one alone would compare splits."""
    seeds = sorted(row.runs.keys() & base.runs.keys())
    first, second = (replace(one, runs={seed: one.runs[seed] for seed in seeds}) for one in (row, base))
    return first, second


def _counted(found: Interval) -> str:
    return f"{found} points, {found.count} seeds" if found.count > 1 else f"{found.mean:+.2f} points"


def _kept(found: Interval, points: float) -> str:
    """Judge that no more than so many points are lost: the whole interval says so, or neither that nor the contrary is shown.

    Nothing is by one seed.
    """
    if found.count == 1:
        return ONE
    if found.low >= -points:
        return REPRODUCED
    return DIFFERS if found.high < -points else _open(found)


def _unmoved(found: Interval, points: float) -> str:
    """Judge that no more than so many points are lost or won."""
    if found.count == 1:
        return ONE
    if -points <= found.low and found.high <= points:
        return REPRODUCED
    return DIFFERS if found.high < -points or found.low > points else _open(found)


def _gained(found: Interval, points: float) -> str:
    """Judge that at least so many points are won: the whole interval says so, or that fewer are; nothing is, where it has 0 in it."""
    if found.count == 1:
        return ONE
    if found.low >= points:
        return REPRODUCED
    return DIFFERS if found.high < points and found.verdict != LEVEL else _open(found)


def _open(found: Interval) -> str:
    """Word for an interval that holds what was claimed and what was not."""
    return LEVEL if found.verdict == LEVEL else UNDECIDED


def _accuracy_beside(
    workload: str, method: str, points: float, partition: str = "iid"
) -> Callable[[Measured], Verdict]:
    def judge(found: Measured) -> Verdict:
        rows = rows_of(found, method, OURS, workload=workload, partition=partition, further=True)
        difference = None if rows is None else paired(rows[1], rows[0])
        if rows is None or difference is None:
            return Verdict(OPEN)
        base, ours = alike(*rows)
        return Verdict(
            _kept(difference, points), f"{ours.accuracy:.2f} % beside {base.accuracy:.2f} %; {_counted(difference)}"
        )

    return judge


def _steps(
    arm: str, least: str, most: str, *, up: float | None = None, down: float | None = None, aside: float | None = None
) -> Callable[[Measured], Verdict]:
    """Judge the change of accuracy from one point of an arm to another: at least `up` points, no more than `down` lost, or than `aside` either way."""

    def judge(found: Measured) -> Verdict:
        rows = found.arm(arm)
        difference = paired(rows[most], rows[least]) if {least, most} <= rows.keys() else None
        if difference is None:
            return Verdict(OPEN)
        if up is not None:
            word = _gained(difference, up)
        else:
            word = _unmoved(difference, aside) if aside is not None else _kept(difference, down or 0.0)
        return Verdict(word, f"from {least} to {most} {_counted(difference)}")

    return judge


def _less(arm: str, whole: str, part: str, least: float, why: str = "") -> Callable[[Measured], Verdict]:
    """Judge how many times fewer bytes one point of an arm sends than another; what it does to accuracy is said, and why the ratio is what it is."""

    def judge(found: Measured) -> Verdict:
        rows = found.arm(arm)
        if not {whole, part} <= rows.keys():
            return Verdict(OPEN)
        ratio, step = rows[whole].bytes / rows[part].bytes, paired(rows[part], rows[whole])
        return _within(ratio, least, f"{ratio:.2f} times" + (f", {_counted(step)}" if step else "") + why)

    return judge


def _institutions(found: Measured) -> Verdict:
    few, many = found.institutions("dictpfl", 3), found.institutions("dictpfl", 200)
    difference = None if few is None or many is None else paired(many, few)
    if difference is None:
        return Verdict(OPEN)
    return Verdict(_kept(difference, 3.0), f"{_counted(difference)} from 3 to 200 on CIFAR-10")


def _traces(found: Measured) -> dict[str, Mapping[str, Any]]:
    """Traces of both runs, by the words for them; empty until both are there."""
    rows = found.arm("traced")
    words = {OURS: "with ours", _THEIRS: "with the paper's settings"}
    return {words[name]: rows[name].first["trace"] for name in words} if words.keys() <= rows.keys() else {}


def _ends(courses: Mapping[str, Sequence[float]], rounds: int) -> dict[str, tuple[float, float]]:
    """Means of so many first and last rounds."""
    return {word: (fmean(course[:rounds]), fmean(course[-rounds:])) for word, course in courses.items()}


def _pruning(found: Measured) -> Verdict:
    traces = _traces(found)
    if not traces:
        return Verdict(OPEN)
    chance = next(iter(traces.values()))["share"]
    ends = _ends({word: trace["quiet_again"] for word, trace in traces.items()}, 10)
    said = ", ".join(f"{100 * early:.0f} and {100 * late:.0f} % {word}" for word, (early, late) in ends.items())
    kept = all(min(pair) > chance + _ABOVE_CHANCE for pair in ends.values())
    return Verdict(
        REPRODUCED if kept else DIFFERS,
        f"of quiet coordinates were quiet again when next sent, in the first ten rounds and the last: {said}; chance would be {100 * chance:.0f} %; one run of each",
    )


def _shrink(found: Measured) -> Verdict:
    traces = _traces(found)
    if not traces:
        return Verdict(OPEN)
    ends = _ends(
        {word: [row[trace["quantiles"].index(0.5)] for row in trace["size"]] for word, trace in traces.items()}, 3
    )
    said = ", ".join(f"{early:.2g} and {late:.2g} {word}" for word, (early, late) in ends.items())
    return Verdict(
        REPRODUCED if all(late < early for early, late in ends.values()) else DIFFERS,
        f"median update in the first three rounds and the last: {said}; one run of each",
    )


def _ahead(workload: str, method: str, points: float) -> Callable[[Measured], Verdict]:
    """Judge that ours is at least so many points above a method."""

    def judge(found: Measured) -> Verdict:
        rows = rows_of(found, method, OURS, workload=workload)
        difference = None if rows is None else paired(rows[1], rows[0])
        if difference is None:
            return Verdict(OPEN)
        return Verdict(_gained(difference, points), _counted(difference))

    return judge


def _sealing(found: Measured) -> Verdict:
    """Judge that most of a FedHE-Full round is neither training nor measuring."""
    run = found.timed((FEDHE,)).get(FEDHE)
    if run is None:
        return Verdict(OPEN)
    parts = {part: s for part, s in phases(run, LAN).items() if part not in ("latency, polling", "evaluate")}
    share = 1 - parts["train"] / sum(parts.values())
    return _within(share, 0.5, f"{share:.0%} of a round on {LARGE}, 1 Gbps")


def _attacked(found: Measured, method: str) -> list[Mapping[str, Any]]:
    """Findings of the privacy benchmark about images of a method, by a coordinator; empty: it was not run."""
    try:
        findings = json.loads((found.results / "privacy.json").read_bytes())["findings"]
    except FileNotFoundError:
        return []
    wanted = ("inversion", "server", SUBJECTS[method].label)
    return [one for one in findings if (one["family"], one["adversary"], one["method"]) == wanted]


def _inversion(found: Measured) -> Verdict:
    """Judge by the privacy benchmark that values in clear let images be rebuilt: FedML-HE with 70 % sealed, one image, one step."""
    tried = _attacked(found, "fedml-he-70")
    if not tried:
        return Verdict(OPEN)
    best = max(tried, key=lambda one: one["gain"]["value"])
    word = REPRODUCED if any(one["gain"]["low"] > 0 for one in tried) else LEVEL
    return Verdict(
        word,
        f"SSIM {best['found']['value']:.2f} beside {best['blind']['value']:.2f} blind, the best of {len(tried)} attacks, vit_tiny on digits "
        "(not every one of them works on plaintext); what dictpfl sends is sealed whole",
    )


def _ageing(found: Measured) -> Verdict:
    """Judge by the privacy benchmark that images are rebuilt better the older the scores are: 10 % encrypted, W0 pretrained, as in the paper."""
    begun = [one["setting"] | one for one in _attacked(found, "fedml-he-10")]
    runs = {one[OLD]: one for one in begun if OLD in one and one["model"].startswith(PRETRAINED)}
    if len(runs) < 2:
        return Verdict(OPEN)
    (_, fresh), (_, old) = min(runs.items()), max(runs.items())
    step = old["found"]["value"] - fresh["found"]["value"]
    half = hypot(*(one["found"]["value"] - one["found"]["low"] for one in (fresh, old)))
    word = REPRODUCED if step > half else DIFFERS if step < -half else LEVEL
    said = ", ".join(f"{100 * one['more']['recovered']:.0f} %" for _, one in sorted(runs.items()))
    ages = ", ".join(str(every - 1) for every in sorted(runs))
    return Verdict(
        word, f"{said} of {fresh['trials']} images each are recovered with scores {ages} updates old, SSIM {step:+.2f} ({step - half:+.2f} to "
        f"{step + half:+.2f}) from the newest to the oldest; 10 % encrypted, vit_tiny on digits, pretrained",
    )  # fmt: skip


def _never(reason: str) -> Callable[[Measured], Verdict]:
    return lambda _: Verdict(CANNOT, reason)


_CONTRADICTED = "the paper's rows coincide with r = 8 or tau = 5 of tables 1 and 2, not with its defaults"
CLAIMS: Sequence[Claim] = (
    Claim("abstract", "402 to 748 times less communication than FedHE-Full (its tables give 29, 100, 140 and 1,413)", _bytes_against(FEDHE, 402)),
    Claim("abstract", "28 to 65 times less time than FedHE-Full", _seconds_against(FEDHE, 28, LAN)),
    Claim("abstract", "51 to 155 times less communication than FedML-HE at 10 %", _bytes_against(ML10, 51)),
    Claim("abstract", "4 to 19 times less time than FedML-HE", _seconds_against(ML10, 4, LAN)),
    Claim("abstract, A.6", "run time within twice plaintext's, 1 Gbps (385 s beside 258 s)", _beside_plaintext),
    Claim("section 5", "accuracy of full fine-tuning on CIFAR-10", _accuracy_beside("cifar10", FULL, 1.0)),
    Claim("section 5", "accuracy of full fine-tuning on GTSRB", _accuracy_beside("gtsrb", FULL, 1.0)),
    Claim("section 5", "accuracy of full fine-tuning on diabetic retinopathy", _accuracy_beside("retina", FULL, 1.0)),
    Claim("table 7", "AG's News: 91.24 beside 91.38 %", _accuracy_beside("ag_news", FEDHE, 1.0)),
    Claim("table 7", "AG's News: 1.2 points above training the last layer alone", _ahead("ag_news", HEAD, 0.5)),
    Claim("table 7", "a language model: 45.93 beside 45.86 % on GSM8K (here SmolLM2-135M, token accuracy of answers)",
          _accuracy_beside("gsm8k", FULL, 1.0)),
    Claim("table 1", "r = 4 brings 7.7 points over r = 2", _steps("rank", "2", "4", up=1.0)),
    Claim("table 1", "more than r = 4 brings less than a point", _steps("rank", "16", "4", down=1.0)),
    Claim("table 2", "tau = 1 costs 1.7 points against tau = 3", _steps("tau", "1", "3", up=0.5)),
    Claim("table 2", "0.003 GB for ten rounds at tau = 3",
          _never("it is less than one unpruned round of table 1 (0.0088 GB), and nothing is pruned before round tau + 1")),
    Claim("table 3", "without pretraining, dictpfl is level with full training", _accuracy_beside("digits_random", FEDHE, 1.0)),
    Claim("table 4", "beta from 0.2 to 0.8 hardly matters", _steps("beta", "0.2", "0.8", aside=1.0)),
    Claim("table 4", "beta = 0.2 is level with 0.5 (0.08 points)", _steps("defaults", "ours", "beta-0.2", aside=0.5)),
    Claim("table 5", "3 to 200 clients: 2.1 points lost", _institutions),
    Claim("table 6", "alpha = 0.3 costs 3.05 points against IID, equal sizes", _steps("alpha-equal", "iid", "0.3", down=4.0)),
    Claim("table 8", "CIFAR-10: the accuracy of FedHE-Full", _accuracy_beside("cifar10", FEDHE, 1.0)),
    Claim("table 8", "CIFAR-10: 140 times fewer bytes than FedHE-Full", _bytes_against(FEDHE, 140)),
    Claim("table 6", "alpha = 0.6 costs 2.39 points", _steps("alpha-equal", "iid", "0.6", down=3.4)),
    Claim("table 6", "alpha = 0.9 costs 0.61 points", _steps("alpha-equal", "iid", "0.9", down=1.6)),
    Claim("table 8", "AdaptiveBatchHE loses 1.5 points against FedHE-Full", _steps("adaptive-batch", "adaptive-batch-4", "fedhe-full", up=0.5)),
    Claim(
        "table 8", "dictpfl with AdaptiveBatchHE sends 5 times less than dictpfl alone",
        _less("adaptive-batch", "paper", "paper-adaptive-batch-4", 2.0,
              "; here dictpfl's own ciphertexts hold packed numbers already, and one of Paillier is twice as long as what it holds"),
    ),
    Claim("table 9", "accumulating beats discarding by 5.4 points at alpha = 0.3", _steps("accumulation", "0.3-discard", "0.3-accumulate", up=1.0)),
    Claim("table 9", "by 4.2 points at alpha = 0.6", _steps("accumulation", "0.6-discard", "0.6-accumulate", up=1.0)),
    Claim("table 9", "by 1.6 points at alpha = 0.9", _steps("accumulation", "0.9-discard", "0.9-accumulate", up=0.5)),
    Claim("table 10", "FedML-HE re-scored every round sends 4.3 times what scoring every ten rounds does",
          _less("rescoring", "every-1", "every-10", _NEAR * 4.3, "; on digits")),
    Claim("table 10", "attacks succeed in 0 to 79 % as scores grow older", _ageing),
    Claim("figure 2", "most of a FedHE-Full round is encryption and sending", _sealing),
    Claim("figure 7a", "FedML-HE with 30 % in clear lets images be rebuilt, dictpfl does not", _inversion),
    Claim("figure 4", "updates shrink as rounds go by", _shrink),
    Claim("figure 5, TIP", "a coordinate that was quiet stays quiet", _pruning),
    Claim("figure 9", "pruning 70 % keeps the accuracy of pruning 20 %", _steps("s", "0.2", "0.7", down=1.0)),
    Claim("figure 9", "and it is reactivation that keeps it", _steps("no-reactivation", "0.7-for-good", "0.7-reactivated", up=0.5)),
    Claim("tables 5, 6, A.6", "82.67 %, 0.16 GB, 6.42 min at the defaults r = 4, tau = 3", _never(_CONTRADICTED)),
    Claim("all tables", "gigabytes and minutes as stated",
          _never("they are of OpenFHE at N = 2^16, 1,555 bits, depth 12, on another machine; ratios are compared instead")),
)  # fmt: skip


def counts(found: Measured) -> Mapping[str, int]:
    """How many claims came to which word."""
    words = [claim.judge(found).word for claim in CLAIMS]
    return {word: words.count(word) for word in (REPRODUCED, LEVEL, UNDECIDED, DIFFERS, ONE, CANNOT, OPEN)}
