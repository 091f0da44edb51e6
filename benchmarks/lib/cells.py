"""One measurement of `scale.py`, in a process of its own so that its peak memory is that of this alone.

    cd benchmarks; python -m lib.cells institution '{"values": 100000, "participants": 3}'

Prints JSON. Imports neither torch nor Flower, as a coordinator's process would not.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dictpfl.common.ckks.adding import WordSum
from dictpfl.common.law.finishing import finish
from dictpfl.common.law.layout import Kind, Layout
from dictpfl.common.law.ledger import Ledger
from dictpfl.common.law.round import Law, begin, seal_update
from dictpfl.common.messages.protocol import RoundKind
from dictpfl.common.rounds import Grid, Pruning
from lib.exchange import Exchange, Memory


def institution(values: int, participants: int) -> dict[str, Any]:
    """Seconds and peak memory of one institution: prepare and seal an upload, open a sum. The sum holds its upload only."""
    exchange = Exchange(participants)
    chosen = exchange.values(values)
    memory, began = Memory(), time.perf_counter()
    exchange.prepare(values)
    prepared = time.perf_counter()
    upload = exchange.upload(chosen)
    sealed, peak_seal = time.perf_counter(), memory.peak()
    fold = exchange.fold(values)
    fold.add(0, upload)
    aggregate, _, _ = fold.aggregate()
    up, down = len(upload), len(aggregate)
    del fold, upload
    memory.restart()
    opening = time.perf_counter()
    opened = exchange.open(aggregate, values)
    done = time.perf_counter()
    assert np.array_equal(opened, chosen), "the opened sum is not what was sealed"
    seconds = {"prepare": prepared - began, "seal": sealed - prepared, "open": done - opening}
    return {"seconds": seconds, "peak_bytes": max(peak_seal, memory.peak()), "base_bytes": memory.base,
            "bytes_up": up, "bytes_down": down, "ciphertexts": exchange.ciphertexts(values)}  # fmt: skip


def server(values: int, participants: int) -> dict[str, Any]:
    """Seconds and peak memory of a coordinator that folds uploads as they come, each sealed afresh by another process.

    Raises:
        AssertionError: the opened sum is not the integer sum.
    """
    exchange = Exchange(participants)
    incoming, outgoing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(incoming)
            _send_all(exchange, values, participants, outgoing)
        finally:
            os._exit(0)  # whatever happened: what is missing, the parent misses
    os.close(outgoing)
    with os.fdopen(incoming, "rb") as pipe:
        memory, length = Memory(), exchange.bytes_up(values)
        fold = exchange.fold(values)
        for node in range(participants):
            upload = pipe.read(length)
            fold.add(node, upload)
        aggregate, _, _ = fold.aggregate()
        peak = memory.peak()
    os.waitpid(child, 0)
    total = sum((exchange.values(values, i) for i in range(participants)), np.zeros(values, dtype=np.int64))
    assert np.array_equal(exchange.open(aggregate, values), total), "the opened sum is not the integer sum"
    return {"seconds": {"fold": fold.seconds}, "peak_bytes": peak, "base_bytes": memory.base, "bytes_in": fold.bytes_up,
            "bytes_up": length, "bytes_down": len(aggregate), "ciphertexts": exchange.ciphertexts(values)}  # fmt: skip


def _send_all(exchange: Exchange, values: int, participants: int, descriptor: int) -> None:
    with os.fdopen(descriptor, "wb") as pipe:
        for i in range(participants):
            pipe.write(exchange.upload(exchange.values(values, i), member=i))


def rounds(values: int, participants: int, count: int) -> dict[str, Any]:
    """Seconds of each round at one institution and at the coordinator, and memory as rounds pass: the algebra for real.

    Updates are drawn with a scale of its own for each coordinate, so that pruning has something to find.
    """
    exchange = Exchange(participants)
    law = _law(exchange, values)
    state, random = law.start(np.zeros(values)), np.random.default_rng(1)
    scale = np.exp(random.normal(0, 1.5, values)) * 1e-3
    residual: NDArray[np.float64] = np.zeros(values)
    memory = Memory()
    rows = []
    for _ in range(count):
        update = scale * random.standard_normal(values)
        began = time.perf_counter()
        plan = begin(law, state, RoundKind.UPDATE)
        sealable = seal_update(
            law, plan, update + residual, Ledger(1, 100, 100.0, 10, 10.0, 5.0, np.zeros(1, dtype=np.int64))
        )
        sealed = [exchange.sealer.seal(sealable.components)]
        residual, own = sealable.residual.values, time.perf_counter() - began
        total, folding = WordSum(exchange.parameters.word_prime), 0.0
        sealed += [exchange.sealer.seal(sealable.components) for _ in range(participants - 1)]
        for upload in sealed:
            folding -= time.perf_counter()
            total.add(total.load(upload.words))
            folding += time.perf_counter()
        began = time.perf_counter()
        opened = exchange.opener.open(total.total(), [one.seed for one in sealed], sealable.components.size)
        state, _ = finish(law, state, plan, opened, np.zeros(0, dtype=np.int64), contributors=participants)
        own += time.perf_counter() - began
        rows.append({"sent": plan.sent, "institution": own, "coordinator": folding, "peak_bytes": memory.peak()})
    return {"rounds": rows, "base_bytes": memory.base}


def _law(exchange: Exchange, values: int) -> Law:
    layout = Layout.of([("table", (values,), Kind.TABLE)])
    return Law(layout, Pruning(), Grid(first_range=0.1), bytes(32), bytes(32), exchange.participants,
               exchange.parameters.payload_bits, 100)  # fmt: skip


KINDS: Mapping[str, Callable[..., dict[str, Any]]] = {"institution": institution, "server": server, "rounds": rounds}

if __name__ == "__main__":
    print(json.dumps(KINDS[sys.argv[1]](**json.loads(sys.argv[2]))))
