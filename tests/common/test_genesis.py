"""Genesis: saved and loaded, what the federation id covers, and what is refused."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dictpfl.common.ckks.parameters import GUARDS, CKKSParameters
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError, IntegrityError, ParameterError
from dictpfl.common.files import tensors_digest, write_private
from dictpfl.common.genesis import Genesis, components, pad, padded, require_tagged
from dictpfl.common.law.dictionary import Dictionary
from dictpfl.common.law.layout import Kind, Layout
from dictpfl.common.law.refresh import tables
from dictpfl.common.law.round import Plan, begin
from dictpfl.common.law.state import Refresh
from dictpfl.common.law.tags import TAGS, RoundTags
from dictpfl.common.law.tally import Tally
from dictpfl.common.messages.protocol import RoundKind
from dictpfl.common.messages.wire import UPLOAD, Blob, Entry, Header, write
from dictpfl.common.protection import Encryption


@pytest.fixture
def genesis() -> Genesis:
    layout = Layout.of([("w", (2, 5), Kind.TABLE), ("v", (2, 3), Kind.TABLE), ("b", (3,), Kind.DENSE)])
    rng = np.random.default_rng(0)
    parameters = CKKSParameters.choose(Encryption(), 3)
    return Genesis(
        config=FederationConfig.of({"decomposition": {"refresh_every": 2, "orientation": "smaller"}}),
        layout=layout,
        values=rng.normal(size=layout.size),
        dictionaries={
            "w": Dictionary(rng.normal(size=(6, 2)).astype(np.float32), transposed=False),
            "v": Dictionary(rng.normal(size=(7, 2)).astype(np.float32), transposed=True),
        },
        weights_digest=b"w" * 32, seed=b"s" * 32, sample_cap=64, parameters=parameters, fingerprint=b"k" * 32, outputs=3, sample_shape=(5,),
    )  # fmt: skip


def test_saved_and_loaded(tmp_path: Path, genesis: Genesis) -> None:
    genesis.save(tmp_path)
    found = Genesis.load(tmp_path)
    assert found.federation == genesis.federation
    assert found.law == genesis.law
    assert found.start().digest == genesis.start().digest
    assert found.limits == genesis.limits
    for name, d in genesis.dictionaries.items():
        assert (found.dictionaries[name].matrix == d.matrix).all()
        assert found.dictionaries[name].transposed == d.transposed
    for file in tmp_path.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_the_id_covers_what_training_depends_on(genesis: Genesis) -> None:
    values = genesis.values.copy()
    values[3] = np.nextafter(values[3], 9)
    turned = {**genesis.dictionaries, "w": replace(genesis.dictionaries["w"], transposed=True)}
    matrix = genesis.dictionaries["w"].matrix.copy()
    matrix[0, 0] = np.nextafter(matrix[0, 0], np.float32(9))
    others = [
        replace(genesis, values=values),
        replace(genesis, dictionaries=turned),
        replace(genesis, dictionaries={**genesis.dictionaries, "w": Dictionary(matrix, transposed=False)}),
        replace(genesis, weights_digest=b"x" * 32),
        replace(genesis, seed=b"t" * 32),
        replace(genesis, sample_cap=65),
        replace(genesis, outputs=4),
        replace(genesis, sample_shape=(6,)),
        replace(genesis, parameters=CKKSParameters.choose(Encryption(), 4)),
        replace(genesis, layout=Layout.of([("w", (2, 5), Kind.TABLE), ("v", (2, 3), Kind.TABLE), ("c", (3,), Kind.DENSE)])),
        *(replace(genesis, config=FederationConfig.of({"decomposition": {"refresh_every": 2, "orientation": "smaller"}}, o))
          for o in ({"pruning.s": 0.6}, {"training.learning_rate": 0.1}, {"federation.rounds": 21}, {"grid.value_bits": 9}, {"training.proximal": 0.1},
                    {"aggregation.rule": "adam"}, {"aggregation.rate": 0.5}, *({"aggregation.rule": "adam", **one} for one in (
                        {"aggregation.momentum": 0.5}, {"aggregation.second": 0.9}, {"aggregation.floor": 1e-8})))),
    ]  # fmt: skip
    assert len({genesis.federation, *(other.federation for other in others)}) == len(others) + 1


def test_the_id_does_not_depend_on_how_uploads_are_carried(genesis: Genesis) -> None:
    raw = {"decomposition": {"refresh_every": 2, "orientation": "smaller"}}
    plain = FederationConfig.of(
        raw, {"encryption.sealer": "identity", "toy_insecure": True, "name": "x", "training.device": "cpu"}
    )
    assert replace(genesis, config=plain, fingerprint=b"x" * 32).federation == genesis.federation
    for carried in ({"encryption.pad_to": "full"}, {"encryption.pad_to": "steps"}, {"defences.masks": True}):
        config = FederationConfig.of(raw, carried)
        assert replace(genesis, config=config).federation == genesis.federation, carried
    assert replace(genesis, epoch_seed=b"e" * 32).federation == genesis.federation, "a rotation keeps the federation"


@pytest.mark.parametrize(
    "change",
    [{"seed": "00" * 32}, {"sample_cap": 1}, {"outputs": 9}, {"format": "x"}, {"layout": []}, {"seed": "zz"}, {"transposed": []},
     {"parameters": {}}, {"federation": "00" * 32}, {"config": {"unknown": 1}}, {"weights_digest": ""}, {"sample_shape": None}],
    ids=str,
)  # fmt: skip
def test_an_altered_genesis_is_refused(tmp_path: Path, genesis: Genesis, change: dict[str, object]) -> None:
    genesis.save(tmp_path)
    document = json.loads((tmp_path / "genesis.json").read_bytes())
    write_private(tmp_path / "genesis.json", json.dumps({**document, **change}).encode())
    with pytest.raises((ConfigError, ParameterError)):
        Genesis.load(tmp_path)


def test_damaged_tensors_are_refused(tmp_path: Path, genesis: Genesis) -> None:
    genesis.save(tmp_path)
    path = tmp_path / "genesis.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    for data in (bytes(raw), bytes(raw[:-3]), b""):
        write_private(path, data)
        with pytest.raises(ConfigError):
            Genesis.load(tmp_path)
    path.unlink()
    with pytest.raises(ConfigError):
        Genesis.load(tmp_path)


def test_drawn_dictionaries_keep_shapes_and_change(genesis: Genesis) -> None:
    assert genesis.drawn_dictionaries(()) == dict(genesis.dictionaries)
    everything = Refresh(np.ones(len(tables(genesis.layout)), dtype=bool), np.zeros(0))
    first, second = genesis.drawn_dictionaries([everything]), genesis.drawn_dictionaries([everything] * 2)
    assert genesis.drawn_dictionaries([everything, replace(everything, chosen=~everything.chosen)]) == {}
    for name, d in genesis.dictionaries.items():
        assert first[name].matrix.shape == d.matrix.shape
        assert first[name].transposed == d.transposed
        assert (first[name].matrix != second[name].matrix).any()


@pytest.fixture
def cores(genesis: Genesis) -> Genesis:
    """The same with a dictionary on either side of each weight."""
    rng, layout = np.random.default_rng(1), Layout.of([("w", (2, 2), Kind.TABLE), ("v", (2, 2), Kind.TABLE)])
    right = {"w": 5, "v": 3}
    config = {"decomposition": {"refresh_every": 2, "orientation": "smaller", "form": "core", "rank": 2}}
    return replace(
        genesis,
        config=FederationConfig.of(config),
        layout=layout,
        values=np.zeros(layout.size),
        dictionaries={
            name: replace(d, right=rng.normal(size=(2, right[name])).astype(np.float32))
            for name, d in genesis.dictionaries.items()
        },
    )


def test_right_dictionaries_are_saved_and_agreed_on(tmp_path: Path, cores: Genesis) -> None:
    cores.save(tmp_path)
    found = Genesis.load(tmp_path)
    assert found.federation == cores.federation
    for name, d in cores.dictionaries.items():
        assert d.right is not None
        np.testing.assert_array_equal(found.dictionaries[name].right, d.right)
    d = cores.dictionaries["w"]
    assert d.right is not None
    right = d.right.copy()
    right[0, 0] = np.nextafter(right[0, 0], np.float32(9))
    for other in (replace(d, right=right), replace(d, right=None), cores.dictionaries["v"]):
        assert replace(cores, dictionaries={**cores.dictionaries, "w": other}).federation != cores.federation


def test_refreshes_draw_both_sides(cores: Genesis) -> None:
    everything = Refresh(np.ones(2, dtype=bool), np.zeros(8))
    first, second = cores.drawn_dictionaries([everything]), cores.drawn_dictionaries([everything] * 2)
    for name, d in cores.dictionaries.items():
        made, later = first[name], second[name]
        assert d.right is not None
        assert made.right is not None
        assert later.right is not None
        assert (made.matrix.shape, made.right.shape, made.transposed) == (d.matrix.shape, d.right.shape, d.transposed)
        assert (made.right != later.right).any()


def test_a_genesis_of_protocol_3_is_told_what_to_do(tmp_path: Path, genesis: Genesis) -> None:
    """In one sentence, whatever else of it cannot be read any more."""
    genesis.save(tmp_path)
    document = json.loads((tmp_path / "genesis.json").read_bytes())
    document["parameters"] = {**document["parameters"], "seeded_sums": True}
    del document["parameters"]["word_bits"]
    document["config"]["encryption"] |= {"seeded_sums": "auto", "pad_uploads": False}
    del document["config"]["encryption"]["pad_to"]
    document |= {"upload_length": 32_972, "sum_length": 32_972, "federation": "00" * 32}
    write_private(tmp_path / "genesis.json", json.dumps(document).encode())
    with pytest.raises(ParameterError) as caught:
        Genesis.load(tmp_path)
    assert str(caught.value) == (
        "CKKS parameters of protocol 3, expected 4: found the federation anew from its last model "
        "(docs/reference/compatibility.md#move-from-protocol-3)"
    )


def test_an_epochs_seed_takes_the_place_of_the_first_one(genesis: Genesis) -> None:
    """Who has left knows the seed of genesis, and follows no round of a later epoch with it (finding F5)."""
    later = replace(genesis, epoch_seed=b"e" * 32)
    assert (genesis.secret_seed, later.secret_seed) == (genesis.seed, b"e" * 32)
    assert (genesis.law.seed, later.law.seed) == (genesis.seed, b"e" * 32)
    header = Header(UPLOAD, RoundKind.UPDATE, 3, 0, genesis.federation, genesis.fingerprint, bytes(32))
    assert genesis.tags(header) != later.tags(header)
    assert later.tags(header) == RoundTags.of(b"e" * 32, header, genesis.parameters.word_prime)
    assert "e" * 32 not in repr(later)
    assert not any(b"e" * 32 in data or (b"e" * 32).hex().encode() in data for data in later.files().values())


# Sizes


def padding(genesis: Genesis, pad_to: str, **more: object) -> Genesis:
    raw = {"decomposition": {"refresh_every": 2, "orientation": "smaller"}, "encryption": {"pad_to": pad_to}}
    return replace(genesis, config=FederationConfig.of(raw, more))


@pytest.mark.parametrize("pad_to", ["none", "steps", "full"])
@pytest.mark.parametrize("plain", [False, True])
def test_limits_admit_the_widest_round(genesis: Genesis, pad_to: str, plain: bool) -> None:
    """Scores: one value a component, behind the ledger; guards and tags beside them."""
    changes = {"encryption.sealer": "identity", "toy_insecure": True} if plain else {}
    limits = padding(genesis, pad_to, **changes).limits
    most = 6 + 1 + genesis.layout.size
    assert limits.max_words == most + (0 if plain else GUARDS) + TAGS
    assert limits.word_bits == genesis.parameters.word_bits
    assert limits.max_clear == 0
    assert limits.max_contributors == 3


def plans(genesis: Genesis) -> dict[str, Plan]:
    """Plans of update rounds with all, some and hardly any of a larger vector's values, and of the other kinds."""
    state = genesis.start()
    law = replace(genesis.law, tallies=(Tally("votes", Layout.of([("v", (7,), Kind.DENSE)]), 20, 0, "opening"),))
    made = {kind.value: begin(law, state, kind) for kind in RoundKind}
    for name, left in (("half", 2), ("a tenth", 10)):
        idle = np.where(np.arange(genesis.layout.size) % left, 255, 0).astype(np.uint8)
        exponent = np.full(genesis.layout.size, 255, np.uint8)
        later = replace(state, updates=3, history=replace(state.history, idle=idle, exponent=exponent))
        made[name] = begin(genesis.law, later, RoundKind.UPDATE)
    made["whole"] = begin(genesis.law, replace(state, updates=3), RoundKind.UPDATE)
    return made


def test_sizes_of_uploads_are_as_padding_says(genesis: Genesis) -> None:
    layout = Layout.of([("w", (40, 50), Kind.TABLE), ("b", (300,), Kind.DENSE)])
    wide = replace(genesis, layout=layout, values=np.zeros(layout.size), dictionaries={})
    sizes = {
        pad_to: {name: components(padding(wide, pad_to), plan) for name, plan in plans(wide).items()}
        for pad_to in ("none", "steps", "full")
    }
    for name, plan in plans(wide).items():
        needed = wide.law.ledger.size + plan.sealed.digits.components(plan.sealed.index.size)
        assert sizes["none"][name] == needed
        assert needed <= sizes["steps"][name] <= needed * 17 / 16
    assert sizes["none"]["half"] > sizes["none"]["a tenth"]
    updates = ("half", "a tenth", "whole")
    assert {sizes["full"][name] for name in updates} == {sizes["none"]["whole"]}
    assert sizes["full"]["measure"] == sizes["none"]["measure"] == wide.law.ledger.size, "kinds are no secret"
    assert sizes["full"]["score"] == sizes["none"]["score"]


@given(st.integers(1, 10**7))
def test_steps_are_sixteen_between_two_powers_of_two(needed: int) -> None:
    padded_to = pad("steps", needed)
    assert needed <= padded_to <= max(needed + 1, needed * 17 / 16)
    assert pad("steps", padded_to) == padded_to
    low = 1 << (padded_to.bit_length() - 1)
    assert low < 16 or padded_to % (low // 16) == 0
    assert pad("none", needed) == needed


def test_padding_is_zeros_behind_what_is_sent(genesis: Genesis) -> None:
    layout = Layout.of([("w", (40, 50), Kind.TABLE)])
    wide = padding(replace(genesis, layout=layout, values=np.zeros(layout.size), dictionaries={}), "full")
    plan = plans(wide)["a tenth"]
    packed = np.arange(1, wide.law.ledger.size + plan.sealed.digits.components(plan.sealed.index.size) + 1)
    found = padded(wide, plan, packed)
    assert found.size == components(wide, plan) > packed.size
    assert found[: packed.size].tolist() == packed.tolist()
    assert not found[packed.size :].any()


def test_a_sum_is_read_only_with_its_tags(genesis: Genesis) -> None:
    entry = Entry(1, b"u" * 16, b"s" * 32)
    header = Header(UPLOAD, RoundKind.MEASURE, 3, 0, genesis.federation, genesis.fingerprint, bytes(32))
    words, bits = np.arange(11, dtype=np.uint64), genesis.parameters.word_bits
    tags = genesis.tags(header).made(words, b"", entry)
    good = write(header, [entry], np.concatenate([words, tags]), bits)
    assert require_tagged(genesis, Blob.own(good, bits)).tolist() == words.tolist()
    bad = [
        write(header, [entry], np.concatenate([words, tags[::-1]]), bits),
        write(header, [entry], np.concatenate([words + np.uint64(1), tags]), bits),
        write(header, [entry], tags, bits),
        write(header, [entry], words[:1], bits),
        write(replace(header, attempt=1), [entry], np.concatenate([words, tags]), bits),
        write(header, [replace(entry, member=2)], np.concatenate([words, tags]), bits),
    ]
    beyond, p = np.concatenate([words, tags]), np.uint64(genesis.parameters.word_prime)
    for place in (0, 10, -1):
        raised = beyond.copy()
        raised[place] += p
        with pytest.raises(IntegrityError, match="Nothing was decrypted", check=lambda e: e.reason == "tag"):
            require_tagged(genesis, Blob.own(good, bits), raised)
    for data in bad:
        with pytest.raises(IntegrityError, match="Nothing was decrypted", check=lambda e: e.reason == "tag"):
            require_tagged(genesis, Blob.own(data, bits))
    with pytest.raises(IntegrityError):
        require_tagged(replace(genesis, epoch_seed=b"e" * 32), Blob.own(good, bits))


def test_tensor_digests() -> None:
    a = {"x": np.zeros(3), "y": np.zeros(2)}
    others = [
        {"x": np.zeros(3)},
        {**a, "x": np.zeros((3, 1))},
        {**a, "x": np.zeros(3, np.float32)},
        {"z": np.zeros(3), "y": a["y"]},
    ]
    assert len({tensors_digest(one) for one in [a, *others]}) == 5
    assert tensors_digest(dict(reversed(a.items()))) == tensors_digest(a)


VOTES = Tally("votes", Layout.of([("v", (2, 3), Kind.DENSE), ("n", (1,), Kind.DENSE)]), 20, 4, "opening", "none")


def test_tallies_are_agreed_on(tmp_path: Path, genesis: Genesis) -> None:
    """Each of their facts is part of the federation id, is written down, and read back."""
    with_two = replace(genesis, tallies=(VOTES, replace(VOTES, when="closing")))
    with_two.save(tmp_path)
    found = Genesis.load(tmp_path)
    assert found.tallies == with_two.tallies
    assert found.law == with_two.law
    others = [replace(VOTES, **{name: value}) for name, value in {
        "name": "x", "when": "closing", "weight": "samples", "bound": 21, "fraction": 5, "layout": Layout.of([("v", (7,), Kind.DENSE)]),
    }.items()]  # fmt: skip
    ids = {
        replace(genesis, tallies=tallies).federation
        for tallies in ((), (VOTES,), with_two.tallies, *((o,) for o in others))
    }
    assert len(ids) == 3 + len(others)
    document = json.loads((tmp_path / "genesis.json").read_text())
    document["tallies"][0]["bound"] = 22
    (tmp_path / "genesis.json").write_text(json.dumps(document))
    with pytest.raises(ConfigError, match="does not match its federation id"):
        Genesis.load(tmp_path)
    document["tallies"][0]["bound"] = 60
    (tmp_path / "genesis.json").write_text(json.dumps(document))
    with pytest.raises(ConfigError, match=r"expected bound \+ fraction from 0 to 52"):
        Genesis.load(tmp_path)


def test_limits_admit_the_largest_tally(genesis: Genesis) -> None:
    """A tally may be larger than the shared vector."""
    large = replace(VOTES, layout=Layout.of([("v", (5000,), Kind.DENSE)]))
    wide = replace(padding(genesis, "none"), tallies=(VOTES, large))
    needed = wide.law.ledger.size + large.digits(3, wide.parameters.payload_bits).components(5000)
    assert wide.limits.max_words == wide.words(needed) > genesis.limits.max_words
    assert replace(genesis, tallies=(VOTES,)).limits == replace(
        genesis.limits, federation=replace(genesis, tallies=(VOTES,)).federation
    )


def test_federations_without_tallies_keep_their_ids(genesis: Genesis) -> None:
    """As recorded before there were tallies; the section of the configuration is left out while it is empty."""
    selective = FederationConfig.of({"method": "fedml-he", "toy_insecure": True})
    assert genesis.federation.hex() == "4bb9b0f63c5643950898d2c4880000ac1f32b9dd8141a4b9ae7cc4868d0a28c7"
    other = replace(genesis, config=selective).federation.hex()
    assert other == "e110de2da256f0c5768f6f08707c9f5341f183225aaeaa5c69c859b0f7dc9c44"
