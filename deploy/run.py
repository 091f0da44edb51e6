"""A run folder: what a simulation leaves behind, written and read."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

from common.config import FederationConfig
from common.errors import ConfigError
from common.files import write_private
from common.protocol import RoundKind
from common.round import stopped
from common.state import SharedState
from deploy.founding import Founded
from deploy.observer import RoundRecord

SUMMARY, HISTORY, MODEL, CONFIG, REPORT, STATE = (
    "summary.json",
    "history.jsonl",
    "model.safetensors",
    "config.json",
    "report.html",
    "state.safetensors",
)
_PACKAGES = ("dictpfl", "flwr", "tenseal", "torch", "numpy", "pydantic", "scikit-learn")


@dataclass(frozen=True)
class Run:
    """A finished run: `folder`, `config`, `summary` (figures) and `history` (a record for each round)."""

    folder: Path
    config: FederationConfig
    summary: Mapping[str, Any]
    history: Sequence[RoundRecord]

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """Read a run folder.

        Raises:
            ConfigError: not one, or one whose run has not finished.
        """
        folder = Path(folder)
        try:
            summary = json.loads((folder / SUMMARY).read_bytes())
            config = FederationConfig.model_validate_json((folder / CONFIG).read_bytes())
            lines = (folder / HISTORY).read_text(encoding="utf-8").splitlines()
            return cls(folder, config, summary, [RoundRecord(**json.loads(line)) for line in lines])
        except FileNotFoundError as error:
            raise ConfigError(
                f"{folder} holds no finished run ({Path(error.filename).name} is missing); `dictpfl simulate --resume --out "
                f"{folder}` finishes one that was stopped"
            ) from error
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"{folder} is damaged: {error}") from error

    @property
    def accuracy(self) -> float:
        """Final figure on the test split."""
        return float(self.summary["accuracy"])

    @property
    def model_path(self) -> Path:
        """The merged model, safetensors with the original names."""
        return self.folder / MODEL


def summarise(
    founded: Founded,
    history: Sequence[RoundRecord],
    *,
    metric: str,
    state: SharedState,
    seconds_total: float,
    engine: str,
) -> dict[str, Any]:
    """summary.json: what was run, what it reached, and what crossed the wire for one institution."""
    config = founded.genesis.config
    updates = [record for record in history if record.kind == RoundKind.UPDATE]
    accuracies = [record.accuracy for record in updates]
    sent, rounds = sum(record.sent for record in history), len(updates)
    values = {"model": founded.model_values, "shared": founded.genesis.layout.size, "sent": sent}
    last = history[-1]
    return {
        "name": config.name,
        "method": config.method,
        "dataset": config.data.source,
        "model": config.model.source,
        "participants": config.federation.participants,
        "rounds": rounds,
        "encrypted": not _unencrypted(config),
        "insecure": list(config.insecurities),
        "metric": metric,
        "accuracy": accuracies[-1],
        "accuracy_history": accuracies,
        "validation_accuracy": last.validation_accuracy,
        "best": _best(state, config, updates),
        "stopped": stopped(founded.genesis.law, state),
        "values": values,
        "reduction": {
            "decomposition": values["model"] / max(1, values["shared"]),
            "pruning": values["shared"] * rounds / max(1, sent),
            "values": values["model"] * rounds / max(1, sent),
        },
        "bytes": {
            "up": sum(record.bytes_up for record in history),
            "down": sum(record.bytes_down for record in history),
        },
        "seconds": {"total": seconds_total}
        | {
            phase: sum(record.seconds.get(phase, 0.0) for record in history)
            for phase in ("train", "seal", "fold", "open", "evaluate", "store")
        },
        "engine": engine,
        "federation": founded.genesis.federation.hex(),
        "fingerprint": founded.genesis.fingerprint.hex(),
        "encryption": founded.genesis.parameters.to_json()
        | {"upload_length": founded.genesis.upload_length, "sum_length": founded.genesis.sum_length},
        "state_digest": state.digest.hex(),
        "seed": config.seed,
        "versions": versions(),
        "machine": machine_facts(),
    }


def _best(state: SharedState, config: FederationConfig, updates: Sequence[RoundRecord]) -> dict[str, Any] | None:
    """The best model by the validation figure, and what it reached on the test split; None where none was measured."""
    best = state.course.best
    if best is None:
        return None
    falls = config.selection.by == "loss" or not config.selection.higher
    accuracy = next((record.accuracy for record in updates if record.update == best.updates), None)
    return {
        "by": config.selection.by, "figure": -best.score if falls else best.score, "updates": best.updates,
        "accuracy": accuracy,
    }  # fmt: skip


def _unencrypted(config: FederationConfig) -> bool:
    return config.encryption.sealer != "ckks" or config.encryption.sealed_share < 1.0


def machine_facts() -> dict[str, str]:
    """Python, platform and processor that figures come from."""
    return {"python": platform.python_version(), "platform": platform.platform(), "processor": processor()}


def versions() -> dict[str, str]:
    """Versions of the packages that results depend on."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def processor() -> str:
    """The processor's name, as Linux gives it."""
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
    """Write JSON atomically."""
    write_private(path, (json.dumps(value, indent=1) + "\n").encode())
