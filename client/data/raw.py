"""Tables of columns as they stand in the file, kept until all institutions know by which statistics to prepare them."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dictpfl.client.data.samples import TABLE, UNREADABLE, Samples, arrays_in
from dictpfl.common.errors import DataError
from dictpfl.common.files import write_private


@dataclass(frozen=True, eq=False)
class Table(Samples):
    """Rows of a table, not prepared yet, and their labels.

    Attributes:
        features: float64 (n, columns): numbers, NaN where one is missing; of a column of categories their numbers, -1 for any other.
        labels: as of samples.

    Raises:
        DataError: as `Samples`; an infinite value, or another shape.
    """

    def __post_init__(self) -> None:
        """Check and cast; features keep their precision."""
        values = np.ascontiguousarray(self.features, dtype=np.float64)
        super().__post_init__()
        if values.ndim != 2 or np.isinf(values).any():  # noqa: PLR2004 -- rows and columns
            raise DataError(
                f"a table of shape {values.shape} with {int(np.isinf(values).sum())} infinite values; expected rows of numbers"
            )
        object.__setattr__(self, "features", values)

    def _checked_features(self) -> NDArray[Any]:
        return np.nan_to_num(np.asarray(self.features, dtype=np.float64), posinf=0.0, neginf=0.0)

    def save(self, path: Path | str) -> None:
        """Write an .npz file, mode 0600, that no reader takes for prepared samples."""
        buffer = io.BytesIO()
        np.savez(buffer, table=self.features, labels=self.labels)
        write_private(Path(path), buffer.getvalue())

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read what `save` wrote.

        Raises:
            DataError: missing, damaged or of other content.
        """
        try:
            with arrays_in(path) as file:
                return cls(file[TABLE], file["labels"])
        except UNREADABLE as error:
            raise DataError(
                f"cannot read a table from {path}: {error}; this federation prepares columns by pooled statistics and wants them as they "
                "stand: write the file with `dictpfl data prepare`"
            ) from error
