"""The sections of the configuration file: every field with its unit, range, default and meaning.

`docs/configuration.md` is generated from these classes (`python -m deploy.reference`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0.0, le=1.0)]
OpenShare = Annotated[float, Field(gt=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0)]


class Section(BaseModel):
    """A part of the file: immutable, and closed against unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Federation(Section):
    """Who takes part, for how long, and what a round needs to count."""

    rounds: Annotated[int, Field(ge=1, le=100_000)] = Field(20, description="Rounds of training.")
    participants: Annotated[int, Field(ge=1, le=10_000)] = Field(
        3, description="Institutions that a simulation plays, or that a deployment expects."
    )
    max_participants: Annotated[int, Field(ge=0, le=10_000)] = Field(
        0,
        description="Most institutions whose uploads one sum may hold; digits are sized for it. "
        "0: `participants`, at least 3.",
    )
    min_participants: Annotated[int, Field(ge=1, le=10_000)] = Field(
        3,
        description="Fewest institutions in a sum that an institution agrees to open. "
        "Below 3 needs `toy_insecure`: with two, each can subtract itself.",
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


class Data(Section):
    """Where the samples come from and how they are divided."""

    source: str = Field(
        "digits",
        description="`digits`, `breast_cancer` (scikit-learn), `fashion_mnist` (folder of IDX files), `csv`, `parquet`, "
        "`jsonl`, `datasets` (a folder that Hugging Face's `save_to_disk` wrote, or an .arrow file), `imagefolder` (a folder "
        "for each class), or `package.module:function` returning `client.data.Dataset`.",
    )
    path: str = Field("", description="File or folder that the source reads.")
    label: str = Field("label", description="Column with the labels.")
    options: dict[str, Any] = Field(
        {},
        description="Of the source: what makes text, images or numbers of its columns (docs/how-to/your-data.md), or keyword "
        "arguments for a user's function.",
    )
    limit: Annotated[int, Field(ge=0)] = Field(0, description="Keep at most this many samples (0: all), drawn by seed.")
    partition: str = Field(
        "iid",
        description="How samples go to institutions: `iid`, `dirichlet`, `column`, or a partitioner of flwr-datasets by its "
        "class name, such as `ShardPartitioner`.",
    )
    partition_options: dict[str, Any] = Field(
        {}, description="Keyword arguments of a partitioner that is given by name; count, label and seed are filled in."
    )
    alpha: Positive = Field(0.3, description="Concentration of `dirichlet` over labels; smaller is more skewed.")
    column: str = Field("", description="Column whose value names the institution.")
    test_share: OpenShare = Field(0.2, description="Share kept outside the federation for the final figure.")
    public_share: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.0, description="Share made public for `[model.pretrain]`, taken before institutions get theirs."
    )
    validation_share: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.15, description="Share of each institution's samples kept for its own validation."
    )


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
        description="`mlp`, `cnn`, `vit_tiny`, `timm:NAME`, `transformers:NAME` (a hub's name, or a folder) or "
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
    """DePE (PAPER section 4.1): which weights become D T, and which are trained as they are."""

    enabled: bool = Field(True, description="False: every weight is trained dense, as full fine-tuning does.")
    rank: Annotated[int, Field(ge=1)] = Field(4, description="r, columns of each dictionary.")
    allocator: str = Field("uniform", description="`uniform` or `package.module:name` of a `BudgetAllocator`.")
    orientation: Literal["paper", "smaller"] = Field(
        "paper", description="`paper`: T is r x m; `smaller`: T stands on the smaller side, fewer values are sent."
    )
    scaling: Literal["normalised", "paper"] = Field(
        "normalised", description="`normalised`: Frobenius norm of D is sqrt(n), rows of norm 1; `paper`: D = U_r S_r."
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
    frozen: list[str] = Field([], description="Patterns of parameter names that stay as in W0.")
    local: list[str] = Field([], description="Patterns of parameter names trained but never shared.")
    last_layers: Annotated[int, Field(ge=0)] = Field(
        0, description="Train and share only the last k layers with weights, dense; 0: all (used by `fedhe-topk`)."
    )


class Pruning(Section):
    """PrME (PAPER section 4.2): history-guided pruning that everybody replays."""

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
    schedule: str = Field("constant", description="`constant` or `package.module:name` of a `PruningSchedule`.")


class Grid(Section):
    """Quantisation of updates to integers."""

    value_bits: Annotated[int, Field(ge=2, le=16)] = Field(
        8, description="Least bits of a sent value, sign included; bits that a component leaves over are used too."
    )
    headroom: Positive = Field(2.0, description="Range of a tensor, in mean largest magnitudes of the last round.")
    first_range: Positive = Field(4.0, description="Range of the first round, sent wide, before any history.")


class Selection(Section):
    """Which round's model is the best, and when to stop: by a figure that only institutions learn, all in the same round."""

    by: Literal["metric", "loss", "none"] = Field(
        "metric",
        description="The task's metric, or the loss, over the validation samples of all institutions. `none`: no best model is "
        "kept, which saves 8 bytes a shared value on each institution's disk.",
    )
    patience: Annotated[int, Field(ge=0, le=100_000)] = Field(
        0,
        description="Measured rounds in a row without progress after which nobody trains any more. 0: never stop early.",
    )
    min_delta: Annotated[float, Field(ge=0.0)] = Field(
        0.0, description="What counts as progress: more than this above the figure that counted last."
    )
    higher: bool = Field(True, description="Whether a higher metric is better; filled in by genesis, from the task.")


class Encryption(Section):
    """How uploads are sealed."""

    sealer: Literal["ckks", "identity"] = Field(
        "ckks",
        description="`identity` sends the very same integers unencrypted, for exact comparison; needs `toy_insecure`.",
    )
    profile: Literal["symmetric", "public_key"] = Field(
        "symmetric", description="Seeded symmetric encryption under one prime, or public-key under two."
    )
    security: Literal[128, 192, 256] = Field(
        192, description="Least classical security, bits (2024 HE standard table)."
    )
    ring_degree: Literal[4096, 8192] = Field(4096, description="N, coefficients of a ciphertext.")
    seeded_sums: Literal["auto", "always", "never"] = Field(
        "auto",
        description="Sums with seeds in place of a second polynomial: half the bytes down, and each institution draws a "
        "polynomial for each upload when it opens (0.15 ms a ciphertext). `auto`: up to 4 participants; `always` pays "
        "where the network gives less than about 1 Gbps, shared by all participants.",
    )
    pad_uploads: bool = Field(
        False,
        description="Uploads of the same size in every round, as large as if nothing were pruned: what is pruned then shows "
        "in no number of ciphertexts, and saves no traffic.",
    )
    sealed_share: Share = Field(
        1.0,
        description="Share of coordinates that is encrypted; the rest crosses in clear, four bytes a value as float32 "
        "does. Below 1 needs `toy_insecure`.",
    )
    sensitivity: Literal["gradient", "magnitude"] = Field(
        "gradient", description="How `sealed_share` < 1 picks: FedML-HE's sensitivity map, or weight magnitude."
    )


class Defences(Section):
    """What stands against more than a curious coordinator (docs/threat-model.md)."""

    masks: bool = Field(
        False,
        description="Pairwise masks on uploads: who has the key and taps the coordinator opens noise. A round takes a second "
        'exchange, of small messages. Needs `encryption.sealer = "ckks"` and 3 institutions.',
    )
    mask_partners: Annotated[int, Field(ge=2, le=1000)] = Field(
        30,
        description="Institutions that each one shares masks with, where there are more than that; an even number. The more, the "
        "more of them may collude or be missing.",
    )
    integrity: bool = Field(
        False,
        description="Signed manifests and a secret tag on every upload: a coordinator that drops, repeats, alters or invents what it "
        "says it added is found out, and evidence is kept.",
    )
    reveal_seconds: Positive = Field(
        60.0,
        description="Seconds that the exchange about masks waits for institutions that delivered and do not answer.",
    )

    @property
    def any(self) -> bool:
        """Whether institutions need keys of their own among each other."""
        return self.masks or self.integrity


class Privacy(Section):
    """Differential privacy: what sums and the shared model may tell (docs/how-to/differential-privacy.md)."""

    mechanism: Literal["none", "example", "institution"] = Field(
        "none",
        description="`example`: DP-SGD at each institution (Opacus), which protects each of its training samples; `institution`: "
        "clipped updates with discrete noise on the integer grid, which protects an institution as a whole. Both need the "
        "extra `dp`.",
    )
    noise_multiplier: Annotated[float, Field(ge=0.0)] = Field(
        0.0,
        description="Standard deviation of the noise over the norm that is clipped to. 0: the least with which all rounds "
        "stay within `epsilon`.",
    )
    epsilon: Annotated[float, Field(ge=0.0)] = Field(
        0.0, description="Limit: an institution makes no upload that would spend more. 0: no limit."
    )
    delta: OpenShare = Field(
        1e-5, description="Of (epsilon, delta); well below one over the samples of an institution."
    )
    max_grad_norm: Positive = Field(1.0, description="`example`: L2 norm that the gradient of a sample is clipped to.")
    max_update_norm: Positive = Field(
        1.0,
        description="`institution`: L2 norm that an update is clipped to, with the residual that goes along, in the units of "
        "the parameters.",
    )
    curious: Annotated[int, Field(ge=0)] = Field(
        1,
        description="`institution`: how many of a sum's institutions may look together; they know their own noise, so that it "
        "does not count.",
    )
    accountant: Literal["rdp", "prv"] = Field(
        "rdp", description="`example`: Opacus' accountant; `prv` is tighter and takes longer."
    )
    figures: bool = Field(
        False,
        description="Send losses and validation figures all the same: exact, and outside of epsilon. Without them no best model "
        "is kept, and reports have none.",
    )


class Training(Section):
    """What an institution does between two exchanges."""

    epochs: Annotated[int, Field(ge=1)] = Field(1, description="Local epochs a round; ignored when `steps` is set.")
    steps: Annotated[int, Field(ge=0)] = Field(0, description="Local optimiser steps a round; 0: use `epochs`.")
    batch_size: Annotated[int, Field(ge=1)] = Field(32, description="Samples a step.")
    optimizer: Literal["adam", "adamw", "sgd"] = Field("adam", description="Fresh at every round.")
    learning_rate: Positive = Field(
        2e-3, description="For tables; the rule for choosing it is in docs/how-it-works.md."
    )
    dense_learning_rate: Annotated[float, Field(ge=0.0)] = Field(0.0, description="For dense parameters; 0: the same.")
    head_learning_rate: Annotated[float, Field(ge=0.0)] = Field(
        0.0,
        description="For the head, which begins at random where the rest is pretrained; 0: that of other parameters of its kind.",
    )
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(0.0, description="Of `sgd`.")
    weight_decay: Annotated[float, Field(ge=0.0)] = Field(0.0, description="Of the optimiser.")
    clip_norm: Annotated[float, Field(ge=0.0)] = Field(0.0, description="Gradient norm limit of a step; 0: none.")
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
        description="`classification`, `regression`, `causal-lm` or `package.module:name` of a `Task`.",
    )
    dtype: Literal["float32", "float64"] = Field("float32", description="Arithmetic of training.")
    autocast: Literal["none", "auto", "bfloat16", "float16"] = Field(
        "none",
        description="Narrow arithmetic of the forward pass. `auto`: bfloat16 (or float16) on a GPU, none on a CPU. Other than "
        "`none`, results differ between devices.",
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
    threads: Annotated[int, Field(ge=1)] = Field(
        1, description="torch's threads; fixed, so that every engine trains alike."
    )
