"""The coordinator's half of genesis: what it needs to add, and nothing secret."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.errors import ConfigError
from common.files import write_private
from common.parameters import CKKSParameters
from common.wire import Limits

AtLeastOne = Annotated[int, Field(ge=1)]
AtLeastZero = Annotated[int, Field(ge=0)]
Hex32 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class Agreement:
    """Parameters, fingerprint, capacity, and the minimum of participants.

    Attributes:
        encrypted: False when uploads are plain integers.
        uploads: what an upload may be (`common.wire.Limits`).
        sum_length: bytes of a summed item.
        rounds: update rounds wanted. `score_rounds`: rounds before them.
        insecurities: why this federation protects less than it should; repeated in every log.
        epoch: of the key, from 1 on. `first_round`: the first round that is sealed under it.
        snapshot_every: rounds between two snapshots, 0: never. `snapshots_kept`: 0: nothing is ever dropped.
        snapshot_length: most bytes of a snapshot before any round, 0: none is taken. `snapshot_growth`: most that each
            round may add.
        masks: uploads are masked among each other. `reveal_seconds`: how long the exchange about that waits.
        signers: public keys (Ed25519, hexadecimal) by member, whose manifests must come with uploads; empty: none do.
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
    epoch: int = 1
    first_round: int = 0
    snapshot_every: int = 0
    snapshots_kept: int = 0
    snapshot_length: int = 0
    snapshot_growth: int = 0
    masks: bool = False
    reveal_seconds: float = 60.0
    signers: tuple[str, ...] = ()

    def snapshot_most(self, number: int) -> int:
        """Most bytes of a snapshot of the state before a round; 0: none is taken."""
        return self.snapshot_length + number * self.snapshot_growth if self.snapshot_length else 0

    def save(self, path: Path) -> None:
        """Write as JSON."""
        write_private(path, self.to_bytes())

    def to_bytes(self) -> bytes:
        """As JSON."""
        limits = asdict(self.uploads)
        limits |= {"federation": self.uploads.federation.hex(), "fingerprint": self.uploads.fingerprint.hex()}
        document = _Document(
            format="dictpfl-coordinator-1",
            parameters=self.parameters.to_json(),
            uploads=_Uploads(**limits),
            **{name: getattr(self, name) for name in _PLAIN},
        )
        return document.model_dump_json(indent=1).encode()

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote; every field is checked.

        Raises:
            ConfigError: missing or damaged.
            ParameterError: parameters that hold no sums, or are not secure.
        """
        try:
            document = _Document.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise ConfigError(
                f"{path} is no coordinator's half of a genesis ({error}); ask the authority for it"
            ) from error
        limits = document.uploads.model_dump()
        for name in ("federation", "fingerprint"):
            limits[name] = bytes.fromhex(limits[name])
        return cls(
            parameters=CKKSParameters.from_json(document.parameters),
            uploads=Limits(**limits),
            **{name: getattr(document, name) for name in _PLAIN},
        )


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class _Uploads(_Strict):
    federation: Hex32
    fingerprint: Hex32
    item_length: AtLeastOne
    max_items: AtLeastOne
    max_clear: AtLeastZero
    max_contributors: AtLeastOne
    seed_length: Literal[0] = 0


class _Document(_Strict):
    format: Literal["dictpfl-coordinator-1"]
    encrypted: bool
    sum_length: AtLeastOne
    rounds: AtLeastOne
    score_rounds: AtLeastZero
    min_participants: AtLeastOne
    deadline_seconds: Annotated[float, Field(gt=0)]
    insecurities: tuple[str, ...]
    epoch: AtLeastOne = 1
    first_round: AtLeastZero = 0
    snapshot_every: AtLeastZero = 0
    snapshots_kept: AtLeastZero = 0
    snapshot_length: AtLeastZero = 0
    snapshot_growth: AtLeastZero = 0
    masks: bool = False
    reveal_seconds: Annotated[float, Field(gt=0)] = 60.0
    signers: tuple[Hex32, ...] = ()
    parameters: dict[str, Any]
    uploads: _Uploads


_PLAIN = tuple(name for name in _Document.model_fields if name not in ("format", "parameters", "uploads"))
