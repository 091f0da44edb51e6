"""Attacks beyond inversion: each works where it should, and finds nothing in ciphertexts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from common.config import FederationConfig
from deploy.founding import found
from deploy.privacy import aggregate, game, properties, tokens
from deploy.privacy.inversion import Effort
from deploy.privacy.parts import _as
from deploy.privacy.reading import Case
from deploy.privacy.stage import play
from deploy.privacy.subjects import SUBJECTS
from deploy.privacy.texts import WORDS, passages

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:.torch.jit.script. is deprecated:DeprecationWarning"
    ),  # torch's own forward mode
    pytest.mark.usefixtures("quiet"),
]
Tiny = Callable[..., FederationConfig]


def test_passages_are_english() -> None:
    data = passages()
    assert data.samples.features.shape[1] == WORDS
    assert len(data.samples) > 300
    assert data.outputs >= 5
    assert np.mean(data.samples.features == 0) < 0.4


@pytest.mark.parametrize(("name", "works"), [("plaintext", True), ("fedhe-full", False)])
def test_words_are_recovered_from_plaintext_alone(tiny: Tiny, tmp_path: Path, name: str, works: bool) -> None:
    config = tokens.federation(tiny(), 1)
    config = config.model_copy(update={"federation": game.replace_section(config.federation, participants=3)})
    stage = play(_as(name, config), tmp_path)
    for finding in tokens.read_tokens(Case.of(stage, SUBJECTS[name], most=3)):
        assert (finding.verdict == "succeeds") == works, finding
        assert works == (finding.found.value > 0.9)


def test_a_low_rank_hides_words_from_the_span_check(tiny: Tiny, tmp_path: Path) -> None:
    """Twelve words, rank 4: four directions cannot tell them, though nothing is encrypted."""
    config = tokens.federation(tiny(), 1, rank=4)
    stage = play(_as("dictpfl-identity", config), tmp_path)
    (_, span) = tokens.read_tokens(Case.of(stage, SUBJECTS["dictpfl-identity"], most=3))
    assert span.attack == "span check"
    assert span.found.value < 0.3


def test_words_are_counted_as_they_are() -> None:
    guess, truth = np.array([1, 2, 2, 9]), np.array([[1, 2], [3, 2]])
    assert tokens.rouge1(guess, truth) == pytest.approx(0.75)
    assert tokens.rouge1(np.zeros(0, dtype=np.int64), truth) == 0.0
    usual = tokens.commonest(np.array([[5, 5, 5, 7]]), 4)
    assert sorted(usual.tolist()) == [5, 5, 5, 7]


@pytest.mark.parametrize(("name", "works"), [("plaintext", True), ("fedhe-full", False)])
def test_shares_of_a_class_show_in_plaintext_alone(tiny: Tiny, tmp_path: Path, name: str, works: bool) -> None:
    config = properties.federation(tiny(data__limit=800))
    stage = play(_as(name, config), tmp_path)
    finding = properties.properties(Case.of(stage, SUBJECTS[name], most=10))
    assert (finding.verdict == "succeeds") == works
    assert works or finding.found.value < 0.5  # an interval of 95 % would fail one time in forty


def test_two_institutions_and_one_sample_hide_nothing_from_each_other(tiny: Tiny, tmp_path: Path) -> None:
    stage = play(aggregate.federation(tiny(), 2, 1), tmp_path)
    span, inverted = aggregate.read_the_sum(stage, Effort(restarts=2), most=1, pictures=tmp_path)
    assert span.more["members nearer than every other sample"] == 1.0
    assert span.more["largest distance of a member"] < 1e-3
    assert (tmp_path / inverted.picture).exists()


def test_many_samples_in_a_sum_hide_from_the_span_check(tiny: Tiny, tmp_path: Path) -> None:
    """Rank 8, and 64 samples of four other institutions."""
    stage = play(aggregate.federation(tiny(data__limit=600), 5, 16), tmp_path)
    (span,) = aggregate.read_the_sum(stage, Effort(), most=1)
    assert span.found.value < 0.75
    assert span.more["members nearer than every other sample"] < 0.1


def test_the_game_sees_sizes_bytes_and_times(tiny: Tiny, tmp_path: Path) -> None:
    config = game.small(tiny())
    config = config.model_copy(update={"federation": game.replace_section(config.federation, rounds=2)})
    stacked, worlds = game.played(config, tmp_path, game.CLASSES, 6)
    assert sorted(worlds.tolist()) == [0, 0, 0, 1, 1, 1]
    assert set(stacked) == set(game.GROUPS)
    assert all(len(rows) == 6 and np.isfinite(rows).all() for rows in stacked.values())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["founded"]


def test_the_game_is_won_where_something_shows() -> None:
    """A classifier that cannot win would prove nothing; and one that wins against noise would prove too much."""
    worlds, inside, areas = np.arange(100) % 2, 0, []
    for seed in range(6):
        random = np.random.default_rng(seed)
        stacked = {
            "sizes": random.normal(size=(100, 5)),
            "bytes": random.normal(size=(100, 30)),
            "timing": np.zeros((100, 1)),
        }
        blind = game.judge(stacked, worlds, game.GROUPS, "x", {})
        inside += blind.found.low <= 0.5 <= blind.found.high
        areas.append(blind.found.value)
    assert inside >= 4
    assert 0.35 < np.mean(areas) < 0.65
    stacked["timing"] = (worlds + 0.3 * random.normal(size=100))[:, None]
    assert game.judge(stacked, worlds, game.GROUPS, "x", {}).verdict == "succeeds"


def test_worlds_differ_in_one_institution_alone(tiny: Tiny, tmp_path: Path) -> None:
    founded = found(game.small(tiny()), tmp_path / "founded")
    labels = np.arange(100) % 10
    random = np.random.default_rng(0)
    assert labels[game.low_digits(labels, random)].max() < 5
    assert labels[game.high_digits(labels, random)].min() >= 5
    assert len(game.few(labels, random)) < len(game.many(labels, random))
    before = [(founded.site(i) / "train.npz").read_bytes() for i in range(3)]
    game.play_once(founded, tmp_path / "run", game.CLASSES[0], 0)
    assert before == [(founded.site(i) / "train.npz").read_bytes() for i in range(3)]
