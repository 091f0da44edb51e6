"""What encryption costs a value: bytes against their floor, and time against protocol 3 and TenSEAL as tutorials use it.

    python benchmarks/encryption.py            # up to 10^6 values, 3 to 100 institutions, about four minutes
    python benchmarks/encryption.py --quick    # up to 100,000 values, for a look; writes nothing

Bytes are those of whole blobs of `dictpfl.common.messages.wire`, header and tags included, as institutions and coordinator send them;
every opened sum is compared with the integer sum. The floor of a value is log2 R bits, of R possible sums. Exits with 1 if
a requirement is not met.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import tenseal as ts
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dictpfl.common.arrays import Ints
from dictpfl.common.messages.protocol import RoundKind
from dictpfl.common.messages.wire import AGGREGATE, Blob
from dictpfl.deploy.reports.plots import COLOURS
from lib.exchange import Exchange
from lib.machine import (
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
from lib.protocol3 import Protocol3

INSTITUTIONS, BITS = (3, 8, 100), (2, 4, 8)
SIZES = (1_000, 10_000, 100_000, 1_000_000)
TIMED = (3, 8)
"""Institutions and bits of a value in the comparison of time."""
TURNS = {1_000: 15, 10_000: 15, 100_000: 11, 1_000_000: 5}
"""Repetitions by size; the first warms up and is not counted."""
TENSEAL_SLOTS = 4096
MOST_FLOORS = 1.25
MOST_SMALL = 2_000
MOST_CLEAR = 1.4
MOST_SLOWER = 1.2
PHASES = ("seal", "fold", "open")


class Stopwatch:
    """Processor seconds by phase; a phase entered several times within a turn adds up."""

    def __init__(self) -> None:
        self.turns: dict[str, list[float]] = {}
        self._now: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str, share: float = 1.0) -> Iterator[None]:
        """Time what is inside; it counts by its share of the phase."""
        began = time.process_time()
        yield
        self._now[name] = self._now.get(name, 0.0) + share * (time.process_time() - began)

    def turn(self) -> None:
        """Close a repetition."""
        for name, seconds in self._now.items():
            self.turns.setdefault(name, []).append(seconds)
        self._now = {}

    def medians(self) -> dict[str, float]:
        """Median seconds of each phase."""
        return {name: median(seconds) for name, seconds in self.turns.items()}


def weighed(institutions: int, value_bits: int, values: int) -> dict[str, Any]:
    """Bytes of a round for real: every institution seals, the coordinator adds, one opens.

    Raises:
        AssertionError: the opened sum is not the integer sum, or a blob has another length than counted.
    """
    exchange = Exchange(institutions, value_bits)
    fold, total = exchange.fold(values), np.zeros(values, dtype=np.int64)
    for institution in range(institutions):
        own = exchange.values(values, institution)
        upload = exchange.upload(own, member=institution)
        fold.add(institution, upload)
        total += own
    aggregate, _, _ = fold.aggregate()
    assert np.array_equal(exchange.open(aggregate, values), total), "the opened sum is not the integer sum"
    assert (len(upload), len(aggregate)) == (exchange.bytes_up(values), exchange.bytes_down(values)), "miscounted"
    before = Protocol3(institutions, value_bits)
    before.prepare(values)
    old = before.upload(exchange.values(values))
    digits = exchange.digits.components(values) * exchange.parameters.payload_bits / 8
    return {
        "institutions": institutions,
        "value_bits": value_bits,
        "values": values,
        "bytes_up": len(upload),
        "bytes_down": len(aggregate),
        "floor_bits": exchange.floor,
        "floors_up": 8 * len(upload) / values / exchange.floor,
        "floors_down": 8 * len(aggregate) / values / exchange.floor,
        "over_digits_in_clear": len(upload) / digits,
        "bytes_up_protocol_3": len(old),
        "digits": exchange.digits.per_component,
        "parameters": exchange.parameters.to_json(),
    }


class Ours:
    """This project's exchange, blobs and tags included."""

    name = "dictpfl"

    def __init__(self) -> None:
        self._exchange = Exchange(*TIMED)
        self.watch = Stopwatch()
        self.up = self.down = 0

    def run(self, values: Ints) -> None:
        """Institutions prepare, seal and tag, the coordinator adds, one institution checks the tags and opens."""
        exchange, watch, count = self._exchange, self.watch, values.size
        uploads = []
        for member in range(exchange.participants):
            with watch.phase("seal", 1 / exchange.participants):
                exchange.prepare(count)
                uploads.append(exchange.upload(values, member=member))
        with watch.phase("fold", 1 / exchange.participants):
            fold = exchange.fold(count)
            for member, upload in enumerate(uploads):
                fold.add(member, upload)
            aggregate, _, _ = fold.aggregate()
        with watch.phase("open"):
            total = exchange.open(aggregate, count)
        assert np.array_equal(total, exchange.participants * values), "the opened sum is not the integer sum"
        limits = exchange.limits(exchange.words(count))
        blob = Blob.parse(aggregate, limits, direction=AGGREGATE, kind=RoundKind.UPDATE, round=1)
        with watch.phase("tags of a sum"):
            exchange.authentic(blob)
        self.up, self.down = len(uploads[0]), len(aggregate)


class Before:
    """Protocol 3, without tags."""

    name = "protocol 3"

    def __init__(self) -> None:
        self._exchange = Protocol3(*TIMED)
        self.watch = Stopwatch()
        self.up = self.down = 0

    def run(self, values: Ints) -> None:
        """The same exchange."""
        exchange, watch = self._exchange, self.watch
        uploads = []
        for _ in range(exchange.participants):
            with watch.phase("seal", 1 / exchange.participants):
                uploads.append(exchange.upload(values))
        with watch.phase("fold", 1 / exchange.participants):
            aggregate = exchange.fold(uploads)
        with watch.phase("open"):
            total = exchange.open(aggregate, values.size)
        assert np.array_equal(total, exchange.participants * values), "the opened sum is not the integer sum"
        self.up, self.down = len(uploads[0]), len(aggregate)


class TenSEAL:
    """`ts.ckks_vector` as tutorials use it: (8192, [60, 40, 40]), scale 2^40, 4,096 reals a ciphertext."""

    name = "ts.ckks_vector"

    def __init__(self) -> None:
        self._context = ts.context(ts.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[60, 40, 40])
        self._context.global_scale = 2**40
        self.watch = Stopwatch()
        self.up = self.down = 0

    def run(self, values: Ints) -> None:
        """Encrypt and serialise, load and add, load and decrypt, chunk by chunk; one upload stands for all."""
        watch, context, institutions = self.watch, self._context, TIMED[0]
        floats: NDArray[np.float32] = (values / 4096).astype(np.float32)
        self.up = self.down = 0
        for start in range(0, floats.size, TENSEAL_SLOTS):
            chunk = floats[start : start + TENSEAL_SLOTS]
            with watch.phase("seal"):
                upload = ts.ckks_vector(context, chunk.tolist()).serialize()
            total = ts.ckks_vector_from(context, upload)
            with watch.phase("fold", 1 / institutions):
                for _ in range(institutions - 1):
                    total += ts.ckks_vector_from(context, upload)
                aggregate = total.serialize()
            with watch.phase("open"):
                opened = ts.ckks_vector_from(context, aggregate).decrypt()
            assert np.abs(np.array(opened) - institutions * chunk).max() < 1e-4, "the opened sum is not the sum"
            self.up, self.down = self.up + len(upload), self.down + len(aggregate)


def timed(values: int) -> list[dict[str, Any]]:
    """Seconds of processor time by phase, of all schemes in turns: medians, and medians of paired ratios to protocol 3."""
    schemes: list[Any] = [Ours(), Before(), TenSEAL()]
    numbers = np.random.default_rng(values).integers(-127, 128, values)
    for turn in range(TURNS[values]):
        for scheme in schemes:
            gc.collect()
            scheme.run(numbers)
            scheme.watch.turn()
            if turn == 0:
                scheme.watch.turns.clear()  # a first turn warms up
    before = schemes[1].watch.turns
    rows = []
    for scheme in schemes:
        turns = scheme.watch.turns
        ratios = {p: median([a / b for a, b in zip(turns[p], before[p], strict=True)]) for p in PHASES}
        rows.append({
            "values": values, "scheme": scheme.name, "bytes_up": scheme.up, "bytes_down": scheme.down,
            "seconds": scheme.watch.medians(), "times_protocol_3": ratios, "turns": TURNS[values] - 1,
        })  # fmt: skip
    return rows


def requirements(sizes: list[dict[str, Any]], times: list[dict[str, Any]]) -> list[Requirement]:
    """What issue 13 asks for."""
    largest = max(row["values"] for row in sizes)
    needed = [
        Requirement(f"{row['institutions']} institutions, {row['value_bits']} bits, {largest:,} values, {way}: times log2 R bits a value",
                    "at most", MOST_FLOORS, row[f"floors_{way}"], "x")
        for row in sizes if row["values"] == largest for way in ("up", "down")
    ]  # fmt: skip
    small = next(r for r in sizes if (r["institutions"], r["value_bits"], r["values"]) == (3, 8, 1_000))
    needed.append(Requirement("1,000 values, 3 institutions, 8 bits", "at most", MOST_SMALL, small["bytes_up"], "B"))
    needed.append(Requirement("the same, times the bytes of the same digits in clear", "at most", MOST_CLEAR, small["over_digits_in_clear"], "x"))  # fmt: skip
    slowest = max(row["values"] for row in times)
    ours = next(row for row in times if row["scheme"] == Ours.name and row["values"] == slowest)
    needed += [
        Requirement(f"{phase}, {slowest:,} values, tags included: times protocol 3, paired", "at most", MOST_SLOWER, ours["times_protocol_3"][phase], "x")
        for phase in PHASES
    ]  # fmt: skip
    return needed


def floor_table(rows: list[dict[str, Any]]) -> str:
    """Bytes of every case, and how far they are from their floor."""
    heads = ["institutions", "bits", "values", "up, B", "down, B", "up, B/value", "floor, B/value", "up / floor", "down / floor", "digits in clear x", "protocol 3 up, B"]  # fmt: skip
    return markdown_table(heads, [
        [str(r["institutions"]), str(r["value_bits"]), f"{r['values']:,}", f"{r['bytes_up']:,}", f"{r['bytes_down']:,}",
         f"{r['bytes_up'] / r['values']:.3f}", f"{r['floor_bits'] / 8:.3f}", f"{r['floors_up']:.3f}", f"{r['floors_down']:.3f}",
         f"{r['over_digits_in_clear']:.2f}", f"{r['bytes_up_protocol_3']:,}"]
        for r in rows
    ])  # fmt: skip


def time_table(rows: list[dict[str, Any]]) -> str:
    """Milliseconds of processor time by phase, and ratios to protocol 3."""
    heads = ["values", "scheme", "up, B", *(f"{p}, ms" for p in PHASES), "tags of a sum, ms", *(f"{p} / protocol 3" for p in PHASES)]  # fmt: skip
    return markdown_table(heads, [
        [f"{r['values']:,}", r["scheme"], f"{r['bytes_up']:,}", *(f"{1e3 * r['seconds'][p]:.2f}" for p in PHASES),
         f"{1e3 * r['seconds']['tags of a sum']:.2f}" if "tags of a sum" in r["seconds"] else "-",
         *(f"{r['times_protocol_3'][p]:.2f}" for p in PHASES)]
        for r in rows
    ])  # fmt: skip


def plot(sizes: list[dict[str, Any]], times: list[dict[str, Any]]) -> Figure:
    """Bytes a value against their floor, and milliseconds by phase."""
    figure, (left, right) = panels("Bytes up over their floor", "Processor time, ms")
    cases = [(k, b) for k in INSTITUTIONS for b in (2, 8)]
    for colour, (institutions, bits) in zip([*COLOURS, "0.4"], cases, strict=False):
        rows = [r for r in sizes if (r["institutions"], r["value_bits"]) == (institutions, bits)]
        left.plot([r["values"] for r in rows], [r["floors_up"] for r in rows], "o-", color=colour, label=f"{institutions} institutions, {bits} bits")  # fmt: skip
    left.axhline(MOST_FLOORS, color="0.7", linewidth=1)
    left.set_xscale("log")
    left.set_xlabel("values")
    left.legend(frameon=False, fontsize=7)
    largest = max(row["values"] for row in times)
    rows = [row for row in times if row["values"] == largest]
    for place, row in enumerate(rows):
        right.bar([i + 0.27 * place for i in range(len(PHASES))], [1e3 * row["seconds"][p] for p in PHASES], 0.25, color=COLOURS[place], label=row["scheme"])  # fmt: skip
    right.set_xticks([i + 0.27 for i in range(len(PHASES))], PHASES)
    right.set_yscale("log")
    right.legend(frameon=False, fontsize=8)
    return figure


def page(
    sizes: list[dict[str, Any]], times: list[dict[str, Any]], needed: list[Requirement], facts: Mapping[str, Any]
) -> str:
    """benchmarks/results/encryption.md."""
    return f"""# Encryption: bytes and time a value

{preamble(dict(facts), "python benchmarks/encryption.py")}

## Bytes against their floor

Whole blobs of `dictpfl.common.messages.wire`, with header, list of uploads and tags; sealed, added and opened for real, sums exact.
Floor: log2 R bits a value, of the R = 2 K (2^(b-1) - 1) + 1 possible sums of K values of b bits. `digits in clear`: bytes up
over those of the same components without encryption, header or tags.

{floor_table(sizes)}

## Time

{TIMED[0]} institutions, {TIMED[1]} bits. Processor time of one institution (`seal`, with what it prepares ahead, packing and
tags; `open`, with the check of tags and unpacking) and of the coordinator for one upload (`fold`). Medians of turns in which
all schemes took part one after another; ratios are medians of paired turns. Protocol 3 had no tags on ciphertexts.

{time_table(times)}

## Requirements

{requirement_lines(needed)}

![bytes over their floor, and time](encryption.svg)
"""


def main() -> int:
    """Measure, print, write results; 1 if a requirement is not met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="up to 100,000 values; writes no results")
    arguments = parser.parse_args()
    facts, chosen = machine(), [size for size in SIZES if not arguments.quick or size <= 100_000]
    times = []
    for values in chosen[-2:]:
        times += timed(values)
        print(f"time at {values:,} values done", file=sys.stderr)
    sizes = []
    for institutions in INSTITUTIONS:
        for bits in BITS:
            sizes += [weighed(institutions, bits, values) for values in chosen]
            print(f"bytes of {institutions} institutions at {bits} bits done", file=sys.stderr)
    needed = requirements(sizes, times)
    print(floor_table(sizes), time_table(times), sep="\n\n")
    if not arguments.quick:
        figures = {"machine": facts, "sizes": sizes, "times": times, "requirements": [r.to_json() for r in needed]}
        write_results("encryption", figures, page(sizes, times, needed, facts), plot(sizes, times))
    return conclude(needed)


if __name__ == "__main__":
    sys.exit(main())
