"""The folder of a cut model: its weights as its library wants them, `cut.json` and a card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from dictpfl.client.compress.cutting.choose import WORDS
from dictpfl.client.compress.cutting.scores import digest
from dictpfl.client.model import hub
from dictpfl.common.documents import json_text
from dictpfl.common.settings import Model
from dictpfl.deploy.compress.cutting import Made
from dictpfl.deploy.compress.source import Source
from dictpfl.deploy.compress.written import CUT, CUT_FORMAT
from dictpfl.deploy.exports.card import CARD, hub_free
from dictpfl.deploy.exports.columns import write_preparation
from dictpfl.deploy.exports.exporter import new_folder
from dictpfl.deploy.exports.folders import loading_lines, save_model, save_tokenizer
from dictpfl.deploy.runs.run import versions

_SHAPED = "What stayed was shaped by the samples that decided: an architecture cut by somebody's data tells something about them."


def write(made: Made, source: Source, output: Path, *, seed: int, score: str) -> None:
    """Write the folder: the model, its tokenizer, `cut.json` and a card.

    Raises:
        ConfigError: the folder holds something, or a library is missing.
    """
    name = source.config.model.source
    with new_folder(output):
        save_model(made.shrunk.model, name, output)
        write_preparation(source.finished, output)
        note = save_tokenizer(source.config, output)
        (output / CUT).write_text(
            json_text(record(made, source, seed=seed, score=score), indent=1) + "\n", encoding="utf-8"
        )
        (output / CARD).write_text(_card(made, source, note), encoding="utf-8")


def record(made: Made, source: Source, *, seed: int, score: str) -> dict[str, Any]:
    """Content of `cut.json`: indices and counts, and figures of the samples that were measured."""
    shrunk = made.shrunk
    stay = {n: u.tolist() for n, u in shrunk.chosen.kept.items()}
    return {
        "format": CUT_FORMAT,
        "source": hub_free(source.config.model.source),
        "options": options_of(shrunk.model, source.config.model),
        "axes": {n: {"kind": a.kind, "units": a.units, "setting": a.setting, "kept": stay.get(n, "all")} for n, a in made.axes.items()},
        "filled": dict(shrunk.plan.filled),
        "score": score,
        "ways": dict(shrunk.chosen.ways),
        "scores_sha256": digest(shrunk.chosen.scores),
        "all_equal": list(shrunk.chosen.even),
        "parameters": {"before": shrunk.before, "after": shrunk.after},
        "parts": {"before": parts(source.model), "after": parts(shrunk.model)},
        "tallied_samples": made.voted,
        "tallied_clipped": made.clipped,
        "calibration_samples": len(source.calibration),
        "measured_samples": len(source.measure),
        "loss": {"before": made.before.loss, "after": made.after.loss},
        source.task.metric_name: {"before": made.before.metric, "after": made.after.metric},
        **_searched(made, source),
        "seconds": round(made.seconds, 3),
        "seed": seed,
        "versions": versions(),
    }  # fmt: skip


def _searched(made: Made, source: Source) -> dict[str, Any]:
    """What a search adds: training, and every size that was measured."""
    found = made.search
    if found is None or source.validation is None:
        return {"distilled": None, "search": None}
    sizes = [
        {
            "sizes": dict(size.counts), "parameters": size.parameters, "loss_as_cut": size.loss, "loss_distilled": size.distilled,
            "speed": size.speed, "kept": number == 0,
        }
        for number, size in enumerate(found.sizes)
    ]  # fmt: skip
    return {
        "distilled": {"steps": found.steps, "samples_seen": found.samples_seen, "teacher": "the model before"},
        "search": {
            "budget": found.budget,
            "chosen_by": "set aside" if source.set_aside else "validation",
            "validation_samples": len(source.validation),
            "loss_before": found.whole,
            "sizes": sizes,
        },
    }


def parts(model: nn.Module) -> dict[str, int]:
    """Parameters by the words of their modules: every block's alike added up."""
    found: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        words = [word for word in name.split(".")[:-1] if not word.isdigit()]
        found[".".join(words)] = found.get(".".join(words), 0) + parameter.numel()
    return found


def options_of(model: nn.Module, made: Model) -> dict[str, Any]:
    """`model.options` that make a network of this project as it now is: those that made it, and its sizes of now.

    Empty for others: a library's folder says it, and what arguments a function of one's own takes is not known.
    """
    from dictpfl.client.compress.cutting.architectures.vision import ratio
    from dictpfl.client.model.networks.tabular import Tabular
    from dictpfl.client.model.networks.vit import VitTiny

    if made.source not in ("cnn", "mlp", "tabular", "vit_tiny"):
        return {}
    sizes: dict[str, Any] = {}
    if isinstance(model, (VitTiny, Tabular)):
        block: Any = model.blocks[0]
        sizes = {
            "dim": block.fc1.in_features, "depth": len(model.blocks), "heads": block.heads,
            "mlp_ratio": ratio(block.fc1.out_features, block.fc1.in_features),
        }  # fmt: skip
    elif made.source == "mlp":
        sizes = {"hidden": [m.out_features for m in model.modules() if isinstance(m, nn.Linear)][:-1]}
    return {**made.options, **sizes}


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
    done = (
        "cut"
        if made.search is None
        else f"cut, and trained for {made.search.steps} steps to say what the whole model says"
    )
    tags = ["- dictpfl", "- structured-pruning", *([] if made.search is None else ["- distillation"])]
    head: Sequence[str] = ["---", f"library_name: {library}", "tags:", *tags, "---", ""]
    body = [
        f"# {hub_free(name)}, cut", "", f"{own} {done}: a smaller model of the same class; no part of dictpfl is needed to load it.", "",
        "| | before | after |", "|---|---|---|", *sizes,
        f"| parameters | {shrunk.before:,} | {shrunk.after:,} |",
        f"| loss | {made.before.loss:.4f} | {made.after.loss:.4f} |",
        f"| {source.task.metric_name} | {made.before.metric:.4f} | {made.after.metric:.4f} |", "",
        _decided(made, source),
        "", *_lost(made, source),
        "## Use", "", "```python", *loading_lines(shrunk.model, name, "FOLDER", options=options_of(shrunk.model, source.config.model)), "```",
        *(line for said in (note, *source.reducer_notes) if said for line in ("", said)),
    ]  # fmt: skip
    return "\n".join([*head, *body]).rstrip() + "\n"


def _decided(made: Made, source: Source) -> str:
    """Who decided what stays, and who was measured; magnitudes and draws look at no sample."""
    ways, who = set(made.shrunk.chosen.ways.values()), []
    if made.voted:
        who.append(f"{made.voted} samples of all institutions, summed sealed")
    if made.sampled:
        who.append(f"{len(source.calibration)} samples" + (" (which blocks)" if made.voted else ""))
    shaped = [_SHAPED] if who or made.search else []
    who += [words for way, words in (("magnitude", "the magnitudes of weights"), ("random", "a draw")) if way in ways]
    said = " and ".join(who)
    sentences = [
        f"{said[0].upper()}{said[1:]} decided which units stay (`{CUT}`).",
        *([clipped_words(made)] if made.clipped else []),
        f"{len(source.measure)} other samples were measured, and decided nothing.",
        *shaped,
    ]
    return " ".join(sentences)


def clipped_words(made: Made) -> str:
    """Say that values were too large for the tally."""
    return (
        f"Of {made.clipped} of the {made.voted} samples a value was too large for the tally and was clipped: units that were clipped alike "
        "tie, and the first of them stay; a larger tallies.options.importance.most tells them apart."
    )


def _lost(made: Made, source: Source) -> list[str]:
    """The section on a search: the sizes that were distilled, and what chose between them."""
    found = made.search
    if found is None or source.validation is None:
        return []
    settings = list(found.sizes[0].counts)
    kinds = {axis.setting: axis.kind for axis in made.axes.values()}
    names = [WORDS[kinds[s]] if list(kinds.values()).count(kinds[s]) == 1 else s for s in settings]
    whose = "set aside from those that decided the units" if source.set_aside else "of the validation split"
    rows = [
        "| " + " | ".join(
            [*(f"{size.counts[s]:,}" for s in settings), f"{size.parameters:,}", f"{size.loss:.4f}", f"{size.distilled:.4f}",
             "this one" if number == 0 else ""]
        ) + " |"
        for number, size in enumerate(found.sizes)
        if size.distilled is not None
    ]  # fmt: skip
    return [
        "## Sizes that were tried", "",
        f"{len(found.sizes)} sizes within 3 % of {found.budget:,} parameters were measured as cut on {len(source.validation)} samples {whose}; the "
        f"{len(rows)} best were distilled for {found.steps} steps of {found.samples_seen} samples in all, and the best of these is this one. Losses are those "
        f"on the {len(source.validation)} samples, where the whole model's is {found.whole:.4f}; `{CUT}` has all sizes.", "",
        "| " + " | ".join([*names, "parameters", "loss as cut", "loss distilled", ""]) + " |",
        "|" + "---|" * (len(names) + 4), *rows, "",
    ]  # fmt: skip
