"""Forms of a run folder's figures: the number that says which one, and what earlier ones called otherwise.

Format 1 (dictpfl 0.1, which wrote no number) called the figure of every metric `accuracy`, an error's or an index's, too.
Since format 2, `test` and `validation` are figures of `metric`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dictpfl.common.errors import ConfigError
from dictpfl.deploy.runs.fields import require_summary

FORMAT = 2
"""Number that summary.json, each line of history.jsonl and compare.json carry as `format`; it rises when a key changes its meaning or goes."""
_RECORD = {"accuracy": "test", "loss": "test_loss", "validation_accuracy": "validation"}
_SUMMARY = {"accuracy": "test", "accuracy_history": "test_history", "validation_accuracy": "validation"}
_BEST = {"accuracy": "test"}


def record_now(line: Mapping[str, Any]) -> dict[str, Any]:
    """A line of history.jsonl with the names of today's format.

    Raises:
        ConfigError: a later release wrote it.
    """
    return _renamed(line, _RECORD) if _number(line, "history.jsonl") == 1 else dict(line)


def summary_now(document: Mapping[str, Any]) -> dict[str, Any]:
    """The content of summary.json with the names of today's format.

    Raises:
        ConfigError: a later release wrote it.
        ValidationError: fields are missing or of another type.
    """
    now = dict(document)
    if _number(document, "summary.json") == 1:
        best = document.get("best")
        now = _renamed(document, _SUMMARY) | {
            "format": FORMAT, "best": _renamed(best, _BEST) if isinstance(best, Mapping) else best
        }  # fmt: skip
    require_summary(now)
    return now | _no_numbers(now)


def _no_numbers(document: Mapping[str, Any]) -> dict[str, Any]:
    """NaN in place of null where a figure always is one, such as that of an institution whose test samples are of one class.

    An epsilon that is no number is infinite: too little noise was added to bound it.
    """
    found: dict[str, Any] = {"test": math.nan} if document.get("test", 0.0) is None else {}
    if groups := document.get("test_by_group"):
        found["test_by_group"] = {
            name: {**group, "figure": math.nan if group["figure"] is None else group["figure"]}
            for name, group in groups.items()
        }
        if document["test_mean_of_groups"] is None:
            found["test_mean_of_groups"] = math.nan
    if (baseline := document.get("baseline")) and baseline["figure"] is None:
        found["baseline"] = {**baseline, "figure": math.nan}
    if (account := document.get("privacy")) and account["epsilon"] is None:
        found["privacy"] = {**account, "epsilon": math.inf}
    return found


def as_accuracy(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Figures once more under the names of format 1, for programs that read those: only where they are accuracies."""
    if "accuracy" not in str(summary["metric"]):
        return {}
    return {old: summary[new] for old, new in _SUMMARY.items()}


def _number(document: Any, what: str) -> int:
    if not isinstance(document, Mapping):
        raise TypeError(f"{what} has a {type(document).__name__} where an object is expected")
    number = document.get("format", 1)
    if type(number) is not int or not 1 <= number <= FORMAT:
        raise ConfigError(
            f"{what} has format {number!r}, this release reads 1 to {FORMAT}: read the run with the release that made it, or a later one"
        )
    return number


def _renamed(document: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(key, key): value for key, value in document.items()}
