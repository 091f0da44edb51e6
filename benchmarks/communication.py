"""Bytes of the paper's own models, up and down, under this project's encoding and under the common CKKS ones.

    python benchmarks/communication.py            # about three minutes on two cores
    python benchmarks/communication.py --full     # every ciphertext of all three models, and FLARE's of ViT-B/16: an hour
    python benchmarks/communication.py --quick    # 3 rounds for the pruning curve, no large streams; writes nothing

Shapes come from timm and transformers on the meta device, values are drawn at random: bytes do not depend on them. What DictPFL sends is
sealed, folded and opened for each model; what full encryption sends is streamed, ciphertext by ciphertext, and never held.
The curve of pruning is that of two runs of this project on digits. Needs `pip install -e '.[peers]'`. Exits with 1 if a
requirement is not met.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import structlog
from matplotlib.figure import Figure

from dictpfl.common.arrays import Ints
from dictpfl.common.law.tags import TAGS
from dictpfl.common.messages.wire import ENTRY_BYTES, HEADER_BYTES
from dictpfl.common.words import packed_length
from dictpfl.deploy.reports.plots import COLOURS
from lib.encodings import OPENFHE_BYTES, OPENFHE_SLOTS, FLAREBytes, encodings, fedml_chunk, pruned
from lib.exchange import Exchange, Memory
from lib.machine import (
    ROOT,
    Requirement,
    conclude,
    machine,
    markdown_table,
    panels,
    preamble,
    previous,
    requirement_lines,
    write_results,
)
from lib.shapes import ARCHITECTURES, methods, parameters

PARTICIPANTS = 3
FULL, OURS, LEAN = "FedHE-Full", "DictPFL", "DictPFL, tables and head, smaller side"
FEDML = "FedML-HE 10 %"
SENSITIVE = 0.1
LEAST_FLARE_RATIO = 10_000.0
PAPER_RATIO = (402, 748)
PAPER: Mapping[str, Mapping[str, float]] = {
    "ViT-B/16": {FULL: 60.14, "DictPFL, pruned": 0.43},
    "BERT-base": {FULL: 137.2, "FedHE-Top2": 17.5, FEDML: 13.7, "DictPFL, pruned": 4.8},
    "TinyLlama-1.1B": {FULL: 30_000.0, "FedHE-Top2": 2_400.0, FEDML: 3_000.0, "DictPFL, pruned": 300.0},
}
"""GB of whole runs: table 8 (CIFAR-10) and table 7. Rounds and directions counted are not stated, so ratios compare."""
FROM_SCRATCH = {FULL: 720.72, FEDML: 73.62, "DictPFL, pruned": 0.51}
"""Table 3, ViT without pretraining."""
CURVES = {"default settings": "dictpfl", "the paper's settings": "dictpfl-paper"}
FLARE_SAMPLE = ("blocks.0.norm1", "blocks.0.attn.proj", "blocks.0.attn.qkv.bias", "cls_token", "head")


def pruning_curve(method: str, *, quick: bool) -> list[float]:
    """Share of the shared values that was sent, by round, in a run of experiments/digits.toml."""
    from dictpfl.common.config import FederationConfig
    from lib.simulated import simulated

    changes = {"method": method} | ({"federation.rounds": 3} if quick else {})
    run, _ = simulated(FederationConfig.load(ROOT / "experiments" / "digits.toml", changes))
    shared = run.summary["values"]["shared"]
    return [record.sent / shared for record in run.records if record.kind == "update"]


def proven(exchange: Exchange, tensors: Mapping[str, int]) -> dict[str, Any]:
    """DictPFL's round for real: three institutions seal, the coordinator folds, one opens; lengths are as counted.

    Raises:
        AssertionError: a blob is longer or shorter than counted, or the opened sum is not the integer sum.
    """
    count, total = sum(tensors.values()), None
    fold = exchange.fold(count, len(tensors))
    for institution in range(PARTICIPANTS):
        values = exchange.values(count, institution)
        upload = exchange.upload(values, len(tensors), institution)
        fold.add(institution, upload)
        total = values if total is None else total + values
    aggregate, _, items = fold.aggregate()
    assert len(upload) == exchange.bytes_up(count, len(tensors)), "an upload is not as long as counted"
    assert len(aggregate) == exchange.bytes_down(count, len(tensors)), "a sum is not as long as counted"
    assert np.array_equal(exchange.open(aggregate, count, len(tensors)), total), "the opened sum is not the integer sum"
    return {"values": count, "ciphertexts": items, "bytes_up": len(upload), "bytes_down": len(aggregate)}


def streamed(exchange: Exchange, count: int) -> dict[str, Any]:
    """All ciphertexts of a vector that is never held: their bytes, seconds, and the memory that it took.

    Raises:
        AssertionError: other bytes than counted.
    """
    block = exchange.values(exchange.block_values)

    def blocks() -> Iterator[Ints]:
        for start in range(0, count, block.size):
            yield block[: min(block.size, count - start)]

    memory, began, words = Memory(), time.perf_counter(), 0
    for part in exchange.stream(blocks()):
        words += len(part)
    tags = packed_length(TAGS, exchange.parameters.word_bits)
    sent, items = HEADER_BYTES + ENTRY_BYTES + words + tags, exchange.ciphertexts(count)
    assert abs(sent - exchange.bytes_up(count)) <= 2, "other bytes than counted"
    seconds = time.perf_counter() - began
    return {"values": count, "ciphertexts": items, "bytes_up": sent, "seconds": seconds, "peak_bytes": memory.peak()}


def survey(exchange: Exchange, flare: FLAREBytes, curves: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """All methods of all models under all encodings, and ratios of FedHE-Full to DictPFL."""
    chunk, found = fedml_chunk(), {}
    for name in ARCHITECTURES:
        shares = methods(name)
        listed = [(method, tensors, 1.0) for method, tensors in shares.items()]
        listed.insert(2, (FEDML, shares[FULL], SENSITIVE))
        rows = {
            method: {"values": sum(tensors.values()), "tensors": len(tensors), "encrypted": share,
                     "bytes": encodings(exchange, flare, chunk, tensors, share)}
            for method, tensors, share in listed
        }  # fmt: skip
        runs = {title: pruned(exchange, shares[OURS], curve) for title, curve in curves.items()}
        for run in runs.values():
            full = rows[FULL]["bytes"]
            run["ratio"] = run["rounds"] * sum(full["dictpfl"]) / sum(run["bytes"])
            run["ratio_openfhe"] = run["rounds"] * sum(full["openfhe"]) / run["openfhe_bytes"]
        first = [
            of(sum(shares[OURS].values()), len(shares[OURS]), first=True)
            for of in (exchange.bytes_up, exchange.bytes_down)
        ]
        found[name] = {"model": sum(parameters(name).values()), "methods": rows, "pruned": runs, "first_round": first}
    return found


def ratio(
    found: Mapping[str, Any], name: str, method: str, encoding: str = "dictpfl", against: str = "dictpfl"
) -> float:
    """Bytes of FedHE-Full under `encoding` to those of a method under `against`, both directions."""
    rows = found[name]["methods"]
    return float(sum(rows[FULL]["bytes"][encoding]) / sum(rows[method]["bytes"][against]))


def requirements(found: Mapping[str, Any]) -> list[Requirement]:
    """What the issue asks for, of ViT-B/16 at r = 4, without pruning."""
    rows = found["ViT-B/16"]["methods"]
    ours, lean, flare = rows[OURS], rows[LEAN], rows[FULL]["bytes"]["flare"]
    share = sum(ours["bytes"]["dictpfl"]) / (8 * ours["values"])
    sent = lean["bytes"]["dictpfl"]
    promises = [
        Requirement("ViT-B/16, r = 4: bytes up and down of one institution and round, over those of the same values as float32 up and down",
                    "at most", 1.0, share),
    ]  # fmt: skip
    for way, theirs, own in (("up and down", sum(flare), sum(sent)), ("up", flare[0], sent[0])):
        words = f"ViT-B/16, r = 4, tables and head on the smaller side: times fewer bytes {way} than FLARE sends for the full model, no pruning"
        promises.append(Requirement(words, "at least", LEAST_FLARE_RATIO, theirs / own, "x"))
    return promises


def size(count: float) -> str:
    """Bytes in a unit that a reader can compare."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= factor:
            return f"{count / factor:,.3g} {unit}"
    return f"{count / 1e3:,.3g} kB"


def bytes_table(found: Mapping[str, Any]) -> str:
    """One institution, one round, without pruning."""
    heads = ["model", "method", "values", "ours: up", "ours: down", "paper's OpenFHE, up + down", "FLARE, up", "FLARE, down",
             "FedML-HE's, up + down"]  # fmt: skip
    rows = []
    for name, model in found.items():
        for method, row in model["methods"].items():
            sent = row["bytes"]
            rows.append([name, method, f"{row['values']:,}", *map(size, sent["dictpfl"]), size(sum(sent["openfhe"])),
                         *map(size, sent["flare"]), size(sum(sent["fedml-he"]))])  # fmt: skip
    return markdown_table(heads, rows)


def ratio_table(found: Mapping[str, Any]) -> str:
    """FedHE-Full divided by each method: the paper's GB and ours."""
    heads = [
        "model",
        "method",
        "paper, GB",
        "paper, FedHE-Full / method",
        "ours, same encoding",
        "ours, OpenFHE encoding on both sides",
    ]
    rows = []
    for name, model in found.items():
        paper = PAPER[name]
        for method in ("FedHE-Top2", FEDML, OURS):
            stated = paper.get(method)
            rows.append([name, method + " (no pruning)" * (method == OURS), "-" if stated is None else f"{stated:,g}",
                         "-" if stated is None else f"{paper[FULL] / stated:.3g} x", f"{ratio(found, name, method):.3g} x",
                         f"{ratio(found, name, method, 'openfhe', 'openfhe'):.3g} x"])  # fmt: skip
        for title, run in model["pruned"].items():
            stated = paper["DictPFL, pruned"]
            rows.append([name, f"DictPFL, pruned ({title}, {run['rounds']} rounds)", f"{stated:,g}", f"{paper[FULL] / stated:.3g} x",
                         f"{run['ratio']:.3g} x", f"{run['ratio_openfhe']:.3g} x"])  # fmt: skip
    return markdown_table(heads, rows)


def stream_table(streams: Mapping[str, Any]) -> str:
    """What was really sealed of the full models."""
    heads = ["FedHE-Full, upload", "values", "ciphertexts", "bytes", "seconds", "memory above the start"]
    return markdown_table(
        heads,
        [[name, f"{s['values']:,}", f"{s['ciphertexts']:,}", f"{s['bytes_up']:,}", f"{s['seconds']:,.1f}", size(s["peak_bytes"])]
         for name, s in streams.items()],
    )  # fmt: skip


def plot(found: Mapping[str, Any], curves: Mapping[str, Sequence[float]]) -> Figure:
    """Bytes by method and encoding, ratios beside the paper's, and the curves of pruning."""
    figure, (traffic, factors, sent) = panels("Bytes up + down, one institution, one round", "FedHE-Full / DictPFL, bytes",
                                              "Share of shared values sent, digits")  # fmt: skip
    names = list(found)
    shown = [(FULL, "openfhe", "full, paper's OpenFHE"), (FULL, "flare", "full, FLARE"), (FULL, "dictpfl", "full, this encoding"),
             (FEDML, "fedml-he", "FedML-HE, 10 %"), ("FedHE-Top2", "dictpfl", "last two blocks, this encoding"),
             (OURS, "openfhe", "DictPFL, paper's OpenFHE"), (OURS, "dictpfl", "DictPFL, this encoding")]  # fmt: skip
    order = (COLOURS[5], COLOURS[1], COLOURS[2], COLOURS[3], COLOURS[4], COLOURS[6], COLOURS[0])
    width = 0.8 / len(shown)
    for i, (method, encoding, label) in enumerate(shown):
        heights = [sum(found[name]["methods"][method]["bytes"][encoding]) for name in names]
        places = [n + (i - (len(shown) - 1) / 2) * width for n in range(len(names))]
        traffic.bar(places, heights, width, color=order[i], label=label)
    traffic.set_xticks(range(len(names)), names)
    traffic.set_yscale("log")
    traffic.set_ylabel("bytes")
    traffic.legend(frameon=False, fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.1))
    ticks = range(len(names))
    factors.plot(ticks, [ratio(found, n, OURS) for n in names], "o", color=COLOURS[0], label="ours, no pruning")
    for colour, title in zip((COLOURS[2], COLOURS[3]), curves, strict=False):
        factors.plot(
            ticks,
            [found[n]["pruned"][title]["ratio"] for n in names],
            "s",
            color=colour,
            label=f"ours, pruned, {title}",
        )
    stated = [PAPER[n][FULL] / PAPER[n]["DictPFL, pruned"] for n in names]
    factors.plot(ticks, stated, "*", color=COLOURS[1], markersize=11, label="the paper's (tables 7, 8)")
    factors.axhspan(*PAPER_RATIO, color=COLOURS[1], alpha=0.12, label="the paper's 402 to 748")
    factors.set_xticks(ticks, names)
    factors.set_xlim(-0.4, len(names) - 0.6)
    factors.set_yscale("log")
    factors.set_ylabel("times fewer bytes")
    factors.legend(frameon=False, fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.1))
    for colour, (title, curve) in zip((COLOURS[2], COLOURS[3]), curves.items(), strict=False):
        sent.plot(
            range(1, len(curve) + 1),
            [100 * share for share in curve],
            "o-",
            markersize=3,
            color=colour,
            label=title,
        )
    sent.set_xlabel("round")
    sent.set_ylabel("%")
    sent.set_ylim(0)
    sent.legend(frameon=False, fontsize=8)
    figure.set_size_inches(15.5, 4.4)
    return figure


def page(report: Mapping[str, Any], found: Sequence[Requirement], command: str) -> str:
    """benchmarks/results/communication.md."""
    models, facts, sample = report["models"], report["machine"], report["flare"]["sample"]
    vit = models["ViT-B/16"]
    ours, lean = vit["methods"][OURS], vit["methods"][LEAN]
    flare = vit["methods"][FULL]["bytes"]["flare"]
    scratch = {method: FROM_SCRATCH[FULL] / gb for method, gb in FROM_SCRATCH.items() if method != FULL}
    return f"""# Communication: the paper's models, byte by byte

{preamble(facts, command)} timm {facts["timm"]}, transformers {facts["transformers"]}, nvflare {facts["nvflare"]}.

## One institution, one round, no pruning

{bytes_table(models)}

Shapes are those of the published models. Values are drawn at random, since bytes do not depend on them. {PARTICIPANTS} institutions, 8-bit
values, r = 4, blobs with header and ledger. `FedHE-Top2` is the last two transformer blocks and what follows them: with these the
paper's own ratios to full come out, with the last two layers they do not. `FedML-HE` encrypts 10 % and sends the rest as
float32 in clear, which is counted here (the paper's figures are a tenth of FedHE-Full's, so it seems to count the encrypted part
alone). `DictPFL` shares tables and all small dense parameters (this project's default; embeddings stay as they are); `tables and
head` is what the paper shares. A federation's first round has no history, sends wide digits and costs
{size(sum(vit["first_round"]))} for ViT-B/16 instead of {size(sum(ours["bytes"]["dictpfl"]))}.

Encodings: *ours* is N = 4096, one prime of 60 bits, seeded; *the paper's OpenFHE* is a ciphertext of N = 2^16 and 1,555 bits,
{OPENFHE_BYTES / 1e6:.1f} MB for {OPENFHE_SLOTS:,} values, bits packed densely; *FLARE* (8192, [60, 40, 40]) is counted from what its
classes sent ({sample["values"]:,} values in {sample["tensors"]} tensors of ViT-B/16 were sent for real: the count was off by
{sample["off_percent"]:.2f} %); *FedML-HE's* is depth 1, scale 2^52, 4,096 values a ciphertext.

DictPFL's rounds were carried out for each model, from sealing to the opened sum, which equalled the integer sum; lengths were as
counted. Of the full models these uploads were sealed, ciphertext by ciphertext:

{stream_table(report["streamed"])}

## The paper's GB beside ours

{ratio_table(models)}

The paper's GB are of whole runs (tables 7 and 8); how many rounds and which directions are not stated, so ratios are what can be
compared. Without pretraining (table 3) its ratios are {scratch[FEDML]:.3g} x for FedML-HE and {scratch["DictPFL, pruned"]:,.0f} x for
DictPFL; its headline is {PAPER_RATIO[0]} to {PAPER_RATIO[1]} x. The curves of pruning are those of two runs of this project on
digits (30 rounds, three institutions), laid over the shapes: how much is pruned depends on the task and on the number of rounds,
and a curve of digits says nothing of another task's. What the table adds to the paper's is how far shapes alone go
without pruning. Absolute bytes differ most: FedHE-Full of ViT-B/16 under the paper's encoding takes
{ratio(models, "ViT-B/16", OURS, "openfhe"):,.0f} times what DictPFL sends here, before pruning.

## Beside FLARE

FLARE sends {size(flare[0])} up and {size(flare[1])} down for all of ViT-B/16; its sum is smaller than an upload, since scaling by
1/n drops a prime. With what the paper shares, tables and head, and tables on the smaller side, this project sends
{sum(flare) / sum(lean["bytes"]["dictpfl"]):,.0f} times less both ways and {flare[0] / lean["bytes"]["dictpfl"][0]:,.0f} times less up. **With what this
project shares by default it is {sum(flare) / sum(ours["bytes"]["dictpfl"]):,.0f} times** ({size(ours["bytes"]["dictpfl"][0])} up, {size(ours["bytes"]["dictpfl"][1])} down):
more than half of those values are not tables but position embeddings (151,296), biases and norms, which are shared because they bring
accuracy, and tables lie on the side that keeps more of it. A sum is longer than an upload by its list of uploads alone,
whatever the number of institutions.

## Requirements

{requirement_lines(found)}

![bytes, ratios and pruning](communication.svg)
"""


def main() -> int:
    """Count, prove, print, write results; 1 if a requirement is not met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--full", action="store_true", help="seal all of BERT-base and TinyLlama, send all of ViT-B/16 by FLARE"
    )
    parser.add_argument("--quick", action="store_true", help="3 rounds for the curve, no streams; writes no results")
    arguments = parser.parse_args()
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    facts = machine() | {name: version(name) for name in ("timm", "transformers", "nvflare")}
    exchange, flare = Exchange(PARTICIPANTS), FLAREBytes()
    curves = {title: pruning_curve(method, quick=arguments.quick) for title, method in CURVES.items()}
    models = survey(exchange, flare, curves)
    rounds = {name: proven(exchange, methods(name)[OURS]) for name in ARCHITECTURES}
    wanted = list(ARCHITECTURES) if arguments.full else [] if arguments.quick else ["ViT-B/16"]
    streams = {name: streamed(exchange, models[name]["model"]) | {"machine": facts} for name in wanted}
    streams = previous("communication", "streamed") | streams
    vit = parameters("ViT-B/16")
    sample = vit if arguments.full else {n: s for n, s in vit.items() if n.startswith(FLARE_SAMPLE)}
    needed = requirements(models)
    report = {
        "machine": facts,
        "models": models,
        "curves": curves,
        "proven": rounds,
        "streamed": {name: streams[name] for name in ARCHITECTURES if name in streams},
        "flare": {"ciphertext": flare.chunk, "tensor": flare.tensor, "sample": flare.checked(sample)},
        "requirements": [r.to_json() for r in needed],
    }
    print(bytes_table(models), ratio_table(models), stream_table(report["streamed"]), sep="\n\n")
    if not arguments.quick:
        command = "python benchmarks/communication.py" + " --full" * arguments.full
        write_results("communication", report, page(report, needed, command), plot(models, curves))
    return conclude(needed)


if __name__ == "__main__":
    sys.exit(main())
