"""Sections about smaller models and shorter inputs: `[narrow]`, `[sparsity]`, `[tokens]` and `[distillation]`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from dictpfl.common.settings.section import OpenShare, Positive, Section


class Narrow(Section):
    """Narrowing of a general model to one skill, by gates that are trained and shared in place of scores (docs/how-to/narrow.md)."""

    axes: list[Literal["ffn"]] = Field(
        [], description="Units that get gates: `ffn`, the neurons of feed-forward blocks. Empty: nothing is narrowed."
    )
    keep: Annotated[float, Field(gt=0.0)] = Field(
        0.25,
        description="Units that stay of each layer: a share below 1 (at least one unit stays), or a whole number of them.",
    )
    penalty: Annotated[float, Field(ge=0.0)] = Field(
        1e-2,
        description="Factor of the sum over units of |gate| times the norm of the unit's outgoing weights in W0, beside the loss.",
    )
    rate: Positive = Field(1e-2, description="Learning rate of gates.")
    classes: list[Annotated[int, Field(ge=0)]] = Field(
        [],
        description="Labels of the skill: only samples of these classes are trained on and measured, at every institution; one that has "
        "none takes part with weight 0. Empty: all samples are the skill's.",
    )


ACTIVATIONS = "activations"
"""Opening tally of a federation that ranks by its institutions' inputs."""


class Sparsity(Section):
    """Thresholds of rows, which say together what of a frozen model may go (Lua-LLM; docs/how-to/sparse-models.md)."""

    method: Literal["none", "lua"] = Field(
        "none",
        description="`lua`: the federation learns a threshold for each row of the covered weights, and nothing else.",
    )
    target: OpenShare = Field(0.6, description="Share of covered entries that are zero at the end, exactly.")
    scores: Literal["wanda", "magnitude"] = Field(
        "wanda",
        description="What entries are ranked by in their row: size times the norm of the inputs at all institutions, which an opening "
        "tally (`activations`) sums; or size alone, without a tally.",
    )
    calibration: Annotated[int, Field(ge=1)] = Field(64, description="Samples of each institution for that tally.")
    regularisation: Annotated[float, Field(ge=0.0)] = Field(
        16.0, description="Strength of the pull to `target` while thresholds are trained."
    )
    temperature: Annotated[float, Field(ge=0.25)] = Field(
        1.0,
        description="Ranks over which the soft mask falls; lambda = columns / temperature. At most an eighth of the columns of the widest "
        "covered weight.",
    )
    cover: list[str] = Field(
        [],
        description="Patterns (fnmatch) of the weights that are covered; empty: those that would get a table by default.",
    )
    keep: list[str] = Field([], description="Patterns of weights that stay whole.")


class Tokens(Section):
    """Tokens of images, clips or texts that a model does not read: dropped or merged, in training and in use (docs/how-to/fewer-tokens.md)."""

    reducer: str = Field(
        "none",
        description="`none`: all are read. Between layers: `autoprune`. Before the stack, of frames or patches: `fastvid`, `random`, `frames`, "
        "`grid`, `salient`, `dtm`, `tome`. Or a plug-in's name, or `package.module:name`.",
    )
    keep: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        0.25,
        description="Share of the tokens that is kept; between layers the mean of what leaves a layer (the first one reads all), class token left aside. 1: all, bit for bit "
        "as without a reducer.",
    )
    apply: Literal["always", "evaluate"] = Field(
        "always", description="`evaluate`: only where the model is measured or used; it is trained on all tokens."
    )
    options: dict[str, Any] = Field({}, description="Of the reducer.")


class Distillation(Section):
    """A teacher for `training.task = "distillation"`: a small model is trained to say what a large one says (docs/how-to/cut.md)."""

    task: Literal["classification", "causal-lm"] = Field(
        "classification",
        description="Task behind it: its loss beside the teacher's, its metric, and which model is best.",
    )
    teacher: str = Field(
        "",
        description="Model that teaches: `transformers:FOLDER`, `timm:NAME`, or the folder of a run. Read once, when the federation "
        "is founded; its weights go to every institution beside W0.",
    )
    temperature: Positive = Field(
        1.0, description="T of both softmaxes; the teacher's part is multiplied by its square."
    )
    weight: Annotated[float, Field(ge=0.0, le=1.0)] = Field(
        1.0, description="Share of the teacher in the loss; at 1 no label is read."
    )
    recorded: dict[str, Any] = Field(
        {}, description="Filled in at genesis: the teacher's own `[model]`, from which an institution builds it."
    )
    sha256: str = Field("", description="Filled in at genesis: digest of the teacher's weights, hexadecimal.")
