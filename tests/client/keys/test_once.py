"""Equal agreements and states are one object, others are not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dictpfl.client.keys.once import one_genesis, one_state
from dictpfl.common.genesis import Genesis
from dictpfl.deploy.simulation.founding import found
from tests.support.federations import encrypted


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return found(encrypted(), tmp_path_factory.mktemp("world") / "world").home(0)


def test_equal_agreements_are_one(folder: Path) -> None:
    first, second = one_genesis(Genesis.load(folder)), Genesis.load(folder)
    assert one_genesis(second) is first


@pytest.mark.parametrize("what", ["fingerprint", "epoch_seed", "parameters", "config"])
def test_agreements_that_differ_in_what_the_federation_id_leaves_out_are_two(what: str, folder: Path) -> None:
    first = one_genesis(Genesis.load(folder))
    changed: dict[str, Any] = {
        "fingerprint": b"f" * 32,
        "epoch_seed": b"e" * 32,
        "parameters": replace(first.parameters, word_bits=first.parameters.word_bits + 1),
        "config": first.config.model_copy(update={"name": "another"}),
    }
    other = replace(first, **{what: changed[what]})
    assert other.federation == first.federation
    assert one_genesis(other) is other


def test_states_are_one_only_if_all_that_the_next_round_depends_on_is_equal(folder: Path) -> None:
    genesis = Genesis.load(folder)
    first = one_state(genesis.start())
    assert one_state(genesis.start()) is first
    later = replace(first, round=1)
    assert one_state(later) is later
    acknowledged = replace(first, acknowledged=b"a" * 32)
    assert acknowledged.digest == first.digest
    assert one_state(acknowledged) is acknowledged
