"""The cutting benchmark: defaults are what validation shows, one institution is the most skewed, a teacher is asked once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import minitron
from dictpfl.client.compress.cutting.shrink import BEST
from dictpfl.client.data.samples import Samples
from lib.arms import Cells, Study
from lib.machine import RESULTS, machine
from lib.shrinking import Remembered
from lib.topics import INSTITUTIONS, divided, most_skewed

SEEDS = (1, 2, 3)
FACTS = machine()


def cells(changes: Mapping[str, float] | None = None) -> Cells:
    """Cells of all arms, as measured: none differs from another but by its seed, and by what is given by arm for validation."""
    found = {}
    for arm, settings in minitron.ARMS.items():
        for seed in SEEDS:
            loss = 4.0 + seed / 10
            one: dict[str, Any] = {"parameters": 1000, "steps": 0, "samples": 0}
            whens = ["cut"] if settings.get("as cut") or arm == minitron.PARENT else ["cut", "taught"]
            one |= {f"{w}{d}": loss + ("cut" in w) / 2 for w in whens for d in ("", " messages", " Python")}
            if arm != minitron.PARENT and minitron.is_candidate(settings):
                one[minitron.VALIDATION] = loss + (changes or {}).get(arm, 0.0) * (1 + seed / 100)
            one |= {"without B": loss + 1, "faster": 1.5, "voted": 50 + seed, "machine": FACTS}
            found[arm, seed] = one | ({"cut": loss} if arm == minitron.PARENT else {})
    return Cells(Study("minitron", minitron.measure, minitron.ARMS, SEEDS), found)


def test_a_default_is_the_published_way_unless_another_is_shown_to_be_better() -> None:
    assert minitron.best(cells()) == dict.fromkeys(minitron.KINDS, "activation")
    found = minitron.best(cells({"neurons, magnitude": -0.1, "neurons, attribution": -0.2, "heads, magnitude": 0.1}))
    assert found == dict.fromkeys(minitron.KINDS, "activation") | {"ffn": "attribution"}


def test_the_page_says_what_is_chosen_and_what_is_no_difference() -> None:
    text = minitron.page(cells({"neurons, magnitude": -0.1}))
    level = "heads, activation; heads, magnitude; channels, activation; neurons, activation; neurons, magnitude"
    assert text.startswith(
        f"# Cutting a hybrid\n\n**No difference shown after distillation between chance and: {level}.**"
    )
    assert "Shown:" not in text
    assert [line.split(" | ")[-1] for line in text.splitlines() if line.startswith("| ffn |")] == ["magnitude |"]
    assert "51 to 53 sequences" in text
    minitron.draw(cells())


def test_random_draws_that_were_not_distilled_are_not_asked_for() -> None:
    found = cells()
    assert minitron.drawn(found, "heads", "taught") == found.of("heads, random 1", "taught")
    with pytest.raises(KeyError):
        found.of("heads, random 3", "taught")


def test_every_kind_that_has_a_default_is_measured() -> None:
    assert set(minitron.KINDS) == set(BEST)


def test_defaults_are_those_of_the_committed_results() -> None:
    file = RESULTS / "minitron.json"
    if not file.exists():
        pytest.skip("benchmarks/minitron.py has not run in full: no committed result says what the defaults should be")
    assert dict(BEST) == json.loads(file.read_text(encoding="utf-8"))["best"]


def test_topics_are_divided_and_the_most_skewed_institution_is_found() -> None:
    topics = np.repeat(np.arange(20), 12)
    rows = np.tile(np.arange(len(topics))[:, None], (1, 4))
    parts = divided(Samples(rows, topics), 1)
    assert len(parts) == INSTITUTIONS
    held = np.concatenate([part.features[:, 0] for part in parts])
    assert len(set(held.tolist())) == len(held) == 228  # a twentieth is nobody's, and nothing is twice
    even, odd = np.arange(6) % 3, np.array([0, 0, 0, 0, 0, 1])
    alike = [Samples(np.zeros((6, 1)), labels) for labels in (even, odd, even)]
    assert most_skewed(alike) == 1


def test_a_teacher_is_asked_once_about_a_batch() -> None:
    class Counting(nn.Module):
        config, calls = None, 0

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return input_ids.float().unsqueeze(-1) * attention_mask.unsqueeze(-1)

    inner = Counting()
    teacher, ids, mask = Remembered(inner), torch.arange(6).reshape(2, 3), torch.ones(2, 3, dtype=torch.int64)
    first = teacher(ids, mask)
    assert torch.equal(teacher(ids.clone(), mask), first)
    assert inner.calls == 1
    assert torch.equal(teacher(ids, mask * 0), first * 0)
    assert inner.calls == 2
