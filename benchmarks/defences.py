"""What masks and integrity cost a round: processor time and bytes for 3, 10, 30 and 100 institutions, with and without each.

    python benchmarks/defences.py           # a minute on two cores
    python benchmarks/defences.py --quick   # 3 and 10 institutions, once; writes nothing

Whole rounds without training, with this project's own classes: every institution masks, signs and tells, the coordinator folds
and takes the masks off. An institution's round beside it is that of `benchmarks/round.py`, from its results. Results go to
`benchmarks/results/defences.{json,md,svg}`. Exits with 1 if a requirement is not met.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from dictpfl.client.defences.masks import MaskContext, Masks
from dictpfl.client.defences.pairs import OwnKeys, Pairs
from dictpfl.common.ckks.streams import SumOfStreams, WordStream
from dictpfl.common.law.members import PairGraph, Roster
from dictpfl.common.messages.manifest import Manifest, joined, separated
from dictpfl.common.messages.masks import Answer, SumQuestion
from dictpfl.common.messages.protocol import RoundKind, Stage
from dictpfl.common.messages.wire import Blob, read_entries, with_words
from dictpfl.common.words import add_modulo
from dictpfl.deploy.reports.plots import COLOURS
from dictpfl.server.folding import Fold
from dictpfl.server.journal import Journal
from dictpfl.server.masks import Unmasking
from dictpfl.server.rows import ClosedRound
from lib.exchange import FEDERATION, Exchange
from lib.machine import (
    RESULTS,
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

INSTITUTIONS = (3, 10, 30, 100)
VALUES = 62_426
"""Those of a round of the ViT of `benchmarks/round.py` before anything is pruned."""
PARTNERS = 30
MOST_PERCENT = 2.0
_SEED = b"s" * 32


class Clock:
    """Processor seconds by what they went into."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}

    @contextmanager
    def on(self, what: str, share: float = 1.0) -> Iterator[None]:
        """Count what is inside, or a share of it."""
        began = time.process_time()
        yield
        self.spent[what] = self.spent.get(what, 0.0) + share * (time.process_time() - began)


class Federation:
    """Institutions with keys and masks, and a coordinator, for one round."""

    def __init__(self, count: int, folder: Path) -> None:
        self.count, self.folder = count, folder
        self.exchange = Exchange(count)
        self.own = [OwnKeys.make(f"institution-{number:03d}") for number in range(count)]
        roster = Roster(tuple(keys.public for keys in self.own))
        context = FEDERATION + self.exchange.key.fingerprint
        graph = PairGraph(count, PARTNERS, _SEED, context)
        pairs = [Pairs(keys, number, roster, graph, context) for number, keys in enumerate(self.own)]
        self.masks = [
            Masks(one, self.exchange.parameters.word_prime, folder / f"{number}.told.json", min(3, count))
            for number, one in enumerate(pairs)
        ]
        clock = Clock()
        with clock.on("pair secrets"):
            self.partners = len(pairs[0].secrets)
        self.pairing = clock.spent["pair secrets"]
        for one in pairs[1:]:
            assert one.secrets
        self.uploads = [self.exchange.upload(self.exchange.values(VALUES, n), 50, n) for n in range(count)]
        self.ids = [read_entries(blob)[0].upload_id for blob in self.uploads]
        limits = self.exchange.agreement(self.exchange.words(VALUES, 50))
        self.agreement = replace(limits, masks=True)
        self.bare = limits

    def fold(self, uploads: Mapping[int, bytes], notes: Mapping[int, bytes] | None = None) -> Fold:
        """The coordinator's sum."""
        fold = Fold(self.agreement if notes else self.bare, RoundKind.UPDATE, 1)
        for number, blob in uploads.items():
            fold.add(number, blob, notes[number] if notes else b"")
        return fold


def without(federation: Federation) -> dict[str, float]:
    """Milliseconds of sealing and opening of one institution, and of the coordinator."""
    clock, exchange = Clock(), federation.exchange
    with clock.on("seal"):
        exchange.upload(exchange.values(VALUES), 50)
    with clock.on("fold"):
        aggregate, _, _ = federation.fold(dict(enumerate(federation.uploads))).aggregate()
    with clock.on("open"):
        exchange.open(aggregate, VALUES, 50)
    return clock.spent


def masked(federation: Federation, missing: Sequence[int]) -> dict[str, Any]:
    """What masks add: seconds of one institution that is there, and of the coordinator; bytes of one institution."""
    clock, there = Clock(), [n for n in range(federation.count) if n not in missing]
    share = 1.0 / len(there)
    blobs, notes, pending = {}, {}, {}
    for number in there:
        context = MaskContext(1, RoundKind.UPDATE, 0, federation.ids[number])
        one, secret = federation.masks[number], bytes([number]) * 32
        bare = Blob.own(federation.uploads[number], federation.exchange.parameters.word_bits)
        words = bare.words()
        with clock.on("institution", share):
            words = one.put_on(words, context, secret)
        blobs[number] = with_words(bare, words)
        with clock.on("institution", share):
            notes[number] = one.note(context, secret)
        pending[number] = SimpleNamespace(
            round=1, upload_id=context.upload_id, blob=blobs[number], defence=notes[number], secret=secret
        )
    fold = federation.fold(blobs, notes)
    blob, _, ciphertexts = fold.aggregate()
    closed = ClosedRound(1, RoundKind.UPDATE, 0.0, 0.0, 0.0, 0, ciphertexts, {})
    journal = Journal(federation.folder / f"{len(missing)}.sqlite", b"f" * 32, b"k" * 32, first_round=1)
    unmasking, told = Unmasking(federation.agreement, journal), 0
    with clock.on("coordinator"):
        unmasking.start(closed, 0, blob, fold.contributions())
    found = None
    while found is None:
        stage = unmasking.stage
        with clock.on("coordinator"):
            questions = unmasking.questions(there)
        for number, question in questions.items():
            record = pending[number]
            with clock.on("institution", share):
                one = federation.masks[number]
                if stage is Stage.AGREE:
                    answer = one.agree(record, SumQuestion.of_bytes(question)).to_bytes()
                elif stage is Stage.SEEDS:
                    answer = one.tell_seeds(record, SumQuestion.of_bytes(question)).to_bytes()
                else:
                    answer = one.tell_shares(record, record, SumQuestion.of_bytes(question), 0).to_bytes()
            told += len(question) + len(answer) if number == there[0] else 0
            with clock.on("coordinator"):
                unmasking.take(number, Answer.of_bytes(answer))
        with clock.on("coordinator"):
            found = unmasking.close()
    unmasked, _, _ = federation.fold({number: federation.uploads[number] for number in there}).aggregate()
    assert found[1].blob == unmasked, "masks leave nothing behind"
    journal.close()
    return {**clock.spent, "bytes": len(notes[there[0]]) + told}


def whole(federation: Federation) -> dict[str, Any]:
    """What manifests add: seconds of one institution, and of the coordinator; bytes of one institution."""
    clock, count = Clock(), federation.count
    with clock.on("institution"):
        Manifest.of(federation.uploads[0]).signed(federation.own[0].signing)
    made = [Manifest.of(blob).signed(federation.own[n].signing) for n, blob in enumerate(federation.uploads)]
    sent = joined(made)
    with clock.on("coordinator"):
        for number, blob in enumerate(federation.uploads):
            assert Manifest.of(blob).digest == made[number].digest
            assert made[number].signed_by(federation.own[number].public.signing)
    with clock.on("institution"):
        for manifest in separated(sent):
            assert manifest.signed_by(federation.own[manifest.member].public.signing)
    return {**clock.spent, "bytes": len(sent) // count + len(sent)}


def repeated(measure: Callable[[], dict[str, Any]], times: int) -> dict[str, Any]:
    """Medians of several."""
    found = [measure() for _ in range(times)]
    return {name: median([one[name] for one in found]) for name in found[0]}


def measured(count: int, times: int) -> dict[str, Any]:
    """A row."""
    with tempfile.TemporaryDirectory() as folder:
        federation = Federation(count, Path(folder))
        base = repeated(lambda: without(federation), times)

        def fresh(missing: Sequence[int]) -> dict[str, Any]:
            for path in Path(folder).iterdir():
                path.unlink()
            return masked(federation, missing)

        row = {
            "institutions": count,
            "partners": federation.partners,
            "ciphertexts": federation.exchange.ciphertexts(VALUES, 50),
            "bytes": len(federation.uploads[0]) + federation.exchange.bytes_down(VALUES, 50),
            "pairing": federation.pairing,
            "without": base,
            "masks": repeated(lambda: fresh([]), times),
            "integrity": repeated(lambda: whole(federation), times),
        }
        if count > 3:
            row["one missing"] = repeated(lambda: fresh([1]), times)
        return row


def where_masks_go(count: int, times: int) -> dict[str, float]:
    """Milliseconds a ciphertext for masks among so many, on the ciphertext and on packed integers, and bits that these lose."""
    exchange = Exchange(count)
    seeds = [os.urandom(32) for _ in range(count)]
    degree, bits = exchange.parameters.ring_degree, exchange.parameters.payload_bits
    prime, clock = exchange.parameters.word_prime, Clock()
    for _ in range(times):
        words = np.arange(degree, dtype=np.uint64)
        with clock.on("ciphertext", 1e3 / times):
            add_modulo(
                words, SumOfStreams(prime, plus=seeds[: count // 2], minus=seeds[count // 2 :]).take(degree), prime
            )
        values = np.arange(degree, dtype=np.uint64)
        with clock.on("integers", 1e3 / times):
            for seed in seeds:
                values += WordStream(seed, prime).take(degree)
            values &= np.uint64((1 << bits) - 1)
    return {**clock.spent, "bits lost": float(np.ceil(np.log2(count))), "bits": float(bits)}


def round_of(name: str) -> float:
    """Milliseconds of an institution's round in `benchmarks/round.py`."""
    results = json.loads((RESULTS / "round.json").read_text(encoding="utf-8"))
    return float(results["runs"][name]["ms_critical_path"])


def added(row: Mapping[str, Any]) -> float:
    """Milliseconds that both together add to the path that a round waits for."""
    return 1e3 * sum(row[part][who] for part in ("masks", "integrity") for who in ("institution", "coordinator"))


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """What each adds."""
    heads = ["institutions (partners)", "seal + open", "fold", "masks: institution", "coordinator", "bytes",
             "one missing: institution", "coordinator", "integrity: institution", "coordinator", "bytes", "bytes without"]  # fmt: skip
    lines = []
    for row in rows:
        base, masks, tags, gone = row["without"], row["masks"], row["integrity"], row.get("one missing")
        lines.append([
            f"{row['institutions']} ({row['partners']})", *(f"{1e3 * v:.1f}" for v in (base["seal"] + base["open"], base["fold"])),
            f"{1e3 * masks['institution']:.1f}", f"{1e3 * masks['coordinator']:.1f}", f"{masks['bytes']:,.0f}",
            *((f"{1e3 * gone['institution']:.1f}", f"{1e3 * gone['coordinator']:.1f}") if gone else ("-", "-")),
            f"{1e3 * tags['institution']:.1f}", f"{1e3 * tags['coordinator']:.1f}", f"{tags['bytes']:,.0f}", f"{row['bytes']:,}",
        ])  # fmt: skip
    return markdown_table(heads, lines)


def page(result: Mapping[str, Any], needed: Sequence[Requirement]) -> str:
    """benchmarks/results/defences.md."""
    places, rounds = result["places"], result["rounds"]
    return f"""# What masks and integrity cost

{preamble(result["machine"], "python benchmarks/defences.py")}

## A round

Milliseconds of processor time that each adds, for one institution and for the coordinator; bytes up and down of one institution.
{VALUES:,} values, {result["rows"][0]["ciphertexts"]} to {result["rows"][-1]["ciphertexts"]} ciphertexts. Above {PARTNERS} others, each institution has {PARTNERS} mask partners.

{table(result["rows"])}

`institution` of masks: the streams, the note with its shares, and what is told; a file is synced to disk before that. Secrets of
pairs are computed once a process: {1e3 * result["rows"][-1]["pairing"]:.1f} ms for {result["rows"][-1]["partners"]} partners. Masks take one more exchange, and a missing
institution another: the ways there and back are not in these figures. They cost what a message costs, in a deployment up to as
long as an institution waits between two looks.

## Of a round's time

At ten institutions both together add {result["added_ms"]:.1f} ms to the path that a round waits for. An institution's round in `benchmarks/round.py` is
{rounds["ViT, dictpfl"]:,.0f} ms for the ViT (five steps) and {rounds["digits, dictpfl"]:,.0f} ms for digits (one small MLP on 305 samples, where there is hardly any training).

{requirement_lines(needed)}

## Where masks go

{places["ciphertext"]:.2f} ms a ciphertext for {result["place_count"]} streams modulo the prime on the ciphertext, {places["integers"]:.2f} ms on packed integers, which would lose
{places["bits lost"]:.0f} of {places["bits"]:.0f} bits of each component ([decision 0019](../../docs/decisions/0019-pairwise-masks.md)).

![what masks and integrity add](defences.svg)
"""


def picture(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Added milliseconds against institutions."""
    figure, (left, right) = panels("Added to one institution's round, ms", "Added at the coordinator, ms")
    for ax, who in ((left, "institution"), (right, "coordinator")):
        for colour, part in zip(COLOURS, ("masks", "integrity"), strict=False):
            ax.plot(
                [row["institutions"] for row in rows],
                [1e3 * row[part][who] for row in rows],
                "o-",
                color=colour,
                label=part,
            )
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xlabel("institutions")
        ax.legend(frameon=False, fontsize=8)
    return figure


def main() -> int:
    """Run, print, write results; 1 if a requirement is not met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 and 10 institutions, once; writes nothing")
    quick = parser.parse_args().quick
    rows = []
    for count in INSTITUTIONS[:2] if quick else INSTITUTIONS:
        rows.append(measured(count, 1 if quick else 5 if count < 100 else 1))
        print(table(rows[-1:]).splitlines()[-1])
    ten = next(row for row in rows if row["institutions"] == 10)
    rounds = {name: round_of(name) for name in ("ViT, dictpfl", "digits, dictpfl")}
    needed = [
        Requirement(f"{name}: masks and integrity at 10 institutions, of an institution's round", "at most", MOST_PERCENT,
                    100 * added(ten) / spent, "%")
        for name, spent in rounds.items()
    ]  # fmt: skip
    result = {
        "machine": machine(), "rows": rows, "rounds": rounds, "added_ms": added(ten), "place_count": 10,
        "places": where_masks_go(10, 3 if quick else 40), "requirements": [one.to_json() for one in needed],
    }  # fmt: skip
    if not quick:
        write_results("defences", result, page(result, needed), picture(rows))
    return conclude(needed)


if __name__ == "__main__":
    raise SystemExit(main())
