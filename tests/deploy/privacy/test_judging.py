"""How attacks are judged: similarity, intervals, counts, and the document that holds it all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ConfigError
from deploy.privacy import images
from deploy.privacy.intervals import auc_interval, gain_interval, mean_interval
from deploy.privacy.labels import as_labels, prior, right, rounded
from deploy.privacy.results import RESULTS, PrivacyResults


def test_similarity_is_scikit_images() -> None:
    metrics = pytest.importorskip("skimage.metrics", reason="scikit-image, of the dev extra, is the reference")
    random = np.random.default_rng(0)
    for side in (8, 12, 28):
        for channels in (1, 3):
            a, b = random.normal(size=(2, channels, side, side))
            b = 0.7 * a + 0.3 * b
            wanted = metrics.structural_similarity(a, b, win_size=7, data_range=4.0, channel_axis=0)
            assert images.ssim(a, b, 4.0) == pytest.approx(wanted, abs=1e-10)
            assert images.psnr(a, b, 4.0) == pytest.approx(metrics.peak_signal_noise_ratio(a, b, data_range=4.0))


def test_similarity_at_its_ends() -> None:
    a = np.random.default_rng(0).normal(size=(1, 8, 8))
    assert images.ssim(a, a, 2.0) == pytest.approx(1.0)
    assert images.psnr(a, a, 2.0) == 100.0
    assert abs(images.ssim(np.random.default_rng(1).normal(size=(1, 8, 8)), a, 2.0)) < 0.5


def test_a_batch_has_no_order() -> None:
    truth = np.random.default_rng(0).normal(size=(5, 1, 8, 8))
    found = images.matched(truth[[3, 1, 4, 0, 2]], truth)
    np.testing.assert_array_equal(found, truth)


def test_auc_is_the_share_of_right_pairs() -> None:
    random = np.random.default_rng(1)
    x, y = random.normal(0.5, 1, 60).round(1), random.normal(0, 1, 40).round(1)
    pairs = (x[:, None] > y).mean() + 0.5 * (x[:, None] == y).mean()
    assert auc_interval(x, y).value == pytest.approx(pairs)


def test_delongs_interval_covers_as_often_as_it_says() -> None:
    """Scores without any information: the interval misses 0.5 about one time in twenty; and agrees with the bootstrap."""
    random = np.random.default_rng(2)
    missed = 0
    for _ in range(400):
        found = auc_interval(random.normal(size=50), random.normal(size=50))
        missed += not found.low <= 0.5 <= found.high
    assert 6 <= missed <= 36
    x, y = random.normal(0.6, 1, 80), random.normal(0, 1, 80)
    draws = [
        auc_interval(random.choice(x, 80), random.choice(y, 80)).value for _ in range(400)
    ]  # fmt: skip
    low, high = np.quantile(draws, [0.025, 0.975])
    found = auc_interval(x, y)
    assert found.low == pytest.approx(low, abs=0.03)
    assert found.high == pytest.approx(high, abs=0.03)


def test_an_interval_of_means_holds_the_mean() -> None:
    found = mean_interval([0.1, 0.2, 0.9])
    assert found.low <= found.value <= found.high
    assert found.value == pytest.approx(0.4)
    covered = 0
    for seed in range(400):
        few = np.random.default_rng(seed).normal(0.2, 1, 5)
        covered += mean_interval(few).low <= 0.2 <= mean_interval(few).high
    assert 0.92 <= covered / 400 <= 0.98
    once = mean_interval([0.7])
    assert once.low == once.value == once.high


def test_a_gain_is_paired() -> None:
    """Trials differ much from each other, the attack adds a little to each: a paired interval sees it."""
    blind = np.linspace(0, 1, 12)
    assert gain_interval(blind + 0.05, blind).low > 0
    assert gain_interval(blind, blind).low == 0


@given(st.lists(st.floats(0, 1), min_size=2, max_size=12), st.integers(1, 40))
def test_rounded_counts_have_the_right_sum(shares: list[float], samples: int) -> None:
    counts = rounded(np.array(shares), samples)
    assert counts.sum() == samples
    assert (counts >= 0).all()
    total = sum(shares)
    if total > 1e-6:
        assert np.abs(counts - np.array(shares) / total * samples).max() < 1 + 1e-6


def test_labels_right_are_a_multiset() -> None:
    assert right(np.array([2, 1, 0]), np.array([0, 1, 0])) == 1.0
    assert right(np.array([3, 0, 0]), np.array([0, 1, 2])) == pytest.approx(1 / 3)
    assert as_labels(np.array([[1, 0, 3]]), 2, 2).tolist() == [[[0, 2], [2, 2]]]
    assert prior(np.array([0, 0, 0, 1]), 2, 4).tolist() == [3, 1]


def test_results_are_read_as_they_were_written(example_results: PrivacyResults, tmp_path: Path) -> None:
    example_results.save(tmp_path)
    assert PrivacyResults.load(tmp_path) == example_results
    verdicts = [f.verdict for f in example_results.findings]
    assert verdicts == ["succeeds", "no better than blind"]
    assert example_results.broken == []


def test_results_of_another_kind_are_refused(example_results: PrivacyResults, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="dictpfl attack"):
        PrivacyResults.load(tmp_path)
    example_results.save(tmp_path)
    text = (tmp_path / RESULTS).read_text()
    (tmp_path / RESULTS).write_text(text.replace("dictpfl-privacy-1", "dictpfl-privacy-9"))
    with pytest.raises(ConfigError, match="cannot use"):
        PrivacyResults.load(tmp_path)
