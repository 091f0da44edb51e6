"""Two hundred institutions of one process, each of a vision transformer of 21.6 million parameters (ViT-S/16), one round.

One frozen model serves them all, W0 is one file with two hundred names, and shared state is one object; each institution's own is what it owes and
its waiting upload. "Before", on an earlier commit, with a tenth of the institutions, since only what grows with them can have changed.
`--small`: twenty institutions.
"""

from __future__ import annotations

from typing import Any

ARCHITECTURE = "vit_small_patch16_224"


def after(institutions: int) -> dict[str, Any]:
    """Play the round in this process."""
    from lib.one_round import one_round

    return one_round(ARCHITECTURE, institutions, "dictpfl")


def measure(small: bool) -> dict[str, Any]:  # noqa: FBT001 -- every row is called so
    """Measure now, with few institutions and with many, and before."""
    from lib.before import COMMIT, before, now

    many, few = (20, 5) if small else (200, 20)
    counts = {str(count): now(__file__, institutions=count) for count in (few, many)}
    growth = (counts[str(many)]["peak_gib"] - counts[str(few)]["peak_gib"]) / (many - few)
    return {
        "now": counts,
        "before": before("one_round", architecture=ARCHITECTURE, institutions=few, method="dictpfl"),
        "before_is": COMMIT,
        "gib_an_institution_more": growth,
    }
