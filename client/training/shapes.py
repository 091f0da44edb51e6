"""Outputs brought beside their targets, or refused."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 -- torch's own convention
from torch import Tensor

from dictpfl.client.data.samples import IGNORED
from dictpfl.common.errors import DataError, ModelError


def alike(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs and targets of a regression, both (batch, targets).

    Raises:
        ModelError: another number of outputs than of targets.
    """
    if outputs.shape[0] != targets.shape[0] or outputs.numel() != targets.numel():
        remedy = (
            "the model needs one output for each target"
            if targets.is_floating_point()
            else 'labels are whole numbers and were read as classes: set data.options.target = "regression", or give floats'
        )
        raise ModelError(
            f"regression: outputs {tuple(outputs.shape)} do not fit targets {tuple(targets.shape)}; {remedy}"
        )
    return outputs.reshape(len(targets), -1), targets.reshape(len(targets), -1).to(outputs.dtype)


def joined(batches: Sequence[Tensor]) -> Tensor:
    """Outputs of batches as those of one; of texts, which are cut to the longest row of their batch, as long as the longest of all."""
    longest = max(outputs.shape[1] for outputs in batches) if batches[0].ndim == 3 else 0  # noqa: PLR2004 -- batch, tokens, classes
    return torch.cat([F.pad(o, (0, 0, 0, longest - o.shape[1])) if longest else o for o in batches])


def shifted(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs (batch, tokens - 1, vocabulary) beside the token that follows each.

    Raises:
        ModelError: other shapes than those of a language model.
    """
    if outputs.ndim != 3 or targets.ndim != 2 or targets.is_floating_point():  # noqa: PLR2004 -- batch, tokens, vocabulary
        raise ModelError(
            f"causal-lm: expected outputs (batch, tokens, vocabulary) and token labels, found outputs {tuple(outputs.shape)} "
            f'and labels {tuple(targets.shape)}; set model.options.head = "causal-lm" and data.options.target = "next"'
        )
    return outputs[:, :-1], targets[:, 1 : outputs.shape[1]]


def times(targets: Tensor) -> tuple[Tensor, Tensor]:
    """Time and event of each sample, (batch,) each.

    Raises:
        ModelError: targets that are not (time, event) as floats.
    """
    if targets.ndim != 2 or targets.shape[1] != 2 or not targets.is_floating_point():  # noqa: PLR2004 -- batch; time, event
        raise ModelError(
            f"survival: expected float targets (batch, 2) of time and event, found {targets.dtype} {tuple(targets.shape)}; "
            "data.label names the time, data.options.event the column that is 1 where the event was seen"
        )
    return targets[:, 0], targets[:, 1]


def survival(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Risk, time and event of each sample, (batch,) each.

    Raises:
        ModelError: other than one output a sample, or targets that are not (time, event) as floats.
    """
    time, event = times(targets)
    if outputs.numel() != len(targets):
        raise ModelError(
            f"survival: outputs {tuple(outputs.shape)} for {len(targets)} samples; the model needs one output, the log hazard"
        )
    return outputs.reshape(-1), time, event


def units(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Units that are classified one by one, samples or tokens or pixels: outputs (units, classes), classes int64 (units,).

    Takes outputs (batch, classes) with integer targets (batch,); (batch, tokens, classes) with (batch, tokens), `IGNORED` left out;
    (batch, classes, height, width) with classes as floats (batch, height, width).

    Raises:
        ModelError: other shapes.
        DataError: a pixel of no class.
    """
    if outputs.ndim == 4 and targets.shape == outputs.shape[:1] + outputs.shape[2:]:  # noqa: PLR2004 -- pictures
        return outputs.movedim(1, -1).reshape(-1, outputs.shape[1]), pixels(targets, outputs.shape[1]).reshape(-1)
    is_flat = outputs.ndim == 2 and targets.ndim == 1  # noqa: PLR2004 -- batch, classes
    is_row = outputs.ndim == 3 and targets.ndim == 2  # noqa: PLR2004 -- batch, tokens, classes
    if targets.is_floating_point() or not (is_flat or is_row):
        raise ModelError(
            f"expected outputs of several classes and the number of a class for each sample, token or pixel, found outputs "
            f"{tuple(outputs.shape)} and {targets.dtype} labels {tuple(targets.shape)}"
        )
    if is_row:
        outputs, targets = outputs[:, : targets.shape[1]], targets[:, : outputs.shape[1]]
    outputs, targets = outputs.reshape(-1, outputs.shape[-1]), targets.reshape(-1)
    known = targets != IGNORED
    return outputs[known], targets[known]


def said(outputs: Tensor, targets: Tensor) -> Tensor:
    """Class that is said of each sample, int64 (batch,): the largest of outputs (batch, classes), beside integer targets (batch,).

    Raises:
        ModelError: other shapes, which would be compared all the same where two sizes happen to agree.
    """
    if outputs.ndim != 2 or targets.ndim != 1 or targets.is_floating_point():  # noqa: PLR2004 -- batch, classes
        raise ModelError(
            f"a metric of one class for each sample: expected outputs (batch, classes) and integer labels (batch,), found outputs "
            f"{tuple(outputs.shape)} and {targets.dtype} labels {tuple(targets.shape)}; name a metric of this task in training.metric"
        )
    return outputs.argmax(dim=1)


def pixels(targets: Tensor, count: int) -> Tensor:
    """Classes of pixels, floats, as int64 of the same shape.

    Raises:
        DataError: another number than one of so many classes.
    """
    classes = targets.long()
    wrong = (classes != targets) | (classes < 0) | (classes >= count)
    if bool(wrong.any()):
        raise DataError(
            f"a pixel's class is {float(targets[wrong][0]):g}, expected a whole number from 0 to {count - 1}, the model's {count} classes; "
            "give what belongs to none a class of its own"
        )
    return classes


def are_labels(outputs: Tensor, targets: Tensor) -> bool:
    """Tell whether each output is a label of its own, there or not: float targets of the outputs' shape."""
    return targets.is_floating_point() and targets.shape == outputs.shape


def labels(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs and targets of labels, (units, labels) each: a sample's, or a pixel's.

    Raises:
        ModelError: other shapes, or targets other than 0 and 1.
    """
    if not are_labels(outputs, targets) or not bool(((targets == 0) | (targets == 1)).all()):
        raise ModelError(
            f"expected an output and a target of 0 or 1 for each label, found outputs {tuple(outputs.shape)} and {targets.dtype} targets "
            f"{tuple(targets.shape)}"
        )
    if outputs.ndim == 4:  # noqa: PLR2004 -- pictures: batch, labels, height, width
        outputs, targets = outputs.movedim(1, -1), targets.movedim(1, -1)
    return outputs.reshape(-1, outputs.shape[-1]), targets.reshape(-1, targets.shape[-1])


def chances(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Probability of each class or label, float64 (units, classes), and 1 where it is the unit's, else 0, alike.

    Of classes, which exclude each other, by softmax; of labels, which do not, by sigmoid.

    Raises:
        ModelError: outputs and targets of neither.
        DataError: outputs that are NaN.
    """
    of_labels = are_labels(outputs, targets)
    outputs, targets = labels(outputs, targets) if of_labels else units(outputs, targets)
    require_numbers(outputs)
    if of_labels:
        return outputs.double().sigmoid(), targets.double()
    return outputs.double().softmax(dim=1), torch.nn.functional.one_hot(targets, outputs.shape[1]).double()


def require_numbers(outputs: Tensor) -> None:
    """Refuse outputs of which the largest is none: it would pass for class 0, or for a label that is not there.

    Raises:
        DataError: one is NaN.
    """
    if bool(outputs.isnan().any()):
        raise no_numbers()


def no_numbers() -> DataError:
    """Make the error for outputs of which no sum can be made."""
    return DataError(
        "the model gives outputs that are no numbers for some samples, so that training.metrics has no sums: training diverged (lower "
        "training.learning_rate, or set training.clip_norm), or the samples are far from what it was trained on"
    )


def pairs(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Both sides of each sample as directions of length 1, (batch, width) each.

    Raises:
        ModelError: other outputs than two rows a sample.
    """
    if outputs.ndim != 3 or outputs.shape[1] != 2:  # noqa: PLR2004 -- batch, side, width
        raise ModelError(
            f"contrastive: expected outputs (batch, 2, width), a row for each side of a pair, found {tuple(outputs.shape)}; let the model "
            "return both"
        )
    one, other = torch.nn.functional.normalize(outputs, dim=2).unbind(dim=1)
    return one, other
