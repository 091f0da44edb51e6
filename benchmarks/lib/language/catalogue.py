"""Cells of the language model: experiments/gsm8k.toml by LoRA in clear and by dictpfl under encryption, with the same steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lib import lora
from lib.machine import RESULTS
from lib.paper.cells import Cell, Store

STORE = Store(RESULTS / "language", "benchmarks/language.py")
EXPERIMENT, NEEDS = "gsm8k", "data/gsm8k.parquet"
START, PAIRS, OURS = "start", "lora", "dictpfl"
TITLES: Mapping[str, str] = {
    START: "as published, not trained",
    PAIRS: "LoRA r = 4, both factors averaged, in clear",
    OURS: "**dictpfl** r = 4, encrypted",
}
_PAIRED = {
    "method": "plaintext",
    "toy_insecure": True,
    "model.source": "lib.lora:model",
    "model.options": {"source": "transformers:data/smollm2", "options": {"head": "causal-lm"}, "rank": 4},
    "decomposition.frozen": [*lora.FROZEN, "model.embed_tokens.weight"],
}
METHODS: Mapping[str, Mapping[str, Any]] = {
    PAIRS: _PAIRED,
    OURS: {"method": "dictpfl"},
}
"""All train the same scales of normalisation beside their pairs or tables; embeddings, which are the output layer too, stay."""
SEEDS = (1, 2, 3)
TUNING_SEED = 0
RATES: Mapping[str, Sequence[float]] = dict.fromkeys(METHODS, (1e-3, 2e-3, 4e-3))
EXTENSIONS = 5
HELD_OUT, ANSWERED, LONGEST = 200, 100, 120
"""Held-out problems whose answers' loss is measured; of these, questions that the model answers itself; tokens of an answer."""
_UNSEEN = {"data.test_limit": 1}  # the run's own test after each round: the models are measured at the end, on more
QUICK = {"federation.rounds": 1, "training.steps": 1, "training.batch_size": 2, "data.limit": 12}


def start() -> Cell:
    """The model before any training: a federation that is not run."""
    return Cell(START, EXPERIMENT, {"method": "dictpfl", "seed": 1}, needs=NEEDS)


def tested(method: str, seed: int) -> Cell:
    """A federation whose model is measured on held-out problems."""
    return Cell(f"test/{method}/seed-{seed}", EXPERIMENT, {**METHODS[method], **_UNSEEN, "seed": seed}, needs=NEEDS)


def tuning(method: str, rate: float) -> Cell:
    """A federation whose model is measured on the institutions' validation problems."""
    settings = {**METHODS[method], **_UNSEEN, "seed": TUNING_SEED, "training.learning_rate": rate}
    return Cell(f"tune/{method}/rate-{rate:g}", EXPERIMENT, settings, tunes=True, needs=NEEDS)


def every() -> list[Cell]:
    """What is reported, in the order in which it is measured; the tuning that it waits for is not among it."""
    return [start(), *(tested(method, seed) for seed in SEEDS for method in METHODS)]


def method_of(cell: Cell) -> str:
    """The method of a cell's name."""
    return cell.name.split("/")[1] if "/" in cell.name else cell.name


def tuned(method: str, store: Store) -> tuple[float | None, list[Cell], dict[float, float]]:
    """The rate of the least validation loss, the cells that are missing to know it, and the loss by rate.

    A grid whose best is at its end is extended there by a factor of two, at most `EXTENSIONS` times.
    """
    wanted = sorted(RATES[method])
    while True:
        cells = {rate: tuning(method, rate) for rate in wanted}
        found = {rate: store.result(cell) for rate, cell in cells.items()}
        tried = {rate: float(figures["loss"]) for rate, figures in found.items() if figures is not None}
        if len(tried) < len(wanted):
            return None, [cell for rate, cell in cells.items() if rate not in tried], tried
        best = min(tried, key=lambda rate: tried[rate])
        if wanted[0] < best < wanted[-1] or len(wanted) == len(RATES[method]) + EXTENSIONS:
            return best, [], tried
        wanted = sorted([*wanted, 2 * best if best == wanted[-1] else best / 2])
