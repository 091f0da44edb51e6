"""Each party's view is what it has and no more; recording changes nothing; two together open what one cannot."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dictpfl.client.folder import GENESIS_WEIGHTS
from dictpfl.common.ckks.keys import load_key
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError, DictPFLError
from dictpfl.common.messages.protocol import RoundKind
from dictpfl.common.messages.wire import Blob, with_words
from dictpfl.deploy.attacks.gradient_model import Matcher
from dictpfl.deploy.attacks.observations import Observation, in_clear, in_collusion, of_the_others
from dictpfl.deploy.attacks.published.collusion import collusion_attack, collusion_finding, pry
from dictpfl.deploy.attacks.recorded import RecordedRun, Victim, play
from dictpfl.deploy.attacks.views import InstitutionView, OutsiderView, ServerView
from dictpfl.deploy.simulation.founding import found
from dictpfl.deploy.simulation.local import run_local
from dictpfl.server.recording import EVENTS, RECORDING
from tests.support.federations import encrypted

pytestmark = pytest.mark.usefixtures("quiet")


def test_recording_changes_nothing(
    encrypted_run: RecordedRun, tiny: Callable[..., FederationConfig], tmp_path: Path
) -> None:
    founded = found(tiny(), tmp_path)
    run_local(founded.coordinator, founded.institutions, 3)
    plain = RecordedRun(tmp_path)
    assert plain.auditor.state.digest == encrypted_run.auditor.state.digest
    assert plain.server.uploads == ()
    assert len(plain.server.aggregates) == len(encrypted_run.server.aggregates) == 3  # a measurement at the end


def test_the_coordinator_sees_every_upload_and_its_times(encrypted_run: RecordedRun) -> None:
    view = encrypted_run.server
    assert len(view.uploads) == 9
    assert {seen.kind for seen in view.uploads} == {RoundKind.UPDATE, RoundKind.MEASURE}
    assert all(seen.answered >= seen.asked > 0 for seen in view.uploads)
    for number in range(3):
        counted = set(view.aggregates[number].counted)
        uploads = view.uploads_of(number).values()
        assert len(counted) == len(uploads) == 3
        assert all(any(mark in seen.blob[:232] for mark in counted) for seen in uploads)
    events = encrypted_run.folder / "coordinator" / RECORDING / EVENTS
    assert {json.loads(line)["event"] for line in events.read_text().splitlines()} == {"asked", "answered"}


def _gone(recording: Path) -> None:
    (recording / "000001.upload").unlink()


def _cut(recording: Path) -> None:
    (recording / "000001.upload").write_bytes(b"DICTPFL")


def _strange(recording: Path) -> None:
    with (recording / EVENTS).open("a") as file:
        file.write('{"event": "answered", "bytes": "many"}\n')


@pytest.mark.parametrize(
    ("damage", "said"),
    [(_gone, "000001.upload, .* No such file"), (_cut, "000001.upload"), (_strange, f"{EVENTS} has a line")],
)
def test_a_recording_that_is_not_whole_is_named(
    encrypted_run: RecordedRun, damage: Callable[[Path], None], said: str, tmp_path: Path
) -> None:
    """As where somebody made room."""
    shutil.copytree(encrypted_run.folder / "coordinator", tmp_path / "coordinator")
    damage(tmp_path / "coordinator" / RECORDING)
    with pytest.raises(ConfigError, match=said):
        ServerView.read(tmp_path / "coordinator")


def test_the_coordinators_view_holds_no_key(encrypted_run: RecordedRun) -> None:
    secret = load_key(encrypted_run.home(0) / "federation.key").secret[96:]
    view = encrypted_run.server
    everything = repr(view.agreement).encode() + b"".join(seen.blob for seen in view.uploads)
    everything += b"".join(aggregate.blob for aggregate in view.aggregates.values())
    assert not any(secret[at : at + 16] in everything for at in range(0, len(secret) - 16, 16))


def test_two_together_open_exactly_what_was_added(encrypted_run: RecordedRun) -> None:
    view = encrypted_run.collusion
    for number, opened in view.institution.sums.items():
        parts = [view.open(seen) for seen in view.server.uploads_of(number).values()]
        np.testing.assert_array_equal(sum(update for update, _ in parts), opened.total)
        assert sum(ledger.samples for _, ledger in parts) == opened.ledger.samples
        assert all(ledger.participants == 1 for _, ledger in parts)


def _error(matcher: Matcher, victim: Victim, seen: Observation, classes: int) -> float:
    """How far what was observed lies from the gradient of the batch that the experimenter knows, of its length."""
    x = torch.from_numpy(np.stack([b.features for b in victim.batches])).double()[None]
    y = torch.nn.functional.one_hot(torch.from_numpy(np.stack([b.labels for b in victim.batches])), classes)[None]
    truth, found = matcher.updates(x, y.double())[0], matcher.observed(seen.update, victim.weight)
    return float((found - truth).norm() / truth.norm())


def _images_read_by_the_batch(folder: Path) -> dict[str, Any]:
    draw = np.random.default_rng(0)
    for label, number in itertools.product("ab", range(24)):
        (folder / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 255, (8, 8)).astype(np.uint8)).save(folder / label / f"{number}.png")
    return {"data__source": "imagefolder", "data__options": {"size": 8, "mode": "L"}, "data__lazy": True}


def _a_table_that_is_prepared(folder: Path) -> dict[str, Any]:
    """In units that no model takes."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    lines = [f"{draw.normal(4000, 900)},{draw.normal(3e-7, 1e-8)},{draw.choice(['no', 'yes'])}" for _ in range(120)]
    (folder / "table.csv").write_text("\n".join(["height,weight,ill", *lines]))
    return {
        "data__source": "csv", "data__label": "ill", "data__preprocessing": {"scale": "standard", "least": 8},
        "model__source": "mlp", "model__options": {"hidden": [8]}, "model__pretrain": {"epochs": 0},
    }  # fmt: skip


@pytest.mark.parametrize("data", [_images_read_by_the_batch, _a_table_that_is_prepared])
def test_the_true_batch_is_known_however_an_institution_reads_it(
    data: Callable[[Path], dict[str, Any]], tiny: Callable[..., FederationConfig], tmp_path: Path
) -> None:
    """Attacks refused an index, and took a table as it lies in its file, which the model never saw."""
    place = tmp_path / "data"
    about = data(place)
    path = place / "table.csv" if (place / "table.csv").exists() else place
    recorded = play(tiny(method="plaintext", toy_insecure=True, data__path=str(path), **about), tmp_path / "run")
    number = recorded.update_rounds[0]
    for victim in recorded.victims(number):
        seen = in_clear(recorded.genesis, recorded.auditor.sums[number].plan, victim.seen)
        assert _error(recorded.matcher(number), victim, seen, 2) < 2e-3
    for samples in (recorded.public, recorded.samples(1)):
        assert samples.features.shape[1:] == recorded.genesis.sample_shape
        assert float(samples.features.std()) < 3


def test_what_is_recovered_is_the_gradient_of_the_true_batch(
    plain_run: RecordedRun, encrypted_run: RecordedRun
) -> None:
    """The experimenter's truth, the model before the round and the decoding agree: a wrong one would look like privacy."""
    for recorded in (plain_run, encrypted_run):
        number = recorded.update_rounds[0]
        matcher = recorded.matcher(number)
        victims = recorded.victims(number)
        assert [v.index for v in victims] == [0, 1, 2]
        for victim in victims:
            seen = in_collusion(recorded.collusion, victim.seen) if recorded is encrypted_run else in_clear(
                recorded.genesis, recorded.auditor.sums[number].plan, victim.seen
            )  # fmt: skip
            assert _error(matcher, victim, seen, 10) < 2e-3


def test_rates_that_change_from_round_to_round_are_those_of_the_attacked_round(
    tiny: Callable[..., FederationConfig], tmp_path: Path
) -> None:
    """The first round of a warm-up was taken for one at the full rate: gradients came out half as long, and labels wrong."""
    config = tiny(method="plaintext", toy_insecure=True, training__warmup_rounds=1)
    recorded = play(config, tmp_path)
    number, later = recorded.update_rounds
    matcher, victim = recorded.matcher(number), recorded.victims(number)[0]
    seen = in_clear(recorded.genesis, recorded.auditor.sums[number].plan, victim.seen)
    assert _error(matcher, victim, seen, 10) < 2e-3
    assert recorded.matcher(later)._rate == 2 * matcher._rate


def test_ciphertexts_are_not_read_as_values(encrypted_run: RecordedRun) -> None:
    """They would be noise under a cipher that leaks as well: a row that no fault changes is no evidence."""
    number = encrypted_run.update_rounds[0]
    plan = encrypted_run.auditor.sums[number].plan
    for victim in encrypted_run.victims(number):
        with pytest.raises(ConfigError, match="needs values, and all of this upload is encrypted"):
            in_clear(encrypted_run.genesis, plan, victim.seen)


def test_an_institution_sees_sums_and_subtracts_itself(encrypted_run: RecordedRun) -> None:
    view = InstitutionView.read(encrypted_run.home(1), encrypted_run.server.aggregates.values())
    assert view.state.digest == encrypted_run.auditor.state.digest
    number = encrypted_run.update_rounds[0]
    own, *others = [in_collusion(encrypted_run.collusion, v.seen).update for v in encrypted_run.victims(number)]
    np.testing.assert_array_equal(of_the_others(view, number, own).update, sum(others))
    assert not hasattr(view, "uploads")


def test_a_view_of_nothing_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        ServerView.read(tmp_path)
    with pytest.raises(ConfigError, match="cannot read a model"):
        OutsiderView.read(tmp_path / "model.safetensors")


def test_an_upload_with_noise_is_not_said_to_stay_shut(tmp_path: Path) -> None:
    pytest.importorskip("opacus", reason="the extra `dp` is not installed")
    noise = {"privacy__mechanism": "example", "privacy__noise_multiplier": 2.0, "federation__rounds": 1}
    finding = collusion_finding(play(encrypted(**noise), tmp_path), "dictpfl")
    assert finding.more["passes the opener's checks"] == 1.0
    assert "without its noise" in finding.attack
    assert "The upload itself opens." in finding.note


def test_who_saw_what_is_counted_from_the_recording(encrypted_run: RecordedRun, plain_run: RecordedRun) -> None:
    rows = {(seen.party, seen.what): seen for seen in encrypted_run.seen()}
    uploads = rows["server", "uploads, encrypted"]
    assert uploads.count == 9
    assert uploads.bytes == sum(len(seen.blob) for seen in encrypted_run.server.uploads)
    assert not uploads.readable
    others = rows["collusion", "single uploads of others, opened with the shared key"]
    assert others.count == 6, "one's own are no other's"
    own = [encrypted_run.victims(seen.round)[0].seen.blob for seen in encrypted_run.server.uploads]
    assert others.bytes == sum(len(seen.blob) for seen in encrypted_run.server.uploads if seen.blob not in own)
    tensors = OutsiderView.read(encrypted_run.home(0) / GENESIS_WEIGHTS).tensors  # the final model's are as large
    size = sum(tensor.nbytes for tensor in tensors.values())
    assert size <= rows["outsider", "the final model"].bytes < 1.2 * size
    assert any(seen.readable and seen.bytes for seen in plain_run.seen() if seen.party == "server")


def test_the_collusion_attack_opens_another_institution_whole(encrypted_run: RecordedRun) -> None:
    pried = collusion_attack(encrypted_run)
    assert [one.victim for one in pried] == [1, 2]
    for one in pried:
        assert one.passes
        assert one.correlation > 0.999
        assert one.largest <= 0.5 + 1e-6
    finding = collusion_finding(encrypted_run, "dictpfl")
    assert finding.verdict == "succeeds"
    assert finding.more["exact to the last digit sent"] == 1.0


def test_prying_gets_noise_out_of_what_was_altered(encrypted_run: RecordedRun) -> None:
    """Where the ciphertext carries something else besides, the attack must say so and not fail: as with pairwise masks."""
    number = encrypted_run.update_rounds[0]
    victim = encrypted_run.victims(number)[1]
    blob = Blob.own(victim.seen.blob, encrypted_run.genesis.parameters.word_bits)
    noise = np.random.default_rng(0).integers(0, 2**40, blob.header.words, dtype=np.uint64)
    altered = replace(victim.seen, blob=with_words(blob, noise << np.uint64(blob.word_bits - 41)))
    with pytest.raises(DictPFLError):
        encrypted_run.collusion.open(altered)
    pried = pry(encrypted_run.collusion, altered)
    truth = in_collusion(encrypted_run.collusion, victim.seen).update
    assert abs(np.corrcoef(pried, truth)[0, 1]) < 5 / np.sqrt(truth.size)


def test_masks_leave_two_together_with_noise(tiny: Callable[..., FederationConfig], tmp_path: Path) -> None:
    """The same attack on the same run, with pairwise masks on."""
    masked = play(tiny(defences__masks=True), tmp_path)
    for one in collusion_attack(masked):
        assert not one.passes
        assert abs(one.correlation) < 0.15  # a few hundred values; the benchmark of defences has more
    assert collusion_finding(masked, "dictpfl with masks").verdict != "succeeds"
