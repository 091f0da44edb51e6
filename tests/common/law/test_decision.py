"""Score rounds: what is opened becomes the next shared state, alike everywhere; nonsense is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError, RoundError
from dictpfl.common.law.decision import DECISIONS, Scored
from dictpfl.common.law.finishing import finish
from dictpfl.common.law.layout import Kind, Layout
from dictpfl.common.law.ledger import Ledger
from dictpfl.common.law.round import Law, begin, facts, seal_update
from dictpfl.common.law.state import SharedState
from dictpfl.common.law.stored import of_bytes, to_bytes
from dictpfl.common.law.tally import Tallied, Tally
from dictpfl.common.messages.protocol import RoundKind
from dictpfl.common.rounds import CLEAR_LEAST, Aggregation, Grid, Pruning

FEDERATION = b"\x09" * 32
LAYOUT = Layout.of([("w", (2, 3), Kind.TABLE), ("b", (2,), Kind.DENSE)])
SCORES = (np.array([4.0, 1, 3, 2, 0.5, 0.25, 8, 2]) / 8, np.array([0.0, 1, 1, 0, 0.5, 0.25, 0, 2]) / 8)


class Halve:
    """Halves what matters least, and nothing else."""

    def decide(self, state: SharedState, scored: Scored) -> SharedState:
        assert scored.weight == 2.0
        low = scored.scores < np.median(scored.scores)
        return replace(state, values=np.where(low, state.values / 2, state.values))


class Break:
    """Forgets half of the vector."""

    def decide(self, state: SharedState, scored: Scored) -> SharedState:
        return replace(state, values=state.values[: scored.layout.size // 2])


class Unlearn:
    """Forgets what the server-side rule remembers."""

    def decide(self, state: SharedState, scored: Scored) -> SharedState:
        return replace(state, moments=())


class Invent:
    """Adds sums that nobody sent."""

    def decide(self, state: SharedState, scored: Scored) -> SharedState:
        return replace(state, tallies=(Tallied("votes", "opening", 3, 9, np.zeros(2, np.int64)),))


def law(decision: str, rounds: int = 1) -> Law:
    return Law(
        layout=LAYOUT, pruning=Pruning(), grid=Grid(first_range=4.0), seed=b"\x07" * 32, federation=FEDERATION, capacity=3,
        payload_bits=50, sample_cap=4, decision=decision, score_rounds=rounds,
    )  # fmt: skip


def scored(agreed: Law, state: SharedState) -> SharedState:
    """Shared state after a score round of two institutions of weight one."""
    plan, parts = begin(agreed, state, RoundKind.SCORE), []
    for scores in SCORES:
        ledger = Ledger(1, 4, 0.0, 0, 0.0, 0.0, np.zeros(0, np.int64))
        parts.append(seal_update(agreed, plan, scores, ledger).components)
    after, _ = finish(agreed, state, plan, sum(parts), np.zeros(0, np.int64), contributors=2)
    return after


def test_a_decision_sees_exact_sums_and_changes_shared_state() -> None:
    agreed = law(f"{__name__}:Halve")
    before = agreed.start(np.ones(8))
    after = scored(agreed, before)
    total = SCORES[0] + SCORES[1]
    np.testing.assert_array_equal(after.values, np.where(total < np.median(total), 0.5, 1.0))
    assert (after.round, after.updates) == (1, 0)
    np.testing.assert_array_equal(after.scores, [total[:6].mean() / 2, total[6:].mean() / 2])
    assert facts(agreed, after).scores == {"w": after.scores[0], "b": after.scores[1]}
    assert before.scores is None


def test_scores_are_part_of_the_digest_and_of_what_is_stored() -> None:
    agreed = law(f"{__name__}:Halve")
    after = scored(agreed, agreed.start(np.ones(8)))
    assert after.scores is not None
    assert replace(after, scores=after.scores * 2).digest != after.digest
    again = of_bytes(to_bytes(after, FEDERATION), FEDERATION, LAYOUT)
    assert again.digest == after.digest
    np.testing.assert_array_equal(again.scores, after.scores)
    wrong = replace(after, scores=np.ones(3))
    with pytest.raises(ConfigError):
        of_bytes(to_bytes(wrong, FEDERATION), FEDERATION, LAYOUT)


def test_the_built_in_decision_leaves_the_state_s_form_as_it_was() -> None:
    agreed = replace(law(CLEAR_LEAST), sealed_share=0.5)
    after = scored(agreed, agreed.start(np.ones(8)))
    assert after.scores is None
    assert after.clear is not None
    assert after.clear.sum() == 4


def test_a_decision_that_breaks_the_state_is_refused() -> None:
    agreed = law(f"{__name__}:Break")
    before = agreed.start(np.ones(8))
    with pytest.raises(
        RoundError, match=r"the decision '.*Break' returned a shared state that is not one of this layout"
    ):
        scored(agreed, before)
    assert before.round == 0
    votes = Tally("votes", Layout.of([("v", (2,), Kind.DENSE)]), 4, 4, "opening")
    agreed = replace(law(f"{__name__}:Invent"), tallies=(votes,))
    with pytest.raises(RoundError, match=r"the decision '.*Invent' returned"):
        scored(agreed, agreed.start(np.ones(8)))
    agreed = replace(law(f"{__name__}:Unlearn"), aggregation=Aggregation(rule="adam"))
    with pytest.raises(RoundError, match=r"the decision '.*Unlearn' returned"):
        scored(agreed, agreed.start(np.ones(8)))


def test_what_a_configuration_says_of_score_rounds() -> None:
    assert (FederationConfig().decision, FederationConfig().score_rounds) == ("", 0)
    selective = FederationConfig.of({}, {"method": "fedml-he", "toy_insecure": True})
    assert (selective.decision, selective.score_rounds) == (CLEAR_LEAST, 1)
    asked = FederationConfig.of({}, {"scores.decision": "mine:Choice", "scores.rounds": 3})
    assert (asked.decision, asked.score_rounds) == ("mine:Choice", 3)
    with pytest.raises(
        ConfigError, match=r"scores.decision is 'x:Y', but encryption.sealed_share = 0.1 decides by scores"
    ):
        FederationConfig.of({}, {"method": "fedml-he", "toy_insecure": True, "scores.decision": "x:Y"})
    private = {"privacy.mechanism": "example", "privacy.epsilon": 8.0, "scores.decision": "x:Y"}
    with pytest.raises(ConfigError, match="which no epsilon counts"):
        FederationConfig.of({}, private)
    with pytest.raises(ConfigError, match=r"scores.decision: 'nothing' is unknown; known: clear-least"):
        DECISIONS.load("nothing")
