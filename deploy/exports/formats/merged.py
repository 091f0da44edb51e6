"""A folder that transformers or timm loads by itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from dictpfl.deploy.exports.exporter import EXPORTERS, Exporter

if TYPE_CHECKING:
    from dictpfl.deploy.exports.finished import Finished


@EXPORTERS.register("merged")
class MergedExporter(Exporter):
    """W0 + D T under the original names, and its card."""

    makes_folder: ClassVar[bool] = True

    def write(self, finished: Finished, output: Path) -> str:
        """See `Exporter.write`.

        Raises:
            ConfigError: a library is missing.
        """
        from dictpfl.client.data.images import normalisation_of
        from dictpfl.client.model import hub
        from dictpfl.deploy.exports.card import local_notes, write_card
        from dictpfl.deploy.exports.folders import loading_lines, save_model, save_tokenizer
        from dictpfl.deploy.exports.sparse import write_learnt

        source, bench = finished.genesis.config.model.source, finished.bench()
        merged = finished.merged(bench)
        pixels = normalisation_of(finished.genesis.config.data)
        save_model(merged, source, output, classes=finished.classes, pixels=pixels)
        notes = [save_tokenizer(finished.genesis.config, output), write_learnt(finished, bench, merged, output)]
        library = hub.split(source)[0] or "pytorch"
        write_card(
            finished, output, kind="The whole model, merged: no part of dictpfl is needed to load it.",
            loading=loading_lines(merged, source, "FOLDER"), notes=[*filter(None, notes), *local_notes(finished)],
            library=library, base="",
        )  # fmt: skip
        return "merged model"


def export_merged(finished: Finished, folder: Path) -> None:
    """Write a folder with W0 + D T under the original names, and its card.

    Raises:
        ConfigError: the folder holds something, or a library is missing.
    """
    MergedExporter().make(finished, folder)
