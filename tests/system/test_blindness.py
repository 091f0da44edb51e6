"""What lies with the coordinator, and what it writes to its log, says nothing of keys, data, paths or counts."""

from __future__ import annotations

import base64
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import pytest

import dictpfl.client.memory.record
import dictpfl.server.app
from dictpfl.client.data.samples import Samples
from dictpfl.client.folder import InstitutionSettings
from dictpfl.common.ckks.keys import load_key
from dictpfl.common.errors import DictPFLError
from dictpfl.deploy.simulation.local import Fault, run_local
from tests.support.failing_disks import full_disk
from tests.support.federations import encrypted
from tests.support.harness import INSTITUTION_POINTS, World

pytestmark = pytest.mark.usefixtures("quiet")
NAME = "Sankt-Ansgar-Spital"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World.found(encrypted(federation__participants=5, federation__rounds=3), tmp_path / "ward-nine")
    for node in made.nodes:
        InstitutionSettings(name=f"{NAME}-{node}").save(made.home(node))
    yield made
    made.close()


def held(world: World) -> bytes:
    """Every byte in the coordinator's folders, write-ahead log included."""
    files = [path for path in world.folder.glob("coordinator*/*") if path.is_file()]
    assert any(path.name.endswith("-wal") for path in files)
    return b"".join(path.read_bytes() for path in files)


def windows(data: bytes, size: int = 16) -> list[bytes]:
    """Pieces of a secret, so that a part of it is found as well; those without entropy left out."""
    pieces = [data[i : i + size] for i in range(0, max(1, len(data) - size), size)]
    return [piece for piece in pieces if len(set(piece)) > size // 3]


def test_the_coordinators_files_hold_no_secret(world: World) -> None:
    while world.coordinator._state.next_kind() is not None:
        world.exchange(lost=[1] if world.exchanges == 1 else ())
        data = held(world)
    key, genesis = load_key(world.home(0) / "federation.key"), world.genesis
    record = world.record(0)
    secrets: dict[str, bytes] = {
        # Without SEAL's header and the parameters' id, which every ciphertext bears as well.
        "secret key": key.secret[96:],
        "seed": genesis.seed,
        "values": genesis.values.tobytes(),
        "shared values": record.shared.values.tobytes(),
        "shared values in single precision": record.shared.values.astype("<f4").tobytes(),
        "residual": record.residual.values.tobytes(),
        "the memory's own secret": record.secret,
        "weights": (world.home(0) / "weights.safetensors").read_bytes()[-2000:],
        "features": Samples.load(world.home(0) / "train.npz").features.tobytes()[:5000],
        "name": NAME.encode(),
        "path": str(world.folder).encode(),
    }
    secrets |= {f"dictionary {name}": d.matrix.tobytes() for name, d in genesis.dictionaries.items()}
    found = []
    for what, secret in secrets.items():
        forms: list[bytes] = [*windows(secret), *windows(secret.hex().encode()), *windows(base64.b64encode(secret))]
        forms += [secret] if what in {"name", "path"} else []
        assert forms, what
        found += [what for form in forms if form in data]
    assert found == []


def test_a_search_that_finds_what_is_there(world: World) -> None:
    """The search above would find a secret: in the institutions' own files it does."""
    world.exchange()
    record = world.record(0)
    data = world.memory(0).path.read_bytes()
    assert any(piece in data for piece in windows(record.shared.values.tobytes()))
    key = load_key(world.home(0) / "federation.key")
    text = (world.home(0) / "federation.key").read_bytes()
    assert any(piece in text for piece in windows(base64.b64encode(key.secret)[128:]))


class Log:
    """Stands in for the coordinator's loggers and keeps every word."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __getattr__(self, level: str) -> Callable[..., None]:
        def write(event: str, **facts: Any) -> None:
            self.lines.append(f"{level} {event} {facts!r}")

        return write


def logging_modules() -> list[ModuleType]:
    """All modules of the coordinator's process that log."""
    modules = {
        name: module
        for name, module in sys.modules.items()
        if name.startswith("dictpfl.server.") and hasattr(module, "_log")
    }
    assert {f"dictpfl.server.{name}" for name in ("coordinator", "strategy", "exchanges.round")} <= set(modules)
    return list(modules.values())


def forbidden(world: World) -> re.Pattern[str]:
    sizes = {len(Samples.load(world.home(n) / name)) for n in world.nodes for name in ("train.npz", "validation.npz")}
    # Small numbers are rounds, nodes and counts of messages as well; sizes below that tell nothing apart.
    counts = [str(size) for size in sizes if size > 12]
    assert counts
    return re.compile(
        "|".join([NAME, "ward-nine", "institution-0", re.escape(str(world.folder)), *(rf"\b{c}\b" for c in counts)])
    )


def test_the_coordinators_log_says_nothing(world: World) -> None:
    log, faults, calls = Log(), list(Fault), []

    def fault(partition: int, _message: object) -> Fault:
        calls.append(partition)
        return faults[len(calls) % len(faults)] if partition in (0, 3) else Fault.NONE

    with (
        ExitStack() as patches,
        mock.patch("time.sleep", return_value=None),
    ):
        for module in logging_modules():
            patches.enter_context(mock.patch.object(module, "_log", log))
        world.memory(4).path.write_bytes(b"damaged, by " + NAME.encode())
        (world.home(2) / "federation.key").chmod(0o644)
        try:
            run_local(world.coordinator_folder, world.folder / "institutions", 5, faults=fault)
        except DictPFLError as error:
            log.lines += traceback.format_exception_only(error)
        (world.home(2) / "federation.key").chmod(0o600)
        world.memory(4).path.unlink()
        world.exchange(
            {1: lambda: full_disk(dictpfl.client.memory.record, "replace_private"), 3: INSTITUTION_POINTS["replying"]}
        )
        world.run()
    text = "\n".join(log.lines)
    assert {"'memory'", "'key-file'"} <= set(re.findall(r"'[a-z-]+'", text))
    assert "flower-error" in text
    assert forbidden(world).findall(text) == []


def test_the_journal_tells_no_counts(world: World) -> None:
    """Sizes of uploads are the same for everybody, whatever an institution holds."""
    requests = world.coordinator.begin(world.nodes)
    sizes = set()
    for node, request in requests.items():
        if node == 4:
            samples = Samples.load(world.home(4) / "train.npz")
            samples.take(np.arange(1)).save(world.home(4) / "train.npz")
        sizes.add(len(world.converse(node, request).blob))
    world.coordinator.close()
    assert len(sizes) == 1
