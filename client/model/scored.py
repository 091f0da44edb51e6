"""Scores of a model's layers from a file that `dictpfl audit layers` wrote (`decomposition.scores`)."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from dictpfl.common.errors import ConfigError
from dictpfl.common.settings import Section

RECORDED = "sha256:"
"""Beginning of what genesis holds in place of the file's path."""


class ScoredBlock(Section):
    """Scores of one block."""

    weights: list[str] = Field(description="Names of its weights.")
    influence: float = Field(
        ge=0, description="S, as a share of all blocks' sum; the higher, the further do single samples move it."
    )
    gradient: float = Field(ge=0, description="Mean gradient norm of a sample, as a share of all blocks' sum.")


class LayerScores(Section):
    """Content of `layers.json`."""

    format: Literal["dictpfl-layers-1"] = "dictpfl-layers-1"
    when: str = Field(description="`opening` or `closing` tally of a federation, or `own` samples.")
    of: str = Field(description="Model, as a word for readers.")
    solver: str
    damping: float
    part: str
    top: float
    training: int = Field(ge=0, description="Training samples; of a tally, those of each institution at most.")
    validation: int = Field(ge=0, description="Validation samples, likewise.")
    institutions: int = Field(ge=0, description="Number of them in the sum; 0: own samples.")
    blocks: dict[str, ScoredBlock] = Field(description="By name, in the order of the model.")

    def by_weight(self, what: Literal["influence", "gradient"]) -> dict[str, float]:
        """List the score of each weight: its block's."""
        return {name: getattr(block, what) for block in self.blocks.values() for name in block.weights}


def read_scores(path: Path | str) -> LayerScores:
    """Read and check a file of scores.

    Raises:
        ConfigError: missing, or of another form.
    """
    try:
        return LayerScores.model_validate_json(Path(path).read_bytes())
    except OSError as error:
        raise ConfigError(
            f"cannot read the scores of layers in {path}: {error.strerror}; `dictpfl audit layers` writes layers.json"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(
            f"{path} holds no scores of layers ({'.'.join(map(str, first['loc'])) or 'document'}: {first['msg']}); name a layers.json that "
            "`dictpfl audit layers` wrote"
        ) from error


def recorded(path: str) -> str:
    """Digest of a file of scores, which genesis holds in place of a path of the authority's machine; of a digest, itself.

    Raises:
        ConfigError: it cannot be read.
    """
    if not path or path.startswith(RECORDED):
        return path
    read_scores(path)
    return RECORDED + hashlib.sha256(Path(path).read_bytes()).hexdigest()
