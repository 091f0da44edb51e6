"""Time on a network: measured work and measured bytes, and a model of what lies between an institution and the coordinator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from lib.simulated import PHASES


@dataclass(frozen=True)
class Network:
    """What an institution is connected by: `bits` a second each way, and the seconds of a `round_trip`."""

    name: str
    bits: float
    round_trip: float


NETWORKS = (
    Network("1 Gbps, 1 ms", 1e9, 0.001),
    Network("100 Mbps, 20 ms", 1e8, 0.02),
    Network("20 Mbps, 50 ms", 2e7, 0.05),
)
LAN, WAN = NETWORKS[0], NETWORKS[2]
TRIPS = 5
"""Round trips of a round: hear that there is a message (docs/decisions/0014), ask for it, fetch its content, announce the reply, hand over its
content."""
TASK_POLL, COORDINATOR_POLL = 0.25, 1.0
"""Longest pause between two looks inside one machine, seconds: of the task that `deploy/operations/places.py` starts, and of
`server/strategy.py`."""


def waiting(participants: int) -> float:
    """Seconds that a round of a deployment waits because somebody looks only now and then, as a mean.

    Institutions look at moments of their own, and the round waits for the last of n: n / (n + 1) of the interval.
    """
    return participants / (participants + 1) * TASK_POLL + COORDINATOR_POLL / 2


def phases(figures: Mapping[str, Any], network: Network) -> dict[str, float]:
    """Seconds of a round by part: the measured phases (median round), and sending (mean round) on a network."""
    sent = [up + down for up, down in zip(figures["up_by_round"], figures["down_by_round"], strict=True)]
    found = {phase: float(figures["median_seconds"][phase]) for phase in PHASES}
    return {
        **found,
        "send": 8 * sum(sent) / len(sent) / network.bits,
        "latency, polling": TRIPS * network.round_trip + waiting(figures["participants"]),
    }


def ends(figures: Mapping[str, Any], network: Network) -> list[float]:
    """Seconds from the start to the end of each update round; a score round comes before the first, and before every so-many-th after it."""
    of_round = phases(figures, network)
    rest = sum(seconds for part, seconds in of_round.items() if part != "send")
    scores = [one for one in figures["others"] if one["kind"] == "score"]
    told = [8 * (one["up"] + one["down"]) / network.bits + of_round["latency, polling"] for one in scores]
    every = figures.get("rescored_every", 0)
    before = {number * every: seconds for number, seconds in enumerate(told)} if every else {0: sum(told)}
    rounds = zip(figures["up_by_round"], figures["down_by_round"], strict=True)
    return [
        *accumulate(
            before.get(number, 0.0) + rest + 8 * (up + down) / network.bits for number, (up, down) in enumerate(rounds)
        )
    ]


def seconds_to(figures: Mapping[str, Any], target: float, network: Network) -> float | None:
    """Seconds until the test figure first reaches the target, %; None: never."""
    for seconds, accuracy in zip(ends(figures, network), figures["accuracy_by_round"], strict=True):
        if accuracy is not None and accuracy >= target:
            return seconds
    return None


def common_target(runs: Sequence[Mapping[str, Any]]) -> float:
    """The highest whole percent that every run reaches, of the rounds in which it was measured."""
    reached = (max(accuracy for accuracy in run["accuracy_by_round"] if accuracy is not None) for run in runs)
    return float(int(min(reached)))
