"""Loggers of a run that goes on: each is a callback for `on_round` of `dictpfl.simulate`, and a context that ends its log.

A callback is anything that takes a `RoundRecord`. It runs in the process that simulates, once for each closed round, in order; what
it raises ends the run, which `resume` goes on with.

>>> import dictpfl
>>> from dictpfl.deploy.reports.loggers import TensorBoardLogger
>>> with TensorBoardLogger("live/mine") as log:  # doctest: +SKIP
...     dictpfl.simulate(config, "runs/mine", engine="local", on_round=log)
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from dictpfl.common.errors import ConfigError
from dictpfl.deploy.reports.tensorboard import figures_of
from dictpfl.deploy.runs.record import RoundRecord


class TensorBoardLogger:
    """Writes TensorBoard events after each round; needs `dictpfl[simulation]`."""

    def __init__(self, folder: Path | str) -> None:
        """Open event files in a folder."""
        self._writer = _module("torch.utils.tensorboard", "simulation").SummaryWriter(str(folder))

    def __call__(self, record: RoundRecord) -> None:
        """Write a round's figures, its number as the step."""
        for name, value in figures_of(record).items():
            self._writer.add_scalar(name, value, record.round)
        self._writer.flush()

    def __enter__(self) -> Self:
        """Return the logger."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the files."""
        self._writer.close()


class WandbLogger:
    """Logs to Weights & Biases; needs `dictpfl[wandb]`. Figures leave this machine unless WANDB_MODE=offline."""

    def __init__(self, *, project: str, run: str, parameters: Mapping[str, Any] | None = None) -> None:
        """Begin a run of W&B's; `parameters` is its configuration."""
        self._run = _module("wandb", "wandb").init(project=project, name=run, config=dict(parameters or {}))

    def __call__(self, record: RoundRecord) -> None:
        """Log a round's figures, its number as the step."""
        self._run.log(figures_of(record), step=record.round)

    def __enter__(self) -> Self:
        """Return the logger."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End W&B's run."""
        self._run.finish(exit_code=int(error is not None))


def _module(name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"expected the packages of dictpfl[{extra}], found no {error.name}; run `pip install 'dictpfl[{extra}]'`"
        ) from error
