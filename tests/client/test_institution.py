"""One institution by itself: what it refuses and under which name, and that the same request has the same reply."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dictpfl.client.memory.record
import dictpfl.client.uploading
from dictpfl.client.folder import LOSS_SCALE, InstitutionSettings
from dictpfl.client.institution import Institution, forget_institutions, open_institution
from dictpfl.client.training import speed
from dictpfl.client.training.train import Trained
from dictpfl.common.ckks.adding import WordSum
from dictpfl.common.ckks.keys import load_key, make_key, save_key
from dictpfl.common.ckks.opening import CKKSOpener
from dictpfl.common.ckks.sealing import CKKSSealer
from dictpfl.common.errors import ConfigError, DataError, DictPFLError, KeyFileError, ParameterError, WireError
from dictpfl.common.genesis import components
from dictpfl.common.law.round import begin
from dictpfl.common.law.state import acknowledging
from dictpfl.common.messages.protocol import NEWCOMER, REFUSED, VOID, Aggregate, Reply, Request, RoundKind, Status
from dictpfl.common.messages.wire import Blob, read_entries, write
from tests.support.failing_disks import full_disk
from tests.support.federations import encrypted, tiny
from tests.support.harness import World


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Three rounds closed, under encryption; institution 0 never took part."""
    config = encrypted(federation__participants=4, federation__rounds=5)
    world = World.found(config, tmp_path_factory.mktemp("template") / "world")
    for _ in range(3):
        world.exchange(offline=[0])
    world.close()
    return world


@pytest.fixture
def world(template: World, tmp_path: Path) -> Iterator[World]:
    made = template.copy(tmp_path / "world")
    yield made
    made.close()


@pytest.fixture
def aggregates(world: World) -> list[Aggregate]:
    return [aggregate for _, aggregate in world.journal()]


def ask(world: World, number: int, kind: RoundKind | None = None, *aggregates: Aggregate, **changes: Any) -> Reply:
    genesis = world.genesis
    request = Request(number, kind, genesis.federation, genesis.fingerprint, aggregates)
    return world.institution(0).handle(replace(request, **changes))


def test_the_same_request_gets_the_same_bytes(world: World, aggregates: list[Aggregate]) -> None:
    first = ask(world, 3, RoundKind.UPDATE, *aggregates)
    assert first.status is Status.UPLOAD
    assert ask(world, 3, RoundKind.UPDATE, *aggregates) == first
    world.kill_institution(0)
    assert ask(world, 3, RoundKind.UPDATE) == first


def test_another_kind_of_the_same_round_is_answered_anew(world: World, aggregates: list[Aggregate]) -> None:
    """A round that was asked for as a measurement may be asked for again as an update, when rounds are added."""
    ask(world, 3, RoundKind.MEASURE, *aggregates)
    reply = ask(world, 3, RoundKind.UPDATE)
    world.exchange({}, offline=[])
    assert reply.status is Status.UPLOAD
    assert len(world.journal()[3][1].counted) == 4


def test_another_kind_asked_for_in_between_scales_no_update(world: World, aggregates: list[Aggregate]) -> None:
    """Made once more each time, the training of one round counted, and was paid for, as often as a coordinator asked to and fro."""
    ask(world, 3, RoundKind.UPDATE, *aggregates)
    before = world.record(0)
    measure = ask(world, 3, RoundKind.MEASURE)
    for _ in range(3):
        assert ask(world, 3, RoundKind.UPDATE).status is Status.REFUSED
        assert ask(world, 3, RoundKind.MEASURE) == measure
    after = world.record(0)
    assert before.pending is not None
    assert after.pending is not None
    assert after.pending.upload_id != before.pending.upload_id
    np.testing.assert_array_equal(after.residual.values, before.residual.values)


@pytest.mark.parametrize("order", [(2, 1, 0), (0, 0, 1, 1, 2, 2), (1, 0, 2), (0, 1, 2, 0, 1, 2), (2, 0, 2, 1, 0)])
def test_aggregates_in_any_order(order: tuple[int, ...], world: World, aggregates: list[Aggregate]) -> None:
    """None is applied twice or too early; what is missing is asked for."""
    for _ in range(4):
        reply = ask(world, 3, None, *(aggregates[i] for i in order))
        if reply.status is Status.SETTLED:
            break
        assert reply.status is Status.BEHIND
        assert reply.position == world.record(0).shared.round
    assert world.record(0).shared.digest == ask_fresh(world, aggregates)


def ask_fresh(world: World, aggregates: list[Aggregate]) -> bytes:
    shutil.rmtree(world.home(0) / "memory")
    world.kill_institution(0)
    assert ask(world, 3, None, *aggregates) == Reply(Status.SETTLED, 3, 3)
    return world.record(0).shared.digest


def test_a_gap_is_reported(world: World, aggregates: list[Aggregate]) -> None:
    assert ask(world, 3, RoundKind.UPDATE, aggregates[2]) == Reply(Status.BEHIND, 3, 0, code=NEWCOMER)
    assert ask(world, 3, RoundKind.UPDATE, aggregates[0]) == Reply(Status.BEHIND, 3, 1)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"federation": b"x" * 32}, "wrong-federation"),
        ({"fingerprint": b"x" * 32}, "wrong-key"),
        ({"protocol": 1}, "wrong-federation"),
        ({"federation": b""}, "wrong-federation"),
    ],
)
def test_a_foreign_request(changes: dict[str, Any], code: str, world: World, aggregates: list[Aggregate]) -> None:
    reply = ask(world, 3, RoundKind.UPDATE, *aggregates, **changes)
    assert (reply.status, reply.code, reply.blob) == (Status.REFUSED, code, b"")
    assert not world.memory(0).path.exists()


def test_damaged_aggregates_are_refused_by_name(world: World, aggregates: list[Aggregate]) -> None:
    whole = aggregates[0].blob
    cases = {
        "truncated": replace(aggregates[0], blob=whole[:-1]),
        "oversized": replace(aggregates[0], blob=whole + b"x"),
        "corrupt": replace(aggregates[0], blob=whole[:-1] + bytes([whole[-1] ^ 1])),
        "not-a-blob": replace(aggregates[0], blob=b"nothing"),
        "round": replace(aggregates[1], round=0),
    }
    for code, aggregate in cases.items():
        reply = ask(world, 3, RoundKind.UPDATE, aggregate)
        assert (reply.status, reply.code, reply.position) == (Status.REFUSED, code, 0)
    assert ask(world, 3, None, *aggregates).status is Status.SETTLED


Bend = Callable[[Blob, int], bytes]


def rewritten(blob: Blob, **changes: Any) -> bytes:
    parts = {
        "header": blob.header,
        "entries": blob.entries,
        "words": blob.words(),
        "clear": bytes(blob.clear),
    } | changes
    return write(parts["header"], parts["entries"], parts["words"], blob.word_bits, parts["clear"])


def with_word(blob: Blob, prime: int) -> bytes:
    words = blob.words()
    words[0] = (int(words[0]) + 1) % prime
    return rewritten(blob, words=words)


BENT: dict[str, Bend] = {
    "a word": with_word,
    "a seed": lambda blob, _: rewritten(blob, entries=[replace(blob.entries[0], seed=b"x" * 32), *blob.entries[1:]]),
    "an upload id": lambda blob, _: rewritten(blob, entries=[replace(blob.entries[0], upload_id=b"x" * 16), *blob.entries[1:]]),
    "a member": lambda blob, _: rewritten(blob, entries=[*blob.entries[:2], replace(blob.entries[2], member=9)]),
    "a member's name taken": lambda blob, _: rewritten(blob, entries=[replace(blob.entries[0], member=0), *blob.entries[1:]]),
    "one not named": lambda blob, _: rewritten(blob, entries=blob.entries[:2]),
    "another attempt": lambda blob, _: rewritten(blob, header=replace(blob.header, attempt=1)),
    "nothing": lambda blob, _: rewritten(blob, words=np.zeros_like(blob.words())),
}  # fmt: skip


@pytest.mark.parametrize("what", BENT)
def test_a_sum_that_is_not_authentic_is_refused_unopened_by_one_code(
    what: str, world: World, aggregates: list[Aggregate], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is wrong with it: who asks learns that it is refused, and no more; nothing of it was decrypted."""
    parameters = world.genesis.parameters
    whole = Blob.own(aggregates[0].blob, parameters.word_bits)
    bent = replace(aggregates[0], blob=BENT[what](whole, parameters.word_prime))
    with monkeypatch.context() as patch:
        patch.setattr(CKKSOpener, "open", lambda *_: pytest.fail("it was decrypted"))
        reply = ask(world, 3, RoundKind.UPDATE, bent, *aggregates[1:])
    assert reply == Reply(Status.REFUSED, 3, 0, code=REFUSED)
    assert not world.memory(0).path.exists()


def test_what_stands_beside_a_forged_sum_keeps_no_refusal_from_being_recorded(
    world: World, aggregates: list[Aggregate]
) -> None:
    """The next round's sum is looked at to tell whether others went on without this one; what is no sum says nothing of it."""
    parameters = world.genesis.parameters
    whole = Blob.own(aggregates[0].blob, parameters.word_bits)
    bent = replace(aggregates[0], blob=with_word(whole, parameters.word_prime))
    assert ask(world, 3, RoundKind.UPDATE, bent, Aggregate(1, b"nothing")) == Reply(Status.REFUSED, 3, 0, code=REFUSED)
    assert [one.reason for one in world.institution(0)._sums.openings.refusals] == ["tag"]


def test_the_same_refused_sum_again_makes_the_round_void(world: World, aggregates: list[Aggregate]) -> None:
    """The coordinator has no other one; institutions go on without it, all from one state."""
    parameters = world.genesis.parameters
    bent = replace(
        aggregates[0], blob=with_word(Blob.own(aggregates[0].blob, parameters.word_bits), parameters.word_prime)
    )
    assert ask(world, 1, RoundKind.UPDATE, bent).code == REFUSED
    reply = ask(world, 1, RoundKind.UPDATE, bent)
    assert (reply.status, reply.code, reply.position) == (Status.UPLOAD, VOID, 1)
    shared, start = world.record(0).shared, world.genesis.start()
    assert shared.digest == start.void(score=False).digest
    assert shared.acknowledged == acknowledging(bytes(32), 0, ())
    events = [json.loads(line)["event"] for line in (world.home(0) / "diary.jsonl").read_text().splitlines()]
    assert events == ["refused", "void", "uploaded"]
    assert ask(world, 1, RoundKind.UPDATE, bent).code == VOID, (
        "it is said as long as this round is asked for: a reply may be lost"
    )
    # The sums of the others' next rounds were made from another state.
    assert ask(world, 3, None, *aggregates[1:]).code == "drift"


@pytest.mark.parametrize("nonsense", ["a ledger of nobody", "a guard that is not zero", "noise"])
def test_a_right_sum_that_holds_nonsense_makes_the_round_void(
    nonsense: str, world: World, aggregates: list[Aggregate]
) -> None:
    """Members sent uploads with right tags: all institutions conclude the same at once, and nobody asks again."""
    genesis, parameters = world.genesis, world.genesis.parameters
    blob = Blob.own(aggregates[0].blob, parameters.word_bits)
    sealer = CKKSSealer(load_key(world.home(0) / "federation.key"))
    size = components(genesis, begin(genesis.law, genesis.start(), blob.header.kind))
    total, entries, unit = (
        WordSum(parameters.word_prime),
        [],
        2.0 ** (parameters.scale_bits - 60) * parameters.word_prime,
    )
    for entry in blob.entries:
        sealed = sealer.seal(np.zeros(size, np.int64))
        entries.append(replace(entry, seed=sealed.seed))
        place, move = {"a ledger of nobody": (0, 0), "a guard that is not zero": (-1, unit), "noise": (8, unit / 2)}[
            nonsense
        ]
        if not total.total().size:
            sealed.words[place] = (int(sealed.words[place]) + round(move)) % parameters.word_prime
        tags = genesis.tags(blob.header).made(sealed.words, b"", entries[-1])
        total.add(total.load(np.concatenate([sealed.words, tags])))
    made = replace(aggregates[0], blob=rewritten(blob, entries=entries, words=total.total()))
    reply = ask(world, 1, RoundKind.UPDATE, made)
    assert (reply.status, reply.code, reply.position) == (Status.UPLOAD, VOID, 1)
    assert world.record(0).shared.digest == genesis.start().void(score=False).digest


def test_each_counted_upload_is_acknowledged(world: World, aggregates: list[Aggregate]) -> None:
    assert ask(world, 3, None, *aggregates).status is Status.SETTLED
    chain = bytes(32)
    for aggregate in aggregates:
        chain = acknowledging(chain, aggregate.round, [entry.upload_id for entry in read_entries(aggregate.blob)])
    assert world.record(0).shared.acknowledged == chain


@pytest.mark.parametrize("forged", [False, True])
def test_rounds_applied_before_one_that_is_refused_are_kept(
    forged: bool, world: World, aggregates: list[Aggregate]
) -> None:
    """They are on disk, so that none is opened again; and the coordinator is told which sum was refused."""
    prime, blob = world.genesis.parameters.word_prime, aggregates[2].blob
    bad = with_word(Blob.own(blob, world.genesis.parameters.word_bits), prime) if forged else blob[:-1]
    reply = ask(world, 3, RoundKind.UPDATE, *aggregates[:2], replace(aggregates[2], blob=bad))
    assert reply == Reply(Status.REFUSED, 3, 2, code=REFUSED if forged else "truncated")
    assert world.record(0).shared.round == 2
    assert world.events(0, "applied") == [("applied", 0), ("applied", 1)]
    if not forged:
        assert ask(world, 3, None, *aggregates).status is Status.SETTLED
        assert world.events(0, "applied") == [("applied", 0), ("applied", 1), ("applied", 2)]


def test_the_institutions_own_minimum_beats_genesis(world: World, aggregates: list[Aggregate]) -> None:
    """The sums hold three; this institution opens no sum of fewer than four, whatever genesis says."""
    InstitutionSettings(name="careful", min_participants=4).save(world.home(0))
    reply = ask(world, 3, RoundKind.UPDATE, *aggregates)
    assert (reply.status, reply.code) == (Status.REFUSED, REFUSED)
    assert not world.memory(0).path.exists()
    InstitutionSettings(name="careful", min_participants=3).save(world.home(0))
    world.kill_institution(0)
    assert ask(world, 3, None, *aggregates).status is Status.SETTLED


def test_its_own_minimum_is_never_below_that_of_all(world: World) -> None:
    """With noise, each counts on that of as many others as were agreed on."""
    InstitutionSettings(name="careless", min_participants=1).save(world.home(0))
    agreed = world.genesis.config.federation.min_participants
    assert Institution(world.home(0)).settings.min_participants == agreed > 1


def test_its_own_number_of_processes_is_no_part_of_the_agreement(world: World) -> None:
    InstitutionSettings(name="careful", workers=3).save(world.home(0))
    own = Institution(world.home(0))
    assert own._uploads.training.workers == 3
    assert own._uploads.genesis.federation == world.genesis.federation


def test_a_newer_memory_than_the_request(world: World, aggregates: list[Aggregate]) -> None:
    assert ask(world, 3, None, *aggregates).status is Status.SETTLED
    reply = ask(world, 1, RoundKind.UPDATE, *aggregates[:1])
    assert (reply.status, reply.code, reply.position) == (Status.REFUSED, "round", 3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_model_that_diverged_is_not_uploaded(
    value: float, world: World, aggregates: list[Aggregate], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss before the last step was finite, the step was not: that would poison the sum and the residual."""

    def diverge(twin: Any, samples: Any, *_arguments: Any, **_options: Any) -> Trained:
        x = twin.read()
        x[3] = value
        twin.load(x)
        return Trained(len(samples), 0.0)

    with monkeypatch.context() as patch:
        patch.setattr(dictpfl.client.uploading, "train", diverge)
        reply = ask(world, 3, RoundKind.UPDATE, *aggregates)
    assert reply.status is Status.REFUSED
    assert reply.code != "error"
    assert world.record(0).pending is None
    assert np.isfinite(world.record(0).residual.values).all()
    assert ask(world, 3, RoundKind.UPDATE).status is Status.UPLOAD


def test_a_diary_that_cannot_be_written_costs_nothing(world: World, aggregates: list[Aggregate]) -> None:
    """It is for the operator's eyes; a full disk there must not keep an institution from taking part."""
    (world.home(0) / "diary.jsonl").mkdir()
    assert ask(world, 3, RoundKind.UPDATE, *aggregates).status is Status.UPLOAD


def test_the_diary_has_a_line_for_each_event(world: World, aggregates: list[Aggregate]) -> None:
    ask(world, 3, RoundKind.UPDATE, *aggregates)
    lines = [json.loads(line) for line in (world.home(0) / "diary.jsonl").read_text().splitlines()]
    assert [(line["event"], line["round"]) for line in lines] == [
        ("applied", 0), ("applied", 1), ("applied", 2), ("uploaded", 3)
    ]  # fmt: skip


def test_a_round_that_was_trained_in_vain_begins_with_the_same_loss_scale(
    world: World, aggregates: list[Aggregate], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what a killed process left behind would change the update."""
    monkeypatch.setattr(speed, "_autocast_type", lambda name, device: torch.float16)
    state = {
        "scale": 2.0**60,
        "growth_factor": 2.0,
        "backoff_factor": 0.5,
        "growth_interval": 2000,
        "_growth_tracker": 0,
    }
    (world.home(0) / LOSS_SCALE).write_text(json.dumps(state))
    ask(world, 3, None, *aggregates)
    for _ in range(2):
        with full_disk(dictpfl.client.memory.record, "replace_private"):
            assert ask(world, 3, RoundKind.UPDATE).status is Status.REFUSED
        world.kill_institution(0)
    assert ask(world, 3, RoundKind.UPDATE).status is Status.UPLOAD
    newest = max(world.home(0).glob("loss_scale*.json"), key=lambda path: path.stat().st_mtime_ns)
    assert json.loads(newest.read_bytes())["scale"] == 2.0**59, "one step, one overflow"


def test_a_full_disk_is_named(world: World, aggregates: list[Aggregate]) -> None:
    with full_disk(dictpfl.client.memory.record, "replace_private"):
        reply = ask(world, 3, RoundKind.UPDATE, *aggregates)
    assert (reply.status, reply.code) == (Status.REFUSED, "memory")
    assert ask(world, 3, RoundKind.UPDATE, *aggregates).status is Status.UPLOAD


def test_a_damaged_memory_is_named_and_not_touched(world: World, aggregates: list[Aggregate]) -> None:
    ask(world, 3, None, *aggregates)
    path = world.memory(0).path
    path.write_bytes(path.read_bytes()[:-1])
    held = path.read_bytes()
    reply = ask(world, 3, RoundKind.UPDATE)
    assert (reply.status, reply.code) == (Status.REFUSED, "memory")
    assert path.read_bytes() == held


# What an institution checks before it takes part


def test_a_lax_key_file(world: World) -> None:
    (world.home(0) / "federation.key").chmod(0o640)
    with pytest.raises(KeyFileError, match="0640"):
        Institution(world.home(0))


def test_a_missing_key_file(world: World) -> None:
    (world.home(0) / "federation.key").unlink()
    with pytest.raises(KeyFileError):
        Institution(world.home(0))


def test_another_key(world: World) -> None:
    path = world.home(0) / "federation.key"
    parameters = load_key(path).parameters
    path.unlink()
    save_key(make_key(parameters), path)
    with pytest.raises(WireError, match="fingerprint", check=lambda e: e.code == "wrong-key"):
        Institution(world.home(0))


def test_a_lax_memory_folder(world: World) -> None:
    folder = world.home(1) / "memory"
    folder.chmod(0o755)
    with pytest.raises(KeyFileError, match="chmod 700"):
        Institution(world.home(1))


@pytest.mark.parametrize(
    "name",
    ["institution.toml", "genesis.json", "genesis.safetensors", "weights.safetensors", "train.npz", "validation.npz"],
)
@pytest.mark.parametrize("damage", ["missing", "empty", "text", "altered"])
def test_a_damaged_folder_is_named(name: str, damage: str, world: World) -> None:
    path = world.home(0) / name
    data = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "altered":
        data[len(data) // 2] ^= 0x40
        path.write_bytes(data)
    else:
        path.write_bytes(b"" if damage == "empty" else b"no such thing")
    try:
        Institution(world.home(0))
    except DictPFLError:
        return
    assert (name, damage) in {("institution.toml", "empty"), ("institution.toml", "altered")}, "it was taken as it is"


def test_other_weights(world: World) -> None:
    from safetensors.numpy import load_file, save_file

    path = world.home(0) / "weights.safetensors"
    tensors = load_file(path)
    first = next(iter(tensors))
    tensors[first] = tensors[first] + 1
    save_file(tensors, path)
    with pytest.raises(ConfigError, match="W0"):
        Institution(world.home(0))


def test_no_training_samples(world: World) -> None:
    from dictpfl.client.data.samples import Samples

    path = world.home(0) / "train.npz"
    Samples.load(path).take(np.zeros(0, dtype=np.int64)).save(path)
    with pytest.raises(DataError, match="at least one"):
        Institution(world.home(0))


@pytest.mark.parametrize(
    ("ruin", "said"),
    [
        ("width", r"train\.npz does not fit the federation's model: a sample of shape \[.*same options"),
        ("label", r"train\.npz, sample 1: its label is outside of 0\.\.9, .* it is 1000;"),
        ("validation", r"validation\.npz, sample 1: its label is outside of 0\.\.9, .* it is 1000;"),
    ],
)
def test_samples_that_do_not_fit_the_model_are_named(
    world: World, aggregates: list[Aggregate], ruin: str, said: str
) -> None:
    from dictpfl.client.data.samples import Samples

    path = world.home(0) / ("validation.npz" if ruin == "validation" else "train.npz")
    good = Samples.load(path)
    wide = np.concatenate([good.features, good.features], axis=-1)
    far = np.where(np.arange(len(good)) == 1, 1000, good.labels)
    (Samples(wide, good.labels) if ruin == "width" else Samples(good.features, far)).save(path)
    institution = world.institution(0)
    with pytest.raises(DataError, match=said):
        institution.prepare()
    reply = ask(world, 3, RoundKind.UPDATE, *aggregates)
    assert (reply.status, reply.code) == (Status.REFUSED, "data")
    good.save(path)
    world.kill_institution(0)
    assert ask(world, 3, RoundKind.UPDATE, *aggregates).status is Status.UPLOAD, "nothing was lost by it"


def test_an_insecure_federation_needs_the_institutions_consent(tmp_path: Path) -> None:
    world = World.found(tiny(), tmp_path / "world")
    InstitutionSettings(name="a", toy_insecure=False).save(world.home(0))
    with pytest.raises(ParameterError, match="toy_insecure = true", check=lambda e: e.code == "insecure"):
        Institution(world.home(0))


def test_what_was_prepared_ahead_goes_into_the_next_upload(world: World, aggregates: list[Aggregate]) -> None:
    institution = world.institution(0)
    institution.prepare()
    sealer = institution._sealer
    assert isinstance(sealer, CKKSSealer)
    zeros = sealer._zeros
    assert zeros is not None
    ahead = sealer.prepared
    assert ahead >= 1
    reply = ask(world, 3, RoundKind.UPDATE, *aggregates)
    assert reply.status is Status.UPLOAD
    assert [entry.seed for entry in read_entries(reply.blob)] == [zeros.seed]
    assert len(zeros.first) < ahead
    assert sealer.prepared == 0, "what is left was drawn under a seed that is used"


@pytest.mark.parametrize("file", ["genesis.json", "institution.toml", "train.npz", "validation.npz"])
def test_an_open_institution_is_kept_until_a_file_of_its_own_changes(world: World, file: str) -> None:
    forget_institutions()
    first = open_institution(world.home(0))
    assert open_institution(world.home(0)) is first
    os.utime(world.home(0) / file, (1, 1))
    assert open_institution(world.home(0)) is not first
    forget_institutions()


@pytest.mark.parametrize(
    "name", ["Charité — Berlin", 'quo"ted', "back\\slash", "new\nline", "tab\t", "😀", "", "#", "\u2028", "\U000f0000"]
)
def test_a_institutions_name_comes_back(name: str, tmp_path: Path) -> None:
    settings = InstitutionSettings(name=name, min_participants=5, toy_insecure=True, workers=2)
    settings.save(tmp_path)
    assert InstitutionSettings.load(tmp_path) == settings
