"""What linear probes find after a skill was unlearnt, in words."""

from __future__ import annotations

from collections.abc import Mapping

from dictpfl.client.compress.narrow.relearn import NEVER, Residual


def reading(kept: Mapping[str, Mapping[int, Residual]], probe: Mapping[str, Residual]) -> str:
    """Say where the two audits part, and where they agree."""
    by_head = [arm for arm, by in kept.items() if by[max(by)].verdict == NEVER]
    both = [arm for arm in by_head if probe[arm].verdict == NEVER]
    only = [arm for arm in by_head if arm not in both]
    parts = []
    if both:
        parts.append(f"By relearning and by the probe alike as if never learnt: {', '.join(both)}.")
    if only:
        parts.append(
            f"By relearning with the head as it is alone: {', '.join(only)}. There the rest of the network still holds about what other cuts "
            "leave; what slows relearning down is the head."
        )
    return " ".join(parts) or "No arm is as if it had never learnt the odd digits."


def residual_text(found: Residual) -> str:
    """Say how much of relearning is left, and what that means."""
    if found.interval is None:
        return found.verdict
    i = found.interval
    return f"{i.mean:.2f} ({i.low:.2f} to {i.high:.2f}): {found.verdict}"
