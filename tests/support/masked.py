"""Federations with pairwise masks, and without, from which tests begin; what they hold on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dictpfl.common.ckks.keys import load_key
from dictpfl.common.ckks.opening import CKKSOpener
from dictpfl.common.messages.protocol import Stage
from dictpfl.common.messages.wire import Blob
from tests.support.federations import encrypted
from tests.support.harness import World
from tests.support.opened import opened as opened_blob

VICTIM, OTHER = 2, 4


def founded(folder: Path) -> dict[str, World]:
    """Found federations of three and of five with masks, and `bare` ones without."""
    five = {"federation__participants": 5, "federation__rounds": 3}
    return {
        "three": World.found(encrypted(federation__rounds=3, defences__masks=True), folder / "three"),
        "five": World.found(encrypted(**five, defences__masks=True), folder / "five"),
        "bare": World.found(encrypted(**five), folder / "bare"),
        "bare three": World.found(encrypted(federation__rounds=3), folder / "bare-three"),
    }


def upload_of(world: World, node: int) -> bytes:
    """Read the upload that an institution has made and not yet seen counted."""
    pending = world.record(node).pending
    assert pending is not None
    return pending.blob


def told(world: World, node: int) -> Path:
    """Name the file in which an institution notes what it told of masks."""
    return world.memory(node).path.with_suffix(f".{world.genesis.fingerprint.hex()[:16]}.told.json")


def parsed(world: World, upload: bytes) -> Blob:
    """Read an upload as the coordinator does."""
    return Blob.own(upload, world.genesis.parameters.word_bits)


def opened(world: World, upload: bytes) -> np.ndarray:
    """Open an upload as if it were a sum, as institutions would."""
    opener = CKKSOpener(load_key(world.home(0) / "federation.key"))
    return opened_blob(parsed(world, upload), opener, world.genesis.parameters)


def until(world: World, stage: Stage, **options: Any) -> None:
    """Exchange until the next one is of this stage."""
    for _ in range(6):
        if world.coordinator._unmasking.waiting and world.coordinator._unmasking.stage is stage:
            return
        world.exchange(**options)
    raise AssertionError(stage)
