"""The report of a run: everything on the page, nothing fetched, nothing claimed that did not happen."""

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from dictpfl.deploy.reports.report import server_view
from dictpfl.deploy.runs.census import Census, read_census
from dictpfl.deploy.runs.plots import classes_by_institution, svg
from dictpfl.deploy.runs.run import Run
from dictpfl.deploy.simulation.comparison import compare
from dictpfl.deploy.simulation.simulate import simulate
from tests.support.federations import encrypted

TINY: dict[str, Any] = {
    "name": "tiny <script>alert(1)</script>", "data__limit": 150, "decomposition__refresh_every": 2, "training__steps": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    folder = tmp_path_factory.mktemp("compare")
    configs = {
        method: encrypted(**TINY, method=method, toy_insecure=method != "dictpfl")
        for method in ("dictpfl", "plaintext", "fedml-he")
    }
    return {run.config.method: run for run in compare(configs, folder, engine="local")}


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        self.found += [(tag, value or "") for name, value in attrs if name in ("src", "href", "xlink:href", "srcset")]


def page(path: Path) -> tuple[str, Links]:
    text, links = path.read_text(encoding="utf-8"), Links()
    links.feed(text)
    return text, links


def test_who_had_which_classes(runs: dict[str, Run]) -> None:
    run = runs["dictpfl"]
    census = read_census(run.folder)
    assert census is not None
    assert len(census.institutions) == 3
    assert sum(sum(counts) for counts in census.institutions.values()) + sum(census.test) == 150
    assert len(census.classes) == 10
    assert census.imbalance >= 1
    text, _ = page(run.folder / "report.html")
    assert "Who had which classes" in text
    assert all(name in text for name in census.institutions)


def test_skew_and_imbalance() -> None:
    census = Census(("a", "b"), {"x": (30, 0), "y": (0, 10), "z": (15, 5)}, (1, 1))
    assert census.imbalance == 3.0
    assert (census.missing("x"), census.missing("z")) == (1, 0)
    assert (census.skew("x"), census.skew("y"), census.skew("z")) == (0.25, 0.75, 0.0)


def test_a_report_fetches_nothing_and_runs_nothing(runs: dict[str, Run]) -> None:
    for run in runs.values():
        text, links = page(run.folder / "report.html")
        assert links.scripts == 0
        assert [target[:80] for _, target in links.found if not target.startswith(("#", "data:"))] == []
        assert text.count("<svg") == 6
        assert "alert(1)</script>" not in text.replace("&lt;/script&gt;", "")


def test_a_comparison_links_its_runs_and_nothing_else(runs: dict[str, Run]) -> None:
    folder = next(iter(runs.values())).folder.parent
    _, links = page(folder / "compare.html")
    targets = {target for _, target in links.found if not target.startswith("#")}
    assert targets == {f"{method}/report.html" for method in runs}
    assert all((folder / target).exists() for target in targets)


def test_insecure_runs_say_so_and_secure_ones_do_not(runs: dict[str, Run]) -> None:
    said = {method: "Insecure federation" in page(run.folder / "report.html")[0] for method, run in runs.items()}
    assert said == {"dictpfl": False, "plaintext": True, "fedml-he": True}
    assert any("YES" in depends for _, _, depends in server_view(runs["plaintext"]))
    assert any("YES" in depends for _, _, depends in server_view(runs["fedml-he"]))
    assert not any("YES" in depends for _, _, depends in server_view(runs["dictpfl"]))


@pytest.mark.parametrize("classes", [2, 20, 40])
def test_many_classes_leave_room_for_the_bars(classes: int) -> None:
    """matplotlib warns where nothing is left, and warnings are errors here."""
    names = tuple(f"comp.sys.ibm.pc.hardware.{number}" for number in range(classes))
    census = Census(names, {f"institution-00{i}": tuple(range(classes)) for i in range(3)}, (1,) * classes)
    assert "<svg" in svg(classes_by_institution(census))


def test_the_reduction_is_what_the_values_say(runs: dict[str, Run]) -> None:
    summary = runs["dictpfl"].summary
    values, reduction = summary["values"], summary["reduction"]
    assert values["sent"] == sum(r.sent for r in runs["dictpfl"].records)
    assert reduction["decomposition"] * reduction["pruning"] * reduction["scores"] == pytest.approx(reduction["values"])
    assert reduction["scores"] == 1.0
    assert "scores and tallies" not in (runs["dictpfl"].folder / "report.html").read_text(encoding="utf-8")
    assert all(sum(r.sent_by_tensor.values()) == r.sent for r in runs["dictpfl"].records)
    assert [r.refreshed for r in runs["dictpfl"].records] == [False, True, False, True, False]


def test_every_round_has_all_its_seconds(runs: dict[str, Run]) -> None:
    for record in runs["dictpfl"].records:
        if record.kind == "update":
            assert {"train", "seal", "open", "fold", "evaluate", "store", "round"} <= set(record.seconds)
            assert all(value > 0 for value in record.seconds.values())


def test_a_run_is_read_back_as_it_was(runs: dict[str, Run]) -> None:
    for run in runs.values():
        again = Run.load(run.folder)
        assert again.summary == run.summary
        assert list(again.records) == list(run.records)
        assert again.config == run.config


def test_a_report_shows_what_was_tallied(tmp_path: Path) -> None:
    made = encrypted(**TINY, tallies__opening=["classes"], federation__rounds=1)
    run = simulate(made, tmp_path / "run", engine="local")
    text, _ = page(run.folder / "report.html")
    (tally,) = run.summary["tallies"]
    assert (tally["name"], tally["when"], tally["participants"], tally["entries"]) == ("classes", "opening", 3, 12)
    assert sum(tally["sums"]["labels"]) == tally["samples"] == tally["sums"]["samples"][0]
    assert "Sealed tallies" in text
    assert (
        f"labels: {', '.join(map(str, tally['sums']['labels']))}; samples: {tally['samples']}; clipped: 0</td>" in text
    )
    assert any("classes (opening)" in found for _, found, _ in server_view(run))


def test_a_report_without_tallies_speaks_of_none(runs: dict[str, Run]) -> None:
    assert runs["dictpfl"].summary["tallies"] == []
    assert "Sealed tallies" not in page(runs["dictpfl"].folder / "report.html")[0]
