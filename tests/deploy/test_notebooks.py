"""The notebooks run in an empty folder, cell by cell, as a kernel runs them; with a kernel installed, in one."""

from __future__ import annotations

import ast
import json
import types
from pathlib import Path
from typing import Any

import pytest

from dictpfl.common.config import FederationConfig
from dictpfl.deploy.reports import notebook
from tests.support import ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def cells(path: Path) -> list[str]:
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert not any(cell.get("outputs") for cell in found), "outputs are of one machine; clear them before a commit"
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == "code"]


def shown(code: str, namespace: dict[str, Any]) -> str:
    """Run a cell, and show the value of its last expression as a notebook does."""
    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), namespace)  # noqa: S102 -- our own notebook
    if last is None:
        return ""
    value = eval(compile(ast.Expression(last.value), "cell", "eval"), namespace)  # noqa: S307
    forms = (getattr(value, f"_repr_{form}_", None) for form in ("svg", "html"))
    return next((form() for form in forms if form is not None), repr(value))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_from_top_to_bottom(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    outputs = [shown(code, namespace) for code in cells(path)]
    assert sum(output.startswith("<svg") for output in outputs) >= 2
    assert any(output.startswith("<Run ") for output in outputs)
    assert namespace["run"].test > 0.4, "ten classes, or four"
    if "numbers" in namespace:
        assert namespace["numbers"].summary["baseline"]["passed"], "what it shows should have learnt something"


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_in_a_kernel_and_shows_its_progress(path: Path, tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="needs the extra `dev` (nbclient, ipykernel)")
    nbclient = pytest.importorskip("nbclient", reason="needs the extra `dev`")
    pytest.importorskip("ipykernel", reason="needs the extra `dev`")
    made = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(made, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    pages = [
        output for cell in made.cells for output in cell.get("outputs", []) if output.output_type == "display_data"
    ]
    assert any("4 of 4 rounds" in page.data.get("text/html", "") for page in pages)
    assert any("image/svg+xml" in output.get("data", {}) for cell in made.cells for output in cell.get("outputs", []))


class Handle:
    def __init__(self) -> None:
        self.pages: list[str] = []

    def update(self, page: str) -> None:
        self.pages.append(page)


def test_progress_is_shown_in_a_kernel_and_only_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dictpfl import simulate
    from tests.support.federations import tiny

    handle, shell = Handle(), types.SimpleNamespace()
    ipython, display = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    ipython.get_ipython, ipython.version_info = lambda: shell, (9, 0)  # type: ignore[attr-defined]
    display.HTML = str  # type: ignore[attr-defined]
    display.display = lambda page, display_id: handle  # type: ignore[attr-defined]
    monkeypatch.setitem(__import__("sys").modules, "IPython", ipython)
    monkeypatch.setitem(__import__("sys").modules, "IPython.display", display)
    assert not notebook.in_notebook(), "IPython in a terminal is no notebook"
    shell.kernel = object()
    config = tiny(name="<script>", federation__rounds=2, data__limit=150, training__steps=1)
    run = simulate(config, tmp_path / "run", engine="local")
    assert len(handle.pages) == len(run.records) == 3
    assert "2 of 2 rounds" in handle.pages[-1]
    assert "<script>" not in handle.pages[-1]
    simulate(config, tmp_path / "quiet", engine="local", progress=False)
    assert len(handle.pages) == 3


def test_outside_of_a_notebook_it_is_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with notebook.progress_of(FederationConfig(), "dictpfl") as made:
        assert not isinstance(made, notebook.NotebookProgress)
