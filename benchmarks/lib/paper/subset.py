"""What `make bench` measures anew: a handful of cells, whose figures must come out as they stand."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lib.paper.catalogue import named
from lib.paper.cells import Store
from lib.paper.scheduling import rate_of, work

SUBSET: Sequence[str] = (
    "digits/iid/dictpfl/seed-1",
    "digits/iid/plaintext/seed-1",
    "heart/natural/dictpfl/seed-1",
    "tcga/natural/dictpfl/seed-1",
    "arms/dense/all/seed-1",
    "cifar10/iid/dictpfl/seed-1",
)
"""One of each kind of data, and the large model once. Their rates are not tuned anew."""
POINTS = 0.5
"""Points of the test figure by which a cell may differ: another processor has other last bits, and so another digest."""


def rerun(store: Store, jobs: int) -> int:
    """Measure the subset anew, compare, and keep what is new; the exit status: 1 if a cell failed or came out otherwise."""
    cells = []
    for name in SUBSET:
        cell = named(name)
        if rate_of(cell, store)[1]:
            _say(name, f"its rate is not tuned yet; left out. python benchmarks/paper.py --only {name}")
        else:
            cells.append(cell)
    with tempfile.TemporaryDirectory(prefix="anew-") as folder:
        anew = Store(Path(folder) / "results")
        progress = work(cells, anew, jobs, Path(folder), rates=lambda cell: rate_of(cell, store))
        wrong = 0
        for name in progress.done:
            earlier, now = store.read(name), anew.read(name)
            cell = named(name)
            stands = store.result(cell, rate_of(cell, store)[0]) is not None
            verdict, is_right = compared(earlier, now or {}, stands=stands)
            _say(name, verdict)
            wrong += not is_right
            store.take(name, anew)
    return int(bool(wrong or progress.failed))


def compared(earlier: Mapping[str, Any] | None, now: Mapping[str, Any], *, stands: bool) -> tuple[str, bool]:
    """How a cell came out beside its earlier result, and whether that is as it should be.

    Args:
        stands: whether the earlier one was measured with today's settings (`Store.result`).
    """
    if earlier is None:
        return "measured for the first time", True
    if not stands:
        return "its settings have changed since, nothing to compare", True
    before, after = earlier["figures"], now["figures"]
    if before["state_digest"] == after["state_digest"] and before["loss"] == after["loss"]:
        # Plaintext is played in one process and has no state to digest: its loss alone says so.
        return "the same model, bit for bit" if after["state_digest"] else "the same test loss, to the last digit", True
    difference = after["accuracy"] - before["accuracy"]
    where = (
        "on another processor"
        if earlier["measured"]["processor"] != now["measured"]["processor"]
        else "on the same processor"
    )
    return f"another model {where}, test {difference:+.2f} points", abs(difference) <= POINTS


def _say(name: str, what: str) -> None:
    print(f"{name}: {what}", file=sys.stderr)
