"""Similarity of images: as scikit-image computes it, and whatever the order of a batch."""

from __future__ import annotations

import numpy as np
import pytest

from dictpfl.deploy.attacks import images


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
