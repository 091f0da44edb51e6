"""Each party's view is what it has and no more; recording changes nothing; two together open what one cannot."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from common.config import FederationConfig
from common.errors import ConfigError, DictPFLError
from common.keys import load_key
from common.polynomials import first_polynomial
from common.protocol import RoundKind
from common.wire import UPLOAD, Header, write
from deploy.engines.local import run_local
from deploy.founding import found
from deploy.privacy.collusion import collusion_attack, collusion_finding, pry
from deploy.privacy.observations import in_collusion, of_the_others, on_the_wire, residues
from deploy.privacy.stage import Stage, play
from deploy.privacy.views import InstitutionView, OutsiderView, ServerView
from server.recording import EVENTS, RECORDING

pytestmark = pytest.mark.usefixtures("quiet")


def test_recording_changes_nothing(
    encrypted_stage: Stage, tiny: Callable[..., FederationConfig], tmp_path: Path
) -> None:
    founded = found(tiny(), tmp_path)
    run_local(founded.coordinator, founded.sites, 3)
    plain = Stage(tmp_path)
    assert plain.auditor.state.digest == encrypted_stage.auditor.state.digest
    assert plain.server.uploads == ()
    assert len(plain.server.aggregates) == len(encrypted_stage.server.aggregates) == 3  # a measurement at the end


def test_the_coordinator_sees_every_upload_and_its_times(encrypted_stage: Stage) -> None:
    view = encrypted_stage.server
    assert len(view.uploads) == 9
    assert {seen.kind for seen in view.uploads} == {RoundKind.UPDATE, RoundKind.MEASURE}
    assert all(seen.answered >= seen.asked > 0 for seen in view.uploads)
    for number in range(3):
        counted = set(view.aggregates[number].counted)
        uploads = view.uploads_of(number).values()
        assert len(counted) == len(uploads) == 3
        assert all(any(mark in seen.blob[:232] for mark in counted) for seen in uploads)
    events = encrypted_stage.folder / "coordinator" / RECORDING / EVENTS
    assert {json.loads(line)["event"] for line in events.read_text().splitlines()} == {"asked", "answered"}


def test_the_coordinators_view_holds_no_key(encrypted_stage: Stage) -> None:
    secret = load_key(encrypted_stage.site(0) / "federation.key").secret[96:]
    view = encrypted_stage.server
    everything = repr(view.agreement).encode() + b"".join(seen.blob for seen in view.uploads)
    everything += b"".join(aggregate.blob for aggregate in view.aggregates.values())
    assert not any(secret[at : at + 16] in everything for at in range(0, len(secret) - 16, 16))


def test_two_together_open_exactly_what_was_added(encrypted_stage: Stage) -> None:
    view = encrypted_stage.collusion
    for number, opened in view.institution.sums.items():
        parts = [view.open(seen) for seen in view.server.uploads_of(number).values()]
        np.testing.assert_array_equal(sum(update for update, _ in parts), opened.total)
        assert sum(ledger.samples for _, ledger in parts) == opened.ledger.samples
        assert all(ledger.participants == 1 for _, ledger in parts)


def test_what_is_recovered_is_the_gradient_of_the_true_batch(plain_stage: Stage, encrypted_stage: Stage) -> None:
    """The experimenter's truth, the model before the round and the decoding agree: a wrong one would look like privacy."""
    for stage in (plain_stage, encrypted_stage):
        number = stage.update_rounds[0]
        matcher = stage.matcher(number)
        victims = stage.victims(number)
        assert [v.index for v in victims] == [0, 1, 2]
        for victim in victims:
            seen = in_collusion(stage.collusion, victim.seen) if stage is encrypted_stage else on_the_wire(
                stage.genesis, stage.auditor.sums[number].plan, victim.seen
            )  # fmt: skip
            x = torch.from_numpy(np.stack([b.features for b in victim.batches])).double()[None]
            y = torch.nn.functional.one_hot(torch.from_numpy(np.stack([b.labels for b in victim.batches])), 10)[None]
            truth = matcher.updates(x, y.double())[0]
            found = matcher.observed(seen.update, victim.weight)
            assert seen.real
            assert float((found - truth).norm() / truth.norm()) < 2e-3


def test_the_coordinator_takes_ciphertexts_for_numbers_in_vain(encrypted_stage: Stage) -> None:
    number = encrypted_stage.update_rounds[0]
    plan = encrypted_stage.auditor.sums[number].plan
    for victim in encrypted_stage.victims(number):
        seen = on_the_wire(encrypted_stage.genesis, plan, victim.seen)
        truth = in_collusion(encrypted_stage.collusion, victim.seen)
        assert not seen.real
        assert seen.known.all()
        # Five deviations of what noise has in common with anything.
        assert abs(np.corrcoef(seen.update, truth.update)[0, 1]) < 5 / np.sqrt(truth.update.size)


def test_a_ciphertexts_numbers_look_uniform(encrypted_stage: Stage) -> None:
    """So that an attack on them is an attack on what is there, not on a header read by mistake."""
    blob = encrypted_stage.server.uploads[0].blob
    length = encrypted_stage.genesis.upload_length
    numbers = residues(memoryview(blob)[232 : 232 + length], length, encrypted_stage.genesis.parameters)
    assert numbers.size > 4000
    assert abs(numbers.astype(float).mean()) < 6 * 2**encrypted_stage.genesis.parameters.payload_bits / np.sqrt(
        12 * numbers.size
    )
    assert len(np.unique(numbers)) == numbers.size


def test_an_institution_sees_sums_and_subtracts_itself(encrypted_stage: Stage) -> None:
    view = InstitutionView.read(encrypted_stage.site(1), encrypted_stage.server.aggregates.values())
    assert view.state.digest == encrypted_stage.auditor.state.digest
    number = encrypted_stage.update_rounds[0]
    own, *others = [in_collusion(encrypted_stage.collusion, v.seen).update for v in encrypted_stage.victims(number)]
    np.testing.assert_array_equal(of_the_others(view, number, own).update, sum(others))
    assert not hasattr(view, "uploads")


def test_a_view_of_nothing_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        ServerView.read(tmp_path)
    with pytest.raises(ConfigError, match="cannot read a model"):
        OutsiderView.read(tmp_path / "model.safetensors")


def test_who_saw_what_is_counted_from_the_recording(encrypted_stage: Stage, plain_stage: Stage) -> None:
    rows = {(seen.party, seen.what): seen for seen in encrypted_stage.seen()}
    uploads = rows["server", "uploads, encrypted"]
    assert uploads.count == 9
    assert uploads.bytes == sum(len(seen.blob) for seen in encrypted_stage.server.uploads)
    assert not uploads.readable
    assert any(seen.readable and seen.bytes for seen in plain_stage.seen() if seen.party == "server")


def test_the_collusion_attack_opens_another_institution_whole(encrypted_stage: Stage) -> None:
    pried = collusion_attack(encrypted_stage)
    assert [one.victim for one in pried] == [1, 2]
    for one in pried:
        assert one.passes
        assert one.correlation > 0.999
        assert one.largest <= 0.5 + 1e-6
    finding = collusion_finding(encrypted_stage, "dictpfl")
    assert finding.verdict == "succeeds"
    assert finding.more["exact to the last digit sent"] == 1.0


def test_prying_gets_noise_out_of_what_was_altered(encrypted_stage: Stage) -> None:
    """Where the ciphertext carries something else besides, the attack must say so and not fail: as with pairwise masks."""
    number = encrypted_stage.update_rounds[0]
    victim = encrypted_stage.victims(number)[1]
    header = Header(UPLOAD, victim.seen.kind, number, encrypted_stage.genesis.federation, encrypted_stage.genesis.fingerprint,
                    bytes(32), bytes(16))  # fmt: skip
    length = encrypted_stage.genesis.upload_length
    items = [bytearray(victim.seen.blob[i : i + length]) for i in range(232, len(victim.seen.blob), length)]
    for item in items:
        first_polynomial(item, encrypted_stage.genesis.parameters)[:] = np.random.default_rng(0).integers(
            0, 2**59, encrypted_stage.genesis.parameters.ring_degree, dtype=np.uint64
        )
    altered = replace(victim.seen, blob=write(header, [bytes(item) for item in items]))
    with pytest.raises(DictPFLError):
        encrypted_stage.collusion.open(altered)
    pried = pry(encrypted_stage.collusion, altered)
    truth = in_collusion(encrypted_stage.collusion, victim.seen).update
    assert abs(np.corrcoef(pried, truth)[0, 1]) < 5 / np.sqrt(truth.size)


def test_masks_leave_two_together_with_noise(tiny: Callable[..., FederationConfig], tmp_path: Path) -> None:
    """The same attack on the same run, with pairwise masks on."""
    masked = play(tiny(defences__masks=True), tmp_path)
    for one in collusion_attack(masked):
        assert not one.passes
        assert abs(one.correlation) < 0.15  # a few hundred values; the benchmark of defences has more
    assert collusion_finding(masked, "dictpfl with masks").verdict != "succeeds"
