"""Tables, verdicts and pictures say what the cells say, and that nothing is there where nothing is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dictpfl.client.compress.verdicts import compared
from lib.paper import goals, rendering, tables, verdicts
from lib.paper.arms import ARMS
from lib.paper.catalogue import accuracy, arm, counted, timed, tuning
from lib.paper.cells import Store
from lib.paper.goals import Goal, first_line
from lib.paper.measured import Measured, Row, composed
from lib.paper.methods import FEDHE, FULL, HEAD, ML10, OURS, PAPER, tuned_as
from lib.paper.network import LAN, NETWORKS, Network, common_target, ends, phases, seconds_to, waiting
from lib.paper.pictures import PICTURES, svg
from lib.paper.verdicts import CLAIMS, DIFFERS, LEVEL, OPEN, REPRODUCED
from lib.paper.workloads import LARGE, WORKLOADS

FACTS = {"date": "2026-11-26 21:00 UTC", "processor": "some", "cores": 2, "load": 0.1, "commit": "abc1234"}
PHASES = {"train": 10.0, "evaluate": 1.0, "store": 0.5, "seal": 0.2, "fold": 0.1, "open": 0.2}


def figures(score: float, up: int = 1000, down: int = 2000, **others: Any) -> dict[str, Any]:
    """A run of three rounds."""
    return {
        "metric": "accuracy", "accuracy": score, "accuracy_by_round": [score - 20, score - 10, score], "rounds": 3, "participants": 3,
        "values": {"model": 1000, "shared": 100, "sent": 300}, "up_by_round": [up] * 3, "down_by_round": [down] * 3,
        "others": [{"kind": "measure", "up": 10, "down": 10}], "bytes": {"up": 3 * up + 10, "down": 3 * down + 10},
        "seconds": {key: 3 * value for key, value in PHASES.items()}, "median_seconds": dict(PHASES), "peak_bytes": 2_000_000_000,
        "state_digest": "00", **others,
    }  # fmt: skip


def tune(store: Store, workload: str, method: str) -> float:
    """A whole grid, the best of which is the middle."""
    from lib.paper.workloads import WORKLOADS

    grid = WORKLOADS[workload].grid(method)
    for rate in grid:
        best = rate == sorted(grid)[1]
        store.write(tuning(workload, method, rate), {"validation": 90.0 + best, "validation_loss": 0.1}, None, FACTS)
    return sorted(grid)[1]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = Store(tmp_path / "store")
    rates = {method: tune(found, "digits", method) for method in (OURS, FULL)}
    for seed, ours, full in ((1, 89.0, 90.0), (2, 91.0, 90.5)):
        found.write(accuracy("digits", "iid", OURS, seed), figures(ours), rates[OURS], FACTS)
        found.write(accuracy("digits", "iid", FULL, seed), figures(full, 40_000, 40_000), rates[FULL], FACTS)
    return found


def test_a_table_has_what_was_measured_and_says_what_was_not(store: Store) -> None:
    """A row says what of a weight is trained, and on which processor it was timed."""
    head, _, *lines = tables.accuracy(Measured(store), "digits", "iid").splitlines()
    heads = [cell.strip() for cell in head.strip("|").split("|")]
    rows = {line.strip("|").split("|")[0].strip(): [c.strip() for c in line.strip("|").split("|")] for line in lines}
    assert list(rows) == [
        "plaintext, full",
        "dictpfl-paper (faithful), tables of rank 4",
        "**dictpfl**, tables of rank 4",
    ]
    ours = dict(zip(heads, rows["**dictpfl**, tables of rank 4"], strict=True))
    assert ours["test, %"] == "90.00 ± 1.41"
    assert ours["by seed"] == "89.00 / 91.00"
    assert ours["values, % of full"] == "10.00"
    assert (ours["bytes up"], ours["bytes down"]) == ("3.01 kB", "6.01 kB")
    assert ours["% of plaintext's bytes"] == f"{100 * 9020 / 240_020:.2f}"
    assert (ours["training, s"], ours["encryption, s"], ours["peak memory"]) == ("30.0", "1.50", "2 GB")
    assert (ours["rate"], ours["timed on"]) == ("0.004", "some")
    assert rows["dictpfl-paper (faithful), tables of rank 4"][1] == OPEN
    assert set(rows["dictpfl-paper (faithful), tables of rank 4"][2:]) == {"-"}


def test_centres_have_a_mean_of_their_own(store: Store) -> None:
    """Of 90 and 50 %, whatever their sizes; where one run does not name them, nothing is said."""
    centres = {"a": {"samples": 99, "figure": 0.9}, "b": {"samples": 1, "figure": 0.5}}
    row = Row({1: figures(89.6, test_by_group=centres), 2: figures(89.6, test_by_group=centres)})
    assert tables._by_centre(row) == "70.00"
    assert tables._by_centre(Row({1: figures(89.6, test_by_group=centres), 2: figures(89.6)})) == ""


def timed_on(processor: str, train: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """Figures of a timed cell, and where it ran."""
    return {"median_seconds": {**PHASES, "train": train}, "validation": 1.0}, {**FACTS, "processor": processor}


@pytest.fixture
def large(tmp_path: Path) -> Store:
    """Three methods of the large workload, whose own seconds were taken beside other work, and each timed alone."""
    found = Store(tmp_path / "large")
    for method, score, processor, train in (
        (OURS, 89.0, "slow", 4.0), (FULL, 90.0, "slow", 3.0), (FEDHE, 88.0, "fast", 1.0), (HEAD, 50.0, "slow", 0.5),
    ):  # fmt: skip
        rate = tune(found, LARGE, tuned_as(method))
        up = 1000 if method == OURS else 40_000
        found.write(accuracy(LARGE, "iid", method, 1), figures(score, up, up), rate, FACTS)
        own, where = timed_on(processor, train)
        found.write(timed(method), own, None, where)
    return found


def test_only_seconds_that_were_taken_alone_on_one_processor_stand_side_by_side(large: Store) -> None:
    """Accuracy and bytes are of the whole run; one that was not measured after every round is in no course."""
    found = Measured(large).timed((FEDHE, OURS, FULL, HEAD, ML10))
    assert {method: run["median_seconds"]["train"] for method, run in found.items()} == {
        OURS: 4.0,
        FULL: 3.0,
        HEAD: 0.5,
    }
    assert {run["measured"]["processor"] for run in found.values()} == {"slow"}
    assert [found[OURS][key] for key in ("accuracy", "up_by_round")] == [89.0, [1000] * 3]
    rate = Measured(large).rate(LARGE, OURS).rate
    large.write(accuracy(LARGE, "iid", OURS, 1), figures(89.0, accuracy_by_round=[None, None, 89.0]), rate, FACTS)
    assert set(Measured(large).timed((OURS, FULL), drawn=True)) == {FULL}


def test_a_run_is_not_timed_by_itself(large: Store) -> None:
    """It has seconds, of a machine that did other things as well: no claim is judged by them."""
    claims = {claim.text: claim.judge for claim in CLAIMS}
    beside, against = (
        claims["run time within twice plaintext's, 1 Gbps (385 s beside 258 s)"],
        claims["28 to 65 times less time than FedHE-Full"],
    )
    assert beside(Measured(large)).ours.startswith(
        "1.25 times plaintext's"
    )  # 4 s of training beside 3, and 1 of the rest each
    assert against(Measured(large)) == verdicts.Verdict(OPEN)  # timed elsewhere
    own, where = timed_on("slow", 49.0)
    large.write(timed(FEDHE), own, None, where)
    assert against(Measured(large)).ours.startswith("10.0 times")
    large.lines("timed").drop(timed(OURS).name)
    assert beside(Measured(large)) == against(Measured(large)) == verdicts.Verdict(OPEN)


def test_rows_show_the_seconds_of_the_quickest_seed(store: Store) -> None:
    """The other one ran beside something else."""
    rate = Measured(store).rate("digits", OURS).rate
    busy = {"seconds": {key: 30 * value for key, value in PHASES.items()}}
    store.write(accuracy("digits", "iid", OURS, 3), figures(90.0, **busy), rate, {**FACTS, "processor": "another"})
    row = Measured(store).row("digits", "iid", OURS)
    assert row is not None
    assert tables._costs(row)[:3] == ("30.0", "1.50", "some")
    elsewhere = figures(0.0, measured={**FACTS, "processor": "other"}) | {
        "up_by_round": [7, 5],
        "down_by_round": [8, 6],
    }
    assert tables._costs(Row({1: composed(row.first, elsewhere, 0)}))[2] == "other, some"


def test_a_cell_of_other_settings_is_not_shown(store: Store) -> None:
    """Its rate was chosen by a grid that is measured anew: better at 2e-3 now."""
    store.write(tuning("digits", OURS, 4e-3), {"validation": 10.0, "validation_loss": 0.1}, None, FACTS)
    store.write(tuning("digits", OURS, 1e-3), {"validation": 10.0, "validation_loss": 0.1}, None, FACTS)
    assert Measured(store).rate("digits", OURS).rate == 2e-3
    assert Measured(store).row("digits", "iid", OURS) is None
    assert Measured(store).row("digits", "iid", FULL) is not None


def test_fedml_he_takes_plaintext_s_accuracy_and_its_own_bytes(store: Store) -> None:
    assert Measured(store).row("digits", "iid", ML10) is None
    own = figures(0.0) | {"up_by_round": [700, 500], "down_by_round": [800, 600],
                          "others": [{"kind": "score", "up": 90, "down": 80}, {"kind": "measure", "up": 3, "down": 4}]}  # fmt: skip
    for method in (ML10, "fedml-he-10-every-1"):
        store.write(counted("digits", method), own, None, FACTS)
    once = Measured(store).row("digits", "iid", ML10)
    assert once is not None
    assert once.accuracy == 90.25
    assert (once.up, once.down) == (700 + 2 * 500 + 90 + 3, 800 + 2 * 600 + 80 + 4)
    every = Measured(store).row("digits", "iid", "fedml-he-10-every-1")
    assert every is not None
    assert every.up - once.up == 2 * 90


def test_the_page_begins_with_what_was_missed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def line(points: float, share: float) -> str:
        monkeypatch.setattr(goals, "GOALS", (Goal("digits", "iid", points, share), Goal("gtsrb", "iid", 1.0)))
        return first_line(Measured(store))

    by_mean = line(1.0, 5.0)
    assert by_mean.startswith(
        "Within its bound by the mean, which so few seeds do not show: digits (iid): 0.25 points below plaintext"
    )
    assert line(10.0, 5.0).startswith("Within its bound: digits (iid)")
    assert line(0.2, 5.0).startswith("**Missed**: digits (iid)")
    assert line(1.0, 3.0).startswith("**Missed**: digits (iid)")
    assert "Not measured yet: gtsrb (iid)." in line(1.0, 5.0)
    assert "2 seeds only" in line(1.0, 5.0)


def test_goals_are_judged_by_further_seeds_and_tables_have_their_own(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A seed that dictpfl alone has tells nothing beside plaintext."""
    monkeypatch.setattr(goals, "GOALS", (Goal("digits", "iid", 3.0, 5.0),))
    monkeypatch.setitem(WORKLOADS, "digits", replace(WORKLOADS["digits"], further=(4, 5)))
    ours, full = (Measured(store).rate("digits", method).rate for method in (OURS, FULL))
    before = Measured(store).row("digits", "iid", OURS), tables.accuracy(Measured(store), "digits", "iid")
    for seed in (4, 5):
        store.write(accuracy("digits", "iid", OURS, seed), figures(90.0), ours, FACTS)
    assert ", 2 seeds)" in first_line(Measured(store))
    store.write(accuracy("digits", "iid", FULL, 4), figures(90.0, 40_000, 40_000), full, FACTS)
    assert "-2.06 to +1.73, 3 seeds" in (said := first_line(Measured(store)))
    assert said.startswith("Within its bound: digits (iid): 0.17 points below plaintext")
    assert (Measured(store).row("digits", "iid", OURS), tables.accuracy(Measured(store), "digits", "iid")) == before


def test_the_results_say_on_which_seeds_and_data_rates_were_chosen(tmp_path: Path) -> None:
    """It said seed 0 of all, and nothing of skewed data, which have the rate of even ones."""
    text = rendering.accuracy_section(Store(tmp_path))
    several = {at.tuning_seeds for at in WORKLOADS.values() if at.tuning_seeds != (0,)}
    assert several == {(0, 6, 7, 8, 9)}
    assert {at.partitions for at in WORKLOADS.values() if len(at.tuning_seeds) > 1} == {("natural",)}
    assert "on seed 0 (hospitals: the mean of seeds 0 and 6 to 9)" in text
    assert "where data differ by Dirichlet's alpha, the rate is that of IID data" in text


def test_nothing_measured_is_nothing_claimed(tmp_path: Path) -> None:
    found = Measured(Store(tmp_path))
    assert {claim.judge(found).word for claim in CLAIMS} == {OPEN, verdicts.CANNOT}
    text = rendering.measured(found)
    assert REPRODUCED not in text.partition("|")[2].replace("0 reproduced", "")
    assert "![" not in text
    assert all(draw(found) is None for _, draw in PICTURES.values())


@pytest.mark.parametrize(
    ("lost", "word"), [((0.5, 0.5), REPRODUCED), ((0.1, 0.9), LEVEL), ((9.0, 9.2), DIFFERS), ((1.0, 20.0), LEVEL)]
)
def test_verdicts_follow_their_rule(store: Store, lost: tuple[float, float], word: str) -> None:
    """Plaintext has 90.0 and 90.5; a point may be lost, and the whole interval has to say that no more was."""
    rate = 4e-3
    for seed, full, less in zip((1, 2), (90.0, 90.5), lost, strict=True):
        store.write(accuracy("digits", "iid", OURS, seed), figures(full - less), rate, FACTS)
    assert verdicts._accuracy_beside("digits", FULL, 1.0)(Measured(store)).word == word


@pytest.mark.parametrize(
    ("values", "kept", "unmoved", "gained"),
    [
        ((0.1, 0.2, 0.3), REPRODUCED, REPRODUCED, LEVEL),
        ((-9.0, -9.1, -9.2), DIFFERS, DIFFERS, DIFFERS),
        ((-0.9, -1.0, -1.3), verdicts.UNDECIDED, verdicts.UNDECIDED, DIFFERS),
        ((0.9, 1.0, 1.3), REPRODUCED, verdicts.UNDECIDED, verdicts.UNDECIDED),
        ((4.0, 4.1, 4.2), REPRODUCED, DIFFERS, REPRODUCED),
        ((-4.0, 0.5, 3.0), LEVEL, LEVEL, LEVEL),
    ],
)
def test_a_verdict_is_borne_by_the_whole_interval(
    values: tuple[float, ...], kept: str, unmoved: str, gained: str
) -> None:
    """A point may be lost, moved, or is to be won; an interval on both sides of that decides nothing, though it is clear of 0."""
    found = compared(values, [0.0] * len(values))
    assert (verdicts._kept(found, 1.0), verdicts._unmoved(found, 1.0), verdicts._gained(found, 1.0)) == (
        kept,
        unmoved,
        gained,
    )


def test_one_seed_has_no_verdict(store: Store) -> None:
    points = {point.label: point for point in ARMS["rank"].points}
    for label, score in (("2", 80.0), ("4", 90.0)):
        store.write(arm("rank", points[label], 1), figures(score), None, FACTS)
    for bound in ({"up": 1.0}, {"down": 1.0}, {"aside": 1.0}):
        assert verdicts._steps("rank", "2", "4", **bound)(Measured(store)).word == verdicts.ONE


@pytest.mark.parametrize(("two", "word"), [(80.0, REPRODUCED), (89.8, DIFFERS)])
def test_steps_of_arms(store: Store, two: float, word: str) -> None:
    points = {point.label: point for point in ARMS["rank"].points}
    for label, score in (("2", two), ("4", 90.0)):
        for seed in (1, 2, 3):
            store.write(arm("rank", points[label], seed), figures(score), None, FACTS)
    assert verdicts._steps("rank", "2", "4", up=1.0)(Measured(store)).word == word
    said = {line.split(" | ")[0]: line for line in tables.arm(Measured(store), "rank").splitlines()}
    assert f"| {two - 90:+.2f} ({two - 90:+.2f} to {two - 90:+.2f}) against 4: worse |" in said["| 2"]
    assert "| 74.26 | -7.73 |" in said["| 2"]
    assert f"| {OPEN} | - | - |" in said["| 8"]


def test_a_step_that_only_one_seed_has_or_that_chance_explains_says_so(store: Store) -> None:
    points = {point.label: point for point in ARMS["rank"].points}
    for seed, two in ((1, 88.0), (2, 91.0), (3, 89.0)):
        store.write(arm("rank", points["4"], seed), figures(90.0), None, FACTS)
        store.write(arm("rank", points["2"], seed), figures(two), None, FACTS)
    store.write(arm("rank", points["8"], 2), figures(95.0), None, FACTS)
    said = tables.arm(Measured(store), "rank")
    assert "-0.67 (-4.46 to +3.13) against 4: no difference shown" in said
    assert "+5.00 against 4: one seed" in said


@pytest.mark.parametrize("bound", [{"up": 1.0}, {"down": 1.0}], ids=str)
def test_a_step_whose_interval_has_0_in_it_is_not_shown(store: Store, bound: Mapping[str, float]) -> None:
    points, way = {point.label: point for point in ARMS["rank"].points}, 1 if "up" in bound else -1
    for seed, score in ((1, 90.0), (2, 93.0), (3, 99.0)):
        store.write(arm("rank", points["2"], seed), figures(90.0), None, FACTS)
        store.write(arm("rank", points["4"], seed), figures(90.0 + way * (score - 90.0)), None, FACTS)
    found = verdicts._steps("rank", "2", "4", **bound)(Measured(store))
    assert found.word == "no difference shown"
    assert f"{way * 4:+.2f} (" in found.ours
    # A fall as large in every seed is one.
    for seed in (1, 2, 3):
        store.write(arm("rank", points["4"], seed), figures(90.0 + way * 4.0), None, FACTS)
    assert verdicts._steps("rank", "2", "4", **bound)(Measured(store)).word == (
        REPRODUCED if "up" in bound else DIFFERS
    )


def seeds(score: float, spread: float = 0.0) -> Row:
    return Row({seed: figures(score + spread * (seed - 2)) for seed in (1, 2, 3)})


def rows(spread: float = 0.0, **accuracies: float) -> Mapping[tuple[str, int], Row | None]:
    known = {(name, n): seeds(90.0) for name in ("dictpfl", "plaintext", "few-samples", "few-steps") for n in (3, 10)}
    known |= {(name.replace("_", "-"), 10): seeds(score, spread) for name, score in accuracies.items()}
    return {
        (name, n): known.get((name, n))
        for name in ("dictpfl", "plaintext", "few-samples", "few-steps")
        for n in (3, 10, 50, 200)
    }


def test_the_reason_of_a_fall() -> None:
    assert "few steps alone" in tables.reason(rows(dictpfl=80.0, few_steps=81.0)).partition("had by")[2]
    assert "plaintext" not in tables.reason(rows(dictpfl=80.0, few_steps=81.0)).partition("had by")[2]
    assert "no single arm" in tables.reason(rows(dictpfl=80.0))
    assert "no fall is shown" in tables.reason(rows(dictpfl=90.0))
    assert "no fall is shown" in tables.reason(rows(6.0, dictpfl=80.0))
    alone = {key: Row({1: row.first}) if row else None for key, row in rows(dictpfl=80.0).items()}
    assert "with one seed, which shows nothing" in tables.reason(alone)


def test_time_on_a_network() -> None:
    network = Network("slow", 8000.0, 0.5)
    run = figures(90.0) | {
        "others": [{"kind": "score", "up": 4000, "down": 1000}, {"kind": "measure", "up": 9, "down": 9}]
    }
    idle = 5 * 0.5 + waiting(3)
    assert waiting(3) == pytest.approx(0.75 * 0.25 + 0.5)
    assert phases(run, network)["send"] == pytest.approx(3.0)
    assert ends(run, network) == pytest.approx([5 + idle + n * (12 + 3 + idle) for n in (1, 2, 3)])
    assert seconds_to(run, 80.0, network) == pytest.approx(ends(run, network)[1])
    assert seconds_to(run, 91.0, network) is None
    again = run | {"others": [{"kind": "score", "up": 4000, "down": 1000}] * 2, "rescored_every": 2}
    score = 5 + idle
    each = 12 + 3 + idle
    assert ends(again, network) == pytest.approx([score + each, score + 2 * each, 2 * score + 3 * each])
    assert common_target([run, figures(88.7)]) == 88.0


def test_time_to_accuracy_is_a_table_of_all_that_were_timed(store: Store, large: Store) -> None:
    text = tables.time_table(Measured(large))
    assert f"| {LAN.name}, s |" in text
    assert len(text.splitlines()) == 2 + 2 + 3
    # The head alone ends at 50 %: it does not lower what the others are timed to, and never gets there.
    assert text.startswith(
        "To 89 %, the highest that plaintext, full; dictpfl all reach; -: a method that never does ("
    )
    (head,) = (line for line in text.splitlines() if line.startswith("| head only |"))
    assert head.startswith("| head only | - | - | - |")
    assert all(network.name in text for network in NETWORKS)
    assert "FedHE-Full" in text.partition("Not timed yet: ")[2].partition(".")[0]  # timed on another processor
    assert tables.time_table(Measured(store)) == f"{OPEN.capitalize()}."


def test_pictures_are_drawn_from_traces(store: Store) -> None:
    trace = {"quantiles": [0.5, 0.9], "size": [[0.1, 0.2]] * 2 + [[0.05, 0.1]] * 2 + [[0.01, 0.02]] * 2, "share": 0.7, "quiet_again": [0.8, 0.9],
             "coordinates": {"moves most": {"changes": [0.1, 0.2, 0.1], "sent": [True, True, True]},
                             "pruned, and never back": {"changes": [0.1, 0.0, 0.0], "sent": [True, False, False]}}}  # fmt: skip
    rate = tune(store, "digits", OURS)
    store.write(arm("traced", ARMS["traced"].points[0], 1), figures(90.0, trace=trace), rate, FACTS)
    found = Measured(store)
    drawn = {name: draw(found) for name, (_, draw) in PICTURES.items()}
    assert {name for name, figure in drawn.items() if figure is not None} == {
        "shrinking-updates",
        "coordinates",
        "accuracy-by-bytes",
    }
    assert svg(drawn["coordinates"]) == svg(PICTURES["coordinates"][1](found))
    words = {claim.source: claim.judge(found) for claim in CLAIMS}
    assert words["figure 4"].word == words["figure 5, TIP"].word == OPEN  # both runs are judged, and one is there


def test_a_page_keeps_what_is_not_between_its_markers() -> None:
    text = "a\n<!-- x -->\nold\n<!-- /x -->\nb\n"
    assert rendering.filled_in(text, "x", "new") == "a\n<!-- x -->\nnew\n<!-- /x -->\nb\n"
    with pytest.raises(ValueError, match="put them back"):
        rendering.filled_in("a", "x", "new")


@pytest.mark.parametrize(
    ("steps", "word"), [((0.2, -0.2, 0.1), REPRODUCED), ((0.5, 2.5, -1.0), LEVEL), ((4.0, 4.2, 4.1), DIFFERS)]
)
def test_what_hardly_matters_may_move_neither_way(store: Store, steps: tuple[float, ...], word: str) -> None:
    points = {point.label: point for point in ARMS["beta"].points}
    for seed, step in enumerate(steps, 1):
        store.write(arm("beta", points["0.2"], seed), figures(90.0), None, FACTS)
        store.write(arm("beta", points["0.8"], seed), figures(90.0 + step), None, FACTS)
    judged = {claim.text: claim.judge(Measured(store)).word for claim in CLAIMS if claim.source == "table 4"}
    assert judged.pop("beta from 0.2 to 0.8 hardly matters") == word
    assert set(judged.values()) == {OPEN}


def test_inversion_is_judged_by_the_privacy_benchmark(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    found = Measured(Store(tmp_path / "results" / "paper"))
    assert verdicts._inversion(found).word == OPEN
    for low, word in ((0.1, REPRODUCED), (-0.1, LEVEL)):
        one = {"family": "inversion", "adversary": "server", "method": "FedML-HE, 70% encrypted", "found": {"value": 0.58},
               "blind": {"value": 0.35}, "gain": {"value": 0.23, "low": low}}  # fmt: skip
        sealed = one | {"method": "FedML-HE, 90% encrypted", "gain": {"value": 0.9, "low": 0.9}}
        (tmp_path / "results" / "privacy.json").write_text(json.dumps({"findings": [one, sealed]}))
        verdict = verdicts._inversion(found)
        assert verdict.word == word
        assert "SSIM 0.58 beside 0.35 blind, the best of 1 attacks" in verdict.ours


@pytest.mark.parametrize(
    ("late", "theirs", "words"),
    [(0.75, 0.74, (REPRODUCED, REPRODUCED)), (0.71, 0.74, (DIFFERS, REPRODUCED)), (0.75, 0.70, (DIFFERS, DIFFERS))],
)
def test_updates_are_judged_by_both_runs_and_by_their_last_rounds(
    store: Store, late: float, theirs: float, words: tuple[str, str]
) -> None:
    """Early rounds alone, or a share that is chance's, reproduce nothing."""
    for name, share, end in ((OURS, late, 0.01), (PAPER, theirs, 0.01 if theirs > 0.72 else 0.05)):
        point = next(p for p in ARMS["traced"].points if p.tuned_as == name)
        trace = {"quantiles": [0.1, 0.5], "share": 0.7, "coordinates": {}, "quiet_again": [0.8] * 10 + [share] * 10,
                 "size": [[0.0, 0.03]] * 3 + [[0.0, end]] * 3}  # fmt: skip
        store.write(arm("traced", point, 1), figures(90.0, trace=trace), tune(store, "digits", name), FACTS)
    found = Measured(store)
    assert f"80 and {100 * late:.0f} % with ours" in verdicts._pruning(found).ours
    assert f"0.03 and {'0.01' if theirs > 0.72 else '0.05'} with the paper's settings" in verdicts._shrink(found).ours
    assert (verdicts._pruning(found).word, verdicts._shrink(found).word) == words
