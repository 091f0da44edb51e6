"""Parts of a federation given as objects, not by name: a network, a data set, a task of the program that simulates.

A configuration names parts, and all institutions load them by name. Here one process plays all of them, so objects get a name in a
module that exists in this process alone; the local engine can load that, another process cannot.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from dictpfl.client.data.readers.own import is_own
from dictpfl.client.data.samples import Dataset
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError
from dictpfl.common.registry import GIVEN
from dictpfl.deploy.runs.given import remember


def with_given(
    config: FederationConfig, folder: Path, *, model: Any = None, data: Any = None, task: Any = None
) -> FederationConfig:
    """Return the configuration with objects in place of names; what is None stays as it is.

    Args:
        config: checked configuration.
        folder: of the run, which is known by its objects from now on.
        model: a module, which is copied for each institution, or a function that makes one; it is given those of `sample_shape` and
            `outputs` that it takes, and `model.options`.
        data: a data set (`dictpfl.Dataset`, or a torch Dataset, which is read by the batch), or a function without arguments that returns one.
        task: a task (`dictpfl.Task`), or its class.

    Raises:
        ConfigError: an object of another kind.
    """
    objects: dict[str, Any] = {}
    changed: dict[str, Any] = {}
    if model is not None:
        objects["model"] = _factory(model)
        options = {} if isinstance(model, nn.Module) else config.model.options
        changed["model"] = config.model.model_copy(update={"source": f"{GIVEN}:model", "options": options})
    if data is not None:
        objects["data"] = _source(data)
        changed["data"] = config.data.model_copy(update={"source": f"{GIVEN}:data", "path": "", "options": {}})
    if task is not None:
        objects["task"] = _task(task)
        changed["training"] = config.training.model_copy(update={"task": f"{GIVEN}:task"})
    remember(folder, objects)
    return config.model_copy(update=changed)


def _factory(model: Any) -> Callable[..., nn.Module]:
    if isinstance(model, nn.Module):
        return lambda sample_shape, outputs: copy.deepcopy(model)  # noqa: ARG005 -- as every builder is called
    if not callable(model):
        raise ConfigError(
            f"model: expected a torch.nn.Module or a function that makes one, found {type(model).__name__}"
        )
    takes = inspect.signature(model).parameters

    def build(sample_shape: tuple[int, ...], outputs: int, **options: Any) -> Any:
        told = {"sample_shape": sample_shape, "outputs": outputs}
        return model(**{name: value for name, value in told.items() if name in takes}, **options)

    return build


def _source(data: Any) -> Callable[[], Any]:
    is_one = isinstance(data, Dataset) or is_own(data)
    if not is_one and not callable(data):
        raise ConfigError(
            f"data: expected a dictpfl.Dataset, a torch Dataset or a function that returns one, found {type(data).__name__}"
        )

    def source() -> Any:
        made = data if is_one else data()
        if not isinstance(made, Dataset) and not is_own(made):
            raise ConfigError(
                f"data: expected a function that returns a dictpfl.Dataset or a torch Dataset, it returned {type(made).__name__}"
            )
        return made

    return source


def _task(task: Any) -> Callable[[], Any]:
    missing = [name for name in ("loss", "metric", "metric_name", "higher_is_better") if not hasattr(task, name)]
    if missing:
        raise ConfigError(
            f"task: {type(task).__name__} has no {', '.join(missing)}; expected what `dictpfl.Task` describes"
        )
    return task if isinstance(task, type) else lambda: task
