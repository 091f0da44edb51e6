"""Similarity of images: as scikit-image computes it, and whatever the order of a batch."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from dictpfl.client.data.samples import Samples
from dictpfl.common.errors import ConfigError
from dictpfl.deploy.attacks import images
from dictpfl.deploy.attacks.case import Case
from dictpfl.deploy.attacks.registry import Tools, UpdateAttack, attack_of


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


def test_rows_of_a_table_are_compared_value_by_value() -> None:
    """They have no sides: a table that was attacked ended in a traceback."""
    row = np.random.default_rng(0).normal(size=6)
    assert images.ssim(row, row, 4.0) == pytest.approx(1.0)
    assert images.ssim(np.zeros(6), row, 4.0) < 0.3
    assert images.ssim(row, row + 0.01, 4.0) > 0.9
    both = np.stack([row, -row])
    assert images.ssim(both, both, 4.0) == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["labels", "idlg"])
def test_token_ids_are_refused(name: str) -> None:
    recorded = SimpleNamespace(public=Samples(np.ones((2, 3), np.int64), np.zeros(2, np.int64)))
    attack = attack_of(name)
    assert isinstance(attack, UpdateAttack)
    with pytest.raises(ConfigError, match="--attacks none"):
        next(iter(attack.run(cast("Case", SimpleNamespace(recorded=recorded)), cast("Tools", None))))
