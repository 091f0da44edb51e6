"""`dictpfl evaluate`: a federation's model on data of one's own, at home."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from client.batches import forward, tensors_of
from client.data import Samples, load_dataset
from client.site import VALIDATION
from client.tasks import load_task
from client.training import evaluate, resolve_device
from common.config import FederationConfig
from common.errors import ConfigError, DataError, ModelError
from deploy.exports.finished import Checkpoint, Finished
from deploy.founding import TEST


@dataclass(frozen=True)
class Evaluation:
    """What a model reached on some samples.

    Attributes:
        samples: their number. `metric_name`, `metric`: the task's, mean over samples. `loss`: mean.
        recall: of each class its number of samples and the share of them that was recognised; empty without classes.
        names: of the classes, where the data name them.
    """

    samples: int
    metric_name: str
    metric: float
    loss: float
    recall: Mapping[int, tuple[int, float]]
    names: tuple[str, ...] = ()


def evaluate_on(
    folder: Path,
    data: Path | None = None,
    changes: Mapping[str, Any] | None = None,
    checkpoint: Checkpoint = "last",
) -> Evaluation:
    """Measure the model of a run folder, or of an institution's folder.

    Args:
        folder, checkpoint: see `Finished.load`.
        data: an .npz that `Samples.save` wrote, or what `data.path` may be for the federation's own `data.source`. None:
            the test split of a run, the validation split of an institution.
        changes: dotted overrides of `[data]`, such as `{"data.source": "csv"}`.

    Raises:
        ConfigError, DataError, ModelError: folder, data or both together cannot be used.
    """
    finished = Finished.load(folder, checkpoint)
    samples, names = _samples(finished, folder, data, changes or {})
    config = finished.genesis.config
    expected = tuple(finished.genesis.sample_shape)
    if samples.features.shape[1:] != expected:
        raise DataError(
            f"samples of shape {samples.features.shape[1:]}, the model takes {expected}; prepare the data as the federation "
            "did, with the same options"
        )
    task, model = load_task(config.training.task), finished.merged()
    device = resolve_device(config.training.device)
    try:
        found = evaluate(model, samples, task, batch_size=config.training.evaluation_batch, device=device)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise ModelError(f"the model cannot be measured on this data: {error}") from error
    classes = samples.labels.dtype == np.int64 and samples.labels.ndim == 1
    recall = _recall(_predicted(model, samples), samples.labels) if classes else {}
    return Evaluation(
        found.count, task.metric_name, found.metric_sum / found.count, found.loss_sum / found.count, recall, names
    )


def _samples(
    finished: Finished, folder: Path, data: Path | None, changes: Mapping[str, Any]
) -> tuple[Samples, tuple[str, ...]]:
    if data is None and not changes:
        own = next((p for p in (folder / TEST, folder / VALIDATION) if p.exists()), None)
        if own is None:
            raise ConfigError(f"{folder} holds no samples of its own; name some with --data")
        data = own
    names: tuple[str, ...] = ()
    if data is not None and data.suffix == ".npz":
        found = Samples.load(data)
    else:
        overrides = dict(changes) | ({} if data is None else {"data.path": str(data)})
        wrong = [key for key in overrides if not key.startswith("data.")]
        if wrong:
            raise ConfigError(f"--set {wrong[0]}: only keys of [data] can be changed for an evaluation")
        raw = finished.genesis.config.model_dump(mode="json") | {"toy_insecure": True}
        dataset = load_dataset(FederationConfig.of(raw, overrides).data, finished.genesis.config.seed)
        found, names = dataset.samples, dataset.class_names
        if dataset.outputs > finished.genesis.outputs:
            raise DataError(
                f"the data have {dataset.outputs} classes, the model {finished.genesis.outputs}; set data.options.classes to "
                "those of the federation, in their order"
            )
    if not len(found):
        raise DataError("no samples to measure the model on; expected at least one")
    return found, names


@torch.no_grad()
def _predicted(model: torch.nn.Module, samples: Samples) -> NDArray[np.int64]:
    features, _ = tensors_of(model, samples)
    rows = [forward(model, part).argmax(dim=-1).cpu().numpy() for part in torch.split(features, 64)]
    predicted: NDArray[np.int64] = np.concatenate(rows)
    return predicted


def _recall(predicted: NDArray[np.int64], labels: NDArray[np.int64]) -> dict[int, tuple[int, float]]:
    classes, counts = np.unique(labels, return_counts=True)
    return {int(c): (int(n), float((predicted[labels == c] == c).mean())) for c, n in zip(classes, counts, strict=True)}
