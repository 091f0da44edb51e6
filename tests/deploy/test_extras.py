"""A coordinator's installation, without torch and its like: what works there, and what says which extra to install."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from dictpfl.deploy.extras import _BROUGHT_BY, EXTRAS, explained
from tools import wheels

NOT_HERE = ("torch", "sklearn", "scipy", "pandas", "pyarrow", "matplotlib", "flwr_datasets", "ray", "tensorboard")
CONFIG = 'name = "tiny"\n'
DISTRIBUTIONS = {"sklearn": "scikit-learn", "ray": "flwr"}
"""Names under which modules are declared, where these differ."""


@pytest.fixture(scope="module")
def dictpfl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The console script in an environment with what the wheel declares without extras."""
    folder = tmp_path_factory.mktemp("coordinator")
    (wheel,) = wheels.build(wheels.ROOT, folder, "wheel")
    return wheels.environment(folder / "venv", wheel).with_name("dictpfl")


def call(dictpfl: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "tiny.toml").write_text(CONFIG, encoding="utf-8")
    return subprocess.run([dictpfl, *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.slow
def test_nothing_heavy_is_installed(dictpfl: Path, tmp_path: Path) -> None:
    code = f"from importlib.util import find_spec; print([n for n in {NOT_HERE!r} if find_spec(n)])"
    done = subprocess.run(
        [dictpfl.with_name("python"), "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--help", "Begin"),
        ("doctor", "pip install 'dictpfl[institution]'"),
        ("init federation.toml", "federation.toml written"),
        ("bundle", ""),
        ("certificates --folder tls", "server.pem for 397 days"),
    ],
)
def test_what_works_there(dictpfl: Path, tmp_path: Path, arguments: str, says: str) -> None:
    done = call(dictpfl, tmp_path, *arguments.split())
    assert done.returncode == 0, done.stderr
    assert says in done.stdout


@pytest.mark.slow
def test_a_proxy_for_the_coordinator(dictpfl: Path, tmp_path: Path) -> None:
    proxy = "coordinator proxy --folder coordinator --listen 8443"
    refused = call(dictpfl, tmp_path, *proxy.split())
    assert refused.returncode == 1
    named = "dictpfl certificates --folder coordinator/tls --name NAME"
    assert named in " ".join(refused.stderr.split())
    assert call(dictpfl, tmp_path, *named.replace("NAME", "federation.example.org").split()[1:]).returncode == 0
    done = call(dictpfl, tmp_path, *proxy.split())
    assert done.returncode == 0, done.stderr
    assert "nginx.conf written" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        ("simulate tiny.toml", "simulation"),
        ("compare tiny.toml", "simulation"),
        ("attack tiny.toml", "simulation"),
        ("evaluate .", "institution"),
        ("personalise . -o out", "institution"),
        ("export . --format peft -o out", "institution"),
        ("institution up --folder home", "institution"),
        ("authority genesis tiny.toml --institution a=a.pub --out out --sample-shape 64 --outputs 2", "institution"),
        ("authority rotate --state state --out out", "institution"),
    ],
)
def test_what_needs_more_says_what_to_install(dictpfl: Path, tmp_path: Path, arguments: str, extra: str) -> None:
    done = call(dictpfl, tmp_path, *arguments.split())
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "found no torch" in done.stderr
    assert f"pip install 'dictpfl[{extra}]'" in done.stderr
    assert f"`dictpfl {arguments.split(maxsplit=1)[0]}" in done.stderr


def test_each_module_is_said_to_come_with_the_extra_that_declares_it() -> None:
    declared = tomllib.loads((wheels.ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for module, extra in _BROUGHT_BY.items():
        name = DISTRIBUTIONS.get(module, module.replace("_", "-"))
        assert name in {Requirement(line).name for line in declared[extra]}, f"{module}: {extra}"
    for extra, modules in EXTRAS.items():
        assert {_BROUGHT_BY[module] for module in modules} <= {extra, "institution"}


def test_an_absent_module_that_no_extra_brings_is_a_defect() -> None:
    assert explained(ModuleNotFoundError("no", name="dictpfl.lost"), "dictpfl run") is None
    reason = explained(ModuleNotFoundError("no", name="opacus.accountants"), "dictpfl run")
    assert str(reason) == (
        "`dictpfl run`: expected the packages of dictpfl[dp], found no opacus. Run `pip install 'dictpfl[dp]'`"
    )
