"""The coordinator's app and what it has Flower do."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, ObjectUnavailableError, pull_objects

from dictpfl.server.app import give_up_fetching


@pytest.fixture
def defaults() -> Iterator[dict[str, object]]:
    """Flower's own, put back afterwards."""
    kept = dict(pull_objects.__kwdefaults__)
    yield pull_objects.__kwdefaults__
    pull_objects.__kwdefaults__.update(kept)


def test_a_reply_that_broke_off_is_not_waited_for_beyond_the_deadline(defaults: dict[str, object]) -> None:
    """Flower would ask five hundred times, or two hours."""

    def never(_object: str) -> bytes:
        raise ObjectUnavailableError("part")

    defaults["initial_backoff"] = 0.05
    give_up_fetching(0.2)
    began = time.monotonic()
    with pytest.raises(ObjectPullError):
        pull_objects(["part"], never)
    assert 0.2 <= time.monotonic() - began < 3
