"""Pages about GPUs and many machines: commands as typed, settings that are taken, scripts that can be read."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from dictpfl.client.folder import InstitutionSettings
from dictpfl.common.config import FederationConfig
from tests.support import ROOT
from tests.support.federations import as_toml

GPU, MACHINES = (ROOT / "docs" / "how-to" / f"{name}.md" for name in ("gpu", "many-machines"))


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("page", [GPU, MACHINES])
def test_a_page_begins_with_the_command(page: Path) -> None:
    title, empty, fence, command, *_ = page.read_text(encoding="utf-8").splitlines()
    assert (title[:2], empty, fence) == ("# ", "", "```bash")
    assert command.startswith("dictpfl simulate ")


def test_settings_are_taken() -> None:
    training, own = blocks(GPU, "toml")
    said = FederationConfig.of(tomllib.loads(training)).training
    assert (said.autocast, said.frozen, said.tf32, said.accumulate) == ("auto", "narrow", True, 4)
    assert InstitutionSettings.model_validate(tomllib.loads(own)).autocast == "bfloat16"


def test_without_a_gpu_the_page_says_that_nothing_was_measured() -> None:
    """Whoever measures row h takes the sentence out with this test, and links the figures."""
    measured = (ROOT / "benchmarks" / "results" / "real_sizes" / "h.json").exists()
    assert measured != ("**Not measured.**" in GPU.read_text(encoding="utf-8"))


def test_scripts_can_be_read() -> None:
    (slurm,) = blocks(MACHINES, "sh")
    done = subprocess.run(["bash", "-n"], input=slurm, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    cluster = yaml.safe_load(blocks(MACHINES, "yaml")[0])
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    for group in groups:
        (container,) = group["template"]["spec"]["containers"]
        (volume,) = group["template"]["spec"]["volumes"]
        assert [mount["name"] for mount in container["volumeMounts"]] == [volume["name"]]


@pytest.mark.slow
def test_the_command_as_typed(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    (tmp_path / "federation.toml").write_text(as_toml(federation__rounds=1))
    command = blocks(GPU, "bash")[0].split()
    done = subprocess.run(
        [sys.executable, "-m", "dictpfl.deploy.cli", *command[1:], "--out", "run"],
        cwd=tmp_path, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search(r"^devices: \d institutions? at once, on the processor; ", done.stderr, re.MULTILINE)
    assert re.search(r"^trained on +cpu, float32: 3 institutions, 3 rounds", done.stdout, re.MULTILINE)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["devices"] == {"cpu, float32": {"institutions": 3, "rounds": 3}}
