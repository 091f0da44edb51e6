"""The configuration file and genesis: what is refused, and what the federation id covers."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.config import FederationConfig, known_keys, literal_values
from common.dictionary import Dictionary
from common.errors import ConfigError, InsecureParametersError, ParameterError
from common.files import write_private
from common.genesis import Genesis, tensors_digest
from common.layout import Kind, Layout
from common.parameters import CKKSParameters
from common.presets import METHODS
from common.refresh import tables
from common.seams import load_seam
from common.settings import Encryption, Pruning
from common.state import Refresh

# -- configuration ---------------------------------------------------------------------------------------


def test_the_default_is_sound() -> None:
    config = FederationConfig.of({})
    assert config.insecurities == ()
    assert config.capacity == 3
    assert json.loads(config.canonical()) == config.model_dump(mode="json")


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"training": {"epoch": 1}}, "nearest known key is 'training.epochs'"),
        ({"nonsense": 1}, "unknown key 'nonsense'"),
        ({"pruning": {"s": 1.5}}, r"pruning\.s"),
        ({"pruning": {"beta": 0.0}}, r"pruning\.beta"),
        ({"grid": {"first_range": float("inf")}}, "first_range"),
        ({"method": "magic"}, "unknown method"),
        ({"federation": {"participants": 5, "max_participants": 4}}, "raise max_participants"),
        ({"federation": {"participants": 3, "min_participants": 4}}, "no round could ever close"),
        ({"encryption": {"ring_degree": 1000}}, "ring_degree"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(raw: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        FederationConfig.of(raw)


@pytest.mark.parametrize(
    "raw",
    [
        {"encryption": {"sealer": "identity"}}, {"encryption": {"sealed_share": 0.5}}, {"method": "plaintext"},
        {"method": "fedml-he"}, {"federation": {"participants": 2, "min_participants": 2}},
    ],
    ids=str,
)  # fmt: skip
def test_what_protects_nobody_must_be_admitted(raw: dict[str, object]) -> None:
    with pytest.raises(InsecureParametersError, match="toy_insecure"):
        FederationConfig.of(raw)
    assert FederationConfig.of({**raw, "toy_insecure": True}).insecurities


def test_overrides_and_presets() -> None:
    assert FederationConfig.of({}, {"training.epochs": 3}).training.epochs == 3
    with pytest.raises(ConfigError, match="not a section"):
        FederationConfig.of({"name": "x"}, {"name.more": 1})
    mild = FederationConfig.of({"method": "fedml-he", "encryption": {"sealed_share": 0.3}, "toy_insecure": True})
    assert mild.encryption.sealed_share == 0.3
    assert FederationConfig.of({"method": "dictpfl-paper", "pruning": {"beta": 0.9}}).pruning.beta == 0.2
    for method in METHODS:
        FederationConfig.of({"method": method, "toy_insecure": True})


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "f.toml"
    with pytest.raises(ConfigError, match="no configuration file"):
        FederationConfig.load(path)
    for text in (b"a = = b", b"\xff\xfe"):
        path.write_bytes(text)
        with pytest.raises(ConfigError):
            FederationConfig.load(path)
    path.write_text("[training]\nepochs = 2\n", encoding="utf-8")
    assert FederationConfig.load(path).training.epochs == 2
    with pytest.raises(ConfigError, match="cannot read"):
        FederationConfig.load(tmp_path)


def test_known_keys_and_words() -> None:
    keys = set(known_keys())
    assert {"training.epochs", "model.pretrain.epochs", "toy_insecure"} <= keys
    assert literal_values(Pruning, "pruned") == ("accumulate", "freeze", "discard")
    with pytest.raises(ConfigError, match="is unknown"):
        load_seam("x", {"a": 1}, "k")


# -- genesis ---------------------------------------------------------------------------------------------


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
        weights_digest=b"w" * 32, seed=b"s" * 32, sample_cap=64, parameters=parameters, fingerprint=b"k" * 32,
        upload_length=32_972, sum_length=32_972, outputs=3, sample_shape=(5,),
    )  # fmt: skip


def test_saved_and_loaded(tmp_path: Path, genesis: Genesis) -> None:
    genesis.save(tmp_path)
    found = Genesis.load(tmp_path)
    assert found.federation == genesis.federation
    assert found.law == genesis.law
    assert found.start().digest == genesis.start().digest
    assert found.uploads == genesis.uploads
    assert found.aggregates == replace(genesis.uploads, seed_length=64)
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
          for o in ({"pruning.s": 0.6}, {"training.learning_rate": 0.1}, {"federation.rounds": 21}, {"grid.value_bits": 9})),
    ]  # fmt: skip
    assert len({genesis.federation, *(other.federation for other in others)}) == len(others) + 1


def test_the_id_does_not_depend_on_how_uploads_are_carried(genesis: Genesis) -> None:
    raw = {"decomposition": {"refresh_every": 2, "orientation": "smaller"}}
    plain = FederationConfig.of(
        raw, {"encryption.sealer": "identity", "toy_insecure": True, "name": "x", "training.device": "cpu"}
    )
    assert replace(genesis, config=plain, fingerprint=b"x" * 32).federation == genesis.federation


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


def test_limits_admit_the_widest_round(genesis: Genesis) -> None:
    assert genesis.uploads.max_items == 1
    assert genesis.uploads.max_clear == 0
    assert genesis.uploads.max_contributors == 3


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


def test_what_is_set_by_name_wins_over_a_preset() -> None:
    config = FederationConfig.of({"pruning": {"tau": 9}}, {"method": "dictpfl-paper", "pruning.beta": 0.8})
    assert (config.pruning.tau, config.pruning.beta, config.pruning.residual_decay) == (3, 0.8, 1.0)
