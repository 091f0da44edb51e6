"""Buffers that training moves and nobody shares: told and refused before round 1, as typed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.deploy.data.test_preparing import typed

MODEL = '''
import torch
from torch import nn


class Centred(nn.Module):
    """Takes a running mean away, as BatchNorm does, and is none."""

    def __init__(self, width, persistent=True, still=False):
        super().__init__()
        self.still = still
        self.register_buffer("mean", torch.zeros(width), persistent=persistent)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("positions", torch.arange(width, dtype=torch.float32))

    def forward(self, x):
        if self.training and not self.still:
            with torch.no_grad():
                self.mean.lerp_(x.mean(dim=0), 0.1)
                self.seen += 1
        return x - self.mean


def net(sample_shape, outputs, **options):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), Centred(8, **options), nn.ReLU(), nn.Linear(8, outputs))
'''
TOML = """
toy_insecure = true

[federation]
rounds = 1
participants = 3

[data]
source = "digits"
limit = 90

[model]
source = "net:net"

[encryption]
sealer = "identity"
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(MODEL, encoding="utf-8")
    (tmp_path / "net.toml").write_text(TOML, encoding="utf-8")
    return tmp_path


def test_a_running_mean_of_one_s_own_is_refused_until_it_is_said_to_stay(place: Path) -> None:
    """An export had W0's mean, with weights that were trained against another one; nobody was told."""
    for command in (("describe", "net.toml"), ("simulate", "net.toml", "--engine", "local", "--out", "refused")):
        done = typed(place, *command)
        assert done.returncode == 1, done.stdout
        said = " ".join(done.stderr.split())
        assert "training moves the buffer '2.mean' of model 'net:net'" in said
        assert 'decomposition.frozen = ["2.mean"]' in said
    stays = ("--set", 'decomposition.frozen=["2.mean"]')
    done = typed(place, "simulate", "net.toml", "--engine", "local", "--out", "run", *stays)
    assert done.returncode == 0, done.stderr
    typed(place, "export", "run", "-o", "model.safetensors")
    assert torch.equal(load_file(place / "model.safetensors")["2.mean"], torch.zeros(8))


@pytest.mark.parametrize("options", ["{ still = true }", "{ persistent = false }"])
def test_buffers_that_stay_or_that_no_file_holds_are_left_alone(place: Path, options: str) -> None:
    """Counts are integers, positions never change, and what is not persistent is in no file."""
    done = typed(place, "describe", "net.toml", "--set", f"model.options={options}")
    assert done.returncode == 0, done.stderr
