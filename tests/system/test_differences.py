"""Two sums of the same state with other members in them: what masks do not hide, and docs/threat-model.md says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from numpy.typing import NDArray

from dictpfl.client.folder import KEY
from dictpfl.common.ckks.keys import load_key
from dictpfl.common.ckks.opening import CKKSOpener
from dictpfl.common.genesis import components
from dictpfl.common.law.finishing import carried
from dictpfl.common.law.round import begin
from dictpfl.common.law.tags import TAGS
from dictpfl.common.messages.protocol import Aggregate, RoundKind
from dictpfl.common.messages.wire import Blob
from dictpfl.server.journal import Journal
from dictpfl.server.rows import ClosedRound
from tests.support.federations import encrypted
from tests.support.harness import World
from tests.system.test_refused_sums import altered

pytestmark = pytest.mark.usefixtures("quiet")
VICTIM = 3


def alike(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Cosine of the angle between two vectors."""
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def test_a_void_round_asked_again_without_somebody_tells_that_ones_update_nearly(tmp_path: Path) -> None:
    """With masks on: a coordinator keeps the true sum, shows an altered one, and an institution helps it to open both.

    What the others owe of the void round is in the second sum, and so is the same once more, where a step takes all samples. If it no longer
    succeeds, the threat model is to be mended.
    """
    config = encrypted(defences__masks=True, federation__participants=4, training__batch_size=4096)
    world, sums, own = World.found(config, tmp_path / "world"), list[bytes](), list[NDArray[np.float64]]()
    bits, real = world.genesis.parameters.word_bits, Journal.record

    def record(journal: Journal, closed: ClosedRound, aggregate: Aggregate) -> None:
        sums.append(aggregate.blob)
        if len(sums) == 1:
            pending = world.record(VICTIM).pending
            assert pending is not None
            own.append(pending.missed.values - pending.counted.values)
            aggregate = replace(aggregate, blob=altered(aggregate.blob, bits))
        real(journal, closed, aggregate)

    with mock.patch.object(Journal, "record", record):
        while len(sums) < 2:
            assert world.exchanges < 12
            world.exchange(offline=[VICTIM] if sums else [])
    opener, genesis, opened = CKKSOpener(load_key(world.home(0) / KEY)), world.genesis, list[NDArray[np.float64]]()
    state = genesis.start()
    for blob in (Blob.own(data, bits) for data in sums):
        plan = begin(genesis.law, state, RoundKind.UPDATE)
        seeds, clear = [entry.seed for entry in blob.entries], np.zeros(0, dtype=np.int64)
        found = opener.open(blob.words()[:-TAGS], seeds, components(genesis, plan))
        opened.append(carried(genesis.law, plan, found, clear))
        state = state.void(score=False)
    assert alike(opened[0] - opened[1] / 2, own[0]) > 0.98
    assert alike(opened[0], own[0]) < 0.9, "or any sum tells it"
    world.close()
