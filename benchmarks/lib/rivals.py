"""What people would otherwise use, called through its own classes: NVIDIA FLARE, Flower's SecAgg+, TenSEAL's vectors.

Each takes the same float32 vectors of `PARTICIPANTS` institutions and gives back their mean; the clock has three
phases: `encrypt` (one institution, until bytes leave it), `aggregate` (the server, from all institutions' bytes to the
bytes that it sends back) and `decrypt` (one institution, from those bytes to numbers).
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import tenseal as ts
from numpy.typing import NDArray

from lib import openfhe
from lib.exchange import Exchange
from lib.measured import PARTICIPANTS, Measured, Scheme, Vectors
from lib.openfhe import OpenFHE
from lib.secagg import SecAggPlus
from lib.short import ClearIntegers, OneTimePads

SLOTS = 4096
"""Real slots of a ciphertext with 8,192 coefficients."""


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
        for member, vector in enumerate(vectors):
            with now.phase("prepare", 1 / PARTICIPANTS):
                exchange.prepare(count)
            with now.phase("encrypt", 1 / PARTICIPANTS):
                scaled = vector / step
                uploads.append(exchange.upload(np.rint(scaled, out=scaled).astype(np.int64), member=member))
        with now.phase("aggregate"):
            fold = exchange.fold(count)
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
    """`ts.ckks_vector`; `share` of the values is encrypted, the rest crosses as float32.

    With `degree` 8,192 and several primes it is as tutorials use it, which leaves room for multiplications; with 4,096, one
    prime for the values and the secret key alone (`symmetric`) it is set up for adding.

    The encrypted part goes ciphertext by ciphertext, so that no size needs more memory than another; which values are
    encrypted is taken as agreed, and costs nothing here. One institution's ciphertext stands for all of them.
    """

    def __init__(
        self, name: str, bits: Sequence[int], scale_bits: int, share: float = 1.0, degree: int = 2 * SLOTS,
        *, symmetric: bool = False,
    ) -> None:  # fmt: skip
        kind = ts.ENCRYPTION_TYPE.SYMMETRIC if symmetric else ts.ENCRYPTION_TYPE.ASYMMETRIC
        self.name = name
        self._context = ts.context(ts.SCHEME_TYPE.CKKS, degree, coeff_mod_bit_sizes=list(bits), encryption_type=kind)
        self._context.global_scale = 2**scale_bits
        self._share, self._slots = share, degree // 2

    def run(self, vectors: Vectors) -> Measured:
        """See `Scheme.run`."""
        now, split = Measured(), round(self._share * vectors[0].size)
        for start in range(0, split, self._slots):
            self._chunk(now, vectors, slice(start, min(start + self._slots, split)))
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
    """All that are installed; the published parameters of FedML-HE and MaskCrypt are re-built on SEAL."""
    return [
        Ours(8),
        Ours(16),
        Clear(),
        ClearIntegers(),
        OneTimePads(),
        CKKSVector("TenSEAL ckks_vector", (60, 40, 40), 40),
        CKKSVector("ckks_vector for adding", (36, 36), 30, degree=4096, symmetric=True),
        FLARE(),
        SecAggPlus(),
        SecAggPlus(short=True),
        *([OpenFHE(), OpenFHE(1, 2**13)] if openfhe.is_here() else []),
        # FedML's fhe_agg.py: CKKS of depth 1, 4,096 slots, scale 2^52; its paper encrypts the most sensitive 10 %.
        CKKSVector("FedML-HE, 10 % encrypted", (60, 52, 60), 52, share=0.1),
        # Plato's homo_enc.py and MaskCrypt example: (8192, [60, 40, 40, 60]), scale 2^40, 5 % encrypted.
        CKKSVector("MaskCrypt, 5 % encrypted", (60, 40, 40, 60), 40, share=0.05),
    ]
