"""Shared state as bytes: what a newcomer starts from, since it cannot open what was summed under an older key."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from common.errors import ConfigError
from common.layout import Layout
from common.masking import History
from common.refresh import tables
from common.selection import Best, Course
from common.state import Pace, Refresh, SharedState

_FORMAT = "dictpfl-state-1"


def to_bytes(state: SharedState, federation: bytes) -> bytes:
    """Safetensors; the same state gives the same bytes."""
    tensors, facts = taken_apart(state)
    facts |= {"format": _FORMAT, "federation": federation.hex(), "digest": state.digest.hex()}
    packed = {**tensors, "facts": np.frombuffer(json.dumps(facts, sort_keys=True).encode(), dtype=np.uint8)}
    return bytes(save(packed))


def of_bytes(data: bytes, federation: bytes, layout: Layout) -> SharedState:
    """Inverse of `to_bytes`, for the agreed layout: it may come from a party that lies.

    Raises:
        ConfigError: damaged, of another federation, or of other shapes.
    """
    try:
        tensors = {name: np.array(tensor) for name, tensor in load(data).items()}
        facts = json.loads(tensors.pop("facts").tobytes())
        state = put_together(tensors, facts)
        good = facts["format"] == _FORMAT and facts["federation"] == federation.hex()
        good = good and facts["digest"] == state.digest.hex() and _fits(state, layout)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"a snapshot of shared state is damaged ({type(error).__name__}); export it again") from error
    if not good:
        raise ConfigError("a snapshot of shared state is damaged or of another federation; export it again")
    return state


def taken_apart(state: SharedState) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Arrays by name, and the numbers beside them as JSON values; the same for snapshots and for memory."""
    tensors: dict[str, NDArray[Any]] = {
        "values": state.values,
        "idle": state.history.idle,
        "exponent": state.history.exponent,
        "ranges": state.ranges,
    }
    for i, record in enumerate(state.records):
        tensors |= {f"record/{i:06d}": record.values, f"chosen/{i:06d}": record.chosen}
    if state.pace is not None:
        tensors |= {"pace/largest": state.pace.largest, "pace/age": state.pace.age}
    if state.clear is not None:
        tensors["clear"] = state.clear
    facts: dict[str, Any] = {"round": state.round, "updates": state.updates}
    if (best := state.course.best) is not None:
        tensors["best"] = best.values
        facts["course"] = {
            "score": best.score, "updates": best.updates, "refreshes": best.refreshes,
            "mark": state.course.mark, "waited": state.course.waited,
        }  # fmt: skip
    return tensors, facts


def put_together(tensors: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> SharedState:
    """Inverse of `taken_apart`; others' arrays and numbers are left alone.

    Raises:
        KeyError, TypeError, ValueError: something is missing or of another kind.
    """
    course = Course()
    if "course" in facts:
        said = facts["course"]
        best = Best(float(said["score"]), int(said["updates"]), int(said["refreshes"]), tensors["best"])
        course = Course(best, float(said["mark"]), int(said["waited"]))
    return SharedState(
        round=int(facts["round"]),
        updates=int(facts["updates"]),
        values=tensors["values"],
        history=History(tensors["idle"], tensors["exponent"]),
        ranges=tensors["ranges"],
        clear=tensors.get("clear"),
        records=tuple(
            Refresh(tensors[name.replace("record/", "chosen/")], tensors[name])
            for name in sorted(tensors)
            if name.startswith("record/")
        ),
        course=course,
        pace=Pace(tensors["pace/largest"], tensors["pace/age"]) if "pace/age" in tensors else None,
    )


def _fits(state: SharedState, layout: Layout) -> bool:
    size, history = layout.size, state.history
    lengths = np.array([entry.size for entry in tables(layout)], dtype=np.int64)
    if any(r.chosen.dtype != np.bool_ or r.chosen.shape != lengths.shape for r in state.records):
        return False
    expected: list[tuple[NDArray[Any], Any, int]] = [
        (state.values, np.float64, size),
        (state.ranges, np.float64, len(layout.entries)),
        (history.idle, np.uint8, size),
        (history.exponent, np.uint8, size),
        *((record.values, np.float64, int(lengths[record.chosen].sum())) for record in state.records),
    ]
    if state.clear is not None:
        expected.append((state.clear, np.bool_, size))
    floats = [state.values, state.ranges, *(record.values for record in state.records)]
    if state.pace is not None:
        expected += [(state.pace.largest, np.float64, lengths.size), (state.pace.age, np.uint32, lengths.size)]
        floats.append(state.pace.largest)
    if (best := state.course.best) is not None:
        expected.append((best.values, np.float64, size))
        floats += [best.values, np.array([best.score, state.course.mark])]
        if not (0 <= best.updates <= state.updates and 0 <= best.refreshes <= len(state.records)):
            return False
    return (
        all(array.dtype == kind and array.shape == (length,) for array, kind, length in expected)
        and all(bool(np.isfinite(array).all()) for array in floats)
        and bool((state.ranges > 0).all())
        and 0 <= state.updates <= state.round
        and state.course.waited >= 0
    )
