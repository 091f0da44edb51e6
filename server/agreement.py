"""Agreement of a federation, its coordinator's half of genesis: all that it needs to add uploads, nothing secret."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, PlainSerializer, PlainValidator, TypeAdapter
from pydantic.dataclasses import dataclass
from pydantic_core import from_json, to_json

from dictpfl.common.ckks.parameters import CKKSParameters
from dictpfl.common.documents import require_format
from dictpfl.common.errors import ConfigError
from dictpfl.common.files import write_private
from dictpfl.common.messages.wire import Limits
from dictpfl.common.protection import quorum

_FORMAT = "dictpfl-coordinator-1"
_ID_BYTES = 32


def _checked_parameters(value: object) -> CKKSParameters:
    """Check parameters that come as JSON values; those that exist are checked already."""
    if isinstance(value, CKKSParameters):
        return value
    if not isinstance(value, dict):
        raise ValueError("expected an object of CKKS parameters")  # noqa: TRY004  pydantic reports a ValueError
    return CKKSParameters.from_json(value)


def _checked_limits(limits: Limits) -> Limits:
    """Check the ranges that the types of `Limits` leave open."""
    if any(len(name) != _ID_BYTES for name in (limits.federation, limits.fingerprint)):
        raise ValueError(f"expected federation and fingerprint to be {_ID_BYTES} bytes each")
    if min(limits.word_bits, limits.max_words, limits.max_contributors) < 1:
        raise ValueError("expected word_bits, max_words and max_contributors to be 1 or more")
    if limits.max_clear < 0:
        raise ValueError("expected max_clear to be 0 or more")
    return limits


AtLeastOne = Annotated[int, Field(ge=1)]
AtLeastZero = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(gt=0)]
Hex32 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Parameters = Annotated[CKKSParameters, PlainValidator(_checked_parameters), PlainSerializer(CKKSParameters.to_json)]
Uploads = Annotated[Limits, AfterValidator(_checked_limits)]


@dataclass(
    frozen=True,
    config=ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, ser_json_bytes="hex", val_json_bytes="hex"),
)
class Agreement:
    """Facts of a federation that its coordinator holds itself and everybody else to; checked whenever one is made.

    Raises:
        ValueError: a field of another type or out of its range (pydantic's `ValidationError`).
    """

    parameters: Parameters
    """CKKS parameters of uploads and sums."""
    encrypted: bool
    """False when uploads are plain integers."""
    uploads: Uploads
    """Most that an upload may be, and how many a sum may hold."""
    rounds: AtLeastOne
    """Update rounds wanted."""
    score_rounds: AtLeastZero
    """Rounds of scores before the first update round."""
    min_participants: AtLeastOne
    """Fewest uploads in a sum."""
    deadline_seconds: Seconds
    """Seconds after which a round closes without those who have not answered."""
    insecurities: tuple[str, ...]
    """Reasons why this federation protects less than it should; repeated in every log."""
    rescore_every: AtLeastZero = 0
    """Update rounds after which scores are asked for anew; 0: never."""
    epoch: AtLeastOne = 1
    """Number of the key in force."""
    first_round: AtLeastZero = 0
    """First round that is sealed under that key."""
    snapshot_every: AtLeastZero = 0
    """Rounds between two snapshots; 0: none is ever taken."""
    snapshots_kept: AtLeastZero = 0
    """Snapshots to keep before older aggregates are dropped; 0: nothing is ever dropped."""
    snapshot_length: AtLeastZero = 0
    """Most bytes of a snapshot before any round; 0: none is taken."""
    snapshot_growth: AtLeastZero = 0
    """Most bytes that each round may add to a snapshot."""
    masks: bool = False
    """True when institutions mask their uploads among each other."""
    reveal_seconds: Seconds = 60.0
    """Seconds after which an exchange about masks closes."""
    signers: tuple[Hex32, ...] = ()
    """Public keys (Ed25519, hexadecimal) by member, whose manifests must come with uploads; empty: none do."""
    keys: tuple[Hex32, ...] = ()
    """Public keys (Ed25519, hexadecimal) by member, who sign with them what is in masked sums; empty: such signatures are not looked at here."""
    members: tuple[str, ...] = ()
    """Names of the epoch's members by number; empty: not known."""

    sample: AtLeastZero = 0
    """Institutions that a round asks, of those that are online; 0: all."""
    closing_rounds: AtLeastZero = 0
    """Rounds of scores after the last update round, before the last measurement."""
    closing_from: AtLeastZero = 0
    """Update rounds from which on they may come; a run that ends with fewer leaves them out, unless institutions stopped early."""

    restart_from: AtLeastZero | None = None
    """Round whose state the operator lets a federation go on from whose journal was lost; 0: none so far; None: any that most
    institutions hold or can be brought to, as in a simulation, where one person is all parties."""
    restart_digest: str = ""
    """Keyed digest of that state, as people compared it (`dictpfl.common.fingerprint`); empty: that which most institutions hold."""

    @property
    def least(self) -> int:
        """Fewest uploads in a sum that is opened: `min_participants`, and with masks a quorum of the members."""
        return max(self.min_participants, quorum(len(self.members))) if self.masks else self.min_participants

    def snapshot_most(self, number: int) -> int:
        """Most bytes of a snapshot of the state before a round; 0: none is taken."""
        return self.snapshot_length + number * self.snapshot_growth if self.snapshot_length else 0

    def save(self, path: Path) -> None:
        """Write as JSON, readable by its owner alone."""
        write_private(path, self.to_bytes())

    def to_bytes(self) -> bytes:
        """Render as JSON: format and plain fields first, then what is an object of its own."""
        fields: dict[str, Any] = _FORM.dump_python(self, mode="json")
        objects = {name: fields.pop(name) for name in ("parameters", "uploads")}
        return to_json({"format": _FORMAT, **fields, **objects}, indent=1)

    @classmethod
    def load(cls, path: Path) -> Agreement:
        """Read what `save` wrote; every field is checked.

        Raises:
            ConfigError: missing or damaged.
            ParameterError: parameters that hold no sums, or are not secure.
        """
        try:
            document = from_json(path.read_bytes())
            if not isinstance(document, dict) or "format" not in document:
                raise ValueError(f"expected a document with format {_FORMAT!r}")  # noqa: TRY301  told as pydantic's own
            require_format(document.pop("format"), _FORMAT, path, ConfigError)
            return _FORM.validate_json(to_json(document))  # JSON again: lists and hexadecimal are strict types there
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{path} is no coordinator's half of a genesis ({error}); ask the authority for it"
            ) from error


_FORM = TypeAdapter(Agreement)
