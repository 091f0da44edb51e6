"""data.source = "rings": points on three rings."""

import numpy as np

from dictpfl import Dataset, Samples


def rings(count: int = 300) -> Dataset:
    """Points in the plane, labelled by their ring; `data.options` are the arguments."""
    rng = np.random.default_rng(0)
    ring = rng.integers(0, 3, count)
    angle, radius = rng.uniform(0, 2 * np.pi, count), 1 + ring + rng.normal(0, 0.1, count)
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).astype(np.float32)
    return Dataset(Samples(points, ring), outputs=3, name="rings", class_names=("inner", "middle", "outer"))
