"""Troubles with sums: what is known of them, what cannot be known, and what an operator can do."""

from __future__ import annotations

import time
from collections.abc import Sequence

from dictpfl.common.errors import RoundError
from dictpfl.server.journal import Journal
from dictpfl.server.rows import AskedAgain, Judged

MOST_VOIDS = 3
"""Void rounds in a row after which a run ends."""
NOTED_AFTER = 2
"""Times that a round is asked for in vain before it is news: once happens whenever somebody is late."""
UNCONFIRMED = "unconfirmed-"
"""Reason of an institution, before round and digest of its state: the journal was lost, and the operator has to say what now."""
OWN_WORDS = (
    UNCONFIRMED, "flower-error", "deadline", "not-needed", "not-sent", "excluded", "wrong-member", "ahead-of-journal",
    "rounds-not-kept",
)  # fmt: skip
"""Beginnings of reasons that the coordinator alone finds, and no institution may give of itself."""
_NEXT_AFTER = " next after "
_WRONG = "held nonsense or bore a wrong tag, or the sum was altered here or on its way"


def spoken(names: Sequence[str]) -> str:
    """Join names for a sentence."""
    return ", ".join(names) or "institutions that are not known by name"


def refused_text(refused: Judged) -> str:
    """Say what is known of a refused sum."""
    return (
        f"the sum of round {refused.round} was refused by {spoken(refused.told)}; in it were uploads of "
        f"{spoken(refused.senders)}. Institutions make the round void when it comes again; who has refused as often as it "
        "may locks"
    )


def void_text(void: Judged) -> str:
    """Say what is known of a void round."""
    return f"round {void.round} is void: one of the uploads of {spoken(void.senders)} {_WRONG}; whose cannot be known"


def asked_again_text(asked: AskedAgain) -> str:
    """Say of the open round why it does not close."""
    reasons = ", ".join(f"{name}: {why}" for name, why in sorted(asked.reasons.items()))
    return (
        f"round {asked.round} was asked for {asked.times} times without enough uploads, lately {reasons or 'without any answer'}. What the "
        "codes mean stands in docs/deploy/reference.md#codes; each institution's own log has the reason"
    )


def news(journal: Journal) -> list[str]:
    """Say what is known of each sum that institutions refused or passed over, and of an open round that was asked for in vain."""
    asked = journal.asked_again()
    waiting = [asked_again_text(asked)] if asked and asked.times >= NOTED_AFTER and not lost_text(asked) else []
    return [*map(refused_text, journal.disputed()), *map(void_text, journal.voids()), *waiting]


def held_text(number: int, words: str, base: str) -> str:
    """Write down as a reason which state an institution holds, and of which other institution's state it is the next; `base` empty: of none."""
    return f"{UNCONFIRMED}{number} {words}{_NEXT_AFTER if base else ''}{base}"


def lost_text(asked: AskedAgain) -> str:
    """Say of an open round who holds which later state, and what the operator has to decide; empty where nobody was asked for that."""
    held = {who: why.removeprefix(UNCONFIRMED) for who, why in asked.reasons.items() if why.startswith(UNCONFIRMED)}
    if not held:
        return ""
    at = time.strftime("%Y-%m-%d %H:%M", time.gmtime(asked.at))
    rows, later = [], []
    for who, why in sorted(held.items()):
        state, _, base = why.partition(_NEXT_AFTER)
        number, _, words = state.partition(" ")
        rows.append(f"  {who}: round {number}, {words}")
        if base:
            later.append(f"{who} has the sum that leads from {base} to its own state")
    after = (
        f"{'; '.join(later)}: go on from the later state, which those who lack that sum are brought to by it, or leave out who says so first "
        "(`dictpfl coordinator exclude NAME`). "
        if later
        else ""
    )
    return (
        f"the journal ends before round {asked.round}, and institutions hold other states: it was lost, or is an old copy. If there is a newer "
        "backup of journal.sqlite, put that in its place. If there is none, have each read round and words out by phone, from its own "
        f"`dictpfl status`, then type `dictpfl run --from-institutions ROUND --digest WORDS` with what they agree on. {after}At {at} UTC "
        f"they said:\n{chr(10).join(rows)}"
    )


def trouble(journal: Journal) -> str:
    """Say why the rounds cannot go on by themselves; empty where they can."""
    if (asked := journal.asked_again()) and (lost := lost_text(asked)):
        return lost
    voids = {void.round: void for void in journal.voids()}
    # Of the last round it may not be known yet: institutions say so when they are asked for the next one.
    last = next((number for number in (journal.next_round - 1, journal.next_round - 2) if number in voids), -1)
    row = []
    while last in voids:
        row.append(voids[last])
        last -= 1
    if len(row) < MOST_VOIDS:
        return ""
    return (
        f"rounds {row[-1].round} to {row[0].round} are void: in each of them an upload {_WRONG}; whose cannot be known. "
        f"{_in_all([one.senders for one in row])} Why they passed over it stands in the institutions' own logs alone: ask "
        "them to look there and at their data. Leave one out with `dictpfl coordinator exclude NAME` (`dictpfl coordinator "
        "readmit NAME` takes it back); who has locked goes on after `dictpfl institution unlock`. Then start the run again"
    )


def require_calm(journal: Journal) -> None:
    """Stop where rounds cannot go on by themselves.

    Raises:
        RoundError: they cannot; the message says what an operator can do.
    """
    if reason := trouble(journal):
        raise RoundError(reason)


def _in_all(sums: Sequence[Sequence[str]]) -> str:
    """Say whose uploads were in each of some sums."""
    common = sorted(set(sums[0]).intersection(*sums[1:]))
    return (
        f"In all of them: {spoken(common)}." if common else "No institution that is known by name was in all of them."
    )
