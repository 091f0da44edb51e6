"""Sections of the configuration that the algebra of rounds reads: pruning, the grid, the server-side rule, selection, scores."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from dictpfl.common.settings import Positive, Section, Share


class Budget(Section):
    """A budget of sent values, for `pruning.schedule = "logistic"` (docs/how-to/fewer-bytes.md)."""

    values: Annotated[int, Field(ge=0)] = Field(
        0,
        description="Values that an institution sends in all update rounds together, exactly; those that are never pruned count. 0: no "
        "budget.",
    )
    centre: Annotated[float, Field(ge=0.0, le=1.0)] = Field(
        0.5, description="Share of the rounds after which the curve has fallen by half."
    )
    slope: Annotated[float, Field(ge=-100.0, le=100.0)] = Field(
        6.0,
        description="Steepness of the curve over all rounds: counts follow 1 / (1 + exp(slope (t / rounds - centre))). 0: the same in "
        "every round; below 0 they rise.",
    )


class Pruning(Section):
    """Pruning guided by history (PrME; arXiv 2510.21086, section 4.2), which every institution replays alike."""

    enabled: bool = Field(True, description="False: everything shared is sent every round.")
    s: Share = Field(0.7, description="Share of the sent coordinates that counts as inactive in a round.")
    tau: Annotated[int, Field(ge=1, le=100)] = Field(3, description="Inactive rounds in a row before pruning.")
    beta: Annotated[float, Field(ge=0.001, lt=1.0)] = Field(0.5, description="Factor on the reactivation probability.")
    pruned: Literal["accumulate", "freeze", "discard"] = Field(
        "accumulate",
        description="A pruned coordinate's local change: rolled back into the residual, never made (only what is sent "
        "is trained), or dropped.",
    )
    residual_decay: Share = Field(0.8, description="Factor on the residual of coordinates not sent (paper: 1).")
    scope: Literal["global", "tensor"] = Field("global", description="One threshold for all, or one a tensor.")
    kinds: list[Literal["table", "dense"]] = Field(["table", "dense"], description="Prunable kinds; statistics never.")
    schedule: str = Field(
        "constant",
        description="`constant`, `logistic` (`[pruning.budget]`), a plug-in's name, or `package.module:name` of a `PruningSchedule`.",
    )
    quota: Annotated[int, Field(ge=0)] = Field(
        0,
        description="Prunable values that a round sends, exactly: what pruning leaves is cut to so many, or filled up with pruned ones. "
        "0: what pruning leaves. `logistic` sets it round by round.",
    )
    budget: Budget = Field(default_factory=Budget)
    threshold: Literal["sent", "all"] = Field(
        "sent",
        description="What theta is a quantile of: the coordinates sent in the round, so that pruning compounds; or all prunable "
        "ones, those not sent counting as 0 (docs/decisions/0008).",
    )
    quantile: Literal["smallest", "printed"] = Field(
        "smallest",
        description="Share under theta: `s`, as the paper's text says; or 1 - s, theta as the paper prints it, the (100 - s)-th "
        "percentile.",
    )
    window: Literal["restart", "literal"] = Field(
        "restart",
        description="What makes a pruned coordinate active again: p back at 1; or one round in which it was sent and not under "
        "theta (equation 4 as printed), after which it keeps its p.",
    )
    reactivation: bool = Field(
        True, description="False: what is pruned stays so for good, and `beta` is of no use (the paper's figure 9)."
    )


class Grid(Section):
    """Quantisation of updates to integers."""

    value_bits: Annotated[int, Field(ge=2, le=16)] = Field(
        4,
        description="Least bits of a sent value, sign included; what a component leaves over is used too. Statistics (running means "
        "and variances) take at least 12.",
    )
    headroom: Positive = Field(0.5, description="Range of a tensor, in mean largest magnitudes of the last round.")
    first_range: Positive = Field(
        0.25,
        description="Range of the first round, before any history; of statistics at least 4.",
    )
    first_bits: Annotated[int, Field(ge=2, le=16)] = Field(
        10,
        description="Least bits of a value in the first round, whose range is a guess; never fewer than `value_bits`. Fewer make the largest upload "
        "smaller where `first_range` is near what a round moves values by.",
    )


class Aggregation(Section):
    """Server-side rule for the mean update (arXiv 2003.00295), applied by every institution alike (docs/decisions/0034)."""

    rule: Literal["average", "momentum", "adagrad", "adam", "yogi"] = Field(
        "average",
        description="`average` adds rate * d, d the mean update (FedAvg at rate 1). `momentum` adds rate * m, m the sum of all updates, each "
        "times `momentum` for every round since (FedAvgM). `adagrad`, `adam`, `yogi` add rate * m / (sqrt(v) + floor), m the running mean of d and v "
        "the sum or running mean of d * d (FedAdagrad, FedAdam, FedYogi). Statistics are averaged always.",
    )
    rate: Positive = Field(1.0, description="eta, the server's learning rate, of every rule.")
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(0.9, description="beta_1, of every rule but `average`.")
    second: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(0.99, description="beta_2, of `adam` and `yogi`.")
    floor: Annotated[float, Field(ge=1e-12)] = Field(
        1e-3,
        description="tau, of `adagrad`, `adam`, `yogi`. Small: all that moves makes steps near `rate`; large: in proportion to d.",
    )


class Selection(Section):
    """Choice of the best model, and of when to stop, by a figure that only institutions learn."""

    by: Literal["metric", "loss", "none"] = Field(
        "metric",
        description="The task's metric, or the loss, over the validation samples of all institutions. `none`: no best model is "
        "kept, which saves 8 bytes a shared value on each institution's disk.",
    )
    patience: Annotated[int, Field(ge=0, le=100_000)] = Field(
        0,
        description="Rounds of updates in a row whose model is measured without progress, after which nobody trains any more. 0: never stop early.",
    )
    min_delta: Annotated[float, Field(ge=0.0)] = Field(
        0.0, description="What counts as progress: more than this above the figure that counted last."
    )
    higher: bool = Field(True, description="Whether a higher metric is better; filled in by genesis, from the task.")


CLEAR_LEAST = "clear-least"
"""Decision that selective encryption takes (`encryption.sealed_share` with `sensitivity = "gradient"`)."""


class Scores(Section):
    """Score rounds before the first update: sealed numbers that institutions add up to decide something together."""

    decision: str = Field(
        "", description="Decision to take: a plug-in's name, or `package.module:name` of a `Decision`. Empty: none."
    )
    measure: str = Field(
        "gradient",
        description="Scores that institutions send: `gradient` (mean absolute gradient of a sample), a plug-in's name, or "
        "`package.module:name`.",
    )
    rounds: Annotated[int, Field(ge=1, le=100)] = Field(1, description="Score rounds, where there is a decision.")


class Tallies(Section):
    """Sealed tallies: vectors of the institutions' own, which all of them learn the sum of (docs/decisions/0043)."""

    opening: list[str] = Field(
        [],
        description="Tallies before the first update, one round each: `classes` (how many samples have each label), a plug-in's "
        "name, or `package.module:name` of a `dictpfl.client.training.tally.Source`. Need 3 institutions in a sum.",
    )
    closing: list[str] = Field([], description="The same after the last update, of the finished model.")
    options: dict[str, dict[str, Any]] = Field({}, description="Of each tally by its name: what its source takes.")
