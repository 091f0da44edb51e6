"""benchmarks/real_sizes.py: a row is a line, one that fails does not stop the others, and what was measured is not measured again."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import real_sizes
from lib import sizes_section
from lib.lines import Lines


def test_every_row_says_what_it_measures_and_can_be_measured() -> None:
    assert {"a", "d", "e", "f"} <= set(real_sizes.rows())
    for module in real_sizes.rows().values():
        tree = ast.parse((real_sizes.ROWS / f"{module}.py").read_text(encoding="utf-8"))
        assert ast.get_docstring(tree), module
        assert len(real_sizes.title(module)) > 20
        functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert [argument.arg for argument in functions["measure"].args.args] == ["small"], module


def test_rows_resume_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = list[str]()

    def measured(module: str, *, small: bool) -> Mapping[str, Any] | None:
        asked.append(module)
        assert small
        return {"a": {"seconds": 2.0}, "b": None, "c": {"skipped": "no GPU"}}[module.partition("_")[0]]  # type: ignore[return-value]

    monkeypatch.setattr(real_sizes, "rows", lambda: {letter: f"{letter}_row" for letter in "abc"})
    monkeypatch.setattr(real_sizes, "title", lambda module: f"What {module} is")
    monkeypatch.setattr(real_sizes, "_in_a_process", measured)
    monkeypatch.setattr(real_sizes, "place", lambda *, small: Lines(tmp_path / f"{small}.jsonl"))
    monkeypatch.setattr(real_sizes, "ROOT", tmp_path)
    monkeypatch.setattr("sys.argv", ["real_sizes.py", "--small"])
    assert real_sizes.main() == 1
    one = Lines(tmp_path / "True.jsonl").get("a")
    assert one is not None
    assert one["figures"] == {"seconds": 2.0}
    assert Lines(tmp_path / "True.jsonl").get("c") is None
    assert "not measured: no GPU" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["real_sizes.py", "--small", "--only", "a,c"])
    assert real_sizes.main() == 0
    assert asked == ["a_row", "b_row", "c_row", "c_row"]


def test_the_page_says_what_was_missed_and_what_is_missing(tmp_path: Path) -> None:
    machine = {"processor": "P", "cores": 2, "date": "2026-01-02 03:04 UTC", "commit": "abc", "load": 0.1}
    found = {"layers": 22, "rank": 8, "seconds": 89.0, "seconds_before": 300.0, "peak_gib": 1.0, "apart_at_most": 1e-15}
    rows = Lines(tmp_path / "rows.jsonl")
    rows.put("f", {"machine": machine, "figures": found})
    page = sizes_section.section(rows)
    assert "| f | founding TinyLlama's shapes, rank 8 | 300 s" in page
    assert page.count("reached") == 1
    assert page.count("not measured yet") == len(real_sizes.rows()) - 2  # f is there, h is the GPU's page
    rows.put("f", {"machine": machine, "figures": found | {"seconds": 91.0}})
    assert "**missed**" in sizes_section.section(rows)
