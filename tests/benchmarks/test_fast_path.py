"""What benchmarks/fast_path.py compares gives the same results; its stopwatch counts each second once."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import common.dictionary
from benchmarks import former
from benchmarks.fast_path_page import PARTS, filled
from benchmarks.phases import FOUNDING, OTHER, ROUND, Phases, _found
from client.models import build_model
from client.twin import decompose
from common.config import FederationConfig
from common.grid import range_codes
from common.packing import Digits, pack, unpack
from common.settings import Model
from deploy.run import STATE
from deploy.simulation import simulate


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Both clocks stand still, but for what the returned function moves them by."""
    now = [0.0]
    for name in ("process_time", "perf_counter"):
        monkeypatch.setattr(time, name, lambda: now[0])
    return lambda seconds: now.__setitem__(0, now[0] + seconds)


def test_a_phase_inside_another_is_taken_out_of_it(clock: Callable[[float], None]) -> None:
    phases = Phases()
    clock(100)
    with phases.phase("outer"):
        clock(1)
        with phases.phase("inner"):
            clock(2)
        clock(4)
    clock(100)
    with suppress(ValueError), phases.phase("inner"):
        clock(8)
        raise ValueError
    assert phases.cpu == phases.wall == {"outer": 5, "inner": 10}


def test_functions_are_timed_where_they_are_called(clock: Callable[[float], None]) -> None:
    phases, read = Phases(), former.Twin.read
    twin = decompose(build_model(Model(), (1, 8, 8), 3, seed=0), rank=2)
    with phases.watching({"read": ("client.twin:Twin.read",), "load": ("client.twin:_put",)}):
        clock(3)
        twin.load(twin.read())
    assert phases.cpu == {OTHER: 3, "read": 0, "load": 0}
    assert former.Twin.read is read


@pytest.mark.parametrize("targets", [ROUND, FOUNDING])
def test_what_is_timed_exists(targets: dict[str, tuple[str, ...]]) -> None:
    for place in (place for places in targets.values() for place in places):
        holder, attribute = _found(place)
        assert callable(getattr(holder, attribute))


@given(
    st.lists(st.floats(-1e3, 1e3), max_size=30),
    st.lists(st.integers(-60, 40), min_size=4, max_size=4),
    st.integers(1, 2**40),
)
def test_range_codes_are_what_they_were(values: list[float], exponents: list[int], cap: int) -> None:
    tensors = np.arange(len(values), dtype=np.int32) // 8
    given_ = (np.array(values), np.ldexp(1.0, np.array(exponents)), tensors, cap)
    assert former.range_codes(*given_).tolist() == range_codes(*given_).tolist()


@given(st.lists(st.integers(-127, 127), max_size=40), st.integers(1, 40))
def test_packing_one_by_one_is_packing(values: list[int], capacity: int) -> None:
    digits, array = Digits.fit(8, capacity, 44), np.array(values, dtype=np.int64)
    packed = pack(array, digits)
    assert former.pack(array, digits).tolist() == packed.tolist()
    assert former.unpack(packed, len(values), digits).tolist() == unpack(packed, len(values), digits).tolist() == values


@pytest.mark.parametrize("method", ["dictpfl", "fedhe-full"])
def test_a_federation_ends_where_it_ended_before(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit; but for dictionaries, which `tests/common` compares: float32 may round two of them differently."""
    monkeypatch.setattr(former, "leading", common.dictionary._leading)
    config = FederationConfig.of({}, {
        "method": method, "data.limit": 150, "federation.rounds": 3, "model.options": {"hidden": [16]}, "training.steps": 2,
        "encryption.sealer": "identity", "toy_insecure": True, "pruning.tau": 1, "decomposition.orientation": "smaller",
    })  # fmt: skip
    now = simulate(config, tmp_path / "now", engine="local")
    with former.installed():
        before = simulate(config, tmp_path / "before", engine="local")
    assert (now.folder / STATE).read_bytes() == (before.folder / STATE).read_bytes()
    assert now.summary["model_sha256"] == before.summary["model_sha256"]


def test_a_page_without_its_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="no markers"):
        filled("text", {"machine": {}})
    assert len(PARTS) == 5
