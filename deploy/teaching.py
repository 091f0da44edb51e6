"""A teacher at the founding of a federation (`[distillation]`): read, compared with the student, recorded."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import nn

from dictpfl.client.data.samples import PADDING, Samples
from dictpfl.client.folder import GENESIS_WEIGHTS
from dictpfl.client.model import hub
from dictpfl.client.model.build import build_model, weights_digest
from dictpfl.client.training.calling import forward, tensors_of
from dictpfl.client.training.distillation import require_alike
from dictpfl.client.training.workbench import Workbench
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError
from dictpfl.common.genesis import Genesis
from dictpfl.common.law.stored import of_bytes
from dictpfl.common.settings import Data, Model
from dictpfl.deploy.agreeing import require_longest
from dictpfl.deploy.runs.run import STATE, first_institution


def with_teacher(
    config: FederationConfig, student: nn.Module, trials: Sequence[Samples], outputs: int
) -> tuple[FederationConfig, bytes]:
    """Read the teacher of a configuration, and record what it is built from and the digest of its weights.

    Args:
        config: checked.
        student: model with W0.
        trials: samples of one shape, at least one of which the student takes.
        outputs: classes, or the tokens of the data.

    Returns:
        The configuration with `distillation.recorded` and `.sha256`, and the teacher's weights as safetensors; the same
        configuration and nothing where there is no teacher.

    Raises:
        ConfigError: no such model, or one of other classes or columns than the student.
    """
    if not config.distils:
        return config, b""
    teacher, described = _read(config, tuple(int(d) for d in trials[0].features.shape[1:]), outputs)
    require_alike(*widths(teacher, student, trials, others=True))
    weights = {name: tensor.detach().contiguous().clone() for name, tensor in teacher.state_dict().items()}
    recorded = {
        "recorded": described.model_dump(mode="json"),
        "sha256": weights_digest(weights).hex(),
    }
    settings = config.distillation.model_copy(update=recorded)
    return config.model_copy(update={"distillation": settings}), save(weights)


@torch.no_grad()
def widths(
    teacher: nn.Module, student: nn.Module, trials: Sequence[Samples], *, others: bool = False
) -> tuple[int, int]:
    """Number of classes that each of the two speaks of, where both take the samples: of texts the longest, which a teacher may not read.

    Args:
        teacher, student: plain.
        trials: samples, some of which both take.
        others: there are more samples elsewhere, as long as the form of these lets them be.

    Raises:
        ConfigError: the teacher takes none of them.
    """
    reasons: list[Exception] = []
    for samples in trials:
        few = samples.take(np.array([_longest(samples)]))
        try:
            said = [int(forward(copy.deepcopy(m).eval(), tensors_of(m, few)[0]).shape[-1]) for m in (teacher, student)]
            if others:
                require_longest(teacher, few)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            reasons.append(error)
        else:
            return said[0], said[1]
    raise ConfigError(f"the teacher does not take the student's samples: {reasons[0]}") from reasons[0]


def _longest(samples: Samples) -> int:
    """Number of the sample whose tokens reach furthest; 0 of other samples, and of those that are not in memory."""
    features = samples.features
    if not isinstance(features, np.ndarray) or features.dtype != np.int64 or features.ndim != 2:  # noqa: PLR2004 -- samples, tokens
        return 0
    return int(((features != PADDING) * np.arange(1, features.shape[1] + 1)).max(axis=1).argmax())


def require_taught(teacher: nn.Module, name: str, outputs: int) -> None:
    """Refuse a model of a library that would teach by a head of random weights.

    Raises:
        ConfigError: weights that its checkpoint does not hold for so many classes.
    """
    if fresh := hub.fresh_of(teacher):
        raise ConfigError(
            f"the teacher {name} has no weights of its own in {', '.join(fresh[:5])} for the student's {outputs} classes or tokens, and would "
            "teach what is random; name a model that was trained for the student's task"
        )


def require_same_columns(teacher: Data, student: Data) -> None:
    """Refuse a federation's model as the teacher of samples whose columns are others, or prepared otherwise: shapes do not tell, and it would teach nonsense.

    Args:
        teacher, student: data of the two; columns that are not named are not compared.

    Raises:
        ConfigError: it says which.
    """
    if teacher.preprocessing != student.preprocessing and (teacher.preprocessing.on or student.preprocessing.on):
        raise ConfigError(
            "the teacher's federation and the student prepare columns otherwise (data.preprocessing), so that the same sample means another to each; "
            "name a teacher whose data.preprocessing is the student's"
        )
    if teacher.features and student.features and teacher.features != student.features:
        raise ConfigError(
            f"the teacher's federation reads the columns {', '.join(teacher.features[:10])}, the student {', '.join(student.features[:10])}; they must "
            "be the same in the same order: set data.features"
        )


def _read(config: FederationConfig, shape: tuple[int, ...], outputs: int) -> tuple[nn.Module, Model]:
    """The teacher, and a `[model]` without paths of this machine from which it is built elsewhere."""
    name = config.distillation.teacher
    if not hub.split(name)[0]:
        if not Path(name).is_dir():
            raise ConfigError(
                f"distillation.teacher: no folder {name!r}; expected a run's folder, transformers:FOLDER or timm:NAME"
            )
        return _of_run(Path(name), config.data)
    same = hub.split(name)[0] == hub.split(config.model.source)[0]
    options = {key: value for key, value in config.model.options.items() if key == "head"} if same else {}
    described = Model(source=name, options=options)
    model = build_model(described, shape, outputs, config.seed).eval()
    require_taught(model, name, outputs)
    architecture = hub.architecture_of(model, name)
    return model, _portable(described.model_copy(update={"architecture": architecture}))


def _of_run(folder: Path, student: Data) -> tuple[nn.Module, Model]:
    """The model that a simulation ended with."""
    institution = first_institution(folder)
    genesis = Genesis.load(institution)
    require_same_columns(genesis.config.data, student)
    try:
        state = of_bytes((folder / STATE).read_bytes(), genesis.federation, genesis.layout, genesis.tallies)
    except OSError as error:
        raise ConfigError(
            f"distillation.teacher: {folder} holds no finished run ({error.strerror}); export the model with --format merged and name "
            "transformers:FOLDER"
        ) from error
    bench = Workbench(genesis, institution / GENESIS_WEIGHTS)
    return bench.merged(state).eval(), _portable(genesis.config.model)


def _portable(model: Model) -> Model:
    library, _ = hub.split(model.source)
    source = f"{library}:teacher" if library else model.source
    return model.model_copy(update={"source": source, "weights": "", "pretrain": Model().pretrain})
