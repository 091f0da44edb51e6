"""ViT-B/16, three institutions of one process, one round: peak memory, with tables, and with every value sent (fedhe-full).

Weights are random and samples few: memory follows from shapes. "Before" is the same round on an earlier commit. `--small`: ViT-Ti/16.
"""

from __future__ import annotations

from typing import Any

INSTITUTIONS = 3
METHODS = ("dictpfl", "fedhe-full")


def after(architecture: str, method: str) -> dict[str, Any]:
    """Play the round in this process."""
    from lib.one_round import one_round

    return one_round(architecture, INSTITUTIONS, method)


def measure(small: bool) -> dict[str, Any]:  # noqa: FBT001 -- every row is called so
    """Measure both methods now and before; shared state must be the same."""
    from lib.before import COMMIT, before, now

    architecture = "vit_tiny_patch16_224" if small else "vit_base_patch16_224"
    found: dict[str, Any] = {"before_is": COMMIT}
    for method in METHODS:
        found[method] = {
            "now": now(__file__, architecture=architecture, method=method),
            "before": before("one_round", architecture=architecture, institutions=INSTITUTIONS, method=method),
        }
    return found
