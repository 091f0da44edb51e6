"""Arithmetic of training: what narrow types change, what they must not, and what waits on the device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dictpfl.client.data.samples import Samples
from dictpfl.client.model.build import build_model
from dictpfl.client.model.twin import Twin, decompose
from dictpfl.client.training import speed
from dictpfl.client.training.speed import Losses, Precision, device_name, home_of, narrowable
from dictpfl.client.training.task import load_task
from dictpfl.client.training.tasks.classification import Classification
from dictpfl.client.training.train import evaluate, train
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError, ModelError
from dictpfl.common.settings import Model, Training

CPU = torch.device("cpu")
SMALL: dict[str, dict[str, Any]] = {
    "cnn": {"width": 4, "depth": 2},
    "vit_tiny": {"dim": 16, "heads": 2, "depth": 1},
    "mlp": {"hidden": [16]},
}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def settings(**changes: Any) -> Training:
    return Training(**({"device": "cpu", "batch_size": 8, "steps": 3, "learning_rate": 1e-2} | changes))


def images(count: int = 24) -> Samples:
    rng = np.random.default_rng(0)
    return Samples(rng.normal(size=(count, 1, 8, 8)), rng.integers(0, 3, count))


def twin_of(source: str) -> Twin:
    return decompose(build_model(Model(source=source, options=SMALL[source]), (1, 8, 8), 3, seed=1), rank=2)


def weights(twin: Twin) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in twin.module.state_dict().items()}


@pytest.mark.parametrize("source", SMALL)
def test_narrow_frozen_weights_have_the_bits_of_autocast_alone(source: str) -> None:
    seen, figures, twins = [], [], []
    for frozen in ("full", "narrow"):
        chosen, twin = settings(autocast="bfloat16", frozen=frozen), twin_of(source)
        looked: list[torch.dtype] = []
        layer = next(m for m in twin.module.modules() if hasattr(m, "dictionary"))
        layer.register_forward_pre_hook(lambda m, _, looked=looked: looked.append(m.weight.dtype))  # type: ignore[misc]
        train(twin, images(), chosen, Classification(), seed=5)
        figures.append(evaluate(twin.module, images(), Classification(), precision=Precision(chosen, CPU)))
        seen.append(set(looked))
        twins.append(twin)
    assert seen == [{torch.float32}, {torch.bfloat16}], "nothing was narrowed"
    assert np.array_equal(twins[0].read(), twins[1].read())
    assert figures[0] == figures[1]


def test_w0_comes_back_bit_for_bit_whatever_happens() -> None:
    twin = twin_of("cnn")
    before = {name: tensor for name, tensor in weights(twin).items() if "weight" in name}
    chosen = settings(autocast="bfloat16", frozen="narrow")
    precision = Precision(chosen, CPU)

    def interrupted() -> None:
        with precision.at_work(twin.module):
            assert {p.dtype for p in twin.module.parameters()} == {torch.float32, torch.bfloat16}
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    after = weights(twin)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert {p.dtype for p in twin.module.parameters()} == {torch.float32}


def test_a_refresh_of_w0_is_seen() -> None:
    """A narrow copy is kept, and must not outlive what it was made of."""
    layer = nn.Linear(4, 3).requires_grad_(False)
    module = nn.Sequential(layer, nn.Linear(3, 2))
    precision = Precision(settings(autocast="bfloat16", frozen="narrow"), CPU)
    with precision.at_work(module):
        first = layer.weight.data
    with precision.at_work(module):
        assert layer.weight.data is first or layer.weight.data.data_ptr() == first.data_ptr()
    with torch.no_grad():
        layer.weight.copy_(torch.ones(3, 4))
    with precision.at_work(module):
        assert torch.equal(layer.weight, torch.ones(3, 4, dtype=torch.bfloat16))


def test_what_is_used_in_another_way_stays_wide() -> None:
    module = nn.ModuleDict(
        {"words": nn.Embedding(5, 4), "head": nn.Linear(4, 5), "norm": nn.LayerNorm(4), "plain": nn.Linear(4, 4)}
    )
    module["head"].weight = module["words"].weight  # type: ignore[assignment]  # tied
    module.requires_grad_(False)
    assert [name for name, _ in narrowable(module)] == ["plain.weight"]
    module["plain"].requires_grad_(True)
    assert list(narrowable(module)) == []


def test_autocast_measures_too() -> None:
    twin, chosen = twin_of("cnn"), settings(autocast="bfloat16")
    plain = evaluate(twin.module, images(), Classification())
    narrow = evaluate(twin.module, images(), Classification(), precision=Precision(chosen, CPU))
    assert narrow.loss_sum != plain.loss_sum
    assert narrow.loss_sum == pytest.approx(plain.loss_sum, rel=0.05)
    same = evaluate(twin.module, images(), Classification(), precision=Precision(settings(autocast="auto"), CPU))
    assert same == plain, "on a processor, auto changes no bit"


def test_autocast_narrows_a_model_and_not_what_is_measured_of_it() -> None:
    """A model that computes nothing has the same figures: cosines of bfloat16 have many a partner as close as the right one."""
    rng, task = np.random.default_rng(0), load_task("contrastive")
    one = rng.normal(size=(128, 1, 16))
    near = Samples(1 + 0.1 * np.concatenate([one, one + 0.02 * rng.normal(size=one.shape)], axis=1), np.zeros(128))
    plain = evaluate(nn.Identity(), near, task)
    assert plain.metric_sum == 128
    assert evaluate(nn.Identity(), near, task, precision=Precision(settings(autocast="bfloat16"), CPU)) == plain


def test_losses_are_looked_at_rarely_on_a_gpu() -> None:
    """A processor's are read at once. (The device is named only: its losses are a processor's here.)"""
    at_once, rarely = Losses(CPU), Losses(torch.device("cuda"))
    for number in range(7):
        loss = torch.tensor(0.1 * number)
        at_once.add(loss, number)
        rarely.add(loss, number)
    assert (rarely.seen, rarely.total) == (0, 0.0)
    rarely.read()
    assert (rarely.seen, rarely.total) == (at_once.seen, at_once.total) == (21, pytest.approx(9.1))
    rarely.add(torch.tensor(1.0), 4)
    rarely.add(torch.tensor(float("nan")), 4)
    with pytest.raises(ModelError, match="the loss is nan after 25 samples"):
        rarely.read()
    with pytest.raises(ModelError, match="after 21 samples"):
        at_once.add(torch.tensor(float("inf")), 4)


def test_no_look_at_the_device_in_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for a GPU is `item`, `tolist`, `float`: none of them in the middle of a round of 20 steps."""
    looks: list[str] = []
    monkeypatch.setattr(speed, "_READ_TOGETHER", 100)
    monkeypatch.setattr(Losses, "__init__", _as_on_a_gpu)
    for name in ("item", "tolist", "__float__", "__bool__"):
        own = getattr(Tensor, name)

        def look(self: Tensor, _name: str = name, _own: Any = own) -> Any:
            if self.requires_grad or self.grad_fn is not None or self.dim() == 0:
                looks.append(_name)
            return _own(self)

        monkeypatch.setattr(Tensor, name, look)
    looked_at = {}
    for steps in (2, 22):
        looks.clear()
        train(twin_of("mlp"), images(), settings(steps=steps, optimizer="sgd"), Classification(), seed=1)
        looked_at[steps] = list(looks)
    assert looked_at[22] == looked_at[2]


def _as_on_a_gpu(self: Losses, _device: torch.device) -> None:
    self._every, self._waiting, self.seen, self.total = 100, [], 0, 0.0


def test_the_loss_scale_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of float16, which a processor is not given: so its autocast is asked for behind the settings' back."""
    monkeypatch.setattr(speed, "_autocast_type", lambda name, device: torch.float16)
    file = tmp_path / "loss_scale.json"
    first = Precision(settings(), CPU, file)
    assert first.scaler is not None
    assert first.scaler.get_scale() == 65536.0
    train(twin_of("mlp"), images(), settings(), Classification(), seed=1, scale=file)
    assert json.loads(file.read_bytes())["_growth_tracker"] == 3, "three steps without an overflow"
    kept = json.loads(file.read_bytes()) | {"scale": 512.0}
    file.write_text(json.dumps(kept))
    train(twin_of("mlp"), images(), settings(), Classification(), seed=1, scale=file)
    assert json.loads(file.read_bytes()) == kept | {"_growth_tracker": 6}
    file.write_text("{")
    begun_anew = Precision(settings(), CPU, file).scaler
    assert begun_anew is not None
    assert begun_anew.get_scale() == 65536.0


def test_tf32_is_allowed_while_at_work_only() -> None:
    assert torch.get_float32_matmul_precision() == "highest"
    precision = Precision(settings(tf32=True), CPU)
    with precision.at_work(nn.Linear(2, 2)):
        assert torch.get_float32_matmul_precision() == "highest", "a processor has none"
    with Precision(settings(tf32=True), torch.device("cuda")).at_work(nn.Linear(2, 2)):
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == "highest"


def test_uneven_batches_accumulate_to_the_step_of_the_whole() -> None:
    kind: dict[str, Any] = {"optimizer": "sgd", "learning_rate": 0.5, "steps": 0, "epochs": 1}
    found = {}
    for size, together in ((11, 1), (4, 3)):
        twin = twin_of("mlp")
        train(twin, images(11), settings(batch_size=size, accumulate=together, **kind), Classification(), seed=5)
        found[size] = twin.read()
    np.testing.assert_allclose(found[4], found[11], atol=1e-6)


def test_a_device_is_named_with_its_arithmetic() -> None:
    assert device_name(settings(autocast="auto"), CPU) == "cpu, float32"
    assert device_name(settings(autocast="bfloat16"), CPU) == "cpu, bfloat16"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"training.frozen": "narrow"}, 'set autocast = "auto"'),
        ({"training.tf32": True, "training.dtype": "float64"}, "narrows float32 alone"),
        ({"training.frozen": "narrow", "training.autocast": "auto", "training.dtype": "float64"}, "float32 alone"),
    ],
)
def test_arithmetic_that_nothing_would_use_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        FederationConfig.of({}, changes)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_w0_waits_on_the_processor() -> None:
    twin = twin_of("cnn")
    train(twin, images(), settings(device="cuda", autocast="auto", frozen="narrow"), Classification(), seed=5)
    assert {p.device.type for p in twin.module.parameters()} == {"cpu"}
    assert np.isfinite(twin.read()).all()


def test_a_model_waits_where_it_can_be_looked_at() -> None:
    """Of a federation that trains in float16 on GPUs, a machine without one still builds, exports and audits the model."""
    gpu = torch.device("cuda")
    assert home_of(settings(autocast="float16", frozen="narrow"), gpu) == CPU
    assert home_of(settings(autocast="float16"), CPU) == CPU
    assert home_of(settings(autocast="bfloat16"), gpu) == gpu
