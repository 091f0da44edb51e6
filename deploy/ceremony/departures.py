"""Studies on a party's network, and members of them who left it: the coordinator looks, too, so nothing here can open a ciphertext."""

from __future__ import annotations

from pathlib import Path

from dictpfl.deploy.app import pinned
from dictpfl.deploy.ceremony.pinning import PINNED
from dictpfl.deploy.ceremony.terms import TERMS, in_force

STUDIES = "studies"
"""Folder in a party's folder with one for each study on its network."""


def study_folders(folder: Path) -> list[Path]:
    """List the folders of a party's studies."""
    return sorted(path for path in (folder / STUDIES).glob("*") if path.is_dir())


def is_study(folder: Path) -> bool:
    """Tell whether a folder is that of a study on a network: it has no identity and no rotation of its own."""
    place = folder.resolve()
    return place.parent.name == STUDIES and (place.parents[1] / PINNED).exists()


def departed(study: Path) -> list[str]:
    """Name the members of a study, by its terms, that are not members of its network any more: they have its key.

    Args:
        study: its folder, at an institution or the coordinator; where there are no terms, as at an authority, nobody is named.

    Raises:
        BundleError: terms that are here were altered.
    """
    party = study.parent.parent
    homes = {folder: pinned.home(folder) for folder in (study, party)}
    if not all((home / TERMS).exists() for home in homes.values()):
        return []
    of, network = (in_force(folder, home) for folder, home in homes.items())
    if of is None or network is None:
        return []
    there = {name: member.identity for name, member in network.members.items()}
    return sorted(name for name, member in of.members.items() if there.get(name) != member.identity)


def ended_studies(party: Path) -> dict[str, list[str]]:
    """Name a party's studies with members who left the network, and those members."""
    return {study.name: left for study in study_folders(party) if (left := departed(study))}
