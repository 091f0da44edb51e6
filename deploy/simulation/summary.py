"""summary.json of a finished run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dictpfl.common.config import FederationConfig
from dictpfl.common.genesis import Genesis
from dictpfl.common.law.layout import Kind
from dictpfl.common.law.order import stopped
from dictpfl.common.law.state import SharedState
from dictpfl.common.messages.protocol import RoundKind
from dictpfl.deploy.runs.formats import FORMAT, as_accuracy
from dictpfl.deploy.runs.record import RoundRecord
from dictpfl.deploy.runs.run import machine_facts, versions
from dictpfl.deploy.simulation.founding import Founded
from dictpfl.deploy.simulation.groups import mean_of

_FLOAT = 4
"""Bytes of a parameter that is sent in clear, as float32: what bytes are compared with."""
_SHOWN = 64
"""Most entries of a tally whose sums are in a summary; larger ones are in shared state alone."""


def summarise(
    founded: Founded,
    history: Sequence[RoundRecord],
    *,
    metric: str,
    state: SharedState,
    seconds_total: float,
    engine: str,
    test_counts: Mapping[str, int],
) -> dict[str, Any]:
    """summary.json: what was run, what it reached, and what crossed the wire for one institution.

    In `reduction`, decomposition times pruning times scores is values; `scores` is below 1 where scores or tallies were sent besides
    updates, `besides` so many values.

    `test`, `test_history` and `validation` are figures of `metric`; where that is an accuracy, they stand under the names of format 1, too.

    `test_by_group` has each institution's own test figure and samples where the data name them, `test_mean_of_groups` the
    plain mean of those figures.
    """
    config = founded.genesis.config
    updates = [record for record in history if record.kind == RoundKind.UPDATE]
    figures = [record.test for record in updates]
    sent, rounds = sum(record.sent for record in history), len(updates)
    updated = sum(record.sent for record in updates)
    values = {"model": founded.model_values, "shared": founded.genesis.layout.size, "sent": sent}
    last = history[-1]
    summary = {
        "format": FORMAT,
        "name": config.name,
        "method": config.method,
        "dataset": config.data.source,
        "model": config.model.source,
        "participants": config.federation.participants,
        "sample": config.federation.sample,
        "rounds": rounds,
        "encrypted": not _unencrypted(config),
        "insecure": list(config.insecurities),
        "metric": metric,
        "test": figures[-1],
        "test_history": figures,
        "test_by_group": {
            name: {"samples": test_counts[name], "figure": figure} for name, figure in updates[-1].test_by_group.items()
        },
        "test_mean_of_groups": mean_of(updates[-1].test_by_group),
        "validation": last.validation,
        "best": _best(state, config, updates),
        "tallies": _tallies(founded.genesis, state),
        "stopped": stopped(founded.genesis.law, state),
        "values": values,
        "trained": trained(founded.genesis),
        "reduction": {
            "decomposition": values["model"] / max(1, values["shared"]),
            "pruning": values["shared"] * rounds / max(1, updated),
            "scores": updated / max(1, sent),
            "besides": sent - updated,
            "values": values["model"] * rounds / max(1, sent),
            "bytes": _FLOAT * values["model"] * rounds / max(1, sum(record.bytes_up for record in history)),
        },
        "bytes": {
            "up": sum(record.bytes_up for record in history),
            "down": sum(record.bytes_down for record in history),
        },
        "seconds": {"total": seconds_total}
        | {
            phase: sum(record.seconds.get(phase, 0.0) for record in history)
            for phase in ("train", "seal", "fold", "open", "evaluate", "store")
        },
        "engine": engine,
        "federation": founded.genesis.federation.hex(),
        "fingerprint": founded.genesis.fingerprint.hex(),
        "encryption": founded.genesis.parameters.to_json(),
        "state_digest": state.digest.hex(),
        "seed": config.seed,
        "versions": versions(),
        "machine": machine_facts(),
    }
    return summary | as_accuracy(summary)


def trained(genesis: Genesis) -> dict[str, Any]:
    """Count what is trained and shared, by kind, and say what the head is: the paper leaves it open."""
    if genesis.config.sparsity.method != "none":
        return {"values": {"threshold": genesis.layout.size}, "head": "frozen"}
    kinds = {str(kind): int(genesis.layout.coordinates(kind).sum()) for kind in Kind}
    settings = genesis.config.decomposition
    free = not settings.enabled or settings.last_layers
    return {"values": kinds, "head": "dense" if free else settings.head}


def _tallies(genesis: Genesis, state: SharedState) -> list[dict[str, Any]]:
    """Describe opened tallies, small ones with their sums by entry, in integers of 2^-fraction."""
    rows = []
    for tally, opened in zip(genesis.tallies, state.tallies, strict=False):
        row = {
            "name": tally.name, "when": tally.when, "weight": tally.weight, "fraction": tally.fraction, "entries": tally.layout.size,
            "participants": opened.participants, "samples": opened.samples,
        }  # fmt: skip
        if tally.layout.size <= _SHOWN:
            row["sums"] = {entry.name: opened.sums[entry.span].tolist() for entry in tally.layout.entries}
        rows.append(row)
    return rows


def _best(state: SharedState, config: FederationConfig, updates: Sequence[RoundRecord]) -> dict[str, Any] | None:
    """Return the best model by the validation figure, with its test figure; None where none was measured."""
    best = state.course.best
    if best is None:
        return None
    falls = config.selection.by == "loss" or not config.selection.higher
    record = next((record for record in updates if record.update == best.updates), None)
    return {
        "by": config.selection.by, "figure": -best.score if falls else best.score, "updates": best.updates,
        "test": record and record.test,
        "test_mean_of_groups": record and mean_of(record.test_by_group),
    }  # fmt: skip


def _unencrypted(config: FederationConfig) -> bool:
    return config.encryption.sealer != "ckks" or config.encryption.sealed_share < 1.0
