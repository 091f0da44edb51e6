"""Flower's SecAgg+ as a scheme of `benchmarks/lib/rivals.py`: its own client mod and server workflow in one process."""

from __future__ import annotations

import io
import logging
import os
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from lib.measured import PARTICIPANTS, Measured, Vectors
from lib.words import bits_for, packed, unpacked

_LEVELS = 255
"""Values of 8 bits, as this project sends."""


class SecAggPlus:
    """Flower's SecAgg+: its client mod and its server workflow, messages passed by hand and measured as protobuf.

    Masks, no encryption: the server learns the mean. All institutions are neighbours.

    With its default clipping and ranges it carries 22 bits in int64. `short`: the same mod and workflow, set up for 8-bit values: what is
    masked lies modulo the power of two that a sum of them needs, and travels in so many bits, as the mean's sums do.
    """

    def __init__(self, *, short: bool = False) -> None:
        self.name = "SecAgg+, bits it needs" if short else "Flower SecAgg+"
        self._bits = bits_for(PARTICIPANTS * _LEVELS) if short else 0

    def run(self, vectors: Vectors) -> Measured:
        """See `Scheme.run`. `encrypt` and `decrypt` are all stages of one institution, `aggregate` the server's."""
        from flwr.app import ArrayRecord, ConfigRecord, Context, RecordDict
        from flwr.common import ndarrays_to_parameters, parameters_to_ndarrays
        from flwr.server.compat.legacy_context import LegacyContext
        from flwr.server.workflow import SecAggPlusWorkflow
        from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD, Key
        from flwr.supercore.task_identity import TaskIdentity

        logging.getLogger("flwr").setLevel(logging.ERROR)
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 0  # of a server app, for messages
        now = Measured()
        strategy = _Averaging(vectors)
        context = LegacyContext(
            Context(1, 0, {}, RecordDict(), {}), strategy=cast("Any", strategy), client_manager=cast("Any", strategy)
        )
        context.state.config_records[MAIN_CONFIGS_RECORD] = ConfigRecord({Key.CURRENT_ROUND: 1})
        context.state.array_records[MAIN_PARAMS_RECORD] = ArrayRecord([np.zeros(vectors[0].size)])
        grid = _Loopback(vectors, now, self._bits)
        ranges: dict[str, Any] = {}
        if self._bits:
            # A hair above the largest value, for its quantiser draws between two neighbours.
            largest = float(max(np.abs(vector).max() for vector in vectors)) * (1 + 1e-6)
            ranges = {"clipping_range": largest, "quantization_range": _LEVELS, "modulus_range": 1 << self._bits}
        began, worked = time.perf_counter(), time.process_time()
        SecAggPlusWorkflow(num_shares=1.0, reconstruction_threshold=0.7, **ranges)(cast("Any", grid), context)
        whole, work = time.perf_counter() - began, time.process_time() - worked
        assert strategy.mean is not None, "Flower's workflow ended without a result"
        # The mean goes down with the next round's instructions, as float64; here they held zeros of that size.
        mean = parameters_to_ndarrays(strategy.mean)[0]
        now.add("aggregate", whole - grid.seconds, work - grid.cpu)
        with now.phase("decrypt"):
            parameters_to_ndarrays(ndarrays_to_parameters([mean]))
        now.up, now.down = grid.up // PARTICIPANTS, grid.down // PARTICIPANTS
        if self._bits:
            # Sums of whole numbers, in the bits that they need, in place of the zeros that went down as float64.
            now.down += -(-mean.size * self._bits // 8) - 8 * mean.size
        now.judge(mean, vectors)
        return now


class _Averaging:
    """What SecAgg+'s workflow wants of a strategy and of a client manager: everybody takes part, the mean is kept."""

    def __init__(self, vectors: Vectors) -> None:
        self._count = len(vectors)
        self.mean: Any = None

    def configure_fit(self, _round: int, parameters: Any, _manager: Any) -> list[tuple[Any, Any]]:
        from flwr.common import FitIns

        return [(SimpleNamespace(node_id=1 + i), FitIns(parameters, {})) for i in range(self._count)]

    def aggregate_fit(self, _round: int, results: Any, _failures: Any) -> tuple[Any, dict[str, Any]]:
        self.mean = results[0][1].parameters
        return None, {}

    def num_available(self) -> int:
        return self._count


class _Loopback:
    """A grid whose nodes are in this process: each message goes through its node's own SecAgg+ mod."""

    def __init__(self, vectors: Vectors, now: Measured, bits: int) -> None:
        from flwr.app import Context, RecordDict

        self._vectors, self._now, self._bits = vectors, now, bits
        self._contexts = {1 + i: Context(1, 1 + i, {}, RecordDict(), {}) for i in range(len(vectors))}
        self.up = self.down = 0
        self.seconds = self.cpu = 0.0

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> list[Any]:
        del timeout
        return [self._reply(message) for message in messages]

    def _reply(self, message: Any) -> Any:
        from flwr.client.mod import secaggplus_mod
        from flwr.common.serde import recorddict_from_proto, recorddict_to_proto

        node = message.metadata.dst_node_id
        message.metadata.__dict__["_message_id"] = os.urandom(8).hex()
        began, worked = time.perf_counter(), time.process_time()
        sent = recorddict_to_proto(message.content)
        self.down += len(sent.SerializeToString())
        message.content = recorddict_from_proto(sent)
        with self._now.phase("encrypt", 1 / len(self._vectors)):
            reply = secaggplus_mod(message, self._contexts[node], self._train(node))
            shorter = self._shortened(reply) if self._bits else 0
            returned = recorddict_to_proto(reply.content)
            self.up += len(returned.SerializeToString()) - shorter
        reply.metadata.__dict__["_src_node_id"] = node
        self.seconds += time.perf_counter() - began
        self.cpu += time.process_time() - worked
        return reply

    def _shortened(self, reply: Any) -> int:
        """Pack what is masked as it could travel, see that nothing is lost, and return how many bytes that saves."""
        from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key

        record, saved = reply.content.config_records[RECORD_KEY_CONFIGS], 0
        for data in record.get(Key.MASKED_PARAMETERS, ()):
            masked = np.load(io.BytesIO(data), allow_pickle=False).reshape(-1).astype(np.int64)
            short = packed(masked, self._bits)
            assert np.array_equal(unpacked(short, masked.size, self._bits), masked), (
                "masked values beyond their modulus"
            )
            saved += len(data) - len(short)
        return saved

    def _train(self, node: int) -> Callable[[Any, Any], Any]:
        def call(message: Any, _context: Any) -> Any:
            from flwr.app import Message
            from flwr.common import Code, FitRes, Status, ndarrays_to_parameters
            from flwr.compat.common.recorddict_compat import fitres_to_recorddict

            parameters = ndarrays_to_parameters([self._vectors[node - 1]])
            result = FitRes(Status(Code.OK, ""), parameters, 1000, {})
            return Message(fitres_to_recorddict(result, keep_input=False), reply_to=message)

        return call
