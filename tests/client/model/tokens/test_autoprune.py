"""Tokens pruned between layers: held to loops, the same for every batch, and nothing where nothing is reduced."""

from __future__ import annotations

import copy
import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import structlog
import torch
from torch import Tensor, nn

import dictpfl
from dictpfl.client.model.networks.mlp import mlp
from dictpfl.client.model.networks.vit import VitTiny
from dictpfl.client.model.tokens.calibrate import Listening
from dictpfl.client.model.tokens.density import distances, peaks
from dictpfl.client.model.tokens.information import information
from dictpfl.client.model.tokens.install import install, reduce_tokens, reduction_of, with_gamma
from dictpfl.client.model.tokens.merge import merged
from dictpfl.client.model.tokens.reducers.autoprune import AutoPrune
from dictpfl.client.model.tokens.seam import Tokens, make_reducer
from dictpfl.client.model.tokens.stack import say_one_row
from dictpfl.common.errors import ConfigError, ModelError
from dictpfl.common.settings import Tokens as Settings

pytest.importorskip("transformers")
pytest.importorskip("timm")


def bits(attention: Tensor) -> float:
    """Mutual information in three loops, as it is written."""
    heads, rows, columns = attention.shape
    total = 0.0
    for h in range(heads):
        for y in range(columns):
            p_y = sum(float(attention[h, x, y]) / rows for x in range(rows))
            for x in range(rows):
                p = float(attention[h, x, y]) / rows
                total += p * math.log2(max(p / (1 / rows * p_y + 1e-6), 1e-6))
    return total


def test_information_is_that_of_loops() -> None:
    torch.manual_seed(0)
    attention = torch.rand(4, 3, 5, 7, dtype=torch.float64)
    found = information(attention)
    for number in range(4):
        assert float(found[number]) == pytest.approx(bits(attention[number]), abs=1e-9)
    torch.testing.assert_close(information(attention.float()), found.float(), atol=1e-5, rtol=1e-5)
    assert information(attention.half()).dtype == torch.float32
    order, rows = torch.randperm(7), torch.randperm(5)
    torch.testing.assert_close(information(attention[:, :, rows][..., order]), found)


@pytest.mark.parametrize(
    ("attention", "expected"), [(torch.eye(4), 2.0), (torch.ones(4, 4) / 4, 0.0), (torch.eye(4)[:1], 0.0)]
)
def test_information_of_known_matrices(attention: Tensor, expected: float) -> None:
    assert float(information(attention[None, None])) == pytest.approx(expected, abs=1e-4)


def clustered(hidden: Tensor, count: int, nearest: int) -> tuple[list[int], Tensor]:
    """Density peaks and their means in plain loops; float64."""
    size, width = hidden.shape
    apart = [
        [float((hidden[i] - hidden[j]).square().sum().sqrt()) / math.sqrt(width) for j in range(size)]
        for i in range(size)
    ]
    rho = [math.exp(-sum(v * v for v in sorted(row)[:nearest]) / min(nearest, size)) for row in apart]
    worth = []
    for i in range(size):
        denser = [apart[i][j] for j in range(size) if rho[j] > rho[i] or (rho[j] == rho[i] and j < i)]
        worth.append(rho[i] * (min(denser) if denser else max(max(row) for row in apart)))
    centres = sorted(sorted(range(size), key=lambda i: (-worth[i], i))[:count])
    homes: list[list[int]] = [[] for _ in centres]
    for i in range(size):
        home = centres.index(i) if i in centres else min(range(count), key=lambda c: (apart[i][centres[c]], c))
        homes[home].append(i)
    return centres, torch.stack([hidden[members].mean(dim=0) for members in homes])


@pytest.mark.parametrize("seed", range(8))
def test_merging_is_that_of_loops(seed: int) -> None:
    torch.manual_seed(seed)
    size, clusters = 5 + 3 * seed, 1 + seed // 2
    hidden = torch.randn(2, size, 6, dtype=torch.float64)
    tokens = Tokens(hidden, torch.arange(10, 10 + size).expand(2, -1), torch.ones(2, size), 0)
    found = merged(tokens, clusters)
    for number in range(2):
        centres, means = clustered(hidden[number], clusters, clusters)
        assert found.positions[number].tolist() == [10 + centre for centre in centres]
        torch.testing.assert_close(found.hidden[number], means)
    assert found.weight.sum(dim=1).tolist() == [size, size]


@pytest.mark.parametrize("shift", [0.0, 1e3])
def test_distances_are_those_of_differences(shift: float) -> None:
    """Of tokens that all lie far out as well, where inner products cancel."""
    torch.manual_seed(0)
    hidden = torch.randn(3, 20, 16) + shift
    expected = (hidden.double().unsqueeze(2) - hidden.double().unsqueeze(1)).norm(dim=-1) / 4.0
    torch.testing.assert_close(distances(hidden), expected.float(), atol=1e-5, rtol=1e-5)


def test_ties_go_by_index() -> None:
    torch.manual_seed(0)
    for equal in (torch.zeros(1, 5, 3), 1000.0 * torch.randn(7, 1, 384).expand(-1, 5, -1)):
        assert not bool(distances(equal).any())
    apart = distances(torch.zeros(1, 5, 3))
    assert peaks(apart, torch.ones(1, 5, dtype=torch.bool), 3, nearest=2).tolist() == [[0, 1, 2]]


def vit(**options: Any) -> tuple[nn.Module, dict[str, Tensor]]:
    import timm

    torch.manual_seed(1)
    made = timm.create_model(
        "vit_tiny_patch16_224", img_size=64, patch_size=8, embed_dim=32, depth=5, num_heads=2, num_classes=3, **options
    )
    return made.eval(), {"x": torch.randn(9, 3, 64, 64)}


def tiny_vit() -> tuple[nn.Module, dict[str, Tensor]]:
    torch.manual_seed(1)
    return VitTiny((1, 8, 8), 3, dim=16, depth=4, patch=1).eval(), {"images": torch.randn(9, 1, 8, 8)}


def _texts() -> dict[str, Tensor]:
    ids, mask = torch.randint(1, 90, (9, 50)), torch.ones(9, 50, dtype=torch.int64)
    for row, length in enumerate((50, 33, 8, 1, 17, 40, 24, 9, 50)):
        mask[row, length:] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


def bert() -> tuple[nn.Module, dict[str, Tensor]]:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(1)
    config = BertConfig(hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=64, vocab_size=90)
    return BertForSequenceClassification(config).eval(), _texts()


def llama() -> tuple[nn.Module, dict[str, Tensor]]:
    from transformers import LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(1)
    config = LlamaConfig(
        hidden_size=32, num_hidden_layers=5, num_attention_heads=4, num_key_value_heads=2, intermediate_size=64, vocab_size=90,
        pad_token_id=0, use_cache=False,
    )  # fmt: skip
    return LlamaForSequenceClassification(config).eval(), _texts()


FAMILIES = {"vit": vit, "vit_tiny": tiny_vit, "bert": bert, "llama": llama}
every_family = pytest.mark.parametrize("family", FAMILIES)


def outputs(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    found = model(**batch)
    return getattr(found, "logits", found)


@every_family
def test_all_tokens_are_the_plain_model(family: str) -> None:
    """Bit for bit, with tables in its layers and without."""
    model, batch = FAMILIES[family]()
    for read in (model, dictpfl.decompose(model, rank=2).module.eval()):
        plain = outputs(read, batch)
        assert install(read, Settings(reducer="autoprune", keep=1.0)) is None
        assert torch.equal(outputs(read, batch), plain)


@every_family
@pytest.mark.parametrize("adapt", ["none", "own"])
def test_a_sample_reads_the_same_in_any_batch(family: str, adapt: str) -> None:
    model, batch = FAMILIES[family]()
    batch = {name: torch.cat([value, value, value, value])[:32] for name, value in batch.items()}
    plain = outputs(model, batch)
    # Random weights hold little information: a steep gamma spreads samples over the levels.
    reduce_tokens(model, "autoprune", keep=0.5, adapt=adapt, gamma=5.0)
    together = outputs(model, batch)
    alone = torch.cat([outputs(model, {name: value[i : i + 1] for name, value in batch.items()}) for i in range(32)])
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-5)
    assert torch.equal(outputs(model, batch), together)
    assert not torch.allclose(plain, together, atol=1e-6)
    found = reduction_of(model)
    assert found is not None
    read = [total / found.told.samples for total in found.told.read]
    assert all(now <= before for before, now in pairwise(read))
    assert read[-1] < 0.7 * read[0]


@every_family
def test_gradients_reach_what_is_kept_and_what_is_merged(family: str) -> None:
    model, batch = FAMILIES[family]()
    reduce_tokens(model, "autoprune", keep=0.5)
    outputs(model, batch).square().sum().backward()
    without = {name for name, p in model.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)}
    assert not {
        name for name in without if not name.endswith(("key.bias", "k_proj.bias"))
    }  # a softmax does not see these


@every_family
def test_copies_are_reduced_too(family: str) -> None:
    model, batch = FAMILIES[family]()
    reduce_tokens(model, "autoprune", keep=0.5)
    assert torch.equal(outputs(copy.deepcopy(model), batch), outputs(model, batch))
    assert reduction_of(copy.deepcopy(model)) is not reduction_of(model)


@every_family
def test_tables_work_as_ever(family: str) -> None:
    model, batch = FAMILIES[family]()
    twin = dictpfl.decompose(model, rank=2)
    reduce_tokens(model, "autoprune", keep=0.5)
    reduce_tokens(twin.module, "autoprune", keep=0.5)
    twin.eval()
    torch.testing.assert_close(outputs(twin.module, batch), outputs(model, batch), atol=1e-5, rtol=1e-5)


def test_checkpointing_that_would_pass_a_reducer_by_is_refused() -> None:
    """timm calls the blocks one by one then; before the reducer is there, and after."""
    model, batch = vit()
    reduce_tokens(model, "autoprune", keep=0.5)
    model.set_grad_checkpointing(True)
    with pytest.raises(ConfigError, match="checkpointing of timm passes a reducer of tokens by"):
        outputs(copy.deepcopy(model), batch)
    model.set_grad_checkpointing(False)
    outputs(model, batch)
    reduce_tokens(model, "none", keep=0.5)
    model.set_grad_checkpointing(True)
    outputs(model, batch)
    with pytest.raises(ConfigError, match="checkpointing of timm passes a reducer of tokens by"):
        reduce_tokens(model, "autoprune", keep=0.5)
    outputs(model, batch)  # what is refused changes nothing


def test_a_picture_of_four_patches_has_none_to_drop() -> None:
    with pytest.raises(ConfigError, match="of 4 tokens 4 always stay, so that none is left to drop"):
        reduce_tokens(VitTiny((1, 8, 8), 3, dim=16, depth=4, patch=4), "autoprune", keep=0.9)


@every_family
def test_a_second_reducer_takes_the_place_of_the_first(family: str) -> None:
    """As if the first had not been there, and `none` leaves the plain model: its class, its names and its outputs."""
    model, batch = FAMILIES[family]()
    plain, kinds = outputs(model, batch), [type(module) for module in model.modules()]
    alone = outputs(reduce_tokens(copy.deepcopy(model), "autoprune", keep=0.5), batch)
    reduce_tokens(model, "autoprune", keep=0.7, adapt="own", gamma=5.0)
    outputs(model, batch)
    assert torch.equal(outputs(reduce_tokens(model, "autoprune", keep=0.5), batch), alone)
    with pytest.raises(ConfigError, match="leaves less than one"):
        reduce_tokens(model, "autoprune", keep=0.001)
    assert torch.equal(outputs(model, batch), alone), "what is refused changes nothing"
    assert torch.equal(outputs(reduce_tokens(model, "none", keep=0.5), batch), plain)
    assert [type(module) for module in model.modules()] == kinds
    assert reduction_of(model) is None


@pytest.mark.parametrize("adapt", ["own", "none"])
def test_samples_that_tell_no_complexity_are_said_once(adapt: str) -> None:
    """Texts of 8 tokens and fewer have one row; a fixed curve asks none."""
    model, batch = bert()
    reduce_tokens(model, "autoprune", keep=0.5, **({"adapt": adapt, "gamma": 5.0} if adapt == "own" else {}))
    say_one_row.cache_clear()
    with structlog.testing.capture_logs() as logged:
        outputs(model, batch)
        outputs(model, batch)
    said = [entry for entry in logged if "mutual information is 0" in entry["event"]]
    assert [entry["log_level"] for entry in said] == (["warning"] if adapt == "own" else [])


def test_only_where_it_is_used() -> None:
    model, batch = tiny_vit()
    plain = outputs(model, batch)
    reduce_tokens(model, "autoprune", keep=0.5, apply="evaluate")
    assert torch.equal(outputs(model.train(), batch), plain)
    assert not torch.equal(outputs(model.eval(), batch), plain)


@pytest.mark.parametrize(
    "options",
    [{}, {"k": 0.0}, {"curve": "pyramid"}, {"curve": "early"}, {"pick": "random"}, {"merge": False}, {"adapt": "shuffled", "gamma": 5.0}, {"adapt": "reversed"}, {"mi": "normalised"}],
)  # fmt: skip
def test_every_arm_reads_as_many(options: dict[str, Any]) -> None:
    model, batch = vit()
    reduce_tokens(model, "autoprune", keep=0.4, **options)
    assert outputs(model, batch).shape == (9, 3)
    found = reduction_of(model)
    assert found is not None
    courses = make_reducer(Settings(reducer="autoprune", keep=0.4, options=options)).courses(5, 60, 4)  # type: ignore[union-attr]
    assert all(abs(course.total - 5 * (0.4 * 64 - 4)) <= 5 for course in courses)


@every_family
def test_gamma_puts_one_sample_in_ten_on_the_flat_curve(family: str) -> None:
    model, batch = FAMILIES[family]()
    with torch.no_grad():  # attention of random weights tells nothing: sharpen it
        for name, parameter in model.named_parameters():
            if name.endswith(("qkv.weight", "query.weight", "key.weight", "q_proj.weight", "k_proj.weight")):
                parameter.mul_(12.0)
    plain = outputs(model, batch)
    settings = Settings(reducer="autoprune", keep=0.5, options={"adapt": "own", "gamma": "measured"})
    found = with_gamma(model, settings, lambda copied: copied(**batch))
    assert torch.equal(outputs(model, batch), plain), "the model is as it was"
    listening = Listening(AutoPrune(0.5, **found.options))
    install(model, found)
    reduction = reduction_of(model)
    assert reduction is not None
    reduction.reducer = listening
    outputs(model, batch)
    information = torch.cat(listening.heard)
    assert found.options == {
        "adapt": "own",
        "gamma": pytest.approx(0.4 / float(np.quantile(information.numpy(), 0.9)), rel=1e-4),
    }
    assert 1 <= int((listening.inner.level(information) == 0).sum()) < len(information)


def test_gamma_is_that_of_known_information() -> None:
    """Of 0.1, 0.2, ..., 1.1 the 90th percentile is 1.0; of none, and of information that is too small, the steepest is taken."""
    listening = Listening(AutoPrune(0.5, adapt="own", k0=0.4))
    for batch in torch.linspace(0.1, 1.1, 11).split(4):
        listening.level(batch)
    assert listening.gamma() == pytest.approx(0.4, rel=1e-6)
    silent = Listening(AutoPrune(0.5, adapt="own", k0=0.4))
    silent.level(torch.zeros(5))
    assert silent.gamma() == 5.0
    with pytest.raises(ConfigError, match="0 samples were read"):
        Listening(AutoPrune(0.5, adapt="own")).gamma()
    broken = Listening(AutoPrune(0.5, adapt="own"))
    broken.level(torch.tensor([1.0, torch.nan]))
    with pytest.raises(ConfigError, match="attention is not finite"):
        broken.gamma()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adapt": "own", "gamma": "measured"}, "measured when a federation is founded; from Python, give `reduce_tokens` samples"),
        ({"adapt": "own", "gamma": "large"}, "gamma = 'large'; expected a number here. Or \"measured\""),
        ({"gamma": "measured", "calibration": torch.zeros(2, 1, 8, 8)}, "where every sample is on one curve"),
    ],
)  # fmt: skip
def test_a_gamma_that_nobody_measured_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        reduce_tokens(tiny_vit()[0], "autoprune", keep=0.5, **options)


def test_reduce_tokens_measures_gamma_and_reports() -> None:
    model, batch = tiny_vit()
    reduce_tokens(model, "autoprune", keep=0.5, calibration=batch["images"], adapt="own", gamma="measured")
    reduction = reduction_of(model)
    assert reduction is not None
    with pytest.raises(ModelError, match="no sample with its reducer yet"):
        reduction.report()
    outputs(model, batch)
    report = reduction.report()
    assert (report.samples, sum(report.levels), len(report.tokens)) == (9, 9, 4)
    assert report.tokens[0] == 65
    assert report.milliseconds > 0


@pytest.mark.parametrize("reducer", ["autoprune", "grid"])
def test_products_are_those_of_the_formula(reducer: str) -> None:
    """4 n d d + 2 n d m for the matrices of a block, 2 n n d for its attention, counted token by token."""
    model, batch = vit()
    width, hidden = 32, 128
    reduce_tokens(model, reducer, keep=0.4)
    outputs(model, batch)
    reduction = reduction_of(model)
    assert reduction is not None
    report = reduction.report()

    def flops(n: float) -> float:
        return 4 * n * width**2 + 2 * n * n * width + 2 * n * width * hidden

    layers = report.tokens if len(report.tokens) > 1 else report.tokens * 5
    assert report.products == pytest.approx(sum(map(flops, layers)) / (5 * flops(65)))
    assert report.products < 0.6


def test_the_tokens_that_rows_look_at_stay() -> None:
    """A patch that all attend to is among the kept ones, and one that nobody attends to is not."""
    reducer = make_reducer(Settings(reducer="autoprune", keep=0.5))
    attention = torch.full((1, 2, 3, 6), 0.1)
    attention[..., 4] = 0.9
    tokens = Tokens(torch.randn(1, 9, 4), torch.arange(9)[None], torch.ones(1, 9), 3)
    assert int(reducer.scores(1, attention, tokens).argmax()) == 4  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keep": 0.06}, "leaves less than one of 60 free tokens beside 4 that always stay; the least here is 0.079"),
        ({"adapt": "yes"}, "adapt = 'yes'; expected one of none, own, shuffled, reversed"),
        ({"adapt": "own", "curve": "early"}, "only the logistic curve has slopes"),
        ({"depth": 3}, "tokens.options of 'autoprune'"),
        ({"levels": 1}, "levels = 1; expected 2 to 16"),
    ],
)
def test_options_out_of_range_say_so(change: dict[str, Any], message: str) -> None:
    model, _ = vit()
    with pytest.raises(ConfigError, match=message):
        reduce_tokens(model, "autoprune", **{"keep": 0.25} | change)


def test_models_of_no_family_are_named() -> None:
    with pytest.raises(ConfigError, match=r"Sequential is of no family.*vision transformers.*BERT.*Llama"):
        reduce_tokens(mlp((8,), 2), "autoprune", keep=0.5)
    with pytest.raises(ConfigError, match="a model of 2 layers"):
        reduce_tokens(VitTiny((1, 8, 8), 3, depth=2, patch=1), "autoprune", keep=0.5)
    from transformers import LlamaConfig, LlamaForCausalLM

    tiny = LlamaConfig(hidden_size=8, num_hidden_layers=3, num_attention_heads=2, intermediate_size=8, vocab_size=9)
    with pytest.raises(ConfigError, match="LlamaForCausalLM reads every token"):
        reduce_tokens(LlamaForCausalLM(tiny), "autoprune", keep=0.5)


def test_averages_over_patches_take_one_curve() -> None:
    model, _ = vit(global_pool="avg", class_token=False)
    with pytest.raises(ConfigError, match="averages over them"):
        reduce_tokens(model, "autoprune", keep=0.5, adapt="own")
    reduce_tokens(model, "autoprune", keep=0.5)


def test_attention_that_is_no_number_names_its_layer() -> None:
    model, batch = tiny_vit()
    reduce_tokens(model, "autoprune", keep=0.5)
    with torch.no_grad():
        model.blocks[1].qkv.weight.fill_(torch.nan)  # type: ignore[union-attr, index, operator]
    with pytest.raises(ModelError, match="attention of layer 1"):
        outputs(model, batch)
