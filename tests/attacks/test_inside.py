"""F6: one institution's nonsense, and notes in another's name, in federations of protocols 3 and 4."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from tests.attacks.protocol3 import Institution, Rules, Sum, added, federation


@dataclass
class Coordinator:
    """An honest coordinator of the miniature: it sends what an institution lacks, and adds what it gets."""

    journal: list[Sum] = field(default_factory=list)

    def exchange(self, members: list[Institution], samples: dict[int, int] | None = None) -> list[str]:
        """One exchange; returns the last answer of each. `samples`: what institutions claim."""
        codes = [self._caught_up(member) for member in members]
        ready = [member for member in members if member.round == len(self.journal)]
        uploads = [member.upload(samples=(samples or {}).get(member.member, 100)) for member in ready]
        if len(uploads) >= members[0].rules.minimum:
            self.journal.append(added(uploads))
        return codes

    def _caught_up(self, member: Institution) -> str:
        code = ""
        while code in ("", "void") and member.round < len(self.journal):
            code = member.ask(self.journal[member.round])
        return code


@pytest.mark.parametrize("protocol", [3, 4])
def test_f6_nonsense_from_inside(protocol: int) -> None:
    """A ledger with -100,000 samples, sealed and tagged as it should be: nobody outside can tell whose it is."""
    members, coordinator = federation(Rules(protocol)), Coordinator()
    coordinator.exchange(members)
    coordinator.exchange(members, {1: -100_000})
    codes = [coordinator.exchange(members) for _ in range(5)]
    positions = {member.round for member in members}
    if protocol == 3:
        assert codes == [["round"] * 3] * 5, "F6: refused by all, for ever"
        assert positions == {1}
    else:
        assert codes == [["void"] * 3, *[[""] * 3] * 4]
        assert positions == {6}
        assert len({member.model.tobytes() for member in members}) == 1
        owed = sum(update for member in members for update in member.trained[:-1])
        assert (members[0].model == owed).all(), "what the void round held was delivered later, once"


@pytest.mark.parametrize("protocol", [3, 4])
def test_f6_a_void_round_is_no_refusal(protocol: int) -> None:
    """Nonsense with a right tag is not the coordinator's doing: it does not count towards the lock."""
    members, coordinator = federation(Rules(protocol)), Coordinator()
    for _ in range(8):
        coordinator.exchange(members, {1: -100_000})
    assert {member.refused for member in members} == {0}
    assert {member.round for member in members} == {0 if protocol == 3 else 7}
