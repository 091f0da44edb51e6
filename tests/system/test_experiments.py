"""Every file in experiments/ loads, what its comments tell people to type exists, and it runs (made tiny)."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from common.config import FederationConfig, known_keys
from deploy.simulation import simulate

# Flower imports typer, which touches names that click has deprecated; whichever test comes first sees it.
pytestmark = [pytest.mark.filterwarnings("ignore:'click:DeprecationWarning"), pytest.mark.usefixtures("quiet")]

FOLDER = Path(__file__).parents[2] / "experiments"
FILES = sorted(FOLDER.glob("*.toml"))
TINY = {
    "federation.rounds": 2,
    "data.limit": 240,
    "training.epochs": 1,
    "training.threads": 1,
    "training.device": "cpu",
}
each = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def comments(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    return "\n".join(line.removeprefix("#") for line in lines if line.startswith("#"))


def test_the_paper_s_ablations_are_there() -> None:
    ablations = {"rank", "tau", "s", "beta", "alpha", "institutions", "accumulation"}
    expected = {"digits", "digits_refresh", "breast_cancer", "fashion_mnist", "newsgroups_minilm"} | {
        f"ablation_{a}" for a in ablations
    }
    assert expected <= {path.stem for path in FILES}


@each
def test_it_loads(path: Path) -> None:
    config = FederationConfig.load(path)
    assert config.name == path.stem.replace("_", "-")
    assert not config.toy_insecure
    assert not config.insecurities


@each
def test_what_its_comments_say_can_be_typed(path: Path) -> None:
    text = comments(path)
    assert len(text) > 80, "a comment says what the experiment is about"
    keys = re.findall(r"--set ([\w.]+)=", text)
    assert set(keys) <= set(known_keys())
    assert set(re.findall(r"experiments/(\w+\.toml)", text)) <= {path.name}
    if path.stem.startswith("ablation"):
        assert keys


@each
def test_the_values_of_its_loop_are_accepted(path: Path) -> None:
    text = comments(path)
    for name, values in re.findall(r"for (\w+) in ([^;\n$]+);", text):
        for key in re.findall(rf"--set ([\w.]+)=\${name}\b", text):
            for value in values.split():
                FederationConfig.load(path, {key: tomllib.loads(f"v = {value}")["v"]})


@each
def test_it_runs(path: Path, tmp_path: Path) -> None:
    config = FederationConfig.load(path)
    tiny = dict(TINY)
    if config.model.pretrain.epochs:
        tiny["model.pretrain.epochs"] = 1
    if config.decomposition.refresh_every:
        tiny["decomposition.refresh_every"] = 1
    if config.data.path and not Path(config.data.path).exists():
        how = re.search(r"apt install [\w-]+|python experiments/\w+\.py", comments(path))
        pytest.skip(f"{config.data.path} is not on this machine: {how.group() if how else 'see the file'}")
    if config.privacy.mechanism != "none":
        pytest.importorskip("opacus", reason="the extra `dp` is not installed")
    run = simulate(FederationConfig.load(path, tiny), tmp_path / "run", engine="local")
    assert run.summary["rounds"] == 2
    assert run.summary["encrypted"]
    assert 0.0 <= run.accuracy <= 1.0
    assert 0 < run.summary["values"]["sent"] <= 2 * run.summary["values"]["shared"] < run.summary["values"]["model"]
    updates = [record for record in run.history if record.kind == "update"]
    assert [record.contributors for record in updates] == [config.federation.participants] * 2
    assert all(record.refreshed is bool(config.decomposition.refresh_every) for record in updates)
