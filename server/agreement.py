"""The coordinator's half of genesis: what it needs to add, and nothing secret."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from common.errors import ConfigError, DictPFLError
from common.files import write_private
from common.parameters import CKKSParameters
from common.wire import Limits

_FORMAT = "dictpfl-coordinator-1"


@dataclass(frozen=True)
class Agreement:
    """Parameters, fingerprint, capacity, and the minimum of participants.

    Attributes:
        encrypted: False when uploads are plain integers.
        uploads: what an upload may be (`common.wire.Limits`).
        sum_length: bytes of a summed item.
        rounds: update rounds wanted. `score_rounds`: rounds before them.
        insecurities: why this federation protects less than it should; repeated in every log.
    """

    parameters: CKKSParameters
    encrypted: bool
    uploads: Limits
    sum_length: int
    rounds: int
    score_rounds: int
    min_participants: int
    deadline_seconds: float
    insecurities: tuple[str, ...] = ()

    def save(self, path: Path) -> None:
        """Write as JSON."""
        limits = asdict(self.uploads)
        limits |= {"federation": self.uploads.federation.hex(), "fingerprint": self.uploads.fingerprint.hex()}
        document: dict[str, Any] = {
            "format": _FORMAT,
            **{name: getattr(self, name) for name in _PLAIN},
            "insecurities": list(self.insecurities),
            "parameters": self.parameters.to_json(),
            "uploads": limits,
        }
        write_private(path, json.dumps(document, indent=1).encode())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            ConfigError: missing or damaged.
        """
        try:
            document = json.loads(path.read_bytes())
            if document["format"] != _FORMAT:
                raise ConfigError(f"{path} is of format {document['format']!r}, expected {_FORMAT!r}")
            limits = document["uploads"]
            for name in ("federation", "fingerprint"):
                limits[name] = bytes.fromhex(limits[name])
            return cls(
                parameters=CKKSParameters.from_json(document["parameters"]),
                uploads=Limits(**limits),
                insecurities=tuple(document["insecurities"]),
                **{name: document[name] for name in _PLAIN},
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, DictPFLError):
                raise
            raise ConfigError(
                f"{path} is no coordinator's half of a genesis ({type(error).__name__}: {error}); ask the authority for it"
            ) from error


_PLAIN = (
    "encrypted", "sum_length", "rounds", "score_rounds", "min_participants", "deadline_seconds",
)  # fmt: skip
