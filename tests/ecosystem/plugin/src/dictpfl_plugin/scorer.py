"""scores.measure = "magnitude": how far each shared value is from zero, weighted by nothing."""

import numpy as np
from numpy.typing import NDArray

from dictpfl.client.data.samples import Samples
from dictpfl.client.model.twin import Twin
from dictpfl.client.training.task import Task


def magnitude(twin: Twin, samples: Samples, task: Task) -> NDArray[np.float64]:
    """Absolute value of each shared value, shape (layout.size,)."""
    return np.abs(twin.read())
