"""`dictpfl cut`: a smaller model of the same class, in a folder that its library loads."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from dictpfl.client.compress.cutting.axes import Axis, architecture_of
from dictpfl.client.compress.cutting.choose import WORDS, sizes_within
from dictpfl.client.compress.cutting.scores import digest
from dictpfl.client.compress.cutting.shrink import Shrunk, budget_of, counts_of, shrink_to
from dictpfl.client.model import hub
from dictpfl.client.tallies.importance import NAME, totals
from dictpfl.client.training.train import evaluate
from dictpfl.common.errors import ConfigError
from dictpfl.deploy.compress.source import Source
from dictpfl.deploy.exports.card import CARD, hub_free
from dictpfl.deploy.exports.exporter import require_empty
from dictpfl.deploy.exports.folders import loading_lines, save_model, save_tokenizer
from dictpfl.deploy.runs.run import versions

RECORD = "cut.json"


@dataclass(frozen=True)
class Figures:
    """Loss and metric of a model on the samples that are measured.

    Attributes:
        loss: mean.
        metric: mean.
    """

    loss: float
    metric: float

    @classmethod
    def of(cls, model: nn.Module, source: Source) -> Figures:
        """Measure a model."""
        found = evaluate(model, source.measure, source.task)
        return cls(found.loss_sum / found.count, found.metric_sum / found.count)


@dataclass(frozen=True, eq=False)
class Made:
    """A cut as a command made it.

    Attributes:
        shrunk: the smaller model.
        axes: of the model before.
        before: figures before.
        after: figures after.
        seconds: that scoring and cutting took.
        voted: samples of all institutions whose sealed tally decided; 0: calibration samples did.
    """

    shrunk: Shrunk
    axes: Mapping[str, Axis]
    before: Figures
    after: Figures
    seconds: float
    voted: int = 0


def tallied(source: Source, score: str) -> tuple[dict[str, list[Any]] | None, int]:
    """Sums that a federation tallied for this very decision (`[tallies] closing = ["importance"]`), and of how many samples.

    Args:
        source: what is cut.
        score: way that is asked for; the tally serves `default` and `activation`.
    """
    if source.finished is None or score not in ("default", "activation"):
        return None, 0
    if not any(one.name == NAME for one in source.finished.state.tallies):
        return None, 0
    return totals(source.finished.state.tallied(NAME).sums, source.model)


def make(
    source: Source,
    *,
    to: str = "",
    given: Mapping[str, int],
    score: str,
    seed: int,
    architecture: str = "",
    rescale: bool = False,
) -> Made:
    """Cut what SOURCE names; see `dictpfl.client.compress.cutting.shrink.shrink`.

    Raises:
        ConfigError: see there.
    """
    maker = architecture_of(source.model, architecture)
    axes = {axis.name: axis for axis in maker.axes(source.model)}
    counts = counts_of(axes, given)
    if to:
        budget = budget_of(source.model, number(to))
        counts = sizes_within(source.model, axes, maker, budget, fixed=counts, most=1)[0]
    before, start = Figures.of(source.model, source), time.perf_counter()
    total, voted = tallied(source, score)
    shrunk = shrink_to(
        source.model, axes, maker, counts, source.calibration, source.task, score=score, seed=seed, rescale=rescale,
        total=total,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    return Made(shrunk, axes, before, Figures.of(shrunk.model, source), seconds, voted)


def number(text: str) -> float | int:
    """A share ("0.6") or a number of parameters ("5000000").

    Raises:
        ConfigError: neither.
    """
    try:
        return float(text) if "." in text else int(text)
    except ValueError as error:
        raise ConfigError(f"--to {text!r}: expected a share such as 0.6, or a number of parameters") from error


def write(made: Made, source: Source, output: Path, *, seed: int, score: str) -> None:
    """Write the folder: the model, its tokenizer, `cut.json` and a card.

    Raises:
        ConfigError: the folder holds something, or a library is missing.
    """
    require_empty(output)
    name = source.config.model.source
    save_model(made.shrunk.model, name, output)
    note = save_tokenizer(source.config, output)
    (output / RECORD).write_text(
        json.dumps(record(made, source, seed=seed, score=score), indent=1) + "\n", encoding="utf-8"
    )
    (output / CARD).write_text(_card(made, source, note), encoding="utf-8")


def record(made: Made, source: Source, *, seed: int, score: str) -> dict[str, Any]:
    """Content of `cut.json`: indices and counts, and figures of the samples that were measured."""
    shrunk = made.shrunk
    stay = {n: u.tolist() for n, u in shrunk.chosen.kept.items()}
    return {
        "format": "dictpfl-cut-1",
        "source": hub_free(source.config.model.source),
        "options": options_of(shrunk.model),
        "axes": {n: {"kind": a.kind, "units": a.units, "setting": a.setting, "kept": stay.get(n, "all")} for n, a in made.axes.items()},
        "filled": dict(shrunk.plan.filled),
        "score": score,
        "scores_sha256": digest(shrunk.chosen.scores),
        "all_equal": list(shrunk.chosen.even),
        "parameters": {"before": shrunk.before, "after": shrunk.after},
        "parts": {"before": parts(source.model), "after": parts(shrunk.model)},
        "tallied_samples": made.voted,
        "calibration_samples": len(source.calibration),
        "measured_samples": len(source.measure),
        "loss": {"before": made.before.loss, "after": made.after.loss},
        source.task.metric_name: {"before": made.before.metric, "after": made.after.metric},
        "seconds": round(made.seconds, 3),
        "seed": seed,
        "versions": versions(),
    }  # fmt: skip


def parts(model: nn.Module) -> dict[str, int]:
    """Parameters by the words of their modules: every block's alike added up."""
    found: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        words = [word for word in name.split(".")[:-1] if not word.isdigit()]
        found[".".join(words)] = found.get(".".join(words), 0) + parameter.numel()
    return found


def options_of(model: nn.Module) -> dict[str, Any]:
    """`model.options` that make a network of this project as it now is; empty for models of libraries, whose folder says it."""
    from dictpfl.client.compress.cutting.architectures.vision import ratio
    from dictpfl.client.model.networks.tabular import Tabular
    from dictpfl.client.model.networks.vit import VitTiny

    if isinstance(model, (VitTiny, Tabular)):
        block: Any = model.blocks[0]
        return {
            "dim": block.fc1.in_features, "depth": len(model.blocks), "heads": block.heads,
            "mlp_ratio": ratio(block.fc1.out_features, block.fc1.in_features),
        }  # fmt: skip
    if type(model) is nn.Sequential:
        return {"hidden": [m.out_features for m in model if isinstance(m, nn.Linear)][:-1]}
    return {}


def lines(made: Made, source: Source) -> list[tuple[str, str, str, str]]:
    """Rows of a table: the part, what it had, what it has, and how many units of zeros fill it up."""
    rows = []
    for name, axis in made.axes.items():
        size = made.shrunk.plan.size(axis) if name in made.shrunk.plan.axes else None
        kept = made.shrunk.chosen.kept.get(name)
        if size is None:
            rows.append((name, str(axis.units), "-", ""))
        elif kept is not None:
            rows.append((name, str(axis.units), str(len(kept)), str(made.shrunk.plan.filled.get(name, "") or "")))
    rows.append(("parameters", f"{made.shrunk.before:,}", f"{made.shrunk.after:,}", ""))
    rows.append(("loss", f"{made.before.loss:.4f}", f"{made.after.loss:.4f}", ""))
    rows.append((source.task.metric_name, f"{made.before.metric:.4f}", f"{made.after.metric:.4f}", ""))
    return rows


def _card(made: Made, source: Source, note: str) -> str:
    shrunk, name = made.shrunk, source.config.model.source
    library = hub.split(name)[0] or "pytorch"
    sizes = [
        f"| {WORDS[axis.kind]} (`{setting}`) | {axis.units} | {shrunk.plan.size(axis)} |"
        for setting, axis in {a.setting: a for a in shrunk.plan.axes.values()}.items()
        if shrunk.plan.size(axis) != axis.units
    ]
    own = (
        "Fine-tuned by several institutions on data that never left them, on encrypted updates; then"
        if source.finished
        else "It was"
    )
    head: Sequence[str] = ["---", f"library_name: {library}", "tags:", "- dictpfl", "- structured-pruning", "---", ""]
    body = [
        f"# {hub_free(name)}, cut", "", f"{own} cut: a smaller model of the same class; no part of dictpfl is needed to load it.", "",
        "| | before | after |", "|---|---|---|", *sizes,
        f"| parameters | {shrunk.before:,} | {shrunk.after:,} |",
        f"| loss | {made.before.loss:.4f} | {made.after.loss:.4f} |",
        f"| {source.task.metric_name} | {made.before.metric:.4f} | {made.after.metric:.4f} |", "",
        f"{_deciders(made, source)} decided which units stay (`{RECORD}`); {len(source.measure)} others were measured. What "
        "stayed was shaped by those samples: an architecture cut by somebody's data tells something about them.", "",
        "## Use", "", "```python", *loading_lines(shrunk.model, name, "FOLDER"), "```", *(["", note] if note else []),
    ]  # fmt: skip
    return "\n".join([*head, *body]).rstrip() + "\n"


def _deciders(made: Made, source: Source) -> str:
    if made.voted:
        return f"{made.voted} samples of all institutions, summed sealed,"
    return f"{len(source.calibration)} samples"
