"""Shared state as bytes, from which a newcomer starts: sums under keys of earlier epochs are closed to it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from dictpfl.common.documents import parse_document
from dictpfl.common.errors import ConfigError
from dictpfl.common.law.layout import Layout
from dictpfl.common.law.pruning import History
from dictpfl.common.law.selection import Best, Course
from dictpfl.common.law.state import Pace, Refresh, SharedState
from dictpfl.common.law.tally import Tallied, Tally

_FORMAT = "dictpfl-state-1"


def to_bytes(state: SharedState, federation: bytes) -> bytes:
    """Encode as safetensors; the same state gives the same bytes."""
    tensors, facts = taken_apart(state)
    facts |= {"format": _FORMAT, "federation": federation.hex(), "digest": state.digest.hex()}
    packed = {**tensors, "facts": np.frombuffer(json.dumps(facts, sort_keys=True).encode(), dtype=np.uint8)}
    return bytes(save(packed))


def of_bytes(data: bytes, federation: bytes, layout: Layout, tallies: Sequence[Tally] = ()) -> SharedState:
    """Decode what `to_bytes` made, for the agreed layout and tallies; the bytes may come from a party that lies.

    Raises:
        ConfigError: damaged, of another federation, or of other shapes.
    """
    try:
        tensors = {name: np.array(tensor) for name, tensor in load(data).items()}
        facts = parse_document(tensors.pop("facts").tobytes(), _FORMAT, "a state of all", ConfigError)
        state = put_together(tensors, facts)
        good = facts["federation"] == federation.hex()
        good = good and facts["digest"] == state.digest.hex() and state.fits(layout, tallies)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"a snapshot of shared state is damaged ({type(error).__name__}); export it again") from error
    if not good:
        raise ConfigError("a snapshot of shared state is damaged or of another federation; export it again")
    return state


def taken_apart(state: SharedState) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Split a state into arrays by name and JSON values; the same for snapshots and for an institution's memory."""
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
    tensors |= {f"moment/{i}": moment for i, moment in enumerate(state.moments)}
    if state.clear is not None:
        tensors["clear"] = state.clear
    if state.scores is not None:
        tensors["scores"] = state.scores
    facts: dict[str, Any] = {"round": state.round, "updates": state.updates, "acknowledged": state.acknowledged.hex()}
    if state.void_scores:
        facts["void_scores"] = state.void_scores
    if state.rescored:
        facts["rescored"] = state.rescored
    if state.tallies:
        tensors |= {f"tally/{i:03d}": one.sums for i, one in enumerate(state.tallies)}
        facts["tallies"] = [one.facts() for one in state.tallies]
    if (best := state.course.best) is not None:
        tensors["best"] = best.values
        facts["course"] = {
            "score": best.score, "updates": best.updates, "refreshes": best.refreshes,
            "mark": state.course.mark, "waited": state.course.waited,
        }  # fmt: skip
    return tensors, facts


def put_together(tensors: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> SharedState:
    """Rebuild the state that `taken_apart` split; further arrays and values are ignored.

    Raises:
        KeyError: an array or value is missing.
        TypeError, ValueError: a value of another kind.
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
        scores=tensors.get("scores"),
        records=tuple(
            Refresh(tensors[name.replace("record/", "chosen/")], tensors[name])
            for name in sorted(tensors)
            if name.startswith("record/")
        ),
        course=course,
        void_scores=int(facts.get("void_scores", 0)),
        rescored=int(facts.get("rescored", 0)),
        acknowledged=bytes.fromhex(facts["acknowledged"]),
        moments=tuple(tensors[name] for name in sorted(tensors) if name.startswith("moment/")),
        tallies=tuple(
            Tallied(str(name), str(when), int(participants), int(samples), tensors[f"tally/{i:03d}"])
            for i, (name, when, participants, samples) in enumerate(facts.get("tallies", []))
        ),
        pace=Pace(tensors["pace/largest"], tensors["pace/age"]) if "pace/age" in tensors else None,
    )
