"""A folder with the bits and the values of what is not zero."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from dictpfl.common.errors import ConfigError
from dictpfl.deploy.exports.exporter import EXPORTERS, Exporter

if TYPE_CHECKING:
    from dictpfl.deploy.exports.finished import Finished


@EXPORTERS.register("sparse")
class SparseExporter(Exporter):
    """Packed masks and values of the weights that have zeros; `dictpfl.load_sparse` gives the model back bit for bit."""

    makes_folder: ClassVar[bool] = True

    def write(self, finished: Finished, output: Path) -> str:
        """See `Exporter.write`.

        Raises:
            ConfigError: no covered weight has a zero.
        """
        from dictpfl.client.model import hub
        from dictpfl.client.model.sparse.masks import Masks
        from dictpfl.client.model.sparse.weights import covered
        from dictpfl.deploy.exports.card import local_notes, write_card
        from dictpfl.deploy.exports.folders import save_tokenizer
        from dictpfl.deploy.exports.sparse import form_of, write_document, write_masks, write_weights

        config, bench = finished.genesis.config, finished.bench()
        model, said = finished.merged(bench), config.sparsity
        learnt = bench.masks_at(finished.state)
        every = covered(model, said.cover, said.keep, config.decomposition.layers)
        # Where masks were learnt, a weight that stays may be zero by itself.
        found = learnt or Masks.of_zeros(every)
        masks = Masks({name: mask for name, mask in found.by_name.items() if learnt or not mask.all()})
        if not masks.by_name:
            raise ConfigError(
                "this model has no zeros in its weights, so that this form would be larger; use `--format merged`"
            )
        weights = {name: every[name] for name in masks.by_name}
        facts = {"method": said.method if learnt else "as it was"}
        write_document(output, masks, form_of(finished), model, facts)
        write_masks(output, masks)
        write_weights(output, model, weights, masks, finished.classes)
        note = save_tokenizer(config, output)
        write_card(
            finished, output, kind="The model, merged, with its zeros left out.",
            loading=["import dictpfl", "model = dictpfl.load_sparse('FOLDER')"],
            notes=[*filter(None, [note]), *local_notes(finished)],
            library=hub.split(config.model.source)[0] or "pytorch", base="",
        )  # fmt: skip
        return f"{masks.kept} of {masks.total} entries stay, masks sha256 {masks.digest}"
