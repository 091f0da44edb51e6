"""Void rounds and refused sums of a run in words, for the terminal and for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dictpfl.deploy.units import human_count

_PLAIN_BYTES = 4
"""Bytes of a parameter in clear, as float32."""


def told(troubles: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """List heading and text for each kind of trouble that a run had.

    Args:
        troubles: what `dictpfl.deploy.simulation.troubles.troubles_of` gathered, as in summary.json; None: a run of an earlier
            release, of which it is not known.
    """
    if not troubles:
        return []
    lines = []
    if void := troubles["void"]:
        lines.append(
            (
                "void rounds",
                f"{_listed(void)}: nothing of the sum was applied, at any institution",
            )
        )
    if refused := troubles["refused"]:
        sums = "; ".join(
            f"round {one['round']} at {', '.join(one['institutions'])} ({one['reason']})" for one in refused
        )
        lines.append(("refused sums", f"{sums}; nothing of them was applied where they were refused"))
    if locked := troubles["locked"]:
        lines.append(("locked", f"{', '.join(locked)}: too many refused sums; `dictpfl institution unlock` shows them"))
    return lines


def pays_from(summary: Mapping[str, Any]) -> str:
    """Say from what size of a model on an encrypted upload has fewer bytes than the whole model in clear, by the uploads of a run."""
    upload = summary["bytes"]["up"] / max(1, summary["rounds"])
    return (
        f"the model is small, and an upload has a least size; it pays in bytes from about {human_count(upload / _PLAIN_BYTES)} values in the "
        "model on, at these settings, and below you pay for secrecy"
    )


def below_baseline(summary: Mapping[str, Any]) -> str:
    """Warn of a model that is no better than an answer that does not look at a sample; "" of one that is, or if none is known."""
    baseline = summary.get("baseline")
    if not baseline or baseline["passed"]:
        return ""
    return (
        f"the model has learnt nothing that its figure shows: test {summary['metric']} {summary['test']:.4f}, and "
        f"{baseline['what']} has {baseline['figure']:.4f}. Train longer or at another rate; where classes are rare, "
        'weigh them (training.task_options), and look at training.metrics = ["confusion", "auroc"]'
    )


def _listed(numbers: Sequence[int]) -> str:
    return ("round " if len(numbers) == 1 else "rounds ") + ", ".join(str(number) for number in numbers)
