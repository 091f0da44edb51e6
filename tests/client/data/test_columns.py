"""Columns of a table are found by name, wherever they stand; and each institution may have a file of its own."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dictpfl.client.data.lazy import LazySamples
from dictpfl.client.data.scales import notes_on
from dictpfl.client.data.source import load_dataset
from dictpfl.client.model.hub import folder_of
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError, DataError
from dictpfl.common.settings import Data
from dictpfl.deploy.simulation.partition import divide

TABLE = pd.DataFrame(
    {"id": [7, 8, 9, 10], "age": [30.0, 40, 50, 60], "height": [1.6, 1.7, 1.8, 1.9], "ill": ["no", "yes", "no", "yes"]}
)


def section(path: Path, **said: Any) -> Data:
    return Data.model_validate({"source": "csv", "path": str(path), "label": "ill", **said})


def written(folder: Path, frame: pd.DataFrame, name: str = "t.csv") -> Path:
    frame.to_csv(folder / name, index=False)
    return folder / name


def test_another_order_of_columns_gives_the_same_samples(tmp_path: Path) -> None:
    said = {"features": ["height", "age"], "exclude": ["id"]}
    one = load_dataset(section(written(tmp_path, TABLE), **said), 1)
    other = load_dataset(section(written(tmp_path, TABLE[["ill", "height", "id", "age"]], "u.csv"), **said), 1)
    assert one.feature_names == other.feature_names == ("height", "age")
    np.testing.assert_array_equal(one.samples.features, other.samples.features)
    np.testing.assert_array_equal(one.samples.features[:, 1], [30, 40, 50, 60])


def test_an_excluded_column_is_no_feature(tmp_path: Path) -> None:
    path = written(tmp_path, TABLE)
    assert load_dataset(section(path), 1).feature_names == ("id", "age", "height")
    assert load_dataset(section(path, exclude=["id"]), 1).feature_names == ("age", "height")


@pytest.mark.parametrize(
    ("said", "match"),
    [
        ({"features": ["age", "heigth"], "exclude": ["id"]}, r"no column 'heigth' \(the nearest is 'height'\)"),
        ({"features": ["age"]}, "columns id, height are no features of this federation"),
        ({"exclude": ["ident"]}, r"no column 'ident' to exclude \(the nearest is 'id'\)"),
        ({"options": {"text": "age", "tokenizer": "x"}, "exclude": ["id"]}, "choose columns of numbers"),
    ],
)
def test_a_missing_or_another_column_is_told_by_name(tmp_path: Path, said: dict[str, Any], match: str) -> None:
    with pytest.raises((ConfigError, DataError), match=match):
        load_dataset(section(written(tmp_path, TABLE), **said), 1)


def test_columns_of_other_sources_are_refused() -> None:
    with pytest.raises(ConfigError, match="source 'digits' has none"):
        load_dataset(Data(exclude=["id"]), 1)
    with pytest.raises(ConfigError, match="features has age, which is there twice"):
        FederationConfig.of({"data": {"source": "csv", "path": "x", "features": ["age", "age"]}})


def test_the_test_file_is_matched_by_name(tmp_path: Path) -> None:
    path, test = written(tmp_path, TABLE), written(tmp_path, TABLE[["height", "ill", "age", "id"]].iloc[:2], "test.csv")
    dataset = load_dataset(section(path, test_path=str(test), exclude=["id"]), 1)
    np.testing.assert_allclose(dataset.samples.features[4:], [[30, 1.6], [40, 1.7]], rtol=1e-6)


@pytest.mark.parametrize("form", ["pattern", "list", "mapping"])
def test_each_institution_has_a_file_of_its_own(tmp_path: Path, form: str) -> None:
    both = pd.concat([TABLE] * 5, ignore_index=True)
    north = written(tmp_path, both, "north.csv")
    south = written(tmp_path, both[["ill", "id", "height", "age"]].assign(age=lambda t: t.age + 100), "south.csv")
    places: dict[str, Any] = {
        "pattern": {"path": str(tmp_path / "*.csv")},
        "list": {"path": "", "paths": [str(north), str(south)]},
        "mapping": {"path": "", "paths": {"north": str(north), "south": str(south)}},
    }[form]
    said = {"source": "csv", "label": "ill", "exclude": ["id"], **places}
    data = FederationConfig.of({"data": said, "federation": {"participants": 3}}).data
    assert data.partition == "column"
    dataset = load_dataset(data, 1)
    division = divide(dataset, data, 2, 1)
    assert [share.name for share in division.institutions] == ["north", "south"]
    for share, least in zip(division.institutions, (30, 130), strict=True):
        ages = share.train.features[:, 0]
        assert ages.min() >= least
        assert ages.max() <= least + 30
    assert set(division.test_groups.tolist()) == {"north", "south"}  # type: ignore[union-attr]


def test_files_with_other_columns_are_refused(tmp_path: Path) -> None:
    written(tmp_path, TABLE, "a.csv")
    written(tmp_path, TABLE.rename(columns={"age": "years"}), "b.csv")
    with pytest.raises(DataError, match=r"b.csv lacks age and has also years, unlike .*a.csv"):
        load_dataset(section(tmp_path / "*.csv"), 1)
    with pytest.raises(ConfigError, match="no file is named like"):
        load_dataset(section(tmp_path / "*.tsv"), 1)
    (tmp_path / "deep").mkdir()
    twice = [str(written(tmp_path, TABLE, "a.csv")), str(written(tmp_path / "deep", TABLE, "a.csv"))]
    with pytest.raises(ConfigError, match="have one name"):
        load_dataset(section(tmp_path).model_copy(update={"path": "", "paths": twice}), 1)
    with pytest.raises(ConfigError, match=r"data.column is 'id', but each institution has a file"):
        load_dataset(section(tmp_path / "[a].csv", column="id"), 1)


@pytest.mark.parametrize(
    ("age", "impute", "match"),
    [
        (["30", "forty", "50", "60"], "mean", r"b\.csv, row 2: column 'age' is not numbers; 'forty' is the first"),
        ([30.0, 40.0, None, 60.0], "none", r"b\.csv, row 3: missing values in 'age'; set data.preprocessing.impute"),
        ([30.0, 40.0, 50.0, np.inf], "mean", r"b\.csv, row 4: column 'age' has values that are infinite"),
    ],
)
def test_a_fault_of_columns_to_be_prepared_is_told_by_its_file_and_row(
    tmp_path: Path, age: list[Any], impute: str, match: str
) -> None:
    """The path was all that it said, which is a pattern where each institution has a file."""
    written(tmp_path, TABLE, "a.csv")
    written(tmp_path, TABLE.assign(age=age), "b.csv")
    with pytest.raises(DataError, match=match):
        load_dataset(section(tmp_path / "*.csv", preprocessing={"scale": "standard", "impute": impute}), 1)


@pytest.mark.parametrize("order", [("bool", "float", "text"), ("float", "text", "bool"), ("text", "bool", "float")])
def test_a_class_is_one_whatever_type_each_file_has(tmp_path: Path, order: tuple[str, ...]) -> None:
    labels: dict[str, Any] = {
        "bool": [True, False, True, False],
        "float": [1.0, 0.0, 1.0, 0.0],
        "text": ["1", "0", "1", "0"],
    }
    for kind in order:
        TABLE.assign(ill=labels[kind]).to_json(tmp_path / f"{kind}.jsonl", orient="records", lines=True)
    for kinds in (order, order[:2]):
        paths = [str(tmp_path / f"{kind}.jsonl") for kind in kinds]
        said = {"source": "jsonl", "path": "", "paths": paths, "label": "ill", "partition": "column"}
        dataset = load_dataset(Data.model_validate(said), 1)
        assert dataset.class_names == ("0", "1")
        assert dataset.samples.labels.tolist() == [1, 0, 1, 0] * len(kinds)


def test_truth_values_beside_numbers_count_as_numbers(tmp_path: Path) -> None:
    written(tmp_path, TABLE.assign(ill=[True, False, True, False]), "a.csv")
    written(tmp_path, TABLE.assign(ill=[3.0, 0.0, 1.0, 10.0]), "b.csv")
    dataset = load_dataset(section(tmp_path / "*.csv", partition="column"), 1)
    assert dataset.class_names == tuple(map(str, range(11)))
    assert dataset.samples.labels.tolist() == [1, 0, 1, 0, 3, 0, 1, 10]


@pytest.mark.parametrize("lazy", [False, True])
def test_columns_that_pandas_names_by_whole_numbers(tmp_path: Path, *, lazy: bool) -> None:
    frame = pd.DataFrame(np.column_stack([np.arange(12).reshape(6, 2), np.arange(6) % 2]))
    frame.to_parquet(tmp_path / "t.parquet", row_group_size=4)
    data = section(tmp_path / "t.parquet", source="parquet", features=["1", "0"]).model_copy(
        update={"label": "2", "lazy": lazy}
    )
    dataset = load_dataset(data, 1)
    np.testing.assert_array_equal(dataset.samples.take(np.array([5, 1])).features[:], [[11, 10], [3, 2]])
    assert dataset.samples.labels.tolist() == [0, 1, 0, 1, 0, 1]


@pytest.mark.parametrize("lazy", [False, True])
def test_a_folder_of_parquet_files_is_read_whole(tmp_path: Path, *, lazy: bool) -> None:
    """pandas alone would take the first file's columns, drop what others have beside them, and forget the names of classes."""
    (tmp_path / "deep").mkdir()
    numbered = TABLE.assign(ill=[0, 1, 0, 1])
    said = {"info": {"features": {"ill": {"names": ["well", "sick"], "_type": "ClassLabel"}}}}
    for name, frame in (("b", numbered), ("a", numbered.iloc[:2]), ("deep/c", numbered.iloc[2:])):
        table = pa.Table.from_pandas(frame, preserve_index=False)
        pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(said)}), tmp_path / f"{name}.parquet")
    data = section(tmp_path, source="parquet", exclude=["id"], features=["age", "height"], lazy=lazy)
    dataset = load_dataset(data, 1)
    assert dataset.class_names == ("well", "sick")
    ages = dataset.samples.take(np.arange(8)).features[:, 0].tolist()
    assert ages == [30, 40, 30, 40, 50, 60, 50, 60]
    numbered.assign(weight=1.0).to_parquet(tmp_path / "d.parquet")
    with pytest.raises(DataError, match=r"d\.parquet"):
        load_dataset(data, 1)


def test_a_folder_divided_by_a_column_has_it(tmp_path: Path) -> None:
    for site, part in (("north", TABLE.iloc[:2]), ("south", TABLE.iloc[2:])):
        (tmp_path / f"site={site}").mkdir()
        part.to_parquet(tmp_path / f"site={site}" / "0.parquet")
    dataset = load_dataset(section(tmp_path, source="parquet", column="site", partition="column"), 1)
    assert dataset.groups is not None
    assert list(map(str, dataset.groups)) == ["north", "north", "south", "south"]


def test_texts_of_json_stay_texts(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text("".join(f'{{"x": {n}, "07": {n}.5, "date": "{c}"}}\n' for n, c in enumerate(["01", "1", "01"])))
    data = Data.model_validate({"source": "jsonl", "path": str(path), "label": "date"})
    dataset = load_dataset(data, 1)
    assert dataset.class_names == ("01", "1")
    assert dataset.feature_names == ("x", "07")
    np.testing.assert_array_equal(dataset.samples.features, [[0, 0.5], [1, 1.5], [2, 2.5]])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"text": "id", "max_tokens": "abc", "tokenizer": "t"}, r"max_tokens is 'abc'; expected a whole number"),
        ({"text": "id", "max_tokens": 0, "tokenizer": "t"}, "max_tokens is 0; expected a whole number of 1 or more"),
        ({"text": [], "tokenizer": "t"}, r"text is \[\]; expected the name of a column"),
        ({"text": 5, "tokenizer": "t"}, "text is 5; expected the name of a column"),
        ({"text": ["id", 5], "tokenizer": "t"}, "or a list of two"),
        ({"text": ["id", "age", "height"], "tokenizer": "t"}, "or a list of two"),
        (
            {"text": ["id", "age"], "target": "next", "tokenizer": "t"},
            "learns one column, so that 'age' would be left out",
        ),
        ({"text": "id", "tokenizer": 5}, "tokenizer is 5; expected a text"),
        ({"delimiter": 5}, "delimiter is 5; expected a character"),
        ({"delimiter": ""}, "delimiter is ''; expected a character"),
        ({"delimiter": "||"}, r"delimiter is '\|\|'; expected a character"),
    ],
)
def test_options_of_other_kinds_are_told(tmp_path: Path, options: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        load_dataset(section(written(tmp_path, TABLE), options=options), 1)
    if "delimiter" not in options:
        TABLE.to_parquet(tmp_path / "t.parquet")
        with pytest.raises(ConfigError, match=match):
            load_dataset(section(tmp_path / "t.parquet", source="parquet", lazy=True, options=options), 1)


def test_a_folder_is_named_by_a_text() -> None:
    with pytest.raises(ConfigError, match="the key is 5; expected a text"):
        folder_of(5, "the key")


def test_damaged_tables_are_told_by_name(tmp_path: Path) -> None:
    """Of Parquet the footer is read first, and data when they are wanted; of an Arrow folder its description."""
    pytest.importorskip("datasets")
    frame = pd.DataFrame({"a": np.linspace(0, 1, 40), "b": np.linspace(1, 2, 40), "label": np.arange(40) % 2})
    path = tmp_path / "p.parquet"
    frame.to_parquet(path, row_group_size=10)
    column, written = pq.ParquetFile(path).metadata.row_group(1).column(0), bytearray(path.read_bytes())
    begins = column.dictionary_page_offset or column.data_page_offset
    written[begins : begins + column.total_compressed_size] = bytes(column.total_compressed_size)
    path.write_bytes(written)
    said = Data(source="parquet", path=str(path), lazy=True)
    with pytest.raises(
        DataError, match=r"p\.parquet, row 11: row group 1 cannot be read as parquet: .*data\.skip_broken = true"
    ):
        load_dataset(said, 1).samples.features[:]
    kept = load_dataset(said.model_copy(update={"skip_broken": True}), 1).samples
    assert isinstance(kept, LazySamples)
    assert len(kept.read(np.arange(40)).features) == 30  # a row is read with its group
    import datasets

    folder = tmp_path / "arrow"
    datasets.DatasetDict({"train": datasets.Dataset.from_pandas(frame)}).save_to_disk(str(folder))
    with pytest.raises(DataError, match=r"has the splits train; set data\.options\.split"):
        load_dataset(Data(source="datasets", path=str(folder), options={"split": ["train"]}), 1)
    (folder / "train" / "state.json").write_text("{}")
    with pytest.raises(DataError, match=r"cannot read .*arrow as datasets: its description is damaged.*_data_files"):
        load_dataset(Data(source="datasets", path=str(folder)), 1)


def test_a_parquet_file_with_one_name_twice_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table([[1.0, 2.0], [3.0, 4.0], [0, 1]], names=["a", "a", "label"]), tmp_path / "p.parquet")
    with pytest.raises(DataError, match=r"p\.parquet has the column 'a' twice; columns are found by name"):
        load_dataset(Data(source="parquet", path=str(tmp_path / "p.parquet"), lazy=True), 1)


@pytest.mark.parametrize("lazy", [False, True])
def test_decimals_of_a_database_are_numbers(tmp_path: Path, *, lazy: bool) -> None:
    """Each was a class of its own by its word, "1.50", and no target of a regression; as a feature it was refused without a value."""
    cells = [Decimal("1.50"), Decimal("2.00"), Decimal("3.25")]
    pd.DataFrame({"a": cells, "ill": cells}).to_parquet(tmp_path / "t.parquet")
    found = load_dataset(section(tmp_path / "t.parquet", source="parquet", lazy=lazy), 1)
    assert (found.outputs, found.class_names) == (1, ())
    np.testing.assert_array_equal(np.asarray(found.samples.features)[:, 0], [1.5, 2, 3.25])
    np.testing.assert_array_equal(found.samples.labels, np.float32([1.5, 2, 3.25]))
    whole = [Decimal("1.00"), Decimal("0.00"), Decimal("1.00")]
    pd.DataFrame({"a": cells, "ill": whole}).to_parquet(tmp_path / "u.parquet")
    found = load_dataset(section(tmp_path / "u.parquet", source="parquet", lazy=lazy), 1)
    assert (found.samples.labels.tolist(), found.class_names) == ([1, 0, 1], ("0", "1"))


def test_a_column_without_a_value_at_one_institution_is_filled(tmp_path: Path) -> None:
    """A table's missing cells have no type there, so that it was refused where nobody was measured; truth values with gaps were, too."""
    rows = [
        {"a": 1.5, "b": None, "c": True, "d": "1.00", "ill": 0},
        {"a": None, "b": None, "c": None, "d": None, "ill": 1},
    ]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    frame = pd.DataFrame(rows).assign(d=[Decimal("1.00"), None])
    frame.to_parquet(tmp_path / "t.parquet")
    for kind in ("jsonl", "parquet"):
        said = {"impute": "mean", "categories": {"d": ["0", "1.00" if kind == "jsonl" else "1"]}}
        found = load_dataset(section(tmp_path / f"t.{kind}", source=kind, preprocessing=said), 1)
        np.testing.assert_array_equal(
            found.samples.features, [[1.5, np.nan, 1, 1], [np.nan, np.nan, np.nan, -1]], err_msg=kind
        )


def test_lists_in_cells_are_refused(tmp_path: Path) -> None:
    """Of labels each list was a class, "[1 0]"; of a column of categories they ended in a traceback."""
    for cells in ([[1, 0], [0, 1]], [{"x": 1}, {"x": 2}]):
        pd.DataFrame({"a": [1.0, 2.0], "c": ["x", "y"], "ill": cells}).to_parquet(tmp_path / "t.parquet")
        with pytest.raises(DataError, match="label 'ill' has lists in its cells, such as "):
            load_dataset(section(tmp_path / "t.parquet", source="parquet", exclude=["c"]), 1)
        pd.DataFrame({"a": [1.0, 2.0], "c": ["x", cells[0]], "ill": [0, 1]}).to_json(
            tmp_path / "t.jsonl", orient="records", lines=True
        )
        with pytest.raises(DataError, match=r"t.jsonl, row 2: column 'c' has lists in its cells"):
            load_dataset(
                section(tmp_path / "t.jsonl", source="jsonl", preprocessing={"categories": {"c": ["x", "y"]}}), 1
            )


def test_columns_that_sums_are_too_coarse_for_are_noted(tmp_path: Path) -> None:
    """Their sums were 0, and they were left as they were, as columns that do not vary."""
    frame = pd.DataFrame({"farad": [1e-20, 2e-20, np.nan], "p": [1e-20, 0.5, 1], "none": [0.0, 0, 0], "ill": [0, 1, 0]})
    said = {"impute": "mean", "scale": "standard"}
    (note,) = notes_on(load_dataset(section(written(tmp_path, frame), preprocessing=said), 1))
    assert note.startswith("no number of 'farad' is beyond 2e-20, and sums are kept in steps of 2^-60")
