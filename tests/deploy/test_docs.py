"""The documentation's code runs, and its generated pages are what the code generates."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import dictpfl
from dictpfl.client.data.source import load_dataset
from dictpfl.common.config import FederationConfig
from dictpfl.common.settings import Data
from dictpfl.deploy.reference import commented_toml, markdown
from tests.support import ROOT
from tests.support.federations import as_toml

PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
SEARCHED = ("TIP", "HRC", "packing", "round", "ledger", "dictionary", "mask", "replay", "journal")
"""Words by which somebody new looks for the method's parts."""


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.DOTALL)


def test_configuration_reference_is_generated() -> None:
    assert (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8") == markdown(), "run `make docs`"


def test_the_reference_says_which_words_and_numbers_a_key_takes() -> None:
    """`training.augment` was a "list of Literal", and nothing said of what; TOML has no null to write."""
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+? \| .+?) \| ", markdown(), re.MULTILINE))
    assert rows["augment"] == 'list of "flip" or "shift" | `[]`'
    assert rows["gpus"] == '"auto" or int, ≥ 0 | `"auto"`'
    assert rows["seed"] == f"int, ≥ 0, ≤ {2**64 - 1} | `1`"
    assert rows["allowed_code"] == "list of str | `[]`", "of policy.toml, which comes last"
    assert rows["workers"] == "int, ≥ 0, ≤ 64 | left out"
    assert not [kind for kind in rows.values() if re.search("Literal|NoneType|null", kind)]


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
        for block in blocks("tutorial/notebook.md", "python"):
            exec(compile(block, "tutorial/notebook.md", "exec"), namespace)  # noqa: S102 -- our own page
    finally:
        sys.modules.pop("my_allocator", None)
    assert len(namespace["frame"]) == 4
    assert (tmp_path / "wide" / "report.html").exists()


def test_one_round_by_hand_runs() -> None:
    namespace: dict[str, Any] = {}
    for block in blocks("tutorial/one-round.md", "python"):
        exec(compile(block, "one-round.md", "exec"), namespace)  # noqa: S102 -- our own page
    assert namespace["table"].shape == (2, 8)


def test_python_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its blocks, one after another, as somebody types them into one session."""
    monkeypatch.chdir(tmp_path)
    small = as_toml(federation__rounds=1, data__limit=150, training__steps=2)
    Path("federation.toml").write_text(small, encoding="utf-8")
    samples = load_dataset(Data(limit=150), seed=1)
    session: dict[str, Any] = {
        "network": torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 16), torch.nn.ReLU(), torch.nn.Linear(16, 10)),
        "dataset": samples, "data": samples, "features": samples.samples.features, "task": dictpfl.Classification(),
    }  # fmt: skip
    few = ('["majority", "alone", "pooled", "plaintext", "dictpfl"]', '["majority", "pooled"]')
    for block in blocks("how-to/python.md", "python"):
        exec(compile(block.replace(*few), "python.md", "exec"), session)  # noqa: S102 -- our own page
        session |= {"config": FederationConfig.load("federation.toml"), "task": dictpfl.Classification()}
    assert Path("model.safetensors").exists()
    assert list(Path("live/logged").iterdir())


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
    sent = run.records[0].sent_by_tensor
    assert "1.norm1.running_mean" in sent
    assert "1.conv1.weight" in sent


def test_relative_links_of_the_documentation_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_links_into_pages_lead_to_a_heading() -> None:
    for page in PAGES:
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", page.read_text(encoding="utf-8")):
            text = (page.parent / target if target else page).read_text(encoding="utf-8")
            headings = re.findall(
                r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE
            )
            slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{page.name}: {target}#{anchor}"


@pytest.mark.slow
@pytest.mark.parametrize("script", ["benchmarks/render.py", "tools/decisions.py", "tools/reference.py"])
def test_generated_pages_are_what_is_generated(script: str) -> None:
    """Figures of benchmarks/results, the index of decisions, the references of the command line and the configuration."""
    command = [sys.executable, str(ROOT / script), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_readme_is_short_and_has_one_table_of_figures() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 90
    assert len(text.split()) <= 700
    assert len(re.findall(r"^\|[-:| ]+\|$", text.partition("## Figures")[2], re.MULTILINE)) == 1


@pytest.mark.parametrize("page", ["glossary", "design"])
def test_modules_that_explanations_name_exist(page: str) -> None:
    text = (ROOT / "docs" / "explanation" / f"{page}.md").read_text(encoding="utf-8")
    for module in sorted(set(re.findall(r"`(dictpfl(?:\.[a-z_]+)+)`", text))):
        assert importlib.util.find_spec(module), f"{page}.md names {module}"


@pytest.mark.parametrize("word", SEARCHED)
def test_a_word_of_the_method_leads_to_the_glossary_and_to_its_module(word: str) -> None:
    """A heading of the glossary, which the site's search ranks first, and a module whose text has the word."""
    text = (ROOT / "docs" / "explanation" / "glossary.md").read_text(encoding="utf-8")
    _, heading, rest = text.partition(f"### {word}\n")
    assert heading, f"the glossary has no heading {word!r}"
    modules = re.findall(r"`(dictpfl(?:\.[a-z_]+)+)`", rest.partition("\n#")[0])
    assert modules, word
    for module in modules:
        spec = importlib.util.find_spec(module)
        assert spec is not None, module
        assert spec.origin is not None, module
        assert re.search(word, Path(spec.origin).read_text(encoding="utf-8"), re.IGNORECASE), (
            f"{word} is not in {module}"
        )


@pytest.mark.slow
def test_the_site_builds_and_every_link_leads_somewhere(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    for page in ("index.html", "reference/api/dictpfl.common.law.html", "repository/benchmarks/results/privacy.html"):
        assert (tmp_path / "site" / page).exists(), page
