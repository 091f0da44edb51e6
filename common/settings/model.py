"""Sections `[model]` and `[decomposition]`: what is fine-tuned, and which of its weights become tables."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from dictpfl.common.settings.section import OpenShare, Positive, Section


class Pretrain(Section):
    """Training of W0 on the public split before genesis, so that it means something."""

    epochs: Annotated[int, Field(ge=0)] = Field(0, description="Epochs on the public split; 0: no pretraining.")
    classes: list[int] = Field([], description="Only these labels of the public split; empty: all.")
    learning_rate: Positive = Field(1e-3, description="Adam's learning rate.")
    batch_size: Annotated[int, Field(ge=1)] = Field(32, description="Samples a step.")


class Model(Section):
    """The model to fine-tune."""

    source: str = Field(
        "mlp",
        description="`mlp`, `cnn`, `vit_tiny`, `video`, `vlm` (pictures and questions), `tabular`, `timm:NAME`, `transformers:NAME` (a hub's name, or a folder) or "
        "`package.module:function` returning a torch module.",
    )
    options: dict[str, Any] = Field(
        {},
        description="Keyword arguments, for instance `hidden = [128, 128]` of `mlp`; docs/how-to/hub-models.md has those "
        "of timm and transformers.",
    )
    architecture: dict[str, Any] = Field(
        {},
        description="Filled in by genesis for timm and transformers, so that institutions need neither hub nor folder.",
    )
    weights: str = Field("", description="safetensors file with the starting weights W0; empty: random, by `seed`.")
    pretrain: Pretrain = Field(default_factory=Pretrain)


class Decomposition(Section):
    """Decomposition (DePE; arXiv 2510.21086, section 4.1): weights that become D T, and those trained as they are."""

    enabled: bool = Field(True, description="False: every weight is trained dense, as full fine-tuning does.")
    form: Literal["table", "core"] = Field(
        "table",
        description="`table`: W0 + D T, of which the lookup table T (r x m) is trained and shared; `core`: W0 + D C E with a frozen "
        "dictionary on either side, of which the core C (r x r) is, so that a higher rank costs the same whatever the weight's size.",
    )
    basis: Literal["weights", "gradient"] = Field(
        "weights",
        description="Matrix whose singular vectors make the dictionaries: `weights`: W0 (the paper); `gradient`: the gradient of the loss "
        "over the public samples (`data.public_share`) at W0, without its singular values. Members of a deployment could not make those again, so that only a "
        "simulation has them.",
    )
    rank: Annotated[int, Field(ge=1)] = Field(4, description="r, columns of each dictionary.")
    allocator: str = Field(
        "uniform",
        description="Ranks of the tables: `uniform`; `layerif`, or an arm beside it (`reversed`, `random`, `gradient`), by the scores of "
        "`scores`, at the same number of values in all; a plug-in's name, or `package.module:name` of a `BudgetAllocator`.",
    )
    scores: str = Field(
        "",
        description="File with scores of the model's layers, `layers.json` of `dictpfl audit layers`, that an allocator divides by. Genesis "
        "holds its SHA-256 in place of the path.",
    )
    rank_max: Annotated[int, Field(ge=0)] = Field(
        0, description="Largest rank that an allocator other than `uniform` may give; 0: twice `rank`."
    )
    rank_min: Annotated[int, Field(ge=1)] = Field(1, description="Smallest rank that such an allocator may give.")
    orientation: Literal["paper", "smaller"] = Field(
        "paper", description="`paper`: T is r x m; `smaller`: T stands on the smaller side, fewer values are sent."
    )
    scaling: Literal["normalised", "paper"] = Field(
        "normalised",
        description="`normalised`: Frobenius norm of D is sqrt(n), rows of norm 1, and of E, if there is one, sqrt(m); `paper`: "
        "D = U_r S_r and E = V_r^T.",
    )
    refresh_every: Annotated[int, Field(ge=0)] = Field(
        0,
        description="M: every M rounds W0 takes up D T and a new D is drawn; 0: never (the paper). With `refresh_when` other "
        "than `fixed`: the fewest rounds between two refreshes of a table.",
    )
    refresh_when: Literal["fixed", "stall", "stall-tensor"] = Field(
        "fixed",
        description="`fixed`: every M rounds; `stall`: all tables, once their mean update falls below `refresh_stall` of its "
        "largest since the last refresh; `stall-tensor`: each table for itself.",
    )
    refresh_stall: OpenShare = Field(0.5, description="See `refresh_when`.")
    refresh_history: Literal["forget", "keep"] = Field(
        "forget",
        description="What pruning knows of a refreshed table: `forget` sends all of it again until it is pruned anew, `keep` "
        "goes on as if the new rows were the old ones.",
    )
    refresh_ranks: list[Annotated[int, Field(ge=1)]] = Field(
        [],
        description="Ranks in use after 0, 1, 2, ... refreshes of a table, each at most `rank`, the last one from then on; "
        "`[2, 4, 8]` grows, `[8, 4]` shrinks. Empty: `rank`.",
    )
    head: Literal["dense", "decomposed", "frozen"] = Field("dense", description="The last linear layer.")
    embeddings: Literal["frozen", "decomposed", "dense"] = Field(
        "frozen",
        description="Lookup tables of tokens (positions in one included), with output layers that mirror them.",
    )
    biases: bool = Field(True, description="Train and share biases.")
    norms: bool = Field(True, description="Train and share scales and shifts of normalisation layers.")
    positions: bool = Field(
        True, description="Train and share position embeddings; those of lookup tables follow `embeddings` first."
    )
    tokens: bool = Field(True, description="Train and share class tokens and other small free parameters.")
    batch_norm: Literal["shared", "local", "frozen"] = Field(
        "shared", description="Running statistics: averaged encrypted, kept at home (FedBN), or never updated."
    )
    dense: list[str] = Field([], description="Patterns (fnmatch) of parameter names to train dense.")
    tables: list[str] = Field(
        [],
        description="Patterns of names of matrices that get a table though no layer type covers them, such as a raw parameter of a module of "
        "your own: whoever reads the attribute gets W0 + D T.",
    )
    frozen: list[str] = Field([], description="Patterns of parameter names that stay as in W0.")
    local: list[str] = Field([], description="Patterns of parameter names trained but never shared.")
    layers: list[str] = Field(
        [], description="Layer types besides this project's own: names of plug-ins, or `package.module:name`."
    )
    last_layers: Annotated[int, Field(ge=0)] = Field(
        0, description="Train and share only the last k layers with weights, dense; 0: all (used by `fedhe-topk`)."
    )


SCORED = ("layerif", "reversed", "random", "gradient")
"""Allocators that divide by `decomposition.scores`."""
NO_PUBLIC_KEY = (
    "encryption under a public key was removed in 0.2 (docs/decisions/0030): every sender holds the key that opens"
)
