"""Blocks one after the other: outputs are passed on where nothing lies between, and it changes no bit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn

from dictpfl.client.compress.sparse import sequential
from dictpfl.client.compress.sparse.inputs import Squares
from dictpfl.client.compress.sparse.prune import prune
from dictpfl.client.data.samples import PADDING, Samples
from dictpfl.client.model.sparse.weights import covered
from dictpfl.client.training.task import load_task

pytestmark = pytest.mark.usefixtures("quiet")
CLASSES, TEXT = load_task("classification"), load_task("causal-lm")
WIDTH = 12


def points() -> Samples:
    draw = np.random.default_rng(2)
    return Samples(draw.normal(size=(40, WIDTH)).astype(np.float32), draw.integers(0, 3, 40))


def texts(labels: int = 0) -> Samples:
    draw, ids = np.random.default_rng(1), np.full((20, 16), PADDING)
    for row in range(20):
        ids[row, : 3 + row % 14] = draw.integers(1, 30, 3 + row % 14)
    return Samples(ids, draw.integers(0, labels, 20) if labels else np.where(ids == PADDING, -100, ids))


def llama() -> nn.Module:
    torch.manual_seed(7)
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=4, num_attention_heads=2, use_cache=False
        )
    )  # fmt: skip


def bert() -> nn.Module:
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 12}
    return transformers.BertForSequenceClassification(transformers.BertConfig(vocab_size=32, num_labels=3, **sizes))


def hybrid() -> nn.Module:
    torch.manual_seed(0)
    return transformers.NemotronHForCausalLM(
        transformers.NemotronHConfig(
            vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=4, hybrid_override_pattern="M-*M",
            num_attention_heads=2, num_key_value_heads=1, head_dim=8, mamba_num_heads=4, mamba_head_dim=8, n_groups=2, ssm_state_size=4,
            use_cache=False, use_mamba_kernels=False,
        )
    )  # fmt: skip


class Block(nn.Module):
    def __init__(self, *, writes: bool = False) -> None:
        super().__init__()
        self.one, self.two, self.writes = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), writes

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.two(torch.relu(self.one(x)))
        return x.add_(out) if self.writes else x + out


class Stack(nn.Module):
    """Three blocks, with something between them or not."""

    def __init__(self, between: Callable[[Tensor], Tensor], *, writes: bool = False) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.between = between
        self.layers = nn.ModuleList([Block(writes=writes) for _ in range(3)])
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x + 0.0  # a copy: samples stay as they are
        for layer in self.layers:
            x = self.between(layer(x))
        out: Tensor = self.head(x)
        return out


def pruned(make: Callable[[], nn.Module], samples: Samples, task: Any, method: str) -> dict[str, Tensor]:
    return prune(make().eval(), samples, task, 0.5, method).model.state_dict()


SUBJECTS: dict[str, tuple[Callable[[], nn.Module], Samples, Any, int]] = {
    "llama": (llama, texts(), TEXT, 3),
    "bert": (bert, texts(3), CLASSES, 2),
    "hybrid": (hybrid, texts(), TEXT, 0),
    "stack": (lambda: Stack(lambda x: x), points(), CLASSES, 2),
    "scaled between": (lambda: Stack(lambda x: 2 * x), points(), CLASSES, 0),
    "written to between": (lambda: Stack(lambda x: x.add_(1.0)), points(), CLASSES, 0),
    "blocks that write": (lambda: Stack(lambda x: x, writes=True), points(), CLASSES, 0),
}


@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
@pytest.mark.parametrize("name", SUBJECTS)
def test_passing_on_changes_no_bit(name: str, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, samples, task, least = SUBJECTS[name]
    found = pruned(make, samples, task, method)
    model = make().eval()
    fed = [part.fed for part in sequential.parts_of(model, covered(model), samples)]
    assert sum(one is not None for one in fed) >= least
    assert least or not any(fed), "something lies between these blocks, or they have masks of their own"
    monkeypatch.setattr(sequential, "_feed", lambda _before, _after: None)
    for key, value in pruned(make, samples, task, method).items():
        assert torch.equal(value, found[key]), key


def test_blocks_that_write_to_their_input_are_pruned_as_others() -> None:
    """Calibrated on what a block left of its input, a second group of weights would see another input than the first."""
    written = pruned(lambda: Stack(lambda x: x, writes=True), points(), CLASSES, "sparsegpt")
    plain = pruned(lambda: Stack(lambda x: x), points(), CLASSES, "sparsegpt")
    for key, value in plain.items():
        assert torch.equal(value, written[key]), key


class Sometimes(Stack):
    """The second block is left out of batches whose first value is large."""

    def forward(self, x: Tensor) -> Tensor:
        first = float(x[0, 0])
        for number, layer in enumerate(self.layers):
            x = x if number == 1 and first > 1.0 else layer(x)
        out: Tensor = self.head(x)
        return out


def test_a_block_that_some_batches_leave_out_is_not_passed_on_to() -> None:
    samples = points()
    samples.features[:, 0] = np.repeat([0.0, 2.0, 0.0, 2.0, 0.0], 8)  # by batches of calibration
    model = Sometimes(lambda x: x).eval()
    assert [part.fed for part in sequential.parts_of(model, covered(model), samples)] == [None, None, None]
    assert prune(model, samples, CLASSES, 0.5, "wanda").kept


def test_a_deep_model_is_run_up_to_its_blocks_once() -> None:
    model, samples = llama().eval(), texts()
    runs = 0

    def count(*_: Any) -> None:
        nonlocal runs
        runs += 1

    model.get_submodule("model.embed_tokens").register_forward_hook(count)
    prune(model, samples, TEXT, 0.5, "wanda")
    batches = -(-len(samples) // 8)
    assert (
        runs == 1 + 2 * batches
    )  # one sample for the order of use, all for what blocks are called with, all up to the first block


def test_a_pass_ends_when_a_group_has_been_read() -> None:
    """Of a decoder's block: the first pass is whole, what reads later groups stops before them, and no bit depends on it."""
    model, samples = llama().eval(), texts()
    runs = Counter[str]()
    for name in ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj"):
        model.get_submodule(f"model.layers.3.{name}").register_forward_hook(
            lambda *_, name=name: runs.update({name: 1})
        )
    prune(model, samples, TEXT, 0.5, "sparsegpt")
    batches = -(-len(samples) // 8)
    before = 1 + batches  # one sample for the order of use, all for what blocks are called with
    assert runs == {
        "self_attn.q_proj": before + 4 * batches,
        "self_attn.o_proj": before + 3 * batches,  # what reads it is noted before it runs
        "mlp.up_proj": before + 2 * batches,
        "mlp.down_proj": before + 1 * batches,
    }


@pytest.mark.parametrize("name", SUBJECTS)
def test_ending_early_changes_no_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, samples, task, _ = SUBJECTS[name]
    found = pruned(make, samples, task, "sparsegpt")
    run = sequential._run
    monkeypatch.setattr(sequential, "_run", lambda *given: run(*given[:-1], None))
    for key, value in pruned(make, samples, task, "sparsegpt").items():
        assert torch.equal(value, found[key]), key


class Twice(Block):
    """Its first weight reads twice, the second time behind the other one."""

    def forward(self, x: Tensor) -> Tensor:
        return self.one(self.two(torch.relu(self.one(x))))  # type: ignore[no-any-return]


def test_a_weight_that_reads_twice_is_seen_twice() -> None:
    model = Stack(lambda x: x).eval()
    model.layers = nn.ModuleList([Twice() for _ in range(3)])
    seen: dict[str, int] = {}

    def decide(group: Any, squares: Squares) -> None:
        seen.update({w.name: squares.tokens[w.name] for w in group})

    sequential.in_order(model, covered(model), points(), Squares, decide, by_input=True)
    assert {name: count for name, count in seen.items() if name.startswith("layers.0")} == {
        "layers.0.one.weight": 80,
        "layers.0.two.weight": 40,
    }
