"""The schedule: which faults strike whom and when, drawn from a seed; every kind occurs at least once."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass

INSTITUTION, COORDINATOR = "institution", "coordinator"
FLIPS = {INSTITUTION: "flipped bits at an institution", COORDINATOR: "flipped bits at the coordinator"}
KINDS: dict[str, str] = {
    "task killed": INSTITUTION,
    "institution killed": INSTITUTION,
    "coordinator killed": COORDINATOR,
    "institution stopped": INSTITUTION,
    "coordinator stopped": COORDINATOR,
    "line cut": INSTITUTION,
    "line cut in a handshake": INSTITUTION,
    "line slow": INSTITUTION,
    "disk full at an institution": INSTITUTION,
    "disk full at the coordinator": COORDINATOR,
    "clock wrong": INSTITUTION,
    "clone beside": INSTITUTION,
    "clone in its place": INSTITUTION,
    "old backup at an institution": INSTITUTION,
    "old backup at the coordinator": COORDINATOR,
    FLIPS[INSTITUTION]: INSTITUTION,
    FLIPS[COORDINATOR]: COORDINATOR,
}
"""Who is struck, by kind of fault."""
REPLACED = "old backup at an institution"
"""Kind that comes last: what an institution had trained and not yet delivered is lost with its memory, so that rounds differ afterwards."""
LATE = (REPLACED, "old backup at the coordinator")
"""Kinds that come after some rounds: a backup must have got old."""
BACKED_UP = 2
"""Closed rounds when backups are made."""


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        kind: one of `KINDS`.
        where: the party that is struck.
        after: closed rounds before it comes, at least.
        delay: seconds from the moment at which the party is at work to the stroke.
        number: for what is drawn while it is played, such as which bit of a file.
    """

    kind: str
    where: str
    after: int
    delay: float
    number: int

    @property
    def draw(self) -> random.Random:
        """Draws of this fault's own, the same each time."""
        return random.Random(self.number)


def drawn(seed: int, names: Sequence[str], rounds: int, kinds: Collection[str] | None = None) -> list[Fault]:
    """Draw a schedule: each kind once, over the rounds, in an order and at institutions that follow from the seed.

    Args:
        seed: of everything that is drawn.
        names: of the institutions.
        rounds: update rounds of the run.
        kinds: those to play; None: all.

    Raises:
        ValueError: a kind that does not exist.
    """
    wanted = list(KINDS) if kinds is None else [kind for kind in KINDS if kind in kinds]
    if unknown := set(kinds or ()) - set(KINDS):
        raise ValueError(f"no kinds of fault: {sorted(unknown)}; there are {', '.join(KINDS)}")
    draw = random.Random(f"faults {seed}")
    order = draw.sample(wanted, len(wanted))
    order.sort(key=lambda kind: kind in LATE)  # stable: the others keep the order that was drawn
    half = len(order) // 2
    for kind in [kind for kind in order if kind in LATE]:
        # Anywhere in the second half, for a backup has got old by then.
        order.remove(kind)
        order.insert(draw.randint(half, len(order)), kind)
    if REPLACED in order:
        order.remove(REPLACED)
        order.append(REPLACED)
    last = max(1, rounds - 2)
    return [
        Fault(
            kind,
            COORDINATOR if KINDS[kind] == COORDINATOR else draw.choice(list(names)),
            max(1, min(last, 1 + place * last // len(order)), BACKED_UP + 1 if kind in LATE else 0),
            round(draw.uniform(0.0, 0.4), 3),
            draw.randrange(1 << 32),
        )
        for place, kind in enumerate(order)
    ]
