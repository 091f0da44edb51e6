"""`dictpfl personalise`: an institution's own head on the federation's model, measured, in a folder of its own."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from dictpfl.client.data.images import normalisation_of
from dictpfl.client.folder import SETTINGS, TRAIN, VALIDATION, InstitutionSettings
from dictpfl.client.model import hub
from dictpfl.client.training.measuring import means
from dictpfl.client.training.task import task_of
from dictpfl.client.training.train import evaluate, resolve_device
from dictpfl.common.documents import json_text
from dictpfl.common.errors import ConfigError, DataError
from dictpfl.common.law.seeds import expand
from dictpfl.deploy.exports.card import write_card
from dictpfl.deploy.exports.columns import write_columns
from dictpfl.deploy.exports.exporter import new_folder
from dictpfl.deploy.exports.finished import Checkpoint, Finished
from dictpfl.deploy.exports.folders import loading_lines, save_model, save_tokenizer
from dictpfl.deploy.exports.head import personalise
from dictpfl.deploy.simulation.founding import samples_of

FIGURES = "personal.json"
_WARNING = (
    "Its last layers were trained on one institution's data alone, without encryption and outside the federation: what they "
    "hold is that institution's, and nobody else has agreed to pass it on."
)


@dataclass(frozen=True)
class Figures:
    """Contents of personal.json.

    Attributes:
        metric_name: the task's.
        before, after: its mean on the institution's validation samples.
        loss_before, loss_after: mean.
        validation, trained, held: samples measured on, trained on, and held out to choose the epoch.
        epochs: after which the head was best on the samples held out; 0: it is the federation's.
        parameters: values that were trained.
        updates: rounds of the federation in the model.
    """

    metric_name: str
    before: float
    after: float
    loss_before: float
    loss_after: float
    validation: int
    trained: int
    held: int
    epochs: int
    parameters: int
    updates: int


def write_personal(
    folder: Path, output: Path, *, checkpoint: Checkpoint = "last", epochs: int = 20, layers: int = 1, rate: float = 0.0
) -> Figures:
    """Train a head of the institution's own, and write the whole model, its card and its figures into a new folder.

    Args:
        folder: the institution's.
        output: new; only its owner may enter.
        checkpoint: of the federation, to start from.
        epochs, layers: see `dictpfl.deploy.exports.head.personalise`.
        rate: learning rate; 0: the federation's, of its head and of dense parameters.

    Raises:
        ConfigError: not an institution's folder, no round applied yet, the output holds something, or a mask would be lost.
        DataError: no validation samples, or too few training samples.
    """
    if not (folder / SETTINGS).exists():
        raise ConfigError(
            f"{folder} is no institution's folder ({SETTINGS} is missing); a personal head needs an institution's own data. In a "
            "run folder they are institutions/institution-000 and so on"
        )
    finished, settings = Finished.load(folder, checkpoint), InstitutionSettings.load(folder)
    training = finished.genesis.config.measuring
    if rate:  # rates of their own would go before it
        rates = {"learning_rate": rate, "dense_learning_rate": 0.0, "head_learning_rate": 0.0}
        training = training.model_copy(update=rates)
    agreed = finished.genesis.config
    skill = agreed.narrow.classes  # what the federation trained on; other classes its head does not know
    samples, validation = (
        samples_of(folder / name, agreed, finished.state).of_classes(skill) for name in (TRAIN, VALIDATION)
    )
    if not len(validation):
        raise DataError(
            f"{folder}/{VALIDATION} holds no samples, so nothing would show whether a personal head helps; put some there"
        )
    with new_folder(output, private=True):
        task, bench = task_of(training), finished.bench()
        model, masks = finished.merged(bench), bench.masks_at(finished.state)
        seed = expand(finished.genesis.seed, "personal", settings.name, length=32)
        made = personalise(
            model,
            samples,
            training,
            task,
            epochs=epochs,
            layers=layers,
            seed=seed,
            masked=masks.by_name if masks else (),
        )
        device, batch = resolve_device(training.device), training.evaluation_batch
        before, after = (
            means(evaluate(one, validation, task, batch_size=batch, device=device)) for one in (model, made.model)
        )
        made.model.to("cpu")
        figures = Figures(
            task.metric_name,
            before[1],
            after[1],
            before[0],
            after[0],
            len(validation),
            made.trained,
            made.held,
            made.epochs,
            made.parameters,
            finished.state.updates,
        )
        pixels = normalisation_of(finished.genesis.config.data)
        save_model(made.model, finished.genesis.config.model.source, output, classes=finished.classes, pixels=pixels)
        write_columns(folder, output, checkpoint)
        note = save_tokenizer(finished.genesis.config, output)
        write_card(
            finished, output, kind="The whole model, merged, with the last layers of one institution's own.",
            loading=loading_lines(made.model, finished.genesis.config.model.source, "FOLDER"),
            notes=[_WARNING, *filter(None, [note])], library=hub.split(finished.genesis.config.model.source)[0] or "pytorch",
            base="",
        )  # fmt: skip
        (output / FIGURES).write_text(json_text(asdict(figures), indent=1) + "\n", encoding="utf-8")
    return figures
