"""The former way of doing something beside the present one: processor time of both, in one process, with equal results."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

import common.dictionary
import common.round
from benchmarks import former
from benchmarks.exchange import Exchange
from benchmarks.machine import median
from benchmarks.measured import PARTICIPANTS
from benchmarks.slots import PAYLOAD_BITS, Slots
from client.data import load_dataset
from client.models import build_model
from client.tasks import load_task
from client.training import evaluate
from client.twin import Twin, decompose
from common.config import FederationConfig
from common.grid import code_units, range_codes
from common.packing import Digits, Ints, pack, unpack
from common.parameters import CKKSParameters
from common.protocol import RoundKind
from common.round import Law, begin
from common.settings import Encryption

VALUES = 150_000
TURNS = 5
ROWS, COLUMNS, RANK = 768, 3072, 4
"""The largest weight of a layer of ViT-B/16 or BERT-base."""


@dataclass(frozen=True)
class Pair:
    """Medians of processor milliseconds (or bytes), the former way's and the present one's."""

    what: str
    former: float
    present: float
    unit: str = "ms"
    trades: bool = False
    """Whether it is dearer on purpose, and pays elsewhere."""

    @property
    def ratio(self) -> float:
        """How many times less."""
        return self.former / self.present

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self) | {"ratio": self.ratio}


def pairs(configs: Mapping[str, FederationConfig], *, turns: int = TURNS) -> Iterator[Pair]:
    """All pairs; the models of `configs` (by name) are those that are decomposed, read, loaded and evaluated.

    Raises:
        AssertionError: two ways differ in their results.
    """
    yield from _dictionaries(turns)
    for name, config in configs.items():
        yield _evaluation(name, config, turns)
    yield from _vector(configs[next(reversed(configs))], turns)
    yield from _packing(turns)
    yield from _sums(turns)
    yield _prepared(turns)
    yield from _coefficients(turns)


def compared(what: str, one: Callable[[], Any], other: Callable[[], Any], turns: int) -> Pair:
    """Both in turn, so that what disturbs the machine disturbs both; the first turn warms up and is not counted."""
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(turns + 1):
        for seconds, way in zip(taken, (one, other), strict=True):
            began = time.process_time()
            way()
            seconds.append(time.process_time() - began)
    return Pair(what, *(1e3 * median(seconds[1:]) for seconds in taken))


def _dictionaries(turns: int) -> Iterator[Pair]:
    rng = np.random.default_rng(1)
    for rows, columns in ((320, 1280), (ROWS, COLUMNS)):
        a = rng.normal(size=(rows, columns))
        u, s = former.leading(a, RANK)
        found, values = common.dictionary._leading(a, RANK)  # noqa: SLF001 -- what is measured
        assert np.allclose(np.abs((u * found).sum(axis=0)), 1.0, rtol=0, atol=1e-10)
        assert np.allclose(s, values, rtol=1e-12)
        few = turns if rows < ROWS else 1
        yield compared(
            f"dictionary of rank {RANK} of a weight {rows} x {columns}: full SVD, or from the Gram matrix",
            lambda a=a: former.leading(a, RANK), lambda a=a: common.dictionary._leading(a, RANK), few,  # type: ignore[misc]  # noqa: SLF001
        )  # fmt: skip


def _model(config: FederationConfig) -> tuple[Twin, Any]:
    dataset = load_dataset(config.data, config.seed)
    model = build_model(config.model, dataset.sample_shape, dataset.outputs, config.seed)
    return decompose(model, config.decomposition), dataset


def _evaluation(name: str, config: FederationConfig, turns: int) -> Pair:
    twin, dataset = _model(config)
    samples, task = (
        dataset.samples.take(np.arange(min(former.MEASURED_AT_A_TIME, len(dataset.samples)))),
        load_task(config.training.task),
    )

    def measured(batch: int) -> float:
        return evaluate(twin.module, samples, task, batch_size=batch).metric_sum

    assert measured(0) == measured(former.MEASURED_AT_A_TIME)
    return compared(
        f"{name}: evaluation of {len(samples)} samples, {former.MEASURED_AT_A_TIME} at a time or as many as fit the cache",
        lambda: measured(former.MEASURED_AT_A_TIME), lambda: measured(0), turns,
    )  # fmt: skip


def _vector(config: FederationConfig, turns: int) -> Iterator[Pair]:
    """Passes over a long shared vector: every parameter of the largest model."""
    twin, _ = _model(
        config.model_copy(update={"decomposition": config.decomposition.model_copy(update={"enabled": False})})
    )
    x, size = twin.read(), twin.layout.size
    assert np.array_equal(former.read(twin), x)
    yield compared(f"{size:,} values read out of the model", lambda: former.read(twin), twin.read, turns)

    def loaded() -> None:
        with former.installed():
            twin.load(x)

    yield compared(f"{size:,} values put into the model", loaded, lambda: twin.load(x), turns)
    law = Law(twin.layout, config.pruning, config.grid, bytes(32), bytes(32), 3, 44, 1)
    state = law.start(x)
    plan = begin(law, state, RoundKind.UPDATE)
    digits, ranges, mask = plan.sealed.digits, state.ranges, np.ones(size, dtype=bool)
    present = common.round._stream  # noqa: SLF001 -- what is measured
    assert np.array_equal(former.stream(law, ranges, mask, digits).steps, present(law, ranges, mask, digits).steps)
    yield compared(
        f"steps of {size:,} values", lambda: former.stream(law, ranges, mask, digits),
        lambda: present(law, ranges, mask, digits), turns,
    )  # fmt: skip
    update, tensors = np.random.default_rng(1).normal(size=size), law.layout.tensor_of
    units = code_units(np.ldexp(1.0, np.arange(-20, len(law.layout.entries) - 20) % 8 - 20), digits.largest)
    given = (update, units, tensors, law.bound)
    assert np.array_equal(former.range_codes(*given), range_codes(*given))
    yield compared(f"ranges of {size:,} values", lambda: former.range_codes(*given), lambda: range_codes(*given), turns)


def _packing(turns: int) -> Iterator[Pair]:
    parameters = CKKSParameters.choose(Encryption(), PARTICIPANTS)
    digits = Digits.fit(8, PARTICIPANTS, parameters.payload_bits)
    values = np.random.default_rng(1).integers(-digits.largest, digits.largest, VALUES, endpoint=True)
    packed = pack(values, digits)
    assert np.array_equal(former.pack(values, digits), packed)
    assert np.array_equal(former.unpack(packed, VALUES, digits), unpack(packed, VALUES, digits))
    yield compared(f"pack {VALUES:,} values, one at a time or all at once",
                   lambda: former.pack(values, digits), lambda: pack(values, digits), turns)  # fmt: skip
    yield compared(f"unpack {VALUES:,} values, one at a time or all at once",
                   lambda: former.unpack(packed, VALUES, digits), lambda: unpack(packed, VALUES, digits), turns)  # fmt: skip


def _sums(turns: int) -> Iterator[Pair]:
    ways = [Exchange(PARTICIPANTS, encryption=Encryption(seeded_sums=way)) for way in ("never", "always")]
    taken: dict[str, tuple[list[float], list[float]]] = {"fold": ([], []), "open": ([], [])}
    lengths = []
    for _ in range(turns + 1):
        lengths = [_exchanged(way, taken["fold"][i], taken["open"][i]) for i, way in enumerate(ways)]
    for phase, words in (("fold", f"fold {PARTICIPANTS} uploads"), ("open", f"open a sum of {PARTICIPANTS} uploads")):
        yield Pair(f"{words} of {VALUES:,} values, sent with both polynomials or with one and seeds",
                   *(1e3 * median(seconds[1:]) for seconds in taken[phase]), trades=phase == "open")  # fmt: skip
    yield Pair(f"the same sum, down to each institution, {VALUES:,} values", *map(float, lengths), unit="bytes")


def _exchanged(exchange: Exchange, fold: list[float], opening: list[float]) -> int:
    """One round of it; the bytes that come down."""
    values = [exchange.values(VALUES, institution) for institution in range(PARTICIPANTS)]
    uploads = [exchange.upload(one) for one in values]
    began = time.process_time()
    adding = exchange.fold(exchange.ciphertexts(VALUES))
    for node, upload in enumerate(uploads):
        adding.add(node, upload)
    aggregate, _, _ = adding.aggregate()
    fold.append(time.process_time() - began)
    began = time.process_time()
    found = exchange.open(aggregate, VALUES)
    opening.append(time.process_time() - began)
    assert np.array_equal(found, sum(values))
    return len(aggregate)


def _prepared(turns: int) -> Pair:
    exchange = Exchange(PARTICIPANTS)
    components = pack(exchange.values(VALUES), exchange.digits)
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(turns + 1):
        for seconds, count in zip(taken, (0, VALUES), strict=True):
            exchange.sealer.prepare(exchange.ciphertexts(count))
            began = time.process_time()
            list(exchange.sealer.seal(components))
            seconds.append(time.process_time() - began)
    return Pair(f"seal {VALUES:,} values, from nothing or with encryptions of zero prepared while waiting",
                *(1e3 * median(seconds[1:]) for seconds in taken))  # fmt: skip


def _coefficients(turns: int) -> Iterator[Pair]:
    """The same values in slots and in coefficients; in whole ciphertexts of either, so that none is nearly empty."""
    exchange = Exchange(PARTICIPANTS)
    slots, narrow, wide = Slots(exchange.key), Digits.fit(8, PARTICIPANTS, PAYLOAD_BITS), exchange.digits
    count = 2 * narrow.per_component * wide.per_component * exchange.parameters.components
    values = exchange.values(count)

    def opened(items: list[bytes]) -> Ints:
        return exchange.opener.open(memoryview(b"".join(items)), len(items[0]))

    sealing: tuple[list[float], list[float]] = ([], [])
    opening: tuple[list[float], list[float]] = ([], [])
    lengths: list[float] = []
    for _ in range(turns + 1):
        lengths.clear()
        for i, (way, back, digits) in enumerate(((slots, slots.open, narrow), (exchange.sealer, opened, wide))):
            packed = pack(values, digits)
            way.prepare(exchange.parameters.ciphertexts(packed.size))
            began = time.process_time()
            items = list(way.seal(packed))
            sealing[i].append(time.process_time() - began)
            lengths.append(float(sum(map(len, items))))
            began = time.process_time()
            found = back(items)
            opening[i].append(time.process_time() - began)
            assert np.array_equal(unpack(found[: packed.size], count, digits), values)
    for phase, taken in (("seal", sealing), ("open an upload of", opening)):
        yield Pair(f"{phase} {count:,} values, in slots or in coefficients",
                   *(1e3 * median(one[1:]) for one in taken), trades=phase != "seal")  # fmt: skip
    yield Pair(f"{count:,} values sealed, in slots or in coefficients", *lengths, unit="bytes")
