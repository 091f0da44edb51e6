"""A ceremony's parties, made through the command line where that is what is tested, else through its functions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import dictpfl.client.keys.vault
from tests.support.ceremonies import Ceremony


@pytest.fixture(scope="session", autouse=True)
def _cheap_passphrases() -> Iterator[None]:
    """Hundreds of derivations: one cheap pass each. The true cost is tested in test_identity.py."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(dictpfl.client.keys.vault, "_COST", {"iterations": 1, "lanes": 1, "memory_kib": 64})
        yield


@pytest.fixture(scope="session")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Ceremony:
    """Three institutions with identities, and their bundles; not to be changed: `copy` it."""
    return Ceremony.found(tmp_path_factory.mktemp("ceremony"))


@pytest.fixture
def ceremony(founded: Ceremony, tmp_path: Path) -> Ceremony:
    """A copy of it."""
    return founded.copy(tmp_path / "ceremony")
