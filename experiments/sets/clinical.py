"""Clinical tables of real centres, prepared and split as FLamby does: UCI heart disease and TCGA-BRCA.

FLamby: Ogier du Terrail et al., "FLamby: Datasets and Benchmarks for Cross-Silo Federated Learning in Realistic Healthcare
Settings", NeurIPS 2022 (arXiv 2210.04620).
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sets import fetched
from sets.places import Unreachable, note, original, web, write

_HEART = ("heart_disease.csv", "4d96c9772db102a2224720fee2acdc04a770f39730652ddf346d3c3ed8e2caab")
_UCI = "https://archive.ics.uci.edu/ml/machine-learning-databases/heart-disease/processed.{}.data"
_COMPLETE = {"cleveland": 303, "hungarian": 261, "switzerland": 46, "va": 130}
"""Rows without a gap in the columns that are kept, as FLamby counts them."""
_COLUMNS = [
    "age",
    "sex",
    "cp",
    "trestbps",
    "chol",
    "fbs",
    "restecg",
    "thalach",
    "exang",
    "oldpeak",
    "slope",
    "ca",
    "thal",
    "num",
]
_DROPPED = ["slope", "ca", "thal"]
"""Missing in most rows of three centres."""
_TRAINED, _SEED = 0.66, 43
_HEART_TERMS = """
UCI heart disease, CC BY 4.0, https://archive.ics.uci.edu/dataset/45/heart+disease
Andras Janosi, M.D., Hungarian Institute of Cardiology, Budapest; William Steinbrunn, M.D., University Hospital, Zurich; Matthias
Pfisterer, M.D., University Hospital, Basel; Robert Detrano, M.D., Ph.D., V.A. Medical Center, Long Beach and Cleveland Clinic.
Changed: columns and rows with gaps dropped, categories as columns, standardised, split.
"""

_FLAMBY = "https://raw.githubusercontent.com/owkin/FLamby/edacf54d5211520583b0133d55ac39b6fda8324b/flamby/datasets/fed_tcga_brca/"
_TCGA = ("tcga_brca.csv", "07cb53423f7d579d33cfdbf2cba57b2aee75318b85866c68ce39a75b1f1ba020", "brca.csv")
_SPLIT = (
    "tcga_brca-split.csv",
    "1249c6543a4060ff0fdaf8510fc37017755836db6c9fc5e6af96057c36510990",
    "dataset_creation_scripts/train_test_split.csv",
)
_REGIONS = ("northeast", "south", "west", "midwest", "europe", "canada")
"""In FLamby's order of centres."""
_PATIENTS = 1088
_TCGA_TERMS = """
TCGA-BRCA, clinical table of The Cancer Genome Atlas, open access: https://gdc.cancer.gov/access-data/data-access-processes-and-tools
Do not try to identify anybody. Prepared and split by FLamby (https://github.com/owkin/FLamby). Changed: one table with the split.
"""


@fetched(
    "heart",
    files=("heart.csv", "heart_pooled.csv"),
    about="UCI heart disease, 740 patients of four hospitals: 13 numbers, `disease`, `center`, `split`",
)
def heart(target: Path, given: Path | None) -> None:
    """Write heart.csv, standardised in each centre, and heart_pooled.csv, standardised over all centres."""
    found = original(given, *_HEART)
    frame = pd.read_csv(io.BytesIO(found)) if found else _uci()
    frame = frame.drop(columns=_DROPPED).dropna().reset_index(drop=True)
    if frame["center"].value_counts().to_dict() != _COMPLETE:
        raise Unreachable(
            f"heart disease: {frame['center'].value_counts().to_dict()} complete rows; expected {_COMPLETE}: the files at UCI "
            "have changed; give the folder of originals by --from"
        )
    disease = (frame["num"] != 0).astype(int)
    split = np.full(len(frame), "train", dtype=object)
    for center in _COMPLETE:
        rows = np.flatnonzero(frame["center"] == center)
        split[rows[_test_rows(disease.to_numpy()[rows])]] = "test"
    features = pd.get_dummies(
        frame.drop(columns=["center", "num"]), columns=["cp", "restecg"], drop_first=True, dtype=float
    )
    features.columns = pd.Index([str(name).removesuffix(".0") for name in features.columns])
    labels = pd.DataFrame({"disease": disease, "center": frame["center"], "split": split})
    whole = np.zeros(len(frame), dtype=int)
    note(target / "heart.LICENSE", _HEART_TERMS)
    for name, groups in (("heart.csv", frame["center"].to_numpy()), ("heart_pooled.csv", whole)):
        scaled = _standardised(features, groups, split == "train")
        write(target / name, pd.concat([scaled, labels], axis=1).to_csv(index=False).encode())


@fetched(
    "tcga",
    files=("tcga.csv",),
    about="TCGA-BRCA, 1,088 patients of six regions: 39 features, event `E`, days `T`, `region`, `split`",
)
def tcga(target: Path, given: Path | None) -> None:
    """Write tcga.csv: features as they are, FLamby's fixed split."""
    table, split = (
        pd.read_csv(io.BytesIO(original(given, name, digest) or web(_FLAMBY + place, digest)))
        for name, digest, place in (_TCGA, _SPLIT)
    )
    frame = table.merge(split[["pid", "fold2"]], on="pid", validate="one_to_one")
    if len(frame) != _PATIENTS:
        raise Unreachable(f"TCGA-BRCA: {len(frame)} patients in both files, expected {_PATIENTS:,}; fetch them again")
    parts = frame.pop("fold2").str.split("_", expand=True)
    frame["region"], frame["split"] = [_REGIONS[int(number)] for number in parts[1]], parts[0]
    note(target / "tcga.LICENSE", _TCGA_TERMS)
    write(target / "tcga.csv", frame.drop(columns="pid").to_csv(index=False).encode())


def _uci() -> pd.DataFrame:
    """Read the four files of UCI, gaps as NaN."""
    parts = []
    for center in _COMPLETE:
        part = pd.read_csv(io.BytesIO(web(_UCI.format(center))), names=_COLUMNS, na_values="?")
        parts.append(part.assign(center=center))
    return pd.concat(parts, ignore_index=True)


def _test_rows(disease: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Rows of one centre that test: 34 %, stratified where both classes have more than two."""
    from sklearn.model_selection import train_test_split

    counts = np.bincount(disease, minlength=2)
    rows: NDArray[np.int64] = train_test_split(
        np.arange(len(disease)), test_size=1 - _TRAINED, train_size=_TRAINED, random_state=_SEED,
        stratify=disease if counts.min() > 2 else None,  # noqa: PLR2004 -- FLamby's rule
    )[1]  # fmt: skip
    return rows


def _standardised(features: pd.DataFrame, groups: NDArray[np.generic], trains: NDArray[np.bool_]) -> pd.DataFrame:
    """Less the mean, over the deviation, of each group's own training rows; what is constant there becomes 0."""
    scaled = features.copy()
    for group in np.unique(groups):
        rows = groups == group
        own = features[rows & trains]
        spread = own.std()
        scaled[rows] = (features[rows] - own.mean()) / spread.where(spread > 0, np.inf)
    return scaled
