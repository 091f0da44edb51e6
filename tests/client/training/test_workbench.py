"""A bench: what it returns depends on the state asked for alone, and W0 is checked for whoever asks."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dictpfl.client.training.workbench
from dictpfl.client.folder import GENESIS_WEIGHTS
from dictpfl.client.model.twin import Twin
from dictpfl.client.training.workbench import Workbench, workbench_of
from dictpfl.common.errors import ConfigError
from dictpfl.common.law.state import Refresh, SharedState
from dictpfl.deploy.simulation.founding import Founded, found
from tests.support.federations import tiny

TWO: dict[str, Any] = {"model__options": {"hidden": [16, 16]}}
"""Two tables, for what happens between them."""


def founded(folder: Path, **changes: Any) -> Founded:
    return found(tiny(federation__rounds=1, **changes), folder)


@pytest.fixture
def made(tmp_path: Path) -> Founded:
    return founded(tmp_path / "world", decomposition__refresh_every=1, decomposition__local=["*5*"], **TWO)


def bench(made: Founded, node: int = 0) -> Workbench:
    return workbench_of(made.genesis, made.home(node) / GENESIS_WEIGHTS)


def tensors(module: nn.Module) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in module.state_dict().items()}


def trained(work: Workbench) -> None:
    """Leave the twin as training might."""
    with torch.no_grad():
        for _, _, parameter in work.twin.trainable():
            parameter.add_(torch.ones_like(parameter))


def refreshed(state: SharedState, made: Founded, seed: int) -> SharedState:
    """The state, further by a refresh of all tables."""
    draw = np.random.default_rng(seed)
    tables = [e for e in made.genesis.layout.entries if str(e.kind) == "table"]
    values = draw.normal(size=sum(e.size for e in tables))
    record = Refresh(np.ones(len(tables), dtype=bool), values)
    return replace(state, records=(*state.records, record), values=draw.normal(size=made.genesis.layout.size))


def test_whoever_works_at_it_next_finds_no_trace(made: Founded) -> None:
    """Forward over refreshes, back, and to another course of the same length: as a bench built for that state alone."""
    work, start = bench(made), made.genesis.start()
    once = refreshed(start, made, 1)
    other, twice = refreshed(start, made, 2), refreshed(once, made, 3)
    for state in (start, once, twice, other, twice, start, once):
        for local in (work.first_local_state(), {n: v + 1 for n, v in work.first_local_state().items()}):
            found_now = tensors(work.twin_at(state, local).merge())
            alone = Workbench(made.genesis, made.home(0) / GENESIS_WEIGHTS)
            assert found_now == tensors(alone.twin_at(state, local).merge())
            trained(work)
    assert tensors(work.merged(once)) == tensors(alone.merged(once))


def test_an_equal_course_from_a_file_needs_no_new_model(made: Founded) -> None:
    work, once = bench(made), refreshed(made.genesis.start(), made, 1)
    twin = work.twin_at(once, {})
    record = once.records[0]
    again = replace(once, records=(Refresh(record.chosen.copy(), record.values.copy()),))
    assert work.twin_at(again, {}) is twin


def test_a_refresh_that_was_cut_off_is_made_again(made: Founded, monkeypatch: pytest.MonkeyPatch) -> None:
    work, once = bench(made), refreshed(made.genesis.start(), made, 1)
    with monkeypatch.context() as patch:
        real, asked = Twin.base, []

        def fails_at_the_second(twin: Twin, name: str) -> Any:
            asked.append(name)
            return real(twin, name) if len(asked) == 1 else pytest.fail("cut off here")

        patch.setattr(Twin, "base", fails_at_the_second)
        with pytest.raises(pytest.fail.Exception, match="cut off here"):
            work.twin_at(once, {})
    alone = Workbench(made.genesis, made.home(0) / GENESIS_WEIGHTS)
    assert tensors(work.twin_at(once, {}).merge()) == tensors(alone.twin_at(once, {}).merge())


def test_local_tensors_begin_as_in_genesis_whoever_trained_before(made: Founded) -> None:
    work = bench(made)
    first = work.first_local_state()
    trained(work)
    assert {n: v.tobytes() for n, v in work.first_local_state().items()} == {n: v.tobytes() for n, v in first.items()}
    assert any((work.local_state()[n] != v).any() for n, v in first.items())


class Counting(nn.Module):
    """A layer with a buffer that training moves, and that no federation shares."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Count, and pass on."""
        self.calls += 1
        return x + self.calls


def counting(sample_shape: tuple[int, ...], outputs: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), Counting(), nn.Linear(64, outputs))


def test_buffers_of_nobody_are_as_in_w0(tmp_path: Path) -> None:
    """As in a deployment, whose tasks are forks of a process that has trained nothing (decision 0014)."""
    stays = {"decomposition__frozen": ["1.calls"]}
    made = founded(tmp_path / "world", model__source=f"{__name__}:counting", model__options={}, **stays)
    work, start = bench(made), made.genesis.start()
    outputs = [work.twin_at(start, {}).module(torch.ones(1, 64)) for _ in range(3)]
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


def test_one_bench_a_process_as_long_as_somebody_works_there(made: Founded) -> None:
    work = bench(made)
    assert bench(made, 1) is work
    other_device = made.genesis.config.training.model_copy(update={"device": "cpu"})
    elsewhere = replace(made.genesis, config=made.genesis.config.model_copy(update={"training": other_device}))
    assert elsewhere.federation == made.genesis.federation
    assert workbench_of(elsewhere, made.home(0) / GENESIS_WEIGHTS) is not work
    assert bench(founded(made.folder.parent / "other", seed=2)) is not work


def test_w0_takes_no_memory_beside_the_twin(made: Founded) -> None:
    """What a twin is made anew from is W0's file, mapped; a twin has nothing of it, and training does not reach it."""
    work, file = bench(made), made.home(0) / GENESIS_WEIGHTS
    lines = [line.split() for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()]
    spans = [line[0].split("-") for line in lines if int(line[4]) == file.stat().st_ino]
    kept = [parameter.data_ptr() for parameter in work._model.parameters()]
    assert kept
    assert all(any(int(first, 16) <= place < int(end, 16) for first, end in spans) for place in kept)
    state = made.genesis.start()
    as_w0 = tensors(work.twin_at(state, {}).module)
    for _ in range(2):
        twin = work.twin
        assert not {tensor.data_ptr() for tensor in twin.module.state_dict().values()} & set(kept)
        with torch.no_grad():
            for parameter in twin.module.parameters():
                parameter.add_(1.0)
        work._taken = None  # as after a refresh that was cut off
        assert tensors(work.twin_at(state, {}).module) == as_w0
        assert work.twin is not twin


def test_a_file_with_many_names_is_read_once(made: Founded, monkeypatch: pytest.MonkeyPatch) -> None:
    work = bench(made)
    monkeypatch.setattr(dictpfl.client.training.workbench, "load_file", lambda _: pytest.fail("it was read again"))
    assert bench(made, 2) is work


def test_w0_is_checked_for_whoever_asks(made: Founded) -> None:
    """A damaged file is no less damaged because another institution of the process has a whole one."""
    work = bench(made)
    path = made.home(1) / GENESIS_WEIGHTS
    whole = path.read_bytes()
    path.unlink()
    with pytest.raises(ConfigError, match="restore it from the bundle"):
        bench(made, 1)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ConfigError, match="not the W0"):
        bench(made, 1)
    path.write_bytes(whole)
    assert bench(made, 1) is work
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    os.utime(path, ns=(1, 1))
    with pytest.raises(ConfigError, match="not the W0"):
        bench(made, 1)


def test_batches_that_were_counted_are_no_part_of_the_model(tmp_path: Path) -> None:
    """Layers with momentum count them for nothing; a model that one institution trained would say so to whoever loads it."""
    work = bench(founded(tmp_path / "world", model__source="cnn", model__options={}, data__source="digits"))
    start = work.merged(work._genesis.start())
    for name, buffer in work.twin.module.named_buffers():
        if name.endswith("num_batches_tracked"):
            buffer.add_(7)
    again = work.merged(work._genesis.start())
    assert any(name.endswith("num_batches_tracked") for name in tensors(start))
    assert tensors(again) == tensors(start)
