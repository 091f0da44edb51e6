"""A line of history.jsonl."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from pydantic import TypeAdapter

from dictpfl.deploy.runs.formats import FORMAT, record_now

_FIGURES = {"test_by_group", "test_metrics", "validation_metrics"}
"""Fields with figures by name, of which null in JSON is one that is no number."""


@dataclass(frozen=True)
class RoundRecord:
    """One closed round; a line of history.jsonl.

    Attributes:
        round: its number.
        kind: update, score or measure.
        update: update rounds finished by then.
        contributors: institutions in the sum.
        rejected: reasons of those that are not.
        sent: values of one upload.
        sent_by_tensor: of each tensor.
        ciphertexts: in one upload.
        bytes_up, bytes_down: of one institution, as on the wire.
        test: the task's mean metric on the test split, of the model after the round; None where nothing changed, or, read from a
            file, where it was no number.
        test_loss: mean test loss.
        validation, validation_loss: of the model before the round, over all
            institutions' validation samples, from the encrypted ledger; None without any.
        train_loss: mean over training samples; None where differential privacy keeps it at home.
        refreshed: dictionaries, or some of them, were drawn anew after it.
        seconds: train, seal, open, evaluate, store (mean of the institutions), fold (coordinator), round (wall clock).
        metric: name of the task's metric, which `test` and `validation` are figures of; "" in runs of earlier releases.
        test_metrics: figures of `training.metrics` on the test split after the round, those that are single numbers, by name.
        validation_metrics: the same over all institutions' validation samples before the round, from the encrypted ledger.
        test_by_group: the metric on each institution's part of the test split; empty where the data do not name it.
    """

    round: int
    kind: str
    update: int
    contributors: int
    rejected: Mapping[str, str]
    sent: int
    sent_by_tensor: Mapping[str, int]
    ciphertexts: int
    bytes_up: int
    bytes_down: int
    test: float | None
    test_loss: float | None
    validation: float | None
    validation_loss: float | None
    train_loss: float | None
    refreshed: bool
    seconds: Mapping[str, float]
    test_by_group: Mapping[str, float] = field(default_factory=dict)
    metric: str = ""
    test_metrics: Mapping[str, float] = field(default_factory=dict)
    validation_metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def accuracy(self) -> float | None:
        """Figure on the test split under the name that it had in 0.1, whatever the metric."""
        return self.test

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values, behind the number of the format."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def of_json(cls, line: Mapping[str, Any]) -> RoundRecord:
        """Read what `to_json` made, of this format or an earlier one.

        Raises:
            ConfigError: of a later one.
            ValidationError: a field is missing, or of another type.
        """
        known = {one.name for one in fields(cls)}  # a later release may say more without another format
        found = {name: value for name, value in record_now(line).items() if name in known}
        for name in _FIGURES & found.keys():
            found[name] = {key: math.nan if one is None else one for key, one in found[name].items()}
        return _READER.validate_python(found)


_READER = TypeAdapter(RoundRecord)
