"""`dictpfl prune`: zeros in a model's weights, measured, in a folder of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dictpfl.client.compress.influence.shares import BY_SCORES
from dictpfl.client.compress.sparse.lua import STEERED
from dictpfl.client.compress.sparse.prune import Pruned, prune
from dictpfl.client.model.scored import read_scores
from dictpfl.client.training.measuring import means
from dictpfl.common.errors import ConfigError
from dictpfl.deploy.compress.card import write_compressed_card
from dictpfl.deploy.compress.source import Source
from dictpfl.deploy.exports.columns import write_preparation
from dictpfl.deploy.exports.exporter import new_folder
from dictpfl.deploy.exports.folders import loading_lines, save_model, save_tokenizer
from dictpfl.deploy.exports.sparse import DOCUMENT, Form, sizes, write_document, write_masks, write_weights
from dictpfl.deploy.overrides import overrides

Format = Literal["merged", "sparse"]
_MEASURES = ("task", "task_options", "metric", "metric_options", "device", "threads")
"""Settings of training that every method reads: how a model is measured, and where."""


@dataclass(frozen=True)
class Outcome:
    """Figures of a model that was pruned.

    Attributes:
        pruned: the model and its masks.
        figures: what sparsity.json has of them.
    """

    pruned: Pruned
    figures: dict[str, Any]


def pattern_of(text: str) -> tuple[int, int] | None:
    """Read `2:4`; None for no text.

    Raises:
        ConfigError: another form.
    """
    if not text:
        return None
    kept, colon, size = text.partition(":")
    if not (colon and kept.isdecimal() and size.isdecimal() and 0 < int(kept) < int(size)):
        raise ConfigError(f"--pattern {text!r}: expected such as 2:4, two of every four neighbours stay")
    return int(kept), int(size)


def scoring(allocate: str, scores: Path | None, spread: float | None) -> dict[str, Any]:
    """Options of `prune` that `--scores` and `--spread` stand for.

    Raises:
        ConfigError: a file of another form, or options of an allocation that has no scores.
    """
    if allocate not in BY_SCORES and scores is not None:
        raise ConfigError(f"--scores says how {', '.join(BY_SCORES)} divide zeros; --allocate is {allocate!r}")
    if allocate not in (*BY_SCORES, "alpha") and spread is not None:
        raise ConfigError(
            f"--spread says how {', '.join(BY_SCORES)} and alpha divide zeros; --allocate is {allocate!r}"
        )
    options: dict[str, Any] = {} if spread is None else {"spread": spread}
    if scores is not None:
        blocks = read_scores(scores).blocks
        options["scores"] = {
            "influence": {name: block.influence for name, block in blocks.items()},
            "gradient": {name: block.gradient for name, block in blocks.items()},
        }
    return options


def learning(method: str, settings: Sequence[str], **given: float | None) -> dict[str, float]:
    """Options of `prune` that say how thresholds are learnt, where they were given.

    Args:
        method: of pruning.
        settings: `KEY=VALUE` of `--set`.
        given: of `--steps`, `--rate` and `--regularisation`; None: it was not given.

    Raises:
        ConfigError: an option, or a setting of training, that this method does not read.
    """
    named = {name: value for name, value in given.items() if value is not None}
    learns = method == "lua"
    if named and not learns:
        raise ConfigError(f"--{next(iter(named))} says how lua learns thresholds; --method is {method}: leave it out")
    for key in overrides(settings):
        name = key.removeprefix("training.")
        if name == key or name in _MEASURES:
            continue
        if not learns:
            raise ConfigError(f"--set {key}: {method} trains nothing, so that this changes nothing; leave it out")
        if name in STEERED:
            raise ConfigError(f"--set {key}: thresholds are learnt by --steps and --rate; leave it out")
    return named


def write_pruned(
    source: Source,
    output: Path,
    *,
    sparsity: float,
    method: str,
    form: Format = "merged",
    seed: int = 1,
    **options: Any,
) -> Outcome:
    """Prune a model, and write it, its masks, figures and card into a new folder that only its owner may enter.

    Args:
        source: the model and its samples.
        output: new.
        sparsity, method, options: see `dictpfl.client.compress.sparse.prune.prune`.
        form: `merged`: the usual folder, with zeros; `sparse`: packed.
        seed: that drew the calibration samples, and draws batches.

    Raises:
        DictPFLError: see `prune`, or an output that holds something.
    """
    with new_folder(output, private=True):
        made = prune(
            source.model, source.calibration, source.task, sparsity, method, measure=source.measure,
            layers=source.config.decomposition.layers, seed=seed, **options,
        )  # fmt: skip
        config = source.config
        if form == "merged":
            save_model(made.model, config.model.source, output)
        else:
            write_weights(output, made.model, made.weights, made.masks)
        figures = _figures(source, made, seed) | {"bytes": sizes(output, made.model)}
        shape = Form(config.model, source.sample_shape, source.outputs)
        write_document(output, made.masks, shape, made.model, figures)
        write_masks(output, made.masks)
        write_preparation(source.finished, output)
        note = save_tokenizer(config, output)
        loading = (
            loading_lines(made.model, config.model.source, "FOLDER")
            if form == "merged"
            else ["import dictpfl", "model = dictpfl.load_sparse('FOLDER')"]
        )
        write_compressed_card(
            source, output, kind=f"A model of which {made.masks.kept:,} of {made.masks.total:,} covered entries stay.",
            facts=_rows(figures, made), loading=loading, notes=[*filter(None, [note])],
        )  # fmt: skip
    return Outcome(made, figures)


def read_figures(folder: Path) -> dict[str, Any]:
    """Read sparsity.json of a folder."""
    figures: dict[str, Any] = json.loads((folder / DOCUMENT).read_bytes())
    return figures


def _figures(source: Source, made: Pruned, seed: int) -> dict[str, Any]:
    assert made.before is not None and made.after is not None  # noqa: S101, PT018 -- a source has samples to measure
    before, after = made.before, made.after
    return {
        "method": made.method,
        "allocate": made.allocate,
        "sparsity": made.sparsity,
        "seed": seed,
        "calibration": len(source.calibration),
        "measured": before.count,
        "metric": source.task.metric_name,
        "before": dict(zip(("loss", "metric"), means(before), strict=True)),
        "after": dict(zip(("loss", "metric"), means(after), strict=True)),
        "seconds": {"before": made.seconds[0], "after": made.seconds[1]},
        "blocks": {block: {"kept": kept, "entries": total} for block, (kept, total) in made.kept_by_block().items()},
    }


def _rows(figures: dict[str, Any], made: Pruned) -> list[tuple[str, str]]:
    before, after = figures["before"], figures["after"]
    return [
        ("method", f"`{made.method}`, {made.allocate}"),
        ("zeros", f"{1 - made.masks.kept / made.masks.total:.4f} of the covered weights"),
        ("calibrated with", f"{figures['calibration']} samples"),
        (figures["metric"], f"{before['metric']:.4f} before, {after['metric']:.4f} after"),
        ("loss", f"{before['loss']:.4f} before, {after['loss']:.4f} after"),
        ("SHA-256 of the masks", f"`{made.masks.digest}`"),
    ]
