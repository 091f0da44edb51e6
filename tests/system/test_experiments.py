"""Every file in experiments/ loads, what its comments tell people to type exists, and it runs (made tiny)."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from dictpfl.client.model.tokens.install import reduction_of
from dictpfl.common.config import FederationConfig, known_keys
from dictpfl.deploy.exports.finished import Finished
from dictpfl.deploy.simulation.printed import print_summary
from dictpfl.deploy.simulation.simulate import Engine, simulate
from tests.support import ROOT
from tests.support.typed import typed

# Flower imports typer, which touches names that click has deprecated; whichever test comes first sees it.
pytestmark = [pytest.mark.filterwarnings("ignore:'click:DeprecationWarning"), pytest.mark.usefixtures("quiet")]

FOLDER = ROOT / "experiments"
FILES = sorted(FOLDER.glob("*.toml"))
TINY = {
    "federation.rounds": 2,
    "data.limit": 240,
    "data.test_limit": 60,
    "training.epochs": 1,
    "training.threads": 1,
    "training.device": "cpu",
}
WORKLOADS = (
    "cifar10",
    "cifar10_effnet",
    "gtsrb",
    "retina",
    "ag_news",
    "gsm8k",
    "heart",
    "heart_mlp",
    "tcga",
    "tcga_transformer",
)
TALLYING = ("benford_breast_cancer", "layerif_digits", "layerif_newsgroups")
"""Experiments whose institutions tally numbers or a map of layers."""
REDUCED = ("tokens_digits", "videos_digits", "vlm_mosaic")
"""Experiments whose models read fewer tokens."""
each = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
AT_ONCE = ("digits", "dp_digits", "narrow_digits", "tokens_digits", "benford_breast_cancer")
"""The demo, and one of each extra: what `make test` runs of these; `make test-slow` runs the rest."""


def rest_slow(names: Iterable[str]) -> list[Any]:
    return [pytest.param(name, marks=[] if name in AT_ONCE else pytest.mark.slow) for name in names]


def comments(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    return "\n".join(line.removeprefix("#") for line in lines if line.startswith("#"))


def test_the_paper_s_ablations_are_there() -> None:
    ablations = {"rank", "tau", "s", "beta", "alpha", "institutions", "accumulation"}
    expected = {"digits", "digits_refresh", "breast_cancer", "fashion_mnist", "newsgroups_minilm"} | {
        f"ablation_{a}" for a in ablations
    }
    assert expected <= {path.stem for path in FILES}
    assert set(WORKLOADS) <= {path.stem for path in FILES}


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


@pytest.mark.slow
@each
def test_a_method_that_its_comments_name_can_be_swept(path: Path) -> None:
    """`--set` wins over a method's values: each value of a loop is what the federation has, whatever the method says."""
    text = re.sub(r"dictpfl prune.*", "", comments(path))  # whose methods are others
    methods = re.findall(r"--method ([\w-]+)", text)
    assert bool(methods) == (path.stem in {"ablation_alpha", "ablation_beta", "ablation_s", "ablation_tau"})
    for method in methods:
        for name, values in re.findall(r"for (\w+) in ([^;\n$]+);", text):
            (key,) = re.findall(rf"--set ([\w.]+)=\${name}\b", text)
            section, _, field = key.partition(".")
            for value in map(float, values.split()):
                config = FederationConfig.load(path, {"method": method, key: value})
                assert getattr(getattr(config, section), field) == value
                assert config.decomposition.scaling == "paper", "what is not named is the method's"


def tiny_settings(path: Path, config: FederationConfig) -> dict[str, Any]:
    """What makes an experiment tiny; skips one whose data or libraries are not here."""
    tiny: dict[str, Any] = dict(TINY)
    if config.model.pretrain.epochs:
        tiny["model.pretrain.epochs"] = 1
    if config.decomposition.refresh_every:
        tiny["decomposition.refresh_every"] = 1
    if config.training.steps:
        tiny |= {"training.steps": 1, "data.limit": 24, "data.test_limit": 4}  # a language model, too large for more
    if config.data.partition == "column":
        tiny |= {"data.limit": 0, "data.test_limit": 0}  # each institution that the column names needs samples
    if config.data.path and not Path(config.data.path).exists():
        how = re.search(r"apt install [\w-]+|python experiments/\w+\.py", comments(path))
        pytest.skip(f"{config.data.path} is not on this machine: {how.group() if how else 'see the file'}")
    if (library := config.model.source.partition(":"))[1] and not Path(library[2]).exists():
        pytest.skip(f"{library[2]} is not on this machine: python experiments/fetch.py")
    if config.data.of_features and not Path(config.data.options["features"].partition(":")[2]).exists():
        pytest.skip(f"{config.data.options['features']} is not on this machine: python experiments/fetch.py")
    if config.privacy.mechanism != "none":
        pytest.importorskip("opacus", reason="the extra `dp` is not installed")
    return tiny


@pytest.mark.slow
@pytest.mark.parametrize("name", [*WORKLOADS, *REDUCED])
def test_a_workload_s_state_and_model_are_those_of_the_run_in_clear(name: str, tmp_path: Path) -> None:
    path = FOLDER / f"{name}.toml"
    config = FederationConfig.load(path)
    tiny = tiny_settings(path, config)
    # Pruned from the second update on; as few samples as show it.
    tiny |= {"federation.rounds": 3, "pruning.tau": 1, "data.limit": min(tiny["data.limit"], 60), "data.test_limit": 4}
    if config.data.partition == "column":
        tiny["data.limit"] = 0  # every centre has to be there, and theirs are few
    if "count" in config.data.options:  # made up as they are needed
        tiny["data.options"] = config.data.options | {"count": 120}
    found = []
    for sealer in ("ckks", "identity"):
        settings = tiny | {"encryption.sealer": sealer, "toy_insecure": sealer == "identity"}
        run = simulate(FederationConfig.load(path, settings), tmp_path / sealer, engine="local")
        assert run.summary["encrypted"] is (sealer == "ckks")
        pruned = run.summary["values"]["sent"] < 3 * run.summary["values"]["shared"]
        assert pruned is config.pruning.enabled
        found.append((run.summary["state_digest"], run.summary["model_sha256"]))
        if name in REDUCED:
            assert reduction_of(Finished.load(run.folder).merged()) is not None
    assert found[0] == found[1]


@pytest.mark.parametrize("name", rest_slow(TALLYING))
def test_a_tally_of_an_experiment_is_that_of_the_run_in_clear(name: str, tmp_path: Path) -> None:
    """What is shipped, with fewer rounds and samples: digests, tallies and models with CKKS and without are the same."""
    path = FOLDER / f"{name}.toml"
    config = FederationConfig.load(path)
    tiny = tiny_settings(path, config) | {"federation.rounds": 1, "data.limit": 120, "data.test_limit": 20}
    if "layerif" in config.tallies.opening:
        tiny["tallies.options"] = {"layerif": {"samples": 8, "validation": 4}}
    found = []
    for sealer in ("ckks", "identity"):
        settings = tiny | {"encryption.sealer": sealer, "toy_insecure": sealer == "identity"}
        run = simulate(FederationConfig.load(path, settings), tmp_path / sealer, engine="local")
        assert run.summary["encrypted"] is (sealer == "ckks")
        told = [(one["name"], one["when"]) for one in run.summary["tallies"]]
        asked = [(n, "opening") for n in config.tallies.opening] + [(n, "closing") for n in config.tallies.closing]
        assert told[len(told) - len(asked) :] == asked, "behind those that prepare columns"
        assert all(any(any(values) for values in one["sums"].values()) for one in run.summary["tallies"][-len(asked) :])
        found.append([run.summary[what] for what in ("state_digest", "model_sha256", "tallies")])
    assert found[0] == found[1]


@pytest.mark.parametrize("name", rest_slow(path.stem for path in FILES))
def test_it_runs(name: str, tmp_path: Path) -> None:
    path = FOLDER / f"{name}.toml"
    config = FederationConfig.load(path)
    tiny = tiny_settings(path, config)
    run = simulate(FederationConfig.load(path, tiny), tmp_path / "run", engine="local")
    assert run.summary["rounds"] == 2
    assert run.summary["encrypted"]
    assert 0.0 <= run.accuracy <= 1.0
    values = run.summary["values"]
    tallied = sum(record.sent for record in run.records if record.kind == "score")
    assert 0 < values["sent"] - tallied <= 2 * values["shared"]
    if config.sparsity.method != "none":
        assert tallied > 0
        assert values["sent"] - tallied == 2 * values["shared"] < values["model"], (
            "a threshold a row, and none is pruned"
        )
    elif config.decomposition.enabled:
        assert 2 * values["shared"] < values["model"]
    elif config.narrow.axes:
        assert values["sent"] == 2 * values["shared"], "no gate is pruned, and nothing else yet"
        gates = values["shared"] - (values["model"] if config.decomposition.dense == [] else 0)
        assert 0 < gates < values["model"], "gates are few"
    else:
        assert values["sent"] == 2 * values["shared"] == 2 * values["model"], "all of a model of a few values is sent"
    updates = [record for record in run.records if record.kind == "update"]
    assert [record.contributors for record in updates] == [config.federation.participants] * 2
    assert all(record.refreshed is bool(config.decomposition.refresh_every) for record in updates)
    print_summary(run.summary)  # what `dictpfl simulate` and `inspect` end with


def test_the_demo_s_state_and_model_are_those_of_the_other_engine_and_of_the_run_in_clear(tmp_path: Path) -> None:
    """The experiment of `make demo`, made tiny."""
    path = FOLDER / "digits.toml"
    tiny = tiny_settings(path, FederationConfig.load(path)) | {"federation.rounds": 3}
    clear = {"encryption.sealer": "identity", "toy_insecure": True}
    ways: list[tuple[Engine, dict[str, Any]]] = [("local", {}), ("flower", {}), ("local", clear)]
    found = set()
    for number, (engine, more) in enumerate(ways):
        if engine == "flower" and importlib.util.find_spec("ray") is None:
            continue
        run = simulate(FederationConfig.load(path, tiny | more), tmp_path / str(number), engine=engine)
        assert run.summary["encrypted"] is not bool(more)
        found.add((run.summary["state_digest"], run.summary["model_sha256"]))
    assert len(found) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("narrow_digits", "gate"),
        ("lua_fashion", "thresholds"),
        ("tokens_digits", "table"),
        ("digits", "table"),
    ],
)
def test_as_typed(name: str, said: str, tmp_path: Path) -> None:
    """In an empty folder, as its page says; with fewer rounds and samples."""
    (tmp_path / "data").symlink_to(ROOT / "data")
    path = FOLDER / f"{name}.toml"
    tiny = tiny_settings(path, FederationConfig.load(path)) | {"federation.rounds": 1}
    settings = " ".join(f"--set {key}={shlex.quote(json.dumps(value))}" for key, value in tiny.items())
    assert said in typed(f"describe {path} {settings}", tmp_path)
    for command in (
        f"simulate {path} {settings} --out run", "inspect run", "report run --privacy", "export run -o out --format merged"
    ):  # fmt: skip
        typed(command, tmp_path)
