"""`dictpfl audit layers`: a map of which blocks single samples move far, pooled by a federation's tally or from own samples."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dictpfl.client.compress.influence.layers import Layers, Measure, layer_influence, share_of_each
from dictpfl.client.compress.influence.tables import tables_of
from dictpfl.client.folder import SETTINGS, TRAIN
from dictpfl.client.model.scored import LayerScores, ScoredBlock
from dictpfl.client.model.sparse.weights import block_of
from dictpfl.client.tallies.layerif import GRADIENT, INFLUENCE, NAME, LayerIF
from dictpfl.client.training.train import resolve_device
from dictpfl.common.errors import ConfigError
from dictpfl.common.files import write_private
from dictpfl.common.law.layout import Kind
from dictpfl.deploy.compress.source import Source, drawn_samples
from dictpfl.deploy.exports.finished import Finished

DOCUMENT, PICTURE, SAMPLES = "layers.json", "layers.svg", "influence.json"


@dataclass(frozen=True)
class Found:
    """Scores of layers, and where they are from.

    Attributes:
        scores: one document a map: the opening and the closing tally of a federation, or the own samples'.
        layers: measured here; None of tallies, which say nothing of samples.
        labels: labels of the training samples that were measured.
        rows: their places among the source's training samples.
    """

    scores: tuple[LayerScores, ...]
    layers: Layers | None = None
    labels: Any = None
    rows: Any = None


def pooled(finished: Finished) -> tuple[LayerScores, ...]:
    """Read the maps that a federation's institutions tallied together; empty if there is none."""
    genesis, found = finished.genesis, []
    for tally, opened in zip(genesis.tallies, finished.state.tallies, strict=False):
        if tally.name != NAME:
            continue
        options = genesis.config.tallies.options.get(NAME, {})
        own = LayerIF(**options)
        sums = {entry.name: int(opened.sums[entry.span][0]) for entry in tally.layout.entries}
        weights: dict[str, list[str]] = {}
        for entry in genesis.layout.entries:
            if entry.kind is Kind.TABLE:
                weights.setdefault(block_of(entry.name), []).append(entry.name)
        found.append(
            LayerScores(
                when=tally.when, of=genesis.config.name, institutions=opened.participants, training=own.samples, validation=own.validation,
                blocks=_blocks(_part(sums, INFLUENCE), _part(sums, GRADIENT), weights), **_measure(own.measure),
            )
        )  # fmt: skip
    return tuple(found)


def measured(
    source: Source, measure: Measure, *, training: int, validation: int, seed: int, device: str = "cpu"
) -> Found:
    """Measure a model on the samples of a source: it decides by `calibration`, the loss is that of `measure`.

    Of a federation's model gradients are those of its tables; of any other, those of the covered weights.

    Args:
        source: the model and its samples.
        measure: figure and solver.
        training, validation: samples of each, drawn by seed; 0: all.
        seed: of the draw.
        device: to measure on.
    """
    where = resolve_device(device)
    rows = np.arange(len(source.calibration))
    if training and training < len(rows):
        rows = np.sort(np.random.default_rng(seed).permutation(len(rows))[:training])
    own, held = source.calibration.take(rows), drawn_samples(source.measure, validation, seed)
    options = {"layers": source.config.decomposition.layers, "measure": measure}
    if source.finished is not None and any(e.kind is Kind.TABLE for e in source.finished.genesis.layout.entries):
        bench = source.finished.bench()
        twin = bench.twin_at(source.finished.state, source.finished.local or bench.local_state())
        model, weights, narrowed = tables_of(twin, source.config.decomposition.layers)
        found = layer_influence(model.to(where), own, held, source.task, weights=weights, narrowed=narrowed, **options)  # type: ignore[arg-type]
    else:
        found = layer_influence(source.model.to(where), own, held, source.task, **options)  # type: ignore[arg-type]
    weights_of = {name: list(block.weights) for name, block in found.blocks.items()}
    blocks = _blocks(share_of_each(found.scores), share_of_each(found.gradients), weights_of)
    document = LayerScores(
        when="own",
        of=source.config.name,
        institutions=0,
        training=len(own),
        validation=len(held),
        blocks=blocks,
        **_measure(measure),
    )
    return Found((document,), found, own.labels, rows)


def write_layers(found: Found, output: Path) -> None:
    """Write layers.json, of the newest map, and layers.svg, of all of them, into a folder; mode 0600.

    Where there is an opening and a closing map, each also stands in a file of its own, `layers-opening.json` and `layers-closing.json`.
    """
    documents = {DOCUMENT: found.scores[-1]}
    if len(found.scores) > 1:
        documents |= {f"layers-{scores.when}.json": scores for scores in found.scores}
    for name, scores in documents.items():
        write_private(output / name, (scores.model_dump_json(indent=1) + "\n").encode())
    write_private(output / PICTURE, picture(found.scores).encode())


def write_samples(found: Found, source: Source, folder: Path) -> Path:
    """List an institution's own training samples by influence, the most suspicious first, in its folder; mode 0600.

    Args:
        found: measured on them.
        source: of that folder.
        folder: an institution's.

    Raises:
        ConfigError: no institution's folder, or no samples were measured.
    """
    if found.layers is None or not ((folder / SETTINGS).exists() and (folder / TRAIN).exists()):
        raise ConfigError(
            f"--list names an institution's own samples and leaves them in its folder; {folder} is none. Name one, such as "
            "RUN/institutions/institution-000"
        )
    totals = found.layers.samples
    order = np.argsort(-totals, kind="stable")
    labels = np.asarray(found.labels)
    rows = [
        {"row": int(found.rows[i]), "influence": float(totals[i])}
        | ({"label": labels[i].item()} if labels.ndim == 1 else {})
        for i in order
    ]
    document = {"format": "dictpfl-influence-1", "file": TRAIN, "metric": source.task.metric_name, "samples": rows}
    path = folder / SAMPLES
    write_private(path, (json.dumps(document, indent=1) + "\n").encode())
    return path


def picture(maps: tuple[LayerScores, ...]) -> str:
    """Bars of each block's share: influence of every map, and gradients beside them, as SVG."""
    from dictpfl.deploy.reports.plots import shares_by_block
    from dictpfl.deploy.runs.plots import svg

    series = {f"influence, {one.when}": {name: block.influence for name, block in one.blocks.items()} for one in maps}
    last = maps[-1]
    series[f"gradient norm, {last.when}"] = {name: block.gradient for name, block in last.blocks.items()}
    return svg(shares_by_block(series, f"Layers of {last.of}, solver {last.solver}"))


def _part(sums: Mapping[str, int], what: str) -> dict[str, float]:
    """Shares of one kind, from integers of all institutions together."""
    found = {
        name.removeprefix(f"{what}/"): max(0, value) for name, value in sums.items() if name.startswith(f"{what}/")
    }
    total = sum(found.values())
    return {name: value / total if total else 0.0 for name, value in found.items()}


def _blocks(
    influence: Mapping[str, float], gradient: Mapping[str, float], weights: Mapping[str, list[str]]
) -> dict[str, ScoredBlock]:
    return {
        name: ScoredBlock(weights=weights[name], influence=share, gradient=gradient[name])
        for name, share in influence.items()
    }


def _measure(measure: Measure) -> dict[str, Any]:
    return {"solver": measure.solver, "damping": measure.damping, "part": measure.part, "top": measure.top}
