"""Rounds with pairwise masks: what one upload opens to, who may be missing when, and at which step a party may die."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

import dictpfl.client.defences.reveals
from dictpfl.client.defences.masks import Masks
from dictpfl.client.institution import Institution
from dictpfl.common.ckks.keys import load_key
from dictpfl.common.ckks.opening import CKKSOpener
from dictpfl.common.ckks.parameters import GUARDS
from dictpfl.common.ckks.sealing import CKKSSealer, Sealed
from dictpfl.common.errors import ConfigError, OpeningError
from dictpfl.common.law.tags import TAGS
from dictpfl.common.messages.protocol import Stage
from dictpfl.common.messages.wire import with_words
from dictpfl.common.words import add_modulo
from dictpfl.server.agreement import Agreement
from dictpfl.server.coordinator import AGREEMENT
from tests.support.federations import encrypted
from tests.support.harness import MASK_POINTS, World, dies_after, dies_at_once, dies_before, statement
from tests.support.masked import OTHER, VICTIM, founded, opened, parsed, until, upload_of
from tests.support.opened import components_of

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, World]:
    return founded(tmp_path_factory.mktemp("templates"))


# What they are for


def decoded(world: World, upload: bytes) -> np.ndarray:
    """What who has the key can make of one upload: scaled integers with their noise, as no guard has looked at them."""
    blob, opener = parsed(world, upload), CKKSOpener(load_key(world.home(0) / "federation.key"))
    seeds = [entry.seed for entry in blob.entries]
    noisy = opener._noisy(blob.words()[:-TAGS], seeds, components_of(blob, world.genesis.parameters))
    return np.concatenate([part[:-GUARDS] for part in noisy])


def correlations(world: World) -> list[float]:
    """Of each upload of the first round, as opened by another institution, with what its maker sealed."""
    true: list[np.ndarray] = []
    real = CKKSSealer.seal

    def seal(sealer: CKKSSealer, components: np.ndarray) -> Sealed:
        true.append(components)
        return real(sealer, components)

    with mock.patch.object(CKKSSealer, "seal", seal):
        world.exchange()
    return [
        float(np.corrcoef(decoded(world, upload_of(world, node)), true[node].astype(np.float64))[0, 1])
        for node in world.nodes
    ]


@pytest.mark.parametrize("masks", [True, False])
def test_who_has_the_key_and_one_upload_has_noise(masks: bool, tmp_path: Path) -> None:
    config = encrypted(
        federation__participants=5, model__options={"hidden": [3200]}, pruning__enabled=False, defences__masks=masks
    )
    world = World.found(config, tmp_path / "world")
    found = np.abs(correlations(world))
    if masks:
        assert found.mean() < 0.02  # five deviations: noise of so many components has less in common with anything
    else:
        assert found.min() > 1 - 1e-9
    world.close()


def test_a_masked_upload_alone_is_refused_and_so_is_a_part_of_the_sum(five: World) -> None:
    five.exchange()
    uploads = [upload_of(five, node) for node in five.nodes]
    words = np.zeros_like(parsed(five, uploads[0]).words())
    for blob in uploads[:-1]:
        with pytest.raises(OpeningError):
            opened(five, blob)
        add_modulo(words, parsed(five, blob).words(), five.genesis.parameters.word_prime)
    with pytest.raises(OpeningError):
        opened(five, with_words(parsed(five, uploads[0]), words))


def test_the_same_state_with_masks_and_without(undisturbed: dict[str, bytes]) -> None:
    assert undisturbed["three"] == undisturbed["bare three"]
    assert undisturbed["five"] == undisturbed["bare"]


def test_the_same_state_in_the_larger_ring(tmp_path: Path) -> None:
    changes = {"encryption__ring_degree": 8192, "federation__rounds": 2}
    found = set()
    for masks in (True, False):
        world = World.found(encrypted(**changes, defences__masks=masks), tmp_path / str(masks))
        world.run()
        found.update(world.digests())
        world.close()
    assert len(found) == 1


def test_the_sum_is_the_same_to_the_last_byte_that_institutions_open(five: World, templates: dict[str, World]) -> None:
    """Masks leave nothing behind: uploads have the lengths that they have without, and so do sums."""
    bare = templates["bare"].copy(five.folder.parent / "bare")
    for world in (five, bare):
        world.run()
    lengths = [[len(aggregate.blob) for _, aggregate in world.journal()] for world in (five, bare)]
    assert lengths[0] == lengths[1]
    bare.close()


# Who may be missing


def test_one_who_never_delivers(five: World, templates: dict[str, World]) -> None:
    reference = templates["bare"].copy(five.folder.parent / "bare")
    for world in (five, reference):
        world.run(offline=[VICTIM])
        assert [len(aggregate.counted) for _, aggregate in world.journal()] == [4, 4, 4, 4]
    assert five.record(0).shared.digest == reference.record(0).shared.digest
    reference.close()


def test_while_a_third_does_not_deliver_nothing_is_told(five: World, templates: dict[str, World]) -> None:
    """Three of five could be asked about one sum and two, with one that colludes, about another: a sum has to hold four."""
    reference = templates["bare"].copy(five.folder.parent / "bare")
    five.exchange(offline=[VICTIM, OTHER])
    assert five.journal() == []
    assert not five.coordinator._state.unmasking.waiting
    for world in (five, reference):
        world.run(offline=[VICTIM])
    assert five.record(0).shared.digest == reference.record(0).shared.digest
    reference.close()


def test_one_who_delivered_and_never_tells(five: World, undisturbed: dict[str, bytes]) -> None:
    """Its own mask comes off by shares of it; it is in the sum. The others tell their own seeds once they have signed what is in it."""
    until(five, Stage.SHARES)
    five.exchange(offline=[VICTIM])
    assert five.journal() == []
    assert five.coordinator._unmasking.stage is Stage.SHARES
    five.exchange(offline=[VICTIM])
    assert [len(aggregate.counted) for _, aggregate in five.journal()] == [5]
    five.run()
    assert five.digest() == undisturbed["five"]


def test_two_of_five_who_do_not_tell_are_waited_for(five: World, undisturbed: dict[str, bytes]) -> None:
    """Three are fewer than the threshold: the sum stays closed, and opens once one more is back."""
    until(five, Stage.SHARES)
    five.exchange(offline=[VICTIM, OTHER])
    assert five.journal() == []
    five.kill_coordinator()
    for _ in range(2):
        five.exchange(offline=[VICTIM])
    assert [len(aggregate.counted) for _, aggregate in five.journal()] == [5]
    five.run()
    assert five.digest() == undisturbed["five"]


def test_one_missing_and_another_silent_about_it_give_the_attempt_up(five: World) -> None:
    """Streams of the missing one are known then: all uploads are masked anew, and the round loses nothing."""
    until(five, Stage.SEEDS, offline=[VICTIM])
    before = {node: upload_of(five, node) for node in (0, 1, OTHER)}
    five.exchange(offline=[OTHER, VICTIM])
    assert five.journal() == []
    five.exchange(offline=[VICTIM])
    for node, blob in before.items():
        earlier, later = parsed(five, blob), parsed(five, upload_of(five, node))
        assert later.header.attempt > earlier.header.attempt
        assert replace(later.header, attempt=earlier.header.attempt) == earlier.header
        assert later.entries == earlier.entries
        assert (later.words() != earlier.words()).mean() > 0.999
    five.run()
    five.digest()
    assert [len(aggregate.counted) for _, aggregate in five.journal()] == [4, 5, 5, 5]


def test_masking_anew_changes_nothing_below_the_masks(five: World, undisturbed: dict[str, bytes]) -> None:
    until(five, Stage.SEEDS, offline=[VICTIM])
    five.exchange(offline=[OTHER, VICTIM])
    five.run()
    assert five.digest() == undisturbed["five"], "all five delivered in the second attempt what they had trained"


def test_a_lost_journal_goes_on_from_the_attempt_that_institutions_know(
    five: World, undisturbed: dict[str, bytes]
) -> None:
    """They mask for no attempt that they have given up, and a new journal knows of none."""
    until(five, Stage.SEEDS, offline=[VICTIM])
    five.exchange(offline=[OTHER, VICTIM])
    five.exchange(offline=[VICTIM])
    assert parsed(five, upload_of(five, 0)).header.attempt > 0
    five.close()
    for path in five.coordinator_folder.glob("journal.sqlite*"):
        path.unlink()
    five.run()
    assert five.digest() == undisturbed["five"]


def test_a_lost_journal_gives_up_a_sum_that_too_many_had_signed_otherwise(five: World) -> None:
    """Four had signed a sum without the fifth: nobody opens one of all five in the same attempt."""
    until(five, Stage.SEEDS, offline=[VICTIM])
    five.close()
    for path in five.coordinator_folder.glob("journal.sqlite*"):
        path.unlink()
    five.run()
    five.digest()
    assert [len(aggregate.counted) for _, aggregate in five.journal()] == [4, 5, 5, 5], (
        "the fifth has helped to open the other"
    )


# Any step of the round

STEPS = {
    "before the upload": (0, dies_at_once),
    "upload made, reply lost": (0, lambda: dies_after(Institution, "handle")),
    "before telling": (1, dies_at_once),
    "before it is noted": (1, lambda: dies_before(dictpfl.client.defences.reveals, "write_private")),
    "noted, not told": (1, lambda: dies_after(dictpfl.client.defences.reveals, "write_private")),
    "told, reply lost": (1, lambda: dies_after(Institution, "handle")),
}


@pytest.mark.parametrize("victims", [(VICTIM,), (VICTIM, OTHER)], ids=["one", "two"])
@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step(step: str, victims: Sequence[int], five: World) -> None:
    """The round completes for the others, or is asked again with nothing lost; then the next one completes with all."""
    exchange, point = STEPS[step]
    five.exchange()
    five.exchange()
    assert len(five.journal()) == 1
    for number in range(2):
        five.exchange(dict.fromkeys(victims, point) if number == exchange else {})
    while len(five.journal()) < 2:
        five.exchange()
    five.run()
    five.digest()
    counts = [len(aggregate.counted) for _, aggregate in five.journal()]
    assert counts[1] >= 3
    assert counts[0] == counts[2] == counts[3] == 5


@pytest.mark.parametrize("name", MASK_POINTS)
@pytest.mark.parametrize("offline", [(), (VICTIM,)], ids=["all there", "one missing"])
def test_the_coordinator_dies_at_its_journal(
    name: str, offline: Sequence[int], five: World, templates: dict[str, World]
) -> None:
    five.exchange()
    five.exchange()
    for _ in range(3):
        five.exchange(offline=offline, closing=statement(five, **MASK_POINTS[name]))
    five.run()
    five.digest()
    assert all(len(aggregate.counted) >= 4 for _, aggregate in five.journal())


def test_a_coordinator_that_is_started_anew_asks_by_member(five: World, undisturbed: dict[str, bytes]) -> None:
    """Its process does not know which node is which member; numbers of nodes may even have changed."""
    until(five, Stage.SHARES)
    five.kill_coordinator()
    five.run()
    assert five.digest() == undisturbed["five"]


def test_an_old_copy_of_the_journal_with_a_sum_that_waits(five: World) -> None:
    """The round was closed long ago: institutions are ahead, and the federation goes on from their state."""
    until(five, Stage.SHARES)
    older = five.folder / "older"
    five.close()
    shutil.copytree(five.coordinator_folder, older)
    for _ in range(4):
        five.exchange()
    ahead = max(five.record(node).shared.round for node in five.nodes)
    assert ahead >= 1
    five.close()
    five.coordinator_folder = older
    five.run()
    five.digest()
    assert five.record(0).shared.round > ahead


# Bounds


@pytest.mark.parametrize(
    "changes",
    [
        {"encryption__sealer": "identity", "toy_insecure": True},
        {"federation__participants": 2},
        {"defences__mask_partners": 5},
    ],
    ids=["nothing encrypted", "two", "odd"],
)
def test_masks_where_they_cannot_be(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        encrypted(**({"defences__masks": True, "toy_insecure": True, "federation__min_participants": 2} | changes))


def test_the_coordinators_folder_knows_no_key_of_masks(five: World) -> None:
    five.run()
    data = b"".join(path.read_bytes() for path in five.coordinator_folder.iterdir())
    for node in five.nodes:
        held = five.institution(node)._masks
        assert isinstance(held, Masks)
        own = held._pairs.own
        secrets = [own.receiving.private_bytes_raw(), own.signing.private_bytes_raw(), *held._pairs.secrets.values()]
        assert all(secret not in data and secret.hex().encode() not in data for secret in secrets)
    assert Agreement.load(five.coordinator_folder / AGREEMENT).masks


def test_a_circle_smaller_than_everybody(tmp_path: Path) -> None:
    """Eight institutions with six partners each, one of them missing, one silent."""
    many = {"federation__participants": 8, "federation__rounds": 2, "data__limit": 300}
    world = World.found(encrypted(**many, defences__masks=True, defences__mask_partners=6), tmp_path / "masked")
    bare = World.found(encrypted(**many), tmp_path / "bare")
    for each in (world, bare):
        each.exchange(offline=[1])
    for stage, offline in ((Stage.AGREE, [1, 6]), (Stage.SEEDS, [1]), (Stage.SHARES, [1, 6])):
        assert world.coordinator._unmasking.stage is stage
        world.exchange(offline=offline)
    assert [len(aggregate.counted) for _, aggregate in world.journal()] == [7]
    for stage in (Stage.AGREE, Stage.SHARES):
        world.exchange()
        assert world.coordinator._unmasking.stage is stage, "nothing is told unsigned, though nobody is missing"
    for each in (world, bare):
        each.run()
    assert world.digest() == bare.digest()
    world.close()
    bare.close()
