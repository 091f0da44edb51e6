"""A run folder: what a simulation leaves behind, written and read."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from dictpfl.common.config import FederationConfig
from dictpfl.common.documents import explained, json_text
from dictpfl.common.errors import ConfigError
from dictpfl.common.files import in_shell, is_locked, write_private
from dictpfl.common.messages.protocol import FOUND_ANEW, PROTOCOL, RoundKind
from dictpfl.deploy.runs.formats import summary_now
from dictpfl.deploy.runs.given import put_back
from dictpfl.deploy.runs.record import RoundRecord
from dictpfl.deploy.units import counted, human_bytes, human_count

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from numpy.typing import NDArray
    from torch import nn

SUMMARY, HISTORY, MODEL, CONFIG, REPORT, STATE = (
    "summary.json",
    "history.jsonl",
    "model.safetensors",
    "config.json",
    "report.html",
    "state.safetensors",
)
INSTITUTIONS = "institutions"
"""Folder in a run's folder that holds a folder for each institution."""
LOCK, PROGRESS = ".lock", "progress.json"
"""Files with the process that works in a run folder, and with the seconds that it took so far."""
_FORMER_INSTITUTIONS = "sites"
_LONGEST = 100
"""Most bytes of a configuration's name that a folder is named after; systems allow 255 for all of it."""
_NOT_IN_NAMES = frozenset("/\\" + "".join(map(chr, (*range(32), 127))))
"""Characters that would lead elsewhere than into `runs`, or that no terminal shows."""
_PACKAGES = ("dictpfl", "flwr", "tenseal", "torch", "numpy", "pydantic", "scikit-learn")


@dataclass(frozen=True, repr=False)
class Run:
    """A finished run.

    Attributes:
        folder: where it lies.
        config: what was run.
        summary: figures, as in summary.json of the newest format.
        records: of its rounds, in order; `history` has them as a table.
    """

    folder: Path
    config: FederationConfig
    summary: Mapping[str, Any]
    records: Sequence[RoundRecord]

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """Read a run folder.

        Raises:
            ConfigError: not one, none there, one whose run has not finished, or one of a later release.
        """
        folder = Path(folder)
        try:
            run = cls(folder, _read_config(folder), _read_summary(folder), _read_history(folder))
        except (FileNotFoundError, NotADirectoryError) as error:
            if not folder.is_dir():
                raise ConfigError(f"there is no folder {folder}; name the folder of a run") from error
            # Where none was begun, as in a comparison's folder, there is nothing to resume: it says so.
            closed_rounds(folder)
            raise ConfigError(
                f"{folder} holds no finished run ({Path(error.filename).name} is missing); `dictpfl simulate {in_shell(folder)} "
                "--resume` finishes one that was stopped"
            ) from error
        told, rounds = sum(record.kind == RoundKind.UPDATE for record in run.records), run.summary["rounds"]
        if told != rounds:
            raise _damaged(folder / HISTORY, f"it tells of {counted(told, 'round')}, {SUMMARY} beside it of {rounds}")
        return run

    @property
    def test(self) -> float:
        """Final figure of `summary["metric"]` on the test split."""
        return float(self.summary["test"])

    @property
    def accuracy(self) -> float:
        """Final figure on the test split, under the name that most metrics have."""
        return self.test

    @property
    def history(self) -> pd.DataFrame:
        """The rounds as a pandas table, a row a round, numbered from 1.

        `test` and `test_loss` are of the model after the round, `validation` and `validation_loss` of the model before it; seconds
        of each phase are columns `seconds.train` and so on, `rejected` is a number.

        Raises:
            ConfigError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ModuleNotFoundError as error:
            raise ConfigError(
                "run.history is a pandas table, and pandas is not installed: run `pip install 'dictpfl[institution]'`, or read "
                "`run.records`, which needs nothing"
            ) from error
        rows = []
        for record in self.records:
            row = record.to_json()
            seconds = row.pop("seconds")
            for name in ("format", "sent_by_tensor", "test_by_group", "test_metrics", "validation_metrics"):
                row.pop(name)
            rows.append(
                row
                | {"round": record.round + 1, "rejected": len(row["rejected"])}
                | {f"test.{name}": value for name, value in record.test_metrics.items()}
                | {f"validation.{name}": value for name, value in record.validation_metrics.items()}
                | {f"seconds.{phase}": value for phase, value in seconds.items()}
            )
        return pd.DataFrame(rows).set_index("round")

    def plot_accuracy(self) -> Figure:
        """Draw the test figure after each round, and the validation figures, the best one ringed; whatever the metric is."""
        from dictpfl.deploy.runs import plots

        best = self.summary.get("best")
        metric = self.summary["metric"]
        return plots.figure_against_rounds(
            {self.config.method: [self.records]}, metric, best=best and best["updates"], validated=True
        )

    def plot_loss(self) -> Figure:
        """Draw training, validation and test loss by round."""
        from dictpfl.deploy.runs import plots

        return plots.losses(self.records)

    def plot_bytes(self) -> Figure:
        """Draw the test figure against the bytes that one institution sent and received."""
        from dictpfl.deploy.runs import plots

        return plots.figure_against_bytes({self.config.method: [self.records]}, self.summary["metric"])

    def plot_sent(self) -> Figure:
        """Draw the share of the shared vector that was sent in each round."""
        from dictpfl.deploy.runs import plots

        return plots.sent_share(self.records, self.summary["values"]["shared"])

    def plot_tensors(self) -> Figure:
        """Draw the share of each tensor that was sent in each round."""
        from dictpfl.common.genesis import Genesis
        from dictpfl.deploy.runs import plots

        return plots.sent_by_tensor(self.records, Genesis.load(first_institution(self.folder)).layout)

    def plot_time(self) -> Figure:
        """Draw the seconds of each phase of a round."""
        from dictpfl.deploy.runs import plots

        return plots.time_split(self.records)

    def plot_classes(self) -> Figure:
        """Draw who had how many samples of each class.

        Raises:
            ConfigError: the data have no classes, or hundreds.
        """
        from dictpfl.deploy.runs import plots
        from dictpfl.deploy.runs.census import read_census

        census = read_census(self.folder)
        if census is None:
            raise ConfigError(
                f"{self.folder} counted no classes: labels are numbers or texts, or there are hundreds of classes"
            )
        return plots.classes_by_institution(census)

    @property
    def model_path(self) -> Path:
        """The merged model, safetensors with the original names."""
        return self.folder / MODEL

    def model(self) -> nn.Module:
        """Return the merged model as a plain module, in evaluation mode; W0 + D T under the original names.

        Raises:
            ConfigError: the network cannot be built here, as one that was given as an object to another process.
        """
        from safetensors.torch import load_file

        from dictpfl.client.model.build import build_model
        from dictpfl.common.genesis import Genesis

        put_back(self.folder)
        genesis = Genesis.load(first_institution(self.folder))
        plain = genesis.config.model.model_copy(update={"weights": ""})
        built = build_model(plain, genesis.sample_shape, genesis.outputs, self.config.seed)
        built.load_state_dict(load_file(self.model_path))
        return built.eval()

    def predict(self, features: Any) -> NDArray[Any]:
        """Return the model's outputs for samples, one row each, before any softmax; of a model of tokens, zeros behind a short row's last.

        Args:
            features: array or tensor (n, ...), as the federation's samples are: floats of any width (of rows whole numbers, too), or token ids
                with -1 behind the last; or a pandas frame with the columns of the federation's files, which are prepared, scaled and shaped as theirs were; or
                `dictpfl.Samples`. An array does not say whether its columns are prepared: where the federation prepares them
                (`data.preprocessing`), it is refused.

        Raises:
            DataError: features of another kind or shape.
            ModelError: the model does not take them.
        """
        from dictpfl.deploy.runs.predictions import predicted

        return predicted(self.folder / STATE, first_institution(self.folder), self.model(), features)

    def __repr__(self) -> str:
        """Return one line: what was run, what it reached and sent, and how much of the model is trained."""
        values, size, metric = self.summary["values"], self.summary["bytes"], self.summary["metric"]
        return (
            f"<Run {self.config.name} ({self.config.method}): {metric} {self.test:.4f} after {counted(self.summary['rounds'], 'round')}; "
            f"{human_bytes(size['up'])} up, {human_bytes(size['down'])} down an institution; trainable {human_count(values['shared'])} of "
            f"{human_count(values['model'])} values ({values['shared'] / max(1, values['model']):.1%}); {self.folder}>"
        )


def closed_rounds(folder: Path) -> tuple[FederationConfig, list[RoundRecord]]:
    """Read the rounds so far of a run that has not finished.

    Raises:
        ConfigError: no run was begun there, or its files are damaged.
    """
    try:
        return _read_config(folder), _read_history(folder) if (folder / HISTORY).exists() else []
    except (FileNotFoundError, NotADirectoryError) as error:
        if (folder / "compare.json").exists():
            raise ConfigError(
                f"{folder} holds a comparison, in compare.json and compare.html; name the folder of one of its runs"
            ) from error
        raise ConfigError(
            f"{folder} holds no finished run, nor one that was begun ({CONFIG} is missing); `dictpfl simulate` makes one"
        ) from error


@contextmanager
def _readable(path: Path) -> Iterator[Path]:
    """Say of a file that the block cannot read which one it is; a missing one is the caller's to tell of."""
    try:
        yield path
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; expected a file that you may read") from error
    except (ValueError, TypeError) as error:
        raise _damaged(path, explained(error)) from error


def _damaged(path: Path, why: str) -> ConfigError:
    anew = f"remove it: `dictpfl simulate {in_shell(path.parent)} --resume` writes it anew"
    return ConfigError(
        f"{path} is damaged: {why}; restore it from backup, or {'simulate anew' if path.name == CONFIG else anew}"
    )


def _read_summary(folder: Path) -> Mapping[str, Any]:
    with _readable(folder / SUMMARY) as path:
        return summary_now(json.loads(path.read_bytes()))


def _read_config(folder: Path) -> FederationConfig:
    with _readable(folder / CONFIG) as path:
        return FederationConfig.model_validate_json(path.read_bytes())


def _read_history(folder: Path) -> list[RoundRecord]:
    with _readable(folder / HISTORY) as path:
        lines = path.read_text(encoding="utf-8").splitlines()
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(RoundRecord.of_json(json.loads(line)))
        except json.JSONDecodeError as error:  # it counts lines, too, and here of this one alone
            raise _damaged(path, f"line {number} is no JSON: {error.msg} at character {error.colno}") from error
        except (ValueError, TypeError) as error:
            raise _damaged(path, f"line {number}: {explained(error)}") from error
    return records


def write_history(folder: Path, history: Sequence[RoundRecord]) -> None:
    """Write a line of JSON for each round, in place of as many or fewer.

    More stay: a run that is resumed closes them again one by one, and if it is killed meanwhile they would be lost.
    """
    if _lines(folder) > len(history):
        return
    lines = "".join(json_text(record.to_json()) + "\n" for record in history)
    write_private(folder / HISTORY, lines.encode())


def require_closed(folder: Path, history: Sequence[RoundRecord], journal: Path) -> None:
    """Refuse to go on from a journal that was lost or is an old copy: the rounds since then are nowhere else to be opened again.

    Raises:
        ConfigError: history.jsonl tells of more rounds than were closed by it.
    """
    if _lines(folder) > len(history):
        raise ConfigError(
            f"{journal} has {counted(len(history), 'closed round')}, and {folder / HISTORY} tells of {_lines(folder)}: it was lost, or is an old "
            "copy. Restore the newest one from backup, or simulate anew into another folder; nothing was changed"
        )


def _lines(folder: Path) -> int:
    return (folder / HISTORY).read_bytes().count(b"\n") if (folder / HISTORY).exists() else 0


def first_institution(folder: Path) -> Path:
    """Folder of the first institution of a simulated run, where genesis lies.

    Raises:
        ConfigError: the run was made by a release that called that folder otherwise.
    """
    if (folder / _FORMER_INSTITUTIONS).is_dir() and not (folder / INSTITUTIONS).exists():
        raise ConfigError(
            f"{folder} was made by dictpfl 0.1, in protocol 3, expected {PROTOCOL}: its figures are read, and no more. To go on, export its model with "
            f"that release and {FOUND_ANEW}"
        )
    return folder / INSTITUTIONS / "institution-000"


def folder_of(name: str, what: str) -> Path:
    """Return the folder in `runs` that is named after a configuration.

    Raises:
        ConfigError: the name would lead elsewhere, or is none.
    """
    if not name.strip() or name.startswith(".") or len(name.encode()) > _LONGEST or set(name) & _NOT_IN_NAMES:
        raise ConfigError(
            f"name is {name[:_LONGEST]!r}, and the run's folder is named after it: expected a word of at most {_LONGEST} bytes, which "
            "does not begin with '.' and has no '/', '\\' or control character; change it, or name the folder by --out"
        )
    return Path("runs") / f"{name}-{what}"


def is_at_work(folder: Path) -> bool:
    """Tell whether a process works in a run folder. By its lock: after a crash, another may have the number that stands in the file."""
    return is_locked(folder / LOCK)


def machine_facts() -> dict[str, str]:
    """Python, platform and processor that figures come from."""
    return {"python": platform.python_version(), "platform": platform.platform(), "processor": processor()}


def versions() -> dict[str, str]:
    """Versions of the packages that results depend on."""
    numbers = {}
    for package in _PACKAGES:
        try:
            numbers[package] = version(package)
        except PackageNotFoundError:
            numbers[package] = "not installed"
    return numbers


def processor() -> str:
    """Return the processor's name, as Linux gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; see `json_text`."""
    write_private(path, (json_text(value, indent=1) + "\n").encode())
