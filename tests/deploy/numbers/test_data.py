"""`dictpfl audit numbers` on tables, and the tally of them: clean ones pass, planted faults are pointed to."""

from __future__ import annotations

import json
import math
import os
import stat
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from dictpfl.client.data.digits import Histogram, histogram, read_numbers, words_of
from dictpfl.common.errors import ConfigError, DataError
from dictpfl.deploy.audit.audit import audited
from dictpfl.deploy.cli import app
from dictpfl.deploy.numbers.data import described, of_file
from dictpfl.deploy.numbers.fit import EVEN, FIRST, SECOND, fits
from dictpfl.deploy.runs.run import Run
from dictpfl.deploy.simulation.simulate import simulate
from tests.support import forking
from tests.support.federations import as_toml, encrypted, tiny

pytestmark = pytest.mark.usefixtures("quiet")


def wide(count: int, seed: int) -> list[str]:
    """Numbers over five orders of magnitude, which follow Benford."""
    return [f"{x:.2f}" for x in 10 ** np.random.default_rng(seed).uniform(0, 5, count)]


def pressures(count: int, seed: int, rounded: float) -> list[str]:
    draw = np.random.default_rng(seed)
    exact = draw.integers(90, 180, count)
    return [str(p // 10 * 10 if r < rounded else p) for p, r in zip(exact, draw.random(count), strict=True)]


def flagged(words: list[str]) -> set[str]:
    return {fit.what for fit in fits(histogram(words)) if fit.flagged}


def test_the_laws_are_those_of_the_paper() -> None:
    assert np.round(100 * FIRST, 1).tolist() == [30.1, 17.6, 12.5, 9.7, 7.9, 6.7, 5.8, 5.1, 4.6]
    assert np.round(100 * SECOND, 1).tolist() == [12.0, 11.4, 10.9, 10.4, 10.0, 9.7, 9.3, 9.0, 8.8, 8.5]
    for law in (FIRST, SECOND, EVEN):
        assert law.sum() == pytest.approx(1.0)


def test_clean_data_are_seldom_flagged() -> None:
    """At 1 % over all tests 200 tables of two clean columns have about two that are flagged; 5 % were allowed."""
    clean = [histogram(wide(400, seed)) + histogram(pressures(400, seed, 0.0)) for seed in range(200)]
    assert not any(math.isnan(test.p) for found in clean for test in fits(found)), "every test was made"
    assert sum(any(test.flagged for test in fits(found)) for found in clean) <= 10


def test_clean_tables_of_programs_are_seldom_flagged() -> None:
    """Whole numbers in a column of floats, decimals without their zeros, single precision, computed values: none is a preference for a digit."""

    def columns(seed: int) -> list[list[str]]:
        draw = np.random.default_rng(seed)
        whole = [draw.integers(90, 180, 400) for _ in range(3)]
        exact = [draw.uniform(10, 99, 400) for _ in range(4)]
        significant = np.array([float(f"{x:.3g}") for x in 10 ** draw.uniform(0, 3, 400)])
        return [
            words_of(whole[0].astype(np.float64)), [str(n) for n in whole[1]], [str(float(n)) for n in whole[2]], words_of(np.round(exact[0], 2)),
            words_of(np.round(exact[1], 1).astype(np.float32)), words_of(exact[2]), words_of(exact[3].astype(np.float32)), words_of(significant),
        ]  # fmt: skip

    tables = [[histogram(words) for words in columns(seed)] for seed in range(40)]
    for number in range(len(tables[0])):
        assert sum(any(test.flagged for test in fits(table[number])) for table in tables) <= 3, f"column {number} alone"
    pooled = [sum(table, Histogram.empty()) for table in tables]
    assert all(found.part("last").sum() > 2000 for found in pooled)
    assert sum(any(test.flagged for test in fits(found)) for found in pooled) <= 3


def test_rounding_is_still_seen_in_tables_of_programs() -> None:
    draw = np.random.default_rng(1)
    exact = draw.integers(900, 1800, 600)
    rounded = np.where(draw.random(600) < 0.3, exact // 10 * 10, exact)
    for words in (
        words_of(rounded.astype(np.float64)),
        words_of(rounded / 10),
        words_of((rounded / 100).astype(np.float32)),
    ):
        tests = {fit.what: fit for fit in fits(histogram(words))}
        assert tests["last"].flagged
        assert "rounding or a preference for the digit 0" in tests["last"].verdict


def test_columns_of_the_contract() -> None:
    """Rounded ones are flagged, log-uniform ones over five orders are not, and of narrow ones Benford is not expected."""
    draw = np.random.default_rng(1)
    narrow = [str(value) for value in draw.integers(40, 181, 600)]
    rounded = [str(v // 10 * 10 if r < 0.3 else v) for v, r in zip(map(int, narrow), draw.random(600), strict=True)]
    assert flagged(rounded) == {"last"}
    assert flagged(narrow) == set()
    assert flagged(wide(3000, 1)) == set()
    tests = {fit.what: fit for fit in fits(histogram(narrow))}
    assert all("Benford does not apply" in tests[what].verdict for what in ("first", "second"))
    assert math.isnan(tests["first"].p), "no test was made"


NARROW = {
    "pain": (0, 11), "apgar": (6, 11), "month": (1, 13), "hour": (0, 24), "day": (1, 32), "birth": (1930, 2006), "age": (18, 91),
}  # fmt: skip
"""Whole numbers in small ranges, whose last digits are even by nature only where the range is wide: from, to."""


def test_scores_codes_and_dates_are_seldom_flagged(tmp_path: Path) -> None:
    """Beside a clean measurement; one column at a time, 20 tables each."""
    codes: dict[str, list[int]] = {
        "codes": [250, 401, 410, 428],
        "three": [101, 102, 103],
        "dates": [20240100 + d for d in range(1, 29)],
    }
    found = dict.fromkeys([*NARROW, *codes], 0)
    for seed in range(20):
        draw = np.random.default_rng(seed)
        pressure = [str(p) for p in np.round(draw.normal(130, 15, 1000)).astype(int)]
        drawn = {name: draw.integers(*ends, 1000) for name, ends in NARROW.items()}
        drawn |= {name: draw.choice(values, 1000) for name, values in codes.items()}
        for name, values in drawn.items():
            path = tmp_path / f"{name}-{seed}.csv"
            rows = zip(pressure, map(str, values), strict=True)
            path.write_text(f"pressure,{name}\n" + "".join(f"{a},{b}\n" for a, b in rows), encoding="utf-8")
            counts, columns, left_out = of_file(path, ())
            assert "pressure" in columns
            assert (name in left_out) or name in NARROW, f"{name} is a code or a date, and was counted"
            found[name] += any(test.flagged for test in fits(counts))
    assert max(found.values()) <= 2, found


def test_rounded_whole_numbers_are_no_codes(tmp_path: Path) -> None:
    """Measurements that are all rounded to tens are few different numbers as well, and lie on one step."""
    draw = np.random.default_rng(1)
    path = tmp_path / "tens.csv"
    path.write_text("pressure\n" + "".join(f"{10 * p}\n" for p in draw.integers(9, 18, 1000)), encoding="utf-8")
    counts, columns, _ = of_file(path, ())
    assert columns == ["pressure"]
    assert {test.what for test in fits(counts) if test.flagged} == {"last"}


def test_planted_faults_are_pointed_to() -> None:
    assert flagged(pressures(600, 1, 0.3)) == {"last"}
    assert flagged(pressures(600, 1, 0.0)) == set()
    tests = {fit.what: fit for fit in fits(histogram(pressures(600, 1, 0.3)))}
    assert "preference for the digit 0" in tests["last"].verdict
    assert "does not apply" in tests["first"].verdict
    invented = [
        f"{x:.2f}"
        for x in np.random.default_rng(1).uniform(1, 9.99, 600) * 10.0 ** np.random.default_rng(2).integers(0, 5, 600)
    ]
    assert "first" in flagged(invented)
    assert flagged(pressures(200, 1, 0.9)) == set(), "no test of so few"
    stripped = [word.rstrip("0").rstrip(".") for word in wide(3000, 3)]
    assert "last" not in flagged(stripped), "programs leave zeros out, hands do not"


def test_the_statistic_is_that_of_a_plain_sum() -> None:
    found = histogram(wide(1000, 5))
    (first, *_) = fits(found)
    counts, expected = found.part("first"), FIRST * found.part("first").sum()
    assert first.statistic == pytest.approx(float(((counts - expected) ** 2 / expected).sum()))
    assert first.p == pytest.approx(float(stats.chi2.sf(first.statistic, 8)))


def counts_of_first(*counts: int) -> Histogram:
    found = Histogram.empty()
    found.part("first")[:] = counts
    return found


def test_first_digits_have_nigrini_s_bounds() -> None:
    """Shares that are off by so much on one side and on the other: the word follows the mean deviation, the flag the test alone."""
    even = np.round(FIRST * 100_000)
    for off, word, said in (
        (0.002, "close", "close conformity by Nigrini's bounds (mean deviation 0.0020, up to 0.006)"),
        (0.009, "acceptable", "acceptable conformity"),
        (0.014, "marginal", "marginal conformity"),
        (0.02, "none", "no conformity by Nigrini's bounds (mean deviation 0.0200, above 0.015)"),
    ):
        moved = even + 100_000 * off * np.array([-9 / 2, -9 / 4, -9 / 4, 0, 0, 0, 9 / 4, 9 / 4, 9 / 2]) / 2
        first, second, last = fits(counts_of_first(*moved.astype(int)))
        assert first.conformity == word
        assert said in first.verdict
        assert first.deviation == pytest.approx(off, rel=0.01)
        assert second.conformity is last.conformity is None
    clean = fits(histogram(wide(400, 1)))[0]
    assert clean.conformity != "close", "bounds are for many numbers"
    assert not clean.flagged
    assert "of so few numbers chance alone makes 0.01" in clean.verdict
    many = [fits(histogram(wide(400, seed)))[0] for seed in range(60)]
    assert np.mean([fit.deviation for fit in many]) == pytest.approx(many[0].chance, rel=0.1)
    assert fits(counts_of_first(9, *[1] * 8))[0].conformity is None, "too few for a test"
    assert fits(Histogram.empty())[0].conformity is None


def ran(*words: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, result.output + repr(result.exception)
    return result.output


def table(path: Path, seed: int, rounded: float) -> Path:
    rows = zip(pressures(250, seed, rounded), wide(250, seed), strict=True)
    path.write_text("patient,pressure,dose\n" + "".join(f"{i},{p},{d}\n" for i, (p, d) in enumerate(rows)))
    return path


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("tables")
    return [table(folder / f"{name}.csv", seed, 0.3) for seed, name in enumerate(("north", "south", "east"))]


def founded(tables: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch, *, sealed: bool) -> Run:
    """A federation whose institutions each laid their counts into their folder before the first round."""
    from dictpfl.deploy.simulation import founding

    plain = founding.found

    def with_counts(*args: object, **kwargs: object) -> object:
        made = plain(*args, **kwargs)
        for number, path in enumerate(tables):
            home = folder / "institutions" / f"institution-{number:03d}"
            ran("audit", "numbers", "--data", path, "--into", home)
        return made

    changes = {"tallies__opening": ["numbers"], "federation__rounds": 1}
    for module in list(sys.modules.values()):
        if getattr(module, "found", None) is plain:
            monkeypatch.setattr(module, "found", with_counts)
    return simulate((encrypted if sealed else tiny)(**changes), folder, engine="local", record=sealed)


def test_the_tally_is_that_of_the_pooled_tables(
    tables: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clear = founded(tables, tmp_path / "clear", monkeypatch, sealed=False)
    sealed = founded(tables, tmp_path / "sealed", monkeypatch, sealed=True)
    assert clear.summary["state_digest"] == sealed.summary["state_digest"]
    homes = sorted((sealed.folder / "institutions").glob("institution-*"))
    pooled = sum((read_numbers(home / "numbers.json") for home in homes[1:]), read_numbers(homes[0] / "numbers.json"))
    (tally,) = sealed.summary["tallies"]
    assert [count for counts in tally["sums"].values() for count in counts] == pooled.counts.tolist()
    assert pooled.part("numbers")[0] == 3 * 500
    assert {stat.S_IMODE((home / "numbers.json").stat().st_mode) for home in homes} == {0o600}
    assert [r.ciphertexts for r in sealed.records if r.kind == "score"] == [1]
    assert not [check for check in audited(sealed.folder) if check.verdict == "FAILED"]
    said = ran("audit", "numbers", sealed.folder, "-o", tmp_path / "page")
    assert "3 institutions" in said
    document = json.loads((tmp_path / "page" / "numbers.json").read_bytes())
    tests = {test["what"]: test for test in document["data"]["tests"]}
    assert tests["last"]["flagged"], "30 % of the pressures end in 0"
    assert not tests["first"]["flagged"], "doses follow Benford, and pressures are not asked to"
    assert tests["first"]["conformity"] in ("close", "acceptable", "marginal", "none")
    assert tests["last"]["conformity"] is None
    assert f"{tests['first']['conformity']} conformity by Nigrini" in said.replace("no conformity", "none conformity")
    html = (tmp_path / "page" / "numbers.html").read_text()
    assert "<svg" in html
    assert "conformity by Nigrini" in html
    assert "nobody saw the counts of one" in html
    assert "points to" in tests["last"]["verdict"]
    assert "proves nothing" in html
    assert "fabricat" not in html


def test_one_institution_may_have_all_the_numbers(
    tables: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others seal zeros: the tally is that of the one table, and says no more of who it was than of three."""
    run = founded(tables[:1], tmp_path / "run", monkeypatch, sealed=True)
    (tally,) = run.summary["tallies"]
    alone = read_numbers(run.folder / "institutions" / "institution-000" / "numbers.json")
    assert [count for counts in tally["sums"].values() for count in counts] == alone.counts.tolist()
    assert alone.part("numbers")[0] == 500
    assert [r.ciphertexts for r in run.records if r.kind == "score"] == [1]
    assert "3 institutions" in ran("audit", "numbers", run.folder)


def test_columns_of_nothing_and_of_zeros(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("empty,zeros,pressure\n" + "".join(f",0.0,{90 + i % 60}\n" for i in range(400)))
    assert list(of_file(path, [])[1]) == ["pressure"], "neither is a column of measurements"
    found, names, left_out = of_file(path, ["empty", "zeros"])
    assert (names, left_out) == (["empty", "zeros"], [])
    told = described(found)
    assert (told["numbers"], told["zeros"], told["others"]) == (0, 400, 0)
    assert [test["verdict"] for test in told["tests"]][2] == "0 digits: no test, it takes 300"
    assert not any(test["flagged"] or test["shares"] or test["p"] for test in told["tests"])
    said = ran("audit", "numbers", "--data", path, "--columns", "empty,zeros", "-o", tmp_path / "page")
    assert "0 numbers, 400 zeros" in said
    assert "0 numbers, 400 zeros" in (tmp_path / "page" / "numbers.html").read_text()
    path.write_text("empty,zeros\n" + ",0\n" * 400)
    with pytest.raises(DataError, match="no column of measurements"):
        of_file(path, [])


def test_nobody_learns_who_has_no_counts(tmp_path: Path) -> None:
    run = simulate(tiny(tallies__opening=["numbers"], federation__rounds=1), tmp_path / "run", engine="local")
    (tally,) = run.summary["tallies"]
    assert not any(count for counts in tally["sums"].values() for count in counts)
    assert "0 numbers" in ran("audit", "numbers", run.folder)


def test_samples_stand_in_where_they_are_asked_for(tmp_path: Path) -> None:
    said = {
        "tallies__opening": ["numbers"],
        "tallies__options": {"numbers": {"samples": True}},
        "federation__rounds": 1,
    }
    found = tiny(**said, data__source="breast_cancer", data__options={"scaled": False})
    run = simulate(found, tmp_path / "run", engine="local")
    (tally,) = run.summary["tallies"]
    assert sum(tally["sums"]["last"]) > 0.9 * tally["sums"]["numbers"][0], (
        "digits as they were measured, in single precision"
    )
    homes = (run.folder / "institutions").glob("institution-*")
    cells = [np.load(home / "train.npz")["features"] for home in homes]
    assert tally["sums"]["numbers"][0] + tally["sums"]["zeros"][0] == sum(c.size for c in cells)


def test_columns_are_counted_before_they_are_scaled(tmp_path: Path) -> None:
    """Of a table that `data.preprocessing` prepares the numbers as they stand in the file, and no number of a category."""
    draw = np.random.default_rng(1)
    doses = [f"{x:.2f}" for x in 10 ** draw.uniform(0, 4, 300)]
    rows = [f"{dose},{'ab'[n % 2]},{n % 2}" for n, dose in enumerate(doses)]
    (tmp_path / "t.csv").write_text("\n".join(["dose,ward,label", *rows, ""]))
    said: dict[str, Any] = {
        "data__source": "csv", "data__path": str(tmp_path / "t.csv"), "data__features": ["dose", "ward"], "data__limit": 0,
        "data__preprocessing": {"scale": "standard", "categories": {"ward": ["a", "b"]}},
        "tallies__opening": ["numbers"], "tallies__options": {"numbers": {"samples": True}}, "federation__rounds": 1,
    }  # fmt: skip
    run = simulate(tiny(**said), tmp_path / "run", engine="local")
    sums = next(one["sums"] for one in run.summary["tallies"] if one["name"] == "numbers")
    raw = [np.load(home / "train.npz")["table"][:, 0] for home in (run.folder / "institutions").glob("institution-*")]
    expected = sum((histogram(words_of(values)) for values in raw), Histogram.empty())
    assert [count for counts in sums.values() for count in counts] == expected.counts.tolist()
    assert 0 < expected.part("numbers")[0] == sum(len(values) for values in raw)
    assert expected.part("first").sum() == expected.part("numbers")[0], "they span four orders of magnitude"


def test_as_typed_in_an_empty_folder(tables: list[Path], tmp_path: Path) -> None:
    words = ["audit", "numbers", "--data", str(tables[0]), "--columns", "pressure", "-o", "page"]
    done = forking.ran(words, tmp_path, env=os.environ | {"COLUMNS": "200"})
    assert done.returncode == 0, done.stderr
    assert "pressure of north.csv" in done.stdout
    assert sorted(path.name for path in (tmp_path / "page").iterdir()) == ["numbers.html", "numbers.json"]
    words[-4:] = ["--into", "nowhere"]
    wrong = forking.ran(words, tmp_path)
    assert wrong.returncode == 1
    assert "no such folder" in wrong.stderr
    assert "Traceback" not in wrong.stderr
    both = forking.ran(words[:2], tmp_path)
    assert "one of them" in both.stderr
    assert as_toml()


def test_what_cannot_be_is_refused_before_it_is_counted(tables: list[Path], tmp_path: Path) -> None:
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "mine.txt").write_text("mine")
    (tmp_path / "none.csv").write_text("")
    (tmp_path / "home").mkdir()
    table = ["--data", str(tables[0]), "--columns", "pressure"]
    for options, words in (
        ([*table, "--into", "home", "-o", "page"], "page is there and holds something"),
        ([*table, "--corpus", "notes.txt"], "--corpus: of a language model"),
        ([*table, "--neurons", "0.1", "--free"], "--free, --neurons: of a language model"),
        ([*table, "--into", "home", "-o", "home"], "--into and -o are both home"),
        (["nomodel", "-o", "page"], "page is there and holds something"),
        (["--data", "none.csv"], "cannot read the table none.csv"),
    ):
        done = forking.ran(["audit", "numbers", *options], tmp_path)
        assert done.returncode == 1
        assert words in done.stderr
        assert "It arose in" not in done.stderr, "pandas' own sources are nobody's own code"
    assert not list((tmp_path / "home").iterdir())


def test_a_column_with_a_comma_is_named_in_quotes(tmp_path: Path) -> None:
    path = tmp_path / "measured.csv"
    values = zip(pressures(250, 1, 0.0), wide(250, 1), strict=True)
    path.write_text('"pressure, left",dose\n' + "".join(f"{p},{d}\n" for p, d in values))
    said = ran("audit", "numbers", "--data", path, "--columns", '"pressure, left", dose')
    assert "digits of pressure, left, dose" in " ".join(said.split())
    done = CliRunner().invoke(app, ["audit", "numbers", "--data", str(path), "--columns", "pressure\nleft"])
    assert isinstance(done.exception, ConfigError)
    assert "--columns" in str(done.exception)


@pytest.mark.parametrize(("name", "between"), [("t.csv", ","), ("t.tsv", "\t")])
def test_a_table_with_one_name_twice_is_refused(tmp_path: Path, name: str, between: str) -> None:
    """Pandas calls the second "a.1", a column that nobody has, and `--columns a` would count the first alone."""
    rows = [("a", "b", "a"), *((word, word, word) for word in pressures(40, 1, 0.0))]
    (tmp_path / name).write_text("".join(between.join(row) + "\n" for row in rows))
    for columns in ([], ["a"]):
        with pytest.raises(DataError, match="has the column 'a' twice"):
            of_file(tmp_path / name, columns)
