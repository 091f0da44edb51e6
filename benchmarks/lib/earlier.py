"""What rows of real sizes call "before": the same measurements with the package of commit 0182c0f, whose modules have other names.

Runs in a process whose path begins with that commit's tree (`lib.before`). Its protocol was another, so that states cannot be compared.
"""

# ruff: noqa: I001, TID251 -- these modules are there in that process only

from __future__ import annotations

import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

SIDE, CLASSES, EACH = 224, 10, 2
"""As in `lib.one_round`, which imports today's package."""


def pictures(institutions: int) -> Any:
    """Noise of a photograph's shape, as a data source of that release."""
    from client.data import Dataset, Samples

    random = np.random.default_rng(0)
    count = (EACH + 2) * institutions
    features = random.standard_normal((count, 3, SIDE, SIDE), dtype=np.float32)
    return Dataset(Samples(features, np.arange(count, dtype=np.int64) % CLASSES), CLASSES)


def one_round(architecture: str, institutions: int, method: str) -> dict[str, Any]:
    """Found the federation of `lib.one_round` and play its round."""
    from common.config import FederationConfig
    from deploy.simulation import simulate

    config = FederationConfig.of({
        "method": method, "federation": {"participants": institutions, "rounds": 1},
        "training": {"steps": 1, "batch_size": 2},
        "data": {"source": "lib.earlier:pictures", "options": {"institutions": institutions}, "validation_share": 0.0},
        "model": {"source": f"timm:{architecture}", "options": {"pretrained": False}},
    })  # fmt: skip
    marks: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        began = time.perf_counter()
        simulate(
            config, Path(name) / "run", engine="local", on_founded=lambda _: marks.append(time.perf_counter()),
            on_round=lambda _: marks.append(time.perf_counter()),
        )  # fmt: skip
        found = {(s.st_dev, s.st_ino): s.st_blocks * 512 for s in (path.lstat() for path in Path(name).rglob("*"))}
    return {
        "institutions": institutions,
        "method": method,
        "seconds_to_found": marks[0] - began,
        "seconds_of_round": marks[1] - marks[0],
        "seconds_an_institution": (marks[1] - marks[0]) / institutions,
        "disk_gib": sum(found.values()) / 2**30,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def state(values: int, institutions: int) -> dict[str, Any]:
    """Seal, add, open and apply one round of so many values; bytes of memory a value."""
    from benchmarks.exchange import Exchange, Memory
    from common.layout import Kind, Layout
    from common.ledger import Ledger
    from common.protocol import RoundKind
    from common.round import Law, begin, finish, seal_update
    from common.settings import Grid, Pruning

    exchange = Exchange(institutions)
    layout = Layout.of([("all", (values,), Kind.DENSE)])
    law = Law(
        layout, Pruning(enabled=False), Grid(first_range=0.1), bytes(32), bytes(32), institutions, exchange.parameters.payload_bits, 1
    )  # fmt: skip
    memory, began = Memory(), time.perf_counter()
    state, random = law.start(np.zeros(values)), np.random.default_rng(1)
    adder = exchange.adder()
    for _ in range(institutions):
        update = random.standard_normal(values) * 0.002
        plan = begin(law, state, RoundKind.UPDATE)
        sealable = seal_update(law, plan, update, Ledger(1, 1, 0.0, 0, 0.0, 0.0, np.zeros(1, dtype=np.int64)))
        sent = b"".join(exchange.sealer.seal(sealable.components))
        del update
        adder.add(adder.load(memoryview(sent), exchange.item_up))
        del sent
    opened = exchange.opener.open(memoryview(b"".join(adder.total())), exchange.item_down)
    state, _ = finish(
        law, state, plan, opened, np.zeros(0, dtype=np.int64), minimum=institutions, contributors=institutions
    )
    seconds, peak = time.perf_counter() - began, memory.peak()
    return {
        "values": values,
        "most_bytes_a_value": (peak - memory.base) / values,
        "seconds": {"all": seconds},
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }
