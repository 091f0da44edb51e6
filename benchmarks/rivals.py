"""What people would otherwise use, called through its own classes: NVIDIA FLARE, Flower's SecAgg+, TenSEAL's vectors.

Each takes the same float32 vectors of `PARTICIPANTS` institutions and gives back their mean; the clock has three
phases: `encrypt` (one institution, until bytes leave it), `aggregate` (the server, from all institutions' bytes to the
bytes that it sends back) and `decrypt` (one institution, from those bytes to numbers).
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Protocol, cast

import numpy as np
import tenseal as ts
from numpy.typing import NDArray

from benchmarks.exchange import Exchange

PARTICIPANTS = 3
"""As in the paper."""
Vectors = Sequence[NDArray[np.float32]]
"""One float32 vector an institution, all of shape (n,)."""
SLOTS = 4096
"""Real slots of a ciphertext with 8,192 coefficients."""


@dataclass
class Measured:
    """What one turn of a scheme took.

    Attributes:
        seconds: by phase; `prepare` only where a scheme can do part of its work ahead.
        cpu: the same as processor time of all threads.
        up, down: bytes of one institution.
        error: largest difference from the mean of the vectors, in their unit.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)
    up: int = 0
    down: int = 0
    error: float = 0.0

    @contextmanager
    def phase(self, name: str, share: float = 1.0) -> Iterator[None]:
        """Time what is inside; it counts by its share of the phase."""
        began, worked = time.perf_counter(), time.process_time()
        yield
        self.add(name, share * (time.perf_counter() - began), share * (time.process_time() - worked))

    def add(self, name: str, seconds: float, cpu: float) -> None:
        """Count seconds towards a phase."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        self.cpu[name] = self.cpu.get(name, 0.0) + cpu

    def judge(self, found: NDArray[Any], vectors: Vectors, start: int = 0) -> None:
        """Compare a piece of the result that begins at `start` with the mean."""
        wanted = np.mean([v[start : start + found.size] for v in vectors], axis=0, dtype=np.float64)
        self.error = max(self.error, float(np.abs(found - wanted).max()))


class Scheme(Protocol):
    """A way to average vectors without showing them to the server."""

    name: str

    def run(self, vectors: Vectors) -> Measured:
        """One round."""
        ...


class Ours:
    """This project: quantised to `value_bits`, sealed, folded by the coordinator's own `Fold`, opened."""

    def __init__(self, value_bits: int) -> None:
        self._exchange = Exchange(PARTICIPANTS, value_bits)
        self.name = f"dictpfl, {value_bits} bits"

    def run(self, vectors: Vectors) -> Measured:
        """See `Scheme.run`. Quantising is counted on both sides."""
        now, exchange, count = Measured(), self._exchange, vectors[0].size
        step = float(max(np.abs(v).max() for v in vectors)) / exchange.largest
        uploads = []
        for vector in vectors:
            with now.phase("prepare", 1 / PARTICIPANTS):
                exchange.prepare(count)
            with now.phase("encrypt", 1 / PARTICIPANTS):
                uploads.append(exchange.upload(np.rint(vector / step).astype(np.int64)))
        with now.phase("aggregate"):
            fold = exchange.fold(exchange.ciphertexts(count))
            for node, upload in enumerate(uploads):
                fold.add(node, upload)
            aggregate, _, _ = fold.aggregate()
        with now.phase("decrypt"):
            mean = exchange.open(aggregate, count) * (step / PARTICIPANTS)
        now.up, now.down = len(uploads[0]), len(aggregate)
        now.judge(mean, vectors)
        return now


class Clear:
    """float32 in clear."""

    name = "float32 in clear"

    def run(self, vectors: Vectors) -> Measured:
        """See `Scheme.run`."""
        now = Measured()
        for vector in vectors:
            with now.phase("encrypt", 1 / PARTICIPANTS):
                upload = vector.tobytes()
        uploads = [vector.tobytes() for vector in vectors]
        with now.phase("aggregate"):
            aggregate = _clear_mean(uploads)
        with now.phase("decrypt"):
            mean = np.frombuffer(aggregate, np.float32).copy()
        now.up, now.down = len(upload), len(aggregate)
        now.judge(mean, vectors)
        return now


class CKKSVector:
    """`ts.ckks_vector` as tutorials use it; `share` of the values is encrypted, the rest crosses as float32.

    The encrypted part goes ciphertext by ciphertext, so that no size needs more memory than another; which values are
    encrypted is taken as agreed, and costs nothing here. One institution's ciphertext stands for all of them.
    """

    def __init__(self, name: str, bits: Sequence[int], scale_bits: int, share: float = 1.0) -> None:
        self.name = name
        self._context = ts.context(ts.SCHEME_TYPE.CKKS, 2 * SLOTS, coeff_mod_bit_sizes=list(bits))
        self._context.global_scale = 2**scale_bits
        self._share = share

    def run(self, vectors: Vectors) -> Measured:
        """See `Scheme.run`."""
        now, split = Measured(), round(self._share * vectors[0].size)
        for start in range(0, split, SLOTS):
            self._chunk(now, vectors, slice(start, min(start + SLOTS, split)))
        rest = [vector[split:] for vector in vectors]
        if rest[0].size:
            clear = Clear().run(rest)
            now.up, now.down = now.up + clear.up, now.down + clear.down
            for name, seconds in clear.seconds.items():
                now.add(name, seconds, clear.cpu[name])
        return now

    def _chunk(self, now: Measured, vectors: Vectors, part: slice) -> None:
        uploads = []
        for vector in vectors:
            with now.phase("encrypt", 1 / PARTICIPANTS):
                uploads.append(ts.ckks_vector(self._context, vector[part].tolist()).serialize())
        with now.phase("aggregate"):
            total = ts.ckks_vector_from(self._context, uploads[0])
            for upload in uploads[1:]:
                total += ts.ckks_vector_from(self._context, upload)
            aggregate = total.serialize()
        with now.phase("decrypt"):
            mean = np.array(ts.ckks_vector_from(self._context, aggregate).decrypt()) / PARTICIPANTS
        now.up, now.down = now.up + len(uploads[0]), now.down + len(aggregate)
        now.judge(mean, vectors, part.start)


class FLARE:
    """NVIDIA FLARE's HE filters and aggregator, with the context that its `HEBuilder` provisions.

    HEModelEncryptor, fobs, HEInTimeAccumulateWeightedAggregator, HEModelShareableGenerator, fobs, HEModelDecryptor: what
    `fedavg_he` wires together. Values travel as tensors of at most `tensor` values; fobs sends the context along with
    each, which is why small tensors cost most.
    """

    name = "NVIDIA FLARE HE"

    def __init__(self, tensor: int = 1_000_000) -> None:
        from nvflare.app_opt.he.model_decryptor import HEModelDecryptor
        from nvflare.app_opt.he.model_encryptor import HEModelEncryptor
        from nvflare.app_opt.he.model_shareable_generator import HEModelShareableGenerator
        from nvflare.lighter.impl.he import HEBuilder

        builder = HEBuilder()
        builder.initialize(None, None)
        self._encryptor, self._decryptor = HEModelEncryptor(), HEModelDecryptor()
        self._generator = HEModelShareableGenerator()
        for part, is_client in ((self._encryptor, True), (self._decryptor, True), (self._generator, False)):
            part.tenseal_context = ts.context_from(builder.get_serialized_context(is_client=is_client))
        self._encryptor.encrypt_layers = [True]  # as its START_RUN event sets it when no layers are named
        self._tensor = tensor

    def run(self, vectors: Vectors) -> Measured:
        """See `Scheme.run`."""
        size = vectors[0].size
        bounds = range(0, size, self._tensor)
        named = [{f"tensor{i}": v[i : i + self._tensor] for i in bounds} for v in vectors]
        now, mean = self.exchange(named)
        now.judge(np.concatenate([mean[f"tensor{i}"] for i in bounds]), vectors)
        return now

    def exchange(self, named: Sequence[Mapping[str, NDArray[np.float32]]]) -> tuple[Measured, dict[str, NDArray[Any]]]:
        """A round over named tensors, one mapping for each institution; what it took, and the mean by name."""
        with _quiet():
            return self._exchange(named)

    def _exchange(self, named: Sequence[Mapping[str, NDArray[np.float32]]]) -> tuple[Measured, dict[str, NDArray[Any]]]:
        from nvflare.apis.dxo import DataKind, from_shareable
        from nvflare.apis.event_type import EventType
        from nvflare.apis.fl_constant import ReservedKey
        from nvflare.apis.fl_context import FLContext
        from nvflare.app_common.abstract.model import make_model_learnable
        from nvflare.app_common.app_constant import AppConstants
        from nvflare.app_opt.he.intime_accumulate_model_aggregator import HEInTimeAccumulateWeightedAggregator
        from nvflare.fuel.utils import fobs

        now, server = Measured(), FLContext()
        server.set_prop(AppConstants.CURRENT_ROUND, 0, private=True, sticky=False)
        base = {name: np.zeros(tensor.shape, np.float32) for name, tensor in named[0].items()}
        server.set_prop(AppConstants.GLOBAL_MODEL, make_model_learnable(base, {}), private=True, sticky=False)
        aggregator = HEInTimeAccumulateWeightedAggregator(weigh_by_local_iter=False)
        aggregator.handle_event(EventType.START_RUN, server)
        for index, tensors in enumerate(named):
            with now.phase("encrypt", 1 / len(named)):
                upload = self._upload(tensors)
            with now.phase("aggregate"):
                received = fobs.loads(upload)
                received.set_peer_props({ReservedKey.IDENTITY_NAME: f"site-{index}"})
                received.add_cookie(AppConstants.CONTRIBUTION_ROUND, 0)
                assert aggregator.accept(received, server), "FLARE's aggregator refused an upload"
            now.up = len(upload)
            del received, upload
        with now.phase("aggregate"):
            learnable = self._generator.shareable_to_learnable(aggregator.aggregate(server), server)
            aggregate = fobs.dumps(self._generator.learnable_to_shareable(learnable, server))
        now.down = len(aggregate)
        assert from_shareable(fobs.loads(aggregate)).data_kind == DataKind.WEIGHTS
        with now.phase("decrypt"):
            shareable = fobs.loads(aggregate)
            opened = self._decryptor.process_dxo(from_shareable(shareable), shareable, FLContext())
            mean = {name: np.array(values) for name, values in opened.data.items()}
        return now, mean

    def _upload(self, tensors: Mapping[str, NDArray[np.float32]]) -> bytes:
        from nvflare.apis.dxo import DXO, DataKind, MetaKey
        from nvflare.apis.fl_constant import ReservedKey
        from nvflare.apis.fl_context import FLContext
        from nvflare.apis.shareable import Shareable
        from nvflare.fuel.utils import fobs

        peer, context = FLContext(), FLContext()
        peer.set_prop(ReservedKey.IDENTITY_NAME, "site", private=False, sticky=False)
        context.set_peer_context(peer)
        dxo = DXO(DataKind.WEIGHT_DIFF, data=dict(tensors), meta={MetaKey.NUM_STEPS_CURRENT_ROUND: 1})
        return cast("bytes", fobs.dumps(self._encryptor.process_dxo(dxo, Shareable(), context).to_shareable()))


class SecAggPlus:
    """Flower's SecAgg+: its client mod and its server workflow, messages passed by hand and measured as protobuf.

    Masks, no encryption: the server learns the mean. Default clipping and ranges; all institutions are neighbours.
    """

    name = "Flower SecAgg+"

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
        grid = _Loopback(vectors, now)
        began, worked = time.perf_counter(), time.process_time()
        SecAggPlusWorkflow(num_shares=1.0, reconstruction_threshold=0.7)(cast("Any", grid), context)
        whole, work = time.perf_counter() - began, time.process_time() - worked
        assert strategy.mean is not None, "Flower's workflow ended without a result"
        # The mean goes down with the next round's instructions, as float64; here they held zeros of that size.
        mean = parameters_to_ndarrays(strategy.mean)[0]
        now.add("aggregate", whole - grid.seconds, work - grid.cpu)
        with now.phase("decrypt"):
            parameters_to_ndarrays(ndarrays_to_parameters([mean]))
        now.up, now.down = grid.up // PARTICIPANTS, grid.down // PARTICIPANTS
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

    def __init__(self, vectors: Vectors, now: Measured) -> None:
        from flwr.app import Context, RecordDict

        self._vectors, self._now = vectors, now
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
            returned = recorddict_to_proto(reply.content)
            self.up += len(returned.SerializeToString())
        reply.metadata.__dict__["_src_node_id"] = node
        self.seconds += time.perf_counter() - began
        self.cpu += time.process_time() - worked
        return reply

    def _train(self, node: int) -> Callable[[Any, Any], Any]:
        def call(message: Any, _context: Any) -> Any:
            from flwr.app import Message
            from flwr.common import Code, FitRes, Status, ndarrays_to_parameters
            from flwr.compat.common.recorddict_compat import fitres_to_recorddict

            parameters = ndarrays_to_parameters([self._vectors[node - 1]])
            result = FitRes(Status(Code.OK, ""), parameters, 1000, {})
            return Message(fitres_to_recorddict(result, keep_input=False), reply_to=message)

        return call


@contextmanager
def _quiet() -> Iterator[None]:
    """FLARE logs each tensor and the missing engine, and SEAL's wrapper prints a warning for each vector."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    logging.disable(logging.CRITICAL)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        logging.disable(logging.NOTSET)
        for descriptor in (kept, nowhere):
            os.close(descriptor)


def _clear_mean(uploads: Sequence[bytes]) -> bytes:
    total = np.frombuffer(uploads[0], np.float32).copy()
    for upload in uploads[1:]:
        total += np.frombuffer(upload, np.float32)
    total /= len(uploads)
    return total.tobytes()


def schemes() -> list[Scheme]:
    """All of them; the published parameters of FedML-HE and MaskCrypt are re-built on SEAL."""
    return [
        Ours(8),
        Ours(16),
        Clear(),
        CKKSVector("TenSEAL ckks_vector", (60, 40, 40), 40),
        FLARE(),
        SecAggPlus(),
        # FedML's fhe_agg.py: CKKS of depth 1, 4,096 slots, scale 2^52; its paper encrypts the most sensitive 10 %.
        CKKSVector("FedML-HE, 10 % encrypted", (60, 52, 60), 52, share=0.1),
        # Plato's homo_enc.py and MaskCrypt example: (8192, [60, 40, 40, 60]), scale 2^40, 5 % encrypted.
        CKKSVector("MaskCrypt, 5 % encrypted", (60, 40, 40, 60), 40, share=0.05),
    ]
