"""tallies.opening = ["norms"]: sums over samples of each input's square, the same however the samples are divided."""

import numpy as np

from dictpfl.client.training.counting import Counting, counting_form
from dictpfl.client.training.tally import Form, Own, Subject
from dictpfl.common.arrays import Ints
from dictpfl.common.law.tally import Tally


class Norms:
    """Squares of inputs; `most` is an option: tallies.options.norms = { most = 6 }."""

    def __init__(self, most: int = 4) -> None:
        self._most = most

    def form(self, subject: Subject) -> Form:
        """An entry for all inputs, from the agreed shape of a sample alone; 12 bits behind the point."""
        return counting_form([("squares", subject.sample_shape)], most=self._most, fraction=12)

    def local(self, subject: Subject, own: Own, tally: Tally) -> Ints:
        """Sums, samples, and how many of these had a square beyond 2^most."""
        counting = Counting(tally)
        counting.add(own.training.features.reshape(len(own.training), -1).astype(np.float64) ** 2)
        return counting.total()
