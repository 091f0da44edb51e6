"""Section `[training]`: what an institution does between two exchanges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from dictpfl.common.settings.section import Positive, Section

FEW_BITS: Mapping[str, int] = {"8bit": 8, "4bit": 4}
"""Bits of a frozen weight by the values of `training.frozen` that need bitsandbytes."""


class Training(Section):
    """Local training of an institution between two exchanges."""

    epochs: Annotated[int, Field(ge=1)] = Field(1, description="Local epochs a round; ignored when `steps` is set.")
    steps: Annotated[int, Field(ge=0)] = Field(0, description="Local optimiser steps a round; 0: use `epochs`.")
    batch_size: Annotated[int, Field(ge=1)] = Field(32, description="Samples a step.")
    optimizer: Literal["adam", "adamw", "sgd"] = Field("adam", description="Fresh at every round.")
    learning_rate: Positive = Field(
        2e-3, description="For tables; the rule for choosing it is in docs/explanation/how-it-works.md."
    )
    dense_learning_rate: Annotated[float, Field(ge=0.0)] = Field(0.0, description="For dense parameters; 0: the same.")
    head_learning_rate: Annotated[float, Field(ge=0.0)] = Field(
        0.0,
        description="For the head, which begins at random where the rest is pretrained; 0: that of other parameters of its kind.",
    )
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(0.0, description="Of `sgd`.")
    weight_decay: Annotated[float, Field(ge=0.0)] = Field(0.0, description="Of the optimiser.")
    clip_norm: Annotated[float, Field(ge=0.0)] = Field(0.0, description="Gradient norm limit of a step; 0: none.")
    proximal: Annotated[float, Field(ge=0.0)] = Field(
        0.0,
        description="mu of FedProx: mu (w - w0) is added to the gradient of what is shared (tables, dense parameters), w0 where the "
        "round began. With private samples after their noise, since it reads no data.",
    )
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="Course of the learning rates over the rounds of the federation, after the warm-up."
    )
    warmup_rounds: Annotated[int, Field(ge=0)] = Field(0, description="Rounds over which the learning rates rise.")
    warmup_steps: Annotated[int, Field(ge=0)] = Field(
        0, description="Steps at the start of every round over which they rise; the optimiser is fresh there."
    )
    accumulate: Annotated[int, Field(ge=1)] = Field(1, description="Batches whose gradients make one step.")
    augment: list[Literal["flip", "shift"]] = Field(
        [], description="Changes to training images: mirrored with probability 1/2, moved by up to an eighth."
    )
    task: str = Field(
        "classification",
        description="`classification`, `multi-label`, `ordinal`, `regression`, `cox` and `discrete-survival`, `segmentation`, `token-classification`, "
        "`causal-lm`, `sequence-to-sequence`, `contrastive` (docs/how-to/tasks-and-metrics.md), `distillation` (`[distillation]`), a plug-in's name, or "
        "`package.module:name` of a `Task`.",
    )
    task_options: dict[str, Any] = Field(
        {}, description="Options of the task, for instance `{ class_weights = [1, 4] }`."
    )
    metric: str = Field(
        "",
        description="What is reported and selected by: `accuracy`, `absolute-error`, `token-accuracy`, `concordance`, a plug-in's "
        "name, or `package.module:name` of a `Metric`. Empty: the task's own.",
    )
    metrics: list[str] = Field(
        [],
        description="What is reported besides, of all institutions' validation samples together, from sums that travel sealed with every "
        "round: `confusion`, `auroc`, `calibration`, `r2`, `kappa`, `perplexity`, any additive metric, a plug-in's name, or "
        "`package.module:name`.",
    )
    metric_options: dict[str, dict[str, Any]] = Field(
        {}, description="Options of those, by name, for instance `{ auroc = { bins = 256 } }`."
    )
    dtype: Literal["float32", "float64"] = Field("float32", description="Arithmetic of training.")
    autocast: Literal["none", "auto", "bfloat16", "float16"] = Field(
        "none",
        description="Narrow arithmetic of the forward pass. `auto`: bfloat16 (or float16) on a GPU, none on a CPU. Other than "
        "`none`, results differ between devices.",
    )
    frozen: Literal["full", "narrow", "8bit", "4bit"] = Field(
        "full",
        description="`narrow`: frozen weights of linear layers and convolutions are held in autocast's type where a model trains and is "
        "measured: half of their memory on a GPU, and the bits of autocast alone. `8bit`, `4bit`: those of linear layers in blocks of so many bits "
        "(bitsandbytes; NF4), as in QLoRA: a fourth or a seventh of float32, and other results. W0 waits on the processor as it is.",
    )
    tf32: bool = Field(
        False,
        description="Products of float32 in TensorFloat-32 on GPUs that have it, of 10 bits in place of 23; nothing changes elsewhere.",
    )
    gradient_checkpointing: bool = Field(
        False, description="Recompute activations to save memory; models of transformers and timm."
    )
    compile: bool = Field(False, description="`torch.compile`; needs a C++ compiler, and changes the last bits.")
    workers: Annotated[int, Field(ge=0, le=64)] = Field(
        0, description="Processes that prepare batches; 0: none. The batches are the same."
    )
    evaluation_batch: Annotated[int, Field(ge=0)] = Field(
        0, description="Samples measured at a time; 0: 128, or 512 on a GPU, or 64 of token ids."
    )
    device: str = Field("auto", description="`auto`, `cpu`, `cuda`, `cuda:1`, ...")
    threads: Annotated[int, Field(ge=1, le=1024)] = Field(
        1, description="torch's threads; fixed, so that every engine trains alike."
    )
