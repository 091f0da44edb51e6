"""`dictpfl narrow`: one skill of a general model as a smaller plain model, with a report on what is left of another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import nn

from dictpfl.client.compress.cutting.axes import Axis, axes_of
from dictpfl.client.compress.narrow.heads import trimmed_if_can
from dictpfl.client.compress.narrow.phases import (
    SCRATCH,
    UNCUT,
    Narrowed,
    Narrowing,
    closed_words,
    count_of,
    narrow,
    one_stays,
)
from dictpfl.client.compress.narrow.relearn import probed, relearnt, residual
from dictpfl.client.compress.narrow.skills import require_disjoint, skill_of
from dictpfl.client.data.samples import Dataset, Samples
from dictpfl.client.data.source import load_dataset
from dictpfl.client.model import hub
from dictpfl.common.errors import ConfigError, DataError
from dictpfl.common.settings import Training
from dictpfl.deploy.compress.source import Source
from dictpfl.deploy.exports.columns import write_preparation
from dictpfl.deploy.exports.evaluation import load_numbered
from dictpfl.deploy.exports.exporter import new_folder
from dictpfl.deploy.exports.folders import loading_lines, save_model, save_tokenizer
from dictpfl.deploy.exports.narrow_report import Audit, Curve, NarrowReport, stage, write_report
from dictpfl.deploy.runs.run import versions

CARD = "README.md"
_TEST_SHARE = 5
"""One in so many samples of a skill that is a file, or a group, is measured on, and not trained on."""


@dataclass(frozen=True, eq=False)
class Skilled:
    """Samples of one skill.

    Attributes:
        words: as it was said.
        classes: labels, where it is said by classes.
        train: samples to train on.
        test: samples to measure on.
    """

    words: str
    classes: tuple[int, ...]
    train: Samples
    test: Samples


@dataclass(frozen=True)
class Asked:
    """Wishes of whoever called `dictpfl narrow`.

    Attributes:
        how: way, shares, steps and seed.
        skill: SPEC of the skill to keep.
        dropped: SPEC of one that is audited; empty: none.
        relearn: numbers of steps of the audit.
        seeds: seeds of the audit.
        axes: kinds of units that are cut.
        trim: take the rows of other classes from the head, where the skill is said by classes.
    """

    how: Narrowing
    skill: str
    dropped: str = ""
    relearn: tuple[int, ...] = (30, 100, 300)
    seeds: int = 3
    axes: tuple[str, ...] = ("ffn",)
    trim: bool = True


def write_narrow(source: Source, asked: Asked, output: Path) -> NarrowReport:
    """Narrow a model, measure it, audit it, and write the folder.

    Args:
        source: model, samples and task.
        asked: skill and way.
        output: new folder.

    Raises:
        ConfigError: a folder that holds something, an unknown skill, way or architecture, or a batch norm that cannot be kept.
        DataError: a skill without samples, or a dropped one that overlaps it.
        ModelError: training that diverged.
    """
    axes = chosen_axes(source.model, asked.axes)
    kept, dropped, names = _skills(source, asked)
    training = _training(source)
    for axis in axes.values():
        count_of(asked.how.keep, axis)
    with new_folder(output):
        made = narrow(source.model, axes, kept.train, source.task, training, asked.how)
        audits = [] if dropped is None else _audits(source, asked, axes, kept, dropped, training, made)
        least = "" if asked.how.way == UNCUT else one_stays(asked.how.keep, axes)
        notes = [*filter(None, [least, closed_words(made.closed)]), *_notes(source, kept, dropped)]
        final, classes, whole = trimmed_if_can(made.model, kept.classes if asked.trim else ())
        notes += filter(None, [whole])
        measured = source.task, kept.test, None if dropped is None else dropped.test
        report = NarrowReport(
            skill=kept.words,
            method=asked.how.way,
            metric=source.task.metric_name,
            classes=list(classes),
            kept={name: units.tolist() for name, units in made.kept.items()},
            steps=made.steps,
            samples=made.samples,
            seed=asked.how.seed,
            before=stage(source.model, *measured),
            after_cut=stage(made.right_after, *measured),
            after_recovery=stage(made.model, *measured).model_copy(
                update={"parameters": sum(p.numel() for p in final.parameters())}
            ),
            audits=audits,
            notes=notes,
        )
        save_model(final, source.config.model.source, output)
        write_preparation(source.finished, output)
        if note := save_tokenizer(source.config, output):
            report = report.model_copy(update={"notes": [*notes, note]})
        write_report(output, report)
        (output / CARD).write_text(_card(report, final, source, names, len(kept.test)), encoding="utf-8")
    return report


def chosen_axes(model: nn.Module, kinds: Sequence[str]) -> dict[str, Axis]:
    """Find the axes of these kinds, by name.

    Raises:
        ConfigError: none; says which kinds the model has.
    """
    every = axes_of(model)
    found = {name: axis for name, axis in every.items() if axis.kind in kinds}
    if not found:
        there = sorted({axis.kind for axis in every.values()})
        raise ConfigError(f"no axis of kind {', '.join(kinds)} in {type(model).__name__}; it has {', '.join(there)}")
    return found


def _training(source: Source) -> Training:
    """Settings of the steps at home."""
    return source.training.model_copy(update={"proximal": 0.0})


def _skills(source: Source, asked: Asked) -> tuple[Skilled, Skilled | None, tuple[str, ...]]:
    """Find the samples of the kept and of the dropped skill, and the names of classes."""
    dataset = _named(source)
    kept = _skilled(source, asked.skill, dataset)
    if not asked.dropped:
        return kept, None, dataset.class_names
    dropped = _skilled(source, asked.dropped, dataset)
    if not _apart(kept, dropped):
        require_disjoint((kept.train, kept.test), (dropped.train, dropped.test))
    return kept, dropped, dataset.class_names


def _apart(kept: Skilled, dropped: Skilled) -> bool:
    """Tell whether two skills have no sample in common by their names alone: other classes, or another group of the same data."""
    if kept.classes and dropped.classes:
        return not set(kept.classes) & set(dropped.classes)
    return kept.words != dropped.words and all(one.words.startswith("column=") for one in (kept, dropped))


def _named(source: Source) -> Dataset:
    """A data set that knows the names of classes and groups; of samples from an .npz, their numbers alone."""
    try:
        return load_numbered(source.config.data, source.config.seed, source.classes)
    except (ConfigError, DataError):
        labels = source.calibration.labels
        outputs = int(labels.max()) + 1 if labels.dtype == np.int64 else 1
        return Dataset(source.calibration, max(1, outputs), name="samples")


def _skilled(source: Source, words: str, dataset: Dataset) -> Skilled:
    kind, _, said = words.partition("=")
    if kind == "text":
        section = source.config.data.model_copy(update={"path": said, "paths": {}, "test_path": ""})
        return _divided(source, words, load_dataset(section, source.config.seed).samples)
    skill = skill_of(words, dataset)
    if skill.group:
        if source.arrays:
            raise DataError(
                f"{words!r}: an .npz names no group of a sample; name a file or folder of data.source by --data"
            )
        return _divided(source, words, dataset.samples.take(skill.of(dataset)))
    made = Skilled(
        words, skill.classes, source.calibration.of_classes(skill.classes), source.measure.of_classes(skill.classes)
    )
    if not len(made.train) or not len(made.test):
        raise DataError(
            f"{words!r}: {len(made.train)} samples to train on and {len(made.test)} to measure on; expected some of each"
        )
    return made


def _divided(source: Source, words: str, samples: Samples) -> Skilled:
    """A fifth of the samples, drawn by seed, is measured on."""
    samples, count = source.prepared(samples), len(samples) // _TEST_SHARE
    if not count:
        raise DataError(
            f"{words!r} has {len(samples)} samples; at least {_TEST_SHARE} are needed to train and to measure on"
        )
    order = np.random.default_rng(source.config.seed).permutation(len(samples))
    return Skilled(words, (), samples.take(np.sort(order[count:])), samples.take(np.sort(order[:count])))


def _audits(
    source: Source,
    asked: Asked,
    axes: Mapping[str, Axis],
    kept: Skilled,
    dropped: Skilled,
    training: Training,
    first: Narrowed,
) -> list[Audit]:
    """Relearn the dropped skill: the narrowed model, the general one, and the small one that never had it, for each seed."""
    arms: dict[str, list[nn.Module]] = {"arm": [], "ceiling": [], "floor": []}
    for number in range(asked.seeds):
        how = replace(asked.how, seed=asked.how.seed + number)
        made = first if not number else narrow(source.model, axes, kept.train, source.task, training, how)
        floor = narrow(source.model, axes, kept.train, source.task, training, replace(how, way=SCRATCH))
        if (floor.steps, floor.samples) != (made.steps, made.samples):
            raise ConfigError(
                f"the floor took {floor.steps} steps on {floor.samples} samples, the narrowed model {made.steps} on {made.samples}; "
                "they cannot be compared"
            )
        arms["arm"].append(made.model)
        arms["ceiling"].append(source.model)
        arms["floor"].append(floor.model)
    found, is_classes = [], bool(kept.classes and dropped.classes)
    for fresh in (False, True)[: 1 + is_classes]:
        curves = {
            name: [
                relearnt(
                    model,
                    dropped.train,
                    dropped.test,
                    source.task,
                    training,
                    asked.relearn,
                    seed=asked.how.seed + n,
                    fresh_head=fresh,
                )
                for n, model in enumerate(models)
            ]
            for name, models in arms.items()
        }
        probe = {}
        if is_classes and not _one_class(dropped):
            probe = {
                name: [probed(model, dropped.train, dropped.test) for model in models] for name, models in arms.items()
            }
        found.append(
            Audit(
                skill=dropped.words,
                head="fresh" if fresh else "as it is",
                seeds=asked.seeds,
                curves=[_curve(curves, count) for count in asked.relearn],
                probe=probe,
            )
        )
    return found


def _one_class(skilled: Skilled) -> bool:
    """Tell whether the samples to train on are of one class, whatever classes were named: a probe has nothing to tell apart."""
    return len(np.unique(skilled.train.labels)) == 1


def _curve(curves: Mapping[str, Sequence[Mapping[int, float]]], count: int) -> Curve:
    at = {name: [one[count] for one in each] for name, each in curves.items()}
    found = residual(at["arm"], at["ceiling"], at["floor"])
    stated, ends = found.interval, tuple[float, ...]()
    if stated is not None and stated.count > 1:
        ends = (stated.low, stated.high)
    mean = None if stated is None else stated.mean
    return Curve(
        steps=count,
        **at,
        residual=mean,
        low=min(ends, default=None),
        high=max(ends, default=None),
        verdict=found.verdict,
    )


def _notes(source: Source, kept: Skilled, dropped: Skilled | None) -> list[str]:
    notes = []
    if any("batchnorm" in type(m).__name__.lower() for m in source.model.modules()):
        notes.append("Running statistics of batch norm have moved with the samples of the kept skill alone.")
    if kept.classes and len(kept.classes) == 1:
        notes.append("The skill has one class: every figure of it is that of a model with one answer.")
    if dropped is None:
        notes.append("No dropped skill was named (--dropped), so nothing is said of what is left of the others.")
    elif kept.classes and dropped.classes and _one_class(dropped):
        notes.append(
            f"No linear probe stands beside the audit: it tells classes apart, and all {len(dropped.train)} samples of "
            f"{dropped.words} to train on are of one class."
        )
    if not hub.split(source.config.model.source)[0]:
        notes.append(
            f"Layers are smaller than those that `{source.config.model.source}` makes by default; their sizes are in the file."
        )
    return notes


def _card(report: NarrowReport, model: nn.Module, source: Source, names: Sequence[str], samples: int) -> str:
    before, after = report.before, report.after_recovery or report.after_cut
    rows = [
        ("skill", f"`{report.skill}`"),
        ("method", f"`{report.method}`"),
        ("parameters", f"{before.parameters:,} before, {after.parameters:,} after"),
        (report.metric, f"{before.figure} before, {report.after_cut.figure} right after the cut, {after.figure} after recovery, on "
                        f"{samples} samples of the skill"),
        ("dictpfl", versions()["dictpfl"]),
    ]  # fmt: skip
    if report.classes:
        rows.insert(1, ("rows of the head", ", ".join(names[c] if c < len(names) else str(c) for c in report.classes)))
    lines = [
        "# A narrowed model",
        "",
        "One skill of a general model. No part of dictpfl is needed to load it.",
        "",
        "| | |",
        "|---|---|",
    ]
    lines += [f"| {name} | {value} |" for name, value in rows]
    lines += ["", "## Use", "", "```python", *loading_lines(model, source.config.model.source, "FOLDER"), "```", ""]
    for audit in report.audits:
        lines += [f"## What is left of `{audit.skill}`, relearnt with the head {audit.head}", "",
                  "| steps | this model, % | general model, % | never had it, % | residual | |", "|---|---|---|---|---|---|"]  # fmt: skip
        lines += [
            f"| {c.steps} | {_mean(c.arm)} | {_mean(c.ceiling)} | {_mean(c.floor)} | {_residual(c)} | {c.verdict} |"
            for c in audit.curves
        ]
        lines.append("")
    if report.audits:
        lines += [
            "A residual of 0 is a model that never had the skill, 1 the general one. Harder to relearn is not erased.",
            "",
        ]
    return "\n".join([*lines, *(f"{note}\n" for note in (*report.notes, *source.reducer_notes))]).rstrip() + "\n"


def _mean(values: Sequence[float]) -> str:
    return f"{np.mean(values):.1f}"


def _residual(curve: Curve) -> str:
    if curve.residual is None:
        return "-"
    ends = "" if curve.low is None else f" ({curve.low:.2f} to {curve.high:.2f})"
    return f"{curve.residual:.2f}{ends}"
