"""F6 and F7 against the product: one institution's nonsense, names that are others', and a memory that was restored."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

from dictpfl.common.law.ledger import Ledger
from dictpfl.common.messages.masks import SHARE_NONCE, Note, attempt_bytes
from dictpfl.common.messages.protocol import Status
from dictpfl.common.messages.wire import Blob, write
from tests.attacks.shown import VICTIM
from tests.support.harness import World

pytestmark = pytest.mark.usefixtures("quiet", "at_once")
# F6


@contextmanager
def lying() -> Iterator[None]:
    """This institution's ledger claims -100,000 samples."""
    with mock.patch("dictpfl.client.uploading.Ledger", lambda one, _samples, *rest: Ledger(one, -100_000, *rest)):
        yield


@pytest.mark.parametrize("name", ["three", "five", "masked"])
def test_f6_a_round_of_nonsense_is_void_and_the_federation_goes_on(
    name: str, templates: dict[str, World], tmp_path: Path
) -> None:
    world = templates[name].copy(tmp_path / "world")
    journal = world.coordinator._journal
    while journal.next_round < 2:
        world.exchange()
    while journal.next_round == 2:
        world.exchange(during={1: lying})
    replies = world.exchange()
    assert [reply.code for reply in replies.values()] == ["void"] * len(world.nodes)
    assert {(state.round, state.updates) for state in world.states()} == {(3, 2)}
    world.digest()
    world.run()
    world.digest()
    world.close()


def test_f6_a_void_round_is_made_up_for(templates: dict[str, World], tmp_path: Path) -> None:
    world = templates["three"].copy(tmp_path / "world")
    world.exchange(during={1: lying})
    world.run()
    assert {state.updates for state in world.states()} == {world.genesis.config.federation.rounds}
    world.close()


@pytest.mark.parametrize(("name", "upload"), [("masked", False), ("masked", True), ("five", True)])
def test_f6_a_name_that_is_anothers_displaces_nobody(
    name: str, *, upload: bool, templates: dict[str, World], tmp_path: Path
) -> None:
    """An institution sends its note, or its whole upload, as another member's, before that one has sent its own."""
    world = templates[name].copy(tmp_path / "world")
    # As a deployment does: it admits each node's key under the name of the member that the node is.
    world.coordinator._journal.name_nodes(dict(enumerate(world.coordinator._agreement.members)))
    requests = world.coordinator.begin(world.nodes)
    replies = {node: world.institution(node).handle(request) for node, request in requests.items()}
    bits = world.genesis.parameters.word_bits
    victims, own = (Blob.own(replies[node].blob, bits) for node in (VICTIM, 1))
    member, lie = victims.entries[0].member, replies[1]
    if lie.defence:
        lie = replace(lie, defence=replace(Note.of_bytes(lie.defence), member=member).to_bytes())
    if upload:
        entries = [replace(own.entries[0], member=member)]
        lie = replace(lie, blob=write(own.header, entries, own.words(), bits, bytes(own.clear)))
    world.coordinator.receive(1, lie)
    for node in (0, 2, 3, 4):
        world.coordinator.receive(node, replies[node])
    assert set(world.coordinator.rejected) == {1}
    world.close_exchange()
    world.run()
    assert world.journal_of(0).counted == tuple(
        sorted(Blob.own(replies[n].blob, bits).entries[0].upload_id for n in (0, 2, 3, 4))
    )
    world.digest()
    world.close()


# F7


def test_f7_no_nonce_serves_two_shares_after_a_restore(templates: dict[str, World], tmp_path: Path) -> None:
    """Memory is restored to what it was before another attempt was written: shares are drawn anew, and so are their nonces."""
    world = templates["masked"].copy(tmp_path / "world")
    request = world.coordinator.begin(world.nodes)[VICTIM]
    assert world.institution(VICTIM).handle(request).status is Status.UPLOAD
    memory, backup = world.home(VICTIM) / "memory", tmp_path / "backup"
    shutil.copytree(memory, backup)
    again = replace(request, defence=attempt_bytes(1))
    first = world.institution(VICTIM).handle(again)
    world.kill_institution(VICTIM)
    shutil.rmtree(memory)
    shutil.copytree(backup, memory)
    second = world.institution(VICTIM).handle(again)
    assert first.status is second.status is Status.UPLOAD
    assert first.blob == second.blob
    before, after = (Note.of_bytes(reply.defence).partners for reply in (first, second))
    assert set(before) == set(after)
    for holder, partner in before.items():
        shares = (partner.share, after[holder].share)
        assert shares[0] == shares[1] or shares[0][:SHARE_NONCE] != shares[1][:SHARE_NONCE], (
            "F7: two messages under one key and nonce"
        )
    world.close()
