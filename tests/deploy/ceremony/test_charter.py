"""What an authority fixes without data, and what it refuses because it would need some."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, save_file

from dictpfl.client.model.build import build_model
from dictpfl.common.errors import ConfigError, DictPFLError, IdentityError, ModelError, ParameterError
from dictpfl.deploy.ceremony import authority
from dictpfl.deploy.ceremony.charter import draw_up
from dictpfl.deploy.ceremony.identity import PUBLIC
from dictpfl.deploy.simulation.founding import found
from tests.support.ceremonies import APP, NAMES, PASSPHRASES, Ceremony, config


def test_the_same_federation_as_a_simulations(tmp_path: Path) -> None:
    """With the same config and seed, a deployment is the very federation that `simulate` founds, but for the key and its seed."""
    agreed = config(data__limit=150, federation__max_participants=0)
    simulated = found(agreed, tmp_path / "world").genesis
    charter = draw_up(agreed, simulated.sample_shape, simulated.outputs, seed=simulated.seed)
    assert charter.genesis.federation == simulated.federation
    assert charter.genesis.limits.max_words == simulated.limits.max_words
    assert charter.key.seed not in (b"", charter.genesis.seed), "what tags are made with is drawn all the same"
    weights = load((tmp_path / "world/institutions/institution-000/weights.safetensors").read_bytes())
    assert all(torch.equal(weights[name], tensor) for name, tensor in load(charter.weights).items())


def test_given_weights_are_w0(tmp_path: Path) -> None:
    agreed = config()
    model = build_model(agreed.model, (6,), 3, seed=99)
    save_file(model.state_dict(), tmp_path / "w0.safetensors")
    charter = draw_up(agreed, (6,), 3, weights=tmp_path / "w0.safetensors")
    assert torch.equal(load(charter.weights)["1.weight"], model.state_dict()["1.weight"])
    assert charter.genesis.weights_digest != draw_up(agreed, (6,), 3).genesis.weights_digest
    # Where a file lies is nobody's agreement.
    seed = charter.genesis.seed
    (tmp_path / "w0.safetensors").rename(tmp_path / "other.safetensors")
    again = draw_up(agreed, (6,), 3, weights=tmp_path / "other.safetensors", seed=seed)
    assert again.genesis.federation == charter.genesis.federation


REFUSED = {
    "no sample cap": (config(federation__sample_cap=0), (6,), ConfigError, "sample_cap is 0"),
    "a sample cap beyond the ledger": (config(federation__sample_cap=2**60), (6,), ConfigError, "beyond what the ledger"),
    "no encryption": (
        config(encryption__sealer="identity", toy_insecure=True), (6,), (ParameterError, "insecure"), "no key to hand out",
    ),
    "dictionaries of gradients": (
        config(decomposition__basis="gradient", data__public_share=0.1), (6,), ConfigError, "make them again",
    ),
    "pretraining": (config(model__pretrain={"epochs": 1}), (6,), ConfigError, "does not have"),
    "a table for a convolution": (config(model__source="cnn", model__options={}), (6,), DictPFLError, ""),
    "another task": (config(training__task="nothing"), (6,), DictPFLError, "nothing"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_with_the_reason(name: str) -> None:
    agreed, shape, error, match = REFUSED[name]
    error, code = error if isinstance(error, tuple) else (error, "")
    with pytest.raises(error, match=match or None, check=lambda e: code in ("", e.code)):
        draw_up(agreed, shape, 3)


def test_a_seed_of_another_length() -> None:
    with pytest.raises(ConfigError, match="expected 32"):
        draw_up(config(), (6,), 3, seed=b"short")


def a_text_model(sample_shape: tuple[int, ...], outputs: int) -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Embedding(20, 8), torch.nn.Flatten(), torch.nn.Linear(8 * sample_shape[0], outputs)
    )


def test_models_that_read_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "users_text_model", sys.modules[__name__])
    agreed = config(model__source="users_text_model:a_text_model", model__options={})
    assert draw_up(agreed, (5,), 3).genesis.layout.size > 0


def test_outputs_that_do_not_fit_the_task() -> None:
    with pytest.raises((ModelError, DictPFLError)):
        draw_up(config(model__source="vit_tiny", model__options={}), (6,), 3)


def test_refused_ceremonies_leave_nothing(ceremony: Ceremony) -> None:
    passphrase = PASSPHRASES["authority"]
    files = {name: ceremony.home(name) / PUBLIC for name in NAMES}
    how = {"app": APP, "sample_shape": (6,), "outputs": 3}
    out = ceremony.root / "out"
    with pytest.raises(ConfigError, match="already has a federation"):
        authority.found(ceremony.authority, passphrase, config(), files, out, **how)
    (ceremony.authority / "federation.sealed").unlink()
    with pytest.raises(ConfigError, match="participants is 3, 2"):
        authority.found(ceremony.authority, passphrase, config(), dict(list(files.items())[:2]), out, **how)
    with pytest.raises(IdentityError, match="expected the institution 'kyoto'"):
        authority.found(ceremony.authority, passphrase, config(), files | {"kyoto": files["oslo"]}, out, **how)
    with pytest.raises(IdentityError, match="of the authority"):
        authority.found(ceremony.authority, passphrase, config(), {"ministry": ceremony.authority / PUBLIC}, out, **how)
    with pytest.raises(IdentityError, match="expected an authority's"):
        authority.found(ceremony.home("oslo"), PASSPHRASES["oslo"], config(), files, out, **how)
    assert not out.exists()
    assert not [path for path in ceremony.root.iterdir() if path.name.startswith(".")]
    issued = authority.found(ceremony.authority, passphrase, config(), files, out, **how)
    assert np.array_equal(issued.genesis.values, issued.genesis.start().values)
    nodes = {path.stem: path.read_text() for path in (out / "coordinator/nodes").iterdir()}
    assert nodes == {name: (ceremony.home(name) / "node.pub").read_text() for name in NAMES}
