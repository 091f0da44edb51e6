"""Files of tensors on a disk that is full: said as of any other file, and what was there stays."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from dictpfl.common.errors import ConfigError
from dictpfl.deploy.exports.folders import save_model
from dictpfl.deploy.simulation.founding import found
from dictpfl.deploy.tensors import write_tensors
from tests.support.failing_disks import small_files
from tests.support.federations import tiny

LARGE = 60_000
"""Values that are more bytes than `small_files` lets through."""


def test_a_full_disk_is_an_error_of_the_disk_and_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_tensors(path, {"a": torch.ones(3)})
    with small_files(100_000), pytest.raises(OSError, match=r"cannot write .*model\.safetensors: .*File too large"):
        write_tensors(path, {"a": torch.zeros(LARGE)})
    assert load_file(path)["a"].tolist() == [1.0] * 3
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_no_room_for_an_exported_model(tmp_path: Path) -> None:
    with small_files(100_000), pytest.raises(OSError, match="File too large"):
        save_model(nn.Linear(1, LARGE), "mlp", tmp_path / "out")


def test_no_room_for_w0(tmp_path: Path) -> None:
    config = tiny(model__options={"hidden": [LARGE // 64]})
    with (
        small_files(100_000),
        pytest.raises(ConfigError, match=r"cannot write the federation into .*weights\.safetensors: .*File too large"),
    ):
        found(config, tmp_path / "run")
