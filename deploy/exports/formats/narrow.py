"""The model that a federation with gates narrowed: cut where all institutions cut, from the shared state alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from dictpfl.common.errors import ConfigError, DictPFLError
from dictpfl.deploy.exports.exporter import EXPORTERS, Exporter

if TYPE_CHECKING:
    from dictpfl.client.data.samples import Samples
    from dictpfl.deploy.exports.finished import Checkpoint, Finished


@EXPORTERS.register("narrow")
class NarrowExporter(Exporter):
    """W0 + D T with gates folded in, without the units whose gates closed, as a folder, with its card and `narrow.json`."""

    makes_folder: ClassVar[bool] = True

    def __init__(self) -> None:
        """Begin with a head that loses the rows of classes that are not the skill's."""
        self.head: Literal["trim", "whole"] = "trim"
        self._folder: Path | None = None

    def export(self, folder: Path, output: Path, checkpoint: Checkpoint = "last") -> str:
        """See `Exporter.export`; the folder's own samples of the skill, test or validation, are what `narrow.json` measures on."""
        self._folder = folder
        return super().export(folder, output, checkpoint)

    def write(self, finished: Finished, output: Path) -> str:
        """See `Exporter.write`.

        Raises:
            ConfigError: a federation without gates, or a library that is missing.
        """
        from dictpfl.client.compress.cutting.cut import cut
        from dictpfl.client.compress.narrow.federating import closed_axes, gated_axes, kept_units, left_open
        from dictpfl.client.compress.narrow.heads import trimmed_if_can
        from dictpfl.client.compress.narrow.phases import GATES, closed_words, one_stays
        from dictpfl.client.data.images import normalisation_of
        from dictpfl.client.model import hub
        from dictpfl.client.training.task import task_of
        from dictpfl.deploy.exports.card import local_notes, write_card
        from dictpfl.deploy.exports.folders import loading_lines, save_model, save_tokenizer
        from dictpfl.deploy.exports.narrow_report import NarrowReport, stage, write_report

        genesis, state, config = finished.genesis, finished.state.values, finished.genesis.config
        if not config.narrow.axes:
            raise ConfigError(
                "this federation has no gates (narrow.axes), so that it agreed on no cut; `dictpfl narrow` takes a skill out at home"
            )
        whole = finished.merged()
        axes = gated_axes(whole, config.narrow)
        kept = kept_units(genesis, state, axes)
        open_yet = left_open(genesis, state, axes, kept)
        classes, task = tuple(sorted(set(config.narrow.classes))), task_of(config.measuring)
        small, source = cut(whole, kept).eval(), config.model.source
        final, rows, why = trimmed_if_can(small, classes if self.head == "trim" else ())
        names = tuple(finished.classes[n] for n in classes) if rows and finished.classes else finished.classes
        save_model(final, source, output, classes=names, pixels=normalisation_of(config.data))
        said = [one_stays(config.narrow.keep, axes), closed_words(closed_axes(genesis, state, axes)), why]
        notes = list(filter(None, [*said, save_tokenizer(config, output)]))
        unmeasured = ""
        try:
            samples = self._samples(finished)
            before, after = stage(whole, task, samples), stage(small, task, samples)
        except DictPFLError as error:  # data that were moved since are no reason to withhold the model
            unmeasured = f"Not measured: {error}."
            before, after = stage(whole, task, None), stage(small, task, None)
        if not unmeasured and after.kept is None:
            unmeasured = "Not measured: the folder that was exported holds no samples of the skill."
        report = NarrowReport(
            skill=f"classes={','.join(map(str, classes))}" if classes else "all", method=GATES, metric=task.metric_name,
            classes=list(rows), kept={name: units.tolist() for name, units in kept.items()}, steps=None, samples=None,
            seed=config.seed, before=before,
            after_cut=after.model_copy(update={"parameters": sum(p.numel() for p in final.parameters())}),
            after_recovery=None, left_open=open_yet, notes=list(filter(None, [*notes, unmeasured])),
        )  # fmt: skip
        write_report(output, report)
        counts = {len(units) for units in kept.values()}
        sizes = f"{before.parameters:,} to {report.after_cut.parameters:,} parameters"
        write_card(
            finished, output, kind="The model narrowed to one skill, merged: no part of dictpfl is needed to load it.",
            loading=loading_lines(final, source, "FOLDER"),
            notes=[
                f"Classes of the skill: {', '.join(map(str, classes)) or 'all'}"
                f"{'; the head has their rows alone, in this order' if rows else ''}. "
                f"Units that stay of each gated layer: {', '.join(map(str, sorted(counts)))}; {sizes}. "
                f"Of what gates still let through, {open_yet:.0%} went with the units that were cut: where that is much, the cut changes what the "
                "model answers, and recovery makes up for it. "
                "Other skills are harder to relearn from it, by how much `dictpfl narrow --dropped` measures; they are not erased.",
                *notes, *local_notes(finished),
            ],
            library=hub.split(source)[0] or "pytorch", base="",
        )  # fmt: skip
        figures = (
            f"{task.metric_name} {before.figure} before, {after.figure} right after the cut; " if after.kept else ""
        )
        words = f"narrowed model, {sizes}; {figures}{open_yet:.0%} of what gates let through was cut"
        return "\n".join(filter(None, [words, *notes, unmeasured]))

    def _samples(self, finished: Finished) -> Samples | None:
        """The folder's own samples of the skill; None where it holds none."""
        from dictpfl.deploy.exports.evaluation import own_samples
        from dictpfl.deploy.simulation.founding import samples_of

        config, path = finished.genesis.config, None if self._folder is None else own_samples(self._folder)
        if path is None:
            return None
        return samples_of(path, config, finished.state).of_classes(config.narrow.classes)
