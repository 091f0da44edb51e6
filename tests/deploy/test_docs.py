"""The documentation's code runs, and its generated pages are what the code generates."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import dictpfl
from common.config import FederationConfig
from deploy.reference import commented_toml, markdown

ROOT = Path(__file__).parents[2]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.DOTALL)


def test_configuration_reference_is_generated() -> None:
    assert (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8") == markdown(), "run `make docs`"


def test_commented_configuration_is_the_default_one(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(commented_toml(), encoding="utf-8")
    assert FederationConfig.load(path) == FederationConfig()
    everything = re.sub(r"^# (?=\w+ = )", "", commented_toml(), flags=re.MULTILINE)
    path.write_text(everything, encoding="utf-8")
    assert FederationConfig.load(path) == FederationConfig()


def test_notebook_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    short = {"data.limit": 200, "training.epochs": 1, "model.pretrain.epochs": 1}
    load = FederationConfig.load
    monkeypatch.setattr(FederationConfig, "load", lambda path, changed=None: load(path, {**(changed or {}), **short}))
    namespace: dict[str, Any] = {"out": tmp_path}
    try:
        for block in blocks("notebook.md", "python"):
            exec(compile(block, "notebook.md", "exec"), namespace)  # noqa: S102 -- our own page
    finally:
        sys.modules.pop("my_allocator", None)
    assert len(namespace["frame"]) == 4
    assert (tmp_path / "wide" / "report.html").exists()


def test_own_model_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = "how-to/your-model.md"
    (model, data), (config,) = blocks(page, "python"), blocks(page, "toml")
    assert len([line for line in model.splitlines() if line.strip()]) <= 20
    for name, text in (("shop.py", model), ("quarters.py", data), ("shop.toml", config)):
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        run = dictpfl.simulate(FederationConfig.load(tmp_path / "shop.toml"), tmp_path / "run", engine="local")
    finally:
        for name in ("shop", "quarters"):
            sys.modules.pop(name, None)
    assert run.accuracy > 0.8
    assert run.summary["values"]["shared"] < run.summary["values"]["model"]
    sent = run.history[0].sent_by_tensor
    assert "1.norm1.running_mean" in sent
    assert "1.conv1.weight" in sent


def test_relative_links_of_the_documentation_lead_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_links_into_pages_lead_to_a_heading() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", page.read_text(encoding="utf-8")):
            text = (page.parent / target if target else page).read_text(encoding="utf-8")
            headings = re.findall(
                r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE
            )
            slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{page.name}: {target}#{anchor}"


def test_figures_of_the_readme_are_those_of_the_results() -> None:
    script = ROOT / "benchmarks" / "render.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
