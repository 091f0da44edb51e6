"""The model that a federation with gates narrowed: cut where all institutions cut, from the shared state alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from dictpfl.common.errors import ConfigError
from dictpfl.deploy.exports.exporter import EXPORTERS, Exporter

if TYPE_CHECKING:
    from dictpfl.deploy.exports.finished import Finished


@EXPORTERS.register("narrow")
class NarrowExporter(Exporter):
    """W0 + D T with gates folded in, without the units whose gates closed, as a folder, and its card."""

    makes_folder: ClassVar[bool] = True

    def write(self, finished: Finished, output: Path) -> str:
        """See `Exporter.write`.

        Raises:
            ConfigError: a federation without gates, or a library that is missing.
        """
        from dictpfl.client.compress.cutting.cut import cut
        from dictpfl.client.compress.narrow.federating import closed_axes, gated_axes, kept_units, left_open
        from dictpfl.client.compress.narrow.phases import closed_words, one_stays
        from dictpfl.client.model import hub
        from dictpfl.deploy.exports.card import local_notes, write_card
        from dictpfl.deploy.exports.folders import loading_lines, save_model, save_tokenizer

        config = finished.genesis.config
        if not config.narrow.axes:
            raise ConfigError(
                "this federation has no gates (narrow.axes), so that it agreed on no cut; `dictpfl narrow` takes a skill out at home"
            )
        whole = finished.merged()
        axes = gated_axes(whole, config.narrow)
        kept = kept_units(finished.genesis, finished.state.values, axes)
        open_yet = left_open(finished.genesis, finished.state.values, axes, kept)
        small, source = cut(whole, kept), config.model.source
        save_model(small, source, output)
        said = [
            one_stays(config.narrow.keep, axes),
            closed_words(closed_axes(finished.genesis, finished.state.values, axes)),
        ]
        notes = list(filter(None, [*said, save_tokenizer(config, output)]))
        counts = {len(units) for units in kept.values()}
        classes = ", ".join(map(str, config.narrow.classes)) or "all"
        sizes = f"{sum(p.numel() for p in whole.parameters()):,} to {sum(p.numel() for p in small.parameters()):,} parameters"
        write_card(
            finished, output, kind="The model narrowed to one skill, merged: no part of dictpfl is needed to load it.",
            loading=loading_lines(small, source, "FOLDER"),
            notes=[
                f"Classes of the skill: {classes}. Units that stay of each gated layer: {', '.join(map(str, sorted(counts)))}; {sizes}. "
                f"Of what gates still let through, {open_yet:.0%} went with the units that were cut: where that is much, the cut changes what the "
                "model answers, and recovery makes up for it. "
                "Other skills are harder to relearn from it, by how much `dictpfl narrow --dropped` measures; they are not erased.",
                *notes, *local_notes(finished),
            ],
            library=hub.split(source)[0] or "pytorch", base="",
        )  # fmt: skip
        return "\n".join([f"narrowed model, {sizes}; {open_yet:.0%} of what gates let through was cut", *notes])
