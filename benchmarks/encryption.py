"""What encryption costs a value: bytes and nanoseconds, beside float32 in clear and TenSEAL as tutorials use it.

    python benchmarks/encryption.py            # 10^4 to 10^7 values, about three minutes
    python benchmarks/encryption.py --quick    # up to 150,000 values, for a look; writes nothing

Values are integers of `value_bits` from 8 participants. What goes up and down are whole blobs of `common.wire`,
header included; every opened sum is compared with the integer sum. Exits with 1 if a requirement is not met.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import tenseal as ts
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.machine import (
    Requirement,
    conclude,
    machine,
    markdown_table,
    median,
    panels,
    preamble,
    requirement_lines,
    write_results,
)
from common.adding import ckks_adder
from common.keys import FederationKey, make_key
from common.opening import CKKSOpener
from common.packing import Digits, Ints, pack, unpack
from common.parameters import CKKSParameters
from common.protocol import RoundKind
from common.sealing import CKKSSealer
from common.settings import Encryption
from common.wire import AGGREGATE, UPLOAD, Blob, Header, Limits, write
from deploy.founding import item_lengths
from deploy.plots import COLOURS

PARTICIPANTS = 8
SIZES = (10_000, 100_000, 150_000, 1_000_000, 10_000_000)
JUDGED_SIZE = 150_000
TENSEAL_SLOTS = 4096
TURNS = {10_000: 16, 100_000: 8, 150_000: 31, 1_000_000: 4, 10_000_000: 1}
"""Repetitions by size; of several, the first warms up and is not counted."""
MOST_BYTES = {8: (2.1, 4.1), 10: (2.75, 5.5)}
LEAST_SPEEDUP = 20.0
OURS = ("prepare", "pack", "seal", "fold", "open", "unpack")
SEAL_AND_OPEN = ("pack", "seal", "open", "unpack")
"""What a round waits for. `prepare` is done while an institution waits for the others."""
ALL_WORK = ("prepare", *SEAL_AND_OPEN)


class Stopwatch:
    """Seconds by phase; a phase entered several times within a turn adds up."""

    def __init__(self) -> None:
        self.turns: dict[str, list[float]] = {}
        self._now: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str, share: float = 1.0) -> Iterator[None]:
        """Time what is inside; it counts by its share of the phase."""
        began = time.perf_counter()
        yield
        self._now[name] = self._now.get(name, 0.0) + share * (time.perf_counter() - began)

    def turn(self) -> None:
        """Close a repetition."""
        for name, seconds in self._now.items():
            self.turns.setdefault(name, []).append(seconds)
        self._now = {}

    def medians(self) -> dict[str, float]:
        """Median seconds of each phase."""
        return {name: median(seconds) for name, seconds in self.turns.items()}


class Ours:
    """A federation of `PARTICIPANTS` at `value_bits`, as institution and coordinator run it, blobs included."""

    def __init__(self, value_bits: int) -> None:
        parameters = CKKSParameters.choose(Encryption(), PARTICIPANTS)
        self.key: FederationKey = make_key(parameters)
        self.digits = Digits.fit(value_bits, PARTICIPANTS, parameters.payload_bits)
        self.largest = 2 ** (value_bits - 1) - 1
        self._sealer, self._opener = CKKSSealer(self.key), CKKSOpener(self.key)
        self._lengths = item_lengths(self._sealer, parameters)
        self.name = f"dictpfl-{value_bits}bit"
        self.watch = Stopwatch()
        self.up = self.down = 0

    def run(self, values: Ints) -> None:
        """Every institution packs and seals the same values afresh, the coordinator folds, one institution opens.

        Noise has to be fresh: one ciphertext added eight times would carry eight times its noise, not sqrt(8) times.

        Raises:
            AssertionError: the opened sum is not the integer sum.
        """
        watch, limits = self.watch, self._limits(values.size)
        adder = ckks_adder(self.key.parameters)
        for institution in range(PARTICIPANTS):
            with watch.phase("prepare", 1 / PARTICIPANTS):
                self._sealer.prepare(self.key.parameters.ciphertexts(self.digits.components(values.size)))
            with watch.phase("pack", 1 / PARTICIPANTS):
                components = pack(values, self.digits)
            with watch.phase("seal", 1 / PARTICIPANTS):
                upload = write(self._header(UPLOAD), self._sealer.seal(components))
            # The first upload is kept, not added.
            with watch.phase("fold", 1 / (PARTICIPANTS - 1) if institution else 0.0):
                blob = Blob.parse(upload, limits[0], direction=UPLOAD, kind=RoundKind.UPDATE, round=1)
                adder.add(adder.load(blob.sealed, blob.header.item_length))
        with watch.phase("total"):
            aggregate = write(self._header(AGGREGATE), adder.total())
        with watch.phase("open"):
            blob = Blob.parse(aggregate, limits[1], direction=AGGREGATE, kind=RoundKind.UPDATE, round=1)
            opened = self._opener.open(blob.sealed, blob.header.item_length)
        with watch.phase("unpack"):
            total = unpack(opened[: components.size], values.size, self.digits)
        assert np.array_equal(total, PARTICIPANTS * values), "the opened sum is not the integer sum"
        self.up, self.down = len(upload), len(aggregate)

    def _header(self, direction: int) -> Header:
        contributors = 1 if direction == UPLOAD else PARTICIPANTS
        return Header(
            direction, RoundKind.UPDATE, 1, bytes(32), self.key.fingerprint, bytes(32), contributors=contributors
        )

    def _limits(self, values: int) -> tuple[Limits, Limits]:
        items = self.key.parameters.ciphertexts(self.digits.components(values))
        up, down = (Limits(bytes(32), self.key.fingerprint, length, items, 0, PARTICIPANTS) for length in self._lengths)
        return up, down


class TenSEAL:
    """`ts.ckks_vector` as tutorials use it: (8192, [60, 40, 40]), scale 2^40, 4,096 reals a ciphertext."""

    name = "tenseal-ckks_vector"

    def __init__(self) -> None:
        self._context = ts.context(ts.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[60, 40, 40])
        self._context.global_scale = 2**40
        self.watch = Stopwatch()
        self.up = self.down = 0
        self.error = 0.0

    def run(self, values: NDArray[np.float32]) -> None:
        """Encrypt and serialise, load and add, load and decrypt, chunk by chunk; one upload stands for all eight."""
        watch, context = self.watch, self._context
        self.up = self.down = 0
        for start in range(0, values.size, TENSEAL_SLOTS):
            chunk = values[start : start + TENSEAL_SLOTS]
            with watch.phase("seal"):
                upload = ts.ckks_vector(context, chunk.tolist()).serialize()
            total = ts.ckks_vector_from(context, upload)
            for _ in range(PARTICIPANTS - 1):
                with watch.phase("fold", 1 / (PARTICIPANTS - 1)):
                    total += ts.ckks_vector_from(context, upload)
            with watch.phase("total"):
                aggregate = total.serialize()
            with watch.phase("open"):
                opened = ts.ckks_vector_from(context, aggregate).decrypt()
            self.error = max(self.error, float(np.abs(np.array(opened) - PARTICIPANTS * chunk).max()))
            self.up, self.down = self.up + len(upload), self.down + len(aggregate)


class Clear:
    """float32 without encryption: bytes of an array, added by numpy."""

    name = "float32-clear"

    def __init__(self) -> None:
        self.watch = Stopwatch()
        self.up = self.down = 0

    def run(self, values: NDArray[np.float32]) -> None:
        """The same exchange in clear."""
        watch = self.watch
        with watch.phase("seal"):
            upload = values.tobytes()
        total = np.frombuffer(upload, np.float32).copy()
        with watch.phase("fold"):
            total += np.frombuffer(upload, np.float32)
        with watch.phase("total"):
            aggregate = total.tobytes()
        with watch.phase("open"):
            np.frombuffer(aggregate, np.float32).copy()
        self.up, self.down = len(upload), len(aggregate)


def measure(count: int, bits: tuple[int, ...]) -> list[dict[str, Any]]:
    """Rows of one size: each scheme in turns, medians of the turns."""
    random = np.random.default_rng(count)
    ours = [Ours(b) for b in bits]
    integers = {scheme.name: random.integers(-scheme.largest, scheme.largest + 1, count) for scheme in ours}
    floats = (integers[ours[0].name] / 4096).astype(np.float32)
    turns: list[tuple[Any, Any]] = [(scheme, integers[scheme.name]) for scheme in ours]
    turns += [(Clear(), floats), (TenSEAL(), floats)]
    for turn in range(TURNS[count]):
        for scheme, values in turns:
            gc.collect()
            scheme.run(values)
            scheme.watch.turn()
            if turn == 0 and TURNS[count] > 1:
                scheme.watch.turns.clear()  # a first turn warms up
    return [_row(count, scheme) for scheme, _ in turns]


def _row(count: int, scheme: Any) -> dict[str, Any]:
    seconds, turns = scheme.watch.medians(), scheme.watch.turns
    return {
        "values": count,
        "scheme": scheme.name,
        "bytes_up": scheme.up,
        "bytes_down": scheme.down,
        "bytes_per_value_up": scheme.up / count,
        "bytes_per_value_down": scheme.down / count,
        "seconds": seconds,
        "ns_per_value": {phase: 1e9 * s / count for phase, s in seconds.items()},
        "seal_and_open_fastest": min(map(sum, zip(*(turns[p] for p in SEAL_AND_OPEN if p in turns), strict=True))),
        "all_work_fastest": min(map(sum, zip(*(turns[p] for p in ALL_WORK if p in turns), strict=True))),
        "largest_error": scheme.error if isinstance(scheme, TenSEAL) else 0.0,
        "turns": len(scheme.watch.turns["seal"]),
    }


def requirements(rows: list[dict[str, Any]]) -> list[Requirement]:
    """What the issue asks for; bytes at the largest size, for whole ciphertexts are sent."""
    largest = max(row["values"] for row in rows)
    by = {(row["values"], row["scheme"]): row for row in rows}
    found = []
    for bits, (up, down) in MOST_BYTES.items():
        row = by[largest, f"dictpfl-{bits}bit"]
        found += [
            Requirement(f"bytes a value up, {bits}-bit values, {PARTICIPANTS} participants, {largest:,} values",
                        "at most", up, row["bytes_per_value_up"], "B"),
            Requirement(f"bytes a value down, {bits}-bit values", "at most", down, row["bytes_per_value_down"], "B"),
        ]  # fmt: skip
    found.append(
        Requirement(f"sealing + opening {JUDGED_SIZE:,} values, 8 bits, encryptions of zero prepared ahead, times "
                    "faster than ts.ckks_vector (medians)", "at least", LEAST_SPEEDUP, speedup(rows, 8)["medians"], "x")
    )  # fmt: skip
    return found


def speedup(rows: list[dict[str, Any]], bits: int) -> dict[str, float]:
    """How many times faster than `ts.ckks_vector` sealing + opening is, by medians and by the fastest turns.

    `all_work`: with what is prepared ahead counted, too, as it is where an institution has no time to prepare.
    """
    by = {row["scheme"]: row for row in rows if row["values"] == JUDGED_SIZE}
    ours, theirs = by[f"dictpfl-{bits}bit"], by[TenSEAL.name]
    return {
        "medians": _seconds(theirs, SEAL_AND_OPEN) / _seconds(ours, SEAL_AND_OPEN),
        "all_work": _seconds(theirs, ALL_WORK) / _seconds(ours, ALL_WORK),
        "fastest_turns": theirs["seal_and_open_fastest"] / ours["seal_and_open_fastest"],
    }


def _seconds(row: dict[str, Any], phases: tuple[str, ...]) -> float:
    return float(sum(row["seconds"].get(phase, 0.0) for phase in phases))


def table(rows: list[dict[str, Any]]) -> str:
    """All rows: bytes, and nanoseconds a value of each phase."""
    heads = ["values", "scheme", "up, B", "up, B/value", "down, B/value", *OURS, "seal + open, ms"]  # fmt: skip
    return markdown_table(
        heads,
        [
            [f"{row['values']:,}", row["scheme"], f"{row['bytes_up']:,}", f"{row['bytes_per_value_up']:.3f}",
             f"{row['bytes_per_value_down']:.3f}",
             *(f"{row['ns_per_value'][p]:.1f}" if p in row["ns_per_value"] else "-" for p in OURS),
             f"{1e3 * _seconds(row, SEAL_AND_OPEN):.2f}"]
            for row in rows
        ],
    )  # fmt: skip


def plot(rows: list[dict[str, Any]]) -> Figure:
    """Bytes a value up, and nanoseconds a value to seal and open, against the number of values."""
    figure, (size, speed) = panels("Bytes a value, up", "Seal + open, nanoseconds a value")
    for colour, name in zip(COLOURS, dict.fromkeys(row["scheme"] for row in rows), strict=False):
        chosen = [row for row in rows if row["scheme"] == name]
        counts = [row["values"] for row in chosen]
        size.plot(counts, [row["bytes_per_value_up"] for row in chosen], "o-", color=colour, label=name)
        speed.plot(
            counts,
            [1e9 * _seconds(row, SEAL_AND_OPEN) / row["values"] for row in chosen],
            "o-",
            color=colour,
            label=name,
        )
    for ax in (size, speed):
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xlabel("values")
    size.legend(frameon=False, fontsize=8)
    return figure


def page(rows: list[dict[str, Any]], found: list[Requirement], facts: dict[str, Any]) -> str:
    """benchmarks/results/encryption.md."""
    smallest, fast = rows[0], speedup(rows, 8)
    ours, wide = (
        next(r for r in rows if r["scheme"] == f"dictpfl-{b}bit" and r["values"] == JUDGED_SIZE) for b in MOST_BYTES
    )
    error = max(row["largest_error"] for row in rows)
    return f"""# Encryption: bytes and time a value

{preamble(facts, "python benchmarks/encryption.py")}

{table(rows)}

Phases are nanoseconds a value, medians of turns in which all schemes took part one after another. `seal` is add integers,
encrypt, serialise and the blob, with encryptions of zero at hand that `prepare` made; `fold` is one upload validated, parsed and added; `open` is parse, decrypt,
round; `seal + open` has pack and unpack in it. {PARTICIPANTS} participants; blobs of `common.wire` with their header of
232 bytes. All opened sums equalled the integer sums; `ts.ckks_vector`, fed floats
below 0.04, was off by up to {error:.1e} (one upload added eight times).

Sealing and opening {JUDGED_SIZE:,} values is {fast["medians"]:.1f} times faster than `ts.ckks_vector` by medians
({fast["fastest_turns"]:.1f} by the fastest turns, which other processes disturb least), where an institution prepares
while it waits for the others, as one that `dictpfl institution up` runs does; with preparing counted as well, as in a
simulation, where all institutions share the cores, {fast["all_work"]:.1f} times. At 10 bits, which need
{wide["bytes_up"] / ours["bytes_up"]:.2f} times the bytes, {speedup(rows, 10)["medians"]:.1f} and {speedup(rows, 10)["all_work"]:.1f} times.

Whole ciphertexts are sent: {smallest["values"]:,} values cost {smallest["bytes_up"]:,} bytes up, and a single value as
much as one ciphertext holds. Requirements on bytes are judged at the largest size.

## Requirements

{requirement_lines(found)}

![bytes and time a value](encryption.svg)
"""


def main() -> int:
    """Measure, print, write results; 1 if a requirement is not met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="up to 150,000 values; writes no results")
    arguments = parser.parse_args()
    facts = machine()
    rows: list[dict[str, Any]] = []
    for count in SIZES:
        if not arguments.quick or count <= JUDGED_SIZE:
            rows += measure(count, tuple(MOST_BYTES))
            print(f"{count:,} values done", file=sys.stderr)
    found = requirements(rows)
    print(table(rows))
    for bits in MOST_BYTES:
        fast = speedup(rows, bits)
        print(f"\n{bits} bits: seal + open {JUDGED_SIZE:,} values {fast['medians']:.1f} times faster than ts.ckks_vector "
              f"by medians, {fast['fastest_turns']:.1f} by the fastest turns; with preparing counted {fast['all_work']:.1f}")  # fmt: skip
    if not arguments.quick:
        figures = {
            "machine": facts,
            "rows": rows,
            "speedup": {bits: speedup(rows, bits) for bits in MOST_BYTES},
            "requirements": [r.to_json() for r in found],
        }
        write_results("encryption", figures, page(rows, found, facts), plot(rows))
    return conclude(found)


if __name__ == "__main__":
    sys.exit(main())
