"""decomposition.allocator = "energy": a rank for each weight by how fast its singular values fall."""

from collections.abc import Mapping

from dictpfl.common.law.facts import Facts


class EnergyAllocator:
    """Gives a weight the rank that keeps half of its energy, at most the configured one."""

    def ranks(self, facts: Facts, rank: int) -> Mapping[str, int]:
        """Rank by weight name."""
        return {name: min(rank, self._half(facts, name)) for name in facts.shapes}

    def _half(self, facts: Facts, name: str) -> int:
        energy = facts.spectra[name] ** 2
        return max(1, int((energy.cumsum() < energy.sum() / 2).sum()) + 1)
