"""Shared values in one round, everything sent: bytes of memory a value while they are sealed, added, opened and applied.

A vision transformer's shapes (ViT-B/16: 86 million values), three institutions one after the other, CKKS as a federation has it, uploads and
sum as files. Each phase's figure is the process's peak less what it held before there was a value: shared state and the institution's
residual are in it, model and training are not. A few tensors are compared with what was sent, bit for bit. "Before" is the same round on an
earlier commit, with ten million. `--small`: ten million values.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dictpfl.common.arrays import Ints
from dictpfl.common.ckks.adding import WordSum
from dictpfl.common.ckks.keys import make_key
from dictpfl.common.ckks.opening import CKKSOpener
from dictpfl.common.ckks.parameters import CKKSParameters
from dictpfl.common.ckks.sealing import CKKSSealer
from dictpfl.common.law.finishing import finish
from dictpfl.common.law.layout import Kind, Layout
from dictpfl.common.law.ledger import Ledger
from dictpfl.common.law.round import begin, seal_update
from dictpfl.common.law.state import SharedState
from dictpfl.common.law.terms import Law
from dictpfl.common.messages.protocol import RoundKind
from dictpfl.common.protection import Encryption
from dictpfl.common.rounds import Grid, Pruning
from dictpfl.common.words import pack_words, unpack_words

INSTITUTIONS = 3
_NAMED = bytes(32)


def layout(values: int) -> Layout:
    """Layout of a vision transformer with the proportions of ViT-B/16, of about so many values."""
    width = round((values / 148) ** 0.5 / 8) * 8
    tensors = [("patches", (width, 3 * width)), ("positions", (197, width))]
    for block in range(12):
        for name, rows in (("qkv", 3), ("out", 1), ("up", 4), ("down", 4)):
            tensors += [(f"{block}.{name}.weight", (rows * width, width)), (f"{block}.{name}.bias", (rows * width,))]
    return Layout.of((name, shape, Kind.DENSE) for name, shape in tensors)


@dataclass
class Peaks:
    """Peaks and seconds of phases, above what the process held at the start."""

    base: int = field(default_factory=lambda: _status("VmRSS"))
    highest: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure a phase; a repeated one counts with its highest peak and all of its seconds."""
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        began = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began
        self.highest[name] = max(self.highest.get(name, 0), _status("VmHWM") - self.base)


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _update(size: int, institution: int) -> NDArray[np.float64]:
    """An institution's update, float64, of the kind that training gives."""
    made = np.empty(size)
    random = np.random.default_rng(institution)
    for start in range(0, size, 1 << 20):
        part = made[start : start + (1 << 20)]
        part[:] = random.standard_normal(part.size, dtype=np.float32) * np.float32(0.002)
    return made


def after(values: int) -> dict[str, Any]:
    """Play one round of so many values; returns its figures."""
    shape = layout(values)
    grid = Grid()
    parameters = CKKSParameters.choose(Encryption(), INSTITUTIONS, grid.value_bits)
    law = Law(shape, Pruning(enabled=False), grid, bytes(32), _NAMED, INSTITUTIONS, parameters.payload_bits, 1)
    key = make_key(parameters)
    sealer, opener = CKKSSealer(key), CKKSOpener(key)
    sealer.prepare(8)
    looked = slice(shape.size // 2, shape.size // 2 + 100_000)
    wanted = np.zeros(100_000)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        peaks = Peaks()
        state = law.start(np.zeros(shape.size) + 0.5)
        seeds = []
        for institution in range(INSTITUTIONS):
            with peaks.phase("sealed"):
                plan = begin(law, state, RoundKind.UPDATE)
                update = _update(shape.size, institution)
                sealable = seal_update(law, plan, update, Ledger(1, 1, 0.0, 0, 0.0, 0.0, np.zeros(0, np.int64)))
                sealed = sealer.seal(sealable.components)
                (folder / f"{institution}.words").write_bytes(pack_words(sealed.words, parameters.word_bits))
                wanted += update[looked] - sealable.residual.values[looked]
                seeds.append(sealed.seed)
                count, words = sealable.components.size, sealed.words.size
            del sealed, sealable, update, plan
        _added(peaks, parameters, folder, words)
        state, digest = _opened(peaks, law, opener, state, folder, (words, count), seeds)
    found = (state.values[looked] - 0.5) * INSTITUTIONS
    if not np.allclose(found, wanted, rtol=0.0, atol=1e-12):
        raise AssertionError("what was applied is not what was sent")
    return {
        "values": shape.size,
        "digest": digest,
        "bytes_a_value": {name: peak / shape.size for name, peak in peaks.highest.items()},
        "most_bytes_a_value": max(peaks.highest.values()) / shape.size,
        "seconds": peaks.seconds,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def _added(peaks: Peaks, parameters: CKKSParameters, folder: Path, words: int) -> None:
    """What the coordinator does."""
    with peaks.phase("added"):
        total = WordSum(parameters.word_prime)
        for institution in range(INSTITUTIONS):
            blob = (folder / f"{institution}.words").read_bytes()
            total.add(total.load(unpack_words(blob, words, parameters.word_bits)))
        (folder / "sum.words").write_bytes(pack_words(total.total(), parameters.word_bits))


def _opened(
    peaks: Peaks, law: Law, opener: CKKSOpener, state: SharedState, folder: Path, sizes: tuple[int, int], seeds: list[bytes]
) -> tuple[SharedState, str]:  # fmt: skip
    """What an institution does, with its own residual still in memory."""
    words, count = sizes
    owed = _update(law.layout.size, 0)
    with peaks.phase("opened"):
        plan = begin(law, state, RoundKind.UPDATE)
        blob = (folder / "sum.words").read_bytes()
        opened: Ints = opener.open(unpack_words(blob, words, opener._parameters.word_bits), seeds, count)  # noqa: SLF001 -- its own
    with peaks.phase("applied"):
        following, _ = finish(law, state, plan, opened, np.zeros(0, np.int64), contributors=INSTITUTIONS)
        digest = following.digest.hex()
    del owed
    return following, digest


def measure(small: bool) -> dict[str, Any]:  # noqa: FBT001 -- every row is called so
    """Measure now and before."""
    from lib.before import COMMIT, before, now

    values = 10_000_000 if small else 86_000_000
    # Ten million show a value's bytes before; of as many as now they would not fit.
    was = before("state", values=min(values, 10_000_000), institutions=INSTITUTIONS)
    return {"now": now(__file__, values=values), "before": was, "before_is": COMMIT}
