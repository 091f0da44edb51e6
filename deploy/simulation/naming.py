"""Names of a simulation's nodes, told to the coordinator where it draws by names whom a round asks.

A deployment names nodes when it admits their keys. Numbers of nodes will not do for a draw: each engine has others, and
Flower's runtime draws new ones whenever it starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dictpfl.client.folder import InstitutionSettings
from dictpfl.server.agreement import Agreement
from dictpfl.server.coordinator import AGREEMENT, open_journal


def draws_by_name(coordinator: Path) -> bool:
    """Tell whether the federation of a coordinator's folder asks a sample."""
    return (coordinator / AGREEMENT).exists() and Agreement.load(coordinator / AGREEMENT).sample > 0


def name_nodes(coordinator: Path, institutions: Path, nodes: Sequence[int]) -> None:
    """Note in the coordinator's journal which node is which institution.

    Args:
        coordinator: folder of the coordinator.
        institutions: folder with institution-000 and so on.
        nodes: number of the node of each institution, in their order.
    """
    names = {
        node: InstitutionSettings.load(institutions / f"institution-{index:03d}").name
        for index, node in enumerate(nodes)
    }
    journal = open_journal(coordinator, Agreement.load(coordinator / AGREEMENT))
    try:
        journal.name_nodes(names)
    finally:
        journal.close()
