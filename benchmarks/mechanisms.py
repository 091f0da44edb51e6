"""Bytes of uploads before and after, mechanism by mechanism: from whole ciphertexts of protocol 3 to protocol 4.

    python benchmarks/mechanisms.py      # the digits experiment, and vectors of 100,000 and 10^6 values; about two minutes

The first line counts what protocol 3 sent for the rounds of a real run; each further line adds one mechanism; the last one
is what the run really sent, to the byte. Exits with 1 if it is not, or if a requirement is not met.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from matplotlib.figure import Figure

from dictpfl.common.ckks.parameters import FRESH_VARIANCE, GUARDS, TOLERANCE, CKKSParameters
from dictpfl.common.config import FederationConfig
from dictpfl.common.law.ledger import LARGEST_CODE
from dictpfl.common.law.packing import Digits
from dictpfl.common.law.tags import TAGS
from dictpfl.common.messages.wire import ENTRY_BYTES, HEADER_BYTES
from dictpfl.common.protection import Encryption
from dictpfl.common.rounds import Grid
from dictpfl.common.words import packed_length
from dictpfl.deploy.reports.plots import COLOURS
from lib.machine import (
    ROOT,
    Requirement,
    conclude,
    machine,
    markdown_table,
    panels,
    preamble,
    requirement_lines,
    write_results,
)
from lib.simulated import UNPADDED, simulated

OLD_HEADER, OLD_SEED, OLD_ITEM = 232, 64, 32_972
"""Bytes of protocol 3: of a header, of a seed of each ciphertext, of a whole one at N = 4096."""
FIELDS = 6
"""Components of a ledger that are no range codes."""
MOST_UP = 120_000


@dataclass(frozen=True)
class Upload:
    """What one upload has to carry: values that are sent, and tensors whose range codes go along."""

    values: int
    tensors: int
    first: bool = False
    update: bool = True


@dataclass(frozen=True)
class Mechanisms:
    """Which mechanisms are on.

    Attributes:
        used: only used coefficients travel, not whole polynomials.
        words: low bits that noise fills anyway do not travel.
        radix: digits in radix R, and parameters chosen for least bytes, in place of whole bits.
        one_seed: one seed and one list of uploads in place of a seed for each ciphertext; tags are in it.
        ledger: range codes are packed.
        first: the first round has 10 bits a value, not the widest digits of which two fit.
        value_bits: bits of a value afterwards.
    """

    used: bool = False
    words: bool = False
    radix: bool = False
    one_seed: bool = False
    ledger: bool = False
    first: bool = False
    value_bits: int = 8


STEPS: Sequence[tuple[str, Callable[[Mechanisms], Mechanisms]]] = (
    ("protocol 3: whole ciphertexts, 8 bits", lambda m: m),
    ("used coefficients only", lambda m: replace(m, used=True)),
    ("words without the bits that noise fills", lambda m: replace(m, words=True)),
    ("digits by radix, parameters chosen for them", lambda m: replace(m, radix=True)),
    ("one seed an upload (and the tags, which are new)", lambda m: replace(m, one_seed=True)),
    ("range codes packed", lambda m: replace(m, ledger=True)),
    ("first round no wider than it must be", lambda m: replace(m, first=True)),
    ("4 bits a value in place of 8", lambda m: replace(m, value_bits=4)),
)


def bytes_of(upload: Upload, on: Mechanisms, institutions: int) -> int:
    """Count the bytes of an upload."""
    if on.radix:
        chosen = CKKSParameters.choose(Encryption(), institutions, on.value_bits)
        payload, word = chosen.payload_bits, chosen.word_bits
    else:
        scale = math.ceil(math.log2(8.5 * 3.2 * math.sqrt(institutions) / TOLERANCE))
        payload, word = 58 - scale, _least_word(scale, institutions)
    codes = _digits(LARGEST_CODE, institutions, payload, on.radix) if on.ledger else 1
    components = FIELDS + -(-upload.tensors // codes) + _stream(upload, on, institutions, payload)
    ciphertexts = -(-components // (4096 - GUARDS))
    if not on.used:
        return OLD_HEADER + ciphertexts * OLD_ITEM
    words = components + GUARDS * ciphertexts
    bits = word if on.words else 64
    if on.one_seed:
        return HEADER_BYTES + ENTRY_BYTES + packed_length(words + TAGS, bits)
    return OLD_HEADER + ciphertexts * OLD_SEED + packed_length(words, bits)


def _stream(upload: Upload, on: Mechanisms, institutions: int, payload: int) -> int:
    """Components of the values."""
    if not upload.update:
        return 0
    if upload.first and not on.first:
        return -(-upload.values // 2)  # the widest digits of which two fit
    bits = max(Grid().first_bits, on.value_bits) if upload.first else on.value_bits
    return -(-upload.values // _digits(2 ** (bits - 1) - 1, institutions, payload, on.radix))


def _digits(largest: int, institutions: int, payload: int, radix: bool) -> int:  # noqa: FBT001 -- which of two ways
    if radix:
        return Digits.holding(largest, institutions, payload).per_component
    return payload // ((institutions * largest).bit_length() + 1)


def _least_word(scale: int, institutions: int) -> int:
    """Bits of the shortest word under a scale: 8.5 deviations of noise, with what rounding leaves, below the tolerance."""
    for bits in range(40, 61):
        noise = 8.5 * math.sqrt(institutions * (FRESH_VARIANCE + 4.0 ** (60 - bits) / 12) + 1)
        if noise <= 2**scale * TOLERANCE:
            return bits
    return 60


def table(uploads: Sequence[Upload], institutions: int) -> list[dict[str, Any]]:
    """Bytes of all uploads with one mechanism more each time."""
    on, rows = Mechanisms(), []
    for name, change in STEPS:
        on = change(on)
        rows.append({"mechanism": name, "bytes": sum(bytes_of(upload, on, institutions) for upload in uploads)})
    return rows


def markdown(rows: Sequence[Mapping[str, Any]], values: int) -> str:
    """The table of one case."""
    first, lines, before = rows[0]["bytes"], [], rows[0]["bytes"]
    for row in rows:
        share = f"{100 * (row['bytes'] - before) / before:+.1f} %" if row is not rows[0] else "-"
        lines.append(
            [
                row["mechanism"],
                f"{row['bytes']:,}",
                share,
                f"{first / row['bytes']:.2f}",
                f"{row['bytes'] / values:.3f}",
            ]
        )
        before = row["bytes"]
    return markdown_table(["with", "bytes up", "change", "times less", "bytes a value"], lines)


def main() -> int:
    """Run, count, write results; 1 if something is not as it must be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    facts = machine()
    config = FederationConfig.load(ROOT / "experiments" / "digits.toml", UNPADDED)
    run, _ = simulated(config)
    tensors = len(run.records[0].sent_by_tensor)
    uploads = [Upload(record.sent, tensors, record.update == 1, record.kind == "update") for record in run.records]
    institutions, values = config.federation.participants, sum(record.sent for record in run.records)
    cases = {"digits": table(uploads, institutions)}
    for count in (100_000, 1_000_000):
        cases[f"{count:,} values"] = table([Upload(count, 50)], institutions)
    sent = sum(record.bytes_up for record in run.records)
    needed = [
        Requirement("digits: bytes counted against bytes sent, difference", "at most", 0.0, abs(cases["digits"][-1]["bytes"] - sent), "B"),
        Requirement("digits: bytes up of an institution, all rounds", "at most", MOST_UP, sent, "B"),
        Requirement("digits: bytes down of an institution, all rounds", "at most", MOST_UP, sum(r.bytes_down for r in run.records), "B"),
    ]  # fmt: skip
    counts = {"digits": values, "100,000 values": 100_000, "1,000,000 values": 1_000_000}
    parts = "\n\n".join(f"### {name}\n\n{markdown(rows, counts[name])}" for name, rows in cases.items())
    text = f"""# Bytes before and after, mechanism by mechanism

{preamble(facts, "python benchmarks/mechanisms.py")}

Uploads of one institution of {institutions}; each line adds one mechanism to those above it. `digits` counts all {len(uploads)} rounds of
`experiments/digits.toml`, {values:,} values and {tensors} tensors, and its last line is what the run sent, to the byte; test accuracy
{100 * float(run.accuracy or 0.0):.2f} %. The vectors are one update round each.

{parts}

## Requirements

{requirement_lines(needed)}

![bytes by mechanism](mechanisms.svg)
"""
    print(parts)
    write_results(
        "mechanisms",
        {"machine": facts, "cases": cases, "requirements": [r.to_json() for r in needed]},
        text,
        plot(cases),
    )
    return conclude(needed)


def plot(cases: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Bytes that are left after each mechanism, of those of protocol 3."""
    figure, (axes,) = panels("Bytes left of protocol 3, %")
    for colour, (name, rows) in zip(COLOURS, cases.items(), strict=False):
        axes.plot(
            [100 * row["bytes"] / rows[0]["bytes"] for row in rows], range(len(rows)), "o-", color=colour, label=name
        )
    axes.set_yticks(range(len(STEPS)), [name for name, _ in STEPS], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlim(0, None)
    axes.legend(frameon=False, fontsize=8)
    return figure


if __name__ == "__main__":
    sys.exit(main())
