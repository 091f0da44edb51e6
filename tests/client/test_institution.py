"""One institution by itself: what it refuses and under which name, and that the same request has the same reply."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

if "harness" not in sys.modules:
    # The federations in one process of tests/system, which is no package.
    _spec = importlib.util.spec_from_file_location("harness", Path(__file__).parents[1] / "system/harness.py")
    assert _spec is not None
    assert _spec.loader is not None
    sys.modules["harness"] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules["harness"])

from harness import World, encrypted, full_disk, tiny

import client.institution
import client.memory
import client.uploading
from client.institution import Institution, open_institution
from client.site import SiteSettings
from client.training import Trained
from common.errors import (
    ConfigError,
    DataError,
    DictPFLError,
    InsecureParametersError,
    KeyFileError,
    WrongKeyError,
)
from common.keys import load_key, make_key, save_key
from common.protocol import NEWCOMER, Aggregate, Reply, Request, RoundKind, Status
from common.sealing import CKKSSealer


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
    shutil.rmtree(world.site(0) / "memory")
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
    dropped = replace(aggregates[0], counted=aggregates[0].counted[:-1])
    assert ask(world, 3, RoundKind.UPDATE, dropped).code == "round"
    assert ask(world, 3, None, *aggregates).status is Status.SETTLED


def test_rounds_applied_before_a_damaged_one_are_kept(world: World, aggregates: list[Aggregate]) -> None:
    damaged = replace(aggregates[2], blob=aggregates[2].blob[:-1])
    reply = ask(world, 3, RoundKind.UPDATE, aggregates[0], aggregates[1], damaged)
    assert (reply.status, reply.code) == (Status.REFUSED, "truncated")
    assert reply.position in {0, 2}
    assert ask(world, 3, None, *aggregates).status is Status.SETTLED


def test_the_sites_own_minimum_beats_genesis(world: World, aggregates: list[Aggregate]) -> None:
    """The sums hold three; this institution opens no sum of fewer than four, whatever genesis says."""
    SiteSettings(name="careful", min_participants=4).save(world.site(0))
    reply = ask(world, 3, RoundKind.UPDATE, *aggregates)
    assert (reply.status, reply.code) == (Status.REFUSED, "too-few")
    assert not world.memory(0).path.exists()
    SiteSettings(name="careful", min_participants=3).save(world.site(0))
    world.kill_institution(0)
    assert ask(world, 3, None, *aggregates).status is Status.SETTLED


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
        patch.setattr(client.uploading, "train", diverge)
        reply = ask(world, 3, RoundKind.UPDATE, *aggregates)
    assert reply.status is Status.REFUSED
    assert reply.code != "error"
    assert world.record(0).pending is None
    assert np.isfinite(world.record(0).residual.values).all()
    assert ask(world, 3, RoundKind.UPDATE).status is Status.UPLOAD


def test_a_diary_that_cannot_be_written_costs_nothing(world: World, aggregates: list[Aggregate]) -> None:
    """It is for the operator's eyes; a full disk there must not keep an institution from taking part."""
    (world.site(0) / "diary.jsonl").mkdir()
    assert ask(world, 3, RoundKind.UPDATE, *aggregates).status is Status.UPLOAD


def test_the_diary_has_a_line_for_each_event(world: World, aggregates: list[Aggregate]) -> None:
    ask(world, 3, RoundKind.UPDATE, *aggregates)
    lines = [json.loads(line) for line in (world.site(0) / "diary.jsonl").read_text().splitlines()]
    assert [(line["event"], line["round"]) for line in lines] == [
        ("applied", 0), ("applied", 1), ("applied", 2), ("uploaded", 3)
    ]  # fmt: skip


def test_a_full_disk_is_named(world: World, aggregates: list[Aggregate]) -> None:
    with full_disk(client.memory, "replace_private"):
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
    (world.site(0) / "federation.key").chmod(0o640)
    with pytest.raises(KeyFileError, match="0640"):
        Institution(world.site(0))


def test_a_missing_key_file(world: World) -> None:
    (world.site(0) / "federation.key").unlink()
    with pytest.raises(KeyFileError):
        Institution(world.site(0))


def test_another_key(world: World) -> None:
    path = world.site(0) / "federation.key"
    parameters = load_key(path).parameters
    path.unlink()
    save_key(make_key(parameters), path)
    with pytest.raises(WrongKeyError, match="fingerprint"):
        Institution(world.site(0))


def test_a_lax_memory_folder(world: World) -> None:
    folder = world.site(1) / "memory"
    folder.chmod(0o755)
    with pytest.raises(KeyFileError, match="chmod 700"):
        Institution(world.site(1))


@pytest.mark.parametrize(
    "name", ["site.toml", "genesis.json", "genesis.safetensors", "weights.safetensors", "train.npz", "validation.npz"]
)
@pytest.mark.parametrize("damage", ["missing", "empty", "text", "altered"])
def test_a_damaged_folder_is_named(name: str, damage: str, world: World) -> None:
    path = world.site(0) / name
    data = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "altered":
        data[len(data) // 2] ^= 0x40
        path.write_bytes(data)
    else:
        path.write_bytes(b"" if damage == "empty" else b"no such thing")
    try:
        Institution(world.site(0))
    except DictPFLError:
        return
    assert (name, damage) in {("site.toml", "empty"), ("site.toml", "altered")}, "it was taken as it is"


def test_other_weights(world: World) -> None:
    from safetensors.numpy import load_file, save_file

    path = world.site(0) / "weights.safetensors"
    tensors = load_file(path)
    first = next(iter(tensors))
    tensors[first] = tensors[first] + 1
    save_file(tensors, path)
    with pytest.raises(ConfigError, match="W0"):
        Institution(world.site(0))


def test_no_training_samples(world: World) -> None:
    from client.data import Samples

    path = world.site(0) / "train.npz"
    Samples.load(path).take(np.zeros(0, dtype=np.int64)).save(path)
    with pytest.raises(DataError, match="at least one"):
        Institution(world.site(0))


def test_an_insecure_federation_needs_the_sites_consent(tmp_path: Path) -> None:
    world = World.found(tiny(), tmp_path / "world")
    SiteSettings(name="a", toy_insecure=False).save(world.site(0))
    with pytest.raises(InsecureParametersError, match="toy_insecure = true"):
        Institution(world.site(0))


def test_what_was_prepared_ahead_goes_into_the_next_upload(world: World, aggregates: list[Aggregate]) -> None:
    institution = world.institution(0)
    institution.prepare()
    sealer = institution._sealer
    assert isinstance(sealer, CKKSSealer)
    ahead = [bytes(zero[-64:]) for zero in sealer._zeros]
    reply = ask(world, 3, RoundKind.UPDATE, *aggregates)
    assert reply.status is Status.UPLOAD
    used = len(ahead) - sealer.prepared
    assert used >= 1
    assert all(seed in reply.blob for seed in ahead[:used])


@pytest.mark.parametrize("file", ["genesis.json", "site.toml", "train.npz", "validation.npz"])
def test_an_open_institution_is_kept_until_a_file_of_its_own_changes(world: World, file: str) -> None:
    client.institution._OPEN.clear()
    first = open_institution(world.site(0))
    assert open_institution(world.site(0)) is first
    os.utime(world.site(0) / file, (1, 1))
    assert open_institution(world.site(0)) is not first
    client.institution._OPEN.clear()


@pytest.mark.parametrize(
    "name", ["Charité — Berlin", 'quo"ted', "back\\slash", "new\nline", "tab\t", "😀", "", "#", "\u2028"]
)
def test_a_sites_name_comes_back(name: str, tmp_path: Path) -> None:
    settings = SiteSettings(name=name, min_participants=5, toy_insecure=True)
    settings.save(tmp_path)
    assert SiteSettings.load(tmp_path) == settings
