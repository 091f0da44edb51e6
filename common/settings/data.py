"""Section `[data]`: where samples come from, how they are prepared, and who gets which."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from dictpfl.common.settings.section import OpenShare, Positive, Section


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
    """Preparation of a table's columns by pooled statistics: encrypted sums before round 1 (docs/how-to/your-data.md)."""

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
        "`videofolder`, `datasets` and `parquet` (docs/how-to/your-data.md). A function that returns a torch Dataset is read so in any case.",
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
