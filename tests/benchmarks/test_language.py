"""What benchmarks/language.py measures, against the slow way; and its choice of rates and words on its page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import language
from dictpfl.client.data.samples import IGNORED, PADDING, Samples
from lib.language import catalogue, rendering
from lib.language.answers import answers_of, exact, loss_of, number_of, wanted_of
from lib.paper import scheduling
from lib.paper.cells import Store
from lib.paper.scheduling import Ready


@pytest.fixture(scope="module")
def model() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.4, pad_token_id=0, bos_token_id=1, eos_token_id=3, use_cache=False,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def samples() -> Samples:
    """Rows of 4 to 12 tokens, the first 2 to 7 of which are a question."""
    rng = np.random.default_rng(3)
    features, labels = np.full((9, 12), PADDING), np.full((9, 12), IGNORED)
    for row, label in zip(features, labels, strict=True):
        asked, length = int(rng.integers(2, 8)), int(rng.integers(8, 13))
        row[:length] = rng.integers(4, 50, length)
        label[asked:length] = row[asked:length]
    return Samples(features, labels)


class Words:
    """A tokenizer of numbers."""

    pad_token_id, eos_token_id = 0, 3

    def batch_decode(self, rows: Any, *, skip_special_tokens: bool) -> list[str]:
        assert skip_special_tokens
        return [" ".join(str(int(token)) for token in row if int(token) not in (0, 3)) for row in rows]


@pytest.mark.parametrize("batch", [1, 4, 100])
def test_loss_counts_every_answer_token_alike(model: nn.Module, samples: Samples, batch: int) -> None:
    total, count, right = 0.0, 0, 0
    for row, label in zip(samples.features, samples.labels, strict=True):
        ids = torch.from_numpy(row[row != PADDING])[None]
        with torch.no_grad():
            chances = model(input_ids=ids).logits[0].double().log_softmax(dim=-1)
        for at in range(1, ids.shape[1]):
            if label[at] != IGNORED:
                total -= float(chances[at - 1, label[at]])
                right += int(chances[at - 1].argmax()) == label[at]
                count += 1
    found = loss_of(model, samples, batch)
    assert found.tokens == count
    assert found.mean == pytest.approx(total / count, rel=1e-5)
    assert found.accuracy == pytest.approx(right / count)


def test_answers_are_those_of_one_question_at_a_time(model: nn.Module, samples: Samples) -> None:
    """With neither batches, nor filling in front, nor a cache."""
    expected = []
    for row, label in zip(samples.features, samples.labels, strict=True):
        ids, answer = row[(row != PADDING) & (label == IGNORED)].tolist(), []
        for _ in range(6):
            with torch.no_grad():
                best = int(model(input_ids=torch.tensor([ids + answer])).logits[0, -1].argmax())
            if best == Words.eos_token_id:
                break
            answer.append(best)
        expected.append(" ".join(str(token) for token in answer if token not in (0, 3)))
    assert answers_of(model, Words(), samples, 6) == expected
    assert wanted_of(Words(), samples)[0] == " ".join(map(str, samples.labels[0][samples.labels[0] != IGNORED]))


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("48/2 = <<48/2=24>>24\n#### 72", 72.0), ("#### 1,250\n#### 3", 1250.0), ("####-5", -5.0), ("#### $18.50", 18.5),
        ("so it is 7, then 12.", 12.0), ("2,000 in all", 2000.0), ("none", None), ("", None),
    ],
)  # fmt: skip
def test_number_of(text: str, number: float | None) -> None:
    assert number_of(text) == number


def test_exact() -> None:
    assert exact(["#### 72", "72.0 clips", "it is 7", ""], ["#### 72"] * 4) == 2
    with pytest.raises(ValueError, match="no number"):
        exact(["1"], ["none"])


class Measured:
    """A store in which every rate of a method was tried, or none."""

    def __init__(self, best: float) -> None:
        self.best, self.asked = best, set[str]()

    def result(self, cell: Any, rate: float | None = None) -> dict[str, float] | None:
        assert rate is None
        self.asked.add(cell.name)
        found = cell.config().training.learning_rate
        return {"loss": 1 + abs(np.log2(found / self.best))} if self.best else None


@pytest.mark.parametrize(("best", "rates"), [(2e-3, 3), (8e-3, 5), (5e-4, 5)])
def test_a_grid_goes_on_until_its_best_is_inside(best: float, rates: int) -> None:
    store = Measured(best)
    rate, missing, tried = catalogue.tuned(catalogue.OURS, store)  # type: ignore[arg-type]
    assert (rate, missing, len(tried)) == (best, [], rates)
    assert min(tried) < best < max(tried)
    assert len(store.asked) == rates


def test_rates_wait_for_their_cells() -> None:
    rate, missing, tried = catalogue.tuned(catalogue.PAIRS, Measured(0.0))  # type: ignore[arg-type]
    assert (rate, tried) == (None, {})
    assert [cell.name for cell in missing] == [f"tune/lora/rate-{rate:g}" for rate in (1e-3, 2e-3, 4e-3)]
    assert all(cell.tunes and cell.settings["seed"] not in catalogue.SEEDS for cell in missing)


def test_all_methods_have_the_same_data_steps_and_optimiser() -> None:
    first, *others = [catalogue.tested(method, 2).config() for method in catalogue.METHODS]
    for other in others:
        assert (other.data, other.training, other.seed, other.federation) == (
            first.data, first.training, first.seed, first.federation,
        )  # fmt: skip
    assert first.insecurities, "LoRA is measured in clear"
    assert not others[0].insecurities


def run(method: str, seed: int, loss: float, sent: int) -> dict[str, Any]:
    figures = {
        "loss": loss, "token_accuracy": 50.0, "exact": 3, "asked": 100, "peak_bytes": 2**32, "rounds": 4, "bytes": {"up": sent, "down": sent},
        "adapter": {"bytes": 10**6, "difference": 2e-4, "largest": 20.0},
    }  # fmt: skip
    facts = {
        "date": f"2026-01-0{seed}",
        "processor": "p",
        "cores": 2,
        "load": 0.1,
        "python": "3",
        "versions": {},
        "commit": "c",
    }
    return {"cell": f"test/{method}/seed-{seed}", "figures": figures, "measured": facts}


def test_the_page_compares_the_seeds_that_both_have() -> None:
    runs = {
        catalogue.PAIRS: [run("lora", 1, 1.0, 1000), run("lora", 2, 2.0, 1000)],
        catalogue.OURS: [run("dictpfl", 2, 2.06, 100), run("dictpfl", 3, 9.0, 100)],
    }
    assert rendering.above(runs) == pytest.approx([3.0])
    loss, sent, adapter = rendering.requirements(runs)
    assert (loss.measured, loss.met) == (pytest.approx(3.0), False)
    assert (sent.measured, sent.met) == (pytest.approx(0.1), True)
    assert (adapter.measured, adapter.met) == (pytest.approx(1e-5), True)
    text = rendering.page(
        run("start", 1, 3.0, 0), runs, [loss, sent, adapter], {catalogue.OURS: (1e-3, [], {1e-3: 1.5})}
    )
    assert "+3.00 %" in text
    assert "2026-01-03" in text
    assert "not measured yet" not in text
    partly = rendering.page(
        run("start", 1, 3.0, 0), {**runs, catalogue.PAIRS: []}, [sent], {catalogue.OURS: (1e-3, [], {1e-3: 1.5})}
    )
    assert partly.count("not measured yet") == 7
    assert len(rendering.plot(run("start", 1, 3.0, 0), runs).axes) == 2


def test_a_cell_that_ends_early_is_followed_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Three rates are measured beside one long cell, not one; what waits for them has the best."""
    store, ended = Store(tmp_path, "benchmarks/language.py"), []
    monkeypatch.setattr(language, "STORE", store)
    monkeypatch.setattr(scheduling, "ROOT", catalogue_needs(tmp_path))
    monkeypatch.setattr("lib.language.rendering.render", lambda _: 0)

    class Process:
        returncode = 0

        def __init__(self, ready: Ready, *_: Path) -> None:
            self.ready, self.left = ready, 5 if ready.cell.name == "start" else 1

        def poll(self) -> int | None:
            self.left -= 1
            if self.left > 0:
                return None
            ended.append(self.ready.cell.name)
            rate = self.ready.cell.settings.get("training.learning_rate", 1.0)
            store.write(self.ready.cell, {"loss": abs(rate - 2e-3)}, self.ready.rate, {"commit": ""})
            return 0

    monkeypatch.setattr(language, "_started", Process)
    cells = [cell for cell in catalogue.every() if catalogue.method_of(cell) in ("start", "lora")][:2]
    assert language._all(cells, 2) == 0
    assert ended == [*(f"tune/lora/rate-{rate}" for rate in (0.001, 0.002, 0.004)), "test/lora/seed-1", "start"]
    assert language._rates(cells[1]) == (2e-3, ())
    assert store.result(cells[1], 2e-3) is not None


def catalogue_needs(folder: Path) -> Path:
    """A folder that has the data of the language model's cells, as far as their presence is asked for."""
    (folder / catalogue.NEEDS).parent.mkdir(parents=True)
    (folder / catalogue.NEEDS).touch()
    return folder
