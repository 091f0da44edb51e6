"""The sections of the configuration file: every field with its unit, range, default and meaning.

`docs/configuration.md` is generated from these classes (`python -m dictpfl.deploy.reference`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0.0, le=1.0)]
OpenShare = Annotated[float, Field(gt=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0)]


class Section(BaseModel):
    """A part of the file: immutable, and closed against unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


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


class Recipe(Section):
    """Preparation of a column of numbers, in this order, by statistics of all institutions' training samples together."""

    impute: Literal["none", "mean", "median"] = Field("none", description="What stands in for a missing value.")
    clip: list[Annotated[float, Field(ge=0.01, le=0.99)]] = Field(
        [], max_length=2, description="Two quantiles, such as [0.01, 0.99], that values are cut to; empty: none."
    )
    scale: Literal["none", "standard", "minmax", "robust"] = Field(
        "none",
        description="`standard`: mean 0, deviation 1 (of values before clipping); `minmax`: from 0 to 1; `robust`: median 0, interquartile "
        "range 1. Of missing values, what stands in for them counts.",
    )


class Preprocessing(Recipe):
    """Preparation of a table's columns by pooled statistics: encrypted sums before round 1 (docs/how-to/preprocessing.md)."""

    columns: dict[str, Recipe] = Field({}, description="Columns that are prepared in another way, by name.")
    categories: dict[str, list[str] | Annotated[int, Field(ge=1, le=4096)]] = Field(
        {},
        description="Columns that become one feature a category and one for all others: by name the list of categories, or a number of "
        "buckets that an unknown vocabulary is hashed into.",
    )
    least: Annotated[int, Field(ge=0)] = Field(
        10, description="Fewest samples of a category at all institutions together; rarer ones are `others`."
    )
    pipeline: str = Field(
        "",
        description="`package.module:function` that returns a scikit-learn Pipeline or ColumnTransformer, not fitted, in place of the keys "
        "above, which genesis fills in.",
    )

    @property
    def on(self) -> bool:
        """True where anything is prepared."""
        return bool(self.categories or any(recipe != Recipe() for recipe in (self.default, *self.columns.values())))

    @property
    def default(self) -> Recipe:
        """Recipe of columns that `columns` does not name."""
        return Recipe(impute=self.impute, clip=self.clip, scale=self.scale)


MADE_BY = "features_sha256"
"""Option of clips' features: digest of the encoder that all use, and of what it is given."""


class Data(Section):
    """Source of the samples, and their division among institutions."""

    source: str = Field(
        "digits",
        description="`digits`, `breast_cancer` (scikit-learn), `fashion_mnist` (folder of IDX files), `csv`, `parquet`, "
        "`jsonl`, `datasets` (a folder that Hugging Face's `save_to_disk` wrote, or an .arrow file), `imagefolder` and `videofolder` (a folder "
        "for each class), `short_events` (clips made up as they are needed), `mosaic` (pictures with questions, likewise), or `package.module:function` returning `dictpfl.client.data.samples.Dataset`.",
    )
    path: str = Field(
        "",
        description="File or folder that the source reads; or a data set of the Hugging Face hub: `owner/name` (`:test` for another "
        "split than `train`), or `hf://datasets/owner/name/file`.",
    )
    paths: dict[str, str] | list[str] = Field(
        {},
        description="In place of `path`, a file or folder for each institution of a simulation: by the institution's name, or a list "
        "(named after the files). `path` may also be a pattern such as `sites/*.csv`. Then `partition` is `column` unless it is set.",
    )
    label: str = Field("label", description="Column with the labels.")
    features: list[str] = Field(
        [],
        description="Columns that are features of a table of numbers, in the model's order, found by name; any other column must be named "
        "in `exclude`. Empty: all that no other key names; genesis records them.",
    )
    exclude: list[str] = Field([], description="Columns of a table of numbers that are no features, such as an id.")
    options: dict[str, Any] = Field(
        {},
        description="Of the source: what makes text, images or numbers of its columns (docs/how-to/your-data.md) or features of clips "
        "(docs/how-to/video.md), or keyword arguments for a user's function.",
    )
    lazy: bool = Field(
        False,
        description="Read samples when a batch needs them, by `training.workers` processes, in place of all at the start: `imagefolder`, "
        "`videofolder`, `datasets` and `parquet` (docs/how-to/large-data.md). A function that returns a torch Dataset is read so in any case.",
    )
    skip_broken: bool = Field(
        False,
        description="Leave out samples of such data, and files of `imagefolder` and `videofolder`, that cannot be read, and say how many; "
        "false: the first one is an error that names it.",
    )
    preprocessing: Preprocessing = Field(default_factory=Preprocessing)
    limit: Annotated[int, Field(ge=0)] = Field(
        0,
        description="Keep at most this many samples (0: all), drawn by seed. Test samples of their own (`test_path`, "
        "`split_column`) are not counted; `test_limit` caps them.",
    )
    partition: str = Field(
        "iid",
        description="How samples go to institutions: `iid`, `dirichlet`, `column`, or a partitioner of flwr-datasets by its "
        "class name, such as `ShardPartitioner`, or of your own, `package.module:name`.",
    )
    partition_options: dict[str, Any] = Field(
        {}, description="Keyword arguments of a partitioner that is given by name; count, label and seed are filled in."
    )
    alpha: Positive = Field(0.3, description="Concentration of `dirichlet` over labels; smaller is more skewed.")
    sizes: Literal["drawn", "equal"] = Field(
        "drawn",
        description="Numbers of samples under `dirichlet`: as the draw has them, or `equal`, as under `iid` (the paper's table 6).",
    )
    column: str = Field("", description="Column whose value names the institution.")
    test_share: OpenShare = Field(
        0.2,
        description="Share kept outside the federation for the final figure; not used where `test_path` or `split_column` gives "
        "the test samples.",
    )
    test_path: str = Field(
        "", description="File or folder of the same form as `path` with the test samples; `path` then has none of them."
    )
    split_column: str = Field(
        "",
        description="Column that says what a row is for: `train`, `test`, or `validation` (of its institution; "
        "`validation_share` is then not used).",
    )
    test_limit: Annotated[int, Field(ge=0)] = Field(
        0, description="Keep at most this many test samples (0: all), drawn by seed."
    )
    public_share: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.0, description="Share made public for `[model.pretrain]`, taken before institutions get theirs."
    )
    validation_share: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.15, description="Share of each institution's samples kept for its own validation."
    )

    @property
    def of_features(self) -> bool:
        """True where samples are what an encoder makes of clips."""
        return self.source == "videofolder" and "features" in self.options

    @property
    def made_by(self) -> str:
        """Digest of that encoder, hexadecimal; empty where nobody named one."""
        return str(self.options.get(MADE_BY, "")) if self.of_features else ""


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
    "encryption under a public key was removed in 0.2 (docs/decisions/0027): every sender holds the key that opens"
)


class Narrow(Section):
    """Narrowing of a general model to one skill, by gates that are trained and shared in place of scores (docs/how-to/narrow.md)."""

    axes: list[Literal["ffn"]] = Field(
        [], description="Units that get gates: `ffn`, the neurons of feed-forward blocks. Empty: nothing is narrowed."
    )
    keep: Annotated[float, Field(gt=0.0)] = Field(
        0.25, description="Units that stay of each layer: a share below 1, or a number of them."
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
    temperature: Positive = Field(
        1.0, description="Ranks over which the soft mask falls; lambda = columns / temperature."
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
        "`grid`, `salient`, `dtm`. Or a plug-in's name, or `package.module:name`.",
    )
    keep: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        0.25,
        description="Share of the tokens that is kept; between layers its mean over them, class token left aside. 1: all, bit for bit "
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
    threads: Annotated[int, Field(ge=1)] = Field(
        1, description="torch's threads; fixed, so that every engine trains alike."
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
