"""`dictpfl distil`: what it reads, trains and writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import nn

from dictpfl.client.compress.cutting.shrink import parameters
from dictpfl.client.compress.distil import distil
from dictpfl.client.model import hub
from dictpfl.client.model.build import build_model
from dictpfl.client.training.distillation import require_alike, require_range
from dictpfl.common.config import FederationConfig
from dictpfl.common.documents import json_text
from dictpfl.common.errors import ConfigError
from dictpfl.common.settings import Model
from dictpfl.deploy.compress.cut_folder import options_of
from dictpfl.deploy.compress.cutting import Figures
from dictpfl.deploy.compress.source import Source, read_source
from dictpfl.deploy.compress.written import DISTILLED, DISTILLED_FORMAT, standing
from dictpfl.deploy.exports.card import CARD, hub_free
from dictpfl.deploy.exports.columns import write_preparation
from dictpfl.deploy.exports.exporter import new_folder, refuse_full
from dictpfl.deploy.exports.finished import Checkpoint, Finished
from dictpfl.deploy.exports.folders import loading_lines, save_model, save_tokenizer
from dictpfl.deploy.runs.run import versions
from dictpfl.deploy.teaching import require_same_columns, require_taught, widths


def distil_folder(
    student: str,
    teacher: str,
    output: Path,
    *,
    config: Path | None = None,
    data: Path | None = None,
    settings: Sequence[str] | None = None,
    measure: Path | None = None,
    steps: int = 600,
    weight: float = 1.0,
    temperature: float = 1.0,
    seed: int = 1,
    checkpoint: Checkpoint = "last",
    max_tokens: int = 0,
) -> str:
    """Train STUDENT on TEACHER's outputs and write its folder; returns a line for people.

    Args:
        student, config, data, settings, measure, checkpoint, max_tokens: see `dictpfl.deploy.compress.source.read_source`.
        teacher: a folder or a model of a library, as `student`; of a federation the same checkpoint.
        output: new folder.
        steps: of the optimiser.
        weight, temperature: see `dictpfl.client.training.distillation.Distillation`.
        seed: of batches and dropout.

    Raises:
        ConfigError: nothing of those names, a folder that holds something, values out of range, or models that do not speak of the same
            classes.
        DataError: samples that the student does not take.
    """
    require_range(temperature, weight)
    refuse_full(output)
    read = read_source(
        student, config=config, data=data, settings=list(settings or []), seed=seed, measure=measure, checkpoint=checkpoint,
        max_tokens=max_tokens,
    )  # fmt: skip
    training = read.training.model_copy(update={"steps": steps})
    large = teacher_of(teacher, read, checkpoint)
    for samples in (read.measure, read.calibration):
        if len(samples):
            require_alike(*widths(large, read.model, [samples]))
    before = Figures.of(read.model, read)
    taught = Figures.of(large, read)
    small, trained = distil(
        read.model, large, read.calibration, training, temperature=temperature, weight=weight, seed=seed
    )
    after = Figures.of(small.eval(), read)
    name, metric = read.config.model.source, read.task.metric_name
    options = options_of(small, read.config.model)
    with new_folder(output):
        save_model(small, name, output)
        write_preparation(read.finished, output)
        note = save_tokenizer(read.config, output)
        figures = {"before": before, "after": after, "teacher": taught}
        record = {
            "format": DISTILLED_FORMAT,
            "student": hub_free(name),
            "teacher": hub_free(teacher) if hub.split(teacher)[0] else Path(teacher).name,
            "options": options,
            "parameters": {"student": parameters(small), "teacher": parameters(large)},
            "steps": steps,
            "samples_seen": trained.samples_seen,
            "weight": weight,
            "temperature": temperature,
            "training_loss": trained.loss_sum / max(1, trained.samples_seen),
            "loss": {who: each.loss for who, each in figures.items()},
            metric: {who: each.metric for who, each in figures.items()},
            "seed": seed,
            "versions": versions(),
        }
        (output / DISTILLED).write_text(json_text(record, indent=1) + "\n", encoding="utf-8")
        rows = [f"| {who} | {each.loss:.4f} | {each.metric:.4f} |" for who, each in figures.items()]
        lines = [
            "---", f"library_name: {hub.split(name)[0] or 'pytorch'}", "tags:", "- dictpfl", "- distillation", "---", "",
            f"# {hub_free(name)}, distilled", "",
            f"Trained for {steps} steps to say what a model of {parameters(large):,} parameters says; it has {parameters(small):,}. No "
            "part of dictpfl is needed to load it.", "", f"| | loss | {metric} |", "|---|---|---|", *rows, "", "## Use", "",
            "```python", *loading_lines(small, name, "FOLDER", options=options), "```",
            *(line for said in (note, *read.reducer_notes) if said for line in ("", said)),
        ]  # fmt: skip
        (output / CARD).write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    return (
        f"loss {before.loss:.4f} before, {after.loss:.4f} after {steps} steps, teacher {taught.loss:.4f}; {metric} "
        f"{before.metric:.4f}, {after.metric:.4f}, {taught.metric:.4f}"
    )


def teacher_of(name: str, student: Source, checkpoint: Checkpoint = "last") -> nn.Module:
    """The teacher that a name leads to, in evaluation mode: of a run, or of a library, for the student's samples.

    Args:
        name: see `distil_folder`.
        student: gives samples, and outputs of a library's model.
        checkpoint: of a federation.

    Raises:
        ConfigError: nothing of that name, or a federation's that reads other columns.
    """
    made = standing(name)
    if made is not None:
        return teacher_model(made, student.config, student.sample_shape, outputs_of(student))
    if not Path(name).is_dir():
        raise ConfigError(
            f"no folder {name!r}; expected a folder of a run, an institution, `cut` or `distil`, or transformers:FOLDER or timm:NAME"
        )
    finished = Finished.load(Path(name), checkpoint)
    require_same_columns(finished.genesis.config.data, student.config.data)
    return finished.merged()


def teacher_model(section: Model, config: FederationConfig, sample_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """A teacher of a library, or one that `cut` or `distil` wrote, with the student's kind of head.

    Args:
        section: what makes it.
        config: of the student.
        sample_shape: of a sample.
        outputs: of the student.

    Raises:
        ConfigError: a model without weights for so many outputs.
    """
    library = hub.split(section.source)[0]
    if library and library == hub.split(config.model.source)[0]:
        kept = {k: v for k, v in config.model.options.items() if k == "head"}
        section = section.model_copy(update={"options": kept})
    model = build_model(section, sample_shape, outputs, config.seed).eval()
    require_taught(model, section.source, outputs)
    return model


def outputs_of(student: Source) -> int:
    """Number of classes; of a language model, of the tokens that occur."""
    import torch

    from dictpfl.client.training.calling import forward, tensors_of

    few = student.measure.take(np.arange(1))
    if student.config.measuring.task == "causal-lm":
        return int(student.measure.features.max()) + 1
    with torch.no_grad():
        return int(forward(student.model.eval(), tensors_of(student.model, few)[0]).shape[-1])
