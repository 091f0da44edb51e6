"""Sections `[federation]` and `[resources]`: who takes part, how often, and on which part of a machine."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dictpfl.common.settings.section import Positive, Section


class Federation(Section):
    """Participants, number of rounds, and the least that a round needs to count."""

    rounds: Annotated[int, Field(ge=1, le=100_000)] = Field(
        20,
        description="Rounds of training. Part of the federation's id, which draws of pruning follow: a run that `--resume` takes further "
        "than it was founded for is as good as, but not bit for bit, one of so many rounds from the start.",
    )
    participants: Annotated[int, Field(ge=1, le=10_000)] = Field(
        3, description="Institutions that a simulation plays, or that a deployment expects."
    )
    max_participants: Annotated[int, Field(ge=0, le=10_000)] = Field(
        0,
        description="Most institutions whose uploads one sum may hold; digits are sized for it. "
        "0: `sample`, or `participants` where all are asked, at least 3.",
    )
    min_participants: Annotated[int, Field(ge=1, le=10_000)] = Field(
        3,
        description="Fewest institutions in a sum that an institution agrees to open. "
        "Below 3 needs `toy_insecure`: with two, each can subtract itself.",
    )
    sample: Annotated[int, Field(ge=0, le=10_000)] = Field(
        0,
        description="Institutions that the coordinator asks in a round, drawn anew for each from those that are online; digits are "
        "sized for so many. Those that are not asked apply the round when they are asked next. 0: all.",
    )
    deadline_seconds: Positive = Field(3600.0, description="Seconds after which a round closes without stragglers.")
    sample_cap: Annotated[int, Field(ge=0)] = Field(
        0,
        description="Training samples that carry the full weight 1; an institution with more counts as this many. "
        "0: a simulation takes the next power of two above its largest institution.",
    )
    snapshot_every: Annotated[int, Field(ge=0)] = Field(
        50,
        description="Rounds between two sealed snapshots of shared state, from which a latecomer starts instead of "
        "replaying every round. 0: never.",
    )
    snapshots_kept: Annotated[int, Field(ge=0)] = Field(
        2,
        description="Newest snapshots that the coordinator keeps; aggregates older than the oldest of them are dropped. "
        "0: nothing is ever dropped, as in a simulation, whose report replays every round.",
    )


class Resources(Section):
    """Division of a machine among simulated institutions that train at once; deployments have a machine each."""

    gpus: Literal["auto"] | Annotated[int, Field(ge=0)] = Field(
        "auto",
        description="GPUs of this machine that a simulation may use; `auto`: all. `dictpfl simulate --gpus` sets it.",
    )
    client_cpus: Positive = Field(
        1.0, description="Processors of an institution: as many institutions train at once as there are processors for."
    )
    client_gpus: Literal["auto"] | Annotated[float, Field(ge=0.0)] = Field(
        "auto",
        description="GPUs of an institution, or a share of one. `auto`: what there is, divided by the institutions that processors let "
        "train at once.",
    )
