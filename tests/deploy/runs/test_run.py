"""A run as an object in a notebook: its rounds as a table, its plots, and figures of earlier formats."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

import dictpfl
from dictpfl.common.errors import ConfigError, DataError
from dictpfl.common.genesis import Genesis
from dictpfl.deploy.exports.finished import Finished
from dictpfl.deploy.reports import report
from dictpfl.deploy.runs import plots
from dictpfl.deploy.runs.census import CENSUS, read_census
from dictpfl.deploy.runs.record import RoundRecord
from dictpfl.deploy.runs.run import Run, closed_rounds
from dictpfl.deploy.simulation.printed import print_summary
from dictpfl.deploy.simulation.simulate import simulate
from dictpfl.deploy.watch.simulation import RunWatch
from tests.support.federations import encrypted, tiny

PLOTS = ("plot_accuracy", "plot_loss", "plot_bytes", "plot_sent", "plot_tensors", "plot_time", "plot_classes")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dictpfl.Run:
    config = encrypted(federation__rounds=2, data__limit=150, training__steps=2)
    return dictpfl.simulate(config, tmp_path_factory.mktemp("run") / "run", engine="local")


@pytest.fixture(scope="module")
def regression(tmp_path_factory: pytest.TempPathFactory) -> dictpfl.Run:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 4)).astype(np.float32)
    data = dictpfl.Dataset(dictpfl.Samples(features, features[:, :1] * 2), outputs=1, name="slopes")
    config = encrypted(
        model__options={"hidden": [8]}, training__task="regression", federation__rounds=1, training__steps=1
    )
    return dictpfl.simulate(config, tmp_path_factory.mktemp("numbers") / "run", engine="local", data=data)


def test_the_rounds_are_a_table_numbered_from_one(run: dictpfl.Run) -> None:
    table = run.history
    assert list(table.index) == [1, 2, 3]
    assert list(table["kind"]) == ["update", "update", "measure"]
    assert table["test"].iloc[1] == run.test == run.accuracy
    assert table["bytes_up"].sum() == run.summary["bytes"]["up"]
    assert "format" not in table.columns


def test_without_pandas_the_table_says_what_to_install(run: dictpfl.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigError, match=r"pip install 'dictpfl\[institution\]'"):
        _ = run.history
    assert len(run.records) == 3, "the records need no pandas"


@pytest.mark.parametrize("plot", PLOTS)
def test_a_plot_is_a_figure_that_a_notebook_shows_and_the_report_has(plot: str, run: dictpfl.Run) -> None:
    figure = getattr(run, plot)()
    assert isinstance(figure, Figure)
    shown = figure._repr_svg_()
    assert figure.axes[0].get_title(loc="left") in shown
    if plot != "plot_loss":  # all others are the report's own
        assert shown in (run.folder / "report.html").read_text()


def test_no_classes_no_plot_of_them(regression: dictpfl.Run) -> None:
    with pytest.raises(ConfigError, match="counted no classes"):
        regression.plot_classes()


def test_only_an_accuracy_is_called_so(run: dictpfl.Run, regression: dictpfl.Run) -> None:
    named = {"accuracy", "accuracy_history", "validation_accuracy"}
    for one, expected in ((run, named), (regression, set())):
        written = json.loads((one.folder / "summary.json").read_bytes())
        assert written["format"] == 2
        assert {key for key in written if "accuracy" in key} == expected
        assert written["test"] == written["test_history"][-1] == one.test
        lines = [json.loads(line) for line in (one.folder / "history.jsonl").read_text().splitlines()]
        assert {line["format"] for line in lines} == {2}
        assert not any("accuracy" in key for line in lines for key in line)


def former(run: dictpfl.Run, folder: Path) -> Path:
    """The same folder as dictpfl 0.1 wrote it."""
    shutil.copytree(run.folder, folder)
    names = {"test": "accuracy", "test_loss": "loss", "validation": "validation_accuracy"}
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    lines = [{names.get(key, key): value for key, value in line.items() if key != "format"} for line in lines]
    (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    summary = json.loads((folder / "summary.json").read_bytes())
    for key in ("format", "test", "test_history", "validation"):
        del summary[key]
    if summary["best"]:
        summary["best"]["accuracy"] = summary["best"].pop("test")
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def test_a_run_of_the_former_format_is_read(run: dictpfl.Run, tmp_path: Path) -> None:
    again = dictpfl.Run.load(former(run, tmp_path / "old"))
    assert list(again.records) == list(run.records)
    assert again.test == run.test
    assert again.summary["best"] == run.summary["best"]
    assert repr(again).partition(";")[0] == repr(run).partition(";")[0]


@pytest.mark.parametrize(
    ("content", "said"), [("{}", "metric: Field required"), ("[]", "list where an object"), ("", "Expecting value")]
)
def test_a_damaged_summary_is_refused(content: str, said: str, run: dictpfl.Run, tmp_path: Path) -> None:
    folder = shutil.copytree(run.folder, tmp_path / "damaged")
    (folder / "summary.json").write_text(content)
    with pytest.raises(
        ConfigError, match=rf"summary\.json is damaged.*{said}.*remove it: `dictpfl simulate .* --resume`"
    ):
        dictpfl.Run.load(folder)


@pytest.mark.parametrize(
    ("key", "within"), [("method", ""), ("model_sha256", ""), ("bytes", "up"), ("reduction", "values")]
)
def test_a_summary_that_lacks_what_pages_read_is_damaged(
    key: str, within: str, run: dictpfl.Run, tmp_path: Path
) -> None:
    """`inspect` and `report` ended with KeyError."""
    folder = shutil.copytree(run.folder, tmp_path / "damaged")
    summary = json.loads((folder / "summary.json").read_bytes())
    del (summary[key] if within else summary)[within or key]
    (folder / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(
        ConfigError, match=rf"summary\.json is damaged: {'.'.join(filter(None, [key, within]))}: Field required;"
    ):
        dictpfl.Run.load(folder)


def _places(document: Any, *above: str | int) -> Iterator[tuple[str | int, ...]]:
    """Paths of all values in a JSON document."""
    inner = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in inner:
        yield (*above, key)
        yield from _places(value, *above, key)


@pytest.mark.parametrize("planted", ["gone", "null", "a word", "a list", "an object"])
def test_a_summary_damaged_anywhere_is_named_or_read(
    planted: str, run: dictpfl.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values that pages read were looked at no deeper than two keys: `inspect` and `report` ended with KeyError or TypeError."""
    folder = shutil.copytree(run.folder, tmp_path / "damaged")
    genesis = Genesis.load(folder / "institutions" / "institution-000")
    # Pictures read no more of summary.json than the page does, and take long.
    drawn = [*((Run, name) for name in PLOTS), (report, "_figure"), (plots, "sent_by_tensor")]
    for owner, name in drawn:
        monkeypatch.setattr(owner, name, lambda *_: {"svg": "", "caption": ""})
    written = (folder / "summary.json").read_text()
    refused = []
    for *above, last in _places(json.loads(written)):
        damaged = json.loads(written)
        inner = damaged
        for key in above:
            inner = inner[key]
        if planted == "gone":
            del inner[last]
        else:
            inner[last] = {"null": None, "a word": "x", "a list": [[]], "an object": {"x": {}}}[planted]
        (folder / "summary.json").write_text(json.dumps(damaged))
        try:
            read = dictpfl.Run.load(folder)
            print_summary(read.summary)
            report.write_report(read, genesis, folder / "report.html")
        except ConfigError as error:
            refused.append(str(error))
    assert len(refused) > 20
    assert all(re.search(r"(summary|history)\.jsonl? is damaged|summary\.json has format", said) for said in refused), (
        refused
    )


def test_a_line_of_history_of_another_type_is_named(run: dictpfl.Run, tmp_path: Path) -> None:
    folder = shutil.copytree(run.folder, tmp_path / "damaged")
    first, *rest = (folder / "history.jsonl").read_text().splitlines(keepends=True)
    line = json.loads(first) | {"bytes_up": "many"}
    (folder / "history.jsonl").write_text("".join([json.dumps(line) + "\n", *rest]))
    with pytest.raises(ConfigError, match=r"history\.jsonl is damaged: line 1: bytes_up: .*found 'many'"):
        dictpfl.Run.load(folder)
    (folder / "history.jsonl").write_text(first + rest[0][:-9])
    with pytest.raises(
        ConfigError, match=r"history\.jsonl is damaged: line 2 is no JSON: .* at character \d+; restore"
    ):
        dictpfl.Run.load(folder)


@pytest.mark.parametrize("kept", [0, 1])
def test_a_history_of_fewer_rounds_than_the_summary_is_damaged(kept: int, run: dictpfl.Run, tmp_path: Path) -> None:
    """`inspect` showed a run of two rounds without a round, and `report` ended with a traceback."""
    folder = shutil.copytree(run.folder, tmp_path / "shorter")
    lines = (folder / "history.jsonl").read_text().splitlines(keepends=True)
    (folder / "history.jsonl").write_text("".join(lines[:kept]))
    with pytest.raises(
        ConfigError, match=rf"history\.jsonl is damaged: it tells of {kept} rounds?, summary\.json beside it of 2;"
    ):
        dictpfl.Run.load(folder)


def test_a_file_that_is_none_is_not_called_damaged(run: dictpfl.Run, tmp_path: Path) -> None:
    folder = shutil.copytree(run.folder, tmp_path / "folder")
    (folder / "history.jsonl").unlink()
    (folder / "history.jsonl").mkdir()
    with pytest.raises(ConfigError, match=r"cannot read .*history\.jsonl: Is a directory"):
        dictpfl.Run.load(folder)
    with pytest.raises(ConfigError, match=r"there is no folder .*model\.safetensors"):
        dictpfl.Run.load(run.model_path)


def test_what_is_damaged_and_removed_is_written_anew(run: dictpfl.Run, tmp_path: Path) -> None:
    folder = shutil.copytree(run.folder, tmp_path / "removed")
    for name in ("summary.json", "history.jsonl"):
        (folder / name).unlink()
    simulate(run.config, folder, engine="local", resume=True)
    again = dictpfl.Run.load(folder)
    assert list(again.records) == list(run.records)
    assert again.summary["model_sha256"] == run.summary["model_sha256"]


def test_samples_that_are_damaged_are_named_where_a_run_is_concluded(run: dictpfl.Run, tmp_path: Path) -> None:
    folder = shutil.copytree(run.folder, tmp_path / "damaged")
    train = folder / "institutions" / "institution-000" / "train.npz"
    train.write_bytes(b"")
    with pytest.raises(DataError, match=f"cannot read samples from {train}"):
        simulate(run.config, folder, engine="local", resume=True)


def test_a_run_whose_journal_was_lost_is_not_gone_on_with(run: dictpfl.Run, tmp_path: Path) -> None:
    """Its summary was removed, institutions were asked for round 0 anew, and it ended with "aggregates go in order"."""
    folder = shutil.copytree(run.folder, tmp_path / "lost")
    for part in (folder / "coordinator").glob("journal.sqlite*"):
        part.unlink()
    before = {
        path: path.read_bytes() for path in folder.rglob("*.*") if path.is_file() and path.parent.name != "coordinator"
    }
    with pytest.raises(
        ConfigError, match=r"journal\.sqlite has 0 closed rounds, and .*history\.jsonl tells of 3: it was lost"
    ):
        simulate(run.config, folder, engine="local", resume=True)
    assert {path: path.read_bytes() for path in before if path.name != ".lock"} == {
        path: data for path, data in before.items() if path.name != ".lock"
    }


def test_a_state_that_is_damaged_is_named(run: dictpfl.Run, tmp_path: Path) -> None:
    folder = shutil.copytree(run.folder, tmp_path / "damaged")
    (folder / "state.safetensors").write_bytes(b"{}")
    with pytest.raises(
        ConfigError, match=r"state\.safetensors is damaged, or of another run; remove it, and `dictpfl simulate"
    ):
        Finished.load(folder)


def test_a_key_that_a_later_release_adds_is_passed_over(run: dictpfl.Run, tmp_path: Path) -> None:
    folder = shutil.copytree(run.folder, tmp_path / "more")
    (folder / "history.jsonl").write_text(
        (folder / "history.jsonl").read_text().replace('{"format"', '{"more": 1, "format"')
    )
    assert list(dictpfl.Run.load(folder).records) == list(run.records)


@pytest.mark.parametrize("name", ["summary.json", "history.jsonl"])
def test_a_later_format_says_what_to_do(name: str, run: dictpfl.Run, tmp_path: Path) -> None:
    folder = shutil.copytree(run.folder, tmp_path / "later")
    (folder / name).write_text((folder / name).read_text().replace('"format": 2', '"format": 3'))
    with pytest.raises(ConfigError, match=f"{name} has format 3, this release reads 1 to 2: read the run with"):
        dictpfl.Run.load(folder)


@pytest.mark.parametrize("content", ["[]\n", "null\n", "1\n", '{"format": 2\n'])
@pytest.mark.parametrize("name", ["history.jsonl", "summary.json", "config.json"])
def test_a_file_of_another_form_is_damaged_and_no_traceback(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(encrypted().model_dump_json())
    for other in ("history.jsonl", "summary.json"):
        (tmp_path / other).write_text("" if other == "history.jsonl" else "{}")
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match="is damaged"):
        dictpfl.Run.load(tmp_path)
    if name != "summary.json":
        with pytest.raises(ConfigError, match=f"{name} is damaged"):
            closed_rounds(tmp_path)


def test_where_no_run_was_begun_none_is_to_be_resumed(tmp_path: Path) -> None:
    """`report` and `export` of an empty folder, or of a comparison's, said that `dictpfl simulate --resume` finishes the run there."""
    with pytest.raises(ConfigError, match="nor one that was begun"):
        dictpfl.Run.load(tmp_path)
    (tmp_path / "compare.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds a comparison"):
        dictpfl.Run.load(tmp_path)


def test_a_run_that_is_taken_further_says_so(tmp_path: Path) -> None:
    """It said "3 of 1 round", showed the figures of the first as its result, and `--resume` of the folder ended there."""
    folder = tmp_path / "run"
    simulate(tiny(federation__rounds=1), folder, engine="local")

    def stop(record: RoundRecord) -> None:
        if record.update == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(tiny(federation__rounds=4), folder, engine="local", resume=True, on_round=stop)
    wanted, history = closed_rounds(folder)
    assert (wanted.federation.rounds, history[-1].update) == (4, 3)
    assert RunWatch(folder).view().standing == "round 3 of 4"
    with pytest.raises(ConfigError, match="holds no finished run"):
        Run.load(folder)
    run = simulate(wanted, folder, engine="local", resume=True)
    assert run.summary["rounds"] == run.config.federation.rounds == Run.load(folder).config.federation.rounds == 4


def test_a_whole_run_that_is_resumed_and_stopped_again_keeps_its_rounds(tmp_path: Path) -> None:
    """Its history began anew with the first round, beside the summary of all."""
    folder = tmp_path / "run"
    simulate(tiny(federation__rounds=2), folder, engine="local")
    before = Run.load(folder).records

    def stop(_record: RoundRecord) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(tiny(federation__rounds=2), folder, engine="local", resume=True, on_round=stop)
    assert Run.load(folder).records == before


@pytest.mark.parametrize("content", [b"", bytes(410), b"[]", b"{}", b'{"institutions": [], "classes": [], "test": []}'])
def test_a_damaged_count_of_classes_is_named(content: bytes, tmp_path: Path) -> None:
    assert read_census(tmp_path) is None
    (tmp_path / CENSUS).write_bytes(content)
    with pytest.raises(ConfigError, match=r"classes\.json is damaged"):
        read_census(tmp_path)


def test_an_account_without_limit_is_read_back(tmp_path: Path) -> None:
    config = encrypted(
        federation__rounds=1, data__limit=150, training__steps=1, privacy__mechanism="example", privacy__noise_multiplier=1.0,
        privacy__figures=True, training__metrics=["confusion", "auroc"],
    )  # fmt: skip
    run = dictpfl.simulate(config, tmp_path / "run", engine="local")
    read = dictpfl.Run.load(run.folder).summary
    assert read["privacy"]["limit"] is None
    assert read["metrics"]["test"].keys() == {"confusion", "auroc"}
    written = json.loads((run.folder / "summary.json").read_bytes())
    written["privacy"]["epsilon"] = None  # as JSON has an infinite one
    (run.folder / "summary.json").write_text(json.dumps(written))
    print_summary(boundless := dictpfl.Run.load(run.folder).summary)
    assert boundless["privacy"]["epsilon"] == np.inf
